"""The process of all runs, on the processor and on a GPU: seconds, and the error at new points.

    python tests/benchmarks/gp_device.py [cuda|cpu] [RUNS ...]

It prints, for 5000, 10000 and 20000 runs of the borehole, the process of inducing points, then the exact mean by conjugate
gradients on the processor (up to 10000 runs) and on the GPU: wall seconds, of them those of the solve, rmse over the
scatter of 4096 new points, the share of them in intervals of 95 %. The lengths are found once for each n, on the
processor. Then 10000 runs of a function with many waves, which inducing points miss.
"""

import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from emulate.emulators import svgp
from emulate.emulators.svgp import SVGP
from tests.emulators.test_gp import borehole, nrmse, sobol

NEW = 4096


def ripples(u: np.ndarray) -> np.ndarray:
    """More waves across the box than inducing points can follow."""
    return np.sin(17 * u[:, 0] + 3 * u[:, 2]) * np.cos(13 * u[:, 1]) + np.sin(15 * u[:, 1] * u[:, 2])


def one(f, d: int, n: int, kernel: str, device: str) -> None:
    u, new = torch.from_numpy(sobol(n, d, 0)), torch.from_numpy(sobol(NEW, d, 99))
    y, true = torch.from_numpy(f(u.numpy())), torch.from_numpy(f(new.numpy()))
    centre, scale = y.mean(), y.std()
    z = ((y - centre) / scale)[:, None]
    spent, solve = [], svgp._all_runs

    def timed(*args):
        start = time.perf_counter()
        state = solve(*args)
        spent.append(time.perf_counter() - start)
        return state

    svgp._all_runs = timed
    plans = [("inducing points", {}), ("all runs, cpu", {"exact": True})] if n <= 10000 else [("inducing points", {})]
    plans += [("all runs, cuda", {"exact": True, "device": "cuda"})] if device == "cuda" else []
    for name, more in plans:
        start = time.perf_counter()
        core = SVGP(kernel=kernel, part=500, **more).train(u, z, noisy=False, seed=0)
        seconds = time.perf_counter() - start
        with torch.no_grad():
            p = [core(part) for part in new.split(512)]
        mean, sd = torch.cat([q.mean[:, 0] for q in p]), torch.cat([q.stddev[:, 0] for q in p])
        inside = float(((mean * scale + centre - true).abs() < 1.96 * sd * scale).double().mean())
        error = nrmse((mean * scale + centre).numpy(), true.numpy())
        print(f"{f.__name__} n = {n} {kernel:9s}{name:17s}{seconds:7.1f} s, solve {spent.pop() if spent else 0.0:6.2f} s, "
              f"nrmse {error:.2e}, coverage {inside:.3f}", flush=True)  # fmt: skip
    svgp._all_runs = solve


if __name__ == "__main__":
    device = next((a for a in sys.argv[1:] if not a.isdigit()), "cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda":
        torch.zeros(8, 8, dtype=torch.float64, device="cuda").matmul(
            torch.zeros(8, 8, dtype=torch.float64, device="cuda")
        )
        print(torch.cuda.get_device_name(), flush=True)
    runs = [int(a) for a in sys.argv[1:] if a.isdigit()] or [5000, 10000, 20000]
    for n in runs:
        one(borehole, 8, n, "rbf", device)
    one(ripples, 3, min(10000, max(runs)), "rbf", device)
