"""Where tensors lie. Without a GPU the default device is made `meta`, which holds no values: whatever a prediction makes
without saying where, as it would on the CPU for an emulator on a GPU, then has none, and the answers are not those of before.
"""

import copy

import numpy as np
import pytest
import torch

import emulate
from emulate import registry
from emulate.devices import chosen
from emulate.distributions import drawn
from emulate.emulators.svgp import SVGP
from emulate.errors import InputError
from emulate.pushforward import Moved
from tests import laws

QUICK = {
    "flow": {"epochs": 2, "points": 32},
    "gradient_gp": {"kernel": "rbf", "mean": "constant", "starts": 1},
    "mlp": {"epochs": 5},
    "residual": {"then": {"use": "mlp", "members": 3, "epochs": 5}},
}
HEAVY = ("gradient_gp", "mlp", "response", "svgp", "multifidelity")  # to fit
THETA = laws.points(5, seed=3)
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU, and none is found")


@pytest.fixture(scope="module", params=[pytest.param(n, marks=[pytest.mark.slow] if n in HEAVY else [])
                                        for n in registry.names("emulators")])  # fmt: skip
def emulator(request):
    spec = {"use": request.param, **registry.find("emulators", request.param).example, **QUICK.get(request.param, {})}
    return laws.FIT(registry.build("emulators", spec), laws.runs(32), seed=0)


def answers(emulator, theta) -> list[torch.Tensor]:
    p = emulator.predict(theta, outside="inflate")
    q = emulator.predict(theta)
    leaf = theta.clone().requires_grad_()
    (slope,) = torch.autograd.grad((emulator.predict(leaf).mean / p.mean.detach()).sum(), leaf)
    return [p.mean, p.variance, q.covariance_matrix, q.log_prob(q.mean), drawn(q, (3,), seed=1), *emulator.moments(theta),
            emulator.jacobian(theta), emulator.domain(theta), emulator.remoteness(theta), slope]  # fmt: skip


def test_a_prediction_makes_no_tensor_without_saying_where(emulator):
    before = answers(copy.deepcopy(emulator), THETA)
    with torch.device("meta"):
        there = answers(copy.deepcopy(emulator), THETA)
    for a, b in zip(before, there, strict=True):
        assert torch.equal(a, b)


def test_all_that_an_emulator_keeps_moves_with_it(emulator):
    """`meta` again: a tensor that stays behind would be found beside those that went."""
    moved = copy.deepcopy(emulator).to("meta")
    held = [
        (type(m).__name__, n, v) for m in moved.modules() for n, v in vars(m).items() if isinstance(v, torch.Tensor)
    ]
    held += [("buffer", n, v) for n, v in moved.named_buffers()]
    held += [("parameter", n, v) for n, v in moved.named_parameters()]
    assert {(kind, n) for kind, n, v in held if v.device.type != "meta"} == set()
    assert moved.device.type == "meta"


def test_a_saved_emulator_knows_no_device(emulator, tmp_path):
    emulator.save(tmp_path / "e")
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="no GPU that torch can use"):
            emulate.load(tmp_path / "e", device="cuda")
    assert "cuda" not in (tmp_path / "e" / "emulator.json").read_text()
    again = emulate.load(tmp_path / "e", device="auto").to("cpu")
    assert torch.equal(again.predict(THETA).mean, emulator.predict(THETA).mean)


@GPU
def test_a_gpu_gives_the_same_answers_where_the_points_lie(emulator, tmp_path):
    there = emulate.load(emulator.save(tmp_path / "e"), device="cuda")
    assert there.device.type == "cuda"
    far = THETA.to("cuda")
    scale = torch.from_numpy(laws.SCALE)
    for theta in (THETA, far):
        mean = there.predict(theta).mean
        assert mean.device == theta.device
        assert ((mean.cpu() - emulator.predict(THETA).mean).abs() / scale).max() < 1e-9
        torch.testing.assert_close(
            there.predict(theta).variance.cpu(), emulator.predict(THETA).variance, rtol=1e-6, atol=0.0
        )
        slopes, own = there.jacobian(theta).cpu(), emulator.jacobian(THETA)
        assert ((slopes - own).abs() / own.abs().amax(0)).max() < 1e-9
    assert there.predict(THETA.numpy()).sample().device.type == "cpu"
    again = emulate.load(there.save(tmp_path / "again"))
    assert torch.equal(again.predict(THETA).mean, emulator.predict(THETA).mean)


@GPU
def test_an_exact_process_trained_on_a_gpu_is_that_of_the_cpu():
    cpu, gpu = (emulate.fit(SVGP(exact=True, inducing=20, device=d), laws.runs(64), seed=0) for d in ("cpu", "cuda"))
    error = (cpu.predict(THETA).mean - gpu.predict(THETA).mean).abs() / torch.from_numpy(laws.SCALE)
    assert error.max() < 1e-9


def test_a_prediction_that_was_moved_is_the_same():
    """From the CPU to the CPU: the wrapper itself."""
    one = torch.ones(2, 3, dtype=torch.float64)
    inner = torch.distributions.Independent(torch.distributions.Normal(one, 2 * one), 1)
    moved = Moved(inner, one.device, one.device)
    assert torch.equal(moved.log_prob(one), inner.log_prob(one))
    assert (moved.batch_shape, moved.event_shape) == ((2,), (3,))
    np.testing.assert_array_equal(moved.variance, inner.variance)


def test_a_device_that_is_none_is_refused_in_words(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=r"^device must be there\. Got cuda, and this machine has no GPU that torch can use: .+; "
                                         r"set device: auto, which takes one where it is, or cpu\.$"):  # fmt: skip
        chosen("cuda")
    assert chosen("auto") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert chosen("auto").type == "cuda"
    with pytest.raises(InputError, match=r"^device must be one of cuda:0 to cuda:1\. Got cuda:2; choose another\.$"):
        chosen("cuda:2")
    with pytest.raises(InputError, match=r"^device must be cpu, cuda, cuda:N for the N-th GPU, or auto\. Got 'gpu'\.$"):
        chosen("gpu")
