"""The signals by which `emulate.diagnosis` tells one class of trouble from another, read within a number of calls."""

import math
from collections import Counter

import torch

from emulate.bends import bends, growth
from emulate.contradictions import contradictions, slopes
from emulate.evenness import uneven
from emulate.noise import Forced
from emulate.roughness import FAILED, Lines, Spent, profile
from emulate.symptoms import Symptoms
from emulate.watching import Event, watch

FAR = 2**16  # paths of a discrete draw without a last value
PLACES = 10  # at which f is looked at closely; 4 where it is not random, and smooth at each of them


def read(lines: Lines) -> Symptoms:
    """All signals, as far as the calls reach; no more than are needed where f is not random."""
    s = Symptoms(lines)
    try:
        if not _repeats(s):
            return s
        odd = [] if lines.random else uneven(s)
        if (lines.random or odd) and not _rough(s):
            contradictions(s)
            bends(s, odd)
            _chosen(s)
            _clarke(s)
    except Spent:
        s.evidence["cut"] = "not all signals were read within the calls allowed"
    return s


def _repeats(s: Symptoms) -> bool:
    """Whether the same theta and noise give the same answer; and whether other noise gives another."""
    lines = s.lines
    ys = [lines.at(0, 0.0), lines.at(0, 0.0)]
    one = watch(lines.f, lines.theta, lines.noise(0))
    lines.spend()
    s.opaque, s.outputs = one.opaque, len(ys[0])
    differ = [j for j in range(s.outputs) if float((ys[0] - ys[1]).abs()[j]) > 1e-9 * float(ys[0].abs()[j])]
    if differ:
        s.evidence["reproducible"] = False
        for j in differ:
            s.add(j, "unsynchronised noise")
        return False
    named = bool(one.shapes)
    if not named and s.opaque:
        others = [lines.at(line, 0.0) for line in (1, 2, 3)]
        lines.random = any(not torch.equal(ys[0], y) for y in others)
    else:
        lines.random = named
    s.evidence["random"] = lines.random
    lines.reach = 0.4 if lines.random else 0.1
    lines.shrink()
    return True


def _rough(s: Symptoms) -> bool:
    """Chaos, or noise that is another at every theta."""
    lines = s.lines
    s.profile = profile(lines, PLACES if lines.random else 4)
    if not lines.random and bool(s.profile.rough_somewhere(lines.rounding).any()):
        s.profile = profile(lines, PLACES)
    rough = s.profile.rough(lines.rounding)
    if not rough.any():
        return False
    slopes(s, 2)
    grown = s.evidence.get("tangent_growth", 0.0)
    chaos = not lines.random or grown > 1e3 or s.profile.linear()
    chaos = chaos and not (s.opaque and s.graph and grown < 1e3)
    for j in rough.nonzero()[:, 0].tolist():
        s.add(j, "chaos" if chaos else "unsynchronised noise")
    if lines.random:
        t = (-lines.reach, 0.0, lines.reach)
        growth(s, lines.grid(20, t), t, 20)
    return True


def _chosen(s: Symptoms) -> None:
    """Discrete draws that theta moves, and proposals that theta accepts, whether or not a line saw them change."""
    lines, tried = s.lines, Counter()
    for line, seen in enumerate(s.seen):
        for e in seen.events:
            if not e.moved or e.kind == "draw" or tried[e.place.site] >= 3 or len(tried) > 8:
                continue
            tried[e.place.site] += 1
            shape = seen.shapes[e.place]
            for other in _others(e, shape):
                lines.spend()
                try:
                    with torch.no_grad():
                        run = watch(lines.f, lines.theta, lines.noise(line), other)
                except FAILED:
                    continue
                off = (run.y - seen.y.detach()).abs().double()
                for j in (off > 1e-9 * lines.highest).nonzero()[:, 0].tolist():
                    if e.kind == "choice":
                        s.add(j, "discrete choice", e.place.site)
                    elif run.loops(seen):
                        s.add(j, "accept-reject", e.place.site)
    moved = [e for e in s.seen[0].events if e.moved] if s.seen else []
    s.evidence["paths"] = math.prod(e.few or FAR for e in moved if e.kind == "choice")
    s.evidence["moved"] = sorted({f"{e.kind} {e.place.site}" for e in moved})


def _others(e: Event, shape: tuple[int, ...]) -> list[Forced]:
    """The program with one choice or decision taken otherwise."""
    if e.kind == "decision":
        return [Forced(decisions={e.place: 1.0 - torch.tensor(e.x, dtype=torch.float64).reshape(shape)})]
    return [Forced(u={e.place: torch.full(shape, u, dtype=torch.float64)}) for u in (0.02, 0.98)]


def _clarke(s: Symptoms) -> None:
    """One-sided slopes where a function that is not random has its kink at theta itself."""
    lines, w = s.lines, 1e-4
    at = [x for x in s.spots if x.exponent >= 0.3 and abs(x.t) < 1e-6 * lines.reach]
    if lines.random or not at or len(lines.theta) > 8:
        return
    y = lines.at(0, 0.0)
    sides = []
    for i in range(len(lines.theta)):
        near, far, back, behind = (lines.at(i, k * w) for k in (1, 2, -1, -2))
        sides.append(torch.stack([4 * back - 3 * y - behind, 4 * near - 3 * y - far])
                     / (torch.tensor([[-2 * w], [2 * w]], dtype=y.dtype) * lines.scale[i]))  # fmt: skip
    found = torch.stack(sides).sort(1).values.movedim(-1, 0)  # [m, d, 2]
    s.evidence["clarke"] = {j: found[j].tolist() for j in sorted({x.output for x in at})}
