"""Events per CPU second with z by a flow and by the exact density: printed, never asserted."""

import time

import pytest
import torch

import emulate
from emulate import emissions
from emulate.emissions import FlowEmission
from emulate.lund import AcceptReject, Flavours, String, generate

pytestmark = pytest.mark.benchmark
MONASH = torch.tensor([0.68, 0.98, 0.335], dtype=torch.float64)


@pytest.fixture(scope="module")
def flow():
    recipe = emulate.build("emulators", {"use": "flow", **emissions.FLOW, "epochs": 2})
    return FlowEmission(emulate.fit(recipe, emissions.table(8192, seed=0), seed=0))


def rate(n, **how):
    """Events per CPU second of one core, the best of five."""
    seconds = []
    for seed in range(5):
        start = time.process_time()
        generate(MONASH, n, seed=seed, **how)
        seconds.append(time.process_time() - start)
    return n / min(seconds)


@pytest.mark.parametrize("kind", ["pions", "mesons"])
def test_events_per_second(flow, kind):
    string = String(flavours=Flavours.pions() if kind == "pions" else Flavours())
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        exact, learnt = (rate(20_000, string=string, emission=e) for e in (AcceptReject(), flow))
    finally:
        torch.set_num_threads(before)
    print(
        f"\n{kind}: {learnt:.0f} events/s by the flow (bar: 25,000), {exact:.0f} by the exact density: {learnt / exact:.2f} of it"
    )
