"""An emulator's moments as a function of tensors: torch.func, torch.export, and programs that know no `emulate`."""

import json
import subprocess
import sys
from dataclasses import dataclass

import pytest
import torch

import emulate
from emulate import registry
from emulate.emulators.polynomial import Polynomial
from emulate.errors import InputError, StoreError
from emulate.program import Moments, export
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
        rounding = 1e-12 * torch.from_numpy(laws.SCALE) + 1e-15 * mean.abs()
        assert ((m - mean[: len(m)]).abs() <= rounding[: len(m)]).all()
        torch.testing.assert_close(v, variance[: len(v)], rtol=1e-6, atol=0.0)


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


@pytest.mark.slow
def test_what_is_exported_answers_without_emulate_for_any_number_of_points(emulator, tmp_path):
    path = export(emulator, tmp_path / "sub" / "emulator.pt2")
    assert [p.name for p in path.parent.iterdir()] == ["emulator.pt2"]
    extra = {"names.json": ""}
    graph = torch.export.load(path, extra_files=extra).module()
    assert json.loads(extra["names.json"]) == {"parameters": ["a", "b", "c"], "outputs": list(emulator.outputs.labels)}
    for n in (1, 2, 7, 300):
        theta = laws.points(n, seed=4)
        for found, own in zip(graph(theta), emulator.moments(theta), strict=True):
            torch.testing.assert_close(found, own, rtol=1e-12, atol=0.0)
    leaf = THETA.clone().requires_grad_()
    (slope,) = torch.autograd.grad(graph(leaf)[0][:, 0].sum(), leaf)
    torch.testing.assert_close(slope, emulator.jacobian(THETA)[:, 0], rtol=1e-6, atol=1e-9)


@pytest.mark.slow  # another process imports torch
def test_a_program_that_never_imports_emulate_runs_it(tmp_path):
    emulator = emulate.fit(Polynomial(), laws.runs(32), seed=0)
    path = export(emulator, tmp_path / "e.pt2")
    code = """
import sys, torch
mean, _ = torch.export.load(sys.argv[1]).module()(torch.tensor([[1.0, 0.01, 5.0]], dtype=torch.float64))
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
        export(emulator, tmp_path / "emulator.onnx")
    assert str(caught.value) == (f"the path of an exported emulator must end in .pt2. Got {tmp_path / 'emulator.onnx'}; call it "
                                 "emulator.pt2.")  # fmt: skip
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
