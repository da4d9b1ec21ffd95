"""What settings of the simulator make sense together."""

import math
import os
import shutil
from typing import TYPE_CHECKING

import torch

from emulate.errors import InputError

if TYPE_CHECKING:
    from emulate.simulators.nbody.simulator import NBody

__all__ = ["check_settings", "has_compiler"]

_CHOICES = {
    "scheme": ("bullfrog", "fastpm"),
    "gradient": ("difference", "spectral"),
    "amplitudes": ("fixed", "gaussian"),
    "adjoint": ("reversed", "checkpointed", "stored"),
    "compile": ("auto", "always", "never"),
    "precision": ("float32", "float64"),
    "device": ("cpu", "cuda", "auto"),
}


def check_settings(s: "NBody") -> None:
    """Refuse in words what makes no simulation; the statistics check their own.

    Raises:
        InputError: a setting is not allowed.
    """
    for name, allowed in _CHOICES.items():
        if getattr(s, name) not in allowed:
            raise InputError(f"nbody: {name} must be {' or '.join(allowed)}. Got {getattr(s, name)!r}.")
    for name, n in (("particles", s.particles), *(("companions", n) for n in s.companions)):
        if n % 2 or not 8 <= n <= 1024:
            raise InputError(f"nbody: {name} must be an even number from 8 to 1024. Got {n}; give the number per side, "
                             "such as 32.")  # fmt: skip
    if any(n >= s.particles for n in s.companions) or len(set(s.companions)) < len(s.companions):
        raise InputError(f"nbody: companions must be different numbers below particles = {s.particles}. Got "
                         f"{list(s.companions)}; half and a quarter are usual.")  # fmt: skip
    if not 0 < s.a_start < s.a_final <= 1:
        raise InputError("nbody: scale factors must be 0 < a_start < a_final <= 1. Got "
                         f"a_start = {s.a_start}, a_final = {s.a_final}; today is a_final = 1.")  # fmt: skip
    if not 2 / s.particles <= s.k_max <= 1:
        raise InputError(f"nbody: k_max must be between {2 / s.particles:g} (one bin) and 1, a fraction of the "
                         f"particles' Nyquist wavenumber. Got {s.k_max}; 0.5 is a good choice.")  # fmt: skip
    if not (s.box > 0 and math.isfinite(s.box)):
        raise InputError(f"nbody: box must be positive, in Mpc/h. Got {s.box}; give a side such as 256.")
    if s.steps < 1 or not 1 <= s.refinement <= 4:
        raise InputError("nbody: steps must be at least 1 and refinement from 1 to 4. Got "
                         f"steps = {s.steps}, refinement = {s.refinement}; 10 and 2 are good.")  # fmt: skip
    if s.phase_seed is not None and s.phase_seed < 0:
        raise InputError(f"nbody: phase_seed must be a whole number from 0 on, or None. Got {s.phase_seed}.")
    if s.deconvolution not in (0, 1, 2):
        raise InputError(f"nbody: deconvolution must be 0, 1 or 2. Got {s.deconvolution}; 0 is the stable choice.")
    if s.pgd is not None and not (len(s.pgd) == 3 and all(map(math.isfinite, s.pgd)) and s.pgd[1] > 0 and s.pgd[2] > 0):
        raise InputError(f"nbody: pgd must be three numbers, alpha and two wavenumbers above 0 in h/Mpc. Got {s.pgd}; "
                         "leave it out for no correction.")  # fmt: skip
    if s.device == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "nbody: device must be cpu where torch finds no CUDA device. Got cuda; `auto` takes what there is."
        )
    if s.compile == "always" and not has_compiler():
        raise InputError("nbody: compile must be auto or never where no C++ compiler is found. Got always; install g++, "
                         "or name one in the environment variable CXX.")  # fmt: skip


def has_compiler() -> bool:
    """Whether torch would find the C++ compiler that its compiled loops need."""
    return any(shutil.which(name) for name in (os.environ.get("CXX") or "c++", "g++", "clang++"))
