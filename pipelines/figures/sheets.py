"""The paper all figures are drawn on: size, colours, axes in words and units, and the panels of an output vector."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.mathtext import MathTextParser
from matplotlib.ticker import FuncFormatter, Locator, MaxNLocator, NullFormatter

from emulate.paper import COLOURS, DASHES, GREY, INK, PALE, lined  # noqa: F401  (what figures take from here)
from emulate.runs import Field, Outputs
from emulate.space import LOGARITHMIC, Parameter

WIDTH = 7.0  # inches: on a page 700 pixels wide, 10 point text is then 14 pixels high
MARKERS = ("o", "s", "^", "D", "v", "P")
# cividis without its palest fifth, which drowns in white
SCALE = LinearSegmentedColormap.from_list("scale", ["#00224e", "#35456c", "#666970", "#948e77", "#c8b866", "#e3cf47"])
MOST_PANELS = 6  # fields drawn in one figure; the caption of a figure with more says so


def array(x: Any) -> np.ndarray:
    """A float64 array from a tensor or anything numpy reads."""
    return np.asarray(x.detach().cpu() if hasattr(x, "detach") else x, dtype=np.float64)


def sheet(rows: int, columns: int, height: float, *, width: float = WIDTH, **grid: Any) -> tuple[Figure, np.ndarray]:
    """A white figure with axes `[rows, columns]`."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    axes = figure.subplots(rows, columns, squeeze=False, **grid)
    for ax in axes.flat:
        lined(ax)
    return figure, axes


def name_axes(ax: Axes, x: str, y: str) -> None:
    ax.set_xlabel(x, fontsize=10, color=INK)
    ax.set_ylabel(y, fontsize=10, color=INK)


def title(ax: Axes, text: str) -> None:
    ax.set_title(text, fontsize=10, color=INK, loc="left")


def say(ax: Axes, text: str) -> None:
    """A sentence in the middle of an axes that has nothing to draw."""
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", fontsize=10, color=GREY, wrap=True)


def legend(figure: Figure, handles: Sequence[Any], labels: Sequence[str], columns: int = 4) -> None:
    """One legend above all axes."""
    figure.legend(handles, labels, loc="outside upper left", ncols=min(columns, len(labels)), fontsize=9,
                  frameon=False, labelcolor=INK)  # fmt: skip


def stretched(values: np.ndarray) -> bool:
    """Whether values span a decade or more above zero, so that a logarithmic axis shows them better."""
    values = values[np.isfinite(values)]
    return bool(len(values) and values.min() > 0 and values.max() >= 10 * values.min())


class _Decades(Locator):
    """At most `count` numbers on a logarithmic axis: at 1, 2 and 5 where they fit, else at powers of 10."""

    def __init__(self, count: int):
        self.count = count

    def __call__(self) -> list[float]:
        return self.tick_values(*self.axis.get_view_interval())

    def tick_values(self, low: float, high: float) -> list[float]:
        low, high = sorted((max(low, 1e-300), max(high, 1e-300)))
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for digits, step in (((1, 2, 5), 1), ((1, 3), 1), ((1,), 1), ((1,), 2), ((1,), 5), ((1,), 20)):
            ticks = [d * 10.0**p for p in powers if p % step == 0 for d in digits]
            ticks = [t for t in ticks if low <= t <= high]
            if len(ticks) <= self.count:
                break
        return ticks if len(ticks) > 1 else MaxNLocator(self.count).tick_values(low, high)


def log_axis(ax: Axes, which: str, count: int = 8) -> None:
    """A logarithmic axis for positive values with a few readable numbers."""
    getattr(ax, f"set_{which}scale")("log")
    axis = getattr(ax, f"{which}axis")
    axis.set_major_locator(_Decades(count))
    axis.set_major_formatter(FuncFormatter(_power))
    axis.set_minor_formatter(NullFormatter())


def _power(value: float, _: int | None = None) -> str:
    """`0.05`, `200`, and powers of ten beyond."""
    if value <= 0 or 1e-3 <= value < 1e4:
        return f"{value:.4g}"
    exponent = math.floor(math.log10(value) + 1e-9)
    digit = value / 10.0**exponent
    return f"$10^{{{exponent}}}$" if abs(digit - 1) < 1e-6 else rf"${digit:.3g}\times10^{{{exponent}}}$"


