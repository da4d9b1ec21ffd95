"""What an emulator's folder costs: load, guard, export; printed, never asserted."""

import subprocess
import sys
import time

import numpy as np
import pytest
import torch

import emulate
from emulate import registry
from emulate.program import export
from emulate.runs import Field, Outputs, Runs
from emulate.space import Parameter, Space, Uniform

RECIPES = {
    "gp": {"kernel": "rbf", "mean": "constant", "starts": 1, "calibrate": False},
    "mlp": {"epochs": 3},
    "polynomial": {},
}


def spectra(n: int = 500, d: int = 6, m: int = 100) -> Runs:
    """Smooth spectra of 100 numbers that need many components."""
    u = torch.quasirandom.SobolEngine(d, scramble=True, seed=1).draw(n, dtype=torch.float64).numpy()
    rng = np.random.default_rng(0)
    wave = np.cos(u @ rng.normal(0, 1.5, (d, 200)) + rng.uniform(0, 6, 200))
    y = wave @ rng.normal(0, 1, (200, m)) / 14
    outputs = Outputs((Field("p", coordinate="k", at=tuple(np.linspace(0.1, 1, m))),))
    return Runs.of(Space(tuple(Parameter(f"p{i}", Uniform(0, 1)) for i in range(d))), outputs, u, y)


def milliseconds(call, n: int) -> float:
    call()
    start = time.perf_counter()
    for _ in range(n):
        call()
    return 1e3 * (time.perf_counter() - start) / n


@pytest.mark.benchmark
@pytest.mark.parametrize("name", RECIPES)
def test_load_and_guard(name, tmp_path, capsys):
    torch.set_num_threads(1)
    emulator = emulate.fit(registry.build("emulators", {"use": name, **RECIPES[name]}), spectra(), seed=0)
    path = emulator.save(tmp_path / "e")
    size = sum(f.stat().st_size for f in path.iterdir()) / 1e6
    code = (f"import time, torch, emulate; emulate.fit; s = time.perf_counter(); e = emulate.load({str(path)!r}); "
            "print(time.perf_counter() - s)")  # fmt: skip
    first = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=".").stdout
    theta = torch.rand((1, 6), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    emulator.guard.remoteness(theta)
    with torch.no_grad():
        cost = {o: milliseconds(lambda o=o: emulator.predict(theta, outside=o).mean, 100)
                for o in ("ignore", "box", "warn", "inflate")}  # fmt: skip
    start = time.perf_counter()
    export(emulator, tmp_path / "e.pt2")
    exporting = time.perf_counter() - start
    graph = torch.export.load(tmp_path / "e.pt2").module()
    with capsys.disabled():
        print(f"\n{name}: {emulator.transform.p} components of 500 runs, {size:.1f} MB; load {float(first):.3f} s in a new "
              f"process (0.5 s asked for), {1e-3 * milliseconds(lambda: emulate.load(path), 5):.3f} s again; one point "
              + ", ".join(f"{o} {ms:.2f} ms" for o, ms in cost.items())
              + f"; export {exporting:.1f} s, its graph {milliseconds(lambda: graph(theta), 100):.2f} ms")  # fmt: skip
