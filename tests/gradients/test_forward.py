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
from emulate.tangents import Tangents
from pipelines.derivatives import inside
from tests import laws
from tests.contracts.test_emulators import QUICK
from tests.contracts.test_simulators import CASES, SMALL, built, points
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


ONE_WAY = ("maxwell", "maxwell_device")  # an adjoint of their own alone: `forward` refuses them in a sentence
DIFFERENTIABLE = [(name, noisy) for name, noisy in CASES
                  if registry.find("simulators", name).differentiable and name not in ONE_WAY]  # fmt: skip
UNIVERSES = {
    "all statistics": {"statistics": ["pk", "multipoles", "bispectrum", "pdf", "slices"], "particles": 16},
    "fastpm": {"scheme": "fastpm", "gradient": "spectral", "deconvolution": 1},
    "checkpointed pair": {"adjoint": "checkpointed", "pair": True, "pgd": [0.01, 0.1, 0.5]},
    "stored": {"adjoint": "stored", "fixed": {"omega_k": 0.05, "w0": -0.9, "wa": 0.1}, "transfer": "no_wiggle"},
}


def _is_reverse_mode(f, theta, width, n=1):
    """Jacobians to 1e-10 of each output's steepest parameter, in units of the prior's width; and <w, J v> = <J^T w, v>."""
    forward, reverse = (m.estimate(f, theta, seed=3, n=n).gradient * width for m in (Forward(), Reverse()))
    assert ((forward - reverse).abs() <= 1e-10 * reverse.abs().amax(1, keepdim=True)).all()
    w, v = (torch.arange(1.0, 1 + k, dtype=torch.float64) for k in forward.shape)
    size = forward.norm(dim=1)
    w = w / size.where(size > 0, 1.0)  # what stands at its start has no derivative
    return abs(float(w @ forward @ v - (reverse.mT @ w) @ v)) / float(w @ forward.abs() @ v)


def _width(space):
    low, high = (space.from_unit(torch.full((space.d,), u, dtype=torch.float64)) for u in (0.4, 0.6))
    return high - low


@pytest.mark.parametrize("case", DIFFERENTIABLE, ids=lambda c: c[0] + ("-noisy" if c[1] else ""))
def test_it_is_reverse_mode_through_every_differentiable_simulator(case):
    simulator = built(*case)
    assert _is_reverse_mode(simulator, points(simulator, 1)[0], _width(simulator.space), n=1 + case[1]) < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("name", UNIVERSES)
def test_it_is_reverse_mode_through_universes_of_every_kind(name):
    simulator = registry.build("simulators", {"use": "nbody", **SMALL["nbody"], **UNIVERSES[name]})
    off = _is_reverse_mode(simulator, points(simulator, 1)[0], _width(simulator.space))
    print(f"nbody, {name}: |<w, J v> - <J^T w, v>| {off:.1e} of its size (bar 1e-12)")
    assert off < 1e-12


@pytest.mark.parametrize("name", registry.names("emulators"))
def test_it_is_reverse_mode_through_every_emulator(name):
    """What a GP cancels is left of numbers 1e6 as large: torch's own two modes are then 1e-10 apart, and so may this be."""
    settings = {"use": name, **registry.find("emulators", name).example, **QUICK.get(name, {})}
    emulator = laws.FIT(registry.build("emulators", settings), laws.runs(), seed=0)
    theta, width = laws.points(1, seed=5)[0], _width(emulator.space)
    mean = lambda t: emulator.predict(t).mean  # noqa: E731
    forward = Forward().estimate(emulator, theta, seed=0).gradient * width
    one, other = (mode(mean)(theta).detach() * width for mode in (torch.func.jacrev, torch.func.jacfwd))
    off, apart = ((g - one).abs() / one.abs().amax(1, keepdim=True) for g in (forward, other))
    assert (off <= 1e-10 + 2 * apart.max()).all()
    assert apart.max() < 1e-9


@pytest.mark.parametrize("name", ONE_WAY)
def test_an_adjoint_of_its_own_has_no_forward_mode(name):
    simulator = built(name)
    with pytest.raises(InputError, match=r"^f(orward)? must .*\. Got .*; (use|write)"):
        Forward().estimate(simulator, points(simulator, 1)[0], seed=0)


@pytest.mark.parametrize(
    "name", [n for n in registry.names("simulators") if not registry.find("simulators", n).differentiable]
)
def test_what_loses_theta_claims_no_derivative(name):
    """Simulators that take theta out of torch: no slope of 0 that is called exact."""
    simulator = built(name)
    if "sites" in inside(simulator):  # its draws carry theta, its decisions lose it
        found = Forward().estimate(simulator, points(simulator, 1)[0], seed=0, n=4)
        assert torch.isnan(found.bias_bound).any()
        return
    words = r"^f must carry theta to its output by operations of torch\. Got|^forward must see a tensor wherever theta goes\. Got"
    with pytest.raises(InputError, match=words):
        Forward().estimate(simulator, points(simulator, 1)[0], seed=0)


def written(theta, noise):
    """A matrix that is filled in place, by rows and by numbers; draws in a vector of the program's own."""
    y = torch.zeros(2, 2, dtype=torch.float64)
    y[0] = theta
    y[1, 0] = noise.draw("x", Normal(theta[0], theta[1]))
    y[1, 1:] += y[1, :1] * theta[1]
    y.diagonal().mul_(2.0)
    total = torch.zeros_like(theta)
    for row in y:
        total += row**2
    return total


@pytest.mark.parametrize("n", [2, 6])
def test_programs_that_write_in_place_are_served_alone_and_in_batches(n):
    theta = torch.tensor([1.4, 0.6], dtype=torch.float64)
    e, other = (m.estimate(written, theta, seed=3, n=n) for m in (Forward(), Tangents()))  # reverse mode refuses it
    torch.testing.assert_close(e.gradient, other.gradient, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(e.value, other.value, rtol=1e-12, atol=1e-13)
    assert not e.diagnostics["alone"]


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
