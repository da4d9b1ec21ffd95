"""Where particles end: `NBody`'s parts against JaxPM from the same white noise, like for like; 32^3, float64.

Like for like: lattice on the mesh nodes, as many cells as particles, cloud in cell, -1/k^2 and fourth-order difference
gradient (JaxPM's kernels), no deconvolution. What then differs are growth functions, integrators and, if told so, the
start. Rows go from the same start to the defaults, so that each choice shows what it does.
"""

import functools

import numpy as np
import pytest
import torch
from torch import Tensor

from emulate.simulators.nbody.cosmology import Cosmology
from emulate.simulators.nbody.fourier import angular, forward, inverse
from emulate.simulators.nbody.initial_conditions import Displacements, displacements, linear_field, white_noise
from emulate.simulators.nbody.integrator import evolve, steps
from tests.benchmarks.nbody import parts
from tests.benchmarks.nbody.environment import peer
from tests.benchmarks.nbody.measure import show
from tests.benchmarks.nbody.reference import inverse_laplacian, slope

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(3600)]
PARTICLES, BOX, A_START = 32, 256.0, 0.1
THETA = {"omega_m": 0.3, "sigma_8": 0.8, "n_s": 0.96, "h": 0.68}
OMEGA_B = 0.049
COSMOLOGY = Cosmology.of(omega_b=OMEGA_B, **THETA)


@functools.cache
def linear() -> Tensor:
    """Modes of the linear density today, gaussian amplitudes, [n, n, n // 2 + 1] complex128."""
    return linear_field(white_noise(PARTICLES, 0, "gaussian"), COSMOLOGY, BOX)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the linear density lies for the peers to read."""
    folder = tmp_path_factory.mktemp("positions")
    np.save(folder / "delta.npy", inverse(linear(), norm="forward").numpy())
    return folder


@pytest.fixture(scope="module")
def jaxpm(folder):
    """Start and end of JaxPM from the linear density, by stepping, number of steps and precision."""
    with peer("jaxpm") as process:
        print("\n" + ", ".join(f"{k} {v}" for k, v in process.about["versions"].items()))

        @functools.cache
        def run(stepping: str, count: int, x64: bool = True) -> dict[str, Tensor]:
            out = folder / f"{stepping}{count}{x64}.npz"
            process.ask(task="positions", theta=list(THETA.values()), omega_b=OMEGA_B, delta=str(folder / "delta.npy"),
                        out=str(out), steps=count, stepping=stepping, paint="absolute", x64=x64)  # fmt: skip
            with np.load(out) as data:
                found = {name: torch.from_numpy(data[name]).double() for name in data.files}
            lattice = torch.stack(torch.meshgrid(*[torch.arange(PARTICLES).double()] * 3, indexing="ij"), -1)
            found["x0"], found["x1"] = found["x0"] - lattice, found["x1"] - lattice
            return {name: x.reshape(-1, 3).T.contiguous() if x.ndim == 4 else x for name, x in found.items()}

        yield run


def march(x: Tensor, v: Tensor, count: int, refinement: int = 1, offset: float = 0.0,
          gradient: str = "difference") -> Tensor:  # fmt: skip
    """Final displacements [3, N] in particle spacings; the lattice stands `offset` of a cell above the nodes."""
    force = parts.force(parts.mesh(PARTICLES, refinement, offset=offset), gradient)
    table = steps(COSMOLOGY, A_START, 1.0, count)
    with torch.no_grad():
        return evolve(refinement * x, refinement * v, table, force)[0] / refinement


def difference_lpt() -> Displacements:
    """First and second order with JaxPM's kernels: every derivative a fourth-order difference."""
    delta = inverse(linear(), norm="forward")

    def down(field: Tensor) -> Tensor:
        return -slope(inverse_laplacian(field))

    psi_1 = down(delta)
    strain = [slope(component) for component in psi_1]
    pairs = ((0, 1), (0, 2), (1, 2))
    mu_2 = sum(strain[i][i] * strain[j][j] - strain[i][j] ** 2 for i, j in pairs)
    return Displacements(psi_1.reshape(3, -1), -down(mu_2).reshape(3, -1))


def spectral_lpt() -> Displacements:
    """`displacements` less the Nyquist plane of each second-order component, which has no derivative of a real field."""
    psi = displacements(linear())
    k = angular(PARTICLES)
    parts_of_2 = psi.psi_2.view(3, *(PARTICLES,) * 3)
    kept = [inverse(forward(f) * (k[i].abs() < 3.14)) for i, f in enumerate(parts_of_2)]
    return Displacements(psi.psi_1, torch.stack(kept).view(3, -1))


def start(psi: Displacements, second: float = 1.0) -> tuple[Tensor, Tensor]:
    g = COSMOLOGY.growth(torch.tensor(A_START, dtype=torch.float64))
    return psi.at(g.D, second * g.D2), psi.at(torch.ones_like(g.D), second * g.dD2)


def rms(x: Tensor) -> float:
    return float(x.square().mean().sqrt())


