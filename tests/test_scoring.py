"""Scores against quadrature of their definition, scipy's distributions, double loops and Monte Carlo z-scores."""

import itertools
import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.special import ndtr
from scipy.stats import chi, gamma, kstest, lognorm, norm
from torch.distributions import Gamma, Independent, LogNormal, MultivariateNormal, Normal, StudentT

from emulate import scoring
from emulate.distributions import Exact, Gaussian
from emulate.errors import InputError
from emulate.runs import Field, Outputs, Runs
from emulate.scoring import climatology, crps, energy_score, interval, pit, sharpness
from emulate.space import Parameter, Space, Uniform
from emulate.transforms import OutputTransform

POINT = st.tuples(st.floats(-3, 3), st.floats(0.02, 2.0), st.floats(-6, 6))  # mu, sigma, y


def _t(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _defined(cdf, y: float, low: float, high: float) -> float:
    """The integral of (F(x) - 1{x >= y})^2, split where F changes and where the step is."""
    cuts = sorted({low, high, min(max(y, low), high), y})
    return sum(quad(lambda x: (cdf(x) - (x >= y)) ** 2, a, b, epsabs=1e-12, epsrel=1e-10, limit=200)[0]
               for a, b in itertools.pairwise(cuts))  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(POINT)
def test_crps_of_a_normal_is_the_integral_that_defines_it(point):
    mu, sigma, y = point
    expected = _defined(lambda x: ndtr((x - mu) / sigma), y, mu - 12 * sigma, mu + 12 * sigma)
    for d in (Normal(_t(mu), _t(sigma)), MultivariateNormal(_t(mu), _t(sigma).square()[:, None]),
              Gaussian(_t(mu), _t(sigma).square(), _t(1)[:, None], _t(0))):  # fmt: skip
        assert float(crps(d, _t(y))) == pytest.approx(expected, rel=1e-7, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.tuples(st.floats(-2, 2), st.floats(0.02, 1.2), st.floats(-1.0, 6.0)))
def test_crps_of_a_lognormal_is_the_integral_that_defines_it(point):
    """Below zero, too, where a simulator that claims to be positive must not give it a better score."""
    mu, sigma, y = point
    d = lognorm(sigma, scale=math.exp(mu))

    def squared(x: float) -> float:
        return (ndtr((math.log(max(x, 1e-300)) - mu) / sigma) - (x >= y)) ** 2

    cuts = sorted({0.0, *(d.ppf(q) for q in (1e-9, 0.5, 1 - 1e-9, 1 - 1e-15)), y})
    expected = sum(quad(squared, *ends, epsabs=1e-12, epsrel=1e-10, limit=200)[0] for ends in itertools.pairwise(cuts))
    one, log = _t(1)[:, None], torch.tensor([True])
    for made in (LogNormal(_t(mu), _t(sigma)), Gaussian(_t(mu), _t(sigma).square(), one, _t(0), log=log)):
        assert float(crps(made, _t(y))) == pytest.approx(expected, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("sigma", [1e-3, 1e-6, 1e-7, 2e-9, 1e-12, 0.0])
def test_a_narrow_lognormal_scores_like_the_normal_that_it_is(sigma):
    """Data near 1e4 known to a part in 1e12: no digit is lost to the difference of two large numbers."""
    mu, z = math.log(1e4), _t(-2.0, 0.0, 0.7, 3.0)
    y = (mu + sigma * z).exp()
    log = torch.ones(4, dtype=torch.bool)
    made = Gaussian(_t(mu).expand(4), (_t(sigma).square()).expand(4), torch.eye(4, dtype=torch.float64), 0 * z, log=log)
    expected = crps(Normal(_t(1e4).expand(4), 1e4 * sigma + 1e-300), 1e4 * (1 + sigma * z))
    torch.testing.assert_close(crps(made, y), expected, rtol=5 * sigma + 1e-7, atol=1e-11)  # 1e-11: rounding of y
    assert float(crps(made, 1.5 * y)[0]) == pytest.approx(5e3, rel=0.01)


def test_an_exact_prediction_scores_its_absolute_error():
    y, made = _t(1.0, 2.0, 3.0), Exact(_t(1.0, 2.5, 1.0))
    assert crps(made, y).tolist() == [0.0, 0.5, 2.0]
    assert pit(made, y).tolist() == [0.5, 0.0, 1.0]
    assert sharpness(made).tolist() == [0.0, 0.0, 0.0]


def test_crps_is_smallest_for_the_distribution_that_y_is_drawn_from():
    y = torch.as_tensor(np.random.default_rng(0).standard_normal(20_000))
    mean = {(m, s): float(crps(Normal(torch.full_like(y, m), s), y).mean())
            for m, s in ((0.0, 1.0), (0.0, 0.5), (0.0, 2.0), (0.5, 1.0))}  # fmt: skip
    assert min(mean, key=mean.get) == (0.0, 1.0)
    error = 0.8 / len(y) ** 0.5  # the sd of |y| and of the score is below 0.8
    assert abs(mean[0.0, 1.0] - 1 / math.sqrt(math.pi)) < 4 * error  # E CRPS = E|X - X'| / 2


def _gamma() -> Independent:
    return Independent(Gamma(_t(2.0, 0.7, 9.0), _t(1.0, 3.0, 0.1)), 1)


@pytest.mark.parametrize("at_once", [2**24, 400])
def test_the_score_from_draws_is_unbiased_even_from_few(at_once, monkeypatch):
    """400 estimates from 64 draws, whole or in blocks of 32, against the integral."""
    monkeypatch.setattr(scoring, "_AT_ONCE", at_once)
    y = _t(1.0, 1.5, 40.0)
    found = torch.stack([crps(_gamma(), y, draws=64, seed=s) for s in range(400)])
    for j, (a, rate) in enumerate(((2.0, 1.0), (0.7, 3.0), (9.0, 0.1))):
        d = gamma(a, scale=1 / rate)
        expected = _defined(d.cdf, float(y[j]), 0.0, d.ppf(1 - 1e-13))
        z = (found[:, j].mean() - expected) / (found[:, j].std() / 20)
        assert abs(float(z)) < 4


def test_draws_repeat_and_leave_the_global_generator_alone():
    before, y = torch.get_rng_state(), _t(1.0, 1.5, 40.0)
    for score in (crps, pit, energy_score):
        first = score(_gamma(), y, seed=3)
        assert torch.equal(first, score(_gamma(), y, seed=3))
        assert not torch.equal(first, score(_gamma(), y, seed=4))
    assert torch.equal(torch.get_rng_state(), before)


@settings(max_examples=40, deadline=None)
@given(POINT, st.floats(0.01, 0.99))
def test_pit_and_interval_are_those_of_scipy(point, level):
    mu, sigma, y = point
    for made, judge in ((Normal(_t(mu), _t(sigma)), norm(mu, sigma)),
                        (LogNormal(_t(mu), _t(sigma)), lognorm(sigma, scale=math.exp(mu)))):  # fmt: skip
        assert float(pit(made, _t(y))) == pytest.approx(judge.cdf(y), abs=1e-12)
        low, high = interval(made, level)
        assert [float(low), float(high)] == pytest.approx(judge.interval(level), rel=1e-6, abs=1e-9)
        assert float(sharpness(made, level)) == pytest.approx(float(high - low), rel=1e-12)


def test_pit_from_draws_is_uniform_where_the_prediction_is_right():
    """Also with as few as 9 draws, where a plain rank would pile up, and with ties."""
    rate = torch.ones(3000, dtype=torch.float64)
    y = torch.as_tensor(np.random.default_rng(1).gamma(2.0, 1.0, 3000))
    assert kstest(pit(Gamma(2 * rate, rate), y, draws=9).numpy(), "uniform").pvalue > 0.001
    tied = torch.as_tensor(np.random.default_rng(2).poisson(1.3, 3000).astype(float))
    poisson = torch.distributions.Poisson(1.3 * rate)
    assert kstest(pit(poisson, tied, draws=64).numpy(), "uniform").pvalue > 0.001
    assert kstest(pit(Gamma(2 * rate, 2 * rate), y).numpy(), "uniform").pvalue < 1e-6


def test_a_prediction_with_long_tails_is_scored_through_the_transform_of_the_outputs():
    """Student's t in z, of ln y for one field: PITs of what it draws are uniform; they are not for half as long tails."""
    rng = np.random.default_rng(3)
    y = np.column_stack([rng.lognormal(size=50), rng.standard_normal(50)])
    outputs = Outputs((Field("a", positive=True), Field("b")))
    transform = OutputTransform.fit(outputs, y, log=True, truncation=0.0)
    zero = torch.zeros(2000, transform.p, dtype=torch.float64)
    made, narrow = (transform.push(Independent(StudentT(3.0, zero, c), 1)) for c in (0.1, 0.05))
    x = made.sample(generator=torch.Generator().manual_seed(0))
    for j in range(2):
        assert kstest(pit(made, x, draws=256)[:, j].numpy(), "uniform").pvalue > 0.001
        assert kstest(pit(narrow, x, draws=256)[:, j].numpy(), "uniform").pvalue < 1e-6
    assert bool((crps(made, x, draws=256).mean(0) < crps(narrow, x, draws=256).mean(0)).all())


def test_interval_from_draws_holds_its_share():
    low, high = interval(_gamma(), 0.8, draws=20_000)
    for j, (a, rate) in enumerate(((2.0, 1.0), (0.7, 3.0), (9.0, 0.1))):
        d = gamma(a, scale=1 / rate)
        assert abs(d.cdf(float(low[j])) - 0.1) < 4 * math.sqrt(0.09 / 20_000)
        assert abs(d.cdf(float(high[j])) - 0.9) < 4 * math.sqrt(0.09 / 20_000)


def test_the_energy_score_of_one_output_is_its_crps():
    made, y = Independent(Normal(_t(0.3), _t(1.5)), 1), _t(-1.0)
    found = torch.stack([energy_score(made, y, draws=64, seed=s) for s in range(300)])
    assert abs(float((found.mean() - crps(made, y)[0]) / (found.std() / 300**0.5))) < 4


@pytest.mark.parametrize("m", [2, 5])
def test_the_energy_score_at_the_centre_is_that_of_the_chi_law(m):
    """|X - y| and |X - X'| / sqrt 2 are chi with m degrees of freedom; outputs of any size, once scaled."""
    size = 10.0 ** torch.arange(m, dtype=torch.float64)
    made = Independent(Normal(3 * size, size), 1)
    found = torch.stack([energy_score(made, 3 * size, size, draws=64, seed=s) for s in range(300)])
    expected = (1 - 1 / math.sqrt(2)) * chi.mean(m)
    assert abs(float((found.mean() - expected) / (found.std() / 300**0.5))) < 4


def test_the_energy_score_sees_a_correlation_that_no_single_output_shows():
    root = torch.tensor([[1.0, 0.0], [0.95, math.sqrt(1 - 0.95**2)]], dtype=torch.float64)
    y = torch.as_tensor(np.random.default_rng(0).standard_normal((4000, 2))) @ root.T
    zero = torch.zeros_like(y)
    right, plain = MultivariateNormal(zero, scale_tril=root), Independent(Normal(zero, 1.0), 1)
    torch.testing.assert_close(crps(right, y), crps(plain, y))
    gain = energy_score(plain, y, draws=256) - energy_score(right, y, draws=256)
    assert float(gain.mean()) > 3 * float(gain.std()) / len(y) ** 0.5


def test_climatology_is_every_run_predicted_by_the_others():
    y = np.random.default_rng(0).lognormal(size=(12, 3))
    slow = np.zeros(3)
    for i in range(12):
        others = np.delete(y, i, 0)
        pairs = np.abs(others[:, None] - others[None]).sum((0, 1)) / (11 * 10)
        slow += (np.abs(others - y[i]).mean(0) - pairs / 2) / 12
    np.testing.assert_allclose(climatology(torch.as_tensor(y)).numpy(), slow, rtol=1e-12)
    assert climatology(torch.zeros(1, 3)).isnan().all()


def test_mixed_outputs_are_scored_each_by_its_own_form():
    """One field a logarithm, one not, correlated: as their two marginals by themselves, and as 40,000 draws say."""
    basis = torch.tensor([[0.3, 1.0], [0.1, -2.0]], dtype=torch.float64)
    made = Gaussian(_t(1.0, 5.0), _t(1.0, 0.5), basis, _t(0.01, 0.02), log=torch.tensor([True, False]))
    y, sd = _t(2.5, 6.0), (basis.square().T @ _t(1.0, 0.5) + _t(0.01, 0.02)).sqrt()
    expected = torch.cat([crps(LogNormal(_t(1.0), sd[:1]), y[:1]), crps(Normal(_t(5.0), sd[1:]), y[1:])])
    torch.testing.assert_close(crps(made, y), expected)
    x = made.sample((40_000,), generator=torch.Generator().manual_seed(0))
    share = (x < y).double().mean(0)
    assert bool(((pit(made, y) - share).abs() < 4 * (0.25 / 40_000) ** 0.5).all())


def test_nan_stays_nan():
    made = Gaussian(_t(0.0, 0.0), _t(1.0), torch.ones(1, 2).double(), _t(0, 0), log=torch.tensor([True, False]))
    for score in (crps, pit):
        assert score(made, _t(math.nan, math.nan)).isnan().all()
    assert pit(_gamma(), _t(math.nan, 1.0, 1.0)).isnan().tolist() == [True, False, False]


def test_a_wrong_shape_level_or_number_of_draws_is_refused():
    made = _gamma()
    said = ("y must have the shape of one draw of the prediction, (3,). Got (2, 3); give one row of outputs for every "
            "row of parameters.")  # fmt: skip
    for score in (crps, pit, energy_score):
        with pytest.raises(InputError, match=f"^{re.escape(said)}$"):
            score(made, torch.zeros(2, 3))
        with pytest.raises(
            InputError, match=r"^draws must be at least 2\. Got 1; 1024 tell a score to a few percent\.$"
        ):
            score(made, _t(1.0, 1.0, 1.0), draws=1)
    with pytest.raises(InputError, match=r"^the level of an interval must be between 0 and 1\. Got 95; 0\.95 is"):
        interval(made, 95)
    for scale in ([1.0, 0.0, 1.0], [1.0, math.nan, 1.0]):
        with pytest.raises(InputError, match=r"^scale must be greater than 0 for every output\. Got 0, less, or NaN"):
            energy_score(made, _t(1.0, 1.0, 1.0), scale)


def test_y_may_be_an_array():
    made, y = _gamma(), np.array([1.0, 2.0, 3.0])
    for score in (crps, pit, energy_score):
        assert torch.equal(score(made, y), score(made, torch.from_numpy(y)))
    assert torch.equal(energy_score(made, y, y), energy_score(made, torch.from_numpy(y), torch.from_numpy(y)))


def test_misses_are_counted_by_field_as_the_definition_says():
    """A double loop: a positive field by its values, an empty bin by the spread of its field, a constant by its size."""
    outputs = Outputs((Field("p", "", True), Field("n", "", False, "x", (1.0, 2.0)), Field("c")))
    y = np.array([[2.0, 0.0, 0.0, 7.0], [4.0, 3.0, 0.0, 7.0], [8.0, 6.0, 0.0, 7.0]])
    runs = Runs.of(Space((Parameter("a", Uniform(0.0, 1.0)),)), outputs, np.array([[0.0], [0.5], [1.0]]), y)
    off = np.array([[0.2, 1.0, 1e-12, 7e-12], [0.4, -2.0, 0.0, 0.0], [-0.8, 0.5, 0.3, -7e-9]])
    field = math.sqrt((y[:, 1].var(ddof=1) + 0.0) / 2)
    for i, j in itertools.product(range(3), range(4)):
        scale = y[i, 0] if j == 0 else 7.0 if j == 3 else field
        found = scoring.misses(torch.from_numpy(y + off), torch.from_numpy(y), runs)[i, j]
        assert float(found) == pytest.approx(abs(off[i, j]) / scale, rel=1e-3)
    assert scoring.misses(torch.from_numpy(y), torch.from_numpy(y), runs).eq(0).all()
    lost = torch.from_numpy(np.where(off > 0.25, np.nan, y))
    assert scoring.misses(lost, torch.from_numpy(y), runs)[2, 2].isnan(), "NaN is no small error"
    one = runs.select(np.array([0]))
    assert scoring.misses(torch.from_numpy(y[:1] + off[:1]), torch.from_numpy(y[:1]), one)[0, 1] == math.inf
