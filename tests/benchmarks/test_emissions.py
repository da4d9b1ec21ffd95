"""Events per CPU second with z by a flow and by the exact density, and of Pythia beside them: printed, never asserted."""

import importlib.util
import time

import pytest
import torch

import emulate
from emulate import emissions
from emulate.emissions import FlowEmission
from emulate.lund import AcceptReject, generate
from emulate.simulators.lund import Lund
from tests.bare_pythia import rate_of_pythia

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
    string = Lund(flavours=kind).string
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        exact, learnt = (rate(20_000, string=string, emission=e) for e in (AcceptReject(), flow))
    finally:
        torch.set_num_threads(before)
    print(
        f"\n{kind}: {learnt:.0f} events/s by the flow (bar: 25,000), {exact:.0f} by the exact density: {learnt / exact:.2f} of it"
    )
    if importlib.util.find_spec("pythia8mc"):
        its = rate_of_pythia(kind, 10_000)
        print(f"{kind}: {its:.0f} by Pythia alone: the flow {learnt / its:.2f} of it")
