"""An emulator's moments as a function of tensors: torch.func, torch.export, and programs that know no `emulate`."""

import json
import math
import subprocess
import sys
import warnings
from dataclasses import dataclass

import pytest
import torch

import emulate
from emulate import exchange, registry
from emulate.emulators.polynomial import Polynomial
from emulate.errors import InputError, StoreError
from emulate.program import ABOUT, Moments, export
from tests import laws

QUICK = {
    "flow": {"epochs": 2, "points": 32},
    "gradient_gp": {"kernel": "rbf", "mean": "constant", "starts": 1},
    "mlp": {"epochs": 5},
    "residual": {"then": {"use": "mlp", "members": 3, "epochs": 5}},
}


@pytest.fixture(scope="module", params=registry.names("emulators"))
def emulator(request):
    spec = {"use": request.param, **registry.find("emulators", request.param).example, **QUICK.get(request.param, {})}
    return laws.FIT(registry.build("emulators", spec), laws.runs(32), seed=0)


THETA = laws.points(5, seed=3)


def test_the_moments_are_those_of_the_prediction(emulator):
    p, (mean, variance) = emulator.predict(THETA), emulator.moments(THETA)
    assert torch.equal(mean, p.mean)
    assert torch.equal(variance, p.variance)
    far = torch.tensor([[9.0, 0.01, 5.0]], dtype=torch.float64)
    assert emulator.moments(far)[0].isfinite().all(), "no guard, no warning (which would be an error here)"


def test_vmap_is_the_batch(emulator):
    mean, variance = emulator.moments(THETA)
    for batch in (THETA, THETA[:4].reshape(2, 2, 3)):
        one = (
            torch.func.vmap(emulator.moments) if batch.ndim == 2 else torch.func.vmap(torch.func.vmap(emulator.moments))
        )
        m, v = (t.reshape(-1, t.shape[-1]) for t in one(batch))
        rounding = 1e-11 * torch.from_numpy(laws.SCALE) + 1e-15 * mean.abs()
        assert ((m - mean[: len(m)]).abs() <= rounding[: len(m)]).all()
        off = (v - variance[: len(v)]).abs()  # as in `laws.keeps_the_shape`
        assert (off <= 1e-6 * v + 1e-11 * torch.from_numpy(laws.SCALE) ** 2).all()


@pytest.mark.parametrize("mode", [torch.func.jacrev, torch.func.jacfwd])
def test_jacobians_of_both_modes_under_vmap_are_the_jacobian(emulator, mode):
    found = torch.func.vmap(mode(lambda t: emulator.moments(t)[0]))(THETA)
    width = laws.SPACE.from_unit(torch.full((3,), 0.9).double()) - laws.SPACE.from_unit(torch.full((3,), 0.1).double())
    error = (found - emulator.jacobian(THETA)).abs() * width / torch.from_numpy(laws.SCALE)[:, None]
    assert error.max() < 1e-8


def test_grad_and_hessian_are_those_of_plain_reverse_mode(emulator):
    def log_density(t):
        mean, variance = emulator.moments(t)
        return ((mean / torch.from_numpy(laws.SCALE)).sin() + variance / torch.from_numpy(laws.SCALE) ** 2).sum()

    leaf = THETA[0].clone().requires_grad_()
    (twin,) = torch.autograd.grad(log_density(leaf), leaf)
    torch.testing.assert_close(
        torch.func.grad(log_density)(THETA[0]), twin, rtol=1e-9, atol=1e-9 * float(twin.abs().max())
    )
    found = torch.func.hessian(lambda t: emulator.moments(t)[0][2] / 1e-9)(THETA[0])
    twin = torch.autograd.functional.hessian(lambda t: emulator.moments(t)[0][2] / 1e-9, THETA[0])
    torch.testing.assert_close(found, twin, rtol=1e-6, atol=1e-6 * float(twin.abs().max()))


