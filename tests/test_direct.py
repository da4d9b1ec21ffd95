"""A simulator climbed itself: optima in closed form, by a graph and by a Jacobian, with noise, bounds and failing runs."""

import math
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from emulate.contracts import Simulator
from emulate.descent import descend
from emulate.errors import InputError
from emulate.optimisation import optimise
from emulate.runs import Field, Outputs
from emulate.simulators.linear_gaussian import LinearGaussian
from emulate.space import Parameter, Space, Uniform

SQUARE = Space((Parameter("a", Uniform(-2, 2)), Parameter("b", Uniform(-1, 3))))


@dataclass(frozen=True, kw_only=True)
class Bowl(Simulator):
    """(a - 0.5)^2 + 2 (b - 1)^2 + noise (1 + a) e, which fails beyond a = 1.5."""

    space: Space = SQUARE
    noise: float = 0.0
    differentiable: ClassVar[bool] = True

    @property
    def outputs(self):
        return Outputs((Field("y"),))

    @property
    def stochastic(self):
        return self.noise > 0

    def constraints(self):
        return {"apart": lambda theta: 1.2 - (theta[..., 0] - theta[..., 1]).abs()}

    def run(self, theta, *, seed):
        if theta[0] > 1.5:
            raise ValueError("the bowl breaks")
        e = torch.randn(1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        a, b = theta
        return (a - 0.5) ** 2 + 2 * (b - 1) ** 2 + self.noise * (1 + a) * e


@dataclass(frozen=True, kw_only=True)
class Own(Bowl):
    differentiable: ClassVar[bool] = False

    def jacobian(self, theta, *, seed):
        a, b = theta
        return self.run(theta, seed=seed), torch.stack([2 * (a - 0.5), 4 * (b - 1)])[None]


@pytest.mark.parametrize("simulator", [Bowl(), Own()], ids=["graph", "jacobian"])
@pytest.mark.parametrize("method", ["bfgs", "adam"])
def test_its_own_derivative_leads_to_the_optimum(simulator, method):
    found = optimise(simulator, "y", seed=1, method=method, starts=4)
    assert found.theta.tolist() == pytest.approx([0.5, 1.0], abs=1e-3)
    assert found.converged
    assert found.sd == 0
    assert found.confirmed.z == 0
    assert found.confirmed.gain == pytest.approx(0.25 + 2 * 0, abs=1e-5)  # over the middle of the prior, (0, 1)
    assert f"{found.runs} runs of the simulator were made on the way" in found.sentence
    assert found.history.shape[1] == 4
    assert found.history[-1].min() == pytest.approx(found.value, abs=1e-5)
    if method == "bfgs":
        assert found.runs < 150


def test_steps_are_bounded_and_the_reference_is_a_start():
    found = optimise(Bowl(), "y", seed=1, starts=1, steps=2, method="adam", reference={"a": -1.0, "b": 0.0})
    assert len(found.history) == 2
    assert float(found.history[0]) == pytest.approx(1.5**2 + 2)
    assert not found.converged
    assert "the search has not ended" in found.sentence


def test_a_bound_of_the_simulator_is_met_by_its_name():
    """|a - b| >= 1.2: from (0.5, 1) the nearest in the bowl's measure is along (2, -1), by 0.7 / 1.5 of (1, -0.5)."""
    found = optimise(Bowl(), "y", seed=1, subject_to=["apart"])
    shift = 0.7 / 1.5
    assert found.theta.tolist() == pytest.approx([0.5 - shift, 1 + shift / 2], abs=1e-4)
    assert [(c.text, c.active, c.met) for c in found.constraints] == [("apart", True, True)]


def test_the_mean_of_what_is_random_is_minimised_until_noise_hides_the_way():
    """The noise is a lever: steps of single runs see +-1 where the slope is 2 x 0.5 x 4 of a box width."""
    found = optimise(Bowl(noise=1.0), "y", seed=1, starts=2, confirm=64, replicates=6)
    assert found.converged
    assert found.doubt > 0
    assert "tells no further progress" in found.sentence
    assert found.theta.tolist() == pytest.approx([0.5, 1.0], abs=0.1)
    assert found.sd == pytest.approx(1.5 / math.sqrt(64), rel=0.4)
    assert abs(found.value) < 4 * found.sd
    assert abs(found.confirmed.z) < 4


@pytest.mark.parametrize("method", ["adam", "bfgs"])
def test_a_random_objective_keeps_its_bounds(method):
    found = optimise(
        Bowl(noise=0.1), "y", seed=2, subject_to=["apart", "a + b <= 10"], method=method, starts=2, replicates=4
    )
    assert found.feasible
    assert found.theta.tolist() == pytest.approx([0.5 - 0.7 / 1.5, 1 + 0.35 / 1.5], abs=0.12)


def test_the_descent_ends_by_itself_as_near_as_the_noise_allows():
    def f(scale):
        def drawn(u, step):
            e = torch.randn(len(u), 1, 2, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
            return ((u - 0.3 + scale * e).square()).sum(-1), u[..., :0]

        return drawn

    none, start = torch.zeros(0, dtype=torch.bool), torch.full((1, 2), 0.9, dtype=torch.float64)
    noisy, quiet = (descend(f(s), start, replicates=4, equality=none, steps=3000) for s in (0.5, 1e-3))
    assert noisy.converged.all()
    assert quiet.converged.all()
    assert max(len(noisy.history), len(quiet.history)) < 3000
    assert float(noisy.error) > 10 * float(quiet.error)
    torch.testing.assert_close(quiet.u, torch.full((1, 2), 0.3).double(), rtol=0, atol=2e-3)
    torch.testing.assert_close(noisy.u, torch.full((1, 2), 0.3).double(), rtol=0, atol=0.1)


def test_the_error_of_the_gradient_is_what_it_is_off_by():
    """The gradient is 2 (u - 0.5) + 0.3 e: where the descent ended its mean over the last window has the error that is told."""
    none, z = torch.zeros(0, dtype=torch.bool), []
    for seed in range(20):

        def f(u, step, seed=seed):
            e = torch.randn(len(u), 1, generator=torch.Generator().manual_seed(1000 * step + seed), dtype=torch.float64)
            return (u[..., 0] - 0.5).square() + 0.3 * e * u[..., 0], u[..., :0]

        found = descend(f, torch.full((1, 1), 0.04 * seed + 0.1, dtype=torch.float64), replicates=4, equality=none)
        assert found.converged.all()
        z.append(float((found.u[0, 0] - 0.5) * 2 / found.error))
    assert sum(x * x for x in z) / len(z) < 9


def test_what_cannot_be_climbed_is_refused():
    class Opaque(LinearGaussian):
        differentiable = False

    with pytest.raises(InputError, match=r"must carry a torch graph, or have a `jacobian` of its own"):
        optimise(Opaque(), "y0", seed=1)
    with pytest.raises(InputError, match="robust and tolerance must be left out where a random simulator"):
        optimise(Bowl(noise=1.0), "y", robust=2, seed=1)

    class Broken(Bowl):
        def run(self, theta, *, seed):
            raise ValueError("no bowl")

    with pytest.raises(InputError, match="The runs say: ValueError: no bowl"):
        optimise(Broken(), "y", seed=1)
    many = Space(tuple(Parameter(f"x{i}", Uniform(0, 1)) for i in range(600)))
    with pytest.raises(InputError, match=r"at most 500 parameters.*use adam"):
        optimise(LinearGaussian(space=many), "y0", method="bfgs", seed=1)