def few_ticks(ax: Axes, which: str, count: int = 5) -> None:
    if getattr(ax, f"get_{which}scale")() == "linear":
        getattr(ax, f"{which}axis").set_major_locator(MaxNLocator(count, steps=[1, 2, 2.5, 5, 10]))


# -- words on axes ---------------------------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def _drawable(text: str) -> bool:
    try:
        MathTextParser("path").parse(text)
    except ValueError:
        return False
    return True


def _label(thing: Parameter | Field) -> str:
    """The LaTeX label without dollars, where there is one that can be drawn."""
    label = thing.label.strip("$ ")
    return label if label and _drawable(f"${label}$") else ""


def symbol(thing: Parameter | Field) -> str:
    """Mathematics without dollars: the label, else the name upright."""
    return _label(thing) or r"\mathrm{" + thing.name.replace("_", r"\_") + "}"


def unit_text(unit: str) -> str:
    """`[(Mpc/h)^3]` with its powers raised; empty for a pure number."""
    raised = re.sub(r"\^\{?(-?[\d.]+)\}?", r"$^{\1}$", unit)
    return f" [{raised}]" if unit else ""


def words(thing: Parameter | Field) -> str:
    """What an axis says: `$\\Omega_m$`, `box [Mpc/h]`."""
    label = _label(thing)
    return (f"${label}$" if label else thing.name) + unit_text(thing.unit)


def parameter_axis(ax: Axes, parameter: Parameter, which: str, count: int = 5) -> None:
    """Logarithmic where the prior is, with few numbers."""
    if isinstance(parameter.prior, LOGARITHMIC):
        log_axis(ax, which, min(count, 4))
    else:
        few_ticks(ax, which, count)


# -- the panels of an output vector ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Panel:
    """A part of y on one axis: a field along its coordinate, or the numbers of a run side by side."""

    fields: tuple[Field, ...]
    columns: np.ndarray  # [p], where they stand in y

    @property
    def along(self) -> bool:
        """Whether it is one field along its coordinate."""
        return bool(self.fields[0].at)

    @property
    def positive(self) -> bool:
        return self.fields[0].positive

    @property
    def x(self) -> np.ndarray:
        """Coordinate `[p]`; 0, 1, 2 ... for numbers side by side."""
        return np.array(self.fields[0].at) if self.along else np.arange(len(self.columns), dtype=float)

    @property
    def marker(self) -> str:
        """Dots where a line would hide how few values there are."""
        return "o" if len(self.columns) <= 12 else ""

    @property
    def name(self) -> str:
        return ", ".join(f.name for f in self.fields)

    @property
    def value(self) -> str:
        """The axis of its values; numbers of unlike kind share none."""
        return words(self.fields[0]) if len(self.fields) == 1 else "value"

    def dress(self, ax: Axes, y: str) -> None:
        """Name the axes, and lay out x."""
        if self.along:
            f = self.fields[0]
            name_axes(ax, f"{f.coordinate}{unit_text(f.at_unit)}", y)
            if stretched(self.x):
                log_axis(ax, "x")
        else:
            name_axes(ax, "output", y)
            turn = 35 if sum(len(f.name) for f in self.fields) > 40 else 0
            ax.set_xticks(self.x, [f.name for f in self.fields], rotation=turn, ha="right" if turn else "center")
            ax.set_xlim(-0.6, len(self.columns) - 0.4)


def panels(outputs: Outputs, most: int = MOST_PANELS) -> list[Panel]:
    """Every field along its coordinate by itself; the numbers together, positive ones apart from the others."""
    at = {f.name: np.arange(outputs.size)[outputs.slices[f.name]] for f in outputs.fields}
    parts = [Panel((f,), at[f.name]) for f in outputs.fields if f.at]
    for positive in (True, False):
        numbers = tuple(f for f in outputs.fields if not f.at and f.positive == positive)
        if numbers:
            parts.append(Panel(numbers, np.concatenate([at[f.name] for f in numbers])))
    return parts[:most]


def left_out(outputs: Outputs) -> str:
    """The tail of a title when there are more fields than panels."""
    whole = len(panels(outputs, 10**9))
    return f" (first {MOST_PANELS} of {whole} outputs)" if whole > MOST_PANELS else ""
