"""y <-> z: logarithm of the positive fields, standardisation, and principal components, kept as buffers.

Only this file knows about units: `z` `[..., p]` has mean 0, variance 1 and no correlation over the training runs.
"""

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, MultivariateNormal, Normal

from emulate.distributions import Correlated, Gaussian
from emulate.errors import InputError
from emulate.pushforward import Pushforward
from emulate.runs import Outputs

_CONSTANT = 1e-12  # an output that varies by less than this share of its size is a constant, kept with that error
_FLOOR = 1e-10  # no direction of y has less than this share of the mean predictive variance: densities stay finite
_FOLDS = 10
_LARGE = 1e130  # beyond, squares with their floors leave float64


class OutputTransform(torch.nn.Module):
    r"""w = y, or ln y where y is positive; w = centre + z basis + what the dropped components hold.

    The components are those of the singular value decomposition of (w - centre) / scale. The last ones go, as long as
    together they hold no more than `truncation` of the variance (Heitmann et al. 2006 emulate spectra this way). Their
    variance, and what tenfold held-out runs show outside the span of the kept ones, is added to every prediction. Standard
    deviations of w are multiplied by `widening`, where there is one.

    Shapes: log bool `[m]`, centre, scale, unseen and widening `[m]`, basis `[p, m]`, inverse `[m, p]`, rest `[q, m]`.

    >>> from emulate.runs import Field
    >>> y = np.array([[1000.0], [1001.0], [1002.0]])
    >>> t = OutputTransform.fit(Outputs((Field("a"),)), y, log=True, truncation=0.0)
    >>> t.to_z(torch.from_numpy(y)).abs().ravel()
    tensor([1.2247, 0.0000, 1.2247], dtype=torch.float64)
    """

    log: Tensor
    centre: Tensor
    scale: Tensor
    basis: Tensor
    inverse: Tensor
    rest: Tensor
    unseen: Tensor
    widening: Tensor | None

    def __init__(self, state: dict[str, Tensor]):
        super().__init__()
        for name in ("log", "centre", "scale", "basis", "inverse", "rest", "unseen"):
            self.register_buffer(name, state[name].clone(memory_format=torch.contiguous_format))
        self.register_buffer("widening", state.get("widening"))
        self._any_log = bool(self.log.any())
        self._any_rest = len(self.rest) > 0
        self._varies = bool(self.basis.any())  # where nothing does, z says nothing, whatever its distribution
        varies = torch.cat([self.basis, self.rest]).any(0)
        value = torch.where(self.log, torch.where(self.log, self.centre, 0.0).exp(), self.centre)
        self._constant = None if varies.all() else torch.where(varies, torch.nan, value)
        self._share = (self.basis / self.scale).square().mean(-1)  # of the mean variance that one unit of z_j makes

    @staticmethod
    def fit(outputs: Outputs, y: np.ndarray, *, log: bool, truncation: float,
            place: np.ndarray | None = None) -> "OutputTransform":  # fmt: skip
        """The transform of finished runs y `[n, m]`; `place` `[n]` numbers the places where they lie, if some share one.

        Raises `InputError` when a field declared positive holds a value that is not.
        """
        told, logs = torch.as_tensor(y, dtype=torch.float64), torch.as_tensor(outputs.positive & log)
        _need_positive(outputs, told, logs)
        _need_squares(outputs, told, logs)
        w = torch.where(logs, torch.where(logs, told, 1.0).log(), told)
        centre = w.mean(0)
        size = torch.where(logs, 1.0, w.abs().amax(0))
        sd = (w - centre).square().mean(0).sqrt()
        constant = sd <= _CONSTANT * size
        scale = torch.where(constant, _CONSTANT * torch.where(size > 0, size, 1.0), sd)
        x = torch.where(constant, 0.0, (w - centre) / scale)
        values, vectors = _components(x)
        p = _kept(values, truncation)
        unseen = torch.where(constant, 1.0, _unseen(x, p, place)) * scale.square()
        share = values.sqrt()[:, None] * torch.where(constant, 0.0, vectors)
        last = int((values > 0).sum())
        unit = torch.where(values > 0, values, 1.0).sqrt()  # all outputs constant: one component that is 0 everywhere
        return OutputTransform({"log": logs, "centre": centre, "scale": scale, "basis": share[:p] * scale,
                                "inverse": vectors[:p].T / unit[:p], "rest": share[p:last] * scale,
                                "unseen": unseen})  # fmt: skip

    @property
    def p(self) -> int:
        """Number of kept components."""
        return len(self.basis)

    @property
    def logged(self) -> bool:
        """Whether it works on the logarithm of any output."""
        return self._any_log

    def to_z(self, y: Tensor) -> Tensor:
        """y `[..., m]` -> z `[..., p]`."""
        w = torch.where(self.log, torch.where(self.log, y, 1.0).log(), y) if self._any_log else y
        return ((w - self.centre) / self.scale) @ self.inverse

    def slopes(self, y: Tensor, slopes: Tensor) -> Tensor:
        """dz/dx `[..., p, d]` of dy/dx `[..., m, d]` at y `[..., m]`."""
        rate = torch.where(self.log, torch.where(self.log, y, 1.0).reciprocal(), 1.0) if self._any_log else 1.0
        return self.inverse.mT @ (slopes * (rate / self.scale)[..., None])

    def from_z(self, z: Tensor) -> Tensor:
        """z `[..., p]` -> y `[..., m]`, the value without its error."""
        w = self.centre + z @ self.basis
        return torch.where(self.log, torch.where(self.log, w, 0.0).exp(), w) if self._any_log else w

    def push(self, prediction: Distribution) -> Gaussian | Pushforward:
        """p(z), Gaussian or any other with event shape `(p,)` -> p(y) with all that z leaves out."""
        made = self._pushed(prediction)
        made.constant = self._constant
        return made

    def _pushed(self, prediction: Distribution) -> Gaussian | Pushforward:
        if self._varies and not isinstance(prediction, Normal | Correlated | MultivariateNormal):
            return Pushforward(prediction, self.centre, self.basis, self.unseen + _FLOOR * self.scale.square(),
                               self.rest if self._any_rest else None, self.log if self._any_log else None)  # fmt: skip
        if isinstance(prediction, MultivariateNormal):
            spread = prediction.scale_tril
            relative = (spread.mT @ self.basis / self.scale).square().sum(-2).mean(-1)
        else:
            spread = prediction.variance
            relative = spread @ self._share
        diagonal = self.unseen + _FLOOR * relative[..., None] * self.scale.square()
        basis, rest = self.basis, self.rest
        if self.widening is not None:
            basis, rest, diagonal = basis * self.widening, rest * self.widening, diagonal * self.widening.square()
        return Gaussian(self.centre + prediction.mean @ self.basis, spread, basis, diagonal,
                        rest if self._any_rest else None, self.log if self._any_log else None,
                        getattr(prediction, "mix", None))  # fmt: skip

    def widened(self, widening: Tensor) -> "OutputTransform":
        """The same with standard deviations of w times `widening` `[m]`."""
        return OutputTransform({**self.state_dict(), "widening": widening})

    def push_slopes(self, prediction: Distribution, mean: Tensor, variance: Tensor) -> Tensor:
        """d E[y] / du `[..., m, d]` of a Normal or Correlated z with d mean / du and d variance / du `[..., p, d]`.

        The mean of exp(w) is exp(loc + v / 2), so the variance has a part in it.
        """
        by_loc = (mean.mT @ self.basis).mT  # one product for all points
        if not self._any_log:
            return by_loc
        weight = self.basis.square() + _FLOOR * self._share[:, None] * self.scale.square()  # dv / d variance
        if (mix := getattr(prediction, "mix", None)) is not None:
            c, sd = len(mix), prediction.stddev[..., : len(mix), None]
            weight = weight.expand(*sd.shape[:-2], *weight.shape).clone()
            weight[..., :c, :] += self.basis[:c] * ((mix @ mix.mT) @ (sd * self.basis[:c]) / sd - self.basis[:c])
        weight = 0.5 * self.log * (weight if self.widening is None else weight * self.widening.square())
        by_log = by_loc + (variance.mT @ weight).mT  # nothing where w is y itself
        return by_log.mul_(torch.where(self.log, self.push(prediction).mean, 1.0)[..., None])


