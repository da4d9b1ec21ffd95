"""Figures of identifiability: what parameters do to the data, how alike that is, and how well the data tell them."""

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from emulate.identifiability import Identifiability
from emulate.runs import Outputs
from emulate.space import Space
from pipelines.figures.sheets import (
    COLOURS,
    DASHES,
    GREY,
    INK,
    MARKERS,
    array,
    left_out,
    legend,
    log_axis,
    name_axes,
    panels,
    sheet,
    symbol,
    title,
)

_LINES = 6  # parameters drawn, the strongest
_WRITTEN = 9  # parameters up to which the cosines are written into their cells
# from blue over white to vermilion: told apart with any colour vision
_SIGNED = LinearSegmentedColormap.from_list("signed", [COLOURS[0], "#ffffff", COLOURS[1]])


def sensitivities(space: Space, outputs: Outputs, found: Identifiability) -> Figure:
    """The columns of S along the outputs, a panel for each field, each over its root mean square: of parameters whose curves
    are one, or each other's mirror image, the data there tell a combination only."""
    parts, strength = panels(outputs), array(found.strength)
    S = array(found.sensitivity[0]) / np.where(strength > 0, strength, 1.0)
    strongest = sorted(np.argsort(-strength, kind="stable")[:_LINES].tolist())
    figure, axes = sheet(len(parts), 1, 2.3 * len(parts) + 0.5)
    figure.suptitle(left_out(outputs).strip(" ()"), fontsize=11, color=INK)
    for ax, part in zip(axes[:, 0], parts, strict=True):
        for rank, i in enumerate(strongest):
            # the first of two equal lines is thick, so that it shows beside the other
            ax.plot(part.x, S[part.columns, i], color=COLOURS[rank], linestyle=DASHES[rank], linewidth=3.2 - 0.4 * rank,
                    marker=part.marker and MARKERS[rank], markersize=5)  # fmt: skip
        ax.axhline(0, color=GREY, linewidth=0.8)
        part.dress(ax, "change / its r.m.s.")
        title(ax, part.name)
    handles = [
        Line2D([], [], color=COLOURS[r], linestyle=DASHES[r], linewidth=3.2 - 0.4 * r) for r in range(len(strongest))
    ]
    legend(figure, handles, [f"${symbol(space.parameters[i])}$: {strength[i]:.3g}" for i in strongest], 6)
    return figure


def collinearity(space: Space, found: Identifiability) -> Figure:
    """Cosines between the columns of S, and the standard deviations that the data alone leave."""
    d, names = space.d, [f"${symbol(p)}$" for p in space.parameters]
    figure, (left, right) = (lambda f, a: (f, a[0]))(*sheet(1, 2, 3.6, width_ratios=(1, 1.15)))
    cosine = array(found.cosine)
    left.imshow(cosine, cmap=_SIGNED, vmin=-1, vmax=1, aspect="equal")
    left.grid(False)
    left.set_xticks(range(d), names, rotation=45 if d > 6 else 0)
    left.set_yticks(range(d), names)
    for i in range(d if d <= _WRITTEN else 0):
        for j in range(d):
            left.text(j, i, f"{cosine[i, j]:.2f}", ha="center", va="center", fontsize=8,
                      color="white" if abs(cosine[i, j]) > 0.75 else INK)  # fmt: skip
    name_axes(left, "parameter", "parameter")
    title(left, "cosine of what two parameters do")
    alone, together = array(found.alone), array(found.together)
    known = np.concatenate([alone[np.isfinite(alone)], together[np.isfinite(together)], [1.0]])
    low, high = known.min() / 2, known.max() * 4
    for x, (a, t) in enumerate(zip(alone, together)):
        for value, shift, filled in ((a, -0.2, True), (t, 0.2, False)):
            style = {"color": COLOURS[0], "alpha": 0.85} if filled else {"facecolor": "white", "edgecolor": COLOURS[0]}
            if np.isfinite(value):
                right.bar(x + shift, value - low, 0.36, bottom=low, **style)
            else:
                right.bar(x + shift, high - low, 0.36, bottom=low, facecolor="white", edgecolor=COLOURS[1], hatch="///")
    right.axhline(1, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    log_axis(right, "y")
    right.set_ylim(low, high)
    right.set_xticks(range(d), names, rotation=45 if d > 6 else 0)
    right.grid(False, axis="x")
    name_axes(right, "parameter", "standard deviation / prior's")
    handles = [Patch(facecolor=COLOURS[0], alpha=0.85), Patch(facecolor="white", edgecolor=COLOURS[0]),
               Patch(facecolor="white", edgecolor=COLOURS[1], hatch="///"),
               Line2D([], [], color=INK, linestyle=(0, (4, 3)))]  # fmt: skip
    legend(figure, handles, ["others known", "others free", "not told by the data", "the prior"])
    return figure


def latex(space: Space, text: str) -> str:
    """An expression such as `tau_m + 2 * p0**3` in the symbols of its parameters."""
    known = {p.name: symbol(p) for p in space.parameters}

    def part(word: str) -> str:
        name, _, power = word.partition("**")
        return known.get(name, name) + (f"^{{{power}}}" if power else "")

    return " ".join({"*": r"\,"}.get(word, part(word)) for word in text.split())
