"""Emissions learnt by a flow: in the loop, against the exact density, and as a setting of the simulator."""

import re
import time

import numpy as np
import pytest
import torch
from scipy import stats

import emulate
from emulate import emissions, keys, registry
from emulate.emissions import FlowEmission
from emulate.errors import InputError, StoreError
from emulate.lund import AcceptReject, Condition, Keyed, generate
from emulate.lund.inverse import quantile
from emulate.lund.keyed import streams
from emulate.lund.measurement import Measurement
from emulate.lund.observables import charged_multiplicity, gradient, scaled_momentum, thrust, transverse
from emulate.simulators.lund import Lund
from tests.event_figures import auc

MONASH = torch.tensor([0.68, 0.98, 0.335], dtype=torch.float64)
LOW, HIGH = torch.tensor([[0.3, 0.6, 0.25], [1.2, 1.4, 0.45]], dtype=torch.float64)
HELD_OUT = LOW + (HIGH - LOW) * torch.rand((8, 3), generator=torch.Generator().manual_seed(5), dtype=torch.float64)
EXACT = AcceptReject()
X = torch.linspace(-16, 9, 1501, dtype=torch.float64)  # ln z / (1 - z), where the densities are integrated


def learnt(n, **settings):
    recipe = emulate.build("emulators", {"use": "flow", **emissions.FLOW, **settings})
    return emulate.fit(recipe, emissions.table(n, seed=3), seed=0)


def condition(a, b, mt2):
    a, b, mt2 = torch.broadcast_tensors(*(torch.as_tensor(x, dtype=torch.float64) for x in (a, b, mt2)))
    zero = torch.zeros(len(a), dtype=torch.int64)
    return Condition(a=a, b=b, sigma=torch.ones_like(a), mt2=mt2, mass2=torch.ones_like(a), old=zero, new=zero)


def at_nodes(emission, given):
    """ln p(x) `[n, nodes]` of x = ln z / (1 - z) at `X`."""
    n, m = len(given.a), len(X)
    z = torch.sigmoid(X).expand(n, m).reshape(-1)
    each = Condition(**{k: v.repeat_interleave(m) for k, v in vars(given).items()})
    with torch.no_grad():
        return (emission.log_prob(z, each) + torch.log(z) + torch.log1p(-z)).view(n, m)


def divergence(emission, given):
    """KL(exact | emission) `[n]` by quadrature."""
    parts = []
    for rows in torch.arange(len(given.a)).split(256):
        f, q = (at_nodes(e, given.select(rows)) for e in (EXACT, emission))
        parts.append(torch.trapezoid(f.exp() * (f - q) - f.exp() + q.exp(), X, dim=1))
    return torch.cat(parts)


@pytest.fixture(scope="module")
def small():
    return FlowEmission(learnt(4096, epochs=12, batch=256, slopes=1.0))


@pytest.fixture(scope="module")
def folder(small, tmp_path_factory):
    return small.emulator.save(tmp_path_factory.mktemp("emission") / "flow")


def test_the_table_holds_draws_of_the_exact_density():
    runs = emissions.table(2000, seed=1)
    u = torch.quasirandom.SobolEngine(3, scramble=True, seed=1).draw(2000, dtype=torch.float64)
    x = torch.from_numpy(runs.y[:, 0])
    z = quantile(u[:, 2], *torch.from_numpy(runs.theta).unbind(1))
    torch.testing.assert_close(torch.sigmoid(x), z, rtol=1e-9, atol=0)
    assert stats.kstest(runs.theta[:, 0] / 2, "uniform").pvalue > 1e-3
    moved = (quantile(u[:, 2], *(torch.from_numpy(runs.theta) + torch.tensor([1e-5, 0.0])).unbind(1)) - z) / (
        z * (1 - z)
    )
    torch.testing.assert_close(torch.from_numpy(runs.jacobian[:, 0, 0]), moved / 1e-5, rtol=1e-3, atol=1e-4)
    assert runs.stochastic


