"""The deep ensemble: accuracy against its own trend, calibration by coverage, the split, both ways to learn."""

import math

import numpy as np
import pytest
import torch

import emulate
from emulate.contracts import Core
from emulate.emulators import _networks
from emulate.emulators._kernels import MEANS, basis
from emulate.emulators.mlp import MLP, _variance
from emulate.emulators.polynomial import Polynomial
from emulate.errors import InputError
from emulate.runs import Field, Outputs, Runs
from emulate.space import Parameter, Space, Uniform

K = tuple(np.geomspace(0.02, 1.0, 8))


def sobol(n: int, d: int, seed: int) -> np.ndarray:
    return torch.quasirandom.SobolEngine(d, scramble=True, seed=seed).draw(n, dtype=torch.float64).numpy()


def spectrum(u: np.ndarray) -> np.ndarray:
    """A smooth power spectrum `[n, 8]` of four parameters: BBKS (Bardeen et al. 1986) with a bent amplitude."""
    c = u - 0.5
    k, om, h = np.array(K), 0.3 + 0.15 * c[:, 2:3], 0.7 + 0.15 * c[:, 3:]
    q = k / (om * h)
    t = (
        np.log(1 + 2.34 * q)
        / (2.34 * q)
        * (1 + 3.89 * q + (16.1 * q) ** 2 + (5.46 * q) ** 3 + (6.71 * q) ** 4) ** -0.25
    )
    return (
        2e4
        * (1 + 0.4 * c[:, :1])
        * (k / 0.05) ** (0.96 + 0.1 * c[:, 1:2])
        * t**2
        * om**0.55
        * (1 + 3 * k * om * (1 + u[:, :1]))
    )


def spectra(n: int, seed: int) -> Runs:
    space = Space(tuple(Parameter(f"x{i}", Uniform(0.0, 1.0)) for i in range(4)))
    u = sobol(n, 4, seed)
    return Runs.of(space, Outputs((Field("pk", "", True, "k", K),)), u, spectrum(u))


def table(u: np.ndarray, y: np.ndarray, jacobian: np.ndarray | None = None) -> Runs:
    space = Space(tuple(Parameter(f"x{i}", Uniform(0.0, 1.0)) for i in range(u.shape[1])))
    m = 1 if y.ndim == 1 else y.shape[1]
    return Runs.of(space, Outputs(tuple(Field(f"y{j}") for j in range(m))), u, y, jacobian=jacobian)


@pytest.fixture(scope="module")
def emulator():
    return emulate.fit(MLP(), spectra(64, 0), seed=0)


def test_64_runs_of_a_spectrum_to_a_thousandth_and_better_than_the_trend(emulator):
    new = sobol(512, 4, 9)
    error = lambda e: np.median(np.abs(e.predict(new).mean.numpy() / spectrum(new) - 1).max(1))  # noqa: E731
    assert error(emulator) < 1e-3
    assert error(emulator) < 0.5 * error(emulate.fit(Polynomial(), spectra(64, 0), seed=0))


@pytest.mark.slow
def test_intervals_hold_what_they_say():
    """95 % coverage of new points, in the mean over six designs of a spectrum and of a product of waves."""
    inside, new4, new2 = [], sobol(512, 4, 99), sobol(512, 2, 99)
    wave = lambda u: np.sin(4 * u[:, 0]) * np.cos(3 * u[:, 1])  # noqa: E731
    for seed in range(3):
        p = emulate.fit(MLP(), spectra(64, seed), seed=seed).predict(new4)
        inside.append((np.abs(p.mean.numpy() - spectrum(new4)) < 1.96 * p.stddev.numpy()).mean())
        u = sobol(48, 2, seed)
        p = emulate.fit(MLP(), table(u, wave(u)), seed=seed).predict(new2)
        inside.append((np.abs(p.mean[:, 0].numpy() - wave(new2)) < 1.96 * p.stddev[:, 0].numpy()).mean())
    assert 0.90 < np.mean(inside) < 0.995, inside


def test_calibration_is_right_for_errors_of_a_known_law():
    """e = b + s_i with variances B and S: the variance told is B + S / members, the ensemble's own, within 10 %."""
    rng = np.random.default_rng(0)
    members, n = 10, 20000
    for shared, own in ((1.0, 0.5), (0.2, 2.0)):
        error = shared**0.5 * rng.normal(size=(1, n, 1)) + own**0.5 * rng.normal(size=(2, n, 1))
        residual, inflation = _variance(torch.from_numpy(error), members, calibrate=True)
        told = float(inflation * (own + residual))  # on new points all members err, and their spread is S
        assert told == pytest.approx(shared + own / members, rel=0.1)


