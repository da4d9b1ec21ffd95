"""`Runs`: the one table of finished and failed runs; `Outputs`: what a run gives, with coordinates and units."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from emulate.errors import InputError, nearest
from emulate.space import Space

if TYPE_CHECKING:
    import pandas
    import xarray


@dataclass(frozen=True)
class Field:
    """One named output: a number, or a vector along one coordinate (P(k) at k in h/Mpc).

    `positive` says that every value is above zero, so that emulators may work on its logarithm.
    """

    name: str
    unit: str = ""
    positive: bool = False
    coordinate: str = ""
    at: tuple[float, ...] = ()
    at_unit: str = ""
    label: str = ""

    def __post_init__(self):
        if not self.name.isidentifier():
            raise InputError(f"a field's name must be a word of letters, digits and _. Got {self.name!r}.")
        if bool(self.coordinate) != bool(self.at):
            raise InputError(f"field {self.name!r} must have both a coordinate and its values `at`, or neither. "
                             f"Got coordinate = {self.coordinate!r} with {len(self.at)} values.")  # fmt: skip

    @property
    def size(self) -> int:
        return len(self.at) or 1


@dataclass(frozen=True)
class Outputs:
    """The fields of one run, laid end to end in a vector y of shape `[m]`."""

    fields: tuple[Field, ...]

    def __post_init__(self):
        names = [f.name for f in self.fields]
        if not names or len(set(names)) < len(names):
            raise InputError(f"outputs must be at least one field, each named once. Got {names}.")

    @property
    def size(self) -> int:
        return sum(f.size for f in self.fields)

    @cached_property
    def slices(self) -> dict[str, slice]:
        ends = np.cumsum([f.size for f in self.fields])
        return {f.name: slice(int(e) - f.size, int(e)) for f, e in zip(self.fields, ends, strict=True)}

    @property
    def positive(self) -> np.ndarray:
        """bool `[m]`: which outputs are above zero by nature."""
        return np.repeat([f.positive for f in self.fields], [f.size for f in self.fields])

    @property
    def labels(self) -> tuple[str, ...]:
        """One short name per output: `pk[k=0.1]`, or the field's name when it is a number."""
        return tuple(f"{f.name}[{f.coordinate}={x:.4g}]" if f.at else f.name for f in self.fields for x in f.at or (0,))

    def field(self, name: str) -> Field:
        for f in self.fields:
            if f.name == name:
                return f
        names = [f.name for f in self.fields]
        raise InputError(f"there is no output {name!r}; there are {', '.join(names)}.{nearest(name, names)}")

    def to_dict(self) -> list[dict]:
        return [{**vars(f), "at": list(f.at)} for f in self.fields]

    @staticmethod
    def from_dict(entries: list[dict]) -> "Outputs":
        return Outputs(tuple(Field(**{**e, "at": tuple(e["at"])}) for e in entries))


@dataclass(frozen=True)
class Runs:
    """n runs of one simulator: a failed run keeps its row with `ok` False, its reason, and NaN for y.

    Shapes: theta `[n, d]`, y `[n, m]`, and `[n]` for seed, ok, reason, seconds and key (where it is stored).
    """

    space: Space
    outputs: Outputs
    theta: np.ndarray
    y: np.ndarray
    seed: np.ndarray
    ok: np.ndarray
    reason: tuple[str, ...]
    seconds: np.ndarray
    key: tuple[str, ...] = ()
    stochastic: bool = False

    def __post_init__(self):
        n = len(self.theta)
        shapes = {"theta": (n, self.space.d), "y": (n, self.outputs.size), "seed": (n,), "ok": (n,), "seconds": (n,)}
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise InputError(f"runs: {name} must have shape {shape}. Got {getattr(self, name).shape}.")
        if len(self.reason) != n or len(self.key) not in (0, n):
            raise InputError(f"runs: reason and key must have {n} entries. Got {len(self.reason)} and {len(self.key)}.")
        if not np.isfinite(self.y[self.ok]).all():
            row = int(np.flatnonzero(self.ok)[~np.isfinite(self.y[self.ok]).all(1)][0])
            raise InputError(f"runs: a finished run must be finite. Run {row} is not; mark it failed, with its reason.")
        if not np.isfinite(self.theta).all():
            raise InputError("runs: theta must be finite. Got NaN or infinity; a run needs all its parameters.")

    @staticmethod
    def of(space: Space, outputs: Outputs, theta, y, *, stochastic: bool = False) -> "Runs":
        """A table of finished runs from two arrays, theta `[n, d]` and y `[n, m]`; rows that are not finite failed."""
        theta, y = np.asarray(theta, np.float64), np.array(y, np.float64)
        y = y.reshape(len(theta), -1)
        ok = np.isfinite(y).all(1)
        y[~ok] = np.nan
        reason = tuple("" if good else "nonfinite: the output holds NaN or infinity" for good in ok)
        n = len(theta)
        return Runs(space, outputs, theta, y, np.zeros(n, np.int64), ok, reason, np.full(n, np.nan), (), stochastic)

    def __len__(self) -> int:
        return len(self.theta)

    def select(self, rows) -> "Runs":
        """The rows of an index or mask, as a table of their own."""
        index = np.arange(len(self))[rows]
        names = ("theta", "y", "seed", "ok", "seconds")
        return replace(self, **{name: getattr(self, name)[index] for name in names},
                       reason=tuple(self.reason[i] for i in index),
                       key=tuple(self.key[i] for i in index) if self.key else ())  # fmt: skip

    def finished(self) -> "Runs":
        return self.select(self.ok)

    def failed(self) -> "Runs":
        return self.select(~self.ok)

    def split(self, fraction: float, *, seed: int) -> tuple["Runs", "Runs"]:
        """Two tables: all but `fraction` of the rows, and that fraction, by a seeded permutation."""
        if not 0 < fraction < 1:
            raise InputError(f"split: fraction must be between 0 and 1. Got {fraction}.")
        order = np.random.default_rng(seed).permutation(len(self))
        cut = max(1, round(fraction * len(self)))
        return self.select(np.sort(order[cut:])), self.select(np.sort(order[:cut]))

    def to_pandas(self) -> "pandas.DataFrame":
        import pandas

        columns = {n: self.theta[:, i] for i, n in enumerate(self.space.names)}
        columns |= {n: self.y[:, i] for i, n in enumerate(self.outputs.labels)}
        columns |= {"seed": self.seed, "ok": self.ok, "reason": self.reason, "seconds": self.seconds}
        return pandas.DataFrame(columns)

    def to_xarray(self) -> "xarray.Dataset":
        """A Dataset along `run`, each field along its own coordinate, units in the attributes."""
        import xarray

        data = {p.name: ("run", self.theta[:, i], {"units": p.unit}) for i, p in enumerate(self.space.parameters)}
        coordinates = {}
        for f in self.outputs.fields:
            y = self.y[:, self.outputs.slices[f.name]]
            axis = f"{f.name}_{f.coordinate}" if f.at else ""
            data[f.name] = (("run", axis), y, {"units": f.unit}) if f.at else ("run", y[:, 0], {"units": f.unit})
            if f.at:
                coordinates[axis] = (axis, list(f.at), {"units": f.at_unit})
        data |= {"seed": ("run", self.seed), "ok": ("run", self.ok), "seconds": ("run", self.seconds, {"units": "s"})}
        data["reason"] = ("run", list(self.reason))
        return xarray.Dataset(data, coordinates)
