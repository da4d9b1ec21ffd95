"""Networks trained under differential privacy: what they learn without noise, what their files hold, what is refused."""

import copy
import itertools
import json

import numpy as np
import pytest
import torch

import emulate
from emulate.emulator import fit
from emulate.emulators import _private
from emulate.emulators._private import Tempo, descend, gradients, sizes
from emulate.emulators.flow import Flow
from emulate.emulators.mlp import MLP
from emulate.emulators.polynomial import Polynomial
from emulate.emulators.residual import Residual
from emulate.errors import CampaignError, InputError
from emulate.privacy import Ledger, Privacy
from emulate.runs import Field, Outputs, Runs
from emulate.space import Parameter, Space, Uniform

pytest.importorskip("dp_accounting", reason="privacy needs dp-accounting: pip install emulate[dp]")

SPACE = Space((Parameter("a", Uniform(0.0, 2.0)), Parameter("b", Uniform(-1.0, 1.0))))
OUTPUTS = Outputs((Field("p", coordinate="t", at=(1.0, 2.0)), Field("q")))
RANGES = {"p": (-1.0, 5.0), "q": (-4.0, 4.0)}
PLAIN = {"noise": 0.0, "clip": None, "sampling": 1.0}


def truth(theta: np.ndarray) -> np.ndarray:
    a, b = theta.T
    return np.stack([a + b**2, 1 + a * b, np.sin(2 * a) + b], 1)


def table(n: int = 400, seed: int = 1, noise: float = 0.0) -> Runs:
    theta = SPACE.from_unit(
        torch.quasirandom.SobolEngine(2, scramble=True, seed=seed).draw(n, dtype=torch.float64)
    ).numpy()
    y = truth(theta) + noise * np.random.default_rng(seed).standard_normal((n, 3))
    return Runs.of(SPACE, OUTPUTS, theta, y, stochastic=noise > 0)


def private(**settings) -> Privacy:
    return Privacy(ranges=RANGES, **settings)


def book(runs: int, *, sums: int = 0, **settings) -> Ledger:
    made = Ledger(private(**settings), runs, torch.tensor([0, 0, 1]), seed=3)
    made.open(sums=sums)
    return made


# -- the loop --------------------------------------------------------------------------------------------------------


def quadratic(weights, x, y):
    w, b = weights
    return (torch.tanh(x @ w) + b - y).square().sum()


@pytest.fixture
def problem():
    g = torch.Generator().manual_seed(4)
    x, y, w, b = (torch.randn(*s, generator=g, dtype=torch.float64) for s in ((60, 3), (60, 2), (3, 2), (2,)))
    return x, y, w, b


def test_gradients_are_those_of_each_run(problem):
    x, y, w, b = problem
    found = gradients(quadratic, (w, b), (x, y))
    for i, row in enumerate(found):
        moved = [t.clone().requires_grad_() for t in (w, b)]
        expected = torch.autograd.grad(quadratic(moved, x[i], y[i]), moved)
        torch.testing.assert_close(row, torch.cat([e.flatten() for e in expected]))
    assert gradients(quadratic, (w, b), (x[:0], y[:0])).shape == (0, 8)


def test_gradients_in_parts_are_the_same(problem, monkeypatch):
    x, y, w, b = problem
    whole = gradients(quadratic, (w, b), (x, y))
    monkeypatch.setattr(_private, "_AT_ONCE", 7 * 8)
    torch.testing.assert_close(gradients(quadratic, (w, b), (x, y)), whole, rtol=0, atol=1e-15)


@pytest.mark.slow  # loads opacus
def test_cut_gradients_are_those_of_opacus():
    """A network of layers that opacus knows, its sum of cut gradients against that of a step."""
    opacus = pytest.importorskip("opacus", reason="the judge is opacus")
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.SiLU(), torch.nn.Linear(5, 2)).double()
    x, y = torch.randn(20, 3, dtype=torch.float64), torch.randn(20, 2, dtype=torch.float64)
    bare, wrapped = copy.deepcopy(net), opacus.GradSampleModule(net, loss_reduction="sum")
    (wrapped(x) - y).square().sum().backward()
    search = opacus.optimizers.DPOptimizer(
        torch.optim.SGD(net.parameters(), lr=1.0), noise_multiplier=0.0, max_grad_norm=0.5, expected_batch_size=40
    )
    search.pre_step()
    expected = torch.cat([p.grad.flatten() for p in net.parameters()])

    names = [n for n, _ in net.named_parameters()]

    def loss(weights, x, y):
        return (torch.func.functional_call(bare, dict(zip(names, weights, strict=True)), x) - y).square().sum()

    g = gradients(loss, [p.detach() for p in bare.parameters()], (x, y))
    found = book(40, noise=0.0, clip=0.5, sampling=1.0).step(g)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)  # opacus adds 1e-6 to a length


