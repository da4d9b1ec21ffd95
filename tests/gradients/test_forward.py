"""Forward mode: derivatives by hand, k directions in one pass, draws of every family, and the adjoint of reverse mode."""

import pytest
import torch
from torch.distributions import Beta, Exponential, Gamma, LogNormal, Normal, StudentT

from emulate import registry
from emulate.dynamics import Trajectory
from emulate.errors import InputError
from emulate.gradients.forward import Forward
from emulate.gradients.pathwise import Pathwise
from emulate.gradients.reverse import Reverse
from tests.reference.gradients.exact import EULER, ROSENBROCK, decay, rosenbrock


def test_one_step_of_decay_by_hand():
    """y1 = y0 - h p y0^2: dy1/dp = -h y0^2, dy1/dy0 = 1 - 2 h p y0."""

    def f(theta):
        return theta[1] - 0.1 * theta[0] * theta[1] ** 2

    e = Forward().estimate(f, torch.tensor([0.5, 2.0], dtype=torch.float64), seed=0)
    torch.testing.assert_close(e.value, torch.tensor([1.8], dtype=torch.float64), rtol=1e-15, atol=0)
    torch.testing.assert_close(e.gradient, torch.tensor([[-0.4, 0.8]], dtype=torch.float64), rtol=1e-15, atol=0)
    assert e.standard_error.max() == 0


def test_ten_steps_of_decay():
    one = torch.ones(1, dtype=torch.float64)
    forward, reverse = (m.estimate(decay, one, seed=0).gradient for m in (Forward(), Reverse()))
    assert abs(float(forward) - EULER) < 1e-14
    assert abs(float(forward - reverse)) < 1e-14


def test_rosenbrock_is_exact():
    e = Forward().estimate(rosenbrock, -torch.ones(4, dtype=torch.float64), seed=0)
    assert (e.value.tolist(), e.gradient.tolist()) == ROSENBROCK


@pytest.mark.parametrize("directions", [1, 3, 64])
def test_directions_share_a_run(directions):
    met = []
    theta = torch.arange(1.0, 8.0, dtype=torch.float64)

    def f(t):
        return [met.append(1), torch.stack([t.prod(), (t**2).sum()])][1]

    e = Forward(directions=directions).estimate(f, theta, seed=0)
    torch.testing.assert_close(e.gradient, Reverse().estimate(f, theta, seed=0).gradient, rtol=1e-14, atol=0)
    assert e.diagnostics["passes"] == -(-7 // directions)
    assert e.calls == len(met) - 2


FAMILIES = {
    "normal": lambda a, b: Normal(a, b),
    "gamma": lambda a, b: Gamma(a, b),
    "beta": lambda a, b: Beta(a, b),
    "student": lambda a, b: StudentT(4.0 + 0 * a, a, b),
    "lognormal": lambda a, b: LogNormal(a, b),
    "exponential": lambda a, b: Exponential(a * b),
}


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("n", [2, 6])
def test_draws_are_differentiated_as_by_torch(name, n):
    """Two replicates run one by one, six in a batch."""

    def f(theta, noise):
        return noise.draw("x", FAMILIES[name](theta[0], theta[1])) ** 2

    theta = torch.tensor([1.4, 0.6], dtype=torch.float64)
    e, other = (m.estimate(f, theta, seed=3, n=n) for m in (Forward(), Pathwise()))
    torch.testing.assert_close(e.gradient, other.gradient, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(e.standard_error, other.standard_error, rtol=1e-10, atol=1e-13)
    assert not e.diagnostics["alone"]


def test_it_is_the_adjoint_of_reverse_mode_on_simulators_and_emulators():
    """<w, J v> = <J^T w, v>."""
    simulator = registry.build("simulators", "linear_gaussian")
    theta = simulator.space.from_unit(torch.full((simulator.space.d,), 0.3, dtype=torch.float64))
    network = torch.nn.Sequential(torch.nn.Linear(2, 9), torch.nn.SiLU(), torch.nn.Linear(9, 3)).double()
    for f, at in ((simulator, theta), (network, theta[:2])):
        forward, reverse = (m.estimate(f, at, seed=0).gradient.detach() for m in (Forward(), Reverse()))
        w, v = (
            torch.arange(1.0, 1 + len(forward), dtype=torch.float64),
            torch.arange(1.0, 1 + len(at), dtype=torch.float64),
        )
        assert abs(float(w @ forward @ v - (reverse.mT @ w) @ v)) < 1e-12 * float(w @ forward.abs() @ v)


def test_a_function_of_numpy_is_refused_by_the_name_of_the_operation():
    with pytest.raises(InputError, match=r"Got numpy, which makes a plain number of it and loses the derivative"):
        Forward().estimate(lambda t: t.numpy() ** 2, torch.ones(2, dtype=torch.float64), seed=0)


@pytest.mark.parametrize("name", ["forward", "complex_step", "checkpointed"])
def test_a_hard_decision_makes_the_bias_unknown(name):
    """The run's derivative of 1{theta_0 + z > 0} is 0, the expectation's is a density: no claim to be unbiased."""

    def digital(theta, noise):
        return theta[1:] * 1 + 0 * theta[0] + noise.above("strike", theta[0] + noise.draw("z", Normal(0.0, 1.0)))

    def step(theta, state, k, noise):
        return digital(theta, noise)

    f = Trajectory(lambda theta: theta[1:], step, 1, lambda theta, s: s) if name == "checkpointed" else digital
    e = registry.build("gradients", name).estimate(f, torch.ones(2, dtype=torch.float64), seed=0, n=3)
    assert e.gradient.tolist() == [[0.0, 1.0]]
    assert e.bias_bound.isnan().all()
    assert e.diagnostics["lost"] == ["strike"]


def test_a_decision_on_draws_alone_leaves_it_unbiased():
    f = lambda theta, noise: theta * noise.above("side", noise.draw("z", Normal(0.0, 1.0)))  # noqa: E731
    e = Forward().estimate(f, torch.ones(1, dtype=torch.float64), seed=0, n=50)
    assert e.bias_bound.max() == 0
    assert 0 < float(e.gradient) < 1


@pytest.mark.parametrize(("f", "words"), [
    (lambda t: torch.linalg.norm(torch.outer(t, t), ord="nuc"), r"^forward must meet norms of vectors.* Got ord = 'nuc'"),
    (lambda t: torch.linalg.norm(torch.outer(t, t), ord=2), r"^forward must meet norms of vectors.* Got ord = 2 .*spectral"),
    (lambda t: torch.nn.functional.pad(t[None, None], (1, 1), mode="reflect").sum(),
     r"^forward must pad by a constant\. Got the mode 'reflect'; write it by torch\.cat\.$"),
])  # fmt: skip
def test_a_form_of_an_operation_without_a_rule_is_a_sentence(f, words):
    theta = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    with pytest.raises(InputError, match=words):
        Forward().estimate(f, theta, seed=0)
