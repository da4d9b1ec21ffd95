"""Every likelihood over repeated studies: posteriors are calibrated with the emulator's covariance, and too narrow without."""

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from emulate import registry
from emulate.discrepancy import Discrepancy
from emulate.distributions import Gaussian as Predicted
from emulate.runs import Field, Outputs

M, SETS = 6, 250
OUTPUTS = Outputs(
    (Field("pk", coordinate="k", at=(0.1, 0.2, 0.4)), Field("counts", coordinate="z", at=(1.0, 2.0, 3.0)))
)
GRID = torch.linspace(0, 1, 61, dtype=torch.float64)
SETTINGS = {
    "gaussian": {"absolute_error": 10.0, "scale_error": 0.05, "offset_error": 5.0},
    "student_t": {"absolute_error": 15.0, "dof": 5.0, "scale_error": 0.03},
    "poisson": {"scale_error": 0.03},
    "negative_binomial": {"dispersion": 0.01, "discrepancy": Discrepancy(share=0.03, length=2.0)},
    "log_normal": {"error": 0.05, "scale_error": 0.03},
    "binomial": {"trials": 4000, "scale_error": 0.03},
    "marginal": {
        "of": {"use": "gaussian", "absolute_error": 10.0},
        "over": {"absolute_error": {"log_uniform": [8.0, 30.0]}},
    },
    "combined": {
        "parts": {"pk": {"use": "gaussian", "absolute_error": 10.0, "error_dof": 6.0}, "counts": {"use": "poisson"}}
    },
}


def _predict(theta: torch.Tensor) -> Predicted:
    """y = 200 exp(theta a), theta `[n]`, by an emulator of ln y that errs by 15 % in all outputs at once, and 2 % in each."""
    a = torch.linspace(0.2, 1.0, M, dtype=torch.float64)
    loc = np.log(200) + theta[:, None] * a
    one = torch.ones_like(theta)[:, None]
    return Predicted(loc, one, torch.full((1, M), 0.15, dtype=torch.float64), 0 * loc + 4e-4, log=torch.ones(M) > 0)


@pytest.mark.parametrize("name", SETTINGS)
def test_ranks_of_the_truth_are_even(name):
    """theta ~ U(0, 1), y by the emulator's own distribution, data by the likelihood's; 250 posteriors on a grid of theta.

    Of the five p-values one is below 0.001 in one of 200 studies; without the emulator's covariance all are below 1e-4.
    """
    spec = {"use": name, **SETTINGS[name]}
    theta = torch.from_numpy(np.random.default_rng(1).uniform(size=SETS))
    y = _predict(theta).sample(generator=torch.Generator().manual_seed(2))
    like = registry.build("likelihoods", spec).on(OUTPUTS)
    data = torch.stack([like.sample(v, seed=i) for i, v in enumerate(y)])
    p_value = []
    for counted in (True, False):
        like = registry.build("likelihoods", {**spec, "emulator_covariance": counted}).on(OUTPUTS)
        with torch.no_grad():
            log = torch.stack([like.log_prob(_predict(t.expand(SETS)), data) for t in GRID])
        p = torch.softmax(log, 0)
        below = torch.cat([torch.zeros(1, SETS), (p[1:] + p[:-1]).cumsum(0) / 2]) / ((p[1:] + p[:-1]).sum(0) / 2)
        ranks = [np.interp(t, GRID, below[:, i]) for i, t in enumerate(theta)]
        p_value.append(kstest(np.abs(np.array(ranks) - 0.5) * 2, "uniform").pvalue)
    print(name, p_value)
    assert p_value[0] > 0.001
    assert p_value[1] < 1e-4


def test_the_room_is_covered():
    assert {n for n in registry.names("likelihoods") if registry.find("likelihoods", n).adds_noise} == set(SETTINGS)
