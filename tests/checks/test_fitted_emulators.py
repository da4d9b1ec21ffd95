"""The checks on fitted emulators: the verdict must agree with what brute force says about the same posterior."""

import numpy as np
import pytest
import torch

from emulate import registry
from emulate.checks.posterior import Posterior
from emulate.contracts import Evidence, Weighted
from emulate.emulator import fit
from emulate.runs import Runs
from tests.checks.stand_ins import OUTPUTS, SPACE, D, held_out, jacobians, truth


def _fitted(use: str, n: int):
    u = torch.as_tensor(registry.build("designs", "sobol").points(n, D, seed=1))
    theta = SPACE.from_unit(u)
    runs = Runs.of(SPACE, OUTPUTS, theta.numpy(), truth(theta).numpy())
    return fit(registry.build("emulators", use), runs, seed=0)


def _log_likelihood(y: torch.Tensor) -> torch.Tensor:
    """Of an observation of the point 0.45 of the cube, with an error of 15 % and 0.15."""
    observed = truth(SPACE.from_unit(torch.full((D,), 0.45, dtype=torch.float64)))
    return -0.5 * ((y - observed) / (0.15 * observed.abs() + 0.15)).square().sum(-1)


@pytest.mark.parametrize("n", [30, 60])
def test_the_posterior_check_finds_the_shift_that_brute_force_finds(n):
    """400,000 prior draws weighted by both likelihoods, against 150 true runs at draws of the surrogate posterior."""
    emulator, rng = _fitted("polynomial", n), np.random.default_rng(0)
    theta = SPACE.from_unit(torch.as_tensor(rng.random((400_000, D))))
    surrogate = torch.cat([_log_likelihood(emulator.predict(t).mean) for t in theta.split(50_000)])
    true = _log_likelihood(truth(theta))

    def moments(log_likelihood):
        p = torch.softmax(log_likelihood, 0)
        mean = p @ theta
        return mean, (p @ (theta - mean).square()).sqrt(), float(1 / p.square().sum())

    (mean, sd, ess), (mean_true, sd_true, ess_true) = moments(surrogate), moments(true)
    expected = {"shift": (mean - mean_true) / sd_true, "width": sd / sd_true}
    brute_error = 2 / np.sqrt(min(ess, ess_true))  # pessimistic: the two share their draws

    keep = torch.as_tensor(rng.random(len(theta))) < (surrogate - surrogate.max()).exp()
    draws = theta[keep]
    at = draws[torch.linspace(0, len(draws) - 1, 150).round().long()]
    log_weight = _log_likelihood(truth(at)) - _log_likelihood(emulator.predict(at).mean)
    found = Posterior().find(Evidence(emulator, weighted=Weighted(at, log_weight, draws)))
    for f in found:
        _, what, *name = f.name.split(".")
        if name:
            value = float(expected[what][SPACE.names.index(name[0])])
            stated = float(f.sentence.split("+- ")[1].split()[0])
            assert abs(f.value - (abs(value) if what == "shift" else value)) < 4 * stated + brute_error


@pytest.mark.slow
def test_more_runs_make_a_gaussian_process_pass_in_value_and_gradient():
    verdicts = {}
    for n in (20, 60):
        emulator = _fitted("gp", n)
        material = Evidence(emulator, held_out(), jacobians(noise=0.0))
        for name in ("accuracy", "gradient"):
            blocking = [f for f in registry.build("checks", name).find(material) if f.blocking]
            verdicts[n, name] = all(f.passed for f in blocking)
    assert verdicts == {(20, "accuracy"): False, (20, "gradient"): False,
                        (60, "accuracy"): True, (60, "gradient"): True}  # fmt: skip
