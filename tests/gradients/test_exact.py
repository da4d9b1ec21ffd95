"""Rosenbrock's valley of four parameters at -1: 1212 and (-804, -1204, -1204, -400) by every method that differentiates a run."""

import pytest
import torch
from torch import Tensor

from emulate import registry
from emulate.dynamics import Trajectory
from emulate.noise import Noise
from tests.reference.gradients.exact import ROSENBROCK, rosenbrock

VALUE, GRADIENT = (torch.tensor(of, dtype=torch.float64) for of in ROSENBROCK)
AT = -torch.ones(4, dtype=torch.float64)
EXACT = [n for n in registry.names("gradients") if registry.find("gradients", n).exact]


def term(x: Tensor, total: Tensor, k: int, noise: Noise) -> Tensor:
    return total + 100 * (x[k + 1] - x[k] ** 2) ** 2 + (1 - x[k]) ** 2


STEPS = Trajectory(lambda x: 0 * x[0], term, 3, lambda x, total: total)


@pytest.mark.parametrize("name", EXACT)
def test_a_method_that_is_exact_is_exact(name):
    """To the last bit; the complex step to rounding, for it divides by the step."""
    method = registry.build("gradients", name)
    e = method.estimate(STEPS if "dynamics" in method.needs else rosenbrock, AT, seed=0)
    assert torch.equal(e.value, VALUE)
    torch.testing.assert_close(e.gradient, GRADIENT, rtol=1e-12 if "complex" in method.needs else 0, atol=0)
    assert e.standard_error.max() == e.bias_bound.max() == 0


@pytest.mark.parametrize("name", ["finite_difference", "common_random_numbers"])
def test_differences_lie_within_what_they_claim(name):
    e = registry.build("gradients", name).estimate(rosenbrock, AT, seed=0)
    assert torch.equal(e.value, VALUE)
    assert ((e.gradient - GRADIENT).abs() <= 3 * e.standard_error + e.bias_bound).all()
    assert (3 * e.standard_error + e.bias_bound < 2e-3 * GRADIENT.abs()).all()
    if name == "finite_difference":  # of fourth order, and a polynomial of degree 4
        torch.testing.assert_close(e.gradient, GRADIENT, rtol=1e-10, atol=0)


def test_all_that_claim_it_were_asked():
    assert {"forward", "reverse", "checkpointed", "complex_step", "adjoint", "pathwise", "enumerate"} <= set(EXACT)
