"""Figure of derivatives: the emulator's beside the simulator's."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from emulate.contracts import Jacobians
from emulate.space import Parameter, Space
from pipelines.figures.sheets import (
    COLOURS,
    INK,
    MARKERS,
    Panel,
    array,
    few_ticks,
    legend,
    panels,
    say,
    sheet,
    symbol,
    title,
    unit_text,
)

if TYPE_CHECKING:
    from emulate.emulator import Emulator

_POINTS = 3  # held-out points drawn; the errors in the titles are over all
_BARS = 30  # simulator values with error bars along a coordinate


def gradient(emulator: "Emulator", jacobians: Jacobians) -> Figure:
    """Derivatives of the outputs by every parameter: the simulator's with standard errors, the emulator's as lines.

    Outputs that are positive by nature are shown as d ln y / d theta; numbers of unlike kind over the standard
    deviation of each over the prior, as the simulator's derivatives give it. In the titles: |emulator - simulator| /
    |simulator| in the Euclidean norm over the outputs drawn, the median over all points.
    """
    space, parts = emulator.space, panels(emulator.outputs)
    columns = min(2, space.d)
    rows = -(-space.d // columns)
    figure, axes = sheet(rows * len(parts), columns, 2.4 * rows * len(parts) + 0.4, sharex=False)
    mean, ours = _emulated(emulator, jacobians)
    theirs, error, y = array(jacobians.value), array(jacobians.standard_error), array(jacobians.y)
    error = np.where(np.isfinite(error), error, np.nan)  # an unknown error has no bar
    spread = _spread(space, jacobians)
    for p, part in enumerate(parts):
        for i, ax in enumerate(axes[p * rows : (p + 1) * rows].flat):
            if i >= space.d:
                ax.set_visible(False)
                continue
            a, b, e = (x[:, part.columns, i] for x in (ours, theirs, error))
            a, b, e = _scaled(part, mean, y, spread, a, b, e)
            part.dress(ax, _name(part, space.parameters[i]))
            if not len(a):
                say(ax, "no derivative of the simulator")
                continue
            _draw(ax, part, a, b, e)
            few_ticks(ax, "y", 5)
            title(ax, _error(a, b))
    drawn = range(min(_POINTS, len(theirs)))
    points = [Line2D([], [], color=COLOURS[g], marker=MARKERS[g], markersize=5, linewidth=1.4) for g in drawn]
    kinds = [Line2D([], [], color=INK, linewidth=1.4), Line2D([], [], color=INK, marker="o", linestyle="none")]
    labels = ["emulator", "simulator ± 1 standard error", *(f"point {g + 1}" for g in drawn)]
    legend(figure, [*kinds, *points], labels, 5)
    return figure


def _emulated(emulator: "Emulator", jacobians: Jacobians) -> tuple[np.ndarray, np.ndarray]:
    """Mean `[g, m]` and derivatives `[g, m, d]`; an emulator is asked only where there is a point."""
    if not len(jacobians.theta):
        return array(jacobians.y), array(jacobians.value)
    with torch.enable_grad():
        return array(emulator.predict(jacobians.theta).mean), array(emulator.jacobian(jacobians.theta))


def _spread(space: Space, jacobians: Jacobians) -> np.ndarray:
    """[m]: (mean over points of sum_i (dy/du_i)^2 / 12)^1/2, for a uniform u has variance 1/12."""
    columns = zip(space.parameters, jacobians.theta.unbind(-1), strict=True)
    width = np.stack([array((-p.prior.log_prob(t)).exp()) for p, t in columns], -1)  # dtheta/du = 1 / density
    slopes = array(jacobians.value) * width[:, None, :]
    s = np.sqrt((slopes**2).sum(-1).mean(0) / 12) if len(slopes) else np.ones(slopes.shape[1])
    return np.where((s > 0) & np.isfinite(s), s, 1.0)


def _scaled(part: Panel, mean, y, spread, ours: np.ndarray, *theirs: np.ndarray) -> list[np.ndarray]:
    """The derivatives and their errors `[g, p]` in the unit in which they are drawn."""
    if part.positive:
        mean, y = (np.where(x > 0, x, np.nan)[:, part.columns] for x in (mean, y))
        return [ours / mean, *(x / y for x in theirs)]
    unit = spread[part.columns] if len(part.fields) > 1 else 1.0
    return [x / unit for x in (ours, *theirs)]


def _error(ours: np.ndarray, theirs: np.ndarray) -> str:
    size = np.linalg.norm(theirs, axis=1)
    error = np.linalg.norm(ours - theirs, axis=1)[size > 0] / size[size > 0]
    return f"error {100 * np.median(error):.3g} %, median of {len(error)} points" if len(error) else "simulator's: zero"


def _name(part: Panel, parameter: Parameter) -> str:
    by = symbol(parameter)
    if len(part.fields) > 1:
        of, unit = ("$\\partial \\ln y", f"1/({parameter.unit})") if part.positive else ("$\\partial y", "in sd")
        unit = unit if not part.positive or parameter.unit else ""
    else:
        f = part.fields[0]
        of = rf"$\partial \ln {symbol(f)}" if part.positive else rf"$\partial {symbol(f)}"
        below = f"({parameter.unit})" if parameter.unit else ""
        above = "" if part.positive else f.unit
        unit = f"{above or '1'}/{below}" if below else above
    return rf"{of}\,/\,\partial {by}$" + unit_text(unit)


def _draw(ax, part: Panel, a: np.ndarray, b: np.ndarray, e: np.ndarray) -> None:
    ax.axhline(0, color=INK, linewidth=0.6)
    some = slice(None, None, max(1, len(part.x) // _BARS))
    joined = part.along and len(part.x) > 1
    for g in range(min(_POINTS, len(b))):
        shift = 0.0 if joined else 0.22 * (g - 1) * (1.0 if not part.along else 0.05 * max(1.0, abs(part.x[0])))
        x = part.x + shift
        ax.errorbar(x[some], b[g, some], e[g, some], color=COLOURS[g], marker=MARKERS[g], markersize=4,
                    linestyle="none", elinewidth=1, capsize=2, alpha=0.85)  # fmt: skip
        if joined:
            ax.plot(x, a[g], color=COLOURS[g], linewidth=1.3)
        else:
            ax.plot(x, a[g], color=COLOURS[g], marker="_", markersize=16, markeredgewidth=1.8, linestyle="none")
