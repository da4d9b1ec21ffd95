"""Linear matter power spectra of CAMB (Lewis, Challinor and Lasenby 2000), 400 to learn from and 100 to judge by.

`python -m tests.benchmarks.linear_power FILE` makes them once, in about 12 minutes of one core; `spectra(folder)` reads
them from a folder that lasts, or makes them there. AccuracyBoost = 2: along a parameter the spectra are then smooth to
5e-6 of their size, five times better than with 1, whose steps a precise emulator sees.
"""

import sys
from pathlib import Path

import numpy as np

from emulate.runs import Field, Outputs, Runs
from emulate.space import Parameter, Space, Uniform

BOX = {
    "omega_b": (0.020, 0.025),  # Omega_b h^2
    "omega_c": (0.10, 0.14),  # Omega_c h^2
    "h": (0.6, 0.8),
    "n_s": (0.9, 1.02),
    "ln10As": (2.8, 3.3),  # ln(10^10 A_s)
}
TRAIN, TEST = 400, 100
RANGE, POINTS = (1e-4, 1.0), 100  # h/Mpc, and how many wavenumbers there, evenly in the logarithm


def power(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """k [100] in h/Mpc and P(k) [100] in (Mpc/h)^3 at z = 0, massless neutrinos, flat."""
    import camb

    omega_b, omega_c, h, n_s, amplitude = (float(x) for x in theta)
    p = camb.CAMBparams(WantCls=False, WantDerivedParameters=False, NonLinear=camb.model.NonLinear_none)
    p.set_cosmology(H0=100 * h, ombh2=omega_b, omch2=omega_c, mnu=0.0, omk=0.0, tau=0.06)
    p.InitPower.set_params(As=np.exp(amplitude) * 1e-10, ns=n_s)
    p.set_matter_power(redshifts=[0.0], kmax=2.0)
    p.set_accuracy(AccuracyBoost=2.0)
    k, _, pk = camb.get_results(p).get_matter_power_spectrum(minkh=RANGE[0], maxkh=RANGE[1], npoints=POINTS)
    return k, pk[0]


def design() -> np.ndarray:
    """theta `[500, 5]`: a Sobol sequence to learn from, one of another seed to judge by."""
    from torch.quasirandom import SobolEngine

    low, high = np.array(list(BOX.values())).T
    u = [SobolEngine(len(BOX), scramble=True, seed=s).draw(n).double().numpy() for s, n in ((0, TRAIN), (1, TEST))]
    return low + (high - low) * np.concatenate(u)


def make(file: Path) -> None:
    theta = design()
    found = [power(t) for t in theta]
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez(file, theta=theta, k=found[0][0], pk=np.stack([pk for _, pk in found]))


def spectra(file: Path) -> tuple[Runs, Runs]:
    """The runs to learn from and those to judge by."""
    if not file.exists():
        make(file)
    with np.load(file) as data:
        theta, k, pk = data["theta"], data["k"], data["pk"]
    space = Space(tuple(Parameter(name, Uniform(*ends)) for name, ends in BOX.items()))
    outputs = Outputs((Field("pk", "(Mpc/h)^3", True, "k", tuple(k)),))
    return (Runs.of(space, outputs, theta[:TRAIN], pk[:TRAIN]), Runs.of(space, outputs, theta[TRAIN:], pk[TRAIN:]))


if __name__ == "__main__":
    make(Path(sys.argv[1]))
