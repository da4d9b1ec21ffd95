"""Gradients of expected counts against closed forms: unbiased where that is promised, honest errors, the bias reported."""

import math
import re

import pytest
import torch

from emulate.errors import InputError
from emulate.histogram_gradients import along, from_conditionals, from_scores, from_velocities
from emulate.histograms.hard import Hard
from emulate.histograms.soft import Soft
from tests.reference.gradients.jumps import hard_bin
from tests.reference.histograms import normal_bins as truth

HARD = Hard(edges=truth.BIN)
OF_BOTH = torch.tensor(
    hard_bin(), dtype=torch.float64
)  # slopes of the share in the mean and the deviation of N(0.3, 1)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def drawn(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Samples of N(0.3, 1), their velocities and their scores with respect to mean and deviation."""
    z = normal(n, seed=seed)
    return 0.3 + z, torch.stack([torch.ones_like(z), z], 1), torch.stack([z, z**2 - 1], 1)


def soft(h: float, **more) -> Soft:
    return Soft(edges=truth.BIN, bandwidth=h, kernel="gaussian", **more)


@pytest.mark.parametrize("h", truth.BIAS)
def test_the_bias_of_soft_bins_is_the_one_that_is_published(h):
    n = 400_000
    x, _, s = drawn(n, seed=1)
    e = from_scores(soft(h), x, s[:, :1])
    bias, error = (100 * float(e.diagnostics[k][1]) / n / truth.slope(0) for k in ("bias", "bias_error"))
    print(f"\nh {h}: bias {bias:.3f} +- {error:.3f} %, closed form {truth.BIAS[h]} %")
    assert abs(bias - truth.BIAS[h]) < 4 * error
    assert error < 0.5 * abs(truth.BIAS[h])
    assert float(e.gradient[1]) / n == pytest.approx(truth.slope(h), abs=4 * float(e.standard_error[1]) / n)
    assert float(e.diagnostics["value_bias"][1]) / n == pytest.approx(
        truth.share(h) - truth.share(0), abs=4 * h / n**0.5
    )


@pytest.mark.parametrize("richardson", [False, True])
def test_the_bias_told_by_bandwidths_is_right_to_the_next_order(richardson):
    """On the nodes of a quadrature, so that no noise is left."""
    from tests.histograms.test_soft import NODES, PANELS

    w = PANELS * torch.exp(-0.5 * (NODES - truth.MEAN) ** 2) / math.sqrt(2 * math.pi)
    for h in (0.05, 0.1):
        exact = (2 * truth.slope(h) - truth.slope(h * math.sqrt(2)) if richardson else truth.slope(h)) - truth.slope(0)
        e = from_velocities(soft(h, richardson=richardson), NODES, torch.ones(len(NODES), 1), w)
        assert e.diagnostics["bias_from"] == "the bandwidth"
        assert float(e.diagnostics["bias"][1]) == pytest.approx(exact, rel=2 * h**2 if richardson else 20 * h**4)
        assert abs(float(e.diagnostics["bias"][1]) - exact) < float(e.diagnostics["bias_rest"][1])


