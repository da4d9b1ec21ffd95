"""Settings and universes that make no simulation are refused, each with its whole sentence."""

import re
from dataclasses import fields
from typing import Literal, get_args, get_origin

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from emulate.errors import InputError
from emulate.simulators.nbody import NBody
from emulate.simulators.nbody.settings import has_compiler
from emulate.space import Parameter, Space, Uniform

THETA = torch.tensor([0.3, 0.8, 0.96, 0.68], dtype=torch.float64)
SMALL = NBody(particles=16, box=128.0, steps=2)
CHOICES = {
    "scheme": "bullfrog or fastpm",
    "gradient": "difference or spectral",
    "amplitudes": "fixed or gaussian",
    "adjoint": "reversed or checkpointed or stored",
    "compile": "auto or always or never",
    "precision": "float32 or float64",
    "device": "cpu or cuda or auto",
}


def space(*names: str) -> Space:
    return Space(tuple(Parameter(name, Uniform(0.2, 0.4)) for name in names))


def refused(sentence: str, **wrong) -> None:
    with pytest.raises(InputError) as error:
        NBody(**wrong)
    assert sentence in str(error.value)


PARTICLES = "must be an even number from 8 to 1024. Got {}; give the number per side, such as 32."
SCALES = (
    "nbody: scale factors must be 0 < a_start < a_final <= 1. Got a_start = {}, a_final = {}; today is a_final = 1."
)
K_MAX = "must be between 0.0625 (one bin) and 1, a fraction of the particles' Nyquist wavenumber. Got {}; 0.5 is a good"
COUNTS = (
    "nbody: steps must be at least 1 and refinement from 1 to 4. Got steps = {}, refinement = {}; 10 and 2 are good."
)
COMPANIONS = "nbody: companions must be different numbers below particles = 32. Got {}; half and a quarter are usual."
PGD = (
    "nbody: pgd must be three numbers, alpha and two wavenumbers above 0 in h/Mpc. Got {}; leave it out for no correct"
)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"particles": 15}, "nbody: particles " + PARTICLES.format(15)),
        ({"particles": 6}, "nbody: particles " + PARTICLES.format(6)),
        ({"particles": 1026}, "nbody: particles " + PARTICLES.format(1026)),
        ({"companions": (9,)}, "nbody: companions " + PARTICLES.format(9)),
        ({"companions": (32,)}, COMPANIONS.format([32])),
        ({"companions": (16, 16)}, COMPANIONS.format([16, 16])),
        ({"a_start": 0.5, "a_final": 0.4}, SCALES.format(0.5, 0.4)),
        ({"a_start": 0.0}, SCALES.format(0.0, 1.0)),
        ({"a_final": 1.01}, SCALES.format(0.1, 1.01)),
        ({"k_max": 0.01}, K_MAX.format(0.01)),
        ({"k_max": 1.5}, K_MAX.format(1.5)),
        ({"box": -1.0}, "nbody: box must be positive, in Mpc/h. Got -1.0; give a side such as 256."),
        ({"box": float("inf")}, "nbody: box must be positive, in Mpc/h. Got inf; give a side such as 256."),
        ({"steps": 0}, COUNTS.format(0, 2)),
        ({"refinement": 5}, COUNTS.format(10, 5)),
        ({"deconvolution": 3}, "nbody: deconvolution must be 0, 1 or 2. Got 3; 0 is the stable choice."),
        ({"pgd": (0.1, 0.0, 1.0)}, PGD.format((0.1, 0.0, 1.0))),
        ({"pgd": (0.1, 1.0)}, PGD.format((0.1, 1.0))),
        ({"pgd": (float("nan"), 1.0, 1.0)}, PGD.format((float("nan"), 1.0, 1.0))),
        (
            {"space": space("omega_n")},
            "nbody: the parameters must be among omega_m, omega_b, h, n_s, sigma_8, omega_k, w0, wa, A_s. Got 'omega_n'; "
            "change their priors, keep their names.",
        ),
        ({"fixed": {"neutrinos": 0.1}}, "Got 'neutrinos'; change their priors, keep their names."),
        (
            {"space": space("h", "omega_m"), "fixed": {"omega_m": 0.3, "h": 0.7}},
            "nbody: a parameter must be varied or fixed, not both. Got h, omega_m in the space and in fixed; leave out one.",
        ),
        ({"fixed": {"A_s": 2e-9}}, "nbody: the amplitude must be sigma_8 or A_s. Got both; leave out one."),
        ({"space": space("sigma_8", "A_s")}, "nbody: the amplitude must be sigma_8 or A_s. Got both; leave out one."),
        ({"statistics": ("pq",)}, "there is no statistic 'pq'; there are pk, multipoles, bispectrum, pdf, slices."),
        ({"statistics": ()}, "statistics must be at least one name, each once. Got none; choose from pk, "),
        ({"transfer": "/nowhere/table.txt"}, "/nowhere/table.txt"),
        *(({name: "odd"}, f"nbody: {name} must be {words}. Got 'odd'.") for name, words in CHOICES.items()),
    ],
    ids=str,
)
def test_settings_that_make_no_simulation_are_refused(wrong, sentence):
    refused(sentence, **wrong)


