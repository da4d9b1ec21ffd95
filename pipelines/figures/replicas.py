"""Figure of an observation that is held against data made again under its posterior."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from emulate.contracts import Replicas
from emulate.runs import Outputs
from pipelines.figures.sheets import COLOURS, GREY, INK, array, legend, log_axis, name_axes, sheet

_AGAIN = COLOURS[0]
_MOST = 12  # parts drawn; of more, those that lie farthest out


def replicas(known: Replicas, outputs: Outputs) -> Figure:
    """Above, chi2 per number of the observation (dots, with 95 % of the posterior's draws) and of data made again (bars, 68
    and 95 %), for all outputs and each field; below, the observation less the prediction in standard deviations."""
    size = np.array(known.sizes)
    data, again = array(known.data) / size, array(known.replica).reshape(-1, len(size)) / size
    quantiles, own = np.quantile(again, [0.025, 0.16, 0.84, 0.975], axis=0), np.quantile(data, [0.025, 0.975], axis=0)
    middle = data.mean(0)
    out = np.abs(np.log(middle.clip(1e-300) / np.median(again, 0).clip(1e-300)))
    rows = np.sort(np.argsort(-out, kind="stable")[:_MOST])
    figure, axes = sheet(2, 1, 0.32 * len(rows) + 3.2, height_ratios=[0.32 * len(rows) + 0.5, 1.5])
    upper, lower = axes[:, 0]
    y = np.arange(len(rows))
    for (a, b), alpha in (((0, 3), 0.3), ((1, 2), 0.5)):
        upper.barh(
            y, (quantiles[b] - quantiles[a])[rows], 0.55, quantiles[a][rows], color=_AGAIN, alpha=alpha, linewidth=0
        )
    upper.hlines(y, own[0][rows], own[1][rows], color=INK, linewidth=1.2)
    upper.plot(middle[rows], y, "o", color=INK, markersize=4.5)
    upper.set_yticks(y, [known.parts[i] or "all outputs" for i in rows])
    upper.set_ylim(len(rows) - 0.5, -0.5)
    positive = min(middle[rows].min(), quantiles[0][rows].min()) > 0
    if positive and max(middle[rows].max(), own[1][rows].max()) > 8 * quantiles[3][rows].max():
        log_axis(upper, "x")
    else:
        upper.set_xlim(left=0)
    name_axes(upper, r"$\chi^2$ per number", "field")
    lower.axhspan(-2, 2, color=GREY, alpha=0.18, linewidth=0)
    lower.axhline(0, color=INK, linewidth=0.8)
    pull = array(known.pull)
    lower.plot(np.arange(len(pull)), pull, "o", color=INK, markersize=3.5)
    for part in list(outputs.slices.values())[1:]:
        lower.axvline(part.start - 0.5, color=GREY, linewidth=0.8, linestyle=":")
    reach = max(3.0, 1.15 * float(np.abs(pull).max()) if np.isfinite(pull).all() else 3.0)
    lower.set_ylim(-reach, reach)
    lower.set_xlim(-0.5, len(pull) - 0.5)
    lower.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    name_axes(lower, "output", "observation less\nprediction [$\\sigma$]")
    handles = [Patch(color=_AGAIN, alpha=0.5), Line2D([], [], color=INK, marker="o", markersize=4.5, linewidth=1.2)]
    legend(figure, handles, ["data made again (68, 95 %)", "the observation (95 % of the draws)"])
    return figure
