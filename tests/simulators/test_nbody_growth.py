"""Growth of structure against closed forms and integrated equations, for curved universes and moving dark energy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from scipy.special import hyp2f1

from emulate.errors import InputError
from emulate.simulators.nbody.background import Background
from emulate.simulators.nbody.growth import early_growth, growth, scale_factor

A = torch.linspace(0.02, 1.0, 30, dtype=torch.float64)
# omega_m, omega_k, w0, wa
UNIVERSES = [
    (0.15, 0.0, -1.0, 0.0),
    (0.3, 0.0, -1.0, 0.0),
    (0.3, 0.1, -1.0, 0.0),
    (0.3, -0.2, -1.0, 0.0),
    (0.25, 0.0, -0.7, 0.3),
    (0.35, 0.05, -1.3, 0.9),
    (0.3, 0.0, -0.5, -1.5),
    (0.1, 0.2, -0.9, 0.4),
    (1.5, -0.7, -0.9, 0.2),
    (0.3, 0.7, -1.0, 0.0),
]


def f64(x) -> torch.Tensor:
    return torch.tensor(x, dtype=torch.float64)


def background(omega_m, omega_k=0.0, w0=-1.0, wa=0.0) -> Background:
    return Background(*(torch.as_tensor(x, dtype=torch.float64) for x in (omega_m, omega_k, w0, wa)))


def integrated(omega_m, omega_k, w0, wa, a):
    """D, dD/dln a, D2, dD2/dln a by DOP853 in ln a, from the definitions; ratios to a and a^2 keep it accurate."""

    def slope(x, y):
        a = np.exp(x)
        matter, curvature = omega_m * a**-3, omega_k * a**-2
        dark = (1 - omega_m - omega_k) * a ** (-3 * (1 + w0 + wa)) * np.exp(-3 * wa * (1 - a))
        E2 = matter + curvature + dark
        dE2 = -3 * matter - 2 * curvature - 3 * (1 + w0 + wa * (1 - a)) * dark
        drag, source = 2 + 0.5 * dE2 / E2, 1.5 * matter / E2
        g, dg, h, dh = y
        # D = a g, D2 = a^2 h
        ddg = source * g - drag * (g + dg) - g - 2 * dg
        ddh = source * (h - g**2) - drag * (2 * h + dh) - 4 * h - 4 * dh
        return [dg, ddg, dh, ddh]

    start = -36 / min(1, -3 * (w0 + wa))  # nothing but matter to rounding
    y = solve_ivp(slope, (start, 0), [1, 0, -3 / 7, 0], t_eval=np.log(a), method="DOP853", rtol=1e-13, atol=1e-15).y
    return a * y[0], a * (y[0] + y[1]), a**2 * y[2], a**2 * (2 * y[2] + y[3])


def test_einstein_de_sitter_grows_as_the_scale_factor():
    g = growth(background(1.0), A)
    for value, truth in ((g.D, A), (g.f, torch.ones_like(A)), (g.D2, -3 / 7 * A**2), (g.dD2, -6 / 7 * A)):
        torch.testing.assert_close(value, truth, rtol=1e-11, atol=0)


@pytest.mark.parametrize("omega_m", [0.05, 0.1, 0.2, 0.3, 0.4, 0.9])
def test_growth_is_the_hypergeometric_function(omega_m):
    def truth(a):
        return a * hyp2f1(1 / 3, 1, 11 / 6, -(1 - omega_m) / omega_m * a**3)

    np.testing.assert_allclose(growth(background(omega_m), A).D, truth(A.numpy()) / truth(1.0), rtol=1e-12)
    assert float(early_growth(background(omega_m))) == pytest.approx(truth(1.0), rel=1e-12)


def test_growth_of_an_open_universe_is_the_closed_form():
    """No dark energy: D = 1 + 3/x + 3 sqrt((1 + x)/x^3) ln(sqrt(1 + x) - sqrt(x)), x = a (1/Omega_m - 1).

    Peebles 1980, The Large-Scale Structure of the Universe, equation 11.16.
    """
    x = A.numpy() * (1 / 0.3 - 1)
    D = 1 + 3 / x + 3 * np.sqrt((1 + x) / x**3) * np.log(np.sqrt(1 + x) - np.sqrt(x))
    np.testing.assert_allclose(growth(background(0.3, 0.7), A).D, D / D[-1], rtol=1e-8)  # D cancels at small x


@pytest.mark.parametrize("w", [-0.4, -0.7, -1.5])
def test_growth_with_constant_w_is_the_hypergeometric_function(w):
    """D / a = 2F1(-1/(3w), (w - 1)/(2w); 1 - 5/(6w); -(1 - Om)/Om a^(-3w)) (Silveira & Waga 1994, PRD 50, 4890)."""

    def truth(a):
        return a * hyp2f1(-1 / (3 * w), (w - 1) / (2 * w), 1 - 5 / (6 * w), -0.7 / 0.3 * a ** (-3 * w))

    np.testing.assert_allclose(growth(background(0.3, 0.0, w), A).D, truth(A.numpy()) / truth(1.0), rtol=1e-11)


@pytest.mark.parametrize("universe", UNIVERSES, ids=str)
def test_growth_solves_its_equations(universe):
    D, dD, D2, dD2 = integrated(*universe, A.numpy())
    g, today = growth(background(*universe), A), D[-1]
    np.testing.assert_allclose(g.D, D / today, rtol=1e-10)
    np.testing.assert_allclose(g.f, dD / D, rtol=1e-10)
    np.testing.assert_allclose(g.D2, D2 / today**2, rtol=1e-10)
    np.testing.assert_allclose(g.dD2, dD2 / dD / today, rtol=1e-10)


@settings(max_examples=30, deadline=None)
@given(
    st.floats(0.1, 1.0),
    st.floats(-0.3, 0.3),
    st.floats(-2.0, -0.4),
    st.floats(-0.9, 0.9),
    st.floats(0.001, 1.0),
)
def test_any_universe_grows_and_the_scale_factor_is_found_again(omega_m, omega_k, w0, wa, a):
    try:
        universe = background(omega_m, omega_k, w0, wa)
    except InputError:
        return
    a = torch.stack((f64(0.5 * a), f64(a)))
    g = growth(universe, a)
    assert float(g.D[0]) < float(g.D[1]) <= 1 + 1e-12
    assert bool((g.f > 0).all() and (g.D2 < 0).all())
    torch.testing.assert_close(scale_factor(universe, g.D), a, rtol=1e-10, atol=0)


def table(omega_m, omega_k, w0, wa, D):
    universe = Background(omega_m, omega_k, w0, wa)
    g = growth(universe, scale_factor(universe, D))
    return torch.stack((g.a, g.D, g.f, g.D2, g.dD2))


POINT = (*map(f64, (0.3, 0.05, -0.9, 0.2)), torch.linspace(0.1, 0.9, 3, dtype=torch.float64))


def test_growth_and_its_inverse_are_differentiable_twice():
    inputs = [x.clone().requires_grad_() for x in POINT]
    assert torch.autograd.gradcheck(table, inputs, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(table, inputs)


def test_forward_mode_is_reverse_mode_and_cosmologies_can_be_batched():
    numbers = (0, 1, 2, 3)
    forward = torch.func.jacfwd(table, argnums=numbers)(*POINT)
    for one, other in zip(forward, torch.func.jacrev(table, argnums=numbers)(*POINT)):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)
    omega_m = f64([0.2, 0.3, 0.4])
    batch = torch.func.vmap(table, in_dims=(0, None, None, None, None))(omega_m, *POINT[1:])
    torch.testing.assert_close(batch[1], table(*POINT), rtol=1e-11, atol=0)
    slopes = torch.func.vmap(torch.func.jacfwd(table), in_dims=(0, None, None, None, None))(omega_m, *POINT[1:])
    torch.testing.assert_close(slopes[1], forward[0], rtol=1e-9, atol=1e-10)
    twice = torch.func.jacfwd(torch.func.jacfwd(table))(*POINT)
    torch.testing.assert_close(twice, torch.func.jacrev(torch.func.jacrev(table))(*POINT), rtol=1e-8, atol=1e-9)


def test_gradient_today_is_finite_at_the_edge_of_the_polynomial():
    omega_m, a = f64(0.3).requires_grad_(), torch.ones(1, dtype=torch.float64, requires_grad=True)
    universe = background(omega_m)
    slopes = torch.autograd.grad(growth(universe, a).D.sum(), (omega_m, a))
    assert float(slopes[0]) == pytest.approx(0.0, abs=1e-12)  # D(1) = 1 in every universe
    assert float(slopes[1]) == pytest.approx(float(growth(background(0.3), a.detach()).f), rel=1e-10)


def test_expansion_is_one_today_matter_early_and_the_known_limits():
    one = background(0.3, 0.05, -0.9, 0.2)
    assert float(one.expansion(f64(1.0))) == pytest.approx(1.0, abs=1e-15)
    assert float(one.expansion(f64(1e-4))) == pytest.approx((0.3 * 1e12) ** 0.5, rel=1e-4)
    # w = -1/3 dilutes as curvature does, w = 0 would as matter
    torch.testing.assert_close(background(0.3, 0.0, -1 / 3).expansion(A), background(0.3, 0.7).expansion(A))


@pytest.mark.parametrize(
    ("universe", "sentence"),
    [
        ((0.0,), r"omega_m must be positive, and all numbers finite\. Got omega_m = 0\.0"),
        ((0.3, float("nan")), r"all numbers finite\. Got omega_m = 0\.3, omega_k = nan"),
        ((0.3, 0.0, -1.0, 1.0), r"w0 \+ wa must be below -0\.05.* Got w0 = -1\.0, wa = 1\.0; lower wa"),
        ((0.3, -2.5), r"E\(a\)\^2 must be positive for 0 < a <= 1.* use less curvature"),
    ],
)
def test_what_is_not_a_universe_is_refused(universe, sentence):
    with pytest.raises(InputError, match=sentence):
        background(*universe)


def test_scale_factors_and_growth_outside_the_past_are_refused():
    for bad in (0.0, 1.1):
        with pytest.raises(InputError, match=r"scale factors must be in \(0, 1\]\. Got"):
            growth(background(0.3), f64([0.5, bad]))
        with pytest.raises(InputError, match=r"D must be in \(0, 1\]\. Got"):
            scale_factor(background(0.3), f64([0.5, bad]))
