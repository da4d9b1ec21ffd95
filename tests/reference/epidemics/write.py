"""Write three observations of each task, and draws from their posteriors by long Markov chains on the simulator itself.

    python tests/reference/epidemics/write.py [NAME ...]           sir, lotka_volterra; some minutes each
    python tests/reference/epidemics/write.py --judge [NAME ...]   emcee on the first observation of each, beside what is stored

The tasks are those of Lueckmann et al. (2021). Parameters are drawn from the prior, data with the task's noise. The chains
are those of the sampler `hmc`, 128 of them from around the truth, on the likelihood of the simulator, integrated by steps
that err by 1e-6 of ln y at these parameters; 2,000 of 7,680 draws are kept, which are nearly independent.
"""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from emulate.distributions import Exact
from emulate.likelihoods.binomial import Binomial
from emulate.likelihoods.log_normal import LogNormal
from emulate.posterior import Posterior
from emulate.samplers.hmc import HMC
from emulate.simulators.lotka_volterra import LotkaVolterra
from emulate.simulators.sir import SIR

HERE = Path(__file__).parent
TASKS = {"sir": (SIR(), Binomial(trials=1000), 1.5), "lotka_volterra": (LotkaVolterra(), LogNormal(error=0.1), 0.2)}
KEPT, CHAINS = 2000, 128


def observation(name: str, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """theta `[d]` from the prior, and data `[m]` with noise."""
    simulator, likelihood, _ = TASKS[name]
    generator = torch.Generator().manual_seed(100 + number)
    theta = simulator.space.from_unit(torch.rand(simulator.space.d, generator=generator, dtype=torch.float64))
    return theta, likelihood.sample(simulator.run(theta, seed=0), seed=100 + number)


def posterior(name: str, data: torch.Tensor) -> Posterior:
    """By the true likelihood, differentiable, for many theta at once."""
    simulator, likelihood, step = TASKS[name]
    quick = replace(simulator, step=step)
    return Posterior(simulator.space, lambda t: Exact(quick.run(t, seed=0)), likelihood, data)


def start(true: Posterior, theta: torch.Tensor) -> torch.Tensor:
    """x `[chains, d]` about the truth."""
    noise = torch.randn((CHAINS, len(theta)), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return true.x(theta) + 0.05 * noise


def chains(name: str, number: int) -> dict:
    theta, data = observation(name, number)
    true = posterior(name, data)
    made = HMC(warmup=80).draw(true.log_density, start(true, theta), 60, seed=1)
    said = f"R-hat {made.rhat.max():.4f}, effective draws {made.ess.min():.0f}"
    print(f"{name} {number}: theta {[round(v, 4) for v in theta.tolist()]}, {said}", flush=True)
    draws = true.theta(made.x).detach().transpose(0, 1).flatten(0, 1)
    some = torch.linspace(0, len(draws) - 1, KEPT).round().long()
    return {"theta": theta.tolist(), "data": data.tolist(), "rhat": float(made.rhat.max()), "ess": float(made.ess.min()),
            "mean": draws.mean(0).tolist(), "sd": draws.std(0).tolist(), "draws": draws[some]}  # fmt: skip


def write(name: str) -> None:
    found = [chains(name, i) for i in range(3)]
    np.savez_compressed(
        HERE / f"{name}.npz", **{str(i): f.pop("draws").numpy().astype(np.float32) for i, f in enumerate(found)}
    )
    (HERE / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")


def judge(name: str, steps: int = 600) -> None:
    """Mean and standard deviation by emcee, in standard deviations of what is stored and as a ratio."""
    import emcee

    kept = json.loads((HERE / f"{name}.json").read_text())[0]
    theta, data = (torch.tensor(kept[k], dtype=torch.float64) for k in ("theta", "data"))
    true, d = posterior(name, data), len(theta)

    @torch.no_grad()
    def value(x: np.ndarray) -> np.ndarray:
        return true.log_density(torch.from_numpy(x)).numpy()

    sampler = emcee.EnsembleSampler(CHAINS, d, value, vectorize=True)
    np.random.seed(1)  # noqa: NPY002  (emcee's own)
    sampler.run_mcmc(start(true, theta).numpy(), steps, progress=False)
    draws = true.theta(torch.from_numpy(sampler.get_chain(discard=steps // 5, flat=True)))
    time = sampler.get_autocorr_time(discard=steps // 5, tol=0).max()
    sd = torch.tensor(kept["sd"], dtype=torch.float64)
    off = (draws.mean(0) - torch.tensor(kept["mean"]).double()) / sd
    print(f"{name}: emcee's means off by {[round(v, 3) for v in off.tolist()]} sigma, widths times "
          f"{[round(v, 3) for v in (draws.std(0) / sd).tolist()]}; {len(draws) / time:.0f} effective draws, so that "
          f"{1 / math.sqrt(len(draws) / time) + 1 / math.sqrt(kept['ess']):.3f} would be usual", flush=True)  # fmt: skip


if __name__ == "__main__":
    torch.set_num_threads(1)
    given = [a for a in sys.argv[1:] if a != "--judge"] or list(TASKS)
    for task in given:
        (judge if "--judge" in sys.argv else write)(task)
