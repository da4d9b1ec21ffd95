r"""Which parameters data tell, and which they tell in combination only: sensitivities, Fisher matrix, collinearity.

    S = C^{-1/2} dy/dtheta diag(s) [m, d],    F = S^T S,    gamma_K = lambda_min(N_K^T N_K)^{-1/2},    N_j = S_j / |S_j|

C is the covariance of the data's noise and s the standard deviations of the priors, so that S_j is by how many standard
errors the data move when parameter j crosses its prior's. gamma_K is the collinearity index of a set K of parameters (Brun,
Reichert and Kuensch 2001, eq. 13): what one of them does to the data, the others can undo up to a share 1 / gamma_K. Two of
them with the angle phi between their sensitivities have gamma = (1 - |cos phi|)^{-1/2}. Above `POOR` a set is poorly told;
where nothing but the error of the derivatives is left, at every point that was looked at, it is told in combination only,
whatever the number of data (Raue et al. 2009 call that structural). All of it is local, at a few points of the box.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from emulate.errors import InputError
from emulate.space import Space

POOR = 15.0  # of gamma: Brun et al. (2001) call sets between 5 and 20 poorly told, with 10 to 15 as the usual limit
SAME = 1e-10  # of 1 - |cos phi|: what is left of two equal columns by derivatives that are right to five digits
_WHOLE = 10  # parameters up to which all sets are looked at; beyond, pairs and triples
_ROUND = 1e-3  # relative: within it a coefficient is the same at two points, and 0.9996 is 1; or within the derivatives' errors
_BLURRED = 0.05  # errors of derivatives above which no coefficient is told
_WEAK = 0.5  # of the prior's standard deviation: a parameter told less well is told weakly
_GHOST = 1e-18  # of the largest |S_j|^2, below which a parameter does nothing


@dataclass(frozen=True)
class Combination:
    """Parameters that data tell in `rank` combinations only: `text` is the one, where there is one, as an expression.

    one_minus_cos: of the least alike of its pairs, at the first point; index: gamma of all members, at the point where it is
    least; sd: of the combination with all other parameters free, in the prior's standard deviation of its first member.
    """

    members: tuple[str, ...]
    rank: int
    text: str
    one_minus_cos: float
    index: float
    sd: float

    @property
    def sentence(self) -> str:
        """`of tau_m and tau_p only tau_m + tau_p is told: ...`."""
        several = _and(self.members)
        if self.rank == 1:
            told = f"only {self.text} is told" if self.text else "only one combination is told, no plain sum or product"
        else:
            told = f"only {self.rank} combinations of the {len(self.members)} are told"
        gap = f"= {self.one_minus_cos:.1e}" if self.one_minus_cos > 1e-15 else "below 1e-15"
        return (f"of {several} {told}: what one of them does to the data the others undo, 1 - |cos| {gap}, "
                f"collinearity index {_index(self.index)}")  # fmt: skip


@dataclass(frozen=True)
class Identifiability:
    """What d parameters mean to m data at g points, the first of which is where figures without a point are from.

    sensitivity `[g, m, d]` is S; strength `[d]` the root mean square of its columns; cosine `[d, d]`; alone and together `[d]`
    the standard deviation of each parameter in its prior's, with the others known and with the others free (infinite: not
    told); combinations, unseen: what is not told at all of the points; sets: the most collinear set of each size that holds no
    such combination, with its index; blurred: the parameters whose derivatives are lost in their own errors, while data may
    well tell them.
    """

    names: tuple[str, ...]
    theta: Tensor
    scale: Tensor
    sensitivity: Tensor
    strength: Tensor
    cosine: Tensor
    alone: Tensor
    together: Tensor
    combinations: tuple[Combination, ...]
    unseen: tuple[str, ...]
    sets: tuple[tuple[tuple[str, ...], float], ...]
    blurred: tuple[str, ...] = ()

    @property
    def fisher(self) -> Tensor:
        """F `[g, d, d]`, in the standard deviations of the priors."""
        return self.sensitivity.mT @ self.sensitivity

    @property
    def index(self) -> float:
        """The largest gamma of a set that holds no combination; 1 where there is one parameter."""
        return max((gamma for _, gamma in self.sets), default=1.0)

    @property
    def told(self) -> tuple[str, ...]:
        """The parameters that are told by themselves."""
        lost = {*self.unseen, *self.blurred, *(name for c in self.combinations for name in c.members)}
        return tuple(n for n in self.names if n not in lost)

    def verdict(self, name: str) -> str:
        """One parameter in a few words."""
        i = self.names.index(name)
        if name in self.unseen:
            return "not seen"
        if name in self.blurred:
            return "cannot say"
        for c in self.combinations:
            if name in c.members:
                return f"only {c.text}" if c.text else f"only in {c.rank} of {len(c.members)}"
        sd, more = float(self.together[i]), float(self.together[i] / self.alone[i])
        word = "told" if sd <= _WEAK else "told weakly" if sd <= 1 else "told less well than by the prior"
        return f"{word}, {more:.3g} times wider for the others" if more > POOR else word

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        parts = [f"{c.sentence}." for c in self.combinations]
        if self.unseen:
            parts.append(f"{_and(self.unseen)} {'do' if self.unseen[1:] else 'does'} nothing to the data.")
        if self.blurred:
            parts.append(f"cannot say what data tell of {_and(self.blurred)}: the derivatives are noisier than what they tell; "
                         "take an emulator's, or more runs for each.")  # fmt: skip
        well = [n for n in self.told if self.together[self.names.index(n)] <= 1]
        for names, lead in (
            (well, "told by"),
            ([n for n in self.told if n not in well], "told less well than by the prior"),
        ):
            if names:
                sds = ", ".join(f"{n} to {_share(self.together[self.names.index(n)])}" for n in names)
                every = len(names) == len(self.names) > 1
                one = every or len(names) == 1
                itself = (" itself" if one else " themselves") if names is well else ""
                who = "every parameter" if every else _and(names)
                parts.append(f"{who} {'is' if one else 'are'} {lead}{itself}: {sds} of the prior's standard deviation.")
        if self.index > POOR:
            worst, gamma = max(self.sets, key=lambda s: s[1])
            parts.append(f"{_and(worst)} are hard to tell apart: collinearity index {_index(gamma)}, where {POOR:g} is the usual "
                         "limit.")  # fmt: skip
        g = len(self.theta)
        parts.append(
            f"derivatives at {g} points; figures are those of the first." if g > 1 else "derivatives at one point."
        )
        return " ".join(
            p[:1].upper() + p[1:] if p.split(" ")[0] in ("of", "every", "derivatives", "cannot") else p for p in parts
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON; what is infinite is null."""
        finite = lambda x: float(x) if math.isfinite(x) else None  # noqa: E731
        of = {n: {"strength": float(self.strength[i]), "alone": finite(self.alone[i]), "together": finite(self.together[i]),
                  "verdict": self.verdict(n)} for i, n in enumerate(self.names)}  # fmt: skip
        combinations = [{**vars(c), "members": list(c.members), "index": finite(c.index), "sd": finite(c.sd)}
                        for c in self.combinations]  # fmt: skip
        return {"sentence": self.sentence, "parameters": of, "combinations": combinations, "unseen": list(self.unseen),
                "blurred": list(self.blurred),
                "collinearity": [{"set": list(s), "index": gamma} for s, gamma in self.sets], "cosine": self.cosine.tolist(),
                "fisher": self.fisher[0].tolist(), "theta": self.theta.tolist(), "scale": self.scale.tolist()}  # fmt: skip


