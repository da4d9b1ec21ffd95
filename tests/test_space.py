import json
import math

import numpy as np
import pandas
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from emulate.errors import InputError
from emulate.space import LOGARITHMIC, LogNormal, LogUniform, Normal, Parameter, Space, TruncatedNormal, Uniform

REAL = st.floats(-1e3, 1e3)
WIDTH = st.floats(1e-3, 1e3)
UNIFORM = st.builds(lambda low, w: Uniform(low, low + w), REAL, WIDTH)
LOG_UNIFORM = st.builds(lambda low, r: LogUniform(low, low * r), st.floats(1e-6, 1e6), st.floats(1.01, 1e6))
NORMAL = st.builds(Normal, REAL, WIDTH)
LOG_NORMAL = st.builds(LogNormal, st.floats(-20.0, 20.0), st.floats(0.01, 2.0))
TRUNCATED = st.builds(lambda m, s, a, b: TruncatedNormal(m, s, m + a * s, m + (a + b) * s),
                      REAL, WIDTH, st.floats(-3.0, 2.0), st.floats(0.1, 4.0))  # fmt: skip
PRIOR = st.one_of(UNIFORM, LOG_UNIFORM, NORMAL, LOG_NORMAL, TRUNCATED)
SPACE = Space((Parameter("a", Uniform(0.0, 2.0), "s", r"\alpha"), Parameter("b", LogUniform(0.1, 10.0)),
               Parameter("c", Normal(1.0, 2.0), label="c"), Parameter("d", TruncatedNormal(0.0, 1.0, -1.0, 3.0), "m")))  # fmt: skip


def judge(p):
    """The same distribution by scipy."""
    match p:
        case Uniform(low, high):
            return scipy.stats.uniform(low, high - low)
        case LogUniform(low, high):
            return scipy.stats.loguniform(low, high)
        case Normal(mean, sd):
            return scipy.stats.norm(mean, sd)
        case LogNormal(mean, sd):
            return scipy.stats.lognorm(sd, scale=math.exp(mean))
        case TruncatedNormal(mean, sd, low, high):
            return scipy.stats.truncnorm((low - mean) / sd, (high - mean) / sd, mean, sd)


@settings(deadline=None)
@given(p=PRIOR, u=st.floats(0.001, 0.999))
def test_priors_agree_with_scipy(p, u):
    theta, twin = p.from_unit(torch.tensor(u, dtype=torch.float64)), judge(p)
    scale = float(twin.ppf(0.84) - twin.ppf(0.16))
    assert float(theta) == pytest.approx(twin.ppf(u), rel=1e-9, abs=1e-9 * scale)
    assert float(p.to_unit(theta)) == pytest.approx(twin.cdf(float(theta)), abs=1e-9)
    assert float(p.log_prob(theta)) == pytest.approx(twin.logpdf(float(theta)), rel=1e-7, abs=1e-7)


@settings(deadline=None)
@given(p=PRIOR, u=st.floats(0.01, 0.99))
def test_the_map_is_differentiable_and_its_slope_is_the_density(p, u):
    """du/dtheta = p(theta)."""
    theta = p.from_unit(torch.tensor(u, dtype=torch.float64)).clone().requires_grad_()
    (slope,) = torch.autograd.grad(p.to_unit(theta), theta)
    assert float(slope) == pytest.approx(math.exp(float(p.log_prob(theta.detach()))), rel=1e-6)
    unit = torch.tensor(u, dtype=torch.float64, requires_grad=True)
    (back,) = torch.autograd.grad(p.from_unit(unit), unit)
    assert float(slope * back) == pytest.approx(1, rel=1e-6)


@settings(deadline=None)
@given(p=st.one_of(UNIFORM, LOG_UNIFORM, TRUNCATED), beyond=st.floats(1e-3, 0.5))
def test_outside_a_bounded_prior_u_tells_the_distance_and_the_density_is_zero(p, beyond):
    for theta in (p.low - beyond * abs(p.low), p.high + beyond * abs(p.high)):
        if p.low <= theta <= p.high:
            continue
        x = torch.tensor(theta, dtype=torch.float64, requires_grad=True)
        u, density = p.to_unit(x), p.log_prob(x)
        assert (u < 0) if theta < p.low else (u > 1)
        assert density == -math.inf
        (slope,) = torch.autograd.grad(u, x)
        assert slope > 0
        if not isinstance(p, LogUniform):
            distance = (theta - (p.low if theta < p.low else p.high)) / (p.high - p.low)
            assert float(u.detach()) == pytest.approx(distance + (theta > p.high), rel=1e-6, abs=1e-9)
        assert float(p.from_unit(u.detach())) == pytest.approx(theta, rel=1e-6, abs=1e-6 * (p.high - p.low))