def test_another_seed_another_ensemble(emulator):
    again = emulate.fit(MLP(epochs=3), spectra(64, 0), seed=1)
    other = emulate.fit(MLP(epochs=3), spectra(64, 0), seed=2)
    u = sobol(3, 4, 1)
    assert not torch.equal(again.predict(u).mean, other.predict(u).mean)


def test_the_history_has_a_row_per_epoch_and_falls(emulator):
    assert 1 < len(emulator.history) <= emulator.recipe.epochs
    assert set(emulator.history[0]) == {"loss", "held_out_loss"}
    assert emulator.history[-1]["loss"] < 0.5 * emulator.history[0]["loss"]
    assert min(h["held_out_loss"] for h in emulator.history) < emulator.history[0]["held_out_loss"]


@pytest.mark.parametrize(
    "setting", [{"members": 4, "width": 8, "layers": 1}, {"trend": "constant"}, {"trend": "linear"}]
)
def test_settings_shape_the_network(setting):
    recipe = MLP(**{"epochs": 2, **setting})
    core = emulate.fit(recipe, spectra(64, 0), seed=0).core
    assert core.weight0.shape == (recipe.members, 4, recipe.width)
    assert core.beta.shape[1] == {"constant": 1, "linear": 5, "auto": 15}[recipe.trend]
    assert hasattr(core, f"weight{recipe.layers}")
    assert not hasattr(core, f"weight{recipe.layers + 1}")


def test_members_disagree_more_outside_than_inside(emulator):
    with pytest.warns(emulate.ExtrapolationWarning):
        outside = emulator.predict(np.full((1, 4), 1.5)).stddev / emulator.predict(np.full((1, 4), 1.5)).mean
    inside = emulator.predict(np.full((1, 4), 0.5))
    assert (outside > 5 * inside.stddev / inside.mean).all()


def test_many_runs_are_learnt_in_batches():
    u, new = sobol(2048, 2, 0), sobol(256, 2, 9)
    f = lambda u: np.sin(3 * u[:, 0]) * np.cos(2 * u[:, 1])  # noqa: E731
    p = emulate.fit(MLP(members=5, optimizer="adam"), table(u, f(u)), seed=0).predict(new)
    error = p.mean[:, 0].numpy() - f(new)
    assert np.sqrt((error**2).mean()) < 0.005 * f(new).std()
    assert (np.abs(error) < 4 * p.stddev[:, 0].numpy()).mean() > 0.9


@pytest.mark.parametrize("case", ["duplicated", "constant", "one parameter", "along a line"])
def test_hard_tables_give_finite_answers(case):
    u = {"duplicated": np.repeat(sobol(12, 2, 1), 2, axis=0), "along a line": np.linspace(0, 1, 24)[:, None] * [1, 1],
         "one parameter": sobol(24, 1, 1)}.get(case, sobol(24, 2, 1))  # fmt: skip
    y = np.full(24, 7.0) if case == "constant" else np.sin(3 * u.sum(1))
    emulator = emulate.fit(MLP(epochs=10), table(u, y), seed=0)
    p = emulator.predict(u)
    for t in (p.mean, p.variance, emulator.jacobian(u), p.log_prob(p.mean)):
        assert torch.isfinite(t).all()
    assert (p.variance > 0).all()
    assert np.abs(p.mean[:, 0].numpy() - y).max() < (1e-9 if case == "constant" else 0.5)


