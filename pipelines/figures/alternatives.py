"""What a figure shows, in words: the text that stands for it where it cannot be seen."""

import re

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipelines import typeset

_MOST = 6  # panels told one by one
_MATHEMATICS = re.compile(r"\$([^$]*)\$")


def alternative(figure: Figure) -> str:
    r"""The axes of every panel, its title, and the entries of the legends.

    >>> figure = Figure()
    >>> ax = figure.subplots()
    >>> _ = ax.set(xlabel=r"$\Omega_m$", ylabel="residual [%]", title="gp"), ax.plot([0, 1], [1, 2], label="worst run")
    >>> _ = ax.legend()
    >>> alternative(figure)
    '1 panel: gp: residual [%] against Ω_m. Legend: worst run.'
    """
    drawn = [ax for ax in figure.axes if ax.get_visible() and ax.get_label() != "<colorbar>"]
    told = list(dict.fromkeys(words for ax in drawn if (words := _panel(ax))))
    more = f"; and {len(told) - _MOST} more" if len(told) > _MOST else ""
    panels = f"{len(drawn)} panel{'' if len(drawn) == 1 else 's'}"
    entries = [t for legend in _legends(figure) for t in map(_plain, (x.get_text() for x in legend.get_texts())) if t]
    scales = [_plain(ax.get_xlabel() or ax.get_ylabel()) for ax in figure.axes if ax.get_label() == "<colorbar>"]
    parts = [": ".join([panels, "; ".join(told[:_MOST]) + more]) if told else panels]
    parts += [f"Colours: {', '.join(filter(None, scales))}"] if any(scales) else []
    parts += [f"Legend: {', '.join(dict.fromkeys(entries))}"] if entries else []
    return ". ".join(parts) + "."


def _panel(ax: Axes) -> str:
    """`title: y against x`, of which any part may be missing."""
    said = [_plain(ax.get_title(loc=side)) for side in ("left", "center", "right")]
    x, y = _plain(ax.get_xlabel()), _plain(ax.get_ylabel())
    axes = f"{y} against {x}" if x and y else x or y
    return ": ".join(filter(None, [", ".join(filter(None, said)), axes]))


def _legends(figure: Figure) -> list:
    own = [ax.get_legend() for ax in figure.axes if ax.get_visible()]
    return [*figure.legends, *(legend for legend in own if legend is not None)]


def _plain(text: str) -> str:
    """One line, its mathematics by names: `Ω_m`, `∂ ln y / ∂ a`."""
    return " ".join(_MATHEMATICS.sub(lambda found: typeset.spoken(found[1]), text).split())
