"""The ways to a simulator's Jacobian, judged by the matrix of a linear map and the slopes of its noise."""

import functools
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from emulate.errors import RunFailed
from emulate.keys import REPLICATES
from emulate.seeds import replicates
from emulate.simulators.linear_gaussian import LinearGaussian
from emulate.simulators.nbody import NBody
from pipelines import child
from pipelines.derivatives import automatic, differentiate, has_own

_run = functools.partial(child._run, most=2**30)  # bytes of an answer

WAYS = ({"use": "simulator"}, {"use": "reverse"}, {"use": "finite_difference"})
THETA = torch.tensor([0.7, -1.3], dtype=torch.float64)


@dataclass(frozen=True, kw_only=True)
class Slopes(LinearGaussian):
    """y = (A + noise E) theta with E `[m, d]` of the seed: its slope depends on the seed, and is known."""

    asked: ClassVar[list[int]] = []

    def slope(self, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        e = torch.randn(self.outputs_count, self.space.d, generator=generator, dtype=torch.float64)
        return self.matrix + self.noise * e

    def run(self, theta: Tensor, *, seed: int) -> Tensor:
        self.asked.append(seed)
        return self.slope(seed) @ theta

    def jacobian(self, theta: Tensor, *, seed: int) -> tuple[Tensor, Tensor]:
        return self.run(theta, seed=seed), self.slope(seed)


@dataclass(frozen=True, kw_only=True)
class Closed(LinearGaussian):
    differentiable: ClassVar[bool] = False


@dataclass(frozen=True, kw_only=True)
class Answers(LinearGaussian):
    """Whatever is put into `answer` is the Jacobian."""

    answer: ClassVar[object] = None

    def jacobian(self, theta: Tensor, *, seed: int) -> tuple[Tensor, Tensor]:
        return self.answer


def question(product, gradient, seed=5):
    return {"theta": THETA.tolist(), "seed": seed, "product": product, "gradient": gradient}


def test_auto_prefers_the_own_way_then_the_graph():
    assert [has_own(s) for s in (Slopes(), LinearGaussian(), Closed())] == [True, False, False]
    assert [automatic(s) for s in (Slopes(), LinearGaussian(), Closed())] == [
        "simulator",
        "reverse",
        "finite_difference",
    ]


@pytest.mark.parametrize("way", WAYS, ids=lambda w: w["use"])
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_the_tangent_of_a_run_is_that_of_its_own_seed(way, noise):
    """y are the bits of the plain run, the slope is the seed's, and the error that of the method: none for a line."""
    simulator = Slopes(noise=noise)
    Slopes.asked.clear()
    found = _run(simulator, question("tangent", way))
    assert set(Slopes.asked) <= ({5} if noise else set(replicates(5, 2)))
    assert found["y"].tobytes() == _run(simulator, question("y", None))["y"].tobytes()
    np.testing.assert_allclose(found["jacobian"], simulator.slope(5), rtol=1e-9)
    assert found["standard_error"].shape == (5, 2)
    assert found["standard_error"].max() < 1e-9
    if way["use"] == "simulator":
        assert found["jacobian"].tobytes() == simulator.slope(5).numpy().tobytes()
        assert not found["standard_error"].any()


@pytest.mark.parametrize("way", WAYS, ids=lambda w: w["use"])
def test_the_jacobian_of_the_mean_is_over_the_seeds(way):
    simulator = Slopes(noise=0.3)
    slopes = np.array([simulator.slope(s).numpy() for s in replicates(5, REPLICATES)])
    found = _run(simulator, question("jacobian", way))
    np.testing.assert_allclose(found["y"], slopes.mean(0) @ THETA.numpy(), rtol=1e-12)
    np.testing.assert_allclose(found["jacobian"], slopes.mean(0), rtol=1e-9)
    np.testing.assert_allclose(found["standard_error"], slopes.std(0, ddof=1) / 2, rtol=1e-6)


def test_one_way_costs_one_call_of_the_simulator():
    Slopes.asked.clear()
    e = differentiate(Slopes(noise=0.3), {"use": "simulator"}, THETA, seed=5, n=1)
    assert Slopes.asked == [5]
    assert e.calls == 1


def test_the_own_way_of_nbody_is_reverse_mode():
    simulator = NBody(particles=8, steps=2, precision="float64")
    asked = {"theta": [0.3, 0.8, 0.96, 0.7], "seed": 0, "product": "tangent"}
    own, reverse = (_run(simulator, asked | {"gradient": {"use": use}}) for use in ("simulator", "reverse"))
    np.testing.assert_allclose(own["y"], reverse["y"], rtol=1e-12)
    np.testing.assert_allclose(own["jacobian"], reverse["jacobian"], rtol=1e-9)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (None, r"^badshape: jacobian must return two tensors, y \[m\] and dy/dtheta \[m, d\]\. Got NoneType\.$"),
        ((torch.zeros(5),), r"Got Tensor\.$"),
        ((torch.zeros(5), np.zeros((5, 2))), r"Got Tensor, ndarray\.$"),
        (
            (torch.zeros(5), torch.zeros(2, 5)),
            r"^badshape: the jacobian must have the declared shape \(5, 2\)\. Got \(2, 5\)\.$",
        ),
        ((torch.zeros(4), torch.zeros(5, 2)), r"^badshape: y must have the declared shape \(5,\)\. Got \(4,\)\.$"),
        (
            (torch.zeros(5), torch.full((5, 2), torch.inf)),
            r"^nonfinite: 10 of 10 values of the jacobian are not finite",
        ),
    ],
)
def test_a_wrong_jacobian_is_a_failed_run(answer, said, monkeypatch):
    monkeypatch.setattr(Answers, "answer", answer)
    with pytest.raises(RunFailed, match=said):
        _run(Answers(), question("tangent", {"use": "simulator"}))
