"""Bins with soft edges: every sample spread by a kernel, so that derivatives flow to the samples."""

import math
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal, TypeGuard, cast

from annotated_types import Gt

from emulate import bandwidths
from emulate.axes import Axis, axes_of, given
from emulate.binning import Binning
from emulate.contracts import Histogram
from emulate.errors import InputError, shown
from emulate.kernels import Kernel

Ends = tuple[float | None, float | None]
Width = Annotated[float, Gt(0)]


@dataclass(frozen=True, kw_only=True)
class Soft(Histogram):
    """Soft bins: a sample counts in each by the kernel's share, with derivatives to samples and weights of any order.

    S_j = sum_i w_i [G((r_j - x_i) / h) - G((l_j - x_i) / h)] with G the kernel's distribution function and h its standard
    deviation, whatever its form. On average that is the count less hard by h^2 / 2 (f'(r) - f'(l)) per sample of density f;
    the derivative is biased likewise, as h^2. Compare soft counts with soft ones (`emulate.histogram_comparison`), and look
    at the bias of a gradient by `emulate.histogram_gradients`.

    - richardson: 2 S_h - S_{h sqrt 2} leaves a bias as h^4; a share may then be below 0 and above 1.
    - support: where the samples can lie, [low, high], null where it is open. Without it a bin at an end loses weight over
      it, a bias as h; with it that weight is reflected. Of two axes, a list for each.
    - bandwidth auto: the h that makes the summed squared error of all bins least, of the counts or of their derivatives
      with respect to a shift, on the samples counted; no derivative flows through it. Settle it once with `settled` for
      counts that are to be compared.

    >>> soft = Soft(edges=(0.0, 1.0, 2.0), bandwidth=0.3)
    >>> x = torch.tensor([0.5, 0.9, 7.0], dtype=torch.float64, requires_grad=True)
    >>> values = soft.counts(x).values
    >>> values, torch.autograd.grad(values[1], x)[0]
    (tensor([0.0477, 1.5246, 0.4277, 1.0000], ...), tensor([ 0.0000, -1.1708,  0.0000], ...))
    """

    bandwidth: Width | tuple[Width, ...] | Literal["auto"] = "auto"  # h in units of x, one number, or one per axis
    kernel: Literal["gaussian", "logistic", "compact"] = "compact"  # compact: (1 - x^2 / 9 h^2)^3, the quickest
    target: Literal["value", "gradient"] = "gradient"  # what an automatic bandwidth makes the error of least
    richardson: bool = False  # extrapolate in h: bias as h^4
    support: Ends | tuple[Ends, ...] = (None, None)  # the ends of where samples can lie, reflected at

    example: ClassVar[dict] = {"edges": (-1.0, 0.0, 0.5, 2.0), "bandwidth": 0.3}

    def __post_init__(self) -> None:
        axes = axes_of(self.edges)
        object.__setattr__(self, "edges", axes[0] if len(axes) == 1 else axes)
        many = isinstance(self.bandwidth, tuple | list)
        widths = [*self.bandwidth] if isinstance(self.bandwidth, tuple | list) else [self.bandwidth]
        if self.bandwidth != "auto" and (len(widths) not in (1, len(axes)) or not all(
            _number(h) and h > 0 for h in widths)):  # fmt: skip
            raise InputError(f"bandwidth must be a finite number above 0, one for each axis, or auto. Got {shown(self.bandwidth)}; "
                             "hard bins are the histogram hard.")  # fmt: skip
        if many:
            object.__setattr__(self, "bandwidth", tuple(widths) if len(widths) > 1 else widths[0])
        for name, allowed in (("kernel", ("gaussian", "logistic", "compact")), ("target", ("value", "gradient"))):
            if getattr(self, name) not in allowed:
                raise InputError(
                    f"{name} must be {', '.join(allowed[:-1])} or {allowed[-1]}. Got {shown(getattr(self, name))}."
                )
        ends = self._ends
        if len(ends) != len(axes) or not all(
            len(e) == 2 and all(x is None or _number(x) for x in e) and (e[0] is None or e[1] is None or e[0] < e[1])
            for e in ends):  # fmt: skip
            raise InputError(f"support must be [low, high] with low < high, null for an open end, of two axes a list for each. "
                             f"Got {shown(self.support)}.")  # fmt: skip
        if self.bandwidth != "auto":
            self._axes(self.bandwidth)

    def binning(self, x: Any, weights: Any = None) -> Binning:
        return Binning(self._axes(cast("float | tuple[float, ...]", self.settled(x, weights).bandwidth)))

    def settled(self, x: Any, weights: Any = None, velocities: Any = None) -> "Soft":
        """This histogram with the bandwidth that is best for these samples, where it is auto; all rows share one.

        velocities dx/dtheta `[n, d]`, or `[n, 2, d]` of two axes: the derivatives that are to be right, where the target is
        the gradient; without them, those of a shift.
        """
        if self.bandwidth != "auto":
            return self
        axes = self._axes(1.0)
        x, w = given(x, weights, len(axes))
        found = bandwidths.best(axes, x.detach().reshape(-1, len(axes)), w.detach().reshape(-1), x.shape[-2], self.target,
                                velocities)  # fmt: skip
        return replace(self, bandwidth=found if len(axes) > 1 else found[0])

    @property
    def _ends(self) -> tuple[Ends, ...]:
        """The support of each axis."""
        given: Any = self.support  # as it was written; what it must be is asked where it is read
        if any(isinstance(e, tuple | list) for e in given):
            return tuple(tuple(e) for e in given)
        return (tuple(given),) * (len(axes_of(self.edges)) if tuple(given) == (None, None) else 1)

    def _axes(self, bandwidth: float | tuple[float, ...]) -> tuple[Axis, ...]:
        kernel = Kernel.of(self.kernel)
        kernel = kernel.fourth_order() if self.richardson else kernel
        edges = axes_of(self.edges)
        widths = bandwidth if isinstance(bandwidth, tuple) else (bandwidth,) * len(edges)
        for h, (low, high) in zip(widths, self._ends, strict=True):
            if low is not None and high is not None and h > high - low and self.bandwidth != "auto":
                raise InputError(f"bandwidth must be at most the width of the support, {high - low:g}. Got {h:g}, which "
                                 "leaves nothing of the samples' places.")  # fmt: skip
        return tuple(Axis(e, kernel, h, s) for e, h, s in zip(edges, widths, self._ends, strict=True))


def _number(x: Any) -> TypeGuard[float]:
    return isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x)
