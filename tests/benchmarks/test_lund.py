"""What an event of the Lund string costs: events per CPU second, and as a ratio to a plain Python twin's."""

import pytest
import torch

from emulate.lund import Flavours, String, generate
from emulate.lund.inverse import Inverse
from emulate.lund.observables import thrust
from tests.reference.lund.twin import Twin
from tests.stopwatch import least

pytestmark = pytest.mark.benchmark
MONASH = torch.tensor([0.68, 0.98, 0.335], dtype=torch.float64)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("pions", [True, False], ids=["pions", "mesons"])
def test_events_per_second_with_a_theta_for_each(pions):
    string = String(flavours=Flavours.pions() if pions else Flavours())
    n, few = 65536, 1000
    theta = MONASH * (0.9 + 0.2 * torch.rand((n, 3), generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    generate(theta[:2000], seed=0, string=string)
    fast = least(lambda: generate(theta, seed=1, string=string)) / n
    twin = Twin(*MONASH.tolist(), pions=pions)
    slow = least(lambda: [twin.event() for _ in range(few)]) / few
    small = least(lambda: generate(theta[:1000], seed=1, string=string)) / 1000
    print(f"\n91.2 GeV, {'pions' if pions else 'mesons'}: {1 / fast:,.0f} events per CPU second, {slow / fast:.1f} times the plain "
          f"twin's {1 / slow:,.0f}; {fast / small:.2f} of that for 1,000 events at a time")  # fmt: skip


def test_what_is_done_with_events_beside_making_them():
    n, string = 16384, String(flavours=Flavours.pions())
    make = least(lambda: generate(MONASH, n, seed=1, string=string))
    events = generate(MONASH, n, seed=1, string=string)
    score, weights = least(events.history.score), least(lambda: events.history.log_weights(1.05 * MONASH))
    best = least(lambda: thrust(events))
    inverse = least(lambda: generate(MONASH, 2048, seed=1, string=string, emission=Inverse()), 1) * n / 2048
    print(f"\nas multiples of making the events: score {score / make:.2f}, weights {weights / make:.2f}, exact thrust "
          f"{best / make:.2f}; events by the inverse distribution function {inverse / make:.0f}")  # fmt: skip
