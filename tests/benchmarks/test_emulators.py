"""What emulators cost and how far they err: printed beside what other programs need, never asserted as a time."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

import emulate
from emulate.emulators.mlp import MLP
from emulate.runs import Field, Outputs, Runs
from emulate.space import Parameter, Space, Uniform
from tests.benchmarks.linear_power import spectra

pytestmark = pytest.mark.benchmark


@pytest.fixture(scope="session")
def linear_power(request):
    """CAMB's spectra, made once for this checkout."""
    return spectra(request.config.cache.mkdir("linear_power") / "camb.npz")


def sobol(n: int, d: int, seed: int) -> torch.Tensor:
    return torch.quasirandom.SobolEngine(d, scramble=True, seed=seed).draw(n, dtype=torch.float64)


def scaled(u: torch.Tensor, *ends: tuple[float, float]) -> tuple[torch.Tensor, ...]:
    low, high = torch.tensor(ends, dtype=torch.float64).T
    return (low + (high - low) * u).unbind(-1)


def borehole(u: torch.Tensor) -> torch.Tensor:
    """Flow through a borehole, 8 parameters (Harper and Gupta 1983)."""
    rw, r, tu, hu, tl, hl, length, kw = scaled(u, (0.05, 0.15), (100, 50000), (63070, 115600), (990, 1110), (63.1, 116),
                                               (700, 820), (1120, 1680), (9855, 12045))  # fmt: skip
    ln = torch.log(r / rw)
    return 2 * torch.pi * tu * (hu - hl) / (ln * (1 + 2 * length * tu / (ln * rw**2 * kw) + tu / tl))


def circuit(u: torch.Tensor) -> torch.Tensor:
    """Output transformerless push-pull circuit, 6 parameters (Ben-Ari and Steinberg 2007)."""
    b1, b2, f, c1, c2, beta = scaled(u, (50, 150), (25, 70), (0.5, 3), (1.2, 2.5), (0.25, 1.2), (50, 300))
    v, q = 12 * b2 / (b1 + b2), beta * (c2 + 9)
    return (v + 0.74) * q / (q + f) + 11.35 * f / (q + f) + 0.74 * f * q / ((q + f) * c1)


def table(f, u: torch.Tensor, *, slopes: bool = False) -> Runs:
    x = u.clone().requires_grad_()
    y = f(x)
    (jacobian,) = torch.autograd.grad(y.sum(), x)
    space = Space(tuple(Parameter(f"x{i}", Uniform(0.0, 1.0)) for i in range(u.shape[1])))
    return Runs.of(space, Outputs((Field("y"),)), u.numpy(), y.detach().numpy(),
                   jacobian=jacobian.numpy()[:, None] if slopes else None)  # fmt: skip


def test_a_network_of_400_linear_power_spectra(linear_power):
    train, test = linear_power
    for seed in range(2):
        start = time.process_time()
        p = emulate.fit(MLP(), train, seed=seed).predict(test.theta)
        cpu = time.process_time() - start
        error = 100 * np.abs(p.mean.numpy() / test.y - 1).max(1)
        inside = np.abs(p.mean.numpy() - test.y) < 1.96 * p.stddev.numpy()
        print(f"\nlargest error of a spectrum, seed {seed}: median {np.median(error):.4f} %, 99th percentile "
              f"{np.quantile(error, 0.99):.4f} %, 95 % intervals hold {inside.mean():.3f}, {cpu:.1f} s of CPU "
              "(a 4 x 512 network: 0.21 % in 54 s)")  # fmt: skip


def test_what_a_network_answers_in(linear_power):
    """A value, its Jacobian in one call, and both with the same weights in plain torch, the Jacobian by forward mode."""
    emulator = emulate.fit(MLP(epochs=2), linear_power[0], seed=0)
    for n in (1, 10, 100, 1000):
        theta = torch.from_numpy(np.resize(linear_power[1].theta, (n, 5)))
        peer, peers_jacobian = plain(emulator)
        torch.testing.assert_close(peer(theta), emulator.predict(theta).mean, rtol=1e-10, atol=0.0)
        torch.testing.assert_close(peers_jacobian(theta), emulator.jacobian(theta), rtol=1e-8, atol=1e-6)
        value, jacobian, bare = alternately(lambda t: emulator.predict(t).mean, emulator.jacobian, peer, theta=theta)
        ours, by_func = alternately(emulator.jacobian, peers_jacobian, theta=theta, n=10)
        print(f"\n{n} points, 100 outputs of {emulator.transform.p} components: {1e3 * value:.2f} ms the mean, "
              f"{jacobian / value:.1f} times that the Jacobian (products alone: {products(emulator):.1f}); plain torch: "
              f"{bare / value:.1f} times our mean, its Jacobian {by_func / ours:.1f} times ours")  # fmt: skip