@pytest.mark.parametrize(("sampling", "schedule"), [(1.0, "cosine"), (0.3, "one_cycle"), (0.3, "constant")])
def test_without_clip_and_noise_it_is_plain_training(problem, sampling, schedule):
    """Adam on the gradient of the sum over the same batches, by torch's own backward pass."""
    x, y, w, b = problem
    settings = {"noise": 0.0, "clip": None, "sampling": sampling, "randomness": "seed", "steps": 80}
    tempo = Tempo(0.02, schedule, decay=0.01)
    ((found_w, found_b),) = descend(quadratic, (w, b), (x, y), book(60, **settings), 80, tempo)

    moved, same = [t.clone().requires_grad_() for t in (w, b)], book(60, **settings)
    search, tail = torch.optim.Adam(moved, lr=0.02), []
    turn = {"cosine": lambda: torch.optim.lr_scheduler.CosineAnnealingLR(search, 80),
            "one_cycle": lambda: torch.optim.lr_scheduler.OneCycleLR(search, 0.02, total_steps=81),
            "constant": lambda: torch.optim.lr_scheduler.ConstantLR(search, 1.0)}[schedule]()  # fmt: skip
    for _ in range(80):
        rows = same.batch(60)
        search.zero_grad()
        loss = sum(quadratic(moved, x[i], y[i]) for i in rows) / (sampling * 60)
        (loss + 0.005 * sum(t.square().sum() for t in moved)).backward()
        search.step()
        turn.step()
        tail.append([t.detach().clone() for t in moved])
    for found, each in zip((found_w, found_b), zip(*tail[60:], strict=True), strict=True):
        torch.testing.assert_close(found, torch.stack(each).mean(0), rtol=0, atol=1e-11)


@pytest.mark.parametrize(("noise", "low", "high"), [(0.0, -0.01, 0.06), (10.0, -0.1, 0.2)])
def test_sizes_are_standard_deviations_field_by_field(noise, low, high):
    """Rather too large than too small: the largest over three levels."""
    n = 4000
    g = torch.Generator().manual_seed(5)
    sd = torch.tensor([0.3, 0.3, 0.004], dtype=torch.float64)
    rest = sd * torch.randn(n, 3, generator=g, dtype=torch.float64)
    found = sizes(rest, book(n, sums=1, noise=noise, clip=1.0, randomness="seed", release=10.0))
    off = (found / sd).log()
    assert ((low < off) & (off < high)).all()


