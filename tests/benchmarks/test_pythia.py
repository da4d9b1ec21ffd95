"""Events per second of one core: strings of Pythia and of the house, Pythia's Z decays, and what Python adds to them.

`uv run --extra pythia pytest -m benchmark -s tests/benchmarks/test_pythia.py`
"""

import pytest
import torch

from emulate.simulators.lund import Lund
from emulate.simulators.pythia import Pythia
from tests.bare_pythia import rate_of_pythia
from tests.stopwatch import least

pytest.importorskip("pythia8mc", reason="pythia needs pythia8mc: pip install emulate[pythia]")
pytestmark = pytest.mark.benchmark

THETA = torch.tensor([0.68, 0.98, 0.335], dtype=torch.float64)


def test_events_per_second():
    n = 10_000
    pions, z = Pythia(flavours="pions"), Pythia(process="z")
    start = least(lambda: pions.generate(THETA, seed=1, n=1))
    start_z = least(lambda: z.generate(THETA, seed=1, n=1))
    rates = {
        "pion string, Pythia alone": rate_of_pythia("pions", n),
        "pion string, Pythia with its hadrons in columns": n / (least(lambda: pions.generate(THETA, seed=1, n=n)) - start),
        "pion string, Pythia with every emission": n / (least(lambda: pions.emissions(THETA, seed=1, n=n)) - start),
        "pion string, the house": n / least(lambda: Lund(flavours="pions").fragment(THETA, seed=1, n=n)),
        "Z -> hadrons, Pythia with all particles in columns":
            n / 5 / (least(lambda: z.generate(THETA, seed=1, n=n // 5)) - start_z),
    }  # fmt: skip
    measured = least(lambda: pions.measure(pions.generate(THETA, seed=1, n=n))) - start
    rates["pion string, Pythia with the four observables"] = n / measured
    print(f"\nto begin: {start:.2f} s for strings, {start_z:.2f} s for Z decays")
    for name, rate in rates.items():
        print(f"{name}: {rate:,.0f} events/s")
    house, columns = rates["pion string, the house"], rates["pion string, Pythia with its hadrons in columns"]
    print(f"the house over Pythia, with columns: {house / columns:.2f}")