def test_every_member_is_a_plain_network_on_a_polynomial():
    u, new = sobol(60, 2, 0), torch.from_numpy(sobol(9, 2, 5))
    y = np.sin(4 * u[:, 0]) * np.exp(u[:, 1])
    core = emulate.fit(MLP(members=3, epochs=3, width=8, layers=3, trend="linear"), table(u, y), seed=0).core
    h, twins = torch.cat([torch.ones(9, 1).double(), 2 * new - 1], 1), []
    for i in range(3):
        x = math.sqrt(12) * (new - 0.5)
        for layer in range(4):
            x = x @ getattr(core, f"weight{layer}")[i] + getattr(core, f"bias{layer}")[i]
            x = x * torch.sigmoid(x) if layer < 3 else x
        twins.append(x * core.scale[i] + h @ core.beta[i])
    twins, p = torch.stack(twins), core(new)
    torch.testing.assert_close(core.members(new), twins, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(p.mean, twins.mean(0), rtol=1e-10, atol=1e-10)
    spread = (twins - twins.mean(0)).square().mean(0)
    torch.testing.assert_close(p.variance, core.inflation * (spread + core.residual), rtol=1e-9, atol=0.0)


def test_every_run_has_two_members_that_never_saw_it():
    """Another value of one run leaves the trend of exactly two members as it was."""
    u = torch.from_numpy(sobol(40, 2, 0))
    z, recipe = torch.sin(4 * u[:, :1]), MLP(members=5, epochs=1)
    first = recipe.train(u, z, noisy=False, seed=0)
    for i in (0, 17, 39):
        other = z.clone()
        other[i] += 1
        second = recipe.train(u, other, noisy=False, seed=0)
        assert int((first.beta == second.beta).flatten(1).all(1).sum()) == 2


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.05, 0.5])
def test_intervals_hold_new_noisy_runs(noise):
    rng, inside, error = np.random.default_rng(0), [], []
    f, new = lambda u: np.sin(4 * u[:, 0]) * np.exp(u[:, 1]), sobol(500, 2, 99)
    for seed in range(2):
        u = sobol(200, 2, seed)
        p = emulate.fit(MLP(epochs=8), table(u, f(u) + noise * rng.normal(size=200)), seed=seed).predict(new)
        off = np.abs(p.mean[:, 0].numpy() - f(new) - noise * rng.normal(size=500))
        inside.append((off < 1.96 * p.stddev[:, 0].numpy()).mean())
        error.append(np.sqrt((off**2).mean()))
    assert 0.88 < np.mean(inside) < 0.999
    assert np.mean(error) < 1.15 * noise + 0.02


def test_batches_repeat_by_their_seed_and_tell_their_learning_rate():
    u, recipe = sobol(200, 2, 0), MLP(epochs=4, members=3, optimizer="adam", batch=64)
    first, second = (emulate.fit(recipe, table(u, u.prod(1) ** 3), seed=1) for _ in range(2))
    assert torch.equal(first.predict(u).mean, second.predict(u).mean)
    rates = [epoch["learning_rate"] for epoch in first.history]
    assert len(rates) == 4
    assert max(rates) <= recipe.rate
    assert rates[-1] < rates[1]


@pytest.mark.parametrize("schedule", ["one_cycle", "cosine", "constant"])
def test_every_schedule_starts_and_ends_as_it_says(schedule):
    u = sobol(128, 2, 0)
    recipe = MLP(epochs=8, members=3, optimizer="adam", batch=64, schedule=schedule)
    rates = [h["learning_rate"] / recipe.rate for h in emulate.fit(recipe, table(u, u.prod(1)), seed=0).history]
    start, late = {"one_cycle": (1 / 25, 0.1), "cosine": (1.0, 0.1), "constant": (1.0, 1.0)}[schedule]
    assert rates[0] == pytest.approx(start)
    assert rates[-1] <= late


def test_a_training_that_flies_apart_keeps_the_best_weights_it_had():
    u = sobol(60, 2, 0)
    y = np.sin(4 * u[:, 0]) * np.exp(u[:, 1])
    emulator = emulate.fit(MLP(epochs=5, rate=1e200, trend="quadratic", optimizer="adam"), table(u, y), seed=0)
    error = emulator.predict(u).mean[:, 0].numpy() - y
    assert np.sqrt((error**2).mean()) < y.std()


def test_training_stops_when_no_member_gets_better():
    """Of pure noise the first epochs are the best; with more patience it goes on for longer."""
    u, y = sobol(60, 2, 0), np.random.default_rng(0).normal(size=60)
    short, long = (emulate.fit(MLP(patience=k, members=3, epochs=60), table(u, y), seed=0).history for k in (2, 6))
    assert len(short) < len(long) < 60
    assert short == long[: len(short)]


@pytest.fixture(scope="module")
def lessons():
    """u `[60, 3]` and z, dz/du of one and of five outputs: fewer than parameters, and more."""
    x = torch.from_numpy(sobol(60, 3, 0)).requires_grad_()
    waves = [torch.sin(4 * x[:, 0]) * torch.exp(x[:, 1]) + x[:, 2] ** 3, x.prod(1), *torch.cos(3 * x).T]
    slopes = torch.stack([torch.autograd.grad(w.sum(), x, retain_graph=True)[0] for w in waves], 1)
    return {p: (x.detach(), torch.stack(waves[:p], 1).detach(), slopes[:, :p]) for p in (1, 5)}