def test_a_few_seconds_make_a_density_that_is_near_and_normalised(small):
    given = condition([0.3, 0.68, 1.2], [0.6, 1.0, 1.4], [0.02, 0.3, 2.0])
    total = torch.trapezoid(at_nodes(small, given).exp(), X, dim=1)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-5)
    assert float(divergence(small, given).max()) < 0.02


def test_draws_are_those_of_the_density_and_move_with_a_and_b(small):
    n = 4000
    given = condition(torch.full((n,), 0.68), 1.0, 0.3)
    noise = lambda: Keyed(streams(4, torch.arange(n)))  # noqa: E731
    z = small.sample(given, noise())
    density = at_nodes(small, given.select(torch.arange(1)))[0].exp().numpy()
    below = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2 * np.diff(X.numpy()))])
    place = np.interp(torch.logit(z).numpy(), X.numpy(), below)
    assert stats.kstest(place, "uniform").pvalue > 1e-3
    (u,) = noise().uniform(1)
    assert np.abs(place - u.numpy()).max() < 1e-3, "one number, in order"
    leaf = {k: getattr(given, k).clone().requires_grad_() for k in ("a", "b")}
    drawn = small.sample(Condition(**{**vars(given), **leaf}), noise())
    slopes = torch.autograd.grad(drawn.sum(), tuple(leaf.values()))
    h = 1e-5
    for name, slope in zip(leaf, slopes, strict=True):
        high, low = (
            small.sample(Condition(**{**vars(given), name: getattr(given, name) + s * h}), noise()) for s in (1, -1)
        )
        torch.testing.assert_close(slope, (high - low) / (2 * h), rtol=1e-4, atol=1e-6)


def test_in_the_loop_energy_and_momentum_are_conserved_and_numbers_are_keyed(small):
    events = generate(HELD_OUT.repeat(40, 1), seed=6, emission=small)
    whole = torch.tensor([91.2, 0, 0, 0], dtype=torch.float64)
    assert float((events.sum(events.momentum) - whole).abs().max()) < 1e-11 * 91.2
    few = generate(HELD_OUT.repeat(10, 1), seed=6, emission=small)
    first = events.select(torch.arange(80))
    assert torch.equal(few.offsets, first.offsets)
    torch.testing.assert_close(few.momentum, first.momentum, rtol=1e-9, atol=1e-9)


