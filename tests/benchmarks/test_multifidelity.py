"""What cheap runs save: the error of the N-body spectrum of 64^3 particles against the CPU seconds of all runs.

    pytest -m benchmark -s tests/benchmarks/test_multifidelity.py

Three minutes of one core, half of it the runs. Costly: 64^3 particles; cheap: 32^3 of the same phases, whose half Nyquist
wavenumber bounds the spectra, 8 bins to k = 0.196 h/Mpc. The error is the largest of a spectrum, its median over 40 others.
"""

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
ALONE, BOTH = (8, 16, 32, 64), ((6, 64), (8, 64), (16, 64))  # costly runs; costly and cheap ones


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


def test_error_against_the_cost_of_all_runs():
    costly = NBody(particles=64, k_max=0.25, compile="never")
    (fine, each), (held_out, _) = simulated(costly, max(ALONE), 1), simulated(costly, 40, 77)
    coarse, little = simulated(NBody(particles=32, compile="never"), max(m for _, m in BOTH), 1)

    def error(recipe, n: int, m: int) -> float:
        cheap = {"coarse": coarse.select(np.arange(m))} if m else {}
        e = emulate.fit(recipe, fine.select(np.arange(n)), seed=0, fidelities=cheap)
        return float(np.median(np.abs(e.predict(held_out.theta).mean.numpy() / held_out.y - 1).max(1)))

    alone = [(n * each, error(GP(), n, 0)) for n in ALONE]
    print(f"\n64^3: {each:.3f} s a run, 32^3: {little:.3f} s\ncostly  cheap   cost   error   cost alone at that error")
    for n, (cost, e) in zip(ALONE, alone, strict=True):
        print(f"{n:6d} {0:6d} {cost:5.1f} s {e:8.4%}")
    x, y = np.log([e for _, e in alone])[::-1], np.log([c for c, _ in alone])[::-1]
    for n, m in BOTH:
        cost, e = n * each + m * little, error(MultiFidelity(fidelities=("coarse",)), n, m)
        same = float(np.exp(np.interp(np.log(e), x, y)))
        print(f"{n:6d} {m:6d} {cost:5.1f} s {e:8.4%} {same:6.1f} s, {same / cost:.2f} times as much")