def identify(
    space: Space, theta: Tensor, jacobian: Tensor, covariance: Tensor, error: Tensor | None = None
) -> Identifiability:
    """The verdict from Jacobians dy/dtheta `[g, m, d]` at points theta `[g, d]` of the box, and the noise of data there.

    covariance `[g, m, m]`, or `[m, m]` at all points, of the noise. error `[g, m, d]`: standard errors of the Jacobians, where
    they have any; a column within two of them counts as nothing, and as blurred where two of them move data by more than a
    standard error. Several points tell what holds everywhere from what holds at one, and tau_m + tau_p from a product.

    >>> from emulate.space import Parameter, Uniform
    >>> space = Space(tuple(Parameter(n, Uniform(0.0, 2.0)) for n in "abc"))
    >>> theta, t = torch.tensor([[0.5, 1.0, 1.0], [1.5, 0.4, 0.8]], dtype=torch.float64), torch.linspace(0, 1, 5).double()
    >>> slope = torch.autograd.functional.jacobian
    >>> jacobian = torch.stack([slope(lambda x: x[0] * x[1] * t + x[2], point) for point in theta])
    >>> print(identify(space, theta, jacobian, 0.01 * torch.eye(5).double()).sentence.split(":")[0])
    Of a and b only a * b is told
    """
    names, g, m, d = space.names, *jacobian.shape
    if theta.shape != (g, d) or d != space.d or not torch.isfinite(jacobian).all():
        raise InputError(f"jacobian must be finite numbers [g, m, d] at points theta [g, d] of {space.d} parameters. Got shapes "
                         f"{tuple(jacobian.shape)} and {tuple(theta.shape)}.")  # fmt: skip
    scale = _spread(space)
    factor, failed = torch.linalg.cholesky_ex(covariance.expand(g, m, m))
    if failed.any():
        raise InputError("covariance must be that of noise in every output. Got one that is not positive definite; give the "
                         "likelihood an error.")  # fmt: skip
    S = torch.linalg.solve_triangular(factor, jacobian * scale, upper=False)
    # standard errors of unlike outputs are independent: their squares go with the diagonal of the precision
    precision = torch.cholesky_inverse(factor).diagonal(dim1=-2, dim2=-1)[..., None]
    noise = torch.zeros(g, d).to(S) if error is None else (precision * (error * scale).square()).sum(1)
    return _judged(names, theta, scale, S, noise)


