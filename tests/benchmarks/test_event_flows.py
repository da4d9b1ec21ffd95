"""Both kinds of stand-in for a Lund string side by side: a flow of one emission in the loop, a flow of what is seen of an
event. Printed, never asserted."""

import time

import numpy as np
import pytest
import torch

import emulate
from emulate import emissions, event_flows
from emulate.emissions import FlowEmission
from emulate.lund import generate
from tests.event_figures import HELD_OUT, LUND, apart, binned, by_path, by_score, error_of
from tests.stopwatch import least

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(3600)]
SLOPES, GOLD, TIMED = 60_000, 150_000, 20_000  # events of a Jacobian, of the gold standard, of a timing
WHAT = {"string": ("any", "of each emission, exact", "none"),
        "emission": ("any", "of each emission", "of one emission, not through the loop"),
        "event": ("those learnt", "of the observables", "of all but the number")}  # fmt: skip


def flow(settings):
    return emulate.build("emulators", {"use": "flow", **settings})


@pytest.fixture(scope="module")
def learnt():
    """Both, and the CPU seconds that their tables and their training took."""
    start = time.process_time()
    table = emissions.table(emissions.RUNS, seed=3)
    taken = {"emission": [time.process_time() - start]}
    start = time.process_time()
    emission = FlowEmission(emulate.fit(flow(emissions.FLOW), table, seed=0))
    taken["emission"].append(time.process_time() - start)
    start = time.process_time()
    u = torch.quasirandom.SobolEngine(3, scramble=True, seed=0).draw(600_000, dtype=torch.float64)
    runs = LUND.table(LUND.space.from_unit(u), seed=0)
    taken["event"] = [time.process_time() - start]
    start = time.process_time()
    event = event_flows.learn(flow(event_flows.NUMBER), flow(event_flows.REST), runs, seed=0)
    taken["event"].append(time.process_time() - start)
    return emission, event, taken


def test_two_kinds_of_stand_in(learnt):
    emission, event, taken = learnt
    found = {kind: [] for kind in WHAT}
    for i, theta in enumerate(HELD_OUT):
        made, at = generate(theta, GOLD, seed=100 + i), theta.expand(SLOPES, 3)
        y = LUND.measure(made)
        edges = binned(y)
        truth, _ = by_score(y, made.history.score(), edges)
        drawn = event.sample(at, seed=i).detach()
        rows = {"event": (drawn, event.score(drawn, at))}
        for kind, e in (("string", None), ("emission", emission)):
            events = generate(theta, SLOPES, seed=500 + i, emission=e)
            rows[kind] = LUND.measure(events), events.history.score(e)
        for kind, (x, score) in rows.items():
            found[kind].append([*apart(x, y[:SLOPES], edges), error_of(by_score(x, score, edges)[0], truth)])
        found["event"][-1].append(error_of(by_path(event, theta, SLOPES, edges, 1000 * (i + 1)), truth))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        theta, at = HELD_OUT[0], HELD_OUT[0].expand(TIMED, 3)
        jobs = {"string": lambda: LUND.measure(generate(theta, TIMED, seed=1)),
                "emission": lambda: LUND.measure(generate(theta, TIMED, seed=1, emission=emission)),
                "event": lambda: event.sample(at, seed=1).detach()}  # fmt: skip
        rate = {kind: TIMED / least(job) for kind, job in jobs.items()}
    finally:
        torch.set_num_threads(before)
    both = lambda x: f"{np.mean(x):.4f}, {np.max(x):.4f}"  # noqa: E731
    each = {kind: np.array(rows).T for kind, rows in found.items()}
    lines = {"CPU s of the table, of training": [" + ".join(f"{s:.0f}" for s in taken.get(k, [])) or "none" for k in WHAT],
             "AUC against the string": [both(each[k][0]) for k in WHAT],
             "Wasserstein-1 / sd": [both(each[k][1]) for k in WHAT],
             "chi2 per degree of freedom": [both(each[k][2]) for k in WHAT],
             "Jacobian, score, hard bins": [both(each[k][3]) for k in WHAT],
             "Jacobian, path, soft bins": ["none", "none", both(each["event"][4])],
             "events/s, observables and all": [f"{rate[k]:.0f}, {rate[k] / rate['string']:.2f} of it" for k in WHAT],
             **{name: [WHAT[k][j] for k in WHAT] for j, name in enumerate(("observables", "density", "path"))}}  # fmt: skip
    print("\nmean and worst over 8 held-out theta")
    for name, cells in (("", ("the string again", "flow of one emission", "flow of an event")), *lines.items()):
        print(f"{name:32s}" + "".join(f"{c:40s}" for c in cells))