def test_its_score_is_the_slope_of_its_log_probability(small):
    h = generate(HELD_OUT.repeat(10, 1), seed=6, emission=small).history
    leaf = h.theta.clone().requires_grad_()
    (slope,) = torch.autograd.grad(h.log_prob(leaf, small).sum(), leaf)
    torch.testing.assert_close(h.score(small), slope, rtol=1e-9, atol=1e-9)
    for k in range(3):
        step = 1e-5 * torch.eye(3, dtype=torch.float64)[k]
        with torch.no_grad():
            each = (h.log_prob(h.theta + step, small) - h.log_prob(h.theta - step, small)) / 2e-5
        torch.testing.assert_close(slope[:, k], each, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(h.score(EXACT), h.score(), rtol=1e-9, atol=1e-9)


def test_weights_make_its_events_those_of_the_exact_string(small):
    """Whatever a flow of a few seconds is off by, the exact density takes away."""
    n = 6000
    events, exact = generate(MONASH, n, seed=1, emission=small), generate(MONASH, 4 * n, seed=2)
    w = torch.exp(events.history.log_weights(MONASH, made_by=small))
    h = lambda e: torch.stack((charged_multiplicity(e), e.sum(scaled_momentum(e) ** 2)), 1)  # noqa: E731
    mine, true = h(events), h(exact)
    mean = (w[:, None] * mine).sum(0) / w.sum()
    error = torch.sqrt((w[:, None] ** 2 * (mine - mean) ** 2).sum(0) / w.sum() ** 2 + true.var(0) / len(true))
    assert float(((mean - true.mean(0)) / error).abs().max()) < 4.0
    torch.testing.assert_close(events.history.log_weights(MONASH, small, small), torch.zeros(n, dtype=torch.float64))


def test_as_a_setting_of_the_simulator_it_comes_back_bit_for_bit(small, folder, tmp_path):
    settings = {"use": "lund", "output": "event", "emission": str(folder)}
    simulator = registry.build("simulators", settings)
    theta = HELD_OUT.repeat(5, 1)
    made = simulator.fragment(theta, seed=2)
    again = generate(theta, seed=2, string=simulator.string, emission=small)
    assert torch.equal(made.momentum, again.momentum)
    assert not torch.equal(made.multiplicity, Lund().fragment(theta, seed=2).multiplicity)
    found = Lund(emission=str(folder), events=200).gradient(MONASH, seed=1)
    events = Lund(emission=str(folder), events=200).fragment(MONASH, seed=1)
    _, slope, _ = gradient(Lund().measure(events), events.history.score(small))
    torch.testing.assert_close(found.gradient, slope, rtol=1e-12, atol=1e-12)
    copy = registry.build("simulators", {**settings, "emission": str(small.emulator.save(tmp_path / "copy"))})
    other = registry.build("simulators", {**settings, "emission": str(learnt(512, epochs=1).save(tmp_path / "other"))})
    assert keys.identity(copy) == keys.identity(simulator), "the content counts, not the place"
    assert len({keys.canonical(keys.identity(s)) for s in (simulator, other, Lund(output="event"))}) == 3


def test_a_folder_that_is_no_emission_is_told(folder, tmp_path):
    build = lambda path: registry.build("simulators", {"use": "lund", "emission": str(path)})  # noqa: E731
    with pytest.raises(InputError, match=re.escape("there is no emulator at")):
        build(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="is a file, and an emulator is a folder"):
        build(tmp_path / "file")
    places = LOW + (HIGH - LOW) * torch.rand((40, 3), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    runs = Lund(output="means").table(places, seed=1)
    foreign = emulate.fit(emulate.build("emulators", "polynomial"), runs, seed=0).save(tmp_path / "foreign")
    said = (f"{foreign}: an emission must be an emulator of logit_z given a and c, trained on emissions.table. Got one of "
            "multiplicity, thrust, x_p, pt given a, b, sigma; train one.")  # fmt: skip
    with pytest.raises(InputError, match=re.escape(said)):
        build(foreign)
    gaussian = emulate.fit(emulate.build("emulators", "polynomial"), emissions.table(64, seed=1), seed=0)
    with pytest.raises(
        InputError, match=r"a flow of one member, which tells quantiles. Got one by polynomial; train a flow"
    ):
        FlowEmission(gaussian)
    with pytest.raises(InputError, match="an emission must be an emulator of logit_z"):
        FlowEmission("flow")


def test_outside_of_what_it_was_taught_is_told(small):
    for given, said in ((condition([2.5], [1.0], [0.3]), "a must be from 0 to 2"),
                        (condition([0.5], [1.0], [50.0]), "c = b mT^2 must be from 0.003 to 40")):  # fmt: skip
        for call in (lambda g: small.log_prob(torch.full((1,), 0.5, dtype=torch.float64), g),
                     lambda g: small.sample(g, Keyed(streams(0, torch.arange(1))))):  # fmt: skip
            with pytest.raises(InputError, match=re.escape(f"emissions: {said}, where the emission is taught. Got")):
                call(given)


def test_emissions_of_other_programs_make_a_table():
    z, a, c = torch.tensor([[0.2, 0.7], [0.5, 0.6], [0.1, 3.0]], dtype=torch.float64)
    runs = emissions.tabulated(z, a, c)
    np.testing.assert_allclose(runs.y[:, 0], np.log([0.25, 0.7 / 0.3]))
    np.testing.assert_allclose(runs.theta, [[0.5, 0.1], [0.6, 3.0]])
    with pytest.raises(InputError, match=re.escape("emissions: z must lie between 0 and 1. Got 1.")):
        emissions.tabulated(z / 0.7, a, c)
    with pytest.raises(InputError, match=r"emissions: a must be from 0 to 2, where the emission is taught. Got 5"):
        emissions.tabulated(z, 10 * a, c)


@pytest.fixture(scope="module")
def trained():
    start = time.process_time()
    emission = FlowEmission(learnt(emissions.RUNS))
    print(f"\ntrained in {time.process_time() - start:.0f} CPU s (bar: 60 of a quiet core)")
    return emission


def centred(x, n):
    """x `[8 n, k]` less the mean of each of 8 groups."""
    return (x.view(8, n, -1) - x.view(8, n, -1).mean(1, keepdim=True)).view(8 * n, -1)


def likeness(true, found):
    """Correlation, and the root mean square of the difference over that of the truth."""
    return float(np.corrcoef(true, found)[0, 1]), float((found - true).norm() / true.norm())


@pytest.mark.slow
def test_figures_of_one_emission(trained):
    """At held-out theta, for emissions as they come in the loop."""
    n = 500
    events = generate(HELD_OUT.repeat_interleave(n, 0), seed=11)
    h, given = events.history, events.history.condition()
    some = torch.randperm(len(h.z), generator=torch.Generator().manual_seed(1))[:4000]
    off = divergence(trained, given.select(some))
    own = h.event[some] // n
    worst = max(float(off[own == i].mean()) for i in range(8))
    print(
        f"\nKL in nats: mean {float(off.mean()):.2e}, worst theta {worst:.2e}, worst emission {float(off.max()):.2e} (bar: 1e-3)"
    )
    assert worst <= 1e-3
    pairs = dict(zip("ab", zip(EXACT.scores(h.z, given), trained.scores(h.z, given), strict=True), strict=True))
    true, found = (centred(x, n) for x in (h.score(), h.score(trained)))
    pairs |= {f"{name} of events": (true[:, k], found[:, k]) for k, name in enumerate(("a", "b", "sigma"))}
    for name, (x, y) in pairs.items():
        correlation, rms = likeness(x, y)
        print(f"score of {name}: correlation {correlation:.4f} (bar: above 0.99), relative rms {rms:.4f} (bar: 0.12)")
        assert correlation > 0.99
        assert rms <= 0.12


def features(events):
    """What a classifier is shown of every event, `[n, 12]`."""
    x, pt = scaled_momentum(events), transverse(events)
    first, last = events.offsets[:-1], events.offsets[1:] - 1
    return torch.stack(
        (events.multiplicity.double(), charged_multiplicity(events), thrust(events).value, events.sum(pt), events.sum(pt**2),
         events.sum(torch.log(x)), events.sum(x**2), x[first], x[last], x[first + 1], pt[first], pt[last]), 1).numpy()  # fmt: skip


@pytest.mark.slow
def test_figures_of_whole_events(trained):
    """Trees on twelve observables; the best classifier there is knows both densities and all histories."""
    n, found, null, best = 20_000, [], [], []
    for i, theta in enumerate(HELD_OUT):
        flow, exact, again = (
            generate(theta, n, seed=100 * k + i, emission=e) for k, e in enumerate((trained, EXACT, EXACT))
        )
        shown = [features(e) for e in (flow, exact, again)]
        found.append(auc(shown[0], shown[1]))
        null.append(auc(shown[2], shown[1]))
        ratio = []
        for events in (flow, exact):
            h = events.history
            with torch.no_grad():
                each = trained.log_prob(h.z, h.condition()) - EXACT.log_prob(h.z, h.condition())
            ratio.append(torch.zeros(n, dtype=torch.float64).index_add(0, h.event, each).numpy())
        best.append(stats.mannwhitneyu(*ratio).statistic / n**2)
    for name, x in (
        ("AUC of flow against exact (bar: 0.510)", found),
        ("exact against exact", null),
        ("best there is", best),
    ):
        print(f"{name}: mean {np.mean(x):.4f}, worst {max(x):.4f}")
    assert max(found) <= 0.510
    assert max(null) <= 0.510


def bins(events, width):
    """Counts of multiplicity, x_p and p_T in four bins `[n, 4]`, hard or, with a width, by Gaussian kernels."""
    x, pt = -torch.log(scaled_momentum(events)), transverse(events)
    inside = lambda v, low, high, h: ((v >= low) & (v < high)).double() if not h else (  # noqa: E731
        torch.special.ndtr((v - low) / h) - torch.special.ndtr((v - high) / h))  # fmt: skip
    n = charged_multiplicity(events)
    return torch.stack((inside(n, 3, 5, 2 * width), inside(n, 9, 13, 4 * width),
                        events.sum(inside(x, 0.5, 1.5, width)), events.sum(inside(pt, 0.3, 0.5, 0.2 * width))), 1)  # fmt: skip


@pytest.mark.slow
def test_gradients_of_expected_counts_through_the_flow(trained):
    """Hard and soft counts by the flow's own scores, against the exact density's, and against differences of the flow with
    common random numbers."""
    n, theta = 100_000, HELD_OUT[0]
    h = lambda events: torch.cat((bins(events, 0.0), bins(events, 0.5)), 1)  # noqa: E731
    flow, exact = generate(theta, n, seed=1, emission=trained), generate(theta, 4 * n, seed=2)
    _, slope, error = gradient(h(flow), flow.history.score(trained))
    _, true, its = gradient(h(exact), exact.history.score())
    by_score = (slope - true) / torch.sqrt(error**2 + its**2)
    by_difference = torch.empty_like(slope)
    for k, step in enumerate((0.04, 0.05, 0.015)):
        move = step * torch.eye(3, dtype=torch.float64)[k]
        high, low = (h(generate(theta + s * move, n, seed=3, emission=trained)) for s in (1, -1))
        each = (high - low) / (2 * step)
        by_difference[:, k] = (slope[:, k] - each.mean(0)) / torch.sqrt(error[:, k] ** 2 + each.var(0) / n)
    print(f"\nrelative error of the gradient: {(error.norm() / slope.norm()).item():.3f}, of its reference "
          f"{(its.norm() / true.norm()).item():.3f}; {slope.numel()} pulls (bar: 3)")  # fmt: skip
    for name, pulls in (("exact scores", by_score), ("differences", by_difference)):
        print(f"against {name}: worst {float(pulls.abs().max()):.2f}, rms {float(pulls.square().mean().sqrt()):.2f}")
        assert float(pulls.abs().max()) < 3.0


COUNTS = Measurement(edges={"multiplicity": (1, 3, 5, 7, 9, 11, 13),
                            "thrust": (0.002, 0.004, 0.006, 0.008, 0.01, 0.0125, 0.015, 0.02, 0.025, 0.03),
                            "x_p": tuple(0.5 + 0.5 * i for i in range(9)),
                            "pt": (*(0.05 * i for i in range(11)), 0.6, 0.7, 0.8, 1.0)})  # fmt: skip
STEPS = (0.1, 0.06, 0.01)  # of a, b and sigma: what they leave is under half the error of 10^6 events in every bin
AT_ONCE = 50_000  # events in memory


def by_differences(theta, n):
    """dE[hard counts]/dtheta of the exact string `[37 * 3]` by n events at either side of theta with common random
    numbers, other ones for each parameter; and its covariance."""
    slopes, covariances = [], []
    for k, step in enumerate(STEPS):
        move, total, square = step * torch.eye(3, dtype=torch.float64)[k], 0.0, 0.0
        for first in range(0, n, AT_ONCE):
            high, low = (COUNTS.of(generate(theta + s * move, AT_ONCE, seed=30 + k, first=first)) for s in (1, -1))
            each = (high - low) / (2 * step)
            total, square = total + each.sum(0), square + each.T @ each
        slopes.append(total / n)
        covariances.append((square / n - torch.outer(slopes[-1], slopes[-1])) / n)
    return torch.cat(slopes), torch.block_diag(*covariances)


def left_by_steps(theta, n):
    """What central differences of those steps are off by `[37 * 3]`: n exact events, weighted to either side."""
    events, found = generate(theta, n, seed=4), []
    h = COUNTS.of(events)
    slope = gradient(h, events.history.score())[1]
    for k, step in enumerate(STEPS):
        move = step * torch.eye(3, dtype=torch.float64)[k]
        with torch.no_grad():
            weights = [torch.exp(events.history.log_weights(theta + s * move)) for s in (1, -1)]
        high, low = (w @ h / w.sum() for w in weights)
        found.append((high - low) / (2 * step) - slope[:, k])
    return torch.cat(found)


def moments(h, score, w):
    """Cov(h, score) `[37 * 3]` of weighted events, and what each of them adds to it, `[n, 37 * 3]`."""
    w = w[:, None] / w.mean()
    h, score = h - (w * h).mean(0), w * (score - (w * score).mean(0))
    each = torch.cat([h * s[:, None] for s in score.T], 1)
    return each.mean(0), each


def by_scores(theta, n, emission):
    """The same of n events of the flow by its own score, and by the exact one with weights that make them exact; how far
    the flow's slopes are off along the exact ones, in per cent, with the error of that, `[3, 2]`."""
    parts = []
    for first in range(0, n, AT_ONCE):
        events = generate(theta, AT_ONCE, seed=50, emission=emission, first=first)
        with torch.no_grad():
            w = torch.exp(events.history.log_weights(theta, made_by=emission))
        parts.append((COUNTS.of(events), events.history.score(emission), events.history.score(), w))
    h, own, exact, w = (torch.cat(x) for x in zip(*parts, strict=True))
    found, several = [], []
    for score, weights in ((own, torch.ones_like(w)), (exact, w)):
        slope, each = moments(h, score, weights)
        found.append((slope, torch.cov(each.T) / n))
        several.append(each)
    toward = torch.linalg.solve(
        torch.cov(h.T), found[1][0].view(3, -1).T
    )  # best weights of the bins, for each parameter
    toward = toward / (toward * found[1][0].view(3, -1).T).sum(0)
    off = torch.einsum("nkj,jk->nk", (several[0] - several[1]).view(n, 3, -1), toward)
    return (*found, 100 * torch.stack((off.mean(0), off.std(0) / n**0.5), 1))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("theta", [MONASH, HELD_OUT[0]], ids=["Monash", "held out"])
def test_gradients_of_all_hard_counts_against_differences_of_the_exact_string(trained, theta):
    """37 bins, three parameters: the flow in the loop, its events, hard bins, Cov(h, score), against 10^6 events of the
    exact string at either side of theta. Its own events say how far its slopes are off, far below that noise."""
    true, noise = by_differences(theta, 1_000_000)
    left = (left_by_steps(theta, 100_000).abs() / noise.diagonal().sqrt()).max()
    own, weighted, off = by_scores(theta, 300_000, trained)
    print(f"\nsteps leave at most {float(left):.2f} errors of the differences")
    for name, (slope, covariance) in (("the flow", own), ("weights to the exact string", weighted)):
        difference, total = slope - true, covariance + noise
        pulls = difference / total.diagonal().sqrt()
        chi2 = float(difference @ torch.linalg.solve(total, difference))
        p = stats.chi2.sf(chi2, len(pulls))
        above = int((pulls.abs() > 3).sum())
        print(f"{name}: {len(pulls)} pulls, worst {float(pulls.abs().max()):.2f}, rms {float(pulls.square().mean().sqrt()):.2f}, "
              f"{above} above 3 (bar: 3 standard errors); chi2 {chi2:.1f}, per degree of freedom {chi2 / len(pulls):.2f}, "
              f"p = {p:.2f}; error of the score over that of the differences "
              f"{float((covariance.diagonal() / noise.diagonal()).sqrt().mean()):.2f}")  # fmt: skip
        assert above <= 1  # of 111 that are right, 0.3 are expected
        assert p > 1e-3
    told = ", ".join(f"{k} {m:+.2f} +- {e:.2f}" for k, (m, e) in zip(("a", "b", "sigma"), off.tolist(), strict=True))
    print(f"the flow's slopes are off by, in per cent: {told}")
    assert float(left) < 0.5
    assert float(off[:, 0].abs().max()) < 1.0
