"""The complex step: derivatives to rounding of code that takes complex numbers, without a difference to cancel."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Gt
from torch import Tensor

from emulate.contracts import Estimate, Gradient
from emulate.errors import InputError
from emulate.gradients._averages import averaged, lengths
from emulate.gradients._lost import Noted
from emulate.meter import Meter
from emulate.noise import Noise
from emulate.replication import Program, each, lift

LOST = ("complex_step must be given a program that is analytic in theta: no abs, real, conj or comparison on its way. Got {met}; "
        "use forward, reverse, or common_random_numbers.")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ComplexStep(Gradient):
    """The complex step: df/dtheta_i = Im f(theta + i h e_i) / h + O(h^2), and h = 1e-20 leaves nothing of h^2.

    Squire & Trapp (1998); Martins, Sturdza & Alonso (2003). For code that takes complex theta, torch or numpy inside, and
    is analytic. What is not, such as abs or a plain real part, loses the imaginary part without a word: so the answer is
    held against a real difference of f along one direction, and refused where the two disagree; a comparison, which
    complex numbers do not have, is refused as it comes.

    >>> theta = torch.tensor([1.0, 2.0], dtype=torch.float64)
    >>> ComplexStep().estimate(lambda t: t**2, theta, seed=0).gradient
    tensor([[2., 0.],
            [0., 4.]], dtype=torch.float64)
    """

    needs: ClassVar[tuple[str, ...]] = ("complex",)
    exact: ClassVar[bool] = True
    step: Annotated[float, Gt(0)] = 1e-20  # h as a share of |theta|, or of 1 where theta is 0
    check: Annotated[float, Gt(0)] = 1e-3  # the step of the real difference, as such a share

    def estimate(self, f: Any, theta: Tensor, *, seed: int, n: int = 1) -> Estimate:
        f, theta = lift(f), theta.detach().double()
        h, lost = self.step * lengths((), theta), Noted()
        with Meter() as meter, torch.no_grad():
            made = each(lambda noise: self._run(f, theta, h, noise, lost), seed, max(n, 2))
            values, slopes = made.answer
            off = self._disagreement(f, theta, slopes[0], Noise(seed))
        return averaged(values[:n], slopes[:n], random=made.random(values), calls=made.calls * len(theta) + 4, meter=meter,
                        bias_bound=lost.bias_bound(slopes),
                        diagnostics={"disagreement": off, "alone": made.alone, "lost": sorted(lost.places)})  # fmt: skip

    def _run(self, f: Program, theta: Tensor, h: Tensor, noise: Noise, lost: Noted) -> tuple[Tensor, Tensor]:
        ys = []
        for i in range(len(theta)):
            moved = torch.complex(theta, torch.zeros_like(theta).index_add(0, torch.tensor([i]), h[i : i + 1]))
            try:
                y = f(moved, noise.again(lost))
            except (RuntimeError, TypeError) as e:
                if "omplex" not in str(e):
                    raise
                said = str(e).split("\n", 1)[0].rstrip(". ")
                raise InputError(f"complex_step must be given a program that takes complex theta. Got an operation that "
                                 f"does not ({said}); give its other arguments theta's dtype, or use forward.") from e  # fmt: skip
            if not y.is_complex():
                raise InputError(LOST.format(met="a real answer of a complex theta"))
            ys.append(y)
        y = torch.stack(ys, -1).to(torch.complex128)
        return y[..., 0].real.clone(), y.imag / h

    def _disagreement(self, f: Program, theta: Tensor, slopes: Tensor, noise: Noise) -> float:
        """The distance of J v to a real difference along v, in errors of that difference; refused above 3."""
        v = self.check * lengths((), theta) * (0.5 + noise.own("direction", tuple(theta.shape)))
        low2, low, up, up2 = (self._real(f, theta + k * v, noise) for k in (-2, -1, 1, 2))
        near, far, told = (up - low) / 2, (up2 - low2) / 4, slopes @ v
        size = torch.stack([low2, low, up, up2]).abs().amax(0)
        error = (near - far).abs() + 1e-14 * size + 1e-6 * (slopes.abs() @ v)
        off = (((4 * near - far) / 3 - told).abs() / error.clamp(min=1e-300)).max()
        if off > 3:
            raise InputError(
                LOST.format(met=f"a slope along one direction that is {off:.3g} errors away from a real difference")
            )
        return float(off)

    def _real(self, f: Program, theta: Tensor, noise: Noise) -> Tensor:
        y = f(torch.complex(theta, torch.zeros_like(theta)), noise.again())
        return y.real.double()