def agrees(emulator, graph, *, jacobian: bool, mean: float, variance: float) -> None:
    """What a graph says at 1, 2 and 300 points and outside the box is what the emulator says: the mean to `mean` of what
    outputs vary by (and a thousandth of it for values near 1000), derivatives to 1e-9 of the largest."""
    far = torch.tensor([[9.0, 0.5, 5.0], [1.0, 0.01, -5.0]], dtype=torch.float64)
    for theta in (laws.points(1, seed=4), laws.points(2, seed=4), laws.points(300, seed=4), far):
        found = graph(theta)
        own = emulator.moments(theta)
        assert [f.dtype for f in found] == [torch.float64] * (4 if jacobian else 3)
        rounding = mean * (torch.from_numpy(laws.SCALE) + 1e-3 * own[0].abs())
        assert ((found[0] - own[0]).abs() <= rounding).all()
        torch.testing.assert_close(found[1], own[1], rtol=variance, atol=0.0)
        torch.testing.assert_close(found[2], emulator.domain(theta), rtol=1e-12, atol=1e-12)
        if jacobian:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", emulate.ExtrapolationWarning)
                slopes = emulator.jacobian(theta)
            assert ((found[3] - slopes).abs() / slopes.abs().amax(0)).max() < 1e-9


def test_a_graph_says_how_far_outside(tmp_path):
    """The polynomial stands for all here: one export takes seconds."""
    emulator = emulate.fit(Polynomial(), laws.runs(32), seed=0)
    extra = {ABOUT: ""}
    path = export(emulator, tmp_path / "sub" / "emulator.pt2", jacobian=True)
    assert [p.name for p in path.parent.iterdir()] == ["emulator.pt2"]
    graph = torch.export.load(path, extra_files=extra).module()
    agrees(emulator, graph, jacobian=True, mean=1e-13, variance=1e-12)
    assert graph(torch.tensor([[1.0, -0.01, 5.0]], dtype=torch.float64))[2].tolist() == [math.inf]
    told = json.loads(extra[ABOUT])
    assert [(p["name"], p["box"]) for p in told["parameters"]] == [
        ("a", [-1, 3]),
        ("b", [1e-3, 1e-1]),
        ("c", [None, None]),
    ]
    assert [o["label"] for o in told["outputs"]] == list(emulator.outputs.labels)
    assert told["outputs"][2] == {
        "label": "power[k=0.1]",
        "field": "power",
        "unit": "",
        "coordinate": "k",
        "at": 0.1,
        "at_unit": "h/Mpc",
    }
    assert list(told["results"]) == ["mean", "variance", "outside", "jacobian"]


def magnified(f, theta) -> torch.Tensor:
    """How far each column of f `[n, ...]` moves where the last bits of theta do: what another library's exp or another order
    of sums may change, the condition of f (Higham 2002, section 1.6)."""
    near, eps = torch.cat([theta, laws.points(300, seed=5)]), torch.finfo(torch.float64).eps
    return torch.stack([(f(near * (1 + k * eps)) - f(near)).abs().amax(0) for k in (-2, -1, 1, 2)]).amax(0)


def within_its_condition(emulator, graph) -> None:
    """What a graph says is what the emulator says but for four times what the last bits of theta change."""
    theta = laws.points(300, seed=4)
    own, slopes = emulator.moments(theta), emulator.jacobian(theta)
    found, scale = graph(theta), torch.from_numpy(laws.SCALE)
    mean = 4 * magnified(lambda t: emulator.moments(t)[0], theta)
    variance = 4 * magnified(lambda t: emulator.moments(t)[1], theta)
    assert ((found[0] - own[0]).abs() <= 1e-13 * (scale + own[0].abs()) + mean).all()
    assert ((found[1] - own[1]).abs() <= 1e-9 * own[1] + 1e-14 * scale**2 + variance).all()
    assert ((found[3] - slopes).abs() <= 1e-11 * slopes.abs().amax(0) + 4 * magnified(emulator.jacobian, theta)).all()


@pytest.fixture(scope="module")
def pt2(emulator, tmp_path_factory):
    """By whether the Jacobian is asked for; an export takes up to minutes."""
    folder, made = tmp_path_factory.mktemp("pt2"), {}

    def of(*, jacobian: bool):
        if jacobian not in made:
            path = export(emulator, folder / f"{jacobian}.pt2", jacobian=jacobian)
            made[jacobian] = torch.export.load(path).module()
        return made[jacobian]

    return of


@pytest.fixture(scope="module")
def session(emulator, tmp_path_factory):
    onnxruntime = pytest.importorskip("onnxruntime")
    path = export(emulator, tmp_path_factory.mktemp("onnx") / "emulator.onnx", jacobian=True)
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def run_by(session):
    return lambda theta: [torch.from_numpy(x) for x in session.run(None, {"theta": theta.numpy()})]


