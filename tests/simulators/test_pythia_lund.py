"""The plain Lund string of the house against Pythia's, 40,000 events each: can a classifier tell them apart?"""

import functools
import time

import numpy as np
import pytest
import torch
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score

import emulate
from emulate import emissions
from emulate.emissions import FlowEmission
from emulate.emulators.flow import Flow
from emulate.lund import AcceptReject, generate
from emulate.lund.measurement import Measurement
from emulate.lund.observables import scaled_momentum, transverse
from emulate.simulators.lund import Lund
from emulate.simulators.pythia import Pythia

pytest.importorskip("pythia8mc", reason="pythia needs pythia8mc: pip install emulate[pythia]")

N = 40_000
SETTINGS = [(0.68, 0.98, 0.335), (0.3, 0.6, 0.25), (1.2, 1.5, 0.45)]
SPECIES = (111, 211, 221, 331, 311, 321, 113, 213, 223, 333, 313, 323)


def features(events):
    """Name and column `[n]` of what a classifier may see of an event."""
    x, pt, e = scaled_momentum(events), transverse(events), events
    rapidity = 0.5 * torch.log((e.e + e.pz) / (e.e - e.pz))
    first, last = e.offsets[:-1], e.offsets[1:] - 1
    biggest = torch.zeros(len(e), dtype=torch.float64).scatter_reduce(0, e.event, x, "amax")
    found = {
        "multiplicity": e.multiplicity.double(), "charged": e.sum(e.charged.double()), "sum pt": e.sum(pt),
        "sum pt^2": e.sum(pt.square()), "sum |y|": e.sum(rapidity.abs()), "sum y^2": e.sum(rapidity.square()),
        "sum x^2": e.sum(x.square()), "sum ln x": e.sum(torch.log(x)), "forward": e.sum(e.pz.clamp(min=0)),
        "central": e.sum((rapidity.abs() < 1).double()), "dipole": e.sum(e.charge * rapidity), "largest x": biggest,
        "first x": x[first], "last x": x[last], "first pt": pt[first], "last pt": pt[last],
        "first charge": e.charge[first].double()}  # fmt: skip
    return found | {str(c): e.sum((e.code.abs() == c).double()) for c in SPECIES if bool((e.code.abs() == c).any())}


def area(x, y):
    """Mean area under the curve of a boosted classifier of x against y, `[n, k]`, trained on either half."""
    rows, label = np.concatenate((x, y)), np.repeat([0, 1], [len(x), len(y)])
    order = np.random.default_rng(1).permutation(len(rows))
    found = []
    for train, test in (np.split(order, 2), np.split(order, 2)[::-1]):
        judge = HistGradientBoostingClassifier(max_iter=100, learning_rate=0.05, max_leaf_nodes=15, random_state=0)
        found.append(roc_auc_score(label[test], judge.fit(rows[train], label[train]).predict_proba(rows[test])[:, 1]))
    return float(np.mean(found))


@pytest.mark.slow
def test_the_classifier_sees_what_is_there():
    """The judge judged: a width of transverse momentum that is three per cent off."""
    theta = torch.tensor(SETTINGS[0], dtype=torch.float64)
    plain, wide = (Pythia(flavours="pions", events=N).generate(theta * factor, seed=seed)
                   for factor, seed in ((1.0, 5), (torch.tensor([1.0, 1.0, 1.03]), 6)))  # fmt: skip
    found = area(table(plain), table(wide))
    print(f"\nAUC where sigma is 3 % off: {found:.4f}")
    assert found > 0.52


@pytest.mark.slow
@pytest.mark.parametrize("flavours", ["pions", "mesons"])
@pytest.mark.parametrize("theta", SETTINGS, ids=str)
def test_no_classifier_tells_the_string_from_that_of_pythia(theta, flavours):
    string = Lund(flavours=flavours).string
    made = Pythia(flavours=flavours, events=N).generate(torch.tensor(theta, dtype=torch.float64), seed=5)
    ours, others = (generate(theta, N, seed=seed, string=string) for seed in (2, 3))
    measurement = Measurement(output="means")
    tables = []
    for events in (made, ours, others):
        named = features(events) | dict(zip(measurement.observables, measurement.of(events).T, strict=True))
        tables.append((list(named), np.stack([column.numpy() for column in named.values()], 1)))
    (names, x), (_, y), (_, z) = tables
    assert names == tables[1][0] == tables[2][0]
    pulls = (x.mean(0) - y.mean(0)) / np.sqrt((x.var(0) + y.var(0)) / N)
    worst = int(np.abs(pulls).argmax())
    found, null = area(x, y), area(z, y)
    print(f"\n{flavours}, a, b, sigma = {theta}: AUC {found:.4f}, of two samples of our own {null:.4f}; largest of {len(names)} "
          f"pulls {pulls[worst]:+.2f} ({names[worst]}), of multiplicity, thrust, x_p, pt {np.round(pulls[-4:], 2)}")  # fmt: skip
    assert abs(found - 0.5) < 0.012
    assert np.abs(pulls[-4:]).max() < 3.5
    assert np.abs(pulls).max() < 4.5  # of some 160 in six cases: one in a thousand passes it by chance


