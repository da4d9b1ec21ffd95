"""Does the emulator change with the parameters as the simulator does?"""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from emulate.checks._words import at, count, listing, number, percent
from emulate.contracts import Check, Evidence, Finding, Jacobians
from emulate.runs import Outputs
from emulate.space import Space

_FLOOR = 0.01  # share of the whole derivative below which one parameter's part counts as this share


@dataclass(frozen=True, kw_only=True)
class Gradient(Check):
    """Relative error of the emulator's derivatives against the simulator's, and the angle between them.

    G = d ln y / du for positive fields and (dy/du) / s for the others, u the unit cube and s the field's standard
    deviation over the box as its derivatives give it, (mean of sum_i (dy/du_i)^2 / 12)^1/2. For parameter i at one
    point e_i = |G_i - G*_i| / |G*_i| over the outputs, G* the simulator's; the error of a parameter is the median over
    the points. Noise in G*_i of standard error N_i makes e_i^2 larger by |N_i|^2 / |G*_i|^2 on average. It is reported
    and not subtracted: the median of a noisy square lies below its mean, so a difference would flatter the emulator.
    When the noise alone is above the bound, nothing was measured and nothing passes. A parameter that moves the
    outputs by less than 1 % of what all of them do is measured against that 1 %.

    >>> Gradient(error=0.02).cosine
    0.999
    """

    error: Annotated[float, Gt(0)] = 0.01  # bound on the relative error of the worst parameter, median over points
    cosine: Annotated[float, Gt(0), Le(1)] = 0.999  # bound on the cosine of the whole derivative at the worst point
    minimum: Annotated[int, Ge(1)] = 3  # least number of points

    stage: ClassVar = "validate"
    needs: ClassVar = ("jacobians",)

    def find(self, evidence: Evidence) -> tuple[Finding, ...]:
        evidence = self.require(evidence)
        emulator, known = evidence.emulator, evidence.jacobians
        space, g = emulator.space, len(known.theta)
        if g < self.minimum:
            said = f"Cannot say: derivatives at {count(g, 'point')} were given, and the check needs at least {self.minimum}."
            return self._error("", float("nan"), said), self._cosine(float("nan"), said)
        with torch.no_grad():
            mean = emulator.predict(known.theta).mean
        ours = _Scaled(space, emulator.outputs, known, mean, emulator.jacobian(known.theta).detach())
        if still := ours.still():
            said = f"Cannot say: at {still} of {g} points the simulator's outputs do not change with any parameter."
            return self._error("", float("nan"), said), self._cosine(float("nan"), said)
        error, floor = (torch.quantile(x, 0.5, dim=0) for x in (ours.error(), ours.noise()))  # [d]
        cosine, turned = ours.cosine().min(0)  # NaN wins a minimum, so it is never lost
        angle = f"{float(cosine):.6f}" if cosine.isfinite() else "that is not a number"
        return (
            self._worst(space, error, floor, g),
            self._cosine(float(cosine), f"At the worst of {g} points the emulator's whole derivative has cosine "
                         f"{angle} with the simulator's ({at(space, known.theta[turned])})."),
            *(self._error(f".{name}", float(error[i]), f"With respect to {name} the emulator's derivative is off by "
                          f"{_amount(error[i], floor[i], g)}.{ours.weak(i)}") for i, name in enumerate(space.names)),
        )  # fmt: skip

    def _worst(self, space: Space, error: Tensor, floor: Tensor, g: int) -> Finding:
        i, blurred = int(error.argmax()), ~(floor <= self.error)
        value = float(error[i])
        said = (f"The emulator's derivative is worst with respect to {space.names[i]}: off by "
                f"{_amount(error[i], floor[i], g)}.")  # fmt: skip
        if blurred.any():
            value = value if value > self.error else float("nan")
            names = listing(n for n, b in zip(space.names, blurred, strict=True) if b)
            said += (f" Cannot say more: with respect to {names} the standard error of the simulator's derivative "
                     f"is up to {percent(floor.max())}, above the bound of {percent(self.error)}; more runs are "
                     f"needed.")  # fmt: skip
        return self._error("", value, said)

    def _error(self, name: str, value: float, sentence: str) -> Finding:
        return Finding(f"gradient.error{name}", value, None, self.error, sentence, "gradient", blocking=not name)

    def _cosine(self, value: float, sentence: str) -> Finding:
        return Finding("gradient.cosine", value, self.cosine, None, sentence, "gradient")


