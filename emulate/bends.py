"""Where f is least smooth along its lines, and what differs on both sides of a jump."""

from collections.abc import Sequence

import torch
from torch import Tensor

from emulate.roughness import FAILED, exponent
from emulate.spots import LEVELS, Spot, candidates, descend, outliers
from emulate.symptoms import Symptoms
from emulate.watching import Kept, divergence, watch

NOTABLE = 1e-5  # of what f varies over the reach: what is smaller is rounding or of no account
_Triple = tuple[tuple[float, float, float], tuple[Tensor, Tensor | None, Tensor], int, int]  # t, y, line, output


def growth(s: Symptoms, y: Tensor, t: Sequence[float], count: int) -> list[_Triple]:
    """The exponent of the variance of a difference, from values `[lines, len(t), m]` at t, the middle one being 0, and
    `count` lines more at smaller steps; and where over these a line stands out."""
    if not s.lines.random:
        return []
    lines, at = s.lines, len(t) // 2
    small = (lines.reach / 32, lines.reach / 8)
    near, still = lines.grid(count, small), y[:count, at]
    change = torch.cat([near - still[:, None], y[:count, at + 1 :] - still[:, None]], 1)
    steps = torch.tensor((*small, *t[at + 1 :]), dtype=torch.float64)
    s.evidence["exponent"] = exponent(change, steps, lines.rounding)
    return [
        ((0.0, h / 2, h), (still[line], None, near[line, k]), line, j)
        for k, h in enumerate(small)
        for line, j in outliers(change[:, k], lines.rounding)
    ]


def bends(s: Symptoms, uneven: Sequence[int] = ()) -> None:
    """Kinks and jumps, of many lines where f is random, else of those that no polynomial follows (`uneven`)."""
    lines = s.lines
    count, points = ((lines.most - 300) // 9, 5) if lines.random else (len(uneven), 33)
    t = [lines.reach * (2 * k / (points - 1) - 1) for k in range(points)]
    y = lines.grid(count, t) if lines.random else torch.stack([lines.along(line, t) for line in uneven])
    places = growth(s, y, t, (3 * count) // 4)
    spread = (y - y[:, points // 2, None]).abs().nan_to_num(0.0).amax(1)  # [lines, m]
    typical = spread.median(0).values
    floor = s.floor
    s.evidence["varies"] = typical.tolist()
    s.moving = spread.amax(0) > 0
    reserve, jumps, kinks = 60, {}, {}
    most_jumps, most_kinks = (8 if s.opaque else 3, 6) if lines.random else (2, 4)
    for line, k, j in candidates(y, floor, every=not lines.random):
        at = line if lines.random else uneven[line]
        places.append(((t[k - 1], t[k], t[k + 1]), (y[line, k - 1], y[line, k], y[line, k + 1]), at, j))
    for three, values, line, j in places:
        if lines.most - lines.calls < reserve + 2 * LEVELS:
            break
        if jumps.get(j, 0) >= most_jumps or (not jumps.get(j) and kinks.get(j, 0) >= most_kinks):
            continue
        least = max(float(floor[j]), NOTABLE * float(typical[j]))

        def enough(exponent: float, level: int) -> bool:
            if not lines.random and level >= 20 and (exponent < 0.02 or abs(exponent - 1) < 0.02):
                return True
            return (level >= 9 and exponent > 1.7) or (bool(jumps) and level >= 16 and exponent < 0.1)

        middle = lines.at(line, three[1]) if values[1] is None else values[1]
        spot = descend(lines, line, three, (values[0], middle, values[2]), j, float(floor[j]), enough)
        if spot.exponent < 0.3 and abs(spot.size) > 20 * least:
            jumps[j] = jumps.get(j, 0) + 1
            s.spots.append(spot)
        elif 0.3 <= spot.exponent < 1.5 and abs(spot.size) / (spot.right - spot.left) * lines.reach > 20 * least:
            kinks[j] = kinks.get(j, 0) + 1
            s.spots.append(spot)
    for j in kinks:
        s.add(j, "kink", _sides(s, [x for x in s.spots if x.output == j and x.exponent >= 0.3][:2])[1])
    for j in jumps:
        _jump(s, j, [x for x in s.spots if x.output == j and x.exponent < 0.3])


def _sides(s: Symptoms, spots: Sequence[Spot]) -> tuple[str, str, bool]:
    """What differs on the two sides of a spot, of the first that shows it: `watching.divergence`."""
    lines = s.lines
    for spot in spots:
        lines.spend(2)
        with torch.no_grad():
            ends = [watch(lines.f, lines.point(spot.line, t), lines.noise(spot.line)) for t in (spot.left, spot.right)]
        if (found := divergence(*ends))[0]:
            return found
    return "", "", False


def _jump(s: Symptoms, j: int, spots: Sequence[Spot]) -> None:
    what, site, repeats = _sides(s, spots[:6])
    if what == "choice":
        s.add(j, "discrete choice", site)
    elif what and repeats:
        s.add(j, "accept-reject", site)
    elif s.opaque and s.lines.random and _scattered([x.size for x in spots]):
        s.add(j, "unsynchronised noise")
    else:
        s.add(j, "jump", site)
    if "through" not in s.evidence and s.lines.random and not s.opaque:
        s.evidence["through"] = _through(s, spots[0])


def _through(s: Symptoms, spot: Spot) -> bool:
    """Whether a jump goes away when the draws are kept as they are on one side: then a score sees all of it."""
    lines = s.lines
    lines.spend(2)
    with torch.no_grad():
        left = watch(lines.f, lines.point(spot.line, spot.left), lines.noise(spot.line))
        try:
            right = watch(lines.f, lines.point(spot.line, spot.right), lines.noise(spot.line), Kept(left.draws))
        except FAILED:
            return False
    return abs(float((right.y - left.y)[spot.output])) < 0.1 * abs(spot.size)


def _scattered(sizes: Sequence[float]) -> bool:
    """Whether jumps differ in size and sign as those between two draws do, and not as those over one threshold."""
    size = torch.tensor(sizes, dtype=torch.float64)
    if len(size) < 5:
        return False
    spread = float(size.abs().std() / size.abs().mean())
    return spread > 0.25 and bool((size > 0).any() and (size < 0).any())
