"""Where the time of a step goes, and how far it is from what the machine can do at all; 64^3 particles, one core."""

import math

import pytest
import torch

from emulate.simulators.nbody.cosmology import Cosmology
from emulate.simulators.nbody.initial_conditions import displacements, linear_field, white_noise
from emulate.simulators.nbody.integrator import evolve, steps
from tests.benchmarks.nbody import parts
from tests.benchmarks.nbody.measure import REPEATS, alternate, clock, one_core, show
from tests.benchmarks.nbody.reference import Reference

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(1800)]
PARTICLES, BOX = 64, 256.0  # Mpc/h


@pytest.fixture(scope="module")
def c(tmp_path_factory):
    return Reference(tmp_path_factory.mktemp("cic"))


def particles(mesh) -> torch.Tensor:
    """Zel'dovich displacements [3, N] in cells at a = 1/2: as scattered in memory as half-way through a run."""
    cosmology = Cosmology.of(omega_m=0.3, omega_b=0.049, h=0.68, n_s=0.96, sigma_8=0.8)
    noise = white_noise(mesh.particles, 0).to(torch.complex64)
    return 0.6 * mesh.refinement * displacements(linear_field(noise, cosmology, BOX)).psi_1


@pytest.mark.parametrize("refinement", [1, 2])
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_step(c, refinement, compiled):
    with one_core(), torch.no_grad():
        mesh = parts.mesh(PARTICLES, refinement, compiled)
        force, potential, slope = parts.force(mesh), parts.potential(mesh), parts.slope(mesh)
        cosmology = Cosmology.of(omega_m=0.3, omega_b=0.049, h=0.68, n_s=0.96, sigma_8=0.8)
        count_of_steps = 4  # of which neighbours share a drift, as in a run
        table = steps(cosmology, 0.5, 0.55, count_of_steps)
        x, v = particles(mesh), particles(mesh)
        gather = parts.gather(mesh, x)
        count = parts.paint(mesh, x)
        phi = potential(count)
        field, out = torch.empty_like(count), torch.empty_like(x)
        three = slope(phi)
        torch.testing.assert_close(c.paint(mesh, x, field), count, rtol=0, atol=1e-3)
        torch.testing.assert_close(c.slope(phi, torch.empty_like(three)), three, rtol=0, atol=1e-4)
        torch.testing.assert_close(c.gather(mesh, x, three, out), gather(three), rtol=0, atol=1e-4)
        a, b, sum_of_both = torch.ones(3, 2**25)  # 128 MiB each, well beyond the caches
        cases = {
            "step": clock(lambda: evolve(x, v, table, force)),
            "paint": clock(lambda: parts.paint(mesh, x), 2),
            "potential (2 FFT)": clock(lambda: potential(count), 2),
            "slope": clock(lambda: slope(phi), 2),
            "gather": clock(lambda: gather(three), 2),
            "C paint": clock(lambda: c.paint(mesh, x, field), 2),
            "C slope": clock(lambda: c.slope(phi, three), 2),
            "C gather": clock(lambda: c.gather(mesh, x, three, out), 2),
            "FFT alone": clock(lambda: torch.fft.irfftn(torch.fft.rfftn(count), s=count.shape), 2),
            "triad": clock(lambda: torch.add(a, b, alpha=3.0, out=sum_of_both)),
        }
        t = alternate(cases)
    t["step"] /= count_of_steps
    rest = t["step"] - sum(t[name] for name in ("paint", "potential (2 FFT)", "slope", "gather"))
    kind = f"{PARTICLES}^3 particles, mesh {refinement}x, {'compiled' if compiled else 'eager'}"
    show(f"one step, {kind}, one core, median of {REPEATS}", ("part", "ms", "share", "C, ms", "/ C"),
         [(name, 1e3 * t[name], t[name] / t["step"], 1e3 * twin if twin else "", t[name] / twin if twin else "")
          for name, twin in (("potential (2 FFT)", t["FFT alone"]), ("paint", t["C paint"]), ("slope", t["C slope"]),
                             ("gather", t["C gather"]))]
         + [("rest (drift, kick)", 1e3 * rest, rest / t["step"], "", ""),
            ("step", 1e3 * t["step"], 1.0, 1e3 * _twin(t), t["step"] / _twin(t))],
         "C: plain C with gcc -O3 -march=native for paint, slope and gather; the FFT is the same library, its two "
         "transforms alone. bar: the compiled step at most 1.8 of C")  # fmt: skip
    n, m = PARTICLES**3, mesh.cells**3
    bandwidth = 3 * a.nbytes / t["triad"]
    flops = 2 * 2.5 * m * math.log2(m)
    rate = flops / t["FFT alone"]
    moved = 60 * n + 16 * m
    floor = moved / bandwidth + flops / rate
    show(f"distance from the floor, {kind}", ("quantity", "value"),
         [("memory bandwidth (triad, 3 arrays of 128 MiB), GB/s", bandwidth / 1e9),
          ("FFT rate (5/2 N log2 N flops a real transform), Gflop/s", rate / 1e9),
          ("bytes of a step: 60 a particle (x and v read and written, x read for paint) + 16 a cell (cleared, "
           "painted, read), MB", moved / 1e6),
          ("flops of its two transforms, Mflop", flops / 1e6),
          ("floor, ms", 1e3 * floor), ("step over floor", t["step"] / floor)])  # fmt: skip


def _twin(t: dict[str, float]) -> float:
    return t["C paint"] + t["C slope"] + t["C gather"] + t["FFT alone"]