@pytest.mark.slow
@pytest.mark.parametrize("jacobian", [False, True])
def test_what_is_exported_answers_without_emulate_for_any_number_of_points(emulator, pt2, jacobian):
    graph = pt2(jacobian=jacobian)
    agrees(emulator, graph, jacobian=jacobian, mean=1e-13, variance=1e-11)
    leaf = THETA.clone().requires_grad_()
    (slope,) = torch.autograd.grad(graph(leaf)[0][:, 0].sum(), leaf)
    torch.testing.assert_close(slope, emulator.jacobian(THETA)[:, 0], rtol=1e-6, atol=1e-9)


@pytest.mark.slow
def test_an_exported_graph_moves_by_no_more_than_last_bits_do(emulator, pt2):
    within_its_condition(emulator, pt2(jacobian=True))


GP = {"use": "gp", "mean": "constant", "starts": 1}


@pytest.mark.slow
@pytest.mark.parametrize("spec", [
    *({**GP, "kernel": kernel} for kernel in ("matern52", "matern32", "additive")),
    {"use": "residual", "first": {**GP, "kernel": "rbf"}, "then": {"use": "noisy_gp", "starts": 1}},
], ids=["matern52", "matern32", "additive", "residual"])  # fmt: skip
def test_slopes_in_closed_form_leave_a_graph_that_can_be_differentiated_at_the_runs_too(spec, tmp_path):
    runs = laws.runs(32)
    emulator = laws.FIT(registry.build("emulators", spec), runs, seed=0)
    assert emulator.core.closed
    graph = torch.export.load(export(emulator, tmp_path / "e.pt2", jacobian=True)).module()
    every = emulator.jacobian(THETA)
    assert ((graph(THETA)[3] - every).abs() <= 1e-8 * every.abs().amax(0)).all()
    theta = torch.from_numpy(runs.theta[:4])
    slope = [
        torch.autograd.grad(f(leaf)[0][:, 1].sum(), leaf)[0]
        for f in (graph, emulator.moments)
        for leaf in [theta.clone().requires_grad_()]
    ]
    torch.testing.assert_close(slope[0], slope[1], rtol=1e-6, atol=1e-7 * float(slope[1].abs().max()))


@pytest.mark.slow
def test_onnx_says_what_its_results_are(emulator, session):
    assert [o.name for o in session.get_outputs()] == ["mean", "variance", "outside", "jacobian"]
    told = json.loads(session.get_modelmeta().custom_metadata_map["emulate"])
    assert [p["name"] for p in told["parameters"]] == list(emulator.space.names)


@pytest.mark.slow
def test_onnxruntime_gives_the_same_answers_in_float64(emulator, session):
    """A variance is what a cancellation leaves of the prior's, and a sum in another order leaves a little less or more."""
    agrees(emulator, run_by(session), jacobian=True, mean=1e-10, variance=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["rbf", "matern52", "matern32", "additive"])
def test_portable_arithmetic_leaves_onnxruntime_nothing_to_differ_in(kernel, tmp_path):
    """Weights of 1e5 to 1e7 would turn another exp or another order of sums into 1e-10 and more; variances into 1e-5."""
    onnxruntime = pytest.importorskip("onnxruntime")
    recipe = registry.build("emulators", {**GP, "kernel": kernel, "arithmetic": "portable"})
    emulator = laws.FIT(recipe, laws.runs(32), seed=0)
    path = export(emulator, tmp_path / "e.onnx", jacobian=True)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    agrees(emulator, run_by(session), jacobian=True, mean=1e-12, variance=1e-12)


@pytest.mark.slow
def test_onnxruntime_moves_by_no_more_than_last_bits_do(emulator, session):
    within_its_condition(emulator, run_by(session))


@pytest.mark.slow
def test_slopes_by_onnxruntime_are_those_of_its_mean(session):
    graph, h = run_by(session), 1e-4
    theta = laws.points(3, seed=4, inside=0.1)
    step = torch.tensor([h, 0.0, 0.0], dtype=torch.float64)
    slope = (graph(theta + step)[0] - graph(theta - step)[0]) / (2 * h)
    error = (graph(theta)[3][..., 0] - slope).abs() / torch.from_numpy(laws.SCALE)
    assert error.max() < 1e-5