def collinearity(sensitivity: Tensor) -> Tensor:
    """gamma `[...]` of the columns of S `[..., m, k]`; infinite where one can be made of the others to rounding.

    >>> S = torch.tensor([[1.0, 1.0], [0.0, 1.0]], dtype=torch.float64)  # 45 degrees: (1 - cos)^(-1/2)
    >>> round(float(collinearity(S)), 4)
    1.8478
    """
    return _least(sensitivity).clamp_min(0).rsqrt()


def _least(sensitivity: Tensor) -> Tensor:
    """lambda_min(N^T N) by singular values, whose squares are right below 1e-16 too."""
    length = sensitivity.norm(dim=-2, keepdim=True)
    normal = sensitivity / torch.where(length > 0, length, 1.0)
    short = normal.shape[-2] < normal.shape[-1]
    return torch.zeros_like(normal[..., 0, 0]) if short else torch.linalg.svdvals(normal)[..., -1].square()


def _judged(names: tuple[str, ...], theta: Tensor, scale: Tensor, S: Tensor, noise: Tensor) -> Identifiability:
    d, squares = len(names), S.square().sum(1)  # [g, d]
    blind = (squares <= torch.maximum(_GHOST * squares.amax(1, keepdim=True), 4 * noise)).all(0)
    lost = blind & (4 * noise > 1).any(0)  # what the errors may hide moves data by more than a standard error
    seen = [i for i in range(d) if not blind[i]]
    share = noise / torch.where(squares > 0, squares, 1.0)
    sizes = range(2, (len(seen) if len(seen) <= _WHOLE else min(len(seen), 3)) + 1)
    circuits: list[tuple[int, ...]] = []
    sets: list[tuple[tuple[str, ...], float]] = []
    for k in sizes:
        worst: tuple[tuple[str, ...], float] = ((), 0.0)
        for of in combinations(seen, k):
            if any(set(c) <= set(of) for c in circuits):
                continue
            least = _least(S[:, :, of])
            if (least <= (4 * share[:, of].sum(1)).clamp_min(SAME)).all():
                circuits.append(of)
            elif (gamma := float(least[0].clamp_min(1e-300).rsqrt())) > worst[1]:
                worst = (tuple(names[i] for i in of), gamma)
        if worst[0]:
            sets.append(worst)
    basis: list[int] = []
    for i in seen:
        if not any(set(c) <= {*basis, i} for c in circuits):
            basis.append(i)
    length = squares[0].sqrt()
    together, free = torch.full((d,), math.inf).to(S), _deviations(S[0][:, basis])
    for i, sd in zip(basis, free):
        if not any(i in c for c in circuits):
            together[i] = sd
    normal = S[0] / torch.where(length > 0, length, 1.0)
    groups = [_combination(names, theta, scale, S, sorted(of), [basis.index(i) for i in sorted(of) if i in basis], free,
                           3 * math.sqrt(float(share[:, sorted(of)].max()))) for of in _joined(circuits)]  # fmt: skip
    alone = torch.where(blind, math.inf, length.reciprocal())
    strength = length / math.sqrt(S.shape[1])
    return Identifiability(names, theta, scale, S, strength, normal.mT @ normal, alone, together, tuple(groups),
                           tuple(n for n, b in zip(names, (blind & ~lost).tolist()) if b), tuple(sets),
                           tuple(n for n, b in zip(names, lost.tolist()) if b))  # fmt: skip


