"""Flavours at string ends and the hadrons that they make: u, d, s, diquarks on request, with masses and charges."""

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from emulate.errors import InputError, nearest

QUARKS = ("d", "u", "s")
_DIQUARKS = ("dd", "ud", "uu", "sd", "su", "ss")
NAMES = (*QUARKS, *_DIQUARKS)
_MASS = {"d": 0.325, "u": 0.325, "s": 0.5}  # constituent, GeV

# code: (mass in GeV, charge) (Particle Data Group 2022); the code is PDG's, an antiparticle has the opposite sign.
_HADRONS = {
    111: (0.13498, 0), 211: (0.13957, 1), 221: (0.54785, 0), 331: (0.95778, 0), 311: (0.49761, 0), 321: (0.49368, 1),
    113: (0.77549, 0), 213: (0.77549, 1), 223: (0.78265, 0), 333: (1.01946, 0), 313: (0.89594, 0), 323: (0.89166, 1),
    2112: (0.93957, 0), 2212: (0.93827, 1), 3122: (1.11568, 0), 3212: (1.19264, 0), 3222: (1.18937, 1), 3112: (1.19745, -1),
    3322: (1.31486, 0), 3312: (1.32171, -1), 1114: (1.232, -1), 2224: (1.232, 2), 3334: (1.67245, -1),
}  # fmt: skip
_OWN_ANTIPARTICLE = (111, 221, 331, 113, 223, 333)
_BARYON = {"ddu": ((2112, 1.0),), "duu": ((2212, 1.0),), "dsu": ((3122, 0.5), (3212, 0.5)), "suu": ((3222, 1.0),),
           "dds": ((3112, 1.0),), "ssu": ((3322, 1.0),), "dss": ((3312, 1.0),), "ddd": ((1114, 1.0),),
           "uuu": ((2224, 1.0),), "sss": ((3334, 1.0),)}  # fmt: skip
_PS, _V = math.radians(90 - (-15 + 54.7)), math.radians(36 + 54.7)  # mixing of eta with eta', of omega with phi


