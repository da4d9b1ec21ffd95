"""Why a program is hard to differentiate, where, and by which method it can be."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from emulate.dynamics import Trajectory, dynamics
from emulate.errors import InputError
from emulate.reading import read
from emulate.replication import lift
from emulate.roughness import Lines
from emulate.symptoms import Symptoms

TROUBLES = ("unsynchronised noise", "chaos", "accept-reject", "discrete choice", "jump", "repeated eigenvalues",
            "no finite derivative", "detached graph", "kink", "smooth")  # the worst first  # fmt: skip
FEWEST = 16  # numbers drawn by theta's distributions, each of which costs a weak derivative two runs
FEW = 64  # paths through discrete draws that are enumerated rather than sampled


@dataclass(frozen=True)
class Diagnosis:
    """What stands in the way of a derivative of f at theta.

    trouble: one of `TROUBLES`; site: the name under which the program draws or decides there, empty where it shows none;
    method: the entry of `emulate.gradients` to use; sentence: all of it for a reader; evidence: plain figures, among them
    `output` (the index of the output that is worst), `troubles` (of each output), `calls`, `settings` of the method.
    """

    trouble: str
    site: str
    method: str
    sentence: str
    evidence: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        at = f" at the site {self.site!r}" if self.site else ""
        settings = "".join(f", {k}: {v}" for k, v in self.evidence.get("settings", {}).items())
        return f"{self.trouble}{at}: {self.sentence} Use {self.method}{settings}."


def diagnose(f: Any, theta: Tensor, *, seed: int = 0, calls: int = 2000) -> Diagnosis:
    """The class of trouble of E[f(theta)] at theta `[d]`, its site, and the method to use; at most `calls` runs of f.

    f: whatever `emulate.replication.lift` takes. Every figure is keyed by the seed. What is not random takes 15 runs (one
    parameter) to 200 (eight and more) where polynomials foretell it along all lines, for then it is smooth, and 100 to 600
    where they do not; what is random takes most of `calls`. Signals: along lines through theta at fixed noise, how second
    differences fall where they are largest (w^2 smooth, w a kink, constant a jump) and how first differences fall at any
    place (not at all: chaos, unsynchronised noise); the exponent of the variance of a difference
    under common random numbers in its step (0, -1 or -2: Glasserman 2003, sec. 7.1; L'Ecuyer & Perron 1994); which draws
    and decisions differ on the two sides of a jump; the derivative by reverse mode against differences at the same noise;
    the gaps of spectra. A kink at theta itself gives one-sided slopes, whose interval is Clarke's generalised gradient
    (Clarke 1983) of a function of one parameter, in `evidence["clarke"]`.

    >>> from torch.distributions import Normal
    >>> f = lambda theta, noise: noise.above("strike", theta[0] + noise.draw("z", Normal(0.0, 1.0)))
    >>> found = diagnose(f, torch.tensor([0.3], dtype=torch.float64))
    >>> found.trouble, found.site, found.method
    ('jump', 'strike', 'conditional')
    """
    if calls < 500:
        raise InputError(f"calls must be at least 500 for a diagnosis. Got {calls}.")
    theta = torch.as_tensor(theta).detach().double()
    scale = torch.where(theta == 0, 1.0, theta.abs())
    return _told(read(Lines(lift(f), theta, scale, seed, calls)))


def _told(s: Symptoms) -> Diagnosis:
    """The worst trouble of all outputs, with its method in a sentence."""
    worst = {j: min(found, key=TROUBLES.index) for j, found in s.found.items()}
    troubles = [worst.get(j, "smooth") for j in range(s.outputs)]
    output = min(range(s.outputs), key=lambda j: TROUBLES.index(troubles[j]))
    trouble = troubles[output]
    site = s.found.get(output, {}).get(trouble, "")
    method, settings = _method(trouble, site, s)
    evidence = dict(s.evidence)
    if "clarke" in evidence:
        evidence["clarke"] = [tuple(side) for side in evidence["clarke"].get(output, [])]
    nearest = min((x for x in s.spots if x.output == output), key=lambda x: abs(x.t), default=None)
    if nearest is not None and not s.lines.random:
        evidence["nearest"] = s.lines.point(nearest.line, nearest.t).tolist()
        evidence["distance"] = abs(nearest.t)
    evidence.update(output=output, troubles=troubles, calls=s.lines.calls, settings=settings)
    return Diagnosis(trouble, site, method, _sentence(trouble, output, s, evidence), evidence)


def _method(trouble: str, site: str, s: Symptoms) -> tuple[str, dict[str, Any]]:
    """(method, its settings) for the worst trouble, given what else the program has."""
    random, moved = s.lines.random, " ".join(s.evidence.get("moved", ()))
    others = {name for found in s.found.values() for name in found}
    exact = s.graph and not others & {"detached graph", "repeated eigenvalues", "no finite derivative"}
    differences = "common_random_numbers" if random else "finite_difference"
    if trouble == "chaos":
        if isinstance(dynamics(s.lines.f), Trajectory) and s.graph:
            return "window", {}
        return ("common_random_numbers", {"step": 0.1}) if random else ("smooth", {"width": 0.1})
    if trouble == "discrete choice" and site:
        few = s.evidence["paths"] <= FEW and "decision" not in moved
        return ("enumerate" if few else _counted(s)), {}
    if trouble in ("jump", "accept-reject") and random:
        if trouble == "jump" and f"decision {site}" in s.evidence.get("moved", ()) and s.scalar:
            return "conditional", {}
        return (_counted(s), {}) if s.evidence.get("through") else (differences, {"step": 0.1})
    if trouble == "jump" or (trouble == "kink" and not random and "clarke" in s.evidence):
        return "smooth", {}
    if trouble in ("unsynchronised noise", "discrete choice"):
        return differences, {"step": 0.1}
    if exact and random and "decision" in moved and s.draws == 1 and s.scalar and "choice" not in moved:
        return "conditional", {}
    if not exact or (random and ("decision" in moved or "choice" in moved)):
        return differences, {}
    return ("pathwise" if random else "reverse"), {}


def _counted(s: Symptoms) -> str:
    """What serves draws by their density: weak derivatives while they are few, for these are the quieter ones."""
    return "measure_valued" if s.draws <= FEWEST else "score"


def _sentence(trouble: str, output: int, s: Symptoms, evidence: dict[str, Any]) -> str:
    """What was seen, and what follows from it."""
    f = f"output {output}" if s.outputs > 1 else "f"
    site = s.found.get(output, {}).get(trouble, "")
    grows = (evidence.get("exponent") or [None] * s.outputs)[output]
    if grows is not None and trouble not in ("kink", "smooth") and grows > -0.4:
        grows = None  # what is smooth beside hides it
    variance = f" (the variance of a difference goes as step^{round(grows, 1) + 0.0:g})" if grows is not None else ""
    lost = " Plain reverse mode loses that without a word." if evidence.get("graph") == "whole" else ""
    if trouble == "unsynchronised noise":
        if evidence.get("reproducible") is False:
            return (f"the same theta and seed gave two answers of {f}, so that no noise can be shared; draw by `noise.draw`, or "
                    "from a generator made of the seed.")  # fmt: skip
        return (f"{f} takes other noise when theta moves{variance}, for how much it draws or what it seeds depends on theta; "
                "draw by `noise.draw`, which gives every site its own numbers, and diagnose again. Until then steps must be "
                "long.")  # fmt: skip
    if trouble == "chaos":
        growth = evidence.get("tangent_growth")
        told = f" and its derivative is {growth:.0e} times its response" if growth and growth < 1e300 else ""
        return (f"{f} changes as much over a millionth of a step as over all of it{told}: the derivative of a run is of no use. "
                "Only averages respond smoothly.")  # fmt: skip
    if trouble == "accept-reject":
        return (f"which proposal is accepted at {site!r} depends on theta, and with it how much is drawn{variance}; the "
                f"derivative through the accepted one leaves that out.{lost}")  # fmt: skip
    if trouble == "discrete choice":
        return f"the discrete draw at {site!r} depends on theta and moves {f}{variance}; no derivative passes it.{lost}"
    if trouble == "jump":
        told = f"a hard decision at {site!r}" if site else "a hard decision that it does not mark by `noise.above`"
        near = f", the nearest found at theta = {_numbers(evidence['nearest'])}" if "nearest" in evidence else ""
        return f"{f} jumps in theta by {told}{near}{variance}, and the derivative of a run leaves the jumps out.{lost}"
    if trouble == "repeated eigenvalues":
        return (f"a spectrum has a gap of {s.gap:.0e} of its size ({s.gap_at}), over which torch divides, while {f} moves as "
                "differences say; `emulate.linalg` has the functions of symmetric matrices that are right there.")  # fmt: skip
    if trouble == "no finite derivative":
        return f"reverse mode gives a derivative of {f} that is not a finite number, while f itself is finite around theta."
    if trouble == "detached graph":
        where = f" ({'; '.join(evidence['detached'][:3])})" if evidence.get("detached") else ""
        return f"reverse mode contradicts differences of {f} at the same noise, for part of it left the graph{where}."
    rough = ""
    if trouble == "kink":
        if s.lines.random:
            by = f" by the decision at {site!r}" if site else ""
            rough = f"{f} has kinks at fixed noise{by} but does not jump{variance}, so that its mean over noise has a derivative"
        elif "clarke" in evidence:
            sets = ", ".join(f"[{low:.6g}, {high:.6g}]" for low, high in evidence["clarke"])
            return f"{f} has a kink at theta itself; the slopes from both sides bound its generalised gradient: {sets}."
        else:
            rough = f"{f} has a kink near theta, the nearest found at theta = {_numbers(evidence['nearest'])}; there is none here"
    if not rough:
        still = not s.moving[output] if s.moving is not None else False
        rough = f"{f} did not move at all" if still else f"{f} is smooth around theta{variance}"
    if evidence.get("graph") == "whole":
        return f"{rough}, and reverse mode agrees with differences."
    return f"{rough}, but it carries no torch graph to differentiate."


def _numbers(x: list[float]) -> str:
    return "[" + ", ".join(f"{v:.6g}" for v in x) + "]"