def test_onnx_takes_no_small_number_for_0_and_none_near_1_for_1(tmp_path):
    """An optimizer of graphs left out what adds 1e-9: parameters of that size had a box that began at 0."""
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    a = torch.linspace(0, 1, 9, dtype=torch.float64)
    theta = torch.stack([1e-9 + 2e-9 * a, (1 + 1e-9) * a.roll(4), 1e-12 * torch.sin(9 * a)], 1)
    box = ((1e-9, 3e-9), (0.0, 1 + 1e-9), (-1e-12, 1e-12))
    names = zip("abc", box, strict=True)
    space = emulate.Space(tuple(emulate.Parameter(n, emulate.Uniform(*ends)) for n, ends in names))
    y = (space.scaled(theta) @ torch.tensor([1.0, 2.0, 3.0]).double()).square()[:, None]
    outputs = emulate.Outputs((emulate.Field("y"), emulate.Field("tiny")))
    runs = emulate.Runs.of(space, outputs, theta.numpy(), torch.cat([y, 1e-12 + 1e-13 * y], 1).numpy())
    emulator = emulate.fit(Polynomial(degree=1), runs, seed=0)
    path = export(emulator, tmp_path / "e.onnx")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for found, own in zip(run_by(session)(theta), (*emulator.moments(theta), emulator.domain(theta)), strict=True):
        torch.testing.assert_close(found, own, rtol=1e-10, atol=0.0)


def test_onnx_without_its_packages_is_refused_before_anything(tmp_path, monkeypatch):
    monkeypatch.setattr("emulate.exchange.find_spec", lambda name: None)
    emulator = emulate.fit(Polynomial(), laws.runs(32), seed=0)
    with pytest.raises(
        InputError, match=r"Missing: onnx, onnxscript; install the extra: pip install 'emulate\[onnx\]'"
    ):
        export(emulator, tmp_path / "e.onnx")


@pytest.mark.parametrize("x", [1e-300, -1e-17, 1e-9, -1e-3, 0.5, 3.0, 40.0, 700.0, -50.0, -800.0, 0.0])
def test_small_numbers_keep_their_digits(x):
    """exp(x) - 1 and ln(1 + x) of exp and ln alone, against those of mpmath."""
    mpmath = pytest.importorskip("mpmath")
    for made, true in ((exchange._expm1, mpmath.expm1), (exchange._log1p, mpmath.log1p)):
        if made is exchange._log1p and x <= -1:
            continue
        found = float(made(torch.tensor(x, dtype=torch.float64)))
        assert found == pytest.approx(float(true(mpmath.mpf(x))), rel=1e-15, abs=0.0)


@pytest.mark.slow  # another process imports torch
def test_a_program_that_never_imports_emulate_runs_it(tmp_path):
    emulator = emulate.fit(Polynomial(), laws.runs(32), seed=0)
    path = export(emulator, tmp_path / "e.pt2")
    code = """
import sys, torch
mean, *_ = torch.export.load(sys.argv[1]).module()(torch.tensor([[1.0, 0.01, 5.0]], dtype=torch.float64))
print(float(mean[0, 0]), "emulate" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-I", "-c", code, str(path)], capture_output=True, text=True, check=True)
    expected = float(emulator.moments(torch.tensor([[1.0, 0.01, 5.0]], dtype=torch.float64))[0][0, 0])
    assert done.stdout.split()[1] == "False"
    assert float(done.stdout.split()[0]) == pytest.approx(expected, rel=1e-14)


def test_the_module_is_the_moments(emulator):
    assert torch.equal(Moments(emulator)(THETA)[1], emulator.moments(THETA)[1])


def test_a_path_of_another_kind_is_refused(tmp_path):
    emulator = emulate.fit(Polynomial(), laws.runs(32), seed=0)
    with pytest.raises(InputError) as caught:
        export(emulator, tmp_path / "emulator.tflite")
    assert str(caught.value) == (f"the path of an exported emulator must end in .pt2 or .onnx. Got {tmp_path / 'emulator.tflite'}; "
                                 "call it emulator.pt2, or emulator.onnx.")  # fmt: skip
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="could not be exported"):
        export(emulator, tmp_path / "file" / "e.pt2")


@dataclass(frozen=True, kw_only=True)
class Counting(Polynomial):
    """A recipe whose prediction looks at a value."""

    def rebuild(self, state):
        core = Polynomial.rebuild(self, state)
        plain = core.forward
        core.forward = lambda u: plain(u if float(u.sum()) > 0 else u + 0)
        return core


def test_a_prediction_that_is_no_graph_is_refused_in_words(tmp_path):
    emulator = emulate.fit(Counting(), laws.runs(32), seed=0)
    with pytest.raises(InputError, match=r"Counting must predict by one graph for any number of points\. Got a prediction that "
                       r"torch\.export cannot follow \(.+\); export an emulator of another recipe\.$"):  # fmt: skip
        export(emulator, tmp_path / "e.pt2")
    assert list(tmp_path.iterdir()) == []
