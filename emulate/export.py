"""Runs of a store as one table that needs no `emulate` to be read: an xarray Dataset, or a pandas frame.

Numbers are read with their checksums verified; a failed run keeps its row, with NaN and its reason.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from emulate.errors import InputError, StoreError
from emulate.record import Record
from emulate.runs import Outputs
from emulate.store import RunStore
from emulate.units import description

if TYPE_CHECKING:
    import pandas
    import xarray

__all__ = ["Group", "groups"]

_ABOUT = {"seconds": "s", "memory_mib": "MiB", "host": "", "time": ""}  # what is told of each run, with units
_WHO = ("simulator", "version", "settings", "parameters", "stochastic")


@dataclass(frozen=True)
class Group:
    """Runs that belong in one table: one simulator with one version and settings, one product."""

    who: dict[str, Any]
    product: dict[str, Any]  # product, gradient, replicates
    records: list[Record]
    units: dict[str, str]  # of each parameter, "" where nobody noted them
    outputs: Outputs | None  # None where nobody noted them

    @property
    def sentence(self) -> str:
        """`nbody version 1: 64 runs of y, 2 failed`."""
        failed = sum(not r.ok for r in self.records)
        return (f"{self.who['simulator']} version {self.who['version']}: {len(self.records)} runs of "
                f"{self.product['product']}, {failed} failed")  # fmt: skip

    def to_pandas(self) -> "pandas.DataFrame":
        """One row per run and one column per value; units and the simulator in `attrs`. Jacobians: `to_xarray`."""
        import pandas

        y, fields = self._stack("y", 1), self._outputs()
        columns = {n: (self._theta(i), self.units[n]) for i, n in enumerate(self.who["parameters"])}
        of = [f.unit for f in fields.fields for _ in range(f.size)]
        columns |= _apart(columns, "y_", {n: (y[:, i], of[i]) for i, n in enumerate(fields.labels)})
        columns |= _apart(columns, "run_", {n: (v, _ABOUT.get(n, "")) for n, v in self._told().items()})
        frame = pandas.DataFrame({n: v for n, (v, _) in columns.items()})
        frame.attrs = {**self._attributes(), "units": {n: u for n, (_, u) in columns.items() if u}}
        return frame

    def to_xarray(self) -> "xarray.Dataset":
        """A Dataset along `run`, each field along its own coordinate, units in the attributes.

        Seeds are text: 63 bits fit into no number of NetCDF 3. Jacobians lie along `run`, `output` and `parameter`.
        """
        import xarray

        fields, names = self._outputs(), self.who["parameters"]
        y = self._stack("y", 1)
        data = {n: ("run", self._theta(i), {"units": self.units[n]}) for i, n in enumerate(names)}
        coordinates: dict[str, Any] = {}
        made: dict[str, Any] = {}
        for f in fields.fields:
            part = y[:, fields.slices[f.name]]
            axis = f"{f.name}_{f.coordinate}"
            made[f.name] = (("run", axis), part, {"units": f.unit}) if f.at else ("run", part[:, 0], {"units": f.unit})
            if f.at:
                coordinates[axis] = (axis, list(f.at), {"units": f.at_unit})
        data |= _apart(data, "y_", made)
        told = {n: ("run", v, {"units": _ABOUT[n]} if _ABOUT.get(n) else {}) for n, v in self._told().items()}
        told |= {"seed": ("run", [str(s) for s in told["seed"][1]]), "ok": ("run", told["ok"][1].astype("i1"))}
        data |= _apart(data, "run_", told)
        if self.product["product"] == "jacobian":
            for name in ("jacobian", "standard_error"):
                data[name] = (("run", "output", "parameter"), self._stack(name, 2))
            coordinates |= {"output": list(fields.labels), "parameter": list(names)}
        return xarray.Dataset(data, coordinates, self._attributes())

    def _theta(self, i: int) -> np.ndarray:
        return np.array([r.theta[i] for r in self.records])

    def _told(self) -> dict[str, Any]:
        rs = self.records
        kinds = [r.failure.kind if r.failure else "" for r in rs]
        numbers = {n: np.array([_number(r.about.get(n)) for r in rs]) for n in ("seconds", "memory_mib")}
        texts = {n: [str(r.about.get(n, "")) for r in rs] for n in ("host", "time")}
        return {"seed": np.array([r.inputs["seed"] for r in rs], np.int64), "ok": np.array([r.ok for r in rs], bool),
                "kind": kinds, "reason": [r.failure.reason if r.failure else "" for r in rs], **numbers, **texts,
                "key": [r.key for r in rs]}  # fmt: skip

    def _attributes(self) -> dict[str, Any]:
        asked = {k: self.who[k] for k in ("simulator", "version")} | {"product": self.product["product"]}
        asked["made_with"] = f"emulate {version('emulate')}"
        texts = {"settings": self.who["settings"], "gradient": self.product["gradient"]}
        return {"title": f"Runs of {self.who['simulator']}", **asked, **{k: json.dumps(v) for k, v in texts.items()},
                "replicates": self.product["replicates"], "stochastic": int(self.who["stochastic"])}  # fmt: skip

    def _outputs(self) -> Outputs:
        """The fields that were noted, or y0, y1 ... without units."""
        sizes = {r.y.shape for r in self.records if r.ok}
        if len(sizes) > 1 or any(len(s) != 1 for s in sizes):
            raise StoreError(f"runs of one simulator must have one shape. Got {sorted(sizes)} from "
                             f"{self.who['simulator']} version {self.who['version']}; change its version when its "
                             "outputs change.")  # fmt: skip
        m = next(iter(sizes))[0] if sizes else self.outputs.size if self.outputs else 0
        if self.outputs and self.outputs.size == m:
            return self.outputs
        from emulate.runs import Field

        return Outputs(tuple(Field(f"y{i}") for i in range(max(m, 1))))

    def _stack(self, name: str, axes: int) -> np.ndarray:
        m, d = self._outputs().size, len(self.who["parameters"])
        stacked = np.full((len(self.records), *(m, d)[:axes]), np.nan)
        for i, r in enumerate(self.records):
            if r.ok:
                a = getattr(r, name)
                if a is None or a.shape != stacked.shape[1:]:
                    met = "none" if a is None else a.shape
                    raise StoreError(f"run {r.key} must hold {name} of shape {stacked.shape[1:]}. Got {met}; make the run "
                                     "again under a new version of the simulator.")  # fmt: skip
                stacked[i] = a
        return stacked


def groups(store: RunStore, *, simulator: str = "", product: str = "",
           tick: Callable[[int, int], None] | None = None) -> list[Group]:  # fmt: skip
    """The runs of a store by simulator, version, settings and product; `simulator` and `product` choose by name.

    >>> import tempfile
    >>> from emulate.keys import identity, record_of
    >>> from emulate.simulators.linear_gaussian import LinearGaussian
    >>> store, s = RunStore(tempfile.mkdtemp()), LinearGaussian(outputs_count=2)
    >>> store.commit(record_of(identity(s), [0.5, 1.0], 0), y=np.array([3.0, 4.0]))
    True
    >>> [(g.sentence, g.to_pandas()["y1"].tolist()) for g in groups(store)]
    [('linear_gaussian version 1: 1 runs of y, 0 failed', [4.0])]
    """
    keys = store.keys()
    found: dict[str, list[Record]] = {}
    for i, key in enumerate(keys):
        r = store.read(key)
        if simulator in ("", r.inputs["simulator"]) and product in ("", r.inputs["product"]):
            found.setdefault(json.dumps([*_split(r)], sort_keys=True), []).append(r)
        if tick:
            tick(i + 1, len(keys))
    if not found:
        raise InputError(f"{store.path} must hold runs to export. Got none{_asked(simulator, product)} of {len(keys)}.")
    return [_group(store, records) for _, records in sorted(found.items())]


def _apart(taken: dict[str, Any], prefix: str, new: dict[str, Any]) -> dict[str, Any]:
    """`new` with a prefix where a name is taken: a simulator may have a parameter `time`, or an output named like one."""
    return {f"{prefix}{n}" if n in taken else n: v for n, v in new.items()}


def _asked(simulator: str, product: str) -> str:
    return "".join(f" with {k} {v!r}" for k, v in (("simulator", simulator), ("product", product)) if v)


def _split(r: Record) -> Iterable[dict[str, Any]]:
    return {n: r.inputs[n] for n in _WHO}, {n: r.inputs[n] for n in ("product", "gradient", "replicates")}


def _group(store: RunStore, records: list[Record]) -> Group:
    who, product = _split(records[0])
    noted = description(store, who) or {"parameters": [], "outputs": []}
    units = dict.fromkeys(who["parameters"], "") | {p["name"]: p["unit"] for p in noted["parameters"]}
    try:
        outputs = Outputs.from_dict(noted["outputs"]) if noted["outputs"] else None
    except (InputError, TypeError, KeyError, ValueError):
        outputs = None  # a stranger's; the numbers stand without names
    return Group(who, product, records, units, outputs)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else np.nan
