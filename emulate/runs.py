"""`Runs`: the one table of finished and failed runs; `Outputs`: what a run gives, with coordinates and units."""

import json
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from emulate.errors import InputError, nearest
from emulate.labelled import agree
from emulate.space import Space

if TYPE_CHECKING:
    import pandas
    import xarray

_TOLD = {"seed": np.int64, "ok": bool, "seconds": np.float64}  # of each run, in a Dataset


@dataclass(frozen=True)
class Field:
    """One named output: a number, or a vector along one coordinate (P(k) at k in h/Mpc).

    `positive` says that every value is above zero, so that emulators may work on its logarithm.

    >>> Field("pk", "(Mpc/h)^3", positive=True, coordinate="k", at=(0.1, 0.2), at_unit="h/Mpc").size
    2
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
        if not isinstance(self.at, tuple):  # an array or a list
            object.__setattr__(self, "at", tuple(map(float, self.at)))
        if bool(self.coordinate) != bool(self.at):
            raise InputError(f"field {self.name!r} must have both a coordinate and its values `at`, or neither. "
                             f"Got coordinate = {self.coordinate!r} with {len(self.at)} values.")  # fmt: skip

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return len(self.at) or 1


@dataclass(frozen=True)
class Outputs:
    """The fields of one run, laid end to end in a vector y of shape `[m]`.

    >>> outputs = Outputs((Field("n"), Field("pk", coordinate="k", at=(0.1, 0.2))))
    >>> outputs.size, outputs.labels, outputs.slices["pk"]
    (3, ('n', 'pk[k=0.1]', 'pk[k=0.2]'), slice(1, 3, None))
    >>> Outputs([Field("x", coordinate="t", at=np.linspace(0, 1, 3)), Field("total")]).labels
    ('x[t=0]', 'x[t=0.5]', 'x[t=1]', 'total')
    """

    fields: tuple[Field, ...]

    def __post_init__(self):
        object.__setattr__(self, "fields", (self.fields,) if isinstance(self.fields, Field) else tuple(self.fields))
        names = [f.name for f in self.fields]
        if not names or len(set(names)) < len(names):
            raise InputError(f"outputs must be at least one field, each named once. Got {names}.")

    @property
    def size(self) -> int:
        """m, how many numbers a run gives."""
        return sum(f.size for f in self.fields)

    @cached_property
    def slices(self) -> dict[str, slice]:
        """Where each field stands in y, by its name."""
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
        """The field of that name."""
        for f in self.fields:
            if f.name == name:
                return f
        names = [f.name for f in self.fields]
        raise InputError(f"there is no output {name!r}; there are {', '.join(names)}.{nearest(name, names)}")

    def variables(self, y: np.ndarray, lead: tuple[str, ...]) -> tuple[dict[str, tuple], dict[str, tuple]]:
        """Data variables and coordinates of an xarray Dataset of y `[*lead, m]`: each field along its own coordinate."""
        data, coordinates = {}, {}
        for f in self.fields:
            part, axis = y[..., self.slices[f.name]], f"{f.name}_{f.coordinate}"
            data[f.name] = ((*lead, axis), part, {"units": f.unit}) if f.at else (lead, part[..., 0], {"units": f.unit})
            if f.at:
                coordinates[axis] = (axis, list(f.at), {"units": f.at_unit})
        return data, coordinates

    def to_dict(self) -> list[dict]:
        """Plain JSON, read back by `from_dict`."""
        return [{**vars(f), "at": list(f.at)} for f in self.fields]

    @staticmethod
    def from_dict(entries: list[dict]) -> "Outputs":
        """The outputs that `to_dict` wrote down."""
        return Outputs(tuple(Field(**{**e, "at": tuple(e["at"])}) for e in entries))


@dataclass(frozen=True)
class Runs:
    """n runs of one simulator: a failed run keeps its row with `ok` False, its reason, and NaN for all that it gives.

    Shapes: theta `[n, d]`, y `[n, m]`, and `[n]` for seed, ok, reason, seconds and key (where it is stored).
    `jacobian` is dy/dtheta of every run and `jacobian_error` its standard error, both `[n, m, d]` in units of the
    output over those of the parameter; None where nobody asked for them. The derivative is that of the run itself, at
    its own seed: its error is that of the method (0 where the method is exact), not the scatter between seeds.

    >>> from emulate.space import Parameter, Uniform
    >>> x = np.array([[0.1], [0.2], [0.4]])
    >>> space, outputs = Space((Parameter("a", Uniform(0, 1)),)), Outputs((Field("y"),))
    >>> runs = Runs.of(space, outputs, x, x**2, jacobian=2 * x[:, :, None])
    >>> runs.select(x[:, 0] > 0.15).jacobian.ravel().tolist()
    [0.4, 0.8]
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
    jacobian: np.ndarray | None = None
    jacobian_error: np.ndarray | None = None

    def __post_init__(self):
        n, m, d = len(self.theta), self.outputs.size, self.space.d
        if (self.jacobian is None) != (self.jacobian_error is None):
            raise InputError("runs: jacobian and jacobian_error must be given together. Got one of them; an exact "
                             "Jacobian has an error of zeros.")  # fmt: skip
        shapes = {"theta": (n, d), "y": (n, m), "seed": (n,), "ok": (n,), "seconds": (n,)}
        shapes |= dict.fromkeys(self._derivatives, (n, m, d))
        for name, shape in shapes.items():
            _require(name, getattr(self, name), shape)
        if len(self.reason) != n or len(self.key) not in (0, n):
            raise InputError(f"runs: reason and key must have {n} entries. Got {len(self.reason)} and {len(self.key)}.")
        if not np.isfinite(self.y[self.ok]).all():
            row = int(np.flatnonzero(self.ok)[~np.isfinite(self.y[self.ok]).all(1)][0])
            raise InputError(f"runs: a finished run must be finite. Run {row} is not; mark it failed, with its reason.")
        for name in self._derivatives:
            bad = self.ok & ~np.isfinite(getattr(self, name)).all((1, 2))
            if bad.any():
                raise InputError(f"runs: {name} of a finished run must be finite. That of run {int(bad.argmax())} is "
                                 "not; mark the run failed, with its reason.")  # fmt: skip
        if not np.isfinite(self.theta).all():
            raise InputError("runs: theta must be finite. Got NaN or infinity; a run needs all its parameters.")

    @staticmethod
    def of(space: Space, outputs: Outputs, theta, y, *, stochastic: bool = False, jacobian=None,
           jacobian_error=None) -> "Runs":  # fmt: skip
        """A table of finished runs from two arrays, theta `[n, d]` and y `[n, m]`; rows that are not finite failed.

        `jacobian` `[n, m, d]` is dy/dtheta where it is known, exact unless `jacobian_error` says otherwise.
        """
        theta, y = np.asarray(theta, np.float64), np.array(y, np.float64)
        n = len(theta)
        y = y.reshape(n, -1)
        if jacobian is not None and jacobian_error is None:
            jacobian_error = np.zeros(np.shape(jacobian))
        derivatives = [np.array(a, np.float64) for a in (jacobian, jacobian_error) if a is not None]
        ok = np.asarray(np.isfinite(y).all(1))
        for a in derivatives:
            _require("jacobian", a, (n, outputs.size, space.d))
            ok &= np.isfinite(a).all((1, 2))
        for a in (y, *derivatives):
            a[~ok] = np.nan
        reason = tuple("" if good else "nonfinite: the output holds NaN or infinity" for good in ok)
        return Runs(space, outputs, theta, y, np.zeros(n, np.int64), ok, reason, np.full(n, np.nan), (), stochastic,
                    *derivatives)  # fmt: skip

    @staticmethod
    def of_events(space: Space, outputs: Outputs, theta, events) -> "Runs":
        """A table of a stochastic simulator that gives a sample of events: theta `[n, d]`, events `[n, e, f]` of f features.

        Every event is a row of its own under the theta of its run; outputs name the features. Events that are not finite
        have failed, so runs with fewer than e events can be filled with NaN.

        >>> from emulate.space import Parameter, Uniform
        >>> space, outputs = Space((Parameter("a", Uniform(0, 1)),)), Outputs((Field("x"), Field("y")))
        >>> runs = Runs.of_events(space, outputs, [[0.1], [0.9]], np.arange(12.0).reshape(2, 3, 2))
        >>> runs.theta.ravel().tolist(), runs.y[3].tolist()
        ([0.1, 0.1, 0.1, 0.9, 0.9, 0.9], [6.0, 7.0])
        """
        theta, events = np.asarray(theta, np.float64), np.asarray(events, np.float64)
        if events.ndim != 3 or theta.ndim != 2 or len(theta) != len(events):
            raise InputError("events must have the shape [runs, events, features] and theta [runs, parameters]. Got "
                             f"{events.shape} and {theta.shape}; fill shorter samples with NaN.")  # fmt: skip
        return Runs.of(
            space, outputs, theta.repeat(events.shape[1], 0), events.reshape(-1, events.shape[2]), stochastic=True
        )

    @property
    def _derivatives(self) -> tuple[str, ...]:
        return () if self.jacobian is None else ("jacobian", "jacobian_error")

    def __len__(self) -> int:
        return len(self.theta)

    def select(self, rows) -> "Runs":
        """The rows of an index or mask, as a table of their own."""
        index = np.arange(len(self))[rows]
        names = ("theta", "y", "seed", "ok", "seconds", *self._derivatives)
        return replace(self, **{name: getattr(self, name)[index] for name in names},
                       reason=tuple(self.reason[i] for i in index),
                       key=tuple(self.key[i] for i in index) if self.key else ())  # fmt: skip

    def finished(self) -> "Runs":
        """The runs that finished, as a table of their own."""
        return self.select(self.ok)

    def failed(self) -> "Runs":
        """The runs that failed, each with its reason."""
        return self.select(~self.ok)

    def split(self, fraction: float, *, seed: int) -> tuple["Runs", "Runs"]:
        """Two tables: all but `fraction` of the places, and that fraction, by a seeded permutation; runs at the same
        parameters stay together, or one would tell of the other."""
        if not 0 < fraction < 1:
            raise InputError(f"split: fraction must be between 0 and 1. Got {fraction}.")
        place = places(self.theta)
        n = int(place.max(initial=-1)) + 1
        order = np.random.default_rng(seed).permutation(n)
        out = np.isin(place, order[: max(1, round(fraction * n))])
        return self.select(~out), self.select(out)

    def to_pandas(self) -> "pandas.DataFrame":
        """One row per run, one column per parameter and output; Jacobians are left to `to_xarray`."""
        import pandas

        columns = {n: self.theta[:, i] for i, n in enumerate(self.space.names)}
        columns |= {n: self.y[:, i] for i, n in enumerate(self.outputs.labels)}
        columns |= {"seed": self.seed, "ok": self.ok, "reason": self.reason, "seconds": self.seconds}
        return pandas.DataFrame(columns)

    @staticmethod
    def from_pandas(frame: "pandas.DataFrame", space: Space, outputs: Outputs, *, stochastic: bool = False) -> "Runs":
        """The table of a frame with a column for each parameter and each of `outputs.labels`: what `to_pandas` gave, or runs of
        your own by `pandas.read_csv`. Other columns are left alone; a row with an empty output is a failed run.

        >>> import pandas
        >>> from emulate.space import Parameter, Uniform
        >>> frame = pandas.DataFrame({"a": [0.1, 0.2], "y": [0.01, None], "who": ["me", "you"]})
        >>> Runs.from_pandas(frame, Space((Parameter("a", Uniform(0, 1)),)), Outputs((Field("y"),))).ok.tolist()
        [True, False]
        """
        names, there = [*space.names, *outputs.labels], [str(c) for c in frame.columns]
        if missing := [n for n in names if n not in there]:
            raise InputError(f"the frame must have a column for each of {', '.join(names)}. Missing: {', '.join(missing)}; it has "
                             f"{', '.join(there)}. Rename columns, or read the file by its own mark: "
                             f"pandas.read_csv(FILE, sep=\";\").{nearest(missing[0], there)}")  # fmt: skip
        if twice := [n for n in names if there.count(n) > 1]:
            raise InputError(
                f"the frame must have one column of each name. Got {twice[0]!r} more than once; rename one."
            )
        table = np.stack([_column(frame, n) for n in names], 1)
        theta, y = table[:, : space.d], table[:, space.d :]
        if len(bad := np.argwhere(~np.isfinite(theta))):
            i, j = bad[0].tolist()
            raise InputError(f"a run must have all its parameters. Got no finite {names[j]} in row {i}, counted from 0; mend it, "
                             "or take the row out.")  # fmt: skip
        return Runs.of(space, outputs, theta, y, stochastic=stochastic)

    def to_xarray(self) -> "xarray.Dataset":
        """A Dataset along `run`, each field along its own coordinate, units in the attributes.

        Jacobians lie along `run`, `output` (the labels of all fields end to end) and `parameter`.
        """
        import xarray

        data: dict[str, Any] = {
            p.name: ("run", self.theta[:, i], {"units": p.unit}) for i, p in enumerate(self.space.parameters)
        }
        fields, coordinates = self.outputs.variables(self.y, ("run",))
        data |= fields
        data |= {"seed": ("run", self.seed), "ok": ("run", self.ok), "seconds": ("run", self.seconds, {"units": "s"})}
        data["reason"] = ("run", list(self.reason))
        if self.key:
            data["key"] = ("run", list(self.key))
        for name in self._derivatives:
            data[name] = (("run", "output", "parameter"), getattr(self, name))
            coordinates |= {"output": list(self.outputs.labels), "parameter": list(self.space.names)}
        about = {"space": json.dumps(self.space.to_dict()), "outputs": json.dumps(self.outputs.to_dict())}
        return xarray.Dataset(data, coordinates, {**about, "stochastic": int(self.stochastic)})

    @staticmethod
    def from_xarray(dataset: "xarray.Dataset", space: Space | None = None, outputs: Outputs | None = None) -> "Runs":
        """The table of a Dataset along `run`: what `to_xarray` gave, after NetCDF too, or one of your own.

        `space` and `outputs` are those that `to_xarray` noted in the attributes; a Dataset of your own has none and must
        be given both. Of the other variables seed, ok, reason, seconds, key and the Jacobians are read where they are; rows
        that are not finite failed.

        >>> from emulate.space import Parameter, Uniform
        >>> x = np.array([[0.1], [0.2], [0.4]])
        >>> runs = Runs.of(Space((Parameter("a", Uniform(0, 1)),)), Outputs((Field("y"),)), x, x**2)
        >>> Runs.from_xarray(runs.to_xarray()).y.ravel().tolist() == runs.y.ravel().tolist()
        True
        """
        try:
            space = space or Space.from_dict(json.loads(dataset.attrs["space"]))
            outputs = outputs or Outputs.from_dict(json.loads(dataset.attrs["outputs"]))
        except (KeyError, TypeError, ValueError):
            raise InputError("from_xarray must be given the space and the outputs of a Dataset that `to_xarray` did not make: its "
                             "attributes hold none. Call Runs.from_xarray(dataset, space, outputs).") from None  # fmt: skip
        names = [*space.names, *(f.name for f in outputs.fields)]
        if missing := [n for n in names if n not in dataset.variables or dataset[n].dims[:1] != ("run",)]:
            raise InputError(f"the Dataset must have {', '.join(names)} along `run`, their first dimension. Missing: "
                             f"{', '.join(missing)}; rename variables, or their dimension by dataset.rename.")  # fmt: skip
        for n, unit in [(p.name, p.unit) for p in space.parameters] + [(f.name, f.unit) for f in outputs.fields]:
            agree(n, unit, dataset[n].attrs.get("units", ""))
        n = dataset.sizes["run"]
        theta = np.stack([np.asarray(dataset[p], np.float64) for p in space.names], 1)
        y = np.concatenate([np.asarray(dataset[f.name], np.float64).reshape(n, -1) for f in outputs.fields], 1)
        slopes = {k: np.asarray(dataset[k], np.float64) for k in ("jacobian", "jacobian_error") if k in dataset}
        plain = Runs.of(space, outputs, theta, y, stochastic=bool(dataset.attrs.get("stochastic", 0)), **slopes)
        told = {k: np.asarray(dataset[k]).astype(kind) for k, kind in _TOLD.items() if k in dataset}
        texts = {k: tuple(str(x) for x in dataset[k].values) for k in ("reason", "key") if k in dataset}
        return replace(plain, **told, **texts)


def places(theta: np.ndarray) -> np.ndarray:
    """The number `[n]` of the place where each run lies, of theta `[n, d]`, in order of appearance: replicates share one.

    >>> places(np.array([[0.5], [0.1], [0.5]])).tolist()
    [0, 1, 0]
    """
    _, first, which = np.unique(theta, axis=0, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[which.reshape(-1)]


def _column(frame: "pandas.DataFrame", name: str) -> np.ndarray:
    """The float64 numbers of a column, NaN where it is empty; complains about words."""
    import pandas

    numbers = cast("pandas.Series", pandas.to_numeric(frame[name], errors="coerce"))
    values = numbers.to_numpy(np.float64, na_value=np.nan)
    words = np.flatnonzero(np.isnan(values) & frame[name].notna().to_numpy())
    if len(words):
        raise InputError(f"column {name} must hold numbers. Row {words[0]}, counted from 0, has {frame[name].iloc[words[0]]!r}; "
                         "leave a line of units out by pandas.read_csv(FILE, skiprows=[1]), and name a decimal comma by "
                         "decimal=\",\".")  # fmt: skip
    return values


def _require(name: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise InputError(f"runs: {name} must have shape {shape}. Got {array.shape}.")
