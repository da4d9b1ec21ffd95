"""An emulator is a torch.nn.Module: its weights, its device and dtype, its place in a model, torch's transformations."""

import copy

import pytest
import torch

from emulate import registry
from emulate.adapters.torch import Mean
from emulate.emulator import fit
from emulate.errors import InputError
from tests import laws
from tests.adapters import line

THETA = laws.points(5, seed=2)
RECIPES = {"polynomial": {}, "mlp": {"epochs": 2, "members": 3, "width": 8}}


@pytest.fixture(scope="module", params=RECIPES)
def pair(request):
    """Two emulators of one recipe on other runs."""
    recipe = registry.build("emulators", {"use": request.param, **RECIPES[request.param]})
    return tuple(fit(recipe, laws.runs(30, seed=s), seed=s) for s in (1, 2))


@pytest.fixture(scope="module")
def straight():
    return line.emulator()


def test_weights_of_another_make_it_the_other(pair):
    """Also where it lies deep in a model, and has answered before, so that something may be kept from then."""
    one, other = pair
    model = torch.nn.Sequential(torch.nn.Identity(), Mean(copy.deepcopy(one)))
    own = model[1].emulator
    own.jacobian(THETA), own.remoteness(THETA)
    model.load_state_dict(torch.nn.Sequential(torch.nn.Identity(), Mean(other)).state_dict())
    for mine, told in zip(own.moments(THETA), other.moments(THETA), strict=True):
        assert (mine == told).all()
    assert not (own.moments(THETA)[0] == one.moments(THETA)[0])[:, 1:].any()  # the first output is a line, for both
    assert (own.jacobian(THETA) == other.jacobian(THETA)).all()
    assert (own.remoteness(THETA) == other.remoteness(THETA)).all()


def test_a_copy_is_one_of_its_own(pair):
    one, other = pair
    made = copy.deepcopy(one)
    made.load_state_dict(other.state_dict())
    assert not (made.moments(THETA)[0] == one.moments(THETA)[0])[:, 1:].any()


def test_nothing_in_it_is_trained(pair):
    one, _ = pair
    assert not [p for p in one.parameters() if p.requires_grad]
    before = {n: t.clone() for n, t in one.state_dict().items()}
    first = torch.nn.Linear(3, one.space.d, dtype=torch.float64)
    model = torch.nn.Sequential(first, torch.nn.Sigmoid(), Mean(one)).train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(torch.ones(4, 3, dtype=torch.float64)).log().sum().backward()
    assert first.weight.grad.abs().min() > 0
    optimizer.step()
    assert all((t == before[n]).all() for n, t in one.state_dict().items())


def test_gradients_flow_through_it_to_the_layers_before(pair):
    """By torch's own numerical differences, of the weights of a layer."""
    last = Mean(pair[0])
    bias = torch.zeros(last.emulator.space.d, dtype=torch.float64, requires_grad=True)

    def of(b):
        return last(last.emulator.space.from_unit(torch.sigmoid(b))).log()

    assert torch.autograd.gradcheck(of, bias, eps=1e-5, rtol=1e-4)


def test_a_line_is_inverted_by_training_what_stands_before(straight):
    theta = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
    goal = torch.tensor(line.A @ [0.4, -0.3] + line.B)
    optimizer = torch.optim.LBFGS([theta], line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        value = (Mean(straight)(theta) - goal).square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    assert theta.tolist() == pytest.approx([0.4, -0.3], abs=1e-5)


def test_torch_func_maps_and_differentiates_it(pair):
    """In units of each output's own variation, for they differ by 23 orders of magnitude."""
    one, _ = pair
    scale = torch.from_numpy(laws.SCALE)

    def mean(t):
        return Mean(one)(t) / scale

    torch.testing.assert_close(torch.func.vmap(mean)(THETA), mean(THETA), rtol=1e-12, atol=1e-12)
    for way in (torch.func.jacrev, torch.func.jacfwd):
        torch.testing.assert_close(
            torch.func.vmap(way(mean))(THETA), one.jacobian(THETA) / scale[:, None], rtol=1e-6, atol=1e-8
        )
    shift = torch.tensor([1e-4, 0.0, 0.0], dtype=torch.float64)
    up, down = (one.jacobian(THETA[0] + s) / scale[:, None] for s in (shift, -shift))
    hessian = torch.func.hessian(mean)(THETA[0])
    torch.testing.assert_close(hessian[..., 0], (up - down) / 2e-4, rtol=1e-3, atol=1e-4)
    assert hessian[..., 0].abs().max() > 0.01


def test_torch_compile_takes_it_in_one_graph(straight):
    """Traced and not generated: what a compiler makes of the graph is torch's to test."""
    mean = Mean(straight)
    compiled = torch.compile(mean, backend="aot_eager", fullgraph=True)
    theta = torch.zeros(7, 2, dtype=torch.float64, requires_grad=True)
    y = compiled(theta)
    torch.testing.assert_close(y, mean(theta), rtol=1e-12, atol=1e-12)
    y[:, 0].sum().backward()
    torch.testing.assert_close(theta.grad[0], torch.tensor(line.A[0]))


@pytest.mark.slow
def test_torch_compile_generates_code_for_it(straight):
    mean = Mean(straight)
    theta = torch.linspace(-1, 1, 14, dtype=torch.float64).reshape(7, 2)
    torch.testing.assert_close(torch.compile(mean)(theta), mean(theta), rtol=1e-12, atol=1e-12)


def test_it_moves_and_stays_in_float64(straight):
    assert straight.to("cpu") is straight
    assert straight.to(torch.float64) is straight
    assert all(t.is_meta for t in copy.deepcopy(straight).to("meta").state_dict().values())
    with pytest.raises(InputError, match=r"must stay in float64.*Got torch.float32"):
        torch.nn.Sequential(Mean(straight)).float()


def test_the_layer_keeps_the_guard_where_it_is_asked_to(pair):
    far = THETA[0] + 10 / pair[0].space.stretch(THETA[0])
    with pytest.raises(InputError, match="theta must lie in the box"):
        Mean(pair[0], outside="refuse")(far)
    with pytest.raises(InputError, match="outside must be one of box, warn"):
        Mean(pair[0], outside="refused")
