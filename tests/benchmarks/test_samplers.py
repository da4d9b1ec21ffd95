"""Effective draws per CPU second, ours and those of other samplers on the same density, in turn: printed, never asserted.

Peers are in the dependency group `samplers`; one that is not installed is left out, and the line says so. A sampler's time is
that of its warm-up and its draws; compilation and the diagnostics are not counted, for any. Effective draws are the least
bulk effective sample size over the parameters and their squares: chains that swing around their mean know means too well.
"""

import importlib.util
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import pytest
import torch

import emulate
from emulate.diagnostics import diagnose
from emulate.emulators.mlp import MLP
from emulate.likelihoods.gaussian import Gaussian
from emulate.posterior import Posterior
from emulate.runs import Field, Outputs, Runs
from emulate.samplers import ensemble, hmc, smc
from emulate.space import Parameter, Space, Uniform

pytestmark = pytest.mark.benchmark
CHAINS, ROUNDS = 64, 3
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")  # before jax


@dataclass(frozen=True)
class Target:
    """A density for batches in torch, for one point in jax, and value with gradient in numpy where numba may have it."""

    name: str
    d: int
    torch: Callable
    jax: Callable
    numpy: Callable | None = None
    start: torch.Tensor | None = None

    @cached_property
    def starts(self) -> torch.Tensor:
        if self.start is not None:
            return self.start
        return torch.randn(CHAINS, self.d, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def gaussian() -> Target:
    """Ten parameters, neighbours correlated by 0.9, scales from 0.1 to 10."""
    i, scale = np.arange(10), np.logspace(-1, 1, 10)
    precision = np.linalg.inv(0.9 ** np.abs(i[:, None] - i) * scale * scale[:, None])
    p = torch.from_numpy(precision)

    def gradient(x):
        g = -(precision @ x)
        return 0.5 * (g @ x), g

    return Target(
        "10-D Gaussian", 10, lambda x: -0.5 * ((x @ p) * x).sum(-1), lambda x: -0.5 * x @ precision @ x, gradient
    )


def banana() -> Target:
    """The twisted normal of Haario, Saksman and Tamminen (1999) in five dimensions, b = 0.03."""

    def torched(x):
        bent = x[..., 1] - 0.03 * (x[..., 0] ** 2 - 100)
        return -0.005 * x[..., 0] ** 2 - 0.5 * bent**2 - 0.5 * (x[..., 2:] ** 2).sum(-1)

    def gradient(x):
        g, bent = -x, x[1] - 0.03 * (x[0] ** 2 - 100)
        g[0], g[1] = -0.01 * x[0] + 0.06 * x[0] * bent, -bent
        return -0.005 * x[0] ** 2 - 0.5 * bent**2 - 0.5 * (x[2:] ** 2).sum(), g

    return Target("5-D banana", 5, torched, torched, gradient)


@cache
def network() -> Target:
    """A posterior of five parameters through a network with 50 outputs, its own covariance in the likelihood."""
    d, k = 5, np.linspace(0.02, 1, 50)

    def curve(u):
        a, b, c, e, g = u.T[:, :, None]
        return (1 + a) * np.sin(6 * k * (0.5 + b)) + c * np.exp(-6 * k * (0.5 + e)) + 0.5 * g * np.cos(9 * k)

    u = torch.quasirandom.SobolEngine(d, scramble=True, seed=0).draw(400, dtype=torch.float64).numpy()
    space = Space(tuple(Parameter(f"x{i}", Uniform(0.0, 1.0)) for i in range(d)))
    runs = Runs.of(space, Outputs((Field("y", "", False, "k", tuple(k)),)), u, curve(u))
    emulator = emulate.fit(MLP(epochs=5), runs, seed=0)
    noise = torch.randn(50, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    data = torch.from_numpy(curve(np.full((1, d), 0.45))[0]) + 0.05 * noise
    posterior = Posterior(space, emulator.predict, Gaussian(absolute_error=0.05), data)
    start = posterior.find_map(seed=1).starts(CHAINS, seed=2)
    return Target("network", d, posterior.log_density, in_jax(emulator, data.numpy(), 0.05), None, start)


def in_jax(emulator: emulate.Emulator, data: np.ndarray, error: float) -> Callable:
    """The density of `network` at one point, written for jax."""
    core, t = emulator.core, emulator.transform
    w = {name: value.numpy() for name, value in core.state_dict().items()}
    basis, rest, unseen, centre = (part.numpy() for part in (t.basis, t.rest, t.unseen, t.centre))
    i, j = np.triu_indices(5)

    def density(x):
        import jax
        import jax.numpy as jnp

        u = jax.scipy.stats.norm.cdf(x)
        h = jnp.broadcast_to(12**0.5 * (u - 0.5), (len(w["beta"]), 1, 5))
        for layer in range(2):
            h = jax.nn.silu(h @ w[f"weight{layer}"] + w[f"bias{layer}"])
        c = 2 * u - 1
        trend = jnp.concatenate([jnp.ones(1), c, c[i] * c[j]])
        z = ((h @ w["weight2"] + w["bias2"]) * w["scale"] + trend @ w["beta"][:, None])[:, 0]
        v = w["inflation"] * (z.var(0) + w["residual"])
        sd = jnp.sqrt(error**2 + unseen)
        r = (data - centre - z.mean(0) @ basis) / sd
        root = jnp.concatenate([jnp.sqrt(v)[:, None] * basis, rest]) / sd
        factor = jnp.linalg.cholesky(root @ root.T + jnp.eye(len(root)))
        told = jax.scipy.linalg.solve_triangular(factor, root @ r, lower=True)
        return -0.5 * (r @ r - told @ told) - jnp.log(jnp.diag(factor)).sum() - jnp.log(sd).sum() - 0.5 * x @ x

    return density


def ours(target: Target):
    return lambda seed: hmc.HMC().draw(target.torch, target.starts, 1000, seed=seed).x


def blind(target: Target, sampler):
    """One of ours that asks no gradient, beside emcee; smc is for posteriors, which lie within a standard normal prior."""
    return lambda seed: sampler.draw(target.torch, target.starts, 1000, seed=seed).x


def pyro_nuts(target: Target):
    from pyro.infer import MCMC, NUTS

    draws = 100 if target.name == "network" else 300

    def run(seed):
        torch.manual_seed(seed)
        kernel = NUTS(potential_fn=lambda p: -target.torch(p["x"]), full_mass=True)
        chain = MCMC(kernel, num_samples=draws, warmup_steps=100, initial_params={"x": target.starts[0]},
                     disable_progbar=True)  # fmt: skip
        chain.run()
        return chain.get_samples(group_by_chain=True)["x"]

    return run


def emcee_ensemble(target: Target):
    import emcee

    def value(x):
        with torch.no_grad():
            return target.torch(torch.from_numpy(x)).numpy()

    def run(seed):
        sampler = emcee.EnsembleSampler(CHAINS, target.d, value, vectorize=True)
        sampler.random_state = np.random.RandomState(seed).get_state()
        sampler.run_mcmc(target.starts.numpy(), 4000)
        return torch.from_numpy(sampler.get_chain()[1000:].swapaxes(0, 1).copy())

    return run


def blackjax_nuts(target: Target):
    import blackjax
    import jax

    jax.config.update("jax_enable_x64", True)
    x0 = target.starts.numpy()

    def chains(key):
        first, second, third = jax.random.split(key, 3)
        adapt = blackjax.window_adaptation(blackjax.nuts, target.jax, is_mass_matrix_diagonal=False)
        (_, found), _ = adapt.run(first, x0[0], 500)
        kernel = blackjax.nuts(target.jax, **found)

        def step(state, key):
            state, _ = jax.vmap(kernel.step)(jax.random.split(key, CHAINS), state)
            return state, state.position

        state, _ = jax.lax.scan(step, jax.vmap(kernel.init)(x0), jax.random.split(second, 100))
        return jax.lax.scan(step, state, jax.random.split(third, 500))[1]

    compiled = jax.jit(chains).lower(jax.random.key(0)).compile()
    return lambda seed: torch.from_numpy(np.array(compiled(jax.random.key(seed))).swapaxes(0, 1).copy())


def numpyro_nuts(target: Target):
    import jax
    from numpyro.infer import MCMC, NUTS

    jax.config.update("jax_enable_x64", True)
    kernel = NUTS(potential_fn=lambda x: -target.jax(x), dense_mass=True)
    chain = MCMC(kernel, num_warmup=500, num_samples=2000, progress_bar=False)

    def run(seed):
        chain.run(jax.random.key(seed), init_params=target.starts[0].numpy())
        return torch.from_numpy(np.array(chain.get_samples(group_by_chain=True)))

    run(0)
    return run


def nutpie_nuts(target: Target):
    import numba
    import nutpie
    from nutpie.compiled_pyfunc import from_pyfunc

    gradient = numba.njit(target.numpy)
    gradient(np.ones(target.d))
    model = from_pyfunc(
        target.d, lambda: gradient, lambda *_: lambda x: {"x": x}, [np.dtype("float64")], [(target.d,)], ["x"]
    )

    def run(seed):
        found = nutpie.sample(model, draws=2000, tune=500, chains=8, cores=1, progress_bar=False, seed=seed,
                              low_rank_modified_mass_matrix=target.name == "10-D Gaussian")  # fmt: skip
        return torch.from_numpy(found.posterior["x"].values)

    return run


PEERS = {
    "pyro": pyro_nuts,
    "emcee": emcee_ensemble,
    "blackjax": blackjax_nuts,
    "numpyro": numpyro_nuts,
    "nutpie": nutpie_nuts,
}


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("make", [gaussian, banana, network], ids=["gaussian", "banana", "network"])
def test_effective_draws_per_cpu_second(make, monkeypatch):
    target = make()
    none = torch.full((target.d,), torch.nan)
    for module in (hmc, smc):
        monkeypatch.setattr(module, "diagnose", lambda x, groups: (none, none))
    names = [p for p in PEERS if importlib.util.find_spec(p) and not (p == "nutpie" and target.numpy is None)]
    left_out = ", ".join(p for p in PEERS if p not in names)
    own = {"ensemble": blind(target, ensemble.Ensemble())}
    own |= {"smc": blind(target, smc.SMC())} if target.name == "network" else {}
    jobs = {"ours": ours(target)} | own | {p: PEERS[p](target) for p in names}
    rates, worst, apart = ({p: [] for p in jobs} for _ in range(3))
    for seed in range(1, ROUNDS + 1):
        for p, job in jobs.items():
            start = time.process_time()
            x = job(seed)
            spent = time.process_time() - start
            (rhat, ess), (_, squares) = diagnose(x), diagnose(x**2)
            rates[p].append(float(min(ess.min(), squares.min())) / spent)
            worst[p].append(float(rhat.max()))
            apart[p].append(float(ess.min()) / spent)
    per = {p: statistics.median(r) for p, r in rates.items()}
    print(
        f"\n{target.name}, effective draws per CPU second (of means alone), worst R-hat; not here: {left_out or 'none'}"
    )
    for p, r in per.items():
        print(
            f"  {p:9s}{r:9.0f} ({statistics.median(apart[p]):.0f}), {max(worst[p]):.3f}; ours {per['ours'] / r:.3g} times"
        )
