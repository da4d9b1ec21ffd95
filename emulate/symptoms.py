"""The signals by which `emulate.diagnosis` tells one class of trouble from another, read within a number of calls."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from emulate.noise import Forced
from emulate.roughness import FAILED, LEVELS, Lines, Spent, Spot, candidates, descend, exponent, outliers, profile
from emulate.watching import Event, Graph, Kept, Seen, divergence, watch

NOTABLE = 1e-5  # of what f varies over the reach: what is smaller is rounding or of no account
_Triple = tuple[tuple[float, float, float], tuple[Tensor, Tensor | None, Tensor], int, int]  # t, y, line, output
FAR = 2**16  # paths of a discrete draw without a last value


@dataclass
class Symptoms:
    """All that is found out about one program; each output has its own troubles, by name with what was seen."""

    lines: Lines
    found: dict[int, dict[str, str]] = field(default_factory=dict)  # output -> trouble -> site
    spots: list[Spot] = field(default_factory=list)
    evidence: dict[str, Any] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    opaque: bool = False
    graph: bool = False
    outputs: int = 1
    moving: Tensor | None = None  # [m]: whether f moved along any line
    gap: float = math.inf  # the least of any spectrum, relative to its size
    gap_at: str = ""

    def read(self) -> "Symptoms":
        """All signals, as far as the calls reach."""
        try:
            if self._repeats() and not self._rough():
                self._watch()
                self._bends()
                self._chosen()
                self._clarke()
        except Spent:
            self.evidence["cut"] = "not all signals were read within the calls allowed"
        return self

    @property
    def scalar(self) -> bool:
        """Whether one continuous number is drawn somewhere, over which a decision can be integrated."""
        return any(e.kind == "draw" and seen.shapes[e.place] == () for seen in self.seen for e in seen.events)

    @property
    def draws(self) -> int:
        """How many numbers are drawn from distributions that theta moves, or from any where it moves none."""
        counts = [
            math.prod(seen.shapes[e.place])
            for seen in self.seen
            for e in seen.events
            if e.moved and e.kind != "decision"
        ]
        every = [math.prod(seen.shapes[e.place]) for seen in self.seen for e in seen.events if e.kind != "decision"]
        return math.ceil(sum(counts or every) / max(len(self.seen), 1))

    def _add(self, output: int, trouble: str, site: str = "") -> None:
        self.found.setdefault(output, {}).setdefault(trouble, site)

    def _repeats(self) -> bool:
        """Whether the same theta and noise give the same answer; and whether other noise gives another."""
        lines = self.lines
        ys = [lines.at(0, 0.0), lines.at(0, 0.0)]
        one = watch(lines.f, lines.theta, lines.noise(0))
        lines.spend()
        self.opaque, self.outputs = one.opaque, len(ys[0])
        differ = [j for j in range(self.outputs) if float((ys[0] - ys[1]).abs()[j]) > 1e-9 * float(ys[0].abs()[j])]
        if differ:
            self.evidence["reproducible"] = False
            for j in differ:
                self._add(j, "unsynchronised noise")
            return False
        named = bool(one.shapes)
        if not named and self.opaque:
            others = [lines.at(line, 0.0) for line in (1, 2, 3)]
            lines.random = any(not torch.equal(ys[0], y) for y in others)
        else:
            lines.random = named
        self.evidence["random"] = lines.random
        lines.reach = 0.4 if lines.random else 0.1
        lines.shrink()
        return True

    def _rough(self) -> bool:
        """Chaos, or noise that is another at every theta."""
        lines = self.lines
        self.profile = profile(lines)
        rough = self.profile.rough(lines.rounding)
        self.floor = torch.maximum(lines.rounding, 4 * self.profile.second.amax(0))
        if not rough.any():
            return False
        self._slopes(2)
        growth = self.evidence.get("tangent_growth", 0.0)
        chaos = not lines.random or growth > 1e3 or self.profile.linear()
        chaos = chaos and not (self.opaque and self.graph and growth < 1e3)
        for j in rough.nonzero()[:, 0].tolist():
            self._add(j, "chaos" if chaos else "unsynchronised noise")
        t = (-lines.reach, 0.0, lines.reach)
        self._exponent(lines.grid(20, t), t, 20)
        return True

    def _exponent(self, y: Tensor, t: Sequence[float], count: int) -> list[_Triple]:
        """From values `[lines, len(t), m]` at t, the middle one being 0, and `count` lines more at smaller steps; and where
        over these a line stands out."""
        if not self.lines.random:
            return []
        lines, at = self.lines, len(t) // 2
        small = (lines.reach / 32, lines.reach / 8)
        near, still = lines.grid(count, small), y[:count, at]
        change = torch.cat([near - still[:, None], y[:count, at + 1 :] - still[:, None]], 1)
        steps = torch.tensor((*small, *t[at + 1 :]), dtype=torch.float64)
        self.evidence["exponent"] = exponent(change, steps, lines.rounding)
        return [
            ((0.0, h / 2, h), (still[line], None, near[line, k]), line, j)
            for k, h in enumerate(small)
            for line, j in outliers(change[:, k], lines.rounding)
        ]

    def _slopes(self, count: int) -> list[tuple[Tensor, Tensor]]:
        """(y `[m]`, dy/dt `[m]` by reverse mode) of some lines at theta, with the graph watched."""
        lines, out, graph = self.lines, [], Graph()
        for line in range(count):
            lines.spend()
            theta = lines.theta.clone().requires_grad_()
            try:
                with torch.enable_grad(), graph:
                    seen = watch(lines.f, theta, lines.noise(line))
            except FAILED as e:
                self.evidence["graph"] = (
                    f"f does not run under reverse mode: {str(e).splitlines()[0] if str(e) else type(e).__name__}"
                )
                return []
            self.seen.append(seen)
            y = seen.y.real if seen.y.is_complex() else seen.y
            if not y.requires_grad:
                self.evidence.update(graph="none", detached=graph.lost)
                return []
            rows = [torch.autograd.grad(y_j, theta, retain_graph=True, allow_unused=True, materialize_grads=True)[0]
                    if y_j.requires_grad else torch.zeros_like(theta) for y_j in y.unbind()[:64]]  # fmt: skip
            out.append((y.detach().double(), torch.stack(rows) @ lines.direction(line)))
        self.graph = True
        slopes = torch.stack([s for _, s in out])
        if hasattr(self, "profile"):
            typical = self.profile.first.nanmedian(1).values.amax(0)[: slopes.shape[1]] / lines.reach
            growth = slopes.abs().median(0).values / typical.clamp(min=1e-300)
            self.evidence["tangent_growth"] = float(growth.nan_to_num(1e300, 1e300).max())
        self.evidence.update(graph="whole", detached=graph.lost)
        if graph.gap < math.inf:
            self.evidence["eigengap"] = graph.gap
        self.gap, self.gap_at = graph.gap, graph.gap_at
        return out

    def _watch(self) -> None:
        """Reverse mode against differences at the same noise, z-scored by what the differences may be wrong by."""
        lines = self.lines
        exact = self._slopes(8 if lines.random else 6)
        if not exact:
            return
        rounding = lines.rounding
        share = float((rounding / (lines.highest + 1e-300)).max())
        w = min(lines.reach, 0.1) * max(1e-3, share ** (1 / 3))
        wrong, infinite = [], []
        for line, (y, slope) in enumerate(exact):
            m = len(slope)
            a, b, c, d = (lines.at(line, s * w)[:m] for s in (-1, -0.5, 0.5, 1))
            y, noise = y[:m], rounding[:m]
            wide, near = (d - a) / (2 * w), (c - b) / w
            best = (4 * near - wide) / 3
            error = (wide - near).abs() + (a + d - 2 * y).abs() / w + 4 * noise / w + 1e-6 * best.abs()
            off = (slope - best).abs()
            wrong.append((off > 30 * error) & (off > 1e-3 * torch.maximum(slope.abs(), best.abs())))
            infinite.append(~slope.isfinite())
            self.evidence.setdefault("reverse_z", []).append(
                float((off / (error + 1e-300)).nan_to_num(1e300, 1e300).max())
            )
        most = len(exact) // 2
        for j in range(len(wrong[0])):
            bad, lost = sum(bool(w[j]) for w in wrong), sum(bool(w[j]) for w in infinite)
            if lost > 0:
                self._add(j, "repeated eigenvalues" if self.gap < 1e-7 else "no finite derivative")
            elif bad > most and self.evidence.get("tangent_growth", 0.0) > 1e6:
                self._add(j, "chaos")
            elif bad > most:
                self._add(j, "repeated eigenvalues" if self.gap < 1e-7 else "detached graph")

    def _bends(self) -> None:
        """Where f is least smooth along its lines, and what differs on both sides of a jump."""
        lines = self.lines
        count, points = ((lines.most - 300) // 9, 5) if lines.random else (min(16, (lines.most - 300) // 50), 33)
        t = [lines.reach * (2 * k / (points - 1) - 1) for k in range(points)]
        y = lines.grid(count, t)
        places = self._exponent(y, t, (3 * count) // 4)
        spread = (y - y[:, points // 2, None]).abs().nan_to_num(0.0).amax(1)  # [lines, m]
        typical = spread.median(0).values
        floor = torch.maximum(self.floor, lines.rounding)
        self.evidence["varies"] = typical.tolist()
        self.moving = spread.amax(0) > 0
        reserve, jumps, kinks = 60, {}, {}
        most = 8 if self.opaque and lines.random else 3
        for line, k, j in candidates(y, floor):
            places.append((tuple(t[k - 1 : k + 2]), tuple(y[line, k - 1 : k + 2]), line, j))
        for three, values, line, j in places:
            if lines.most - lines.calls < reserve + 2 * LEVELS:
                break
            if jumps.get(j, 0) >= most or (not jumps.get(j) and kinks.get(j, 0) >= 6):
                continue
            least = max(float(floor[j]), NOTABLE * float(typical[j]))

            def enough(exponent: float, level: int) -> bool:
                return (level >= 9 and exponent > 1.7) or (bool(jumps) and level >= 16 and exponent < 0.1)

            if values[1] is None:
                values = (values[0], lines.at(line, three[1]), values[2])
            spot = descend(lines, line, three, values, j, float(floor[j]), enough)
            if spot.exponent < 0.3 and abs(spot.size) > 20 * least:
                jumps[j] = jumps.get(j, 0) + 1
                self.spots.append(spot)
            elif 0.3 <= spot.exponent < 1.5 and abs(spot.size) / (spot.right - spot.left) * lines.reach > 20 * least:
                kinks[j] = kinks.get(j, 0) + 1
                self.spots.append(spot)
        for j in kinks:
            self._add(j, "kink", self._sides([s for s in self.spots if s.output == j and s.exponent >= 0.3][:2])[1])
        for j in jumps:
            self._jump(j, [s for s in self.spots if s.output == j and s.exponent < 0.3])

    def _sides(self, spots: Sequence[Spot]) -> tuple[str, str, bool]:
        """What differs on the two sides of a spot, of the first that shows it: `watching.divergence`."""
        lines = self.lines
        for spot in spots:
            lines.spend(2)
            with torch.no_grad():
                ends = [
                    watch(lines.f, lines.point(spot.line, t), lines.noise(spot.line)) for t in (spot.left, spot.right)
                ]
            if (found := divergence(*ends))[0]:
                return found
        return "", "", False

    def _jump(self, j: int, spots: Sequence[Spot]) -> None:
        what, site, repeats = self._sides(spots[:6])
        if what == "choice":
            self._add(j, "discrete choice", site)
        elif what and repeats:
            self._add(j, "accept-reject", site)
        elif self.opaque and self.lines.random and _scattered([s.size for s in spots]):
            self._add(j, "unsynchronised noise")
        else:
            self._add(j, "jump", site)
        if "through" not in self.evidence and self.lines.random and not self.opaque:
            self.evidence["through"] = self._through(spots[0])

    def _through(self, spot: Spot) -> bool:
        """Whether a jump goes away when the draws are kept as they are on one side: then a score sees all of it."""
        lines = self.lines
        lines.spend(2)
        with torch.no_grad():
            left = watch(lines.f, lines.point(spot.line, spot.left), lines.noise(spot.line))
            try:
                right = watch(lines.f, lines.point(spot.line, spot.right), lines.noise(spot.line), Kept(left.draws))
            except FAILED:
                return False
        return abs(float((right.y - left.y)[spot.output])) < 0.1 * abs(spot.size)

    def _chosen(self) -> None:
        """Discrete draws that theta moves, and proposals that theta accepts, whether or not a line saw them change."""
        lines, tried = self.lines, Counter()
        for line, seen in enumerate(self.seen):
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
                            self._add(j, "discrete choice", e.place.site)
                        elif run.loops(seen):
                            self._add(j, "accept-reject", e.place.site)
        moved = [e for e in self.seen[0].events if e.moved] if self.seen else []
        self.evidence["paths"] = math.prod(e.few or FAR for e in moved if e.kind == "choice")
        self.evidence["moved"] = sorted({f"{e.kind} {e.place.site}" for e in moved})

    def _clarke(self) -> None:
        """One-sided slopes where a function that is not random has its kink at theta itself."""
        lines, w = self.lines, 1e-4
        at = [s for s in self.spots if s.exponent >= 0.3 and abs(s.t) < 1e-6 * lines.reach]
        if lines.random or not at or len(lines.theta) > 8:
            return
        y = lines.at(0, 0.0)
        sides = []
        for i in range(len(lines.theta)):
            near, far, back, behind = (lines.at(i, s * w) for s in (1, 2, -1, -2))
            sides.append(torch.stack([4 * back - 3 * y - behind, 4 * near - 3 * y - far])
                         / (torch.tensor([[-2 * w], [2 * w]], dtype=y.dtype) * lines.scale[i]))  # fmt: skip
        slopes = torch.stack(sides).sort(1).values.movedim(-1, 0)  # [m, d, 2]
        self.evidence["clarke"] = {j: slopes[j].tolist() for j in sorted({s.output for s in at})}


def _others(e: Event, shape: tuple[int, ...]) -> list[Forced]:
    """The program with one choice or decision taken otherwise."""
    if e.kind == "decision":
        return [Forced(decisions={e.place: 1.0 - torch.tensor(e.x, dtype=torch.float64).reshape(shape)})]
    return [Forced(u={e.place: torch.full(shape, u, dtype=torch.float64)}) for u in (0.02, 0.98)]


def _scattered(sizes: Sequence[float]) -> bool:
    """Whether jumps differ in size and sign as those between two draws do, and not as those over one threshold."""
    size = torch.tensor(sizes, dtype=torch.float64)
    if len(size) < 5:
        return False
    spread = float(size.abs().std() / size.abs().mean())
    return spread > 0.25 and bool((size > 0).any() and (size < 0).any())