def z_scores(made, exact: torch.Tensor, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the mean over repetitions, and the claimed over the seen scatter."""
    gradients = torch.stack([e.gradient for e in made]) / n
    claimed = torch.stack([e.standard_error for e in made]) / n
    scatter = gradients.std(0)
    return (gradients.mean(0) - exact) / (scatter / math.sqrt(len(made))), claimed.square().mean(0).sqrt() / scatter


def test_scores_of_hard_bins_are_unbiased_with_honest_errors():
    n = 500
    made = [from_scores(HARD, x, s) for x, _, s in (drawn(n, seed) for seed in range(200))]
    z, ratio = z_scores(made, OF_BOTH, n)
    assert z[1].abs().max() < 4
    assert ((ratio - 1)[1].abs() < 0.25).all()
    assert all(float(e.gradient.sum(0).abs().max()) < 1e-10 * n for e in made)  # what leaves a bin enters another
    assert all(float(e.bias_bound.max()) == 0 for e in made)
    held = torch.stack(
        [(low[1] / n <= OF_BOTH) & (high[1] / n >= OF_BOTH) for low, high in (e.interval(0.95) for e in made)]
    )
    assert ((held.double().mean(0) - 0.95).abs() < 4 * (0.95 * 0.05 / 200) ** 0.5).all()


def test_velocities_of_soft_bins_are_unbiased_for_the_soft_count_with_honest_errors():
    n, h = 500, 0.3
    s = math.sqrt(1 + h * h)
    a, b = (-truth.MEAN / s, (1 - truth.MEAN) / s)
    phi = [math.exp(-0.5 * t * t) / math.sqrt(2 * math.pi) for t in (a, b)]
    exact = torch.tensor(
        [(phi[0] - phi[1]) / s, (a * phi[0] - b * phi[1]) / s**2], dtype=torch.float64
    )  # ds/dsigma = 1 / s
    made = [from_velocities(soft(h), x, v) for x, v, _ in (drawn(n, seed) for seed in range(150))]
    z, ratio = z_scores(made, exact, n)
    assert z[1].abs().max() < 4
    assert ((ratio - 1)[1].abs() < 0.25).all()


@pytest.mark.parametrize("scores", [False, True])
def test_the_interval_with_its_bias_holds_the_slope_of_hard_counts(scores):
    n, made = 2000, []
    for seed in range(100):
        x, v, s = drawn(n, seed)
        low, high = from_velocities(soft(0.3), x, v, scores=s if scores else None).interval(0.95)
        made.append((low[1] / n <= OF_BOTH) & (high[1] / n >= OF_BOTH))
    share = torch.stack(made).double().mean(0)
    print(f"\nintervals that hold the truth: {share.tolist()}")
    assert (share > 0.9).all()


def test_velocities_and_scores_that_do_not_belong_together_are_told():
    x, v, s = drawn(20_000)
    good = from_velocities(soft(0.3), x, v, scores=s).diagnostics
    assert (good["pull"] < 4, good["bias_from"]) == (True, "the score")
    assert (good["bias_by_bandwidth"] - good["bias"]).abs().max() / 20_000 < 0.05
    assert from_velocities(soft(0.3), x, -v, scores=s).diagnostics["pull"] > 20


def test_weights_count_with_their_size():
    """Half of the samples twice as heavy, of which importance weights make no difference to the expected slope."""
    n = 20_000
    x, v, s = drawn(n)
    w = 1 + (torch.arange(n) % 2).double()
    for e, exact in (
        (from_scores(HARD, x, s, w), OF_BOTH[0]),
        (from_velocities(soft(0.1), x, v, w), torch.tensor(truth.slope(0.1))),
    ):
        assert float(e.value.sum()) == pytest.approx(1.5 * n)
        assert abs(float(e.gradient[1, 0]) / (1.5 * n) - exact) < 4 * float(e.standard_error[1, 0]) / (1.5 * n)
    doubled = from_scores(HARD, x, s, 2 * w)
    torch.testing.assert_close(doubled.covariance, 4 * from_scores(HARD, x, s, w).covariance)


def test_two_axes():
    """Independent N(0.3, 1) and N(0, 1), moved together: the slope of a product of shares."""
    n, edges = 20_000, (truth.BIN, (-0.5, 1.0))
    x = normal(n, 2) + torch.tensor([0.3, 0.0])
    s = (x - torch.tensor([0.3, 0.0])).sum(1, keepdim=True)

    def exact(h: float) -> float:
        return truth.slope(h) * truth.share(h, 0.0, -0.5, 1.0) + truth.share(h) * truth.slope(h, 0.0, -0.5, 1.0)

    one = Soft(edges=edges, bandwidth=0.3, kernel="gaussian")
    made = from_velocities(one, x, torch.ones(n, 2, 1), scores=s)
    hard = from_scores(Hard(edges=edges), x, s)
    for e, h in ((made, 0.3), (from_scores(one, x, s), 0.3), (hard, 0.0)):
        z = (e.gradient.reshape(3, 3)[1, 1] / n - exact(h)) * n / e.standard_error.reshape(3, 3)[1, 1]
        assert abs(float(z)) < 4
    bias, error = (made.diagnostics[k].reshape(3, 3)[1, 1] / n for k in ("bias", "bias_error"))
    assert abs(float(bias) - exact(0.3) + exact(0.0)) < 4 * float(error)
    assert made.diagnostics["pull"] < 4.5


@pytest.mark.parametrize("axes", [1, 2])
def test_covariances_are_those_of_the_terms_of_single_samples(axes):
    """Each sample's own term by automatic differentiation, of the gradient and of its bias in the bandwidth."""
    n, edges = 30, truth.BIN if axes == 1 else (truth.BIN, (-0.5, 1.0))
    one = Soft(edges=edges, bandwidth=0.3, kernel="gaussian")
    x, v, w = normal(n, axes), normal(n, axes, 2, seed=1), normal(n, seed=2)

    def term(x: torch.Tensor, v: torch.Tensor, w: torch.Tensor, soft: Soft) -> torch.Tensor:
        def moved(t: torch.Tensor) -> torch.Tensor:
            at = (x + v @ t)[None]
            return soft.counts(at if axes == 2 else at[:, 0], w[None]).values.flatten()

        return torch.func.jacfwd(moved)(torch.zeros(2, dtype=torch.float64))

    def terms(h: float) -> torch.Tensor:
        wide = Soft(edges=edges, bandwidth=h, kernel="gaussian")
        return torch.stack([term(a, b, c, wide) for a, b, c in zip(x, v, w, strict=True)])

    e = from_velocities(one, x if axes == 2 else x[:, 0], v if axes == 2 else v[:, 0], w)
    own = terms(0.3)
    off = own - own.mean(0)
    torch.testing.assert_close(e.gradient, own.sum(0))
    torch.testing.assert_close(e.covariance, torch.einsum("nja,njb->jab", off, off) * n / (n - 1))
    bias = own - (8 * own - 6 * terms(0.3 * math.sqrt(2)) + terms(0.6)) / 3  # less the parabola in h^2 at 0
    torch.testing.assert_close(e.diagnostics["bias"], bias.sum(0))
    torch.testing.assert_close(e.diagnostics["bias_error"], bias.std(0) * n**0.5)


def test_the_boundary_term_is_exact_with_the_least_noise():
    n = 4000
    z, edges = normal(n, 1), torch.tensor([0.0, 1.0], dtype=torch.float64)

    def below(theta: torch.Tensor) -> torch.Tensor:  # x = mu + sigma (0.6 z + 0.8 z'), the last draw integrated
        return torch.special.ndtr((edges - theta[0] - 0.6 * theta[1] * z) / (0.8 * theta[1]))

    e = from_conditionals(HARD, below, [0.3, 1.0])
    assert ((e.gradient[1] / n - OF_BOTH).abs() < 4 * e.standard_error[1] / n).all()
    x, _, s = drawn(n)
    assert (e.standard_error[1] < 0.7 * from_scores(HARD, x, s).standard_error[1]).all()
    assert float(e.value.sum()) == pytest.approx(n)
    torch.testing.assert_close(e.gradient.sum(0), torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-9)
    one = from_conditionals(HARD, lambda t: torch.special.ndtr((edges - t[0]) / t[1]).expand(5, 2), [0.3, 1.0])
    torch.testing.assert_close(one.gradient[1] / 5, OF_BOTH, rtol=1e-9, atol=0)
    assert float(one.standard_error.max()) < 1e-7


def test_an_automatic_bandwidth_is_that_for_the_velocities():
    x, v, _ = drawn(2000)
    auto = Soft(edges=truth.BIN, kernel="gaussian")
    e = from_velocities(auto, x, v)
    assert e.diagnostics["smoothing"] == auto.settled(x, velocities=v).binning(x).label
    assert torch.equal(e.gradient, from_velocities(auto.settled(x, velocities=v), x, v).gradient)


def test_velocities_along_a_program():
    z = normal(7, 2)
    theta = torch.tensor([0.3, 1.2, 0.5], dtype=torch.float64)

    def f(t: torch.Tensor) -> torch.Tensor:
        return t[0] + t[1] * z + torch.sin(t[2] * z)

    y, v = along(f, theta)
    torch.testing.assert_close(y, f(theta))
    torch.testing.assert_close(v, torch.func.jacrev(f)(theta))
    with torch.no_grad():
        assert torch.equal(along(f, theta.tolist())[1], v)
    with pytest.raises(InputError, match=r"^f must carry derivatives from theta."):
        along(lambda t: z, theta)


X, V, S = drawn(10)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: from_velocities(HARD, X, V), "velocities must meet a soft histogram. Got hard bins, whose derivative along a "
         "path is zero; use the histogram soft, or from_scores."),
        (lambda: from_scores(HARD, X, S[:5]), "scores must be finite numbers of shape [10] and d parameters. Got shape [5, 2] "
         "with 0 that are not finite."),
        (lambda: from_scores(HARD, X, S * math.inf), "scores must be finite numbers of shape [10] and d parameters. Got shape "
         "[10, 2] with 20 that are not finite."),
        (lambda: from_velocities(soft(0.1), X, V[:, 0]), "velocities must be finite numbers of shape [10] and d parameters. Got "
         "shape [10] with 0 that are not finite."),
        (lambda: from_scores(HARD, X[:1], S[:1]), "samples must be one row of at least 2, to tell an error. Got shape [1, 1]."),
        (lambda: from_conditionals(HARD, lambda t: t.expand(4, 3), [0.5]), "below must give [n, edges] for the edges of one axis. "
         "Got [4, 3] for [2]."),
        (lambda: from_conditionals(HARD, lambda t: t.expand(4, 2) * 3, [0.5]), "below must give probabilities that rise from edge "
         "to edge, with finite derivatives. Got others; it is the distribution function of the last draw at the edges."),
    ],
)  # fmt: skip
def test_refusals(call, sentence):
    with pytest.raises(InputError, match=f"^{re.escape(sentence)}$"):
        call()