@settings(deadline=None)
@given(p=LOG_NORMAL, below=st.floats(1e-3, 1e3))
def test_below_zero_a_log_normal_tells_the_distance_and_has_no_density(p, below):
    theta = torch.tensor(-below * math.exp(p.mean), dtype=torch.float64, requires_grad=True)
    u = p.to_unit(theta)
    assert float(u.detach()) == pytest.approx(-below)
    assert float(p.from_unit(u.detach())) == pytest.approx(float(theta.detach()))
    assert p.log_prob(theta) == -math.inf
    (slope,) = torch.autograd.grad(u, theta)
    assert 0 < slope < math.inf


@settings(deadline=None)
@given(p=LOG_NORMAL, u=st.floats(0.01, 0.99))
def test_the_logarithm_of_a_log_normal_is_normal(p, u):
    u, twin = torch.tensor(u, dtype=torch.float64), Normal(p.mean, p.sd)
    theta = p.from_unit(u)
    assert float(theta.log()) == pytest.approx(float(twin.from_unit(u)), abs=1e-12 * (1 + abs(p.mean)))
    assert float(p.scaled(theta)) == pytest.approx(float(twin.scaled(theta.log())))
    assert float(p.log_prob(theta) + theta.log()) == pytest.approx(float(twin.log_prob(theta.log())))


@settings(deadline=None)
@given(p=PRIOR, theta=st.lists(REAL, min_size=3, max_size=3, unique=True))
def test_scaled_coordinates_rise_and_hold_the_bulk_of_the_prior_in_the_unit_interval(p, theta):
    if not isinstance(p, LOGARITHMIC):  # the others are linear: second differences vanish
        a, b, c = (float(p.scaled(torch.tensor(x, dtype=torch.float64))) for x in sorted(theta))
        x, y, z = sorted(theta)
        assert a <= b <= c
        rounding = 1e-15 * (1 + abs(a) + abs(c)) * (z - x)
        assert (b - a) * (z - y) == pytest.approx((c - b) * (y - x), rel=1e-6, abs=1e-9 + rounding)
    low, high = (p.from_unit(torch.tensor(u, dtype=torch.float64)) for u in (0.03, 0.97))
    assert -1e-9 <= p.scaled(low) < p.scaled(high) <= 1 + 1e-9


@settings(deadline=None)
@given(priors=st.lists(PRIOR, min_size=1, max_size=5), data=st.data())
def test_a_space_survives_json_and_a_round_trip(priors, data):
    space = Space(tuple(Parameter(f"p{i}", p, unit="m", label=r"\mu") for i, p in enumerate(priors)))
    assert Space.from_dict(json.loads(json.dumps(space.to_dict()))) == space
    numbers = st.lists(st.floats(0.01, 0.99), min_size=space.d, max_size=space.d)
    u = torch.tensor(data.draw(st.lists(numbers, min_size=1, max_size=4)), dtype=torch.float64)
    theta = space.from_unit(u)
    torch.testing.assert_close(space.to_unit(theta), u, rtol=0, atol=1e-8)
    torch.testing.assert_close(space.unscaled(space.scaled(theta)), theta, rtol=1e-9, atol=1e-9)
    twins = sum(np.array([judge(p).logpdf(float(x)) for x in theta[:, i]]) for i, p in enumerate(priors))
    np.testing.assert_allclose(space.log_prob(theta).numpy(), twins, rtol=1e-7, atol=1e-6)


