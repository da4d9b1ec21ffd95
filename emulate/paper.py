"""The paper that all figures are drawn on: its colours, and axes without a frame. Nothing of matplotlib is imported."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, GREY, PALE = "#222222", "#6b6b6b", "#e6e6e6"
# Okabe and Ito (2008), told apart with any colour vision; the yellow is too faint on white and left out
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("-", (0, (5, 2)), (0, (5, 2, 1, 2)), (0, (1.5, 1.5)), (0, (8, 2)), (0, (3, 1, 1, 1, 1, 1)))


def lined(ax: "Axes") -> "Axes":
    """The same axes with a pale grid behind and two grey lines, at the left and below."""
    ax.set_facecolor("white")
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(GREY)
    ax.grid(True, color=PALE, linewidth=0.7)
    ax.set_axisbelow(True)
    ax.tick_params(labelsize=9, color=GREY, labelcolor=INK)
    return ax
