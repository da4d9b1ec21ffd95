"""Figures of the N-body simulator that the README quotes: printed here, bounded in `tests/simulators`."""

import pytest
import torch
from scipy.special import hyp2f1

from emulate.simulators.nbody import NBody

pytestmark = pytest.mark.benchmark
THETA = torch.tensor([0.3, 0.8, 0.96, 0.68], dtype=torch.float64)


def test_growth_of_the_lowest_modes():
    """Amplitude of waves with sigma_8 = 1e-4 from a = 0.2 to 1 over the hypergeometric growing mode, by bin of k."""
    theta = torch.tensor([0.3, 1e-4, 0.96, 0.68], dtype=torch.float64)
    power = [NBody(precision="float64", steps=10, a_final=a).run(theta, seed=0) for a in (0.2, 1.0)]
    d = [a * hyp2f1(1 / 3, 1, 11 / 6, -(1 - 0.3) / 0.3 * a**3) for a in (0.2, 1.0)]
    ratio = torch.sqrt(power[1] / power[0]) * (d[0] / d[1])
    print("\ngrowth over linear theory by bin:", " ".join(f"{x:.4f}" for x in ratio))


def test_gradient_against_central_differences():
    simulator = NBody(particles=16, precision="float64")
    _, jacobian = simulator.jacobian(THETA, seed=0)
    steps = 1e-6 * torch.eye(4, dtype=torch.float64)
    difference = [(simulator.run(THETA + h, seed=0) - simulator.run(THETA - h, seed=0)) / 2e-6 for h in steps]
    print(f"\nlargest relative difference: {float((torch.stack(difference, 1) / jacobian - 1).abs().max()):.1e}")
