"""What is found out about one program by the signals that `emulate.reading` reads."""

import math
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from emulate.roughness import Lines, Profile
from emulate.spots import Spot
from emulate.watching import Seen


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
    profile: Profile | None = None
    gap: float = math.inf  # the least of any spectrum, relative to its size
    gap_at: str = ""

    def add(self, output: int, trouble: str, site: str = "") -> None:
        """One more trouble of an output; the first site that it was seen at stays."""
        self.found.setdefault(output, {}).setdefault(trouble, site)

    @property
    def floor(self) -> Tensor:
        """`[m]`: second differences below which nothing is told from rounding."""
        rounding = self.lines.rounding
        return rounding if self.profile is None else rounding.maximum(4 * self.profile.second.amax(0))

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
