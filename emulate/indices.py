"""`Indices`: sensitivity indices as one record, each with an interval and with what of it more samples or runs take away."""

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from emulate.errors import InputError, nearest

if TYPE_CHECKING:
    import pandas

COVERED = 0.95  # of every interval
SIGMAS = 1.959963984540054  # the same in standard deviations of a normal distribution


@dataclass(frozen=True)
class Measure:
    """One kind of index of k terms (parameters, or pairs) and c outputs: value, low and high `[k, c]`.

    `sampling` `[k, c]` is the half-width that the finite number of samples makes, `emulator` `[k, c]` the one that the
    emulator's own error makes, None where that error is not carried; low and high hold both.
    """

    name: str
    terms: tuple[str, ...]
    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    sampling: np.ndarray
    emulator: np.ndarray | None = None


@dataclass(frozen=True)
class Indices:
    """What a method found: its measures over the outputs of a run, and over whole fields where a field is a vector.

    outputs `[c]` are the labels of the m outputs, then the names of the vector fields. Indices of an output that does
    not vary are undefined: NaN, and its name stands in `undefined`. `settings` say what repeats the numbers.

    >>> zero, half = np.zeros((2, 1)), np.array([[0.7], [0.2]])
    >>> found = Indices("sobol", ("a", "b"), ("y",), (Measure("first", ("a", "b"), half, half, half, zero),))
    >>> found["first"].value[:, found.column("y")].tolist(), found.to_pandas()["term"].tolist()
    ([0.7, 0.2], ['a', 'b'])
    """

    method: str
    parameters: tuple[str, ...]
    outputs: tuple[str, ...]
    measures: tuple[Measure, ...]
    undefined: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Measure:
        known = {m.name: m for m in self.measures}
        if name not in known:
            raise InputError(f"{self.method} has no measure {name!r}; it has {', '.join(known)}.{nearest(name, known)}")
        return known[name]

    def column(self, output: str) -> int:
        """Where an output, or a whole field, stands in the last axis."""
        if output not in self.outputs:
            known = f"{', '.join(self.outputs)}.{nearest(output, self.outputs)}"
            raise InputError(f"there are no indices of {output!r}; there are some of {known}")
        return self.outputs.index(output)

    def to_pandas(self) -> "pandas.DataFrame":
        """One row per measure, term and output."""
        import pandas

        rows = [
            (self.method, m.name, term, output, *(np.nan if a is None else a[i, j] for a in _arrays(m)))
            for m in self.measures for i, term in enumerate(m.terms) for j, output in enumerate(self.outputs)
        ]  # fmt: skip
        return pandas.DataFrame(rows, columns=["method", "measure", "term", "output", *_ARRAYS])

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON, read back by `from_dict`; undefined numbers are null."""
        measures = [{"name": m.name, "terms": list(m.terms),
                     **{k: None if a is None else _listed(a) for k, a in zip(_ARRAYS, _arrays(m), strict=True)}}
                    for m in self.measures]  # fmt: skip
        return {"method": self.method, "parameters": list(self.parameters), "outputs": list(self.outputs),
                "undefined": list(self.undefined), "settings": self.settings, "measures": measures}  # fmt: skip

    @staticmethod
    def from_dict(body: dict[str, Any]) -> "Indices":
        measures = tuple(
            Measure(m["name"], tuple(m["terms"]), **{k: np.array(m[k], float) for k in _ARRAYS if m[k] is not None})
            for m in body["measures"]
        )
        return Indices(body["method"], tuple(body["parameters"]), tuple(body["outputs"]), measures,
                       tuple(body["undefined"]), body["settings"])  # fmt: skip

    def save(self, path: str | os.PathLike) -> Path:
        """Write one JSON file."""
        Path(path).write_text(json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n")
        return Path(path)

    @staticmethod
    def load(path: str | os.PathLike) -> "Indices":
        """Read what `save` wrote."""
        return Indices.from_dict(json.loads(Path(path).read_text()))

    def sentence(self, output: str) -> str:
        """Which parameters matter for an output, strongest first, each with its interval."""
        j = self.column(output)
        name, words = {"sobol": ("first", "of the variance of {} comes from {} alone"),
                       "dgsm": ("bound", "of the variance of {} at most involves {}"),
                       "morris": ("mu_star", "is what {} moves by when {} crosses its range")}[self.method]  # fmt: skip
        m = self[name]
        if output in self.undefined:
            return f"{output} does not vary with the parameters, so its indices are undefined."
        order = np.argsort(-m.value[:, j], kind="stable")
        said = [f"{_number(m, i, j, self.method)} {m.terms[i] if rank else words.format(output, m.terms[i])}"
                for rank, i in enumerate(order[:3])]  # fmt: skip
        rest = len(order) - len(said)
        tail = f"; {rest} other{'s' if rest > 1 else ''} less" if rest else ""
        return f"{', '.join(said)}{tail}{self._together(j)}."

    def _together(self, j: int) -> str:
        """What no parameter explains by itself, where it is more than its error."""
        if self.method != "sobol":
            return ""
        first = self["first"]
        rest, error = 1 - float(first.value[:, j].sum()), math.hypot(*first.sampling[:, j])
        if rest < error:
            return f"; interactions hold no more than {100 * (max(rest, 0) + error):.2g} %"
        return f"; interactions hold {100 * rest:.2g} % (within {100 * error:.2g} %)"


_ARRAYS = ("value", "low", "high", "sampling", "emulator")


def _arrays(m: Measure) -> tuple[np.ndarray | None, ...]:
    return tuple(getattr(m, name) for name in _ARRAYS)


def _listed(a: np.ndarray) -> list:
    return [[float(x) if math.isfinite(x) else None for x in row] for row in a]


def _number(m: Measure, i: int, j: int, method: str) -> str:
    value, low, high = m.value[i, j], m.low[i, j], m.high[i, j]
    if method == "morris":
        return f"{value:.3g} ({low:.3g} to {high:.3g})"
    return f"{100 * value:.3g} % ({100 * low:.3g} to {100 * high:.3g} %)"


def jackknife(parts: Tensor, g: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """g of the mean of `parts` `[r, ...]`, and the half-width of its 95 % interval over the r independent parts.

    Delete-one jackknife (Tukey 1958) with Student's t for r - 1 degrees of freedom. `g` maps `[..., *tail]` to
    `[..., *result]`: it is called once with all r leave-one-out means along its first axis.

    >>> x = torch.tensor([[1.0], [2.0], [3.0]], dtype=torch.float64)
    >>> [t.item() for t in jackknife(x, lambda mean: mean)]  # 4.303 / sqrt(3)
    [2.0, 2.484...]
    """
    from scipy.stats import t

    r = len(parts)
    left = g((parts.sum(0) - parts) / (r - 1))
    error = ((r - 1) / r * (left - left.mean(0)).square().sum(0)).sqrt()
    return g(parts.mean(0)), float(t.ppf((1 + COVERED) / 2, r - 1)) * error


def grouped(outputs: Any, mean: Tensor) -> tuple[tuple[str, ...], Tensor]:
    """Labels of the c columns of indices, and the weights `[m, c]` of the squares that they are of: every output by
    itself, and every vector field as the mean over its outputs, of y / mean `[m]` where the field is positive."""
    vectors = [f for f in outputs.fields if f.size > 1]
    columns = torch.zeros((outputs.size, len(vectors)), dtype=torch.float64)
    for j, f in enumerate(vectors):
        part = outputs.slices[f.name]
        columns[part, j] = 1 / f.size / (mean[part].square().clamp_min(1e-300) if f.positive else 1.0)
    labels = (*outputs.labels, *(f.name for f in vectors))
    return labels, torch.cat([torch.eye(outputs.size, dtype=torch.float64), columns], 1)


def need_whole(name: str, value: Any, least: int, *, power: bool = False) -> None:
    """Complain about a number of samples that is no whole number, too small, or no power of 2 where it must be one."""
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= least
    if not whole or (power and value & (value - 1)):
        kind = "a power of 2" if power else "a whole number"
        higher = f"; {2 ** max(0, math.ceil(math.log2(max(value, least))))} is the next" if power and whole else ""
        raise InputError(f"{name} must be {kind}, {least} or more. Got {value!r}{higher}.")


def need_variation(undefined: Sequence[str], outputs: Sequence[str]) -> None:
    if len(undefined) == len(outputs):
        raise InputError("sensitivity needs an output that varies with the parameters. Got constant values everywhere, so "
                         "every index is undefined; widen the priors, or look at the training runs.")  # fmt: skip
