"""The exact score of events: against the graph, against differences with common random numbers, and against weights."""

import math
import re
import time

import numpy as np
import pytest
import torch

from emulate.errors import InputError
from emulate.lund import Flavours, String, generate
from emulate.lund.inverse import Inverse
from emulate.lund.observables import charged_multiplicity, counts, gradient, scaled_momentum, transverse

PIONS, MESONS = String(flavours=Flavours.pions()), String(flavours=Flavours(diquark=0.081), energy=40.0)
MONASH, OTHER = torch.tensor([[0.68, 0.98, 0.335], [0.9, 0.75, 0.42]], dtype=torch.float64)
STEP = torch.tensor([0.06, 0.08, 0.025], dtype=torch.float64)


def observed(events):
    """h `[n, 7]`: multiplicities, leading hadrons, p_T, and hard counts of x_p and p_T."""
    x, pt = scaled_momentum(events), transverse(events)
    edges = torch.tensor([0.0, 0.05, 0.3], dtype=torch.float64)
    return torch.stack(
        (events.multiplicity.double(), charged_multiplicity(events), x[events.offsets[:-1]], events.sum(pt**2),
         *events.sum(counts(x, edges))[:, 1:3].T, events.sum((pt > 0.5).double())), 1)  # fmt: skip


def pulls(theta, string, n, **how):
    """(score gradient - central difference) / its error for 7 observables and 3 parameters `[7, 3]`.

    The difference is that of cubic order, from four points at the same seeds, so that what is left of its bias is far
    below its noise; it and the score's events are independent.
    """
    events = generate(theta, n, seed=1, string=string, **how)
    _, slope, error = gradient(observed(events), events.history.score())
    found = []
    for k in range(3):
        step = torch.zeros(3, dtype=torch.float64)
        step[k] = STEP[k]
        h = {s: observed(generate(theta + s * step, n, seed=2, string=string, **how)) for s in (-2, -1, 1, 2)}
        each = (8 * (h[1] - h[-1]) - (h[2] - h[-2])) / (12 * STEP[k])
        noise = each.std(0) / math.sqrt(n)
        found.append((slope[:, k] - each.mean(0)) / torch.sqrt(error[:, k] ** 2 + noise**2))
    return torch.stack(found, 1).numpy()


@pytest.fixture(scope="module")
def events():
    return generate(MONASH, 4000, seed=7, string=MESONS)


def test_the_score_is_the_slope_of_the_log_probability(events):
    """Through torch's graph, and by differences of the density itself."""
    h = events.history
    score = h.score()
    leaf = MONASH.expand(len(h), 3).clone().requires_grad_()
    (by_graph,) = torch.autograd.grad(h.log_prob(leaf).sum(), leaf)
    torch.testing.assert_close(score, by_graph, rtol=1e-9, atol=1e-9)
    for k in range(3):
        step = 1e-5 * torch.eye(3, dtype=torch.float64)[k]
        slope = (h.log_prob(MONASH + step) - h.log_prob(MONASH - step)) / 2e-5
        torch.testing.assert_close(score[:, k], slope, rtol=1e-5, atol=1e-5)


def test_scores_follow_the_events(events):
    index = torch.tensor([5, 3, 3999, 0])
    chosen, close = events.select(index).history, {"rtol": 1e-13, "atol": 1e-13}  # fewer rows: another order of sums
    torch.testing.assert_close(chosen.score(), events.history.score()[index], **close)
    torch.testing.assert_close(chosen.log_prob(OTHER), events.history.log_prob(OTHER)[index], **close)


def test_weights_at_the_events_own_theta_have_the_gradient_of_the_score(events):
    """sum w h / sum w has value mean(h), and its derivative is the sample's covariance: the same number, not an estimate."""
    h = observed(events)
    value, slope, _ = gradient(h, events.history.score())
    theta = MONASH.clone().requires_grad_()
    w = torch.exp(events.history.log_weights(theta))
    mean = (w[:, None] * h).sum(0) / w.sum()
    rows = torch.stack([torch.autograd.grad(m, theta, retain_graph=True)[0] for m in mean])
    torch.testing.assert_close(mean.detach(), value, rtol=1e-12, atol=0)
    n = len(h)
    torch.testing.assert_close(rows, slope * (n - 1) / n, rtol=1e-8, atol=1e-8)