def _deviations(S: Tensor) -> Tensor:
    """The square roots of the diagonal of (S^T S)^-1 for independent columns, by QR."""
    if S.shape[1] == 0:
        return S.new_zeros(0)
    r = torch.linalg.qr(S, mode="r").R
    return torch.linalg.solve_triangular(r, torch.eye(len(r)).to(r), upper=True).norm(dim=1)


def _joined(circuits: Sequence[tuple[int, ...]]) -> list[set[int]]:
    """Circuits that share a parameter, put together."""
    groups: list[set[int]] = []
    for c in circuits:
        touched = [g for g in groups if g & set(c)]
        groups = [g for g in groups if not g & set(c)] + [set(c).union(*touched)]
    return groups


def _combination(names: tuple[str, ...], theta: Tensor, scale: Tensor, S: Tensor, of: list[int], kept: list[int], free: Tensor,
                 blur: float) -> Combination:  # fmt: skip
    columns = S[:, :, of]
    normal = columns[0] / columns[0].norm(dim=0)
    gap = float(1 - (normal.mT @ normal).abs().min()) if len(of) == 2 or len(kept) == 1 else float(_least(columns)[0])
    one = len(kept) == 1 and blur < _BLURRED
    text = _text([names[i] for i in of], theta[:, of], columns / scale[of], max(blur, _ROUND)) if one else ""
    sd = float(free[kept[0]]) if len(kept) == 1 else math.inf
    return Combination(
        tuple(names[i] for i in of), len(kept), text, max(gap, 0.0), float(collinearity(columns).min()), sd
    )


def _text(names: list[str], theta: Tensor, slopes: Tensor, near: float) -> str:
    """What parallel slopes `[g, m, k]` are functions of: a sum with one set of coefficients at all points, else a product with
    one set of exponents; nothing where it is neither. `near` is how well the coefficients are known."""
    first = slopes[..., :1]
    ratio = (first * slopes).sum(1) / (first * first).sum(1)  # [g, k], against the first parameter
    power = ratio * theta / theta[:, :1]
    sums, products = (bool(((x - x[0]).abs() <= 2 * near * x[0].abs()).all()) for x in (ratio, power))
    if not (sums or products):
        return ""
    by_sum, by_product = ([_rounded(v, near) for v in x.mean(0).tolist()] for x in (ratio, power))
    if products and not (sums and (_plain(by_sum) or not _plain([2 * v for v in by_product]))):
        parts = [
            (" * " if v > 0 else " / ", n + ("" if abs(v) == 1 else f"**{abs(v):.4g}"))
            for n, v in zip(names, by_product)
        ]
    else:
        parts = [
            (" + " if v > 0 else " - ", ("" if abs(v) == 1 else f"{abs(v):.4g} * ") + n) for n, v in zip(names, by_sum)
        ]
    return "".join(sign + part for sign, part in parts)[3:]


def _rounded(x: float, near: float) -> float:
    """The nearest half of a whole number, where x is as good as that."""
    return round(2 * x) / 2 if abs(x - round(2 * x) / 2) <= near * abs(x) else x


def _plain(x: list[float]) -> bool:
    return all(v == round(v) and 0 < abs(v) < 10 for v in x)


def _spread(space: Space) -> Tensor:
    """The standard deviation of each prior, half the width of its middle 68 %."""
    low, high = (space.from_unit(torch.full((space.d,), u, dtype=torch.float64)) for u in (0.158655, 0.841345))
    return (high - low) / 2


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _index(gamma: float) -> str:
    return f"{gamma:.3g}" if gamma < 1e5 else "above 1e5"


def _share(x: Tensor) -> str:
    value = 100 * float(x)
    return f"{value:.2g} %" if value < 99.5 else f"{value:.0f} %"
