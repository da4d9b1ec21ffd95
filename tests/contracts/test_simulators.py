"""Laws of the room of simulators: same question, same bytes; every claim is measured."""

import inspect
import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import MISSING, fields, replace
from multiprocessing import get_context

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from emulate import registry
from emulate.contracts import Simulator
from emulate.diagnosis import TROUBLES, diagnose
from emulate.errors import RunFailed
from emulate.keys import canonical, identity
from emulate.noise import Noise
from emulate.replication import each, lift
from emulate.space import Space
from emulate.store import run_seed
from pipelines.derivatives import has_own, inside
from pipelines.study import plain
from tests.entries import entries

# The smallest case of an entry that takes more than a moment, and its noisy variant where it has one.
SMALL = {"nbody": {"particles": 8, "steps": 2, "precision": "float64"}, "pythia": {"events": 20}}
EXTRAS = {"pythia": ("pythia8mc", "pip install emulate[pythia]")}  # what an entry needs that may be absent
NOISY = {"linear_gaussian": {"noise": 0.1}, "nbody": {"phase_seed": None}}
QUICK = ("function", "linear_gaussian")  # diagnosed in a moment; others take 1 to 100 seconds
PROGRAMS = ("command", "pythia")  # start a program for every run, of which a diagnosis takes hundreds
CASES = [(name, noisy) for name in entries("simulators") for noisy in (False, True) if not noisy or name in NOISY]


def built(name, noisy=False):
    if name in EXTRAS:
        package, command = EXTRAS[name]
        pytest.importorskip(package, reason=f"{name} needs {package}: {command}")
    example = registry.find("simulators", name).example
    noise = NOISY[name] if noisy else {}
    return registry.build("simulators", {"use": name, **example, **SMALL.get(name, {}), **noise})


@pytest.fixture(params=CASES, ids=lambda c: c[0] + ("-noisy" if c[1] else ""))
def simulator(request):
    return built(*request.param)


def points(simulator, n, seed=0):
    if (rows := simulator.rows()) is not None:
        return rows[seed : seed + n]
    u = torch.rand((n, simulator.space.d), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return simulator.space.from_unit(0.05 + 0.9 * u)


def test_the_answer_has_the_declared_shape_and_sign(simulator):
    positive = torch.from_numpy(simulator.outputs.positive)
    for theta in points(simulator, 3):
        y = simulator.run(theta, seed=3)
        assert y.dtype == torch.float64
        assert y.shape == (simulator.outputs.size,)
        assert torch.isfinite(y).all()
        assert (y[positive] > 0).all()


def test_same_theta_and_seed_same_bits_whatever_the_global_generators_hold(simulator):
    theta = points(simulator, 1)[0]
    kept, seed = theta.clone(), run_seed(1, theta.tolist())
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    first = simulator.run(theta, seed=seed)
    states = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    simulator.run(points(simulator, 1, seed=9)[0], seed=4)
    assert torch.equal(torch.get_rng_state(), states[0])
    np.testing.assert_array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002
    torch.manual_seed(2)
    np.random.seed(2)  # noqa: NPY002
    assert torch.equal(simulator.run(theta, seed=seed), first)
    assert torch.equal(theta, kept)


def test_the_seed_matters_exactly_when_it_is_said_to(simulator):
    theta = points(simulator, 1)[0]
    one, two = simulator.run(theta, seed=1), simulator.run(theta, seed=2**62 + 5)
    assert torch.equal(one, two) != simulator.stochastic


def test_a_derivative_is_that_of_the_answer_where_one_is_claimed(simulator):
    """Along a random direction of the prior's box, against a central difference of fourth order with the same seed."""
    if not simulator.differentiable:
        return
    theta, direction, weight, difference = slope_along_a_line(simulator)
    leaf = theta.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((weight * simulator.run(leaf, seed=3)).sum(), leaf)
    assert float(gradient @ direction) == pytest.approx(difference, rel=2e-4)


def test_many_points_at_once_are_each_by_itself_where_that_is_claimed(simulator):
    if not simulator.batched:
        return
    theta = points(simulator, 6)
    alone = torch.stack([simulator.run(t, seed=3) for t in theta])
    torch.testing.assert_close(
        simulator.run(theta.reshape(2, 3, -1), seed=3), alone.reshape(2, 3, -1), rtol=1e-9, atol=1e-12
    )


def test_its_own_jacobian_is_that_of_the_answer_where_it_has_one(simulator):
    """The same judge; and y must be the run's, for runs with and without a Jacobian stand in one table."""
    if not has_own(simulator):
        return
    theta, direction, weight, difference = slope_along_a_line(simulator)
    y, slope = simulator.jacobian(theta.clone(), seed=3)
    torch.testing.assert_close(y, simulator.run(theta, seed=3), rtol=1e-12, atol=0)
    assert slope.shape == (simulator.outputs.size, simulator.space.d)
    assert [y.requires_grad, slope.requires_grad] == [False, False]
    assert float(weight @ slope @ direction) == pytest.approx(difference, rel=2e-4)


def slope_along_a_line(simulator):
    """theta, a direction [d] across the prior, weights [m], and by differences the slope of weights @ y along it."""
    generator = torch.Generator().manual_seed(5)
    theta = points(simulator, 1)[0]
    width = simulator.space.from_unit(torch.full((simulator.space.d,), 0.6).double())
    width = width - simulator.space.from_unit(torch.full((simulator.space.d,), 0.4).double())
    direction = width * torch.randn(simulator.space.d, generator=generator, dtype=torch.float64)
    y = simulator.run(theta, seed=3)
    weight = torch.randn(len(y), generator=generator, dtype=torch.float64) / y.abs().clamp(min=1e-3)
    h = 1e-5
    values = {k: float(weight @ simulator.run(theta + k * h * direction, seed=3)) for k in (-2, -1, 1, 2)}
    return theta, direction, weight, (8 * (values[1] - values[-1]) - (values[2] - values[-2])) / (12 * h)


def test_what_it_shows_of_itself_is_what_a_run_is(simulator):
    """A run is the mean of its program's replicates, or what its dynamics come to."""
    shown, theta = inside(simulator), points(simulator, 1)[0]
    assert shown <= {"sites", "dynamics"}
    if "sites" in shown:
        made = each(lambda noise: simulator.program(theta, noise), 3, simulator.replicates)
        assert made.record.sites
        torch.testing.assert_close(simulator.run(theta, seed=3), made.answer.mean(0))
    if "dynamics" in shown:
        torch.testing.assert_close(simulator.run(theta, seed=3), lift(simulator)(theta, Noise(3)))


def test_settings_are_plain_and_rebuild_the_simulator(simulator):
    who = identity(simulator)
    assert json.loads(canonical(who)) == who
    again = registry.build("simulators", json.loads(json.dumps(plain(simulator))), space=simulator.space)
    assert identity(again) == who
    assert replace(simulator) == simulator


@pytest.fixture(scope="module")
def elsewhere():
    """One process for all of them: most of a second process is its import of torch."""
    with ProcessPoolExecutor(
        1, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        yield lambda spec, theta: pool.submit(answer, spec, theta).result(timeout=300)


def answer(spec, theta):
    space = Space.from_dict(spec.pop("space"))
    simulator = registry.build("simulators", spec, space=space)
    return identity(simulator), simulator.run(
        torch.tensor(theta, dtype=torch.float64), seed=11
    ).detach().numpy().tobytes()


@pytest.mark.parametrize("name", entries("simulators"))
def test_another_process_gives_the_same_bits(name, elsewhere):
    simulator = built(name, noisy=name in NOISY)
    theta = points(simulator, 1)[0]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        here = simulator.run(theta, seed=11)
    finally:
        torch.set_num_threads(threads)
    who, there = elsewhere({**plain(simulator), "space": simulator.space.to_dict()}, theta.tolist())
    assert who == identity(simulator)
    assert there == here.detach().numpy().tobytes()


@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=() if c[0] in QUICK else pytest.mark.slow, id=f"{c[0]}-{c[1]}") for c in CASES
             if c[0] not in PROGRAMS])  # fmt: skip
