"""Every figure, for 1 to 4 parameters, numbers and curves, some failed runs and none: axes named, nothing shown.

Worked through a simulator and an emulator in closed form, so that what is drawn can be compared with what is known.
"""

import math
import sys
from dataclasses import dataclass

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from scipy.stats import norm

from emulate.contracts import Jacobians, Recovery, Replicas
from emulate.corrections import Correction
from emulate.runs import Field, Outputs, Runs
from emulate.space import LogUniform, Normal, Parameter, Space, Uniform
from pipelines import figures
from pipelines.figures.densities import Cloud, levels
from pipelines.figures.sheets import log_axis, panels, sheet, stretched, symbol, unit_text, words

matplotlib.use("Agg")

PARAMETERS = (
    Parameter("omega_m", Uniform(0.2, 0.4), "", r"\Omega_m"),
    Parameter("sigma_8", Uniform(0.6, 1.0), "", r"\sigma_8"),
    Parameter("box", LogUniform(10.0, 1000.0), "Mpc/h"),
    Parameter("n_s", Normal(0.96, 0.02), "", "n_s"),
)
K = tuple(np.geomspace(0.02, 2.0, 24))
CURVE = Field("pk", "(Mpc/h)^3", True, "k", K, "h/Mpc", "P(k)")
OUTPUTS = {
    "curve": Outputs((CURVE,)),
    "one": Outputs((Field("mass", "kg", True),)),
    "numbers": Outputs(tuple(Field(f"y{i}") for i in range(5))),
    "mixed": Outputs((CURVE, Field("shift", "mm", False, "t", (0.0, 1.0, 2.0), "s"), Field("count", "", True),
                      Field("tilt", "deg"))),
}  # fmt: skip
KINDS = pytest.mark.parametrize("kind", OUTPUTS)
CASES = [(1, "one"), (1, "curve"), (2, "numbers"), (2, "mixed"), (4, "curve")]


def space(d: int) -> Space:
    return Space(PARAMETERS[:d])


@dataclass
class Imagined:
    """An emulator in closed form: each output a power law of u, off by a factor 1 + error, with an honest sd."""

    space: Space
    outputs: Outputs
    error: float = 0.0
    wander: float = 0.0  # how far the phase of the error turns over the first parameter's range

    def mean(self, theta: torch.Tensor) -> torch.Tensor:
        u = self.space.to_unit(theta)
        j = torch.arange(1.0, self.outputs.size + 1, dtype=torch.float64)
        wave = sum(torch.cos(j / (i + 3) + i) * u[..., i : i + 1] for i in range(self.space.d)) + 0.5 * u[..., :1] ** 2
        signed = wave - 0.3
        steep = 1e4 * j**-2.5 * torch.exp(0.5 * wave)
        good = torch.from_numpy(self.outputs.positive)
        return torch.where(good, steep, signed) * (1 + self.error * torch.sin(3 * j + self.wander * u[..., :1]))

    def predict(self, theta: torch.Tensor) -> torch.distributions.Distribution:
        y = self.mean(theta)
        return torch.distributions.Independent(torch.distributions.Normal(y, 0.02 * y.abs() + 1e-9), 1)

    def jacobian(self, theta: torch.Tensor) -> torch.Tensor:
        return torch.stack([torch.autograd.functional.jacobian(self.mean, t) for t in theta])


def campaign(d: int, kind: str, n: int = 30, broken: int = 3, seed: int = 7) -> Runs:
    """n runs, the last `broken` of them failed."""
    e = Imagined(space(d), OUTPUTS[kind])
    theta = e.space.from_unit(torch.from_numpy(np.random.default_rng(seed).uniform(0.01, 0.99, (n, d))))
    y = e.mean(theta).numpy().copy()
    y[n - broken :] = np.nan
    return Runs.of(e.space, e.outputs, theta.numpy(), y)


def emulators(d: int, kind: str) -> dict[str, Imagined]:
    return {
        "gp": Imagined(space(d), OUTPUTS[kind], 0.01, 4.0),
        "baseline": Imagined(space(d), OUTPUTS[kind], 0.08, 9.0),
    }


def jacobians(d: int, kind: str, g: int = 4) -> Jacobians:
    e = Imagined(space(d), OUTPUTS[kind])
    theta = torch.from_numpy(campaign(d, kind, g, 0).theta)
    value = e.jacobian(theta)
    return Jacobians(theta, e.mean(theta), value, 0.05 * value.abs())