def relative_error(emulator: Any, known: Jacobians, over: Jacobians) -> Tensor:
    """e_i `[g, d]` of an emulator at the points of `known`; the fields' standard deviations are those of `over`."""
    with torch.no_grad():
        mean = emulator.predict(known.theta).mean
    return _Scaled(emulator.space, emulator.outputs, known, mean, emulator.jacobian(known.theta).detach(), over).error()


class _Scaled:
    """The two derivatives G and G* with the standard error of G*, all `[g, m, d]` and dimensionless."""

    def __init__(self, space: Space, outputs: Outputs, known: Jacobians, mean: Tensor, jacobian: Tensor,
                 over: Jacobians | None = None):  # fmt: skip
        width = _width(space, known.theta)[:, None, :]
        positive, over = torch.as_tensor(outputs.positive), over or known
        whole = _width(space, over.theta)[:, None, :]
        spread = (over.value * whole).square().sum(-1).mean(0) / 12  # [m], variance of a uniform u is 1/12
        for part in outputs.slices.values():
            spread[part] = spread[part].mean()
        spread = torch.where(spread > 0, spread, 1.0).sqrt()

        def unit(y: Tensor) -> Tensor:
            return torch.where(positive, y.where(y > 0, torch.nan), spread)[:, :, None]

        self.g = jacobian * width / unit(mean)
        value = known.value.where(known.standard_error.isfinite(), torch.nan)  # of unknown error, so unknown
        self.g_true = value * width / unit(known.y)
        self.blur = known.standard_error * width / unit(known.y)
        own = self.g_true.square().sum(1)  # [g, d], |G*_i|^2
        least = _FLOOR**2 * own.sum(-1, keepdim=True)
        self.small = own < least
        size = torch.where(self.small, least, own).sqrt()
        self.size = size.where(size > 0, torch.nan)

    def still(self) -> int:
        """How many points have no derivative to compare with: all of it is zero."""
        return int((self.g_true == 0).all(2).all(1).sum())

    def error(self) -> Tensor:
        """e_i `[g, d]`."""
        return torch.linalg.vector_norm(self.g - self.g_true, dim=1) / self.size

    def noise(self) -> Tensor:
        """|N_i| / |G*_i| `[g, d]`."""
        return torch.linalg.vector_norm(self.blur, dim=1) / self.size

    def cosine(self) -> Tensor:
        """Of the whole derivative, `[g]`."""
        return torch.nn.functional.cosine_similarity(self.g.flatten(1), self.g_true.flatten(1), eps=0.0)

    def weak(self, i: int) -> str:
        n = int(self.small[:, i].sum())
        return (f" At {number(n)} of them it hardly moves the outputs, and the error is relative to "
                f"{percent(_FLOOR)} of the whole derivative." if n else "")  # fmt: skip


def _amount(error: Tensor, floor: Tensor, g: int) -> str:
    noise = f"; the simulator's own standard error of {percent(floor)} is part of it" if floor != 0 else ""
    return f"{percent(error)} (median over {g} points{noise})"


def _width(space: Space, theta: Tensor) -> Tensor:
    """dtheta/du `[g, d]`: the width of the box, or of its local equivalent where the prior is not uniform."""
    theta = theta.detach().clone().requires_grad_()
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(space.to_unit(theta).sum(), theta)
    return 1 / slope