def test_what_stands_in_the_way_of_a_derivative_is_declared(case):
    simulator = built(*case)
    assert set(simulator.pathologies) <= set(TROUBLES)
    theta = simulator.space.from_unit(torch.full((simulator.space.d,), 0.5, dtype=torch.float64))
    if simulator.rows() is not None:  # it has no run between its rows, and says so
        with pytest.raises(
            RunFailed, match=r"has no run at these parameters, and no other can be made\. Ask for points of"
        ):
            diagnose(simulator, theta, calls=500)
        return
    found = diagnose(simulator, theta, calls=500)
    assert set(found.evidence["troubles"]) - {"smooth"} <= set(simulator.pathologies), str(found)


def known(name: str, *, slow: bool):
    """The truths of a simulator at its default settings, or at its example where the defaults alone are refused."""
    cls = registry.find("simulators", name)
    if cls.truths is Simulator.truths:
        return []
    needy = any(f.default is MISSING and f.default_factory is MISSING for f in fields(cls) if f.init)
    if name in EXTRAS:
        pytest.importorskip(EXTRAS[name][0], reason=f"{name} needs {EXTRAS[name][0]}: {EXTRAS[name][1]}")
    simulator = registry.build("simulators", {"use": name, **(cls.example if needy else {})})
    return [t for t in simulator.truths() if t.slow == slow]


@pytest.mark.parametrize("slow", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["quick", "slow"])
@pytest.mark.parametrize("name", entries("simulators"))
def test_what_is_known_without_the_code_is_what_it_says(name, slow):
    found = [t.finding("truth") for t in known(name, slow=slow)]
    assert [f.sentence for f in found if not f.passed] == []


@pytest.mark.parametrize("name", entries("simulators"))
def test_a_constraint_gives_one_number_for_each_point(name):
    simulator = built(name)
    theta = points(simulator, 6).reshape(2, 3, -1)
    for text, left in simulator.constraints().items():
        assert text.isidentifier()
        assert left(theta).shape == (2, 3)
        torch.testing.assert_close(left(theta)[1, 2], left(theta[1, 2]))


@pytest.mark.parametrize("name", entries("simulators"))
def test_a_picture_says_what_it_shows(name):
    if registry.find("simulators", name).picture is Simulator.picture:
        return
    simulator = built(name)
    a, b = points(simulator, 2)
    for named in ({"reference": a, "optimum": b}, {"best fit": a}):
        figure = simulator.picture(named)
        assert isinstance(figure, Figure)
        silent = [ax for ax in figure.axes if ax.axison and ax.get_visible() and not (
            ax.get_xlabel() or ax.get_ylabel() or any(ax in other.get_shared_x_axes().get_siblings(ax) for other in figure.axes
                                                      if other is not ax))]  # fmt: skip
        assert silent == []
    assert len(inspect.getdoc(simulator.picture)) > 40
