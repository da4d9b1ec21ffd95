"""What one run of a program shows of itself: its draws and decisions in order, and what happens to its torch graph."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.overrides import TorchFunctionMode, resolve_name

from emulate.families import carries, discrete, inverse, moves
from emulate.noise import Noise, Place, Treatment
from emulate.replication import Program

SPECTRAL = {"linalg_eigh": 0, "linalg_eigvalsh": 0, "linalg_eig": 0, "linalg_eigvals": 0, "linalg_svd": 1, "svd": 1,
            "linalg_svdvals": 0}  # fmt: skip
LOSSES = ("detach", "item", "numpy", "tolist", "__float__", "__int__", "__array__")


@dataclass(frozen=True)
class Event:
    """One draw or one marked decision: x as a list of numbers where the draw is discrete or decided, else nothing."""

    place: Place
    kind: str  # draw, choice (a discrete draw), decision
    x: tuple[float, ...] = ()
    moved: bool = False  # its distribution or margin depends on theta
    few: int = 0  # how many values a discrete draw may take; 0: no bound


@dataclass(frozen=True)
class Kept(Treatment):
    """The plain program, with the draws of another run where that came to the same places."""

    draws: dict[Place, Tensor]

    def draw(self, place: Place, distribution: Distribution, u: Tensor) -> Tensor:
        return self.draws[place] if place in self.draws else inverse(distribution, u)


class Watched(Treatment):
    """Another treatment, with what it did in `events`."""

    def __init__(self, plain: Treatment) -> None:
        self.plain = plain
        self.events: list[Event] = []
        self.draws: dict[Place, Tensor] = {}

    def draw(self, place: Place, distribution: Distribution, u: Tensor) -> Tensor:
        x = self.plain.draw(place, distribution, u)
        chosen = discrete(distribution)
        few = 0
        if chosen and distribution.has_enumerate_support:
            few = len(distribution.enumerate_support(expand=False)) ** u.numel() if u.numel() <= 16 else 2**16
        self.events.append(Event(place, "choice" if chosen else "draw", tuple(x.flatten().tolist()) if chosen else (),
                                 moves(distribution), few))  # fmt: skip
        self.draws[place] = x.detach()
        return x

    def above(self, place: Place, margin: Tensor) -> Tensor:
        x = self.plain.above(place, margin)
        self.events.append(Event(place, "decision", tuple(x.flatten().tolist()), carries(margin)))
        return x


@dataclass
class Graph(TorchFunctionMode):
    """Around a run under reverse mode: where the graph was left, and the least gap of any spectrum, relative to its size."""

    lost: list[str] = field(default_factory=list)
    gap: float = float("inf")
    gap_at: str = ""

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name in SPECTRAL and args and carries(args[0]):
            values = out if isinstance(out, Tensor) else out[SPECTRAL[name]]
            self._spectrum(values.detach(), name)
        held = [a for a in args if isinstance(a, Tensor) and a.requires_grad]
        if name in LOSSES and held:
            self._lose(name.strip("_"))
        elif held and not torch.is_grad_enabled() and "." in (resolve_name(func) or "") and isinstance(out, Tensor):
            self._lose("no_grad")
        return out

    def _spectrum(self, values: Tensor, name: str) -> None:
        if values.shape[-1] < 2:
            return
        apart = (values[..., :, None] - values[..., None, :]).abs()
        apart = apart + torch.diag_embed(torch.full(values.shape, torch.inf, dtype=apart.dtype))
        gap = float((apart.amin((-1, -2)) / values.abs().amax(-1).clamp(min=1e-300)).min())
        if gap < self.gap:
            self.gap, self.gap_at = gap, f"{name.removeprefix('linalg_')}, {where()}"

    def _lose(self, what: str) -> None:
        place = where()
        if place and (found := f"{what}, {place}") not in self.lost:
            self.lost.append(found)


@dataclass(frozen=True)
class Seen:
    """One run: y `[m]`, its events in order, the numbers drawn, and all places that it came to, with their shapes."""

    y: Tensor
    events: tuple[Event, ...]
    draws: dict[Place, Tensor]
    shapes: dict[Place, tuple[int, ...]]
    opaque: bool

    @property
    def sites(self) -> list[str]:
        """The site of each place, in order."""
        return [place.site for place in self.shapes]

    def loops(self, other: "Seen") -> list[str]:
        """The sites that another run came to as well, but not as often."""
        sites = (self.sites, other.sites)
        return [s for s in dict.fromkeys(sites[0]) if 0 < sites[0].count(s) != sites[1].count(s) > 0]


def watch(f: Program, theta: Tensor, noise: Noise, plain: Treatment | None = None) -> Seen:
    """One run of f, watched; `noise` must be fresh. `plain` is the treatment that draws and decides."""
    treatment = Watched(plain or Treatment())
    noise.treatment = treatment
    y = f(theta, noise)
    return Seen(
        y, tuple(treatment.events), treatment.draws, noise.record.decisions | noise.record.shapes, noise.record.opaque
    )


def where() -> str:
    """`line 12 of file.py`, the innermost line that is neither torch's nor this library's; nothing where that library or
    torch's distributions asked for themselves."""
    frame = sys._getframe(1)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.startswith(("torch.distributions", "emulate.families", "emulate.noise", "emulate.replication")):
            return ""
        if not module.startswith(("torch", "emulate.watching")):
            return f"line {frame.f_lineno} of {frame.f_code.co_filename.replace(chr(92), '/').rsplit('/', 1)[-1]}"
        frame = frame.f_back
    return ""


def divergence(one: Seen, other: Seen) -> tuple[str, str, bool]:
    """(what, site, loops): the first event in which two runs differ, "choice", "decision" or "path" (other places), or
    nothing; and whether they went through a site a different number of times, as a loop of proposals does."""
    loops = one.loops(other)
    for a, b in zip(one.events, other.events):
        if a.place != b.place:
            break
        if a.x != b.x:
            return a.kind, a.place.site, bool(loops)
    if one.shapes.keys() == other.shapes.keys():
        return "", "", False
    new = [site for site in one.sites + other.sites if one.sites.count(site) != other.sites.count(site)]
    return "path", loops[0] if loops else new[0], bool(loops)
