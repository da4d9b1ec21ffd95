"""The derivative by reverse mode against differences at the same noise: whether the graph holds all of it."""

import torch
from torch import Tensor

from emulate import backward
from emulate.roughness import FAILED
from emulate.symptoms import Symptoms
from emulate.watching import Graph, watch


def slopes(s: Symptoms, count: int) -> Tensor | None:
    """dy/dt `[lines, m]` by reverse mode of some lines at theta, with the graph watched; nothing where f has none. What is
    not random runs once for all lines."""
    lines, rows, graph = s.lines, [], Graph()
    for line in range(count if lines.random else 1):
        lines.spend()
        theta = lines.theta.clone().requires_grad_()
        try:
            with torch.enable_grad(), graph:
                seen = watch(lines.f, theta, lines.noise(line))
            y = seen.y.real if seen.y.is_complex() else seen.y
            s.seen.append(seen)
            if not y.requires_grad:
                s.evidence.update(graph="none", detached=graph.lost)
                return None
            rows.append(_rows(y, theta))
        except FAILED as e:
            s.evidence["graph"] = (
                f"f does not run under reverse mode: {str(e).splitlines()[0] if str(e) else type(e).__name__}"
            )
            return None
    s.graph = True
    found = torch.stack([rows[min(line, len(rows) - 1)] @ lines.direction(line) for line in range(count)])
    if s.profile is not None:
        typical = s.profile.first.nanmedian(1).values.amax(0)[: found.shape[1]] / lines.reach
        growth = found.abs().median(0).values / typical.clamp(min=1e-300)
        s.evidence["tangent_growth"] = float(growth.nan_to_num(1e300, 1e300).max())
    s.evidence.update(graph="whole", detached=graph.lost)
    if graph.gap < torch.inf:
        s.evidence["eigengap"] = graph.gap
    s.gap, s.gap_at = graph.gap, graph.gap_at
    return found


def _rows(y: Tensor, theta: Tensor) -> Tensor:
    """dy/dtheta `[m, d]` of up to 64 outputs."""
    return backward.rows(y[:64], theta) if y.requires_grad else theta.new_zeros(len(y[:64]), *theta.shape)


def contradictions(s: Symptoms) -> None:
    """Reverse mode against differences, each line z-scored by what its differences may be wrong by."""
    lines = s.lines
    exact = slopes(s, 8 if lines.random else min(lines.several, 6))
    if exact is None:
        return
    rounding = lines.rounding
    share = float((rounding / (lines.highest + 1e-300)).max())
    w = min(lines.reach, 0.1) * max(1e-3, share ** (1 / 3))
    best, error = [], []
    for line in range(len(exact)):
        y = s.seen[line if lines.random else 0].y.detach()
        y = (y.real if y.is_complex() else y).double()
        a, b, c, d = (lines.at(line, k * w) for k in (-1, -0.5, 0.5, 1))
        wide, near = (d - a) / (2 * w), (c - b) / w
        best.append((4 * near - wide) / 3)
        error.append((wide - near).abs() + (a + d - 2 * y).abs() / w + 4 * rounding / w)
    compare(s, exact, torch.stack(best), torch.stack(error))


def compare(s: Symptoms, exact: Tensor, best: Tensor, error: Tensor) -> None:
    """What it means for outputs that reverse mode gives `exact` `[lines, m]` where differences give `best`, which may be
    wrong by `error`."""
    m = exact.shape[1]
    best, error = best[:, :m], error[:, :m] + 1e-6 * best[:, :m].abs()
    off = (exact - best).abs()
    wrong = (off > 30 * error) & (off > 1e-3 * torch.maximum(exact.abs(), best.abs()))
    s.evidence["reverse_z"] = [float(z.nan_to_num(1e300, 1e300).max()) for z in off / (error + 1e-300)]
    for j in range(m):
        if not bool(exact[:, j].isfinite().all()):
            s.add(j, "repeated eigenvalues" if s.gap < 1e-7 else "no finite derivative")
        elif int(wrong[:, j].sum()) > len(exact) // 2:
            grown = s.evidence.get("tangent_growth", 0.0) > 1e6
            s.add(j, "chaos" if grown else "repeated eigenvalues" if s.gap < 1e-7 else "detached graph")