def test_draws_of_a_uniform_cube_are_draws_of_the_prior():
    u = torch.rand((2000, SPACE.d), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for column, p in zip(SPACE.from_unit(u).T, SPACE.parameters, strict=True):
        assert scipy.stats.kstest(column.numpy(), judge(p.prior).cdf).pvalue > 1e-3


def test_theta_may_be_named_in_any_order():
    theta = torch.tensor([[0.5, 1.0, 2.0, 0.1], [1.5, 2.0, 3.0, 0.2]], dtype=torch.float64)
    frame = pandas.DataFrame(theta.numpy(), columns=SPACE.names)[["d", "b", "a", "c"]]
    for given_as in (theta, theta.numpy(), theta.tolist(), frame, dict(reversed(SPACE.unpack(theta).items()))):
        assert torch.equal(SPACE.pack(given_as), theta)
    packed = SPACE.pack({"a": theta[:, 0].requires_grad_(), "b": 1, "c": np.float32(2), "d": 0.5})
    assert packed.shape == (2, 4)
    assert packed.requires_grad


def test_labels_are_what_axes_say():
    assert SPACE.labels == (r"$\alpha$ [s]", "b", "$c$", "d [m]")


@pytest.mark.parametrize(("make", "sentence"), [
    (lambda: Uniform(2.0, 1.0), "uniform: low must be below high. Got low = 2.0, high = 1.0; swap them or widen the range."),
    (lambda: Uniform(0.0, math.inf), "uniform: low and high must be finite. Got [0.0, inf]."),
    (lambda: LogUniform(0.0, 1.0), "log_uniform: low must be above 0. Got 0.0; a logarithm needs positive bounds."),
    (lambda: LogNormal(0.0, -1.0), "log_normal: sd must be positive. Got -1.0; give a standard deviation above 0."),
    (lambda: LogNormal(1e6, 1.0), "log_normal: mean must be the mean of ln theta, below 300 in size. Got 1000000.0."),
    (lambda: Normal(0.0, 0.0), "normal: sd must be positive. Got 0.0; give a standard deviation above 0."),
    (lambda: Normal(math.nan, 1.0), "normal: mean must be finite. Got nan."),
    (lambda: TruncatedNormal(0.0, 1.0, 50.0, 60.0), "truncated_normal: [50.0, 60.0] must hold some probability of "
     "N(0.0, 1.0^2). Got 0.0e+00; move the bounds towards the mean."),
    (lambda: Parameter("a b", Uniform(0.0, 1.0)), "a parameter's name must be letters, digits and _. Got 'a b'."),
    (lambda: Space(()), "a space must have at least one parameter. Got none."),
    (lambda: Space(SPACE.parameters[:1] * 2), "a parameter must be named once. Got 'a' twice; rename one."),
    (lambda: SPACE.pack([1.0, 2.0]), "theta must have 4 values in its last axis (a, b, c, d). Got shape (2,); give [4] for "
     "one point or [n, 4] for many."),
    (lambda: SPACE.pack(3.0), "theta must have 4 values in its last axis (a, b, c, d). Got shape (); give [4] for one point "
     "or [n, 4] for many."),
    (lambda: SPACE.pack({"a": 1}), "theta must name every one of a, b, c, d. Missing: b, c, d."),
    (lambda: SPACE.pack({"aa": 1}), "theta has no parameter 'aa'; it must name a, b, c, d. Did you mean \"a\"?"),
    (lambda: SPACE.pack("half"), "theta must be real numbers. Got 'half' (could not convert string to float: "
     f"{np.str_('half')!r}); give an array [n, d], or one value for each parameter by name."),
    (lambda: SPACE.pack({"a": [[1], [1, 2]], "b": 1, "c": 1, "d": 1}), "a must be real numbers. Got '[[1], [1, 2]]' (setting an "
     "array element with a sequence. The requested array has an inhomogeneous shape after 1 dimensions. The detected shape was "
     "(2,) + inhomogeneous part.); give an array [n, d], or one value for each parameter by name."),
    (lambda: SPACE.pack([1j, 1, 1, 1]), "theta must be real numbers. Got '[1j, 1, 1, 1]' (a complex number is not real); give an "
     "array [n, d], or one value for each parameter by name."),
    (lambda: SPACE.pack(torch.ones(4, dtype=torch.complex64)), "theta must be real numbers. Got torch.complex64; give its real "
     "part."),
])  # fmt: skip
def test_wrong_input_is_answered_with_a_sentence(make, sentence):
    with pytest.raises(InputError) as met:
        make()
    assert str(met.value) == sentence


def test_named_values_of_unlike_lengths_are_told_by_name():
    space = Space((Parameter("a", Uniform(0.0, 1.0)), Parameter("b", Uniform(0.0, 1.0))))
    with pytest.raises(InputError) as caught:
        space.pack({"a": [0.1, 0.2], "b": [0.1, 0.2, 0.3]})
    assert str(caught.value) == (
        "theta must have a value of each parameter for every point, or one for all. Got the shapes (2,) of a, (3,) of b; give "
        "arrays of one length."
    )


def test_times_are_no_numbers():
    space = Space((Parameter("a", Uniform(0.0, 1.0)),))
    with pytest.raises(InputError, match=r"theta must be real numbers\. Got .* \(a time has no unit here\)"):
        space.pack(np.array(["2020-01-01"], dtype="datetime64[D]"))
