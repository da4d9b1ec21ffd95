"""What a network reads of data: standardised principal components, the directions that tell of the parameters first.

With it comes how unlike the data of all runs an observation is: a network answers whatever it is asked.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from emulate.errors import InputError
from emulate.runs import Outputs

_CONSTANT = 1e-12  # an output that varies by less than this share of its size is a constant
_TRUNCATION = 1e-10  # share of the variance that the dropped components may hold together
_STRAIGHT = (
    4.0  # standard deviations from which on a component grows as a logarithm: an outlier leads no network astray
)
_SEEN = 1000  # data of runs, at most, that an observation is compared with
_NEAR = 3  # of the nearest, whose distance is the one that counts
_OFF = 1e-3  # standard deviations that data may lie off the span of all runs


@dataclass(frozen=True)
class Remoteness:
    """How far an observation lies from the data of `runs` runs, over how far any of them lies from the others.

    centre: distance to the mean of the data, in units of their covariance; near: distance to the nearest data; off: standard
    deviations by which an output leaves the span of all data, where it lies further off than `_OFF`. An observation that was drawn
    as the runs were has one of the first two above 1 with a probability of at most 2 / (runs + 1).
    """

    centre: float
    near: float
    off: float
    runs: int

    @property
    def outside(self) -> bool:
        return not (self.centre <= 1 and self.near <= 1 and self.off <= _OFF)

    @property
    def sentence(self) -> str:
        """`the observation lies outside the data of all 200 runs: ...`, or that it lies among them."""
        if not self.outside:
            return (f"the observation lies among the data of {self.runs} runs: {self.near:.2g} of the greatest distance between "
                    "neighbours.")  # fmt: skip
        said = [f"{self.near:.3g} times as far from its neighbours as any of them from its own"] * (not self.near <= 1)
        said += [f"{self.centre:.3g} times as far from their mean as the farthest"] * (not self.centre <= 1)
        said += [f"{self.off:.3g} standard deviations off what the outputs of all runs span"] * (not self.off <= _OFF)
        return f"the observation lies outside the data of all {self.runs} runs: {' and '.join(said)}"


class Summary(torch.nn.Module):
    r"""s = bent(z turn) `[..., p]`, z = ((w - centre) / scale) inverse `[..., r]`, w = y or ln y; see `Summary.fit`.

    Shapes: log bool `[m]`, centre and scale `[m]`, inverse `[m, r]`, basis `[r, m]`, turn `[r, p]`; seen `[k, r]` the z of runs,
    farthest `[2]` the greatest |z| among them and the greatest distance of one to its neighbours.
    """

    log: Tensor
    centre: Tensor
    scale: Tensor
    inverse: Tensor
    basis: Tensor
    turn: Tensor
    seen: Tensor
    farthest: Tensor

    def __init__(self, state: dict[str, Tensor]):
        super().__init__()
        for name in ("log", "centre", "scale", "inverse", "basis", "turn", "seen", "farthest"):
            self.register_buffer(name, state[name].clone(memory_format=torch.contiguous_format))

    @staticmethod
    def fit(outputs: Outputs, data: Tensor, x: Tensor, *, most: int, log: bool, first: Tensor, seed: int) -> "Summary":
        """Of data `[n, m]` at parameters x `[n, d]`; `first` `[k]` are rows of different runs, for `remoteness`.

        The components z are those of the standardised data, all of variance 1. If they are more than `most`, they are turned:
        first come the directions with the greatest covariance with x and the products x_i x_j (a least-squares fit of these is
        a summary of the data; Fearnhead and Prangle 2012), then the components of most variance, and `most` are kept.
        """
        positive = torch.as_tensor(outputs.positive & log) & (data > 0).all(0)
        w = torch.where(positive, torch.where(positive, data, 1.0).log(), data)
        centre, size = w.mean(0), torch.where(positive, 1.0, w.abs().amax(0))
        sd = (w - centre).square().mean(0).sqrt()
        constant = sd <= _CONSTANT * size
        scale = torch.where(constant, _CONSTANT * torch.where(size > 0, size, 1.0), sd)
        values, vectors = _components(torch.where(constant, 0.0, (w - centre) / scale))
        if not len(values):
            raise InputError("data must differ between runs. Got runs that all gave the same; change the simulator's settings, or "
                             "the range of its parameters.")  # fmt: skip
        inverse, basis = vectors.T / values.sqrt(), values.sqrt()[:, None] * vectors
        z = torch.where(constant, 0.0, (w - centre) / scale) @ inverse
        turn = torch.eye(len(values), dtype=data.dtype) if len(values) <= most else _telling(z, x, most)
        keep = torch.randperm(len(first), generator=torch.Generator().manual_seed(seed))[:_SEEN].sort().values
        seen = z[first[keep]]
        farthest = torch.stack([seen.norm(dim=1).amax(), _nearest(seen, seen, own=True).amax()])
        return Summary({"log": positive, "centre": centre, "scale": scale, "inverse": inverse, "basis": basis, "turn": turn,
                        "seen": seen, "farthest": farthest})  # fmt: skip

    @property
    def p(self) -> int:
        """Numbers that are read."""
        return self.turn.shape[1]

    def forward(self, data: Tensor) -> Tensor:
        """s `[..., p]` of data `[..., m]`."""
        s = self._white(data) @ self.turn
        return torch.where(s.abs() > _STRAIGHT, s.sign() * (_STRAIGHT + (s.abs() - _STRAIGHT).clamp_min(0).log1p()), s)

    def remoteness(self, data: Tensor) -> Remoteness:
        """How unlike the data of the runs one observation `[m]` is."""
        z = self._white(data)
        off = ((self._w(data) - self.centre) / self.scale - z @ self.basis).abs().amax()
        near = _nearest(z[None], self.seen)[0]
        centre, near = (float(a / b) for a, b in zip((z.norm(), near), self.farthest, strict=True))
        return Remoteness(centre, near, float(off), len(self.seen))

    def _white(self, data: Tensor) -> Tensor:
        return ((self._w(data) - self.centre) / self.scale) @ self.inverse

    def _w(self, data: Tensor) -> Tensor:
        if bool(((data <= 0) & self.log).any()):
            j = int(((data <= 0) & self.log).reshape(-1, len(self.log)).any(0).nonzero()[0])
            raise InputError(f"data: output {j} must be above 0, as it is in every run. Got {float(data[..., j].min()):g}; check "
                             "the observation.")  # fmt: skip
        return torch.where(self.log, torch.where(self.log, data, 1.0).log(), data)


def _components(standard: Tensor) -> tuple[Tensor, Tensor]:
    """Variances `[r]`, falling, and unit vectors `[r, m]` of standardised data `[n, m]`, without those that hold nothing."""
    values, vectors = torch.linalg.eigh(standard.T @ standard / len(standard))
    values, vectors = values.flip(0).clamp_min(0), vectors.T.flip(0)
    tail = values.flip(0).cumsum(0).flip(0)
    keep = (tail > _TRUNCATION * tail[0]) & (values > 1e-13 * values[0])
    return values[keep], vectors[keep]


def _telling(z: Tensor, x: Tensor, most: int) -> Tensor:
    """Orthonormal directions `[r, most]`: of canonical correlation with x and its products, then the first axes of z."""
    i, j = torch.triu_indices(x.shape[1], x.shape[1])
    features = torch.cat([x, x[:, i] * x[:, j]], 1)
    features = features - features.mean(0)
    values, vectors = torch.linalg.eigh(features.T @ features / len(x))
    good = values > 1e-9 * values[-1]
    features = features @ (vectors[:, good] / values[good].sqrt())
    u, s, _ = torch.linalg.svd(z.T @ features / len(z), full_matrices=False)
    chance = 2 * (z.shape[1] / len(z)) ** 0.5  # what as many numbers correlate by chance
    told = u[:, s > min(chance, 0.5 * float(s[0]))]
    q, _ = torch.linalg.qr(torch.cat([told, torch.eye(len(u), dtype=z.dtype)], 1))
    return q[:, :most]


def _nearest(z: Tensor, seen: Tensor, *, own: bool = False) -> Tensor:
    """The distance `[n]` of z `[n, r]` to the third-nearest of seen `[k, r]`; `own`: z are those, which are not their own."""
    distance = torch.cdist(z, seen)
    if own:
        distance.fill_diagonal_(torch.inf)
    k = min(_NEAR, max(1, len(seen) - own))
    return distance.kthvalue(k, dim=-1).values