def _components(x: Tensor) -> tuple[Tensor, Tensor]:
    """Variances `[r]`, descending, and unit vectors `[r, m]` of x `[n, m]`; those of rounding errors are set to 0."""
    _, s, vectors = torch.linalg.svd(x, full_matrices=False)
    s = torch.where(s > 1e-13 * max(x.shape) * s[0], s, 0.0)
    return s.square() / len(x), vectors


def _kept(values: Tensor, truncation: float) -> int:
    tail = values.flip(0).cumsum(0).flip(0)  # variance held by component j and all after it
    return max(1, int((tail > truncation * tail[0]).sum()))


def _unseen(x: Tensor, p: int, place: np.ndarray | None) -> Tensor:
    """Variance `[m]` outside the span of p components, on runs left out of finding them, beyond that of runs left in."""
    own = torch.arange(len(x)) if place is None or place.max() < 1 else torch.from_numpy(place)
    folds = own % min(int(own.max()) + 1, _FOLDS)
    if p == x.shape[1] <= len(x) - int(folds.bincount().max()):
        return torch.zeros_like(x[0])  # whatever the fold, its components are a basis
    outside, inside = torch.zeros_like(x), torch.zeros_like(x[0])
    for fold in folds.unique():
        out = folds == fold
        _, v = _components(x[~out])
        v = v[: min(p, len(v))]
        outside[out] = x[out] - x[out] @ v.T @ v
    _, v = _components(x)
    inside = (x - x @ v[:p].T @ v[:p]).square().mean(0)
    excess = outside.square().mean(0) - inside
    return torch.where(excess > 1e-24, excess, 0.0)


def _need_positive(outputs: Outputs, y: Tensor, logs: Tensor) -> None:
    bad = (y <= 0) & logs
    if bad.any():
        run, j = (int(i) for i in bad.nonzero()[0])
        raise InputError(f"output {outputs.labels[j]} is declared positive. Got {float(y[run, j]):g} in finished run {run}; "
                         "declare the field with positive = False, or set log: false in the recipe.")  # fmt: skip


def _need_squares(outputs: Outputs, y: Tensor, logs: Tensor) -> None:
    size = y.abs().amax(0)
    bad = (size > _LARGE) | ((size > 0) & (size < 1 / _LARGE) & ~logs)
    if bad.any():
        j = int(bad.nonzero()[0])
        raise InputError(f"output {outputs.labels[j]} must lie between {1 / _LARGE:g} and {_LARGE:g} in size, for its variance is "
                         f"a number too. Got {float(size[j]):g}; give it in another unit.")  # fmt: skip
