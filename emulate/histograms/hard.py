"""Bins with hard edges."""

from dataclasses import dataclass
from typing import Any, ClassVar

from emulate.axes import Axis, axes_of
from emulate.binning import Binning
from emulate.contracts import Histogram
from emulate.kernels import Kernel


@dataclass(frozen=True, kw_only=True)
class Hard(Histogram):
    """Hard bins, each sample in one of them; differentiable with respect to the weights alone.

    The derivative with respect to samples is zero almost everywhere, while that of the expected counts is not. It is
    refused, for it would be lost without a word; `emulate.histogram_gradients.from_scores` has the right one.

    >>> c = Hard(edges=(0.0, 1.0, 2.0)).measured([0.5, 1.0, 1.5, 7.0], weights=[1.0, 1.0, 2.0, 1.0])
    >>> c.values, c.inside, c.standard_error[1:-1]
    (tensor([0., 1., 3., 1.], ...), tensor([1., 3.], ...), tensor([1.0000, 2.2361], ...))
    """

    example: ClassVar[dict] = {"edges": (-1.0, 0.0, 0.5, 2.0)}

    def __post_init__(self) -> None:
        axes = axes_of(self.edges)
        object.__setattr__(self, "edges", axes[0] if len(axes) == 1 else axes)

    def binning(self, x: Any, weights: Any = None) -> Binning:
        return Binning(tuple(Axis(e, Kernel.of("step")) for e in axes_of(self.edges)))