@pytest.mark.parametrize("p", [1, 5])
@pytest.mark.parametrize("setting", [{}, {"activation": "learned"}, {"heads": "variance"}, {"trend": "constant"},
                                     {"layers": 1}, {"layers": 4, "trend": "linear"}, {"sobolev": 1.0},
                                     {"activation": "learned", "heads": "variance", "layers": 3}])  # fmt: skip
def test_closed_slopes_are_those_of_autograd(lessons, setting, p):
    u, z, slopes = lessons[p]
    recipe = MLP(members=3, epochs=2, width=8, **setting)
    core = recipe.train(u, z, noisy=False, seed=0, slopes=slopes if "sobolev" in setting else None)
    none = [core.tangent(u[:0])[0].mean, *core.slopes(u[:0])]
    assert [t.shape for t in none] == [(0, p), (0, p, 3), (0, p, 3)]
    for n in (1, 7, 90):
        x = torch.from_numpy(sobol(90, 3, 5)[:n])
        told, closed = core.tangent(x)
        twin = core(x)
        torch.testing.assert_close(told.mean, twin.mean, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(told.variance, twin.variance, rtol=1e-12, atol=1e-12)
        for ours, slow in zip(closed, Core.slopes(core, x), strict=True):
            torch.testing.assert_close(ours, slow, rtol=1e-12, atol=1e-12 * float(slow.abs().max()))


@pytest.mark.parametrize("p", [1, 5])
def test_slopes_of_many_points_are_those_of_each(lessons, p, monkeypatch):
    """In pieces of a few points each, the last of which is shorter; after the weights were put elsewhere too."""
    u, z, _ = lessons[p]
    core = MLP(members=3, epochs=2, width=8, heads="variance").train(u, z, noisy=False, seed=0)
    whole = core.slopes(u)
    monkeypatch.setattr(_networks, "_CACHE", 2**9)
    core._apply(torch.clone)
    assert core._chains[0].rows < 30
    for one, other in zip(whole, core.slopes(u), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)


def test_the_learned_activation_is_that_of_its_formula():
    core = emulate.fit(MLP(members=3, epochs=5, width=6, layers=1, activation="learned"), spectra(64, 0), seed=0).core
    u, i = torch.from_numpy(sobol(5, 4, 3)), 1
    a = math.sqrt(12) * (u - 0.5) @ core.weight0[i] + core.bias0[i]
    f = (core.gamma0[i] + torch.sigmoid(core.alpha0[i] * a) * (1 - core.gamma0[i])) * a
    twin = (f @ core.weight1[i] + core.bias1[i]) * core.scale[i] + basis(u, MEANS[int(core.trend)]) @ core.beta[i]
    torch.testing.assert_close(core.members(u)[i], twin, rtol=1e-10, atol=1e-10)
    assert (core.alpha0 - 1).abs().max() > 1e-3  # it did learn
    assert core.gamma0.abs().max() > 1e-3


def test_the_last_layer_is_the_best_for_its_hidden_units():
    """The projected loss has no slope left in the last layer: its own search finds nothing better."""
    u = torch.from_numpy(sobol(60, 2, 0))
    z = torch.stack([torch.sin(4 * u[:, 0]) * torch.exp(u[:, 1]), u.prod(1) ** 2], 1)
    z = (z - z.mean(0)) / z.std(0)
    recipe = MLP(members=3, epochs=3, width=8, ridge=1e-4)
    core = recipe.train(u, z, noisy=False, seed=0)
    fold = torch.randperm(60, generator=torch.Generator().manual_seed(0)) % 3
    for i in range(3):
        seen = (fold - i) % 3 >= 2
        hidden = math.sqrt(12) * (u - 0.5)
        for layer in range(2):
            hidden = torch.nn.functional.silu(
                hidden @ getattr(core, f"weight{layer}")[i] + getattr(core, f"bias{layer}")[i]
            )
        rest = (z - basis(u, MEANS[int(core.trend)]) @ core.beta[i]) / core.scale[i]
        last, bias = core.weight2[i].clone().requires_grad_(), core.bias2[i].clone().requires_grad_()
        loss = (hidden @ last + bias - rest)[seen].square().mean() + recipe.ridge * last.square().sum() / 2
        for slope in torch.autograd.grad(loss, (last, bias)):
            assert slope.abs().max() < 1e-9


@pytest.mark.slow
def test_slopes_of_the_runs_save_runs():
    """A quarter of the runs with their Jacobians are better than all of them without."""
    f = lambda u: torch.sin(4 * u[:, 0]) * torch.exp(u[:, 1]) + torch.cos(3 * u[:, 2])  # noqa: E731
    new, error = torch.from_numpy(sobol(500, 3, 99)), {}
    for n, with_slopes in ((30, True), (30, False), (120, False)):
        u = torch.from_numpy(sobol(n, 3, 1)).requires_grad_()
        (slope,) = torch.autograd.grad(f(u).sum(), u)
        runs = table(u.detach().numpy(), f(u).detach().numpy(), slope.numpy()[:, None] if with_slopes else None)
        mean = emulate.fit(MLP(epochs=15), runs, seed=0).predict(new).mean[:, 0]
        error[n, with_slopes] = float((mean - f(new)).square().mean().sqrt())
    assert error[30, True] < 0.2 * error[30, False]
    assert error[30, True] < error[120, False]


def test_slopes_are_left_alone_on_demand():
    u = sobol(40, 2, 0)
    slope = np.ones((40, 1, 2))
    without = emulate.fit(MLP(epochs=2, members=3), table(u, u.sum(1)), seed=0).predict(u)
    ignored = emulate.fit(MLP(epochs=2, members=3, sobolev=0.0), table(u, u.sum(1), slope), seed=0).predict(u)
    assert torch.equal(without.mean, ignored.mean)


@pytest.mark.slow
def test_a_variance_head_finds_noise_that_depends_on_the_parameters():
    """sd = 0.05 to 0.45 along the first parameter: told to a fifth, and 95 % intervals hold in both halves."""
    sd = lambda u: 0.05 + 0.4 * u[:, 0]  # noqa: E731
    f = lambda u: np.sin(4 * u[:, 0]) * np.exp(u[:, 1])  # noqa: E731
    u, new, rng = sobol(600, 2, 0), sobol(2000, 2, 9), np.random.default_rng(0)
    runs = table(u, f(u) + sd(u) * rng.normal(size=600))
    p = emulate.fit(MLP(heads="variance", members=5, epochs=10), runs, seed=0).predict(new)
    told, y = p.stddev[:, 0].numpy(), f(new) + sd(new) * rng.normal(size=2000)
    assert np.median(np.abs(np.log(told / sd(new)))) < 0.2
    inside = np.abs(p.mean[:, 0].numpy() - y) < 1.96 * told
    assert 0.91 < inside[new[:, 0] < 0.5].mean() < 0.985
    assert 0.91 < inside[new[:, 0] >= 0.5].mean() < 0.985


def test_left_out_predictions_err_as_much_as_new_ones():
    u, new = sobol(100, 2, 0), sobol(500, 2, 9)
    f = lambda u: np.sin(6 * u[:, 0]) * np.exp(u[:, 1])  # noqa: E731
    z = torch.from_numpy((f(u) - f(u).mean()) / f(u).std())[:, None]
    core = MLP(members=5, epochs=10).train(torch.from_numpy(u), z, noisy=False, seed=0)
    left = float((core.left_out.mean - z).square().mean().sqrt())
    there = core(torch.from_numpy(new)).mean[:, 0].numpy() - (f(new) - f(u).mean()) / f(u).std()
    assert 0.7 < left / np.sqrt((there**2).mean()) < 4  # two members, and fewer runs
    assert float(((core.left_out.mean - z) / core.left_out.stddev).square().mean()) == pytest.approx(1.0, rel=0.01)


def test_a_weight_of_slopes_that_are_not_there_is_refused():
    u = sobol(20, 2, seed=0)
    with pytest.raises(
        InputError, match=r"^mlp: sobolev weighs errors in slope and must have runs.* Got 1 and runs without"
    ):
        emulate.fit(MLP(epochs=2, members=3, sobolev=1.0), table(u, u.sum(1)), seed=0)


@pytest.mark.filterwarnings("error")
def test_the_jacobian_of_more_outputs_than_hidden_units_needs_no_more_room_than_was_taken():
    u = np.random.default_rng(1).random((60, 3))
    y = np.cos(u @ np.random.default_rng(2).normal(0, 1.5, (3, 40)))
    emulator = emulate.fit(MLP(width=8, epochs=2), table(u, y), seed=0)
    at = torch.from_numpy(u[:5])
    judge = torch.func.vmap(torch.func.jacrev(lambda t: emulator.moments(t)[0]))(at)
    assert emulator.transform.p > 8
    torch.testing.assert_close(emulator.jacobian(at), judge, rtol=1e-9, atol=1e-10)