def plain(emulator: emulate.Emulator) -> tuple:
    """The mean of P(k) and its Jacobian as a user would write them for these weights: no guard, no classes."""
    core, t = emulator.core, emulator.transform
    low, high = torch.tensor([[p.prior.low, p.prior.high] for p in emulator.space.parameters], dtype=torch.float64).T
    i, j = torch.triu_indices(len(low), len(low))
    rest = t.unseen if not len(t.rest) else t.unseen + t.rest.square().sum(0)

    def mean(theta: torch.Tensor) -> torch.Tensor:
        u = (theta - low) / (high - low)
        x = (12**0.5 * (u - 0.5)).expand(len(core.beta), *u.shape)
        for layer in range(2):
            x = torch.nn.functional.silu(x @ getattr(core, f"weight{layer}") + getattr(core, f"bias{layer}"))
        c = 2 * u - 1
        h = torch.cat([torch.ones_like(c[:, :1]), c, c[:, i] * c[:, j]], 1)
        z = (x @ core.weight2 + core.bias2) * core.scale + h @ core.beta
        v = core.inflation * (z.var(0, unbiased=False) + core.residual)
        return torch.exp(t.centre + z.mean(0) @ t.basis + 0.5 * (v @ t.basis.square() + rest))

    def jacobian(theta: torch.Tensor) -> torch.Tensor:
        along = lambda v: torch.func.jvp(mean, (theta,), (v.expand_as(theta),))[1]  # noqa: E731
        return torch.func.vmap(along, out_dims=-1)(torch.eye(len(low), dtype=torch.float64))

    return mean, jacobian


def products(emulator: emulate.Emulator) -> float:
    """Multiplications of a value and its Jacobian over those of a value, were all as fast."""
    core, (p, m), d = emulator.core, emulator.transform.basis.shape, emulator.space.d
    layers = [core.weight0, core.weight1, core.weight2, core.beta]
    value = sum(w.numel() for w in layers) + p * m * 2
    slopes = d * (core.weight1.numel() + core.weight2.numel() + d * p * len(core.beta) + 2 * p * m)
    return (value + slopes) / value


def alternately(*functions, theta: torch.Tensor, n: int = 30) -> list[float]:
    """The least seconds of CPU of n calls each, taken in turn: what else the machine does meets all alike."""
    least = [np.inf] * len(functions)
    for _ in range(n):
        for i, f in enumerate(functions):
            start = time.process_time()
            f(theta)
            least[i] = min(least[i], time.process_time() - start)
    return least


@pytest.mark.parametrize("f", [borehole, circuit])
def test_runs_that_jacobians_save_a_network(f):
    d = 8 if f is borehole else 6
    new = sobol(2000, d, 99)
    truth = f(new)

    def error(n: int, slopes: bool) -> float:
        off = [emulate.fit(MLP(), table(f, sobol(n, d, s), slopes=slopes), seed=s).predict(new).mean[:, 0] - truth
               for s in range(2)]  # fmt: skip
        return float(torch.stack(off).square().mean().sqrt() / truth.std())

    with_slopes = {n: error(n, True) for n in (25, 50, 100)}
    without = {n: error(n, False) for n in (50, 100, 200, 400)}
    print(f"\n{f.__name__}, rmse / std of n runs: with Jacobians "
          + ", ".join(f"{n}: {e:.5f}" for n, e in with_slopes.items()) + "; without "
          + ", ".join(f"{n}: {e:.5f}" for n, e in without.items()))  # fmt: skip
    for n, e in with_slopes.items():
        as_good = np.exp(np.interp(-np.log(e), *(-np.log(list(without.values())), np.log(list(without)))))
        print(f"  {n} runs with are worth {as_good:.0f} without: {as_good / n:.1f} times")


BIG = """
import json, resource, time
import numpy as np, torch
import emulate
from emulate.emulators.mlp import MLP
from emulate.runs import Field, Outputs, Runs
from emulate.space import Parameter, Space, Uniform
n, d, m = 100_000, 10, 200
u = torch.quasirandom.SobolEngine(d, scramble=True, seed=0).draw(n + 2000, dtype=torch.float64).numpy()
k = np.linspace(0, 1, m)
y = np.sin(u @ np.random.default_rng(0).normal(size=(d, m)))  # no component can be dropped
space = Space(tuple(Parameter(f"x{i}", Uniform(0.0, 1.0)) for i in range(d)))
runs = Runs.of(space, Outputs((Field("y", "", False, "k", tuple(k)),)), u[:n], y[:n])
spent, memory = [], []
for epochs in (1, 2):
    start = time.process_time()
    e = emulate.fit(MLP(epochs=epochs), runs, seed=0)
    spent.append(time.process_time() - start)
off = e.predict(u[n:]).mean.numpy() - y[n:]
print(json.dumps({"epoch": spent[1] - spent[0], "rest": spent[0], "p": e.transform.p,
                  "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
                  "error": float(np.sqrt((off**2).mean()) / y[n:].std())}))
"""


def test_memory_of_a_network_of_a_hundred_thousand_runs():
    done = subprocess.run([sys.executable, "-c", BIG], capture_output=True, text=True, check=True)
    told = json.loads(done.stdout.splitlines()[-1])
    print(f"\n10^5 runs, 10 parameters, 200 outputs of {told['p']} components, 10 members: {told['epoch']:.0f} s of CPU an "
          f"epoch, {told['rest']:.0f} s with everything else, rmse / std {told['error']:.4f} after 2, "
          f"peak {told['peak']:.2f} GiB")  # fmt: skip
    assert told["peak"] < 4
