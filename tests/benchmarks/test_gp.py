"""The Gaussian process beside those that people use, on the same runs in the same process: errors, coverage, CPU time.

`uv run pytest -m benchmark -s tests/benchmarks/test_gp.py`; SMT and botorch take part where they are installed
(`uv run --with smt --with botorch ...`). Ratios of time are to scikit-learn's, measured alternately.
"""

import time
import warnings

import numpy as np
import pytest
import torch

import emulate
from emulate.emulators.gp import GP
from emulate.runs import Field, Outputs, Runs
from emulate.space import Parameter, Space, Uniform
from tests.benchmarks.linear_power import spectra
from tests.functions import FUNCTIONS, nrmse, sobol

pytestmark = pytest.mark.benchmark

SEEDS = range(3)


def ours(runs: Runs, new: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    p = emulate.fit(GP(), runs, seed=0).predict(new)
    return p.mean[:, 0].numpy(), p.stddev[:, 0].numpy()


def scikit(runs: Runs, new: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor, kernels

    kernel = kernels.ConstantKernel(1.0, (1e-3, 1e5)) * kernels.RBF(np.ones(runs.space.d), (1e-2, 1e3))
    kernel += kernels.WhiteKernel(1e-6, (1e-12, 1.0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = GaussianProcessRegressor(kernel, normalize_y=True, random_state=0).fit(runs.theta, runs.y[:, 0])
    return model.predict(new, return_std=True)


def smt(runs: Runs, new: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    from smt.surrogate_models import KRG

    model = KRG(print_global=False, theta0=[1e-2] * runs.space.d)
    model.set_training_values(runs.theta, runs.y)
    model.train()
    return model.predict_values(new)[:, 0], np.sqrt(model.predict_variances(new)[:, 0])


def botorch(runs: Runs, new: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import SingleTaskGP
    from gpytorch.mlls import ExactMarginalLogLikelihood

    model = SingleTaskGP(torch.from_numpy(runs.theta), torch.from_numpy(runs.y))
    fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
    p = model.posterior(torch.from_numpy(new))
    return p.mean[:, 0].detach().numpy(), p.variance[:, 0].detach().sqrt().numpy()


@pytest.mark.parametrize("n", [100, 500])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name, n):
    if n == 500 and name not in ("borehole", "otl"):
        pytest.skip("figures are known for two functions")
    function = FUNCTIONS[name]
    new = sobol(5000, function.d, 99)
    y = function.f(new)
    found: dict[str, list[tuple[float, float, float]]] = {}
    for seed in SEEDS:
        runs = function.runs(n, seed)
        for peer in (ours, scikit, smt, botorch) if n == 100 else (ours, scikit):
            start = time.process_time()
            try:
                mean, sd = peer(runs, new)
            except ImportError:
                continue
            seconds = time.process_time() - start
            inside = float((np.abs(mean - y) < 1.96 * sd).mean())
            found.setdefault(peer.__name__, []).append((nrmse(mean, y), inside, seconds))
    base = np.median([s for _, _, s in found["scikit"]])
    print(f"\n{name}, {n} Sobol runs, medians of {len(SEEDS)} seeds")
    for peer, rows in found.items():
        error, inside, seconds = np.median(rows, 0)
        each = " ".join(f"{e:.5f}/{i:.2f}" for e, i, _ in rows)
        print(f"  {peer:8s} NRMSE {error:.5f}  95 % coverage {inside:.3f}  CPU {seconds:.1f} s = {seconds / base:.1f} x"
              f"  ({each})")  # fmt: skip


@pytest.fixture(scope="session")
def linear_power(request):
    return spectra(request.config.cache.mkdir("linear_power") / "camb.npz")


def test_linear_power(linear_power):
    """CAMB's spectra, 400 to learn from and 100 to judge by: median and 99th percentile of the largest error over k."""
    training, held_out = linear_power
    start = time.process_time()
    e = emulate.fit(GP(), training, seed=0)
    seconds = time.process_time() - start
    p = e.predict(held_out.theta)
    worst = np.abs(p.mean.numpy() / held_out.y - 1).max(1)
    inside = float((np.abs(p.mean.numpy() - held_out.y) < 1.96 * p.stddev.numpy()).mean())
    print(f"\nGP of linear P(k): median {np.median(worst):.4%}, 99th percentile {np.quantile(worst, 0.99):.4%}, coverage "
          f"{inside:.3f}, {e.transform.p} components, {seconds:.0f} s of CPU")  # fmt: skip


def hundred(n: int = 500, d: int = 6) -> Runs:
    """A hundred outputs that no few components hold."""
    u = sobol(n, d, 1)
    phase = np.random.default_rng(0).uniform(1, 4, (100, d))
    y = np.exp(0.3 * np.sin(u @ phase.T + np.arange(100)) + 0.2 * np.cos(3 * u @ phase.T[::-1]))
    space = Space(tuple(Parameter(f"x{i}", Uniform(0.0, 1.0)) for i in range(d)))
    return Runs.of(space, Outputs((Field("y", "", True, "k", tuple(range(100))),)), u, y)


@pytest.mark.parametrize("kernel", ["rbf", "additive"])
def test_one_point_of_a_hundred_components(kernel, tmp_path):
    recipe = GP(kernel=kernel, log=True, truncation=0.0, starts=1, calibrate=True)
    start = time.process_time()
    fitted = emulate.fit(recipe, hundred(), seed=0)
    seconds = time.process_time() - start
    fitted.save(tmp_path / "gp")
    emulate.load(tmp_path / "gp")
    start = time.perf_counter()
    e = emulate.load(tmp_path / "gp")
    load = time.perf_counter() - start
    theta, many = torch.full((6,), 0.4).double(), torch.from_numpy(sobol(256, 6, 5))

    def milliseconds(f, rounds: int) -> np.ndarray:
        taken = []
        for _ in range(rounds):
            start = time.perf_counter()
            f()
            taken.append(1e3 * (time.perf_counter() - start))
        return np.quantile(taken, [0.0, 0.5])

    print(f"\n{e.transform.p} components, 500 runs, {kernel}: fit {seconds:.0f} s of CPU, load {load:.2f} s")
    with torch.no_grad():
        value = milliseconds(lambda: e.predict(theta).mean, 50)
        batch = milliseconds(lambda: e.predict(many).mean, 3)
    slopes, many_slopes = milliseconds(lambda: e.jacobian(theta), 50), milliseconds(lambda: e.jacobian(many), 3)
    ratio, of_many = slopes / value, many_slopes / batch
    print(
        f"  one point {value[0]:.1f} ms (median {value[1]:.1f}), its Jacobian {ratio[0]:.1f} x (median {ratio[1]:.1f})"
    )
    print(f"  256 points {batch[0]:.0f} ms, their Jacobians {of_many[0]:.1f} x")