def test_final_positions_of_jaxpm(jaxpm):
    fine = 400
    truth = jaxpm("scan", fine)
    other = jaxpm("adaptive", fine)
    g = COSMOLOGY.growth(torch.tensor(A_START, dtype=torch.float64))
    x0 = truth["x0"]
    v0 = truth["p0"] / (g.a**2 * COSMOLOGY.expansion(g.a) * g.f * g.D)
    today = COSMOLOGY.growth(torch.tensor(1.0, dtype=torch.float64))
    own = difference_lpt()
    spectral = displacements(linear())
    runs = {
        "JaxPM, adaptive Dopri5 to 1e-7, against its 400 leapfrog steps": other["x1"],
        "JaxPM, 200 leapfrog steps": jaxpm("scan", 200)["x1"],
        "JaxPM, 400 leapfrog steps in float32": jaxpm("scan", fine, x64=False)["x1"],
        "JaxPM, 10 leapfrog steps": jaxpm("scan", 10)["x1"],
        "JaxPM, 10 steps of LeapfrogMidpoint (its notebooks)": jaxpm("diffrax", 10)["x1"],
        "emulate from JaxPM's start, 400 steps": march(x0, v0, fine),
        "emulate from JaxPM's start, 100 steps": march(x0, v0, 100),
        "emulate from JaxPM's start, 10 steps": march(x0, v0, 10),
        "emulate's start with difference kernels, D_2 as JaxPM has it, 400 steps":
            march(*start(own, -3 / 7 / float(today.D2)), fine),
        "emulate's start with difference kernels, 400 steps": march(*start(own), fine),
        "emulate's start (spectral kernels), 400 steps": march(*start(spectral), fine),
        "the same, lattice half a cell off": march(*start(spectral), fine, offset=0.5),
        "emulate's defaults: half a cell off, mesh 2x, 10 steps": march(*start(spectral), 10, refinement=2, offset=0.5),
    }  # fmt: skip
    size = rms(truth["x1"])
    show(f"{PARTICLES}^3 in {BOX:g} Mpc/h: rms difference of final positions from JaxPM with 400 steps, over its rms "
         f"displacement ({size * BOX / PARTICLES:.2f} Mpc/h a component)",
         ("run", "rms", "worst particle"),
         [(name, rms(x - truth["x1"]) / size, float((x - truth["x1"]).abs().max()) / size) for name, x in runs.items()],
         "bar: 5e-4 like for like")  # fmt: skip
    D, f = float(truth["D"].squeeze()), float(truth["f"].squeeze())
    mine, given = start(own), (x0, v0)
    show("the start at a = 0.1", ("quantity", "relative difference, JaxPM - emulate"),
         [("linear growth D", D / float(g.D) - 1.0), ("growth rate f", f / float(g.f) - 1.0),
          ("D_2(1): JaxPM's 3/7 of one over ours", -3 / 7 / float(today.D2) - 1.0),
          ("displacement, difference kernels, rms", rms(given[0] - mine[0]) / rms(mine[0])),
          ("velocity, difference kernels, rms", rms(given[1] - mine[1]) / rms(mine[1])),
          ("displacement, spectral kernels, rms", rms(given[0] - start(spectral)[0]) / rms(mine[0]))])  # fmt: skip
    assert rms(runs["emulate's start with difference kernels, 400 steps"] - truth["x1"]) < 5e-4 * size


@pytest.mark.parametrize("refinement", [1, 2])
def test_final_positions_of_pmwd(folder, refinement):
    """pmwd's kernels are spectral, in the start as in the force; its mesh may be finer than the particles."""
    fine = 400
    given = {"theta": list(THETA.values()), "omega_b": OMEGA_B, "box": BOX, "delta": str(folder / "delta.npy")}
    with peer("pmwd") as process:

        def run(count: int) -> Tensor:
            out = folder / f"pmwd{count}{refinement}.npz"
            process.ask(task="positions", out=str(out), steps=count, refinement=refinement, **given)
            with np.load(out) as data:
                return torch.from_numpy(data["x1"]).T

        truth, half, coarse = run(fine), run(fine // 2), run(10)
    spectral = start(spectral_lpt())
    runs = {
        "pmwd, 200 steps": half,
        "pmwd, 10 steps": coarse,
        "emulate, spectral kernels, 400 steps": march(*spectral, fine, refinement, gradient="spectral"),
        "emulate, spectral kernels, 10 steps": march(*spectral, 10, refinement, gradient="spectral"),
        "emulate, spectral kernels, start as `displacements` gives it, 400 steps":
            march(*start(displacements(linear())), fine, refinement, gradient="spectral"),
        "emulate, difference kernel in the force, 400 steps": march(*spectral, fine, refinement),
    }  # fmt: skip
    size = rms(truth)
    show(f"{PARTICLES}^3 in {BOX:g} Mpc/h, mesh {refinement}x, lattice on the nodes: rms difference of final positions "
         "from pmwd with 400 steps, over its rms displacement",
         ("run", "rms", "worst particle"),
         [(name, rms(x - truth) / size, float((x - truth).abs().max()) / size) for name, x in runs.items()],
         "bar: 5e-4 like for like")  # fmt: skip
    assert rms(runs["emulate, spectral kernels, 400 steps"] - truth) < 5e-4 * size
