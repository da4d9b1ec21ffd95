"""The bispectrum by Fourier transforms against sums over triangles, perturbation theory and fields without one."""

import itertools
import math

import numpy as np
import pytest
import torch

from emulate.simulators.nbody.cloud import Mesh, density
from emulate.simulators.nbody.cosmology import Cosmology
from emulate.simulators.nbody.fourier import forward, inverse
from emulate.simulators.nbody.initial_conditions import displacements, linear_field, white_noise
from emulate.simulators.nbody.mesh import window
from emulate.simulators.nbody.statistics.bispectrum import bispectrum, shells

BOX = 100.0


def field(n: int, seed: int, power: float, highest: int | None = None) -> torch.Tensor:
    """A Gaussian field of flat spectrum without modes above `highest` along any axis."""
    noise = white_noise(n, seed) * math.sqrt(power / BOX**3)
    if highest is not None:
        keep = torch.fft.fftfreq(n, 1 / n).abs() <= highest
        noise = noise * (keep[:, None, None] & keep[None, :, None] & keep[None, None, : n // 2 + 1])
    return inverse(noise, norm="forward")


def seen(field: torch.Tensor) -> torch.Tensor:
    """The same field through the cloud's window, as painting would show it."""
    return inverse(forward(field) * window(field.shape[0]))


@pytest.mark.parametrize(("number", "width"), [(3, 1), (1, 2), (2, 2)])
def test_triangles_are_summed_one_by_one(number, width):
    n = 10
    delta = field(n, 0, 300.0) + 0.1 * field(n, 1, 300.0) ** 2
    modes = np.fft.fftn(delta.numpy()) / n**3
    k = 2 * np.pi * np.fft.fftfreq(n)
    w = np.sinc(k / (2 * np.pi)) ** 2
    modes /= w[:, None, None] * w[None, :, None] * w[None, None, :]
    shell = {}
    for mode in itertools.product(range(-4, 5), repeat=3):
        s = math.floor((math.sqrt(sum(x * x for x in mode)) - 0.5) / width)
        if 0 <= s < number:
            shell.setdefault(s, []).append(mode)
    B, P = bispectrum(delta, BOX, number, width)
    found = shells(n, number, width)
    for s, members in shell.items():
        inside, total, count, side = set(members), 0.0, 0, 0.0
        for a, b in itertools.product(members, repeat=2):
            c = tuple(-x - y for x, y in zip(a, b))
            if c in inside:
                count += 1
                total += (modes[a] * modes[b] * modes[c]).real
                side += math.sqrt(sum(x * x for x in a))
        assert found.triangles[s].item() == count
        assert found.modes[s].item() == len(members)
        assert found.n[s].item() == pytest.approx(side / count)
        assert B[s].item() == pytest.approx(BOX**6 * total / count, rel=1e-9)
        assert P[s].item() == pytest.approx(BOX**3 * np.mean([abs(modes[a]) ** 2 for a in members]))


def test_the_triangle_mesh_is_just_fine_enough():
    """Three times the highest wavenumber, and even; the field's own mesh need not be finer."""
    assert [shells(32, number, 1).cells for number in (1, 2, 3, 4)] == [4, 8, 10, 14]


def test_local_non_gaussianity_has_its_bispectrum():
    """delta = g + b (g^2 - <g^2>): B = 2 b (P P + P P + P P) = 6 b P^2, the next order b^2 <g^2> below 1e-3.

    Opposite g have the same B at first order in b and opposite noise, so their mean shows B at once.
    """
    n, b, power, runs = 16, 0.05, 60.0, 400
    found = []
    for seed in range(runs):
        g = field(n, seed, power, highest=3)
        pair = [sign * g + b * (g**2 - g.square().mean()) for sign in (1, -1)]
        found.append(sum(bispectrum(seen(delta), BOX, 3, 1)[0] for delta in pair) / 2)
    found = torch.stack(found)
    z = (found.mean(0) - 6 * b * power**2) / (found.std(0) / math.sqrt(runs))
    assert float(z.abs().max()) < 3
    assert float((found.std(0) / math.sqrt(runs) / (6 * b * power**2)).min()) < 0.05  # and the error bar says something


def test_gaussian_field_has_none():
    """Mean zero and the variance 6 V P^3 / N of N ordered triangles, each counted six times (Scoccimarro 2015)."""
    runs, number, power = 120, 4, 300.0
    found = torch.stack([bispectrum(seen(field(16, seed, power)), BOX, number, 1)[0] for seed in range(runs)])
    variance = 6 * BOX**3 * power**3 / shells(16, number, 1).triangles
    z = found.mean(0) / torch.sqrt(variance / runs)
    assert float(z.abs().max()) < 3
    ratio = found.var(0) / variance
    assert float((ratio[1:] - 1).abs().max()) < 6 * math.sqrt(2 / runs)


def test_three_waves_make_one_triangle():
    """cos(k1 x) + cos(k2 x) + cos(k3 x) with k1 + k2 + k3 = 0: two closed triangles of amplitude 1/8, six orders each."""
    x = 2 * math.pi * torch.arange(16, dtype=torch.float64) / 16
    x, y, z = x[:, None, None], x[None, :, None], x[None, None, :]
    waves = [(2, -2, 0), (0, 2, -2), (-2, 0, 2)]
    delta = sum(torch.cos(a * x + b * y + c * z) for a, b, c in waves)
    B, P = bispectrum(seen(delta), BOX, 4, 1)
    s = shells(16, 4, 1)
    assert B[2].item() == pytest.approx(BOX**6 * 12 / 8 / s.triangles[2].item())
    assert P[2].item() == pytest.approx(BOX**3 * 6 / 4 / s.modes[2].item())
    assert float(B[[0, 1, 3]].abs().max()) < 1e-10 * float(B[2])


def test_gravity_has_the_bispectrum_of_second_order_perturbation_theory():
    """Q of particles at second Lagrangian order against 2 F_2 P P summed over the triangles of a shell: |z| < 3.

    F_2 = 5/7 + mu/2 (k1/k2 + k2/k1) + 2/7 mu^2 (Fry 1984), 2/7 for equal sides, so that Q is about 4/7.
    """
    box, number, runs = 500.0, 4, 60
    mesh = Mesh(particles=32, refinement=2)
    weak = Cosmology.of(omega_m=0.3, omega_b=0.049, h=0.68, n_s=0.96, sigma_8=0.05)
    today = weak.growth(torch.ones((), dtype=torch.float64))
    B, P = [], []
    for seed in range(runs):
        noise = white_noise(32, seed)
        pair = [displacements(linear_field(sign * noise, weak, box)).at(today.D, today.D2) for sign in (1, -1)]
        values = [bispectrum(density(2 * x, mesh), box, number, 1) for x in pair]
        B.append(sum(b for b, _ in values) / 2)
        P.append(sum(p for _, p in values) / 2)
    B, P = torch.stack(B), torch.stack(P)
    Q = B.mean(0) / (3 * P.mean(0) ** 2)
    error = B.std(0) / math.sqrt(runs) / (3 * P.mean(0) ** 2)
    z = (Q - torch.tensor(second_order(weak, box, number))) / error
    assert float(z.abs().max()) < 3
    assert float((error / Q).min()) < 0.08


def second_order(cosmology: Cosmology, box: float, number: int) -> list[float]:
    """Q of each shell one mode wide, by a sum over its triangles."""
    n = np.array(list(itertools.product(range(-number, number + 1), repeat=3)))
    size = np.sqrt((n**2).sum(1))
    found = []
    for s in range(1, number + 1):
        members = n[np.rint(size) == s]
        a, b = (x.reshape(-1, 3) for x in np.broadcast_arrays(members[:, None], members[None]))
        c = -a - b
        closed = np.rint(np.sqrt((c**2).sum(1))) == s
        sides = [x[closed] for x in (a, b, c)]
        k = [np.sqrt((x**2).sum(1)) for x in sides]
        P = [cosmology.power(torch.from_numpy(2 * np.pi / box * x)).numpy() for x in k]
        B = 0.0
        for i, j in ((0, 1), (1, 2), (2, 0)):
            mu = (sides[i] * sides[j]).sum(1) / (k[i] * k[j])
            B += 2 * (5 / 7 + mu / 2 * (k[i] / k[j] + k[j] / k[i]) + 2 / 7 * mu**2) * P[i] * P[j]
        mean = cosmology.power(torch.from_numpy(2 * np.pi / box * size[np.rint(size) == s])).mean().item()
        found.append(B.mean() / (3 * mean**2))
    return found