def draws(d: int, n: int = 400) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return space(d).from_unit(0.5 + 0.08 * (x + 0.7 * x[:, :1]))


def recovered(d: int, q: int = 20) -> Recovery:
    generator = torch.Generator().manual_seed(4)
    u = torch.rand(q, d, generator=generator, dtype=torch.float64) * 0.8 + 0.1
    truth = space(d).from_unit(u)
    spread = 0.05 * truth
    noise = torch.randn(q, d, generator=generator, dtype=torch.float64)
    x = torch.randn(q, 41, d, generator=generator, dtype=torch.float64)
    return Recovery(torch.rand(q, generator=generator), truth, truth + spread * noise, spread, x[:, 1:], x[:, 0],
                    torch.full((q,), 40.0))  # fmt: skip


def replicated(outputs: Outputs, t: int = 30) -> Replicas:
    """chi2 of data made again, and of data twice as far from the prediction."""
    parts = {"": slice(0, outputs.size), **outputs.slices}
    generator = torch.Generator().manual_seed(6)
    z = torch.randn(5, t, outputs.size, generator=generator, dtype=torch.float64)
    square = torch.stack([z[..., s].square().sum(-1) for s in parts.values()], -1)
    sizes = tuple(len(range(*s.indices(outputs.size))) for s in parts.values())
    return Replicas(tuple(parts), sizes, 4 * square[0], square[1:], 2 * z[0].mean(0))


