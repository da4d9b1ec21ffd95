"""The one call for a derivative of an expectation: how to differentiate is an argument, and may be left to the house."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from emulate import registry
from emulate.contracts import Estimate, Gradient
from emulate.diagnosis import Diagnosis, diagnose
from emulate.errors import InputError, shown
from emulate.meter import Meter
from emulate.noise import Noise
from emulate.replication import lift
from emulate.space import Space
from emulate.trials import FEWEST, FIRST, Refused, Trial, attempt, race

_DETERMINISTIC = ("reverse", "finite_difference")
_RANDOM = ("pathwise", "enumerate", "conditional", "mixed", "score", "measure_valued")
_OWN_NOISE = ("smooth", "surrogate", "ensemble", "window")  # random whatever f is
_ROUGH = ("conditional", "score", "measure_valued")  # where plain derivatives are lost
_CHOSEN = ("enumerate", "measure_valued", "mixed", "score")  # where draws from a list are
_NEEDS = {"enumerate": {"choice"}, "conditional": {"decision"}, "mixed": {"draw", "choice"}, "score": {"draw", "choice"},
          "measure_valued": {"draw", "choice"}}  # what theta must move, or it is pathwise by another name  # fmt: skip
_TRUSTED = ("smooth", "kink", "jump", "discrete choice", "accept-reject", "chaos")  # not differences alone
_TRIED = 8  # replicates on which a method is tried that has no rival


@dataclass(frozen=True)
class Choice:
    """The method that was chosen; why others were passed over, by name; what a race between those that serve found of each
    (see `emulate.trials.Race`); the diagnosis in a sentence; the calls that all of it took."""

    method: Gradient
    passed: dict[str, str] = field(default_factory=dict)
    race: dict[str, dict[str, float]] = field(default_factory=dict)
    diagnosis: str = ""
    calls: int = 0

    def told(self) -> dict[str, Any]:
        """For `diagnostics`; what is empty is left out."""
        return {"method": {"use": self.method.entry_name(), **self.method.settings()}} | {
            k: v for k in ("passed", "race", "diagnosis") if (v := getattr(self, k))} | (
            {"choice_calls": self.calls} if self.calls else {})  # fmt: skip


def estimate(f: Any, theta: Any, *, method: str | Mapping[str, Any] | Gradient = "auto", n: int, seed: int) -> Estimate:
    """dE[f]/dtheta with its error bar and its price.

    f: what `emulate.replication.lift` takes: f(theta), f(theta, seed), f(theta, noise), a simulator, an emulator.
    theta: `[d]`, a tensor, an array or a list, or one value by name where f has a parameter space.
    method: the name of an entry of the room `gradients`; a mapping {"use": name, ...settings}; an entry as it is; or
    "auto", which takes what `diagnose` says, and tells in `diagnostics` what that was, what was passed over and why, and
    the `choice_calls` that it took, which `calls` and `seconds` hold as well. Where f is not random these are 15 (one
    parameter) to 200 (eight and more) if it is smooth, and 100 to 600 if it has a kink or a jump; where f is random, 500 to
    2000 (as many as n in between). From n = 512 on all unbiased methods that can serve are then tried side by side, on 32
    replicates and on 96, and the one with the least product of variance and work is taken; work is counted in operations,
    so that the seed decides the choice. Where a run is dear, name the method.
    n: how many replicates of what is random; what is not runs once. seed: what all noise is keyed by.

    >>> from torch.distributions import Bernoulli
    >>> e = estimate(lambda theta, noise: 3 * noise.draw("coin", Bernoulli(theta[0])), [0.4], n=100, seed=1)
    >>> e.gradient, e.diagnostics["method"]
    (tensor([[3.]], dtype=torch.float64), {'use': 'enumerate', 'most': 1024})
    """
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise InputError(f"n must be a whole number of replicates, at least 1. Got {shown(n)}.")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise InputError(f"seed must be a whole number. Got {shown(seed)}.")
    point = _point(f, theta)
    with Meter() as meter:
        probe = Noise(seed)
        with torch.no_grad():
            lift(f)(point, probe.again())
        random = bool(probe.record.sites) or probe.record.opaque
        if isinstance(method, str) and method == "auto":
            choice = choose(f, point, seed=seed, random=random, n=n)
        else:
            choice = Choice(
                method if isinstance(method, Gradient) else registry.build("gradients", method, path="method")
            )
    made = choice.method.estimate(f, point, seed=seed, n=n if random or choice.method.draws else 1)
    return replace(made, calls=made.calls + choice.calls + 1, seconds=made.seconds + meter.seconds,
                   diagnostics={**made.diagnostics, **choice.told()})  # fmt: skip


def choose(f: Any, theta: Tensor, *, seed: int, random: bool = True, n: int = 1000) -> Choice:
    """The method for n replicates of f at theta, from what `diagnose` says of it.

    It is tried on a few replicates first: a method that refuses f, cannot bound its bias, or finds nothing but zeros, which
    may be a derivative that was lost on the way, leaves the place to the next that can serve this class of trouble. From
    `FEWEST` replicates on the unbiased ones are all tried, and race. Differences, which ask nothing of f, come last.
    """
    found = diagnose(f, theta, seed=seed, calls=min(max(n, 500), 2000) if random else 2000)
    passed: dict[str, str] = {}
    calls = found.evidence["calls"]
    racing = random and n >= FEWEST
    methods: dict[str, Gradient] = {}
    trials: dict[str, Trial] = {}
    *specs, last = _specs(found, random)
    for spec in specs:
        name, method = spec["use"], registry.build("gradients", spec)
        size = FIRST if racing else _TRIED if random else 1
        tried = attempt(method, f, theta, seed=seed, n=size, count=racing)
        if isinstance(tried, Refused):
            passed[name], calls = tried.reason, calls + tried.calls
            continue
        calls += tried.made.calls
        if objection := _objection(name, tried.made):
            passed[name] = objection
            continue
        methods[name], trials[name] = method, tried
        if not racing or name not in _RANDOM:
            break
    if not methods:
        return Choice(registry.build("gradients", last), passed, {}, str(found), calls)
    if len(methods) == 1:
        return Choice(next(iter(methods.values())), passed, {}, str(found), calls)
    judged = [j for j, trouble in enumerate(found.evidence["troubles"]) if trouble == found.trouble]
    ran = race(methods, trials, f, theta, seed=seed, n=n, outputs=judged)
    won = methods[ran.winner] if ran.winner else registry.build("gradients", last)
    return Choice(won, passed | ran.out, ran.figures, str(found), calls + ran.calls)


def _specs(found: Diagnosis, random: bool) -> list[dict[str, Any]]:
    """What to try in order: what the diagnosis names, others that serve its class of trouble, and differences."""
    named = {"use": found.method, **found.evidence["settings"]}
    if found.trouble not in _TRUSTED or found.method in ("common_random_numbers", "finite_difference"):
        return [named]
    if not random:
        return [named, *({"use": k} for k in _DETERMINISTIC if k != found.method)]
    rough = found.trouble not in ("smooth", "kink")
    moved = {kind.split()[0] for kind in found.evidence.get("moved", ())}
    serve = _CHOSEN if found.trouble == "discrete choice" else _ROUGH if rough else _RANDOM
    others = [{"use": k} for k in serve if k != found.method and (k not in _NEEDS or moved & _NEEDS[k])]
    return [named, *others, {"use": "common_random_numbers"} | ({"step": 0.1} if rough else {})]


def _objection(name: str, made: Estimate) -> str:
    """Why an estimate of a few replicates speaks against its method; nothing where it does not."""
    if bool(made.bias_bound.isnan().any()) and name not in _OWN_NOISE:
        reads = ", ".join(made.diagnostics.get("reads", ())) or "something"
        return f"what depends on theta is read by {reads}, which has no derivative."
    nothing = (made.gradient == 0) & ~(made.standard_error > 0)  # slopes of both signs may add up to zero
    if bool(nothing.all()) and name not in ("conditional", "enumerate"):
        return "it finds a gradient of zeros, which only a difference can tell from a lost one."
    return ""


def _point(f: Any, theta: Any) -> Tensor:
    """theta `[d]`, float64 and finite."""
    space = getattr(f, "space", None)
    if isinstance(space, Space):
        point = space.pack(theta)
    elif isinstance(theta, Mapping):
        raise InputError("theta must be an array [d] where f has no parameter space. Got a mapping by name; give f as a "
                         "simulator or an emulator, which know their parameters, or the values in order.")  # fmt: skip
    elif isinstance(theta, Tensor) and theta.is_complex():
        raise InputError(f"theta must be real numbers [d]. Got {theta.dtype}; give its real part.")
    else:
        try:
            point = torch.as_tensor(theta, dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError) as e:
            raise InputError(f"theta must be real numbers [d]. Got {shown(theta)} ({e}).") from None
    if point.ndim != 1 or not len(point):
        raise InputError(f"theta must be one point [d]. Got shape {list(point.shape)}; estimate point by point.")
    if not point.isfinite().all():
        bad = next(i for i, x in enumerate(point.tolist()) if not math.isfinite(x))
        raise InputError(f"theta must be finite. Got {float(point[bad])} for parameter {bad}; give a number.")
    return point.detach().clone()
