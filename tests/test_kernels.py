"""Kernels against scipy's distributions and quadratures: variance 1, derivatives of derivatives, combinations."""

import math
import re

import pytest
import torch
from scipy import integrate, stats

from emulate.errors import InputError
from emulate.kernels import FORMS, MOST, Kernel

SMOOTH = [form for form in FORMS if form != "step"]
U = torch.linspace(-2.9, 2.9, 59, dtype=torch.float64)


def test_the_distribution_functions_are_scipys():
    torch.testing.assert_close(
        Kernel.of("gaussian")(U), torch.from_numpy(stats.norm.cdf(U.numpy())), rtol=1e-13, atol=0
    )
    scale = math.sqrt(3) / math.pi
    torch.testing.assert_close(
        Kernel.of("logistic")(U), torch.from_numpy(stats.logistic.cdf(U.numpy(), scale=scale)), rtol=1e-13, atol=0
    )
    twin = stats.beta.cdf(U.numpy(), 4, 4, loc=-3, scale=6)  # (1 - t^2)^3 is the symmetric beta density
    torch.testing.assert_close(Kernel.of("compact")(U), torch.from_numpy(twin), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("form", SMOOTH)
def test_moments(form):
    k = Kernel.of(form)
    fourth = {"gaussian": 3.0, "logistic": 4.2, "compact": 27 / 11}[form]  # excess 0, 6/5; E t^4 = 1/33 of t in [-1, 1]
    assert [k.moment(q) for q in (1, 2, 3, 4)] == pytest.approx([0, 1, 0, fourth], abs=1e-9)
    assert k.order == 2
    high = k.fourth_order()
    assert [high.moment(q) for q in (1, 2, 3, 4)] == pytest.approx([0, 0, 0, -2 * fourth], abs=1e-9)
    assert (high.order, high.total) == (4, 1.0)
    assert (k - Kernel.of("step")).total == 0


@pytest.mark.parametrize("form", SMOOTH)
@pytest.mark.parametrize("p", range(MOST))
def test_each_derivative_is_that_of_the_one_before(form, p):
    k, e = Kernel.of(form).fourth_order(), 1e-4
    f = [k(U + s * e, p) for s in (-2, -1, 1, 2)]
    slope = (8 * (f[2] - f[1]) - (f[3] - f[0])) / (12 * e)
    torch.testing.assert_close(k(U, p + 1), slope, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("form", SMOOTH)
def test_beyond_the_reach_there_is_nothing(form):
    k = Kernel.of(form).stretched(0.5)
    far = torch.tensor([-1.0, 1.0], dtype=torch.float64) * k.reach * (1 + 1e-12)
    torch.testing.assert_close(k(far), torch.tensor([0.0, 1.0], dtype=torch.float64), rtol=0, atol=1e-16)
    assert all(k(far, p).tolist() == [0.0, 0.0] for p in range(1, MOST + 1))
    mass, _ = integrate.quad(
        lambda u: float(k(torch.tensor([u], dtype=torch.float64), 1)), -k.reach, k.reach, epsabs=1e-12, limit=200
    )
    assert mass == pytest.approx(1.0, abs=1e-10)


def test_refusals():
    with pytest.raises(InputError, match=re.escape("a soft histogram must be differentiated at most 5 times. Got 6.")):
        Kernel.of("gaussian")(U, 6)
    with pytest.raises(
        InputError, match=r"^hard counts have no derivative with respect to the samples: it is zero almost"
    ):
        Kernel.of("step")(U, 1)
