"""The density PDF: smoothing against real-space sums, shares against hard counts, the error function and the bias formula."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.special import erf, expit

from emulate.simulators.nbody.cloud import Mesh
from emulate.simulators.nbody.cosmology import Cosmology
from emulate.simulators.nbody.fourier import inverse
from emulate.simulators.nbody.initial_conditions import white_noise
from emulate.simulators.nbody.mesh import window
from emulate.simulators.nbody.snapshot import Snapshot
from emulate.simulators.nbody.statistics.pdf import DensityPDF, smoothed, soft_histogram

EDGES = torch.linspace(-1.0, 1.0, 9, dtype=torch.float64)


def normal(seed: int, n: int = 32) -> torch.Tensor:
    return torch.randn((n,) * 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_smoothing_spreads_a_cell_as_a_gaussian():
    """One full cell: its cloud and the smoothing have together the variance R^2, and nothing is below zero."""
    n, R = 32, 3.0
    point = torch.zeros(n, n, n, dtype=torch.float64)
    point[16, 16, 16] = 1.0
    spread = smoothed(point, R)
    assert float(spread.sum()) == pytest.approx(1.0)
    assert float(spread.min()) > -1e-15
    x = torch.arange(n, dtype=torch.float64) - 16
    odd = torch.where(x == -16, 0.0, x)  # a place without a partner
    for axis in range(3):
        profile = spread.sum(tuple(i for i in range(3) if i != axis))
        assert float((profile * odd).sum()) == pytest.approx(0, abs=1e-12)
        assert float((profile * x**2).sum()) + 1 / 6 == pytest.approx(R**2, rel=1e-5)  # the box cuts at five sigma
    gauss = torch.exp(-(x**2) / (2 * (R**2 - 1 / 6)))
    truth = gauss[:, None, None] * gauss[None, :, None] * gauss[None, None, :] / gauss.sum() ** 3
    torch.testing.assert_close(spread, truth, rtol=0, atol=1e-8)


def test_sharp_edges_count():
    t = normal(0)
    hard = np.histogram(t.numpy(), EDGES.numpy())[0] / t.numel()
    assert soft_histogram(t, EDGES, 1e-9).numpy() == pytest.approx(hard, abs=1e-12)


def test_bins_and_tails_make_the_whole():
    t = normal(0)
    wide = torch.cat((torch.tensor([-1e3]), EDGES, torch.tensor([1e3])))
    shares = soft_histogram(t, wide, 0.05)
    assert float(shares.sum()) == pytest.approx(1.0)
    assert torch.equal(shares[1:-1], soft_histogram(t, EDGES, 0.05))


def test_the_edge_has_the_stated_width():
    """The derivative of an edge is a density with mean zero and standard deviation h."""
    h = 0.3
    edge = torch.zeros(1, dtype=torch.float64)
    x = np.linspace(-6, 6, 4001)
    share = np.array([float(soft_histogram(torch.full((1, 1, 1), v, dtype=torch.float64), torch.cat((edge, edge + 1e3)), h))
                      for v in x])  # fmt: skip
    density = np.gradient(share, x)
    assert np.trapezoid(density, x) == pytest.approx(1, abs=1e-6)
    assert np.trapezoid(density * x, x) == pytest.approx(0, abs=1e-6)
    assert np.trapezoid(density * x**2, x) == pytest.approx(h**2, rel=1e-4)


def test_softness_costs_what_the_formula_says():
    """(h^2 / 2) [f'(r) - f'(l)] for a normal density, by quadrature of the edge itself and by the field."""
    h = 0.2 * 0.25  # the default: a fifth of the width of a bin
    s = math.sqrt(3) / math.pi * h

    def density(t: float) -> float:
        return math.exp(-(t**2) / 2) / math.sqrt(2 * math.pi)

    levels = torch.linspace(0, 1, 64**3 + 1, dtype=torch.float64)
    t = (math.sqrt(2) * torch.erfinv(2 * (levels[1:] + levels[:-1]) / 2 - 1)).view(64, 64, 64)  # quantiles: no noise
    shares = soft_histogram(t, EDGES, h).tolist()
    for share, left, right in zip(shares, EDGES[:-1].tolist(), EDGES[1:].tolist()):
        exact = quad(lambda x, l=left, r=right: density(x) * (expit((x - l) / s) - expit((x - r) / s)), -8, 8,
                     points=[left, right], limit=200)[0]  # fmt: skip
        hard = (erf(right / math.sqrt(2)) - erf(left / math.sqrt(2))) / 2
        bias = h**2 / 2 * (-right * density(right) + left * density(left))
        assert share == pytest.approx(exact, abs=2e-8)
        assert share - hard == pytest.approx(bias, abs=0.02 * h**2 / 2 * 0.25)
        assert abs(share / hard - 1) < 1.5e-3


def test_gaussian_field_has_the_shares_of_the_error_function():
    """A field small enough to be a density: ln(1 + delta_R) < t where delta_R < exp(t) - 1, |z| < 3 in every bin."""
    n, box, R, runs = 16, 100.0, 15.0, 40
    mesh = Mesh(particles=n, refinement=1)
    pdf = DensityPDF(radius=R, low=-0.4, high=0.4, number=8, bandwidth=1e-3)
    cosmology = Cosmology.of(omega_m=0.3, omega_b=0.049, h=0.68, n_s=0.96, sigma_8=0.8)
    growth = cosmology.growth(torch.ones((), dtype=torch.float64))
    k = 2 * np.pi * np.fft.fftfreq(n)
    k2 = k[:, None, None] ** 2 + k[None, :, None] ** 2 + k[None, None, :] ** 2
    modes = np.exp(-k2 * ((R * n / box) ** 2 - 1 / 6))
    for axis in range(3):
        np.moveaxis(modes, axis, 0)[n // 2] = 0  # the noise leaves out the Nyquist planes and the mean
    modes[0, 0, 0] = 0
    sigma = 0.2
    scale = sigma / math.sqrt(modes.sum())
    rest = torch.zeros(3, n**3, dtype=torch.float64)
    found = []
    for seed in range(runs):
        snapshot = Snapshot(displacement=rest, velocity=rest, mesh=mesh, box=box, cosmology=cosmology, growth=growth)
        # the density is cached: a field takes the place of the painted one
        snapshot.__dict__["_density"] = scale * inverse(white_noise(n, seed), norm="forward")
        found.append(pdf.measure(snapshot))
    found = torch.stack(found)
    edge = (np.exp(np.linspace(-0.4, 0.4, 9)) - 1) / sigma / math.sqrt(2)
    truth = torch.from_numpy((erf(edge[1:]) - erf(edge[:-1])) / 2)
    z = (found.mean(0) - truth) / (found.std(0) / math.sqrt(runs))
    assert float(z.abs().max()) < 3
    assert float((found.std(0) / math.sqrt(runs) / truth)[2:6].max()) < 0.05


def test_the_window_of_the_cloud_is_part_of_the_smoothing():
    """A long wave painted by the cloud is damped by exp(-k^2 R^2 / 2) in all."""
    n, R = 32, 3.0
    x = 2 * math.pi * torch.arange(n, dtype=torch.float64) / n
    wave = torch.cos(2 * x)[:, None, None].expand(n, n, n)
    painted = wave * window(n)[2, 0, 0]
    truth = wave * math.exp(-((2 * 2 * math.pi / n) ** 2) * R**2 / 2)
    torch.testing.assert_close(smoothed(painted, R), truth, rtol=1e-4, atol=1e-6)