def test_every_setting_with_choices_has_its_refusal():
    kinds = {f.name: f.type for f in fields(NBody)}
    assert {name for name, kind in kinds.items() if get_origin(kind) is Literal} == set(CHOICES)
    for name, words in CHOICES.items():
        assert set(get_args(kinds[name])) == set(words.split(" or "))


def test_a_device_or_a_compiler_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    refused("nbody: device must be cpu where torch finds no CUDA device. Got cuda; `auto` takes what there is.",
            device="cuda")  # fmt: skip
    assert NBody(device="auto")._device == torch.device("cpu")
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert not has_compiler()
    refused("nbody: compile must be auto or never where no C++ compiler is found. Got always; install g++, or name one "
            "in the environment variable CXX.", compile="always")  # fmt: skip
    assert not NBody(particles=128)._mesh.compiled


@settings(max_examples=60, deadline=None)
@given(
    particles=st.integers(-4, 40),
    a_start=st.floats(-0.2, 1.2),
    a_final=st.floats(-0.2, 1.2),
    box=st.floats(-10.0, 1e4),
    steps=st.integers(-2, 20),
    refinement=st.integers(-1, 6),
    k_max=st.floats(-0.1, 1.2),
)
def test_settings_are_taken_or_refused_in_words(**given):
    """Whatever the numbers: a simulation with outputs, or one sentence that names what was met; nothing else."""
    n = given["particles"]
    good = (
        n % 2 == 0
        and n >= 8
        and 0 < given["a_start"] < given["a_final"] <= 1
        and given["box"] > 0
        and given["steps"] >= 1
        and 1 <= given["refinement"] <= 4
        and 2 / n <= given["k_max"] <= 1
    )
    if good:
        assert NBody(**given).outputs.size >= 1
    else:
        with pytest.raises(InputError, match=r"^nbody: .* must be .*\. Got .*; .*\.$"):
            NBody(**given)


@pytest.mark.parametrize(("change", "value"), [("omega_m", 0.04), ("sigma_8", 0.0), ("h", -0.7), ("n_s", float("nan"))])
def test_a_universe_that_cannot_be_is_refused(change, value):
    theta = THETA.clone()
    theta[SMALL.space.names.index(change)] = value
    name = {"sigma_8": "amplitude"}.get(change, change)
    with pytest.raises(InputError, match=rf"the numbers must have .* Got .*{name} = {re.escape(str(value))}"):
        SMALL.run(theta, seed=0)


def test_names_decide_not_their_order():
    order = ("h", "n_s", "omega_m", "sigma_8")
    turned = Space(tuple(Parameter(name, Uniform(0.1, 1.1)) for name in order))
    theta = torch.stack([THETA[("omega_m", "sigma_8", "n_s", "h").index(name)] for name in order])
    y = NBody(particles=16, box=128.0, steps=2, space=turned).run(theta, seed=0)
    assert torch.equal(y, SMALL.run(THETA, seed=0))


def test_what_is_fixed_is_what_is_varied_at_that_value():
    for name, value in (("omega_b", 0.045), ("omega_k", 0.05), ("w0", -0.8), ("wa", 0.2)):
        varied = Space((*SMALL.space.parameters, Parameter(name, Uniform(-1.5, 0.5))))
        theta = torch.cat((THETA, torch.tensor([value], dtype=torch.float64)))
        y = NBody(particles=16, box=128.0, steps=2, space=varied).run(theta, seed=0)
        fixed = NBody(particles=16, box=128.0, steps=2, fixed={name: value}).run(THETA, seed=0)
        assert torch.equal(y, fixed)
        assert not torch.equal(y, SMALL.run(THETA, seed=0))