@pytest.mark.parametrize("n", [3, 200])
def test_where_noise_hides_the_runs_errors_are_as_wide_as_can_be(n):
    """What noise alone looks like is never taken for small errors, whatever the seed."""
    wide = 0
    for seed in range(60):
        rest = 0.01 * torch.randn(n, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        hidden = Ledger(private(noise=1.0, clip=1.0, randomness="seed", release=1e3), n, torch.tensor([0, 0, 1]), seed)
        hidden.open(sums=1)
        wide += float(sizes(rest, hidden).min()) > 1.0
    assert wide >= 57, wide


# -- the recipes -----------------------------------------------------------------------------------------------------

QUICK = {
    MLP: {"width": 16, "members": 3, "rate": 0.05},
    Flow: {"width": 16, "transforms": 2, "rate": 0.01, "points": 64},
}


def recipe(cls, **settings):
    return cls(**QUICK[cls], privacy=private(**settings))


@pytest.fixture(scope="module", params=[MLP, Flow], ids=["mlp", "flow"])
def cls(request):
    return request.param


@pytest.fixture(scope="module")
def noisy(cls):
    return fit(recipe(cls, epsilon=8.0, sampling=0.25, steps=40), table(), seed=7)


@pytest.mark.parametrize("cls", [MLP, pytest.param(Flow, marks=pytest.mark.slow)])
def test_without_noise_it_learns(cls):
    emulator = fit(recipe(cls, **{**PLAIN, "sampling": 0.5}, steps=300), table(300), seed=1)
    held_out = table(100, seed=9)
    error = np.abs(emulator.predict(held_out.theta).mean.numpy() - held_out.y)
    assert np.median(error.max(1)) < 0.15 * held_out.y.std()
    p = emulator.predict(held_out.theta)
    inside = (np.abs(p.mean.numpy() - held_out.y) <= 1.96 * p.variance.sqrt().numpy()).mean()
    assert 0.85 < inside <= 1
    assert emulator.provenance["privacy"]["epsilon"] is None
    assert emulator.provenance["privacy"]["promise"] == "No privacy is promised: it learnt without noise."


def test_it_says_what_it_promises(noisy):
    told = noisy.provenance["privacy"]
    assert 7.9 < told["epsilon"] <= 8.0
    assert (told["runs"], told["steps"], told["sums"]) == (400, 40, 2)
    assert "one run of the simulator" in told["promise"]


def test_its_file_holds_nothing_of_a_run(noisy, tmp_path):
    """No place, hash, number or loss; and no bytes of any answer or parameter."""
    folder, runs = noisy.save(tmp_path / "x"), table()
    loaded = emulate.load(folder)
    assert (loaded.design, loaded.taught, loaded.history) == (None, None, ())
    assert not {"failed", "runs_sha256"} & set(loaded.provenance)
    content = b"".join(f.read_bytes() for f in folder.rglob("*") if f.is_file())
    for value in itertools.chain(runs.y.ravel(), runs.theta[runs.theta != 0]):
        assert value.tobytes() not in content
        assert repr(float(value)).encode() not in content or len(repr(float(value))) < 8
    theta = torch.tensor([[0.5, 0.5]], dtype=torch.float64)
    assert torch.equal(loaded.predict(theta).mean, noisy.predict(theta).mean)
    assert loaded.recipe == noisy.recipe
    assert json.loads(json.dumps(loaded.provenance)) == noisy.provenance


def test_it_does_not_say_where_it_was_taught(noisy):
    with pytest.raises(InputError, match=r"Got one that is private and does not say it; ask with outside = \"box\"\.$"):
        noisy.predict([[0.5, 0.5]], outside="refuse")
    with pytest.raises(InputError, match=r"Got one that is private and holds none\.$"):
        noisy.taught_by(table())


def test_what_standardises_is_the_same_whatever_the_runs(cls):
    made = []
    for runs in (table(40), table(40, seed=5, noise=0.3)):
        emulator = fit(recipe(cls, noise=1.0, steps=2, sampling=1.0, delta=1e-3), runs, seed=1)
        made.append(emulator.transform.state_dict())
    assert all(torch.equal(made[0][k], made[1][k]) for k in made[0])


def test_a_failed_run_teaches_nothing_and_is_not_told(cls):
    """The number of runs is that of all, and divides every sum; how many finished stands nowhere."""
    runs = table(60)
    y = np.where(np.arange(60)[:, None] % 3 > 0, runs.y, np.nan)
    emulator = fit(recipe(cls, **PLAIN, steps=8), Runs.of(SPACE, OUTPUTS, runs.theta, y), seed=1)
    assert emulator.provenance["runs"] == emulator.provenance["privacy"]["runs"] == 60
    assert "failed" not in emulator.provenance


def test_noise_is_new_in_every_fit_unless_it_comes_from_the_seed(cls):
    theta = torch.tensor([[0.5, 0.5]], dtype=torch.float64)
    for randomness, same in (("system", False), ("seed", True)):
        a, b = (fit(recipe(cls, noise=1.0, steps=4, sampling=0.5, delta=1e-3, randomness=randomness), table(60), seed=1)
                for _ in range(2))  # fmt: skip
        assert torch.equal(a.predict(theta).mean, b.predict(theta).mean) == same


def test_too_few_runs_are_counted_with_those_that_failed(cls):
    with pytest.raises(CampaignError, match="Got 4; run more points"):
        fit(recipe(cls, epsilon=1.0), table(4), seed=1)


@pytest.mark.slow
def test_more_budget_is_less_error_and_error_bars_follow():
    """Errors over held-out runs at epsilon 0.3 and 10, and intervals of 95 % at both, over fits that each draw their noise."""
    runs, held_out, median = table(2000), table(300, seed=9), []
    for epsilon in (0.3, 10.0):
        errors, held = [], []
        for _ in range(4):
            emulator = fit(recipe(MLP, epsilon=epsilon, sampling=0.1, steps=400, clip=0.3), runs, seed=1)
            p = emulator.predict(held_out.theta)
            errors.append(np.abs(p.mean.numpy() - held_out.y))
            held.append((errors[-1] <= 1.96 * p.variance.sqrt().numpy()).mean())
        median.append(np.median(np.max(errors, -1)))
        assert 0.88 < np.mean(held) < 0.995, held
    assert median[1] < 0.6 * median[0]


@pytest.mark.parametrize(
    ("made", "settings", "said"),
    [
        (MLP, {"calibrate": "conformal"}, "mlp.calibrate .* privacy set calibrate: true"),
        (MLP, {"log": "auto"}, "mlp.log .* privacy set log: true"),
        (MLP, {"heads": "variance", "optimizer": "lbfgs"}, "privacy set heads: mean, optimizer: adam"),
        (MLP, {"sobolev": 1.0}, "privacy set sobolev: 0"),
        (Flow, {"members": 2}, "flow.members .* privacy set members: 1"),
        (Flow, {"slopes": 0.5, "calibrate": "conformal"}, "privacy set calibrate: true, slopes: 0"),
    ],
)
def test_settings_that_look_at_runs_without_noise_are_refused(made, settings, said):
    with pytest.raises(InputError, match=said):
        made(privacy=private(epsilon=1.0), **settings)


def test_a_private_recipe_inside_of_another_is_refused():
    inner = recipe(MLP, epsilon=1.0)
    with pytest.raises(InputError, match=r"mlp\.privacy must stand in a recipe that is fitted alone"):
        fit(Residual(first=Polynomial(degree=1), then=inner), table(60), seed=1)
