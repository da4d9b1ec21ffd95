"""Through an emulator: the error bar against closed forms, the same noise by another method, and what cannot be known."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from emulate import gradients, registry
from emulate.emulator import Emulator, fit
from emulate.errors import InputError
from emulate.gradients.pathwise import Pathwise
from emulate.gradients.surrogate import Surrogate
from emulate.noise import Noise
from emulate.runs import Field, Outputs, Runs
from emulate.space import Parameter, Space, Uniform
from tests.functions import FUNCTIONS
from tests.gradients.programs import numbers

LINE = {"use": "polynomial", "degree": 1}


def waves(t: Tensor) -> Tensor:
    return torch.stack([torch.sin(t[0]) * torch.exp(t[1]), t[0] ** 2 + 3 * t[1], t[0] * t[1]])


def bell(t: Tensor) -> Tensor:
    return 1 / (1 + 25 * t**2)


def rosenbrock(t: Tensor) -> Tensor:
    return (100 * (t[1:] - t[:-1] ** 2) ** 2 + (1 - t[:-1]) ** 2).sum()[None]


def products(t: Tensor) -> Tensor:
    return torch.stack([t.prod(), (t**4).sum(), torch.tanh(3 * t).sum()])


SMOOTH = [(waves, numbers(0.7, -1.3)), (bell, numbers(0.3)), (lambda t: torch.exp(3 * t), numbers(1.0)),
          (lambda t: torch.sin(10 * t), numbers(1.0)), (rosenbrock, -torch.ones(4, dtype=torch.float64)),
          (products, numbers(0.5, 0.8, 1.0, 1.3, 0.4)),
          (lambda t: (t.sum() ** 3)[None], torch.linspace(0.2, 1, 10, dtype=torch.float64))]  # fmt: skip


def square(theta: Tensor, noise: Noise) -> Tensor:
    """E = theta^2 + 1; the slope of a replicate is 2 (theta + Z)."""
    return (theta + noise.draw("z", Normal(0.0, 1.0))) ** 2


def hard(theta: Tensor, noise: Noise) -> Tensor:
    """E = Phi(theta), whose slope is the normal density; that of a replicate is 0 or nowhere."""
    return (theta[0] + noise.draw("z", Normal(0.0, 1.0)) > 0) * 1.0


def density(x: float) -> float:
    return math.exp(-0.5 * x**2) / math.sqrt(2 * math.pi)


def unsynchronised(theta: Tensor, seed: int) -> Tensor:
    """E = a^3 b, with noise of sd 0.3 that no seed keeps the same from theta to theta."""
    key = hash((seed, *theta.tolist())) % 2**62
    z = torch.randn((), generator=torch.Generator().manual_seed(key), dtype=torch.float64)
    return theta[0] ** 3 * theta[1] + 0.3 * z


def held(e, truth: Tensor) -> Tensor:
    low, high = e.interval(0.95)
    return (low <= truth) & (truth <= high)


def truth_of(f, theta: Tensor) -> Tensor:
    return torch.func.jacrev(f)(theta).reshape(-1, len(theta))


@pytest.mark.parametrize(("f", "theta"), SMOOTH)
def test_smooth_closed_forms_lie_inside_intervals_that_are_short(f, theta):
    truth = truth_of(f, theta)
    e = Surrogate(members=8).estimate(f, theta, seed=1)
    z = (e.gradient - truth) / e.standard_error
    print(
        f"\nlargest |z| {float(z.abs().max()):.2f}, error bar {float((e.standard_error / truth.abs().max()).max()):.1e}"
    )
    assert held(e, truth).double().mean() >= 0.9
    assert ((e.gradient - truth).abs() <= 4 * e.standard_error + e.bias_bound).all()
    assert (e.standard_error + e.bias_bound <= 0.03 * truth.abs().amax(1, keepdim=True)).all()
    assert e.calls == 4 * (len(theta) + 4) + 1


def test_on_a_line_the_ensemble_is_the_scatter_of_the_replicates():
    """A line through mirrored pairs has the slope 2 (theta + Z) of each replicate, and leaving one out in turn gives the
    standard error of their mean: what pathwise derivatives of the same noise give in another way."""
    e, path = (m.estimate(square, numbers(1.0), seed=3, n=40) for m in (Surrogate(emulator=LINE), Pathwise()))
    torch.testing.assert_close(e.gradient, path.gradient, rtol=1e-9, atol=0)
    torch.testing.assert_close(e.standard_error, path.standard_error, rtol=1e-9, atol=0)
    torch.testing.assert_close(e.value, path.value, rtol=1e-12, atol=0)
    assert e.bias_bound.max() < 1e-9
    assert e.replicates == 40
    assert Surrogate(emulator=LINE, members=10).estimate(square, numbers(1.0), seed=3, n=40).replicates == 10


def test_a_process_finds_the_same_slope_under_noise_that_is_shared():
    e, path = (m.estimate(square, numbers(1.0), seed=3, n=12) for m in (Surrogate(), Pathwise()))
    torch.testing.assert_close(e.gradient, path.gradient, rtol=1e-3, atol=0)
    torch.testing.assert_close(e.standard_error, path.standard_error, rtol=1e-2, atol=0)


def test_a_program_with_a_jump_is_smoothed():
    e = Surrogate(emulator=LINE, width=0.5, scale=(1.0,), members=30).estimate(hard, numbers(0.5), seed=1, n=600)
    z = float((e.gradient - density(0.5)) / e.standard_error)
    print(f"\njump: {float(e.gradient):.4f} +- {float(e.standard_error):.4f}, truth {density(0.5):.4f}, z {z:.2f}")
    assert held(e, numbers(density(0.5))).all()
    assert 0 < float(e.standard_error) < 0.1


def test_a_jump_that_nobody_saw_is_allowed_for():
    """Two replicates in which nothing moves: three over n of the reach, as for common random numbers."""
    e = Surrogate(emulator=LINE, width=1e-6, scale=(1.0,)).estimate(hard, numbers(0.0), seed=2, n=8)
    assert float(e.gradient.abs()) == 0
    assert float(e.bias_bound) == pytest.approx(3 / 8 / 2e-6, rel=1e-6)


def test_z_scores_without_synchronised_noise():
    truth, z = numbers(1.5, 1.0), []
    for seed in range(40):
        e = Surrogate(emulator=LINE, width=0.3).estimate(unsynchronised, numbers(1.0, 0.5), seed=seed, n=10)
        z.append((e.gradient[0] - truth) / (e.standard_error[0] + e.bias_bound[0]))
    z = torch.stack(z)
    assert (z.square().mean(0) < 2.5).all()
    assert (z.square().mean(0) > 0.2).all()


def test_structure_finer_than_the_runs_is_told():
    e = Surrogate(width=0.3).estimate(lambda t: torch.stack([torch.sin(40 * t[0]), t[0] ** 2]), numbers(1.0), seed=0)
    assert e.bias_bound.isnan().ravel().tolist() == [True, False]
    assert e.diagnostics["unresolved"] == [0]
    assert e.diagnostics["bias"].startswith("unknown: f turns more often in the box than there are runs")
    flat = Surrogate(width=0.3).estimate(lambda t: (t**2).sum() + 1e-3 * t.sum(), numbers(0.0, 0.0), seed=0)
    assert flat.bias_bound.isfinite().all()  # an even bend is kept out by the pairs, however large


def test_units_do_not_matter():
    units = numbers(1e6, 1e-9)
    one = Surrogate(members=4).estimate(waves, numbers(0.7, -1.3), seed=1)
    other = Surrogate(members=4).estimate(lambda t: waves(t / units), numbers(0.7, -1.3) * units, seed=1)
    torch.testing.assert_close(other.gradient * units, one.gradient, rtol=1e-6, atol=1e-9)


def test_runs_stay_inside_the_space_of_f():
    met = []

    def f(theta):
        met.append(torch.as_tensor(theta))
        return waves(torch.as_tensor(theta))

    space = Space((Parameter("a", Uniform(0.0, 1.0)), Parameter("b", Uniform(-2.0, 0.0))))

    class Bounded:
        def __init__(self):
            self.space = space

        def __call__(self, theta):
            return f(theta)

    for theta in (numbers(0.98, -1.3), numbers(1.0, -0.001)):
        met.clear()
        e = Surrogate(width=0.3, scale=(1.0, 1.0), runs=49).estimate(Bounded(), theta, seed=1)
        seen = torch.stack(met)
        assert ((seen >= numbers(0.0, -2.0)) & (seen <= numbers(1.0, 0.0))).all()
        assert len(seen) == e.calls == 49
        assert held(e, truth_of(waves, theta)).all()
    with pytest.raises(
        InputError, match=r"^theta must lie in the box of f's space\. Got \[1\.5, -1\.0\]; move it inside\.$"
    ):
        Surrogate().estimate(Bounded(), numbers(1.5, -1.0), seed=1)


def test_what_is_deterministic_runs_once_and_failed_runs_are_left_out():
    def holed(theta: Tensor) -> Tensor:
        return torch.where(theta[0] > 0.74, torch.nan, waves(theta))

    e = Surrogate().estimate(holed, numbers(0.7, -1.3), seed=1, n=50)
    assert e.calls == 25
    assert e.diagnostics["failed"] > 0
    assert e.diagnostics["runs"] + e.diagnostics["failed"] == 25
    assert held(e, truth_of(waves, numbers(0.7, -1.3))).all()
    with pytest.raises(
        InputError, match=r"^f must be finite near theta\. Got 25 runs, none of which is; look at f there, or"
    ):
        Surrogate().estimate(lambda t: t * math.nan, numbers(0.7, -1.3), seed=1)
    with pytest.raises(
        InputError, match=r"^f must be finite at theta\. Got \[nan\]; look at f there, or move theta\.$"
    ):
        Surrogate().estimate(
            lambda t: torch.log(t[0] - 0.7) * 0 + torch.where(t[0] == 0.7, math.nan, 1.0), numbers(0.7), seed=1
        )


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(
        InputError, match=r"^runs must be at least 13 for 2 parameters and gp\. Got 9; raise it, or choose"
    ):
        Surrogate(runs=9).estimate(waves, numbers(0.7, -1.3), seed=1)
    with pytest.raises(
        InputError, match=r"^surrogate\.emulator: must be a recipe that needs the runs alone\. Got 'gradient_gp'"
    ):
        Surrogate(emulator={"use": "gradient_gp"})
    with pytest.raises(InputError, match=r"^surrogate\.emulator\.use: there is no entry 'gpp' in emulators"):
        Surrogate(emulator="gpp")
    with pytest.raises(InputError, match=r"^method\.emulator\.degree: must be at least 1\. Got 0\.$"):
        registry.build("gradients", {"use": "surrogate", "emulator": {"use": "polynomial", "degree": 0}}, path="method")


def test_the_one_call_takes_a_recipe():
    e = gradients.estimate(waves, [0.7, -1.3], method={"use": "surrogate", "emulator": LINE, "runs": 41}, n=10, seed=1)
    assert e.diagnostics["method"]["emulator"]["use"] == "polynomial"
    assert e.calls == 42
    assert held(e, truth_of(waves, numbers(0.7, -1.3))).all()


@pytest.fixture(scope="module")
def process() -> Emulator:
    return fit(registry.build("emulators", "gp"), FUNCTIONS["otl"].runs(60, 1), seed=0)


def otl_slope(u: Tensor) -> Tensor:
    h = 1e-6 * torch.eye(6, dtype=torch.float64)
    f = FUNCTIONS["otl"].f
    return torch.as_tensor((f((u + h).numpy()) - f((u - h).numpy())) / 2e-6)


def test_an_emulator_is_asked_itself(process):
    """z-scores of the slopes of a fitted process against the function that it was fitted to, at places of no run."""
    z = []
    for u in 0.1 + 0.8 * torch.rand(25, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64):
        e = gradients.estimate(process, u, method="surrogate", n=1, seed=0)
        torch.testing.assert_close(e.gradient, process.jacobian(u), rtol=0, atol=0)
        assert e.calls == 1  # the look of the one call, whether f draws
        assert e.bias_bound.isnan().all()
        z.append(((e.gradient - otl_slope(u)) / e.standard_error)[0])
    rms = float(torch.stack(z).square().mean().sqrt())
    print(f"\nslopes of a process of 60 runs: root mean square of z {rms:.2f}")
    assert 0.2 < rms < 2


def test_the_error_of_a_process_is_that_of_its_draws():
    """In one dimension the covariance of the process given its runs is known in closed form; so is that of its slope."""
    space, x = Space((Parameter("a", Uniform(0.0, 1.0)),)), torch.linspace(0, 1, 5, dtype=torch.float64)[:, None]
    runs = Runs.of(space, Outputs((Field("y"),)), x.numpy(), torch.sin(5 * x).numpy())
    recipe = registry.build("emulators", {"use": "gp", "kernel": "rbf", "mean": "constant", "calibrate": False})
    emulator, u = fit(recipe, runs, seed=0), numbers(0.37)
    core = emulator.core
    length, s2, eta = (float(core.get_buffer(name).ravel()[0]) for name in ("length", "variance", "eta"))

    def k(a: Tensor, b: Tensor) -> Tensor:
        return torch.exp(-0.5 * ((a - b) / length) ** 2)

    inverse = torch.linalg.inv(k(x, x.T) + eta * torch.eye(5, dtype=torch.float64))
    ones = torch.ones(5, 1, dtype=torch.float64)
    slope = -(u - x) / length**2 * k(u, x)  # [5, 1], dk(u, x) / du
    rest = -ones.T @ inverse @ slope  # a constant has no slope of its own
    whole = 1 / length**2 - slope.T @ inverse @ slope + rest**2 / (ones.T @ inverse @ ones)
    sd = float((s2 * whole).sqrt()) * float(emulator.transform.scale)
    assert float(Surrogate().estimate(emulator, u, seed=0).standard_error) == pytest.approx(sd, rel=1e-2)


def test_members_of_a_network_disagree_about_the_slope():
    runs = FUNCTIONS["otl"].runs(40, 1)
    network = fit(registry.build("emulators", {"use": "mlp", "members": 4, "width": 8, "epochs": 2}), runs, seed=0)
    u = torch.full((6,), 0.4, dtype=torch.float64)
    e = Surrogate().estimate(network, u, seed=0)
    ends = [
        network.transform.from_z(network.core.members(u + s * 1e-5 * torch.eye(6, dtype=torch.float64)))
        for s in (1, -1)
    ]
    each = ((ends[0] - ends[1]) / 2e-5)[..., 0]  # [members, d]
    torch.testing.assert_close(e.standard_error[0], each.std(0), rtol=1e-4, atol=0)
    assert (e.calls, e.replicates) == (0, 4)


def test_an_emulator_without_doubt_is_refused():
    plain = fit(registry.build("emulators", {"use": "polynomial", "degree": 1}), FUNCTIONS["otl"].runs(40, 1), seed=0)
    with pytest.raises(
        InputError, match=r"^surrogate must be given an emulator that doubts its slopes: a process \(gp\) or an "
    ):
        Surrogate().estimate(plain, torch.full((6,), 0.5, dtype=torch.float64), seed=0)


COVERAGE = [
    *[(f"smooth {i}", f, theta, truth_of(f, theta), {"members": 8}, 1) for i, (f, theta) in enumerate(SMOOTH)],
    ("square", square, numbers(1.0), numbers(2.0)[None], {}, 16),
    ("jump, a line", hard, numbers(0.5), numbers(density(0.5))[None],
     {"emulator": LINE, "width": 0.5, "scale": (1.0,), "members": 16}, 200),
    ("jump, a process", hard, numbers(0.5), numbers(density(0.5))[None], {"width": 0.5, "scale": (1.0,), "members": 16}, 200),
    ("unsynchronised, a line", unsynchronised, numbers(1.0, 0.5), numbers(1.5, 1.0)[None],
     {"emulator": LINE, "width": 0.3}, 16),
    ("unsynchronised, a process", unsynchronised, numbers(1.0, 0.5), numbers(1.5, 1.0)[None], {"width": 0.3}, 16),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("name", "f", "theta", "truth", "settings", "n"), COVERAGE, ids=[c[0] for c in COVERAGE])
def test_intervals_cover_in_two_hundred_repeats(name, f, theta, truth, settings, n):
    inside, z = torch.zeros_like(truth), []
    for seed in range(200):
        e = Surrogate(**settings).estimate(f, theta, seed=seed, n=n)
        inside += held(e, truth)
        z.append(((e.gradient - truth) / e.standard_error).abs())
    share = inside / 200
    print(f"\n{name}: 95 % intervals hold the truth in {[round(100 * float(s), 1) for s in share.ravel()]} % of 200; "
          f"median |z| {float(torch.stack(z).median()):.2f}")  # fmt: skip
    assert (share >= 0.9).all()
