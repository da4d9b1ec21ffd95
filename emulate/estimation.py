"""The one call for a derivative of an expectation: how to differentiate is an argument, and may be left to the house."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from emulate import registry
from emulate.contracts import Estimate, Gradient
from emulate.diagnosis import diagnose
from emulate.errors import InputError, shown
from emulate.noise import Noise
from emulate.replication import lift
from emulate.space import Space

_DETERMINISTIC = ("reverse", "finite_difference")
_RANDOM = ("pathwise", "enumerate", "conditional", "mixed", "score", "measure_valued", "common_random_numbers")
_OWN_NOISE = ("smooth", "surrogate", "ensemble", "window")  # random whatever f is
_ROUGH = ("conditional", "score", "measure_valued", "common_random_numbers")  # where plain derivatives are lost
_TRUSTED = (
    "smooth",
    "kink",
    "jump",
    "discrete choice",
    "accept-reject",
    "chaos",
)  # a method may serve beside differences
_TRIED = 8  # replicates on which a method is tried


def estimate(f: Any, theta: Any, *, method: str | Mapping[str, Any] | Gradient = "auto", n: int, seed: int) -> Estimate:
    """dE[f]/dtheta with its error bar and its price.

    f: what `emulate.replication.lift` takes: f(theta), f(theta, seed), f(theta, noise), a simulator, an emulator.
    theta: `[d]`, a tensor, an array or a list, or one value by name where f has a parameter space.
    method: the name of an entry of the room `gradients`; a mapping {"use": name, ...settings}; an entry as it is; or
    "auto", which takes what `diagnose` says, at the price of 500 to 2000 runs of f (as many as n in between), and tells in
    `diagnostics` what that was, and what was passed over, and why. Where a run is dear, name the method.
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
    probe = Noise(seed)
    with torch.no_grad():
        lift(f)(point, probe.again())
    random = bool(probe.record.sites) or probe.record.opaque
    if isinstance(method, str) and method == "auto":
        found, passed, spent, diagnosis = choose(f, point, seed=seed, random=random, calls=min(max(n, 500), 2000))
    else:
        found = method if isinstance(method, Gradient) else registry.build("gradients", method, path="method")
        passed, spent, diagnosis = {}, 0, ""
    made = found.estimate(f, point, seed=seed, n=n if random or found.draws else 1)
    told = {"method": {"use": found.entry_name(), **found.settings()}} | ({"passed": passed} if passed else {})
    told |= {"diagnosis": diagnosis} if diagnosis else {}
    return replace(made, calls=made.calls + spent + 1, diagnostics={**made.diagnostics, **told})


def choose(f: Any, theta: Tensor, *, seed: int, random: bool = True,
           calls: int = 2000) -> tuple[Gradient, dict[str, str], int, str]:  # fmt: skip
    """The method that `diagnose` names for f at theta; why methods before it were passed over, by name; the calls that this
    took, those of the diagnosis among them; and the diagnosis itself.

    It is tried on a few replicates first: a method that refuses f, cannot bound its bias, or finds nothing but zeros, which
    may be a derivative that was lost on the way, leaves the place to the next that can serve this class of trouble. The last
    asks nothing of f.
    """
    found = diagnose(f, theta, seed=seed, calls=calls)
    passed: dict[str, str] = {}
    spent = found.evidence["calls"]
    others = (_RANDOM if found.trouble in ("smooth", "kink") else _ROUGH) if random else _DETERMINISTIC
    specs = [{"use": found.method, **found.evidence["settings"]}]
    specs += [{"use": name} for name in others if name != found.method]
    if found.trouble not in _TRUSTED or found.method == others[-1]:
        specs = specs[:1]
    for spec in specs[:-1]:
        method = registry.build("gradients", spec)
        name = spec["use"]
        try:
            made = method.estimate(f, theta, seed=seed, n=_TRIED if random else 1)
        except (InputError, RuntimeError, TypeError) as e:
            passed[name] = str(e).split("\n", 1)[0] or type(e).__name__
            continue
        spent += made.calls
        if bool(made.bias_bound.isnan().any()) and name not in _OWN_NOISE:
            reads = ", ".join(made.diagnostics.get("reads", ())) or "something"
            passed[name] = f"what depends on theta is read by {reads}, which has no derivative."
        elif bool((made.gradient == 0).all()) and name not in ("conditional", "enumerate"):
            passed[name] = "it finds a gradient of zeros, which only a difference can tell from a lost one."
        else:
            return method, passed, spent, str(found)
    return registry.build("gradients", specs[-1]), passed, spent, str(found)


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
