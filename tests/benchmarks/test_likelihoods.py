"""What likelihoods cost that marginalise the emulator by Laplace's method, value and gradient, over the Gaussian's."""

import pytest
import torch

from emulate.distributions import Gaussian as Predicted
from emulate.likelihoods.combined import Combined
from emulate.likelihoods.gaussian import Gaussian
from emulate.likelihoods.negative_binomial import NegativeBinomial
from emulate.likelihoods.poisson import Poisson
from emulate.likelihoods.student_t import StudentT
from emulate.runs import Field, Outputs
from tests.stopwatch import in_turn

pytestmark = pytest.mark.benchmark


@pytest.mark.parametrize("m", [6, 50])
def test_sixty_four_chains(m):
    half = tuple(range(m // 2))
    outputs = Outputs((Field("a", coordinate="x", at=half), Field("b", coordinate="x", at=half)))
    parts = {"a": Gaussian(absolute_error=3.0), "b": Gaussian(absolute_error=5.0)}
    likelihoods = {
        "gaussian": Gaussian(absolute_error=3.0),
        "student_t": StudentT(absolute_error=3.0),
        "poisson": Poisson(),
        "negative_binomial": NegativeBinomial(dispersion=0.01),
        "combined, both normal": Combined(parts=parts).on(outputs),
        "combined, with counts": Combined(parts=parts | {"b": Poisson()}).on(outputs),
    }
    generator = torch.Generator().manual_seed(1)
    mean = 50 + 5 * torch.randn(64, m, generator=generator, dtype=torch.float64)
    basis, spread = torch.randn(4, m, generator=generator, dtype=torch.float64), torch.ones(64, 4, dtype=torch.float64)

    def slope(likelihood) -> torch.Tensor:
        y = mean.clone().requires_grad_()
        value = likelihood.log_prob(Predicted(y, spread, basis, 0 * mean + 0.01), mean[0].round())
        return torch.autograd.grad(value.sum(), y)[0]

    seconds = in_turn(*(lambda one=one: slope(one) for one in likelihoods.values()), repeats=5)
    print(f"\n{m} outputs, 64 chains: gaussian {1e3 * seconds[0]:.2f} ms")
    for name, s in zip(likelihoods, seconds, strict=True):
        print(f"  {name}: {s / seconds[0]:.1f} times the gaussian")