@dataclass(frozen=True)
class Table:
    """What a string end may do, as tensors. f flavours, h hadrons and their antiparticles, k outcomes.

    Outcomes of a row lie next to each other: with u in (0, 1), searchsorted(cumulative, row + u) is a draw.
    """

    codes: Tensor  # [h] PDG
    masses: Tensor  # [h] GeV
    conjugate: Tensor  # [h] index of the antiparticle
    constituent: Tensor  # [f] GeV
    cumulative: Tensor  # [k], row f_old: the new flavour and the hadron that a positive end makes
    outcome: Tensor  # [2, k]: new flavour, hadron
    last_cumulative: Tensor  # [k'], row f_old * f + f_new: the hadron alone
    last_outcome: Tensor  # [k']
    possible: Tensor  # [f * f] bool: whether that row has a hadron

    def pick(self, old: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """The new flavour and the hadron (of a positive end) for ends of flavour `old`, each `[n]`."""
        k = torch.searchsorted(self.cumulative, old + _inside(u))
        return self.outcome[0].index_select(0, k), self.outcome[1].index_select(0, k)

    def join(self, old: Tensor, new: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """The hadron (of a positive end) from an end and a pair that are there already, and whether there is one."""
        row = old * len(self.constituent) + new
        k = torch.searchsorted(self.last_cumulative, row + _inside(u))
        return self.last_outcome.index_select(0, k), self.possible.index_select(0, row)


def _inside(u: Tensor) -> Tensor:
    """u without the last 1e-12 at both ends, so that no rounding of row + u leaves the row."""
    return u.clamp(1e-12, 1 - 1e-12)


@dataclass(frozen=True)
class Flavours:
    """How often which flavour and which hadron: the defaults are those of Pythia 8.3, without baryons.

    A quark end makes a meson with a new quark, or a baryon with a new diquark; hadrons that the suppressions refuse are
    drawn again together with the flavour. Pseudoscalars mix by -15 degrees, vectors by 36. Diquarks are drawn by their
    flavours alone, and baryons are the lightest of their content, Lambda and Sigma0 half each: a simple model.

    >>> Flavours.pions().outcomes("u")
    {('d', 211): 1.0, ('u', 111): 0.5}
    """

    strangeness: float = 0.217  # P(s) / P(u)
    vector: float = 0.5  # rho to pi, omega to eta of u and d
    vector_strange: float = 0.55  # K* to K, phi to eta and eta' of s
    eta: float = 0.6  # kept share of eta
    eta_prime: float = 0.12  # kept share of eta'
    diquark: float = 0.0  # P(qq) / P(q); 0 is no baryons, Pythia has 0.081

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not (math.isfinite(value) and value >= 0):
                raise InputError(f"flavours: {name} must be a finite number of at least 0. Got {value}.")

    @staticmethod
    def pions() -> "Flavours":
        """Pions alone, two charged for each neutral one."""
        return Flavours(strangeness=0.0, vector=0.0, vector_strange=0.0, eta=0.0, eta_prime=0.0)

    def table(self) -> Table:
        """The tensors of these settings."""
        return _table(self)

    def mesons(self, old: str, new: str) -> dict[int, float]:
        """The share of each meson of a quark `old` and an antiquark `new`; what is missing to 1 is drawn again."""
        ratio = self.vector_strange if "s" in (old, new) else self.vector
        shares: dict[int, float] = {}
        for vector, share in ((False, 1 / (1 + ratio)), (True, ratio / (1 + ratio))):
            for code, part in _mesons(old, new, vector).items():
                shares[code] = share * part * {221: self.eta, 331: self.eta_prime}.get(code, 1.0)
        return shares

    def outcomes(self, old: str) -> dict[tuple[str, int], float]:
        """P(new flavour, code) of a positive end, up to a factor."""
        found: dict[tuple[str, int], float] = {}
        for new in QUARKS:
            found |= {(new, code): self._quark(new) * p for code, p in self.hadrons(old, new).items()}
        if len(old) == 1 and self.diquark:
            weights = {q: (1 + (q[0] != q[1])) * self._quark(q[0]) * self._quark(q[1]) for q in _DIQUARKS}
            total = sum(map(self._quark, QUARKS))
            for new, weight in weights.items():
                found |= {(new, code): self.diquark * weight / total * p for code, p in self.hadrons(old, new).items()}
        return {k: p for k, p in found.items() if p > 0}

    def hadrons(self, old: str, new: str) -> dict[int, float]:
        """Shares of the hadrons of an end and a pair at a positive end, whose diquarks are antidiquarks."""
        if len(old) == len(new) == 1:
            return self.mesons(old, new)
        if len(old) == len(new) == 2:
            return {}
        sign = 1 if len(old) == 1 else -1
        return {sign * code: p for code, p in _BARYON["".join(sorted(old + new))]}

    def _quark(self, q: str) -> float:
        return self.strangeness if q == "s" else 1.0


def index(name: str) -> int:
    """The number of a quark flavour, as `Condition.old` and `Table` count them."""
    if name not in QUARKS:
        raise InputError(
            f"lund: a flavour at the end of the string must be d, u or s. Got {name!r}.{nearest(name, QUARKS)}"
        )
    return QUARKS.index(name)


def charge(code: Tensor) -> Tensor:
    """Electric charge of PDG codes, int64 of the same shape, from their digits: hadrons, leptons and photons.

    >>> charge(torch.tensor([211, -321, 2212, -3112, 130, 22, 11]))
    tensor([ 1, -1,  1,  1,  0,  0, -1])
    """
    size = code.abs()
    thirds = torch.tensor([0, -1, 2, -1, 2, -1, 2, 0, 0, 0])
    last, middle, first = (size // place % 10 for place in (10, 100, 1000))
    meson = (thirds[middle] - thirds[last]) * torch.where(thirds[middle] > 0, 1, -1)  # of a down-like heavier antiquark
    found = torch.where(first == 0, meson, thirds[last] + thirds[middle] + thirds[first]) // 3
    found = torch.where((size == 11) | (size == 13) | (size == 15), -1, found)
    neutral = (size == 22) | (size == 12) | (size == 14) | (size == 16)
    unknown = ((size < 100) & (found != -1) & ~neutral) | ((size > 100) & ((last == 0) | (middle == 0)) & (size != 130))
    if bool(unknown.any()):
        raise InputError(
            f"lund: codes must be of hadrons, leptons or photons (Particle Data Group). Got {int(code[unknown][0])}."
        )
    return torch.where(neutral, 0, found) * code.sign()


def _mesons(old: str, new: str, vector: bool) -> dict[int, float]:
    spin = 3 if vector else 1
    if old != new:
        ids = {"d": 1, "u": 2, "s": 3}
        big, small = sorted((ids[old], ids[new]), reverse=True)
        # The charged or strange meson is a particle where its heavier quark is up-like, or its heavier antiquark down-like.
        heavy_is_quark = ids[old] == big
        sign = 1 if heavy_is_quark == (big == 2) else -1
        return {sign * (100 * big + 10 * small + spin): 1.0}
    pair = (221, 331) if not vector else (223, 333)
    light = math.sin(_V if vector else _PS) ** 2
    if old == "s":
        return {pair[0]: 1 - light, pair[1]: light}
    return {110 + spin: 0.5, pair[0]: 0.5 * light, pair[1]: 0.5 * (1 - light)}


@functools.lru_cache(maxsize=16)
def _table(of: Flavours) -> Table:
    codes = [*_HADRONS, *(-code for code in _HADRONS if code not in _OWN_ANTIPARTICLE)]
    number = {code: i for i, code in enumerate(codes)}
    rows = [of.outcomes(old) for old in NAMES]
    last = [of.hadrons(old, new) for old in NAMES for new in NAMES]
    last = [{code: p for code, p in row.items() if p > 0} for row in last]
    outcome = [(NAMES.index(new), number[code]) for row in rows for new, code in row]
    possible = torch.tensor([bool(row) for row in last])
    return Table(
        codes=torch.tensor(codes),
        masses=torch.tensor([_HADRONS[abs(code)][0] for code in codes], dtype=torch.float64),
        conjugate=torch.tensor([number.get(-code, number[code]) for code in codes]),
        constituent=torch.tensor([sum(_MASS[q] for q in name) for name in NAMES], dtype=torch.float64),
        cumulative=_cumulative([list(row.values()) for row in rows]),
        outcome=torch.tensor(outcome).T.contiguous(),
        last_cumulative=_cumulative([list(row.values()) or [1.0] for row in last]),
        last_outcome=torch.tensor([number[code] for row in last for code in row or (111,)]),
        possible=possible,
    )


def _cumulative(rows: list[list[float]]) -> Tensor:
    """Row r's ends lie in (r, r + 1], the last at r + 1 exactly."""
    ends = []
    for r, weights in enumerate(rows):
        shares = torch.tensor(weights, dtype=torch.float64).cumsum(0)
        ends.append(r + shares / shares[-1])
    return torch.cat(ends)
