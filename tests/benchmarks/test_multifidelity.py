"""What cheap runs save: the error of the N-body spectrum of 64^3 particles against the CPU seconds of all runs.

    pytest -m benchmark -s tests/benchmarks/test_multifidelity.py

Five minutes of one core, two of them the runs. Costly: 64^3 particles, ten steps; cheap: 32^3 in three steps, which is as
close to it as 32^3 in ten steps (0.1 to 1.3 % by k, almost linear in theta) and costs a third of those. The phases are the
same. The error is the largest over k of a spectrum, its median over 32 others; the numbers are geometric means of two
Sobol designs. A fit takes one to four seconds, which counts for nothing where a run takes minutes, and is left out.
"""

import itertools
import time

import numpy as np
import pytest
import torch

import emulate
from emulate.emulators.gp import GP
from emulate.emulators.multifidelity import MultiFidelity
from emulate.runs import Runs
from emulate.simulators.nbody import NBody

pytestmark = pytest.mark.benchmark

COSTLY = NBody(particles=64, compile="never")
NARROW = NBody(particles=64, k_max=0.25, compile="never")  # half of that k: 32^3 particles resolve it
CHEAP = NBody(particles=32, k_max=1.0, steps=3, compile="never")
ROUGH = NBody(particles=16, k_max=1.0, steps=3, compile="never")  # its spectra end where those of NARROW do
ALONE, BOTH = (8, 16, 24, 32, 48), ((4, 32), (6, 48), (12, 96))  # costly runs; costly and cheap ones
CHAIN = (6, 24, 96)  # costly, cheap and rough ones
DESIGNS = (1, 5)
PROCESS = GP(kernel="rbf", starts=1)


def simulated(simulator: NBody, n: int, seed: int) -> tuple[Runs, float]:
    """Runs at Sobol points, and the median of their CPU seconds."""
    u = torch.quasirandom.SobolEngine(simulator.space.d, scramble=True, seed=seed).draw(n, dtype=torch.float64)
    theta, y, seconds = simulator.space.from_unit(u), [], []
    with torch.no_grad():
        simulator.run(theta[0], seed=0)
        for t in theta:
            began = time.process_time()
            y.append(simulator.run(t, seed=0))
            seconds.append(time.process_time() - began)
    return Runs.of(simulator.space, simulator.outputs, theta.numpy(), torch.stack(y).numpy()), float(np.median(seconds))


def upto(runs: Runs, bins: int) -> Runs:
    """The same runs with the first bins of their spectra."""
    outputs = (COSTLY if bins > NARROW.outputs.size else NARROW).outputs
    assert runs.outputs.fields[0].at[:bins] == outputs.fields[0].at
    return Runs.of(runs.space, outputs, runs.theta, runs.y[:, :bins])


@pytest.mark.timeout(3600)
def test_error_against_the_cost_of_all_runs():
    torch.set_num_threads(1)
    held_out, _ = simulated(COSTLY, 32, 77)
    fine, coarse, rough = ([simulated(s, n, seed) for seed in DESIGNS]
                           for s, n in ((COSTLY, max(ALONE)), (CHEAP, BOTH[-1][1]), (ROUGH, CHAIN[-1])))  # fmt: skip
    each, little, least = (min(seconds for _, seconds in some) for some in (fine, coarse, rough))
    print(f"\na run: 64^3 {each:.3f} s, 32^3 in 3 steps {little:.3f} s, 16^3 in 3 steps {least:.3f} s of CPU")
    for bins in (NARROW.outputs.size, COSTLY.outputs.size):
        test = upto(held_out, bins)

        def errors(recipe, *counts: int, bins=bins, test=test) -> np.ndarray:
            found = []
            for own, *others in zip(*(some[: len(DESIGNS)] for some in (fine, coarse, rough)), strict=True):
                n, *m = counts
                cheap = {name: upto(runs.select(np.arange(k)), bins)
                         for (name, k), (runs, _) in zip(zip(("coarse", "rough"), m), others)}  # fmt: skip
                e = emulate.fit(recipe, upto(own[0].select(np.arange(n)), bins), seed=0, fidelities=cheap)
                off = np.abs(e.predict(test.theta, outside="ignore").mean.numpy() / test.y - 1).max(1)
                found.append(float(np.median(off)))
            return np.array(found)

        print(f"k to {test.outputs.fields[0].at[-1]:.2f} h/Mpc, {bins} bins\n"
              "  64^3  32^3  16^3      cost    error   cost alone at that error")  # fmt: skip
        alone = np.array([errors(GP(), n) for n in ALONE])
        for n, e in zip(ALONE, _mean(alone), strict=True):
            print(f"{n:6d} {0:5d} {0:5d} {n * each:7.1f} s {e:8.3%}", flush=True)
        assert all(a > b for a, b in itertools.pairwise(_mean(alone)))  # or no cost could be read from it
        chain = [CHAIN] if bins == NARROW.outputs.size else []
        for n, *m in (*BOTH, *chain):
            names = ("rough", "coarse")[-len(m) :]  # cheapest first
            off = errors(MultiFidelity(fidelities=names, low=PROCESS, high=PROCESS), n, *m)
            cost, e = n * each + np.dot(m, (little, least)[: len(m)]), float(_mean(off[None])[0])
            same = [_cost_at(error, column) * each / cost for error, column in zip(off, alone.T, strict=True)]
            mean = _cost_at(e, _mean(alone)) * each
            print(f"{n:6d} {m[0]:5d} {sum(m[1:]):5d} {cost:7.1f} s {e:8.3%} {mean:10.1f} s, {mean / cost:.2f} times as "
                  f"much ({min(same):.2f} to {max(same):.2f} by design)", flush=True)  # fmt: skip


def _mean(errors: np.ndarray) -> np.ndarray:
    return np.exp(np.log(errors).mean(-1))


def _cost_at(error: float, alone: np.ndarray) -> float:
    """Costly runs for that error without cheap ones, between those that were made."""
    x, y = np.log(alone)[::-1], np.log(ALONE)[::-1]
    return float(np.exp(np.interp(np.log(error), x, y)))
