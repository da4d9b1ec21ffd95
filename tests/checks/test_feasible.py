"""The share of a posterior where the simulator fails, against areas in closed form."""

import math

import numpy as np
import pytest
import torch

from emulate.checks.feasible import Feasible
from emulate.contracts import Evidence, Weighted
from emulate.feasibility import Feasibility
from emulate.runs import Field, Outputs, Runs
from emulate.space import Parameter, Space, Uniform

SPACE = Space((Parameter("a", Uniform(0.0, 1.0)), Parameter("b", Uniform(0.0, 1.0))))
RADIUS = 0.4


def sobol(n: int, seed: int) -> torch.Tensor:
    return torch.quasirandom.SobolEngine(2, scramble=True, seed=seed).draw(n, dtype=torch.float64)


def disc(u: torch.Tensor) -> torch.Tensor:
    return (u - 0.5).square().sum(-1) < RADIUS**2


def fitted(works) -> Feasibility:
    u = sobol(256, 1)
    y = torch.where(works(u), 1.0, torch.nan)[:, None]
    return Feasibility.fit(Runs.of(SPACE, Outputs((Field("y"),)), u.numpy(), y.numpy()), seed=0)


@pytest.fixture(scope="module")
def where() -> Feasibility:
    return fitted(disc)


def find(where: Feasibility, draws: torch.Tensor, **settings):
    weighted = Weighted(draws[:20], torch.zeros(20, dtype=torch.float64), draws)
    (finding,) = Feasible(**settings).find(Evidence(None, weighted=weighted, feasibility=where))
    return finding


def test_a_posterior_as_wide_as_the_prior_has_the_share_outside_the_disc(where):
    finding = find(where, sobol(4096, 7))
    assert finding.value == pytest.approx(1 - math.pi * RADIUS**2, abs=0.02)
    assert not finding.passed
    assert finding.blocking


@pytest.mark.parametrize(("centre", "share"), [(0.5 + RADIUS, 0.5), (0.5, 0.0)])
def test_a_narrow_posterior_on_the_edge_has_half_its_mass_outside_and_one_inside_has_none(where, centre, share):
    noise = torch.from_numpy(np.random.default_rng(2).standard_normal((4000, 2)))
    finding = find(where, torch.tensor([centre, 0.5]) + 0.02 * noise)
    assert finding.value == pytest.approx(share, abs=0.25 if share else 0)  # the edge is known to a third of that width
    assert finding.passed == (share == 0)
    assert ("narrow the prior" in finding.sentence) == (share > 0)


def test_the_share_falls_as_the_user_allows(where):
    draws = sobol(4096, 7)
    assert find(where, draws, share=0.6).passed
    assert find(where, draws, least=0.05).value < find(where, draws).value < find(where, draws, least=0.95).value


def test_no_failed_run_passes_with_a_sentence():
    finding = find(fitted(lambda u: u[:, 0] < 2), sobol(4096, 7))
    assert finding.passed
    assert finding.value == 0
    assert finding.sentence == "All 256 runs finished, so that nothing is known against any of 4096 draws."


def test_runs_that_fail_at_random_are_no_region():
    broken = torch.from_numpy(np.random.default_rng(4).random(256) < 0.1)
    assert find(fitted(lambda u: ~broken), sobol(4096, 7)).value == 0