def corrected(d: int, k: int = 12) -> Correction:
    """A posterior at the centre of the prior, one hundredth of it wide, by k runs that put it a third of that higher."""
    theta = space(d).from_unit(torch.full((d,), 0.5, dtype=torch.float64))
    noise = torch.randn(k, d, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    residual = torch.arange(6.0, dtype=torch.float64)
    return Correction(theta, 0.01 * theta, 0.01 * theta * (noise - 1 / 3), residual, residual, 70.0, 72)


def gallery(d: int, kind: str) -> dict[str, Figure]:
    """Every figure of a study with d parameters and one kind of output."""
    runs, held_out = campaign(d, kind), campaign(d, kind, 12, 1, seed=8)
    some, theta = draws(d), draws(d, 90)
    e = emulators(d, kind)
    y = e["gp"].mean(theta)
    weight = torch.where(torch.arange(90) % 30 == 0, -math.inf, 0.3 * torch.sin(torch.arange(90.0))).double()
    losses = tuple({"epoch": float(i), "loss": 3 * 0.9**i, "held_out": 3 * 0.9**i + 0.1} for i in range(40))
    table = {"gp": {"median": 0.001, "worst99": 0.004, "worst": 0.02, "coverage": 0.94, "log_score": 12.0},
             "baseline": {"median": 0.05, "worst99": 0.11, "worst": 0.3, "coverage": 0.5}}  # fmt: skip
    return {
        "design": figures.design(runs, held_out),
        "outputs": figures.outputs(runs),
        "accuracy": figures.accuracy(e, held_out),
        "calibration": figures.calibration(e, held_out),
        **{name: figure for name, (figure, _) in figures.calibrated(e, "gp", held_out).items()},
        "gradient": figures.gradient(e["gp"], jacobians(d, kind)),
        "corner": figures.corner(space(d), some, truth=theta[1]),
        "weighted": figures.corner(space(d), some, weighted=(theta, weight), truth=theta[1]),
        "recovery": figures.recovery(recovered(d), space(d)),
        "ranks": figures.ranks(recovered(d), space(d)),
        "replicas": figures.replicas(replicated(runs.outputs), runs.outputs),
        "confirmation": figures.confirmation(space(d), corrected(d), truth=theta[1]),
        "prediction": figures.posterior_prediction(runs.outputs, y[0], 0.02 * y[0].abs() + 0.01, y, truth=y[1]),
        "training": figures.training({"mlp": losses}),
        "scores": figures.scores(table),
    }


def unnamed(figure: Figure) -> list[str]:
    """The visible axes that carry numbers without saying what they count."""
    found = []
    for ax in (ax for ax in figure.axes if ax.get_visible()):
        for axis, side in ((ax.xaxis, "labelbottom"), (ax.yaxis, "labelleft")):
            numbers = axis.get_tick_params().get(side, True) and len(axis.get_ticklocs())
            if numbers and not axis.get_label_text():
                found.append(f"{ax.get_subplotspec()} {side}")
    return found


@pytest.mark.parametrize(("d", "kind"), CASES)
def test_every_figure_has_named_axes_and_leaves_pyplot_alone(d, kind):
    pyplot_before = "matplotlib.pyplot" in sys.modules
    for name, figure in gallery(d, kind).items():
        assert isinstance(figure, Figure), name
        assert figure.get_figwidth() >= 7, name
        assert unnamed(figure) == [], name
    assert ("matplotlib.pyplot" in sys.modules) == pyplot_before


def test_every_figure_can_be_saved(tmp_path):
    for name, figure in gallery(1, "curve").items():
        figure.savefig(tmp_path / f"{name}.png", dpi=30)
        assert (tmp_path / f"{name}.png").stat().st_size > 1000


@KINDS
def test_nothing_finished_is_a_figure_that_says_so(kind):
    runs = campaign(2, kind, 4, 4)
    e = emulators(2, kind)
    none = runs.select(slice(0))
    made = {
        "outputs": figures.outputs(runs),
        "design": figures.design(runs, none),
        "bare": figures.design(none, none),
        "accuracy": figures.accuracy(e, runs),
        "calibration": figures.calibration(e, runs),
        **{name: figure for name, (figure, _) in figures.calibrated(e, "gp", runs).items()},
        "gradient": figures.gradient(e["gp"], _first(jacobians(2, kind), 0)),
        "training": figures.training({}),
        "scores": figures.scores({}),
    }
    assert {name: unnamed(figure) for name, figure in made.items()} == {name: [] for name in made}
    assert made["outputs"].get_suptitle() == "0 of 4 runs finished, 4 failed"
    assert "no run finished" in _texts(made["outputs"])
    assert "no held-out run finished" in _texts(made["accuracy"])
    assert "no held-out run finished" in _texts(made["calibration"])
    assert "no held-out run finished" in _texts(made["pit"])
    assert "no held-out run finished" in _texts(made["regions"])
    assert "no scores" in _texts(made["crps"])
    assert "no derivative of the simulator" in _texts(made["gradient"])
    assert "no emulator was trained by epochs" in _texts(made["training"])
    assert "no scores" in _texts(made["scores"])


@KINDS
def test_one_run_is_enough(kind):
    runs = campaign(2, kind, 1, 0)
    e = emulators(2, kind)
    made = {
        "outputs": figures.outputs(runs),
        "design": figures.design(runs, runs),
        "accuracy": figures.accuracy(e, runs),
        "calibration": figures.calibration(e, runs),
        **{name: figure for name, (figure, _) in figures.calibrated(e, "gp", runs).items()},
        "gradient": figures.gradient(e["gp"], jacobians(2, kind, 1)),
        "recovery": figures.recovery(recovered(2, 1), space(2)),
        "ranks": figures.ranks(recovered(2, 1), space(2)),
    }
    assert {name: unnamed(figure) for name, figure in made.items()} == {name: [] for name in made}


def _first(j: Jacobians, g: int) -> Jacobians:
    return Jacobians(*(x[:g] for x in (j.theta, j.y, j.value, j.standard_error)))


def _texts(figure: Figure) -> str:
    return " | ".join(t.get_text() for ax in figure.axes for t in [*ax.texts, ax.title, ax._left_title])


def test_a_confirmation_shows_every_run_and_all_of_them_in_posterior_deviations():
    made = corrected(2)
    upper, lower = figures.confirmation(space(2), made).axes
    runs = upper.collections[0].get_offsets().data
    each = (made.each / made.sd).numpy()
    np.testing.assert_allclose(np.sort(runs[:, 0]), np.sort(-each.ravel()))
    bar = upper.containers[0]
    np.testing.assert_allclose(bar[0].get_xdata(), -each.mean(0))
    ends = np.array([s[:, 0] for s in bar[2][0].get_segments()])
    np.testing.assert_allclose(np.ptp(ends, 1), 4 * each.std(0, ddof=1) / 12**0.5)
    points = next(line for line in lower.lines if line.get_marker() == "o")
    np.testing.assert_allclose(points.get_ydata(), [0.0, *[12**0.5] * 5])


def test_failed_runs_are_counted_and_crossed_out():
    runs = campaign(2, "curve", 30, 3)
    assert figures.outputs(runs).get_suptitle() == "27 of 30 runs finished, 3 failed"
    figure = figures.design(runs, campaign(2, "curve", 12, 1))
    labels = [t.get_text() for t in figure.legends[0].get_texts()]
    assert labels == ["training (27)", "held out (11)", "failed (4)"]


def test_the_curves_drawn_are_the_finished_runs():
    runs = campaign(2, "curve", 9, 2)
    lines = figures.outputs(runs).axes[0].collections[0].get_segments()
    np.testing.assert_array_equal([s[:, 1] for s in lines], runs.y[runs.ok])


def test_the_residual_band_is_the_error_that_was_built_in():
    """Predicted is true times 1 + 0.01 sin 3j, so the median line of residuals is sin 3j percent."""
    figure = figures.accuracy({"gp": Imagined(space(2), OUTPUTS["curve"], 0.01)}, campaign(2, "curve", 12, 0))
    median = figure.axes[1].lines[-1].get_ydata()
    np.testing.assert_allclose(median, np.sin(3 * np.arange(1, len(K) + 1)), atol=1e-9)


def test_the_coverage_line_of_an_emulator_whose_errors_are_normal_is_the_diagonal():
    outputs = Outputs(tuple(Field(f"y{i}") for i in range(40)))
    e = Imagined(space(1), outputs)
    theta = torch.linspace(0.21, 0.39, 200, dtype=torch.float64)[:, None]
    p = e.predict(theta)
    u = torch.from_numpy(norm.ppf((np.arange(8000) + 0.5) / 8000)[np.random.default_rng(0).permutation(8000)])
    runs = Runs.of(e.space, outputs, theta, (p.mean + u.reshape(200, 40) * p.variance.sqrt()).numpy())
    line = figures.calibration({"honest": e}, runs).axes[0].lines[1]
    np.testing.assert_allclose(line.get_ydata(), line.get_xdata(), atol=0.1)


def test_an_emulator_without_variance_covers_nothing_and_is_still_drawn():
    class Sure(Imagined):
        def predict(self, theta):
            y = self.mean(theta)
            return torch.distributions.Independent(torch.distributions.Normal(y, torch.full_like(y, 1e-300)), 1)

    line = figures.calibration({"sure": Sure(space(2), OUTPUTS["curve"], 0.1)}, campaign(2, "curve")).axes[0].lines[1]
    assert line.get_ydata().max() == 0


def test_the_bars_of_an_exact_pit_are_level_and_those_of_half_the_error_bars_are_not():
    outputs = Outputs(tuple(Field(f"y{i}") for i in range(40)))
    e = Imagined(space(1), outputs)
    theta = torch.linspace(0.21, 0.39, 200, dtype=torch.float64)[:, None]
    p = e.predict(theta)
    u = torch.from_numpy(norm.ppf((np.arange(8000) + 0.5) / 8000)[np.random.default_rng(0).permutation(8000)])
    for factor in (1, 2):
        y = p.mean + factor * u.reshape(200, 40) * p.variance.sqrt()
        bars = figures.pit_histogram({"gp": e}, Runs.of(e.space, outputs, theta, y.numpy())).axes[0].patches[0]
        v, edges, _ = bars.get_data()
        expected = np.diff(norm.cdf(norm.ppf(edges) / factor)) * (len(edges) - 1)
        np.testing.assert_allclose(v, expected, atol=0.03)


def test_the_map_of_coverage_shows_the_quarter_that_is_off():
    """Predicted right but where both parameters are high, and there by 100 standard deviations."""
    e, rng = Imagined(space(2), OUTPUTS["one"]), np.random.default_rng(0)
    u = torch.from_numpy(rng.random((400, 2)))
    p = e.predict(e.space.from_unit(u))
    y = p.mean + torch.where((u > 0.5).all(1), 100.0, 0.0)[:, None] * p.variance.sqrt()
    figure = figures.coverage_map("gp", e, Runs.of(e.space, OUTPUTS["one"], e.space.from_unit(u).numpy(), y.numpy()))
    ticks = [t.get_text() for t in figure.axes[1].get_yticklabels()]
    cells = {(ticks[int(t.get_position()[1])], ticks[int(t.get_position()[0])]): t.get_text()
             for t in figure.axes[1].texts}  # fmt: skip
    quarters = {k: v for k, v in cells.items() if k[0] != k[1]}
    assert quarters == {("high sigma_8", "high omega_m"): "0", ("high sigma_8", "low omega_m"): "100",
                        ("low sigma_8", "high omega_m"): "100", ("low sigma_8", "low omega_m"): "100"}  # fmt: skip
    assert cells["low omega_m", "low omega_m"] == "100"
    assert float(cells["high omega_m", "high omega_m"]) == pytest.approx(50, abs=12)


def test_the_map_of_many_parameters_keeps_those_that_are_off():
    many = Space(tuple(Parameter(f"p{i}", Uniform(0, 1)) for i in range(12)))
    e, u = Imagined(many, OUTPUTS["one"]), torch.from_numpy(np.random.default_rng(0).random((200, 12)))
    p = e.predict(u)
    y = p.mean + torch.where((u[:, :1] > 0.5) & (u[:, 11:] < 0.5), 100.0, 0.0) * p.variance.sqrt()
    figure = figures.coverage_map("gp", e, Runs.of(many, OUTPUTS["one"], u.numpy(), y.numpy()))
    ticks = [t.get_text() for t in figure.axes[1].get_yticklabels()]
    assert len(ticks) == 16
    assert {"low p11", "high p0"} <= set(ticks)
    assert unnamed(figure) == []


@pytest.mark.parametrize("kind", ["curve", "one", "numbers"])
def test_the_relative_error_of_a_gradient_is_zero_for_the_simulator_itself_and_one_for_twice_it(kind):
    j = jacobians(2, kind)
    exact = figures.gradient(Imagined(space(2), OUTPUTS[kind]), j)
    assert "error 0 %, median of 4 points" in _texts(exact)
    double = Jacobians(j.theta, j.y, 0.5 * j.value, j.standard_error)
    assert "error 100 %, median of 4 points" in _texts(figures.gradient(Imagined(space(2), OUTPUTS[kind]), double))


def test_a_density_is_normalised_and_has_the_variance_of_its_draws():
    x = np.random.default_rng(1).normal(2.0, 0.5, (1000, 1))
    grid = np.linspace(-2, 6, 801)
    p = Cloud(x).density((0,), (grid,), ((-np.inf, np.inf),))
    mean = np.trapezoid(grid * p, grid)
    np.testing.assert_allclose(
        [np.trapezoid(p, grid), mean, np.trapezoid((grid - mean) ** 2 * p, grid)], [1, x.mean(), x.var()], rtol=0.01
    )


def test_a_density_with_an_edge_keeps_its_mass_inside():
    x = np.random.default_rng(2).exponential(1.0, (2000, 1))
    grid = np.linspace(0, 12, 1201)
    assert np.trapezoid(Cloud(x).density((0,), (grid,), ((0.0, np.inf),)), grid) == pytest.approx(1, abs=0.01)


def test_weights_move_a_density_where_the_closed_form_says():
    """Draws of N(0, 1) weighted by exp(x) are draws of N(1, 1)."""
    x = np.random.default_rng(3).normal(size=(3000, 1))
    grid = np.linspace(-6, 7, 601)
    p = Cloud(x, x[:, 0]).density((0,), (grid,), ((-np.inf, np.inf),))
    assert np.trapezoid(grid * p, grid) == pytest.approx(1, abs=0.12)


def test_levels_hold_the_mass_of_a_normal():
    """In two dimensions the region of mass m is a disc of radius sqrt(-2 ln(1 - m))."""
    x = np.linspace(-6, 6, 401)
    p = np.exp(-0.5 * (x[:, None] ** 2 + x**2))
    expected = [0.32, 0.05]  # exp(-r^2 / 2) = 1 - m
    np.testing.assert_allclose(levels(p, (0.68, 0.95)), expected, rtol=0.01)


def test_too_few_weighted_runs_are_dots_and_the_legend_says_so():
    weight = torch.full((40,), -math.inf, dtype=torch.float64)
    weight[:3] = 0.0
    figure = figures.corner(space(2), draws(2), weighted=(draws(2, 40), weight))
    labels = [t.get_text() for t in figure.legends[0].get_texts()]
    assert "true simulator's weight: 3.0 effective of 40 runs, too few to draw" in labels
    all_failed = torch.full((40,), -math.inf, dtype=torch.float64)
    assert isinstance(figures.corner(space(2), draws(2), weighted=(draws(2, 40), all_failed)), Figure)


def test_weights_on_every_draw_are_told_as_a_correction_by_so_many_runs():
    figure = figures.corner(space(2), draws(2), weighted=(draws(2), torch.zeros(len(draws(2)))), runs=128)
    assert "as 128 true runs correct it" in [t.get_text() for t in figure.legends[0].get_texts()]


def test_the_axes_of_a_corner_end_at_the_prior_and_reach_the_truth():
    edge = space(2).from_unit(torch.rand(500, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    assert figures.corner(space(2), edge).axes[0].get_xlim() == (0.2, 0.4)
    far = figures.corner(space(2), draws(2), truth=[0.21, 0.99])
    low, high = far.axes[2].get_xlim()
    assert low <= 0.21 <= high


def test_labels_are_latex_with_units_and_fall_back_to_the_name():
    assert words(PARAMETERS[0]) == r"$\Omega_m$"
    assert words(PARAMETERS[2]) == "box [Mpc/h]"
    assert words(CURVE) == "$P(k)$ [(Mpc/h)$^{3}$]"
    assert unit_text("s^-1") == " [s$^{-1}$]"
    broken = Parameter("alpha", Uniform(0, 1), "", r"\alhpa_{")
    assert words(broken) == "alpha"
    assert symbol(Parameter("a_b", Uniform(0, 1))) == r"\mathrm{a\_b}"


def test_axes_are_logarithmic_where_values_span_a_decade():
    assert stretched(np.array([0.1, 1.0]))
    assert not stretched(np.array([0.0, 1.0]))
    assert not stretched(np.array([2.0, 3.0]))
    ax = figures.outputs(campaign(2, "curve")).axes[0]
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")


def test_panels_hold_every_output_once():
    for outputs in OUTPUTS.values():
        columns = np.concatenate([p.columns for p in panels(outputs)])
        assert sorted(columns) == list(range(outputs.size))


def test_a_figure_with_more_outputs_than_panels_says_so():
    many = Outputs(tuple(Field(f"f{i}", "", False, "x", (0.0, 1.0)) for i in range(9)))
    runs = Runs.of(space(1), many, np.full((2, 1), 0.3), np.ones((2, 18)))
    assert figures.outputs(runs).get_suptitle() == "2 of 2 runs finished, 0 failed (first 6 of 9 outputs)"


@pytest.mark.parametrize(
    ("ends", "ticks"),
    [((0.02, 2.0), [0.02, 0.05, 0.1, 0.2, 0.5, 1, 2]), ((3.0, 2e4), [10, 100, 1000, 1e4]),
     ((20.0, 600.0), [20, 50, 100, 200, 500]), ((1e-12, 1e3), [1e-10, 1e-5, 1])],
)  # fmt: skip
def test_a_logarithmic_axis_has_few_numbers(ends, ticks):
    ax = sheet(1, 1, 2.0)[0].axes[0]
    log_axis(ax, "x", 7)
    ax.set_xlim(*ends)
    np.testing.assert_allclose(ax.get_xticks(), ticks)


def test_a_logarithmic_axis_within_an_octave_still_has_numbers():
    ax = sheet(1, 1, 2.0)[0].axes[0]
    log_axis(ax, "y")
    ax.set_ylim(2.2, 2.9)
    assert len(ax.get_yticks()) > 2


def test_the_remainders_of_a_linear_map_are_drawn_where_rounding_left_none_at_the_longest_step(tmp_path):
    from emulate.remainders import Ladder
    from pipelines.figures.verification import remainders

    ladder, y, slope = Ladder(), torch.zeros(1, dtype=torch.float64), torch.full((1,), 2.0, dtype=torch.float64)
    met = y + ladder.steps[:, None] * slope
    found = [ladder.judge(y, met, slope), ladder.judge(y, met + 1e-16 * (torch.arange(16) % 3)[:, None], slope)]
    assert float(found[1].rest[0]) == 0 < float(found[1].rest.max())
    drawn = remainders(found)
    drawn.savefig(tmp_path / "remainders.png")
    low, high = drawn.axes[0].get_ylim()
    assert 1e-20 < low < high < 1e3