LOW, HIGH = torch.tensor([[0.3, 0.6, 0.25], [1.2, 1.4, 0.45]], dtype=torch.float64)
HELD_OUT = LOW + (HIGH - LOW) * torch.rand((8, 3), generator=torch.Generator().manual_seed(5), dtype=torch.float64)
EACH = 20_000


@functools.cache
def columns_of_pythia(flavours):
    """What a classifier sees of two samples of Pythia at every held-out theta, and Pythia's events per CPU second."""
    simulator = Pythia(flavours=flavours, events=EACH)
    start = time.process_time()
    made = [[simulator.generate(theta, seed=seed + i) for seed in (100, 200)] for i, theta in enumerate(HELD_OUT)]
    rate = 2 * EACH * len(HELD_OUT) / (time.process_time() - start)
    return [[table(events) for events in pair] for pair in made], rate


def table(events):
    return np.stack([column.numpy() for column in features(events).values()], 1)


@functools.cache
def taught(by, flavours):
    """A flow of one emission, from draws of the exact density, or from five times as many that Pythia's hook wrote down at 64
    theta: those are neither quasi-random nor known to move. With as few, KL 8e-4 to 3e-3 and a mean AUC of 0.512 of pions."""
    if by == "the exact density":
        return FlowEmission(emulate.fit(Flow(**emissions.FLOW), emissions.table(emissions.RUNS, seed=3), seed=0))
    simulator = Pythia(flavours=flavours, events=700)
    low, high = (torch.tensor(x, dtype=torch.float64) for x in ((0.2, 0.5, 0.2), (1.3, 1.5, 0.5)))
    places = low + (high - low) * torch.quasirandom.SobolEngine(3, scramble=True, seed=1).draw(64, dtype=torch.float64)
    told = [simulator.emissions(theta, seed=i)[0] for i, theta in enumerate(places)]
    given = [every.condition() for every in told]
    z, a, c = (torch.cat(x) for x in ([e.z for e in told], [g.a for g in given], [g.c for g in given]))
    some = torch.randperm(len(z), generator=torch.Generator().manual_seed(1))[: 5 * emissions.RUNS]
    assert len(some) == 5 * emissions.RUNS
    return FlowEmission(emulate.fit(Flow(**emissions.FLOW), emissions.tabulated(z[some], a[some], c[some]), seed=1))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("flavours", ["pions", "mesons"])
@pytest.mark.parametrize("by", ["the exact density", "Pythia"])
def test_no_classifier_tells_events_of_a_learnt_emission_from_those_of_pythia(by, flavours):
    """The flow in the loop against Pythia's own events at theta that it was not shown, 20,000 each."""
    emission, string = taught(by, None if by == "the exact density" else flavours), Lund(flavours=flavours).string
    pythia, its = columns_of_pythia(flavours)
    start = time.process_time()
    made = [generate(theta, EACH, seed=i, string=string, emission=emission) for i, theta in enumerate(HELD_OUT)]
    rate = EACH * len(HELD_OUT) / (time.process_time() - start)
    found = [area(one, table(events)) for (one, _), events in zip(pythia, made, strict=True)]
    null = [area(one, two) for one, two in pythia]
    print(
        f"\n{flavours}, emission taught by {by}: {rate:.0f} events per CPU s (bar: 25,000 of a quiet core), Pythia {its:.0f}"
    )
    for name, areas in (("flow against Pythia (bar: 0.510)", found), ("Pythia against Pythia", null)):
        print(f"AUC of {name}: mean {np.mean(areas):.4f}, worst {max(areas):.4f}, each {np.round(areas, 4)}")
    assert max(found) <= 0.510
    assert max(null) <= 0.510


@pytest.mark.slow
@pytest.mark.parametrize("flavours", ["pions", "mesons"])
def test_an_emission_learnt_from_pythia_alone_has_the_exact_density(flavours):
    """Its divergence, over emissions of Pythia at theta that it was not shown."""
    emission = taught("Pythia", flavours)
    for theta in SETTINGS[:2]:
        every, _ = Pythia(flavours=flavours, events=5000).emissions(torch.tensor(theta, dtype=torch.float64), seed=99)
        with torch.no_grad():
            ratio = AcceptReject().log_prob(every.z, every.condition()) - emission.log_prob(every.z, every.condition())
        kl, error = float(ratio.mean()), float(ratio.std()) / len(ratio) ** 0.5
        print(f"\n{flavours}, a, b, sigma = {theta}: KL {kl:.1e} +- {error:.1e} nats")
        assert kl < 1e-3