def test_weighted_events_are_events_of_other_parameters(events):
    """Value and gradient at another theta from old events and from new ones; variance and cost are printed."""
    old, n = generate(MONASH, 20_000, seed=11, string=PIONS), 20_000
    for theta in (
        torch.tensor([0.74, 1.02, 0.345], dtype=torch.float64),
        torch.tensor([0.6, 0.92, 0.32], dtype=torch.float64),
    ):
        start = time.process_time()
        new = generate(theta, n, seed=12, string=PIONS)
        cost = [0.0, time.process_time() - start]
        h_old, h_new = observed(old), observed(new)
        start = time.process_time()
        w = torch.exp(old.history.log_weights(theta))
        cost[0] = (time.process_time() - start) / cost[1]
        p = w / w.sum()
        value, ess = (p[:, None] * h_old).sum(0), float(1 / p.square().sum())
        error = torch.sqrt((p.square()[:, None] * (h_old - value) ** 2).sum(0))
        fresh, slope, slope_error = gradient(h_new, new.history.score())
        z = (value - fresh) / torch.sqrt(error**2 + h_new.var(0) / n)
        score = _score_at(old.history, theta)
        moved = score - (p[:, None] * score).sum(0)
        each = (h_old - value)[:, :, None] * moved[:, None]
        weighted = torch.einsum("n,nmd->md", p, each)
        weighted_error = torch.sqrt(torch.einsum("n,nmd->md", p.square(), (each - weighted) ** 2))
        pull = (weighted - slope) / torch.sqrt(weighted_error**2 + slope_error**2)
        more = [float(x.mean()) for x in (error**2 / (h_new.var(0) / n), (weighted_error / slope_error).square())]
        print(f"\n{theta.tolist()}: {ess / n:.3f} of the events count; variance of values {more[0]:.2f} and of gradients "
              f"{more[1]:.2f} times that of new events; cost {cost[0]:.2f} times theirs")  # fmt: skip
        assert float(z.abs().max()) < 3.6
        assert float(pull.abs().max()) < 4.0


def _score_at(history, theta):
    leaf = theta.expand(len(history), 3).clone().requires_grad_()
    return torch.autograd.grad(history.log_prob(leaf).sum(), leaf)[0]


def test_the_gradient_by_the_score_is_that_of_differences():
    """21 cases with 6,000 events each; the slow test has more."""
    found = pulls(MONASH, PIONS, 6000)
    print(f"\npulls {np.round(found, 1).tolist()}")
    assert np.abs(found).max() < 3.5


@pytest.mark.slow
@pytest.mark.parametrize(("theta", "string"), [(MONASH, PIONS), (OTHER, MESONS)], ids=["pions", "baryons"])
def test_the_gradient_by_the_score_is_that_of_differences_with_many_events(theta, string):
    found = pulls(theta, string, 50_000)
    print(f"\npulls {np.round(found, 1).tolist()}")
    assert np.abs(found).max() < 3.5


@pytest.mark.slow
def test_the_gradient_by_the_score_is_that_of_differences_where_z_moves_smoothly():
    """Common random numbers through the inverse distribution function, which keep events closer together."""
    found = pulls(MONASH, PIONS, 4000, emission=Inverse())
    assert np.abs(found).max() < 3.5


def test_the_mean_score_is_that_of_the_share_that_is_accepted(events):
    """E[score] = d ln P(accepted) / dtheta, where P is one over the mean number of tries."""
    n = 6000
    score = generate(MONASH, n, seed=3, string=PIONS).history.score()
    for k in range(3):
        step = torch.zeros(3, dtype=torch.float64)
        step[k] = 3 * STEP[k]
        tries = [generate(MONASH + s * step, n, seed=4, string=PIONS).history.tries.double() for s in (1, -1)]
        slope = -(torch.log(tries[0].mean()) - torch.log(tries[1].mean())) / (2 * step[k])
        noise = torch.sqrt(sum(t.var() / n / t.mean() ** 2 for t in tries)) / (2 * step[k])
        pull = (score[:, k].mean() - slope) / torch.sqrt(noise**2 + score[:, k].var() / n)
        assert abs(float(pull)) < 3.5


def test_wrong_theta_is_told(events):
    with pytest.raises(InputError, match=re.escape("theta must be (a, b, sigma), [3] for all events or [4000, 3].")):
        events.history.log_weights(torch.ones(2))
    with pytest.raises(InputError, match=re.escape("lund: a must be from 0 to 10. Got -1.")):
        events.history.log_weights(torch.tensor([-1.0, 1.0, 0.3]))
