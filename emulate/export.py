"""Runs of a store as one table that needs no `emulate` to be read: an xarray Dataset, or a pandas frame.

Numbers are read with their checksums verified; a failed run keeps its row, with NaN and its reason.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from emulate.errors import InputError, StoreError
from emulate.keys import canonical
from emulate.record import Record
from emulate.runs import Outputs, Runs
from emulate.space import Space
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
    fidelity: str = ""  # what a study calls these settings of its simulator, where it has several
    name: str = ""  # a word that tells the group from the others, for a place in a file or a file of its own

    @property
    def sentence(self) -> str:
        """`nbody version 1: 64 runs of y, 2 failed`."""
        failed = sum(not r.ok for r in self.records)
        of = f" ({self.fidelity})" if self.fidelity else ""
        who = _text(f"{self.who['simulator']} version {self.who['version']}")
        return f"{who}{of}: {len(self.records)} runs of {self.product['product']}, {failed} failed"

    @property
    def made_with(self) -> str:
        return f"emulate {version('emulate')}"

    def to_runs(self, space: Space) -> Runs:
        """The table that emulators are fitted to, over the space of the simulator, whose priors no store knows; with
        its Jacobians where the group has those of the runs themselves."""
        if (names := list(space.names)) != self.who["parameters"]:
            raise InputError(f"the space must have the parameters {', '.join(self.who['parameters'])}, in this order. "
                             f"Got {', '.join(names)}.")  # fmt: skip
        theta = np.stack([self._theta(i) for i in range(space.d)], 1)
        told, own = self._told(), self.product["product"] == "jacobian" and self.product["replicates"] == 1
        derivatives = [self._stack(n, 2) for n in ("jacobian", "standard_error")] if own else []
        return Runs(space, self._outputs(), theta, self._stack("y", 1), told["seed"], told["ok"],
                    tuple(str(r.failure) if r.failure else "" for r in self.records), told["seconds"],
                    tuple(told["key"]), self.who["stochastic"], *derivatives)  # fmt: skip

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
            axis = _free(names, re.sub(r"\W+", "_", f"{f.name}_{f.coordinate}"))
            made[f.name] = (("run", axis), part, {"units": f.unit}) if f.at else ("run", part[:, 0], {"units": f.unit})
            if f.at:
                coordinates[axis] = (axis, list(f.at), {"units": f.at_unit})
        data |= _apart(data, "y_", made)
        told = {n: ("run", v, {"units": _ABOUT[n]} if _ABOUT.get(n) else {}) for n, v in self._told().items()}
        told |= {"seed": ("run", [str(s) for s in told["seed"][1]]), "ok": ("run", told["ok"][1].astype("i1"))}
        data |= _apart(data, "run_", told)
        if self.product["product"] == "jacobian":
            output, parameter = (_free(data, n) for n in ("output", "parameter"))
            slopes = {n: (("run", output, parameter), self._stack(n, 2)) for n in ("jacobian", "standard_error")}
            data |= _apart(data, "dy_", slopes)
            coordinates |= {output: list(fields.labels), parameter: list(names)}
        return xarray.Dataset(data, coordinates, self._attributes())

    def _theta(self, i: int) -> np.ndarray:
        return np.array([r.theta[i] for r in self.records])

    def _told(self) -> dict[str, Any]:
        rs = self.records
        kinds = [r.failure.kind if r.failure else "" for r in rs]
        numbers = {n: np.array([_number(r.about.get(n)) for r in rs]) for n in ("seconds", "memory_mib")}
        texts = {n: [_text(str(r.about.get(n, ""))) for r in rs] for n in ("host", "time")}
        return {"seed": np.array([r.inputs["seed"] for r in rs], np.int64), "ok": np.array([r.ok for r in rs], bool),
                "kind": kinds, "reason": [_text(r.failure.reason) if r.failure else "" for r in rs], **numbers, **texts,
                "key": [r.key for r in rs]}  # fmt: skip

    def _attributes(self) -> dict[str, Any]:
        asked = {k: _text(self.who[k]) for k in ("simulator", "version")} | {"product": self.product["product"]}
        asked |= {"fidelity": self.fidelity} if self.fidelity else {}
        asked["made_with"] = self.made_with
        texts = {"settings": self.who["settings"], "gradient": self.product["gradient"]}
        return {"title": f"Runs of {asked['simulator']}", **asked, **{k: json.dumps(v) for k, v in texts.items()},
                "replicates": self.product["replicates"], "stochastic": int(self.who["stochastic"])}  # fmt: skip

    def _outputs(self) -> Outputs:
        """The fields that were noted, or y0, y1 ... without units."""
        sizes = {r.y.shape for r in self.records if r.y is not None}
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
           fidelities: Mapping[str, Mapping[str, Any]] | None = None,
           tick: Callable[[int, int], None] | None = None) -> list[Group]:  # fmt: skip
    """The runs of a store by simulator, version, settings and product; `simulator` and `product` choose by name.

    `fidelities` gives words to simulators by their `emulate.keys.identity`; those come first, in that order. A group is
    named by that word, else by its simulator; `_jacobian` behind it says the product, and six digits of the sha256 of
    all that it is tell it from others that would have the same name.

    >>> import tempfile
    >>> from emulate.keys import identity, record_of
    >>> from emulate.simulators.linear_gaussian import LinearGaussian
    >>> store, s = RunStore(tempfile.mkdtemp()), LinearGaussian(outputs_count=2)
    >>> store.commit(record_of(identity(s), [0.5, 1.0], 0), y=np.array([3.0, 4.0]))
    True
    >>> [(g.sentence, g.to_pandas()["y1"].tolist()) for g in groups(store)]
    [('linear_gaussian version 1: 1 runs of y, 0 failed', [4.0])]
    >>> groups(store)[0].to_runs(s.space).y.tolist()
    [[3.0, 4.0]]
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
    words = {canonical(who): word for word, who in (fidelities or {}).items()}
    order = {word: i for i, word in enumerate(words.values())}
    made = [_group(store, records, words) for _, records in sorted(found.items())]
    made.sort(key=lambda g: (order.get(g.fidelity, len(order)), g.product["product"] != "y"))
    return _named(made)


def _named(made: list[Group]) -> list[Group]:
    """Names that differ on any disk, and hold nothing that means something to one."""
    words = [g.fidelity or g.who["simulator"].rpartition(":")[2] for g in made]
    words = [w + (f"_{p}" if (p := g.product["product"]) != "y" else "") for w, g in zip(words, made, strict=True)]
    words = [re.sub(r"\W+", "_", w, flags=re.ASCII)[:60].strip("_") or "runs" for w in words]
    alike = Counter(w.lower() for w in words)
    digits = [hashlib.sha256(canonical([g.who, g.product])).hexdigest()[:6] for g in made]
    return [replace(g, name=w if alike[w.lower()] == 1 else f"{w}_{d}")
            for g, w, d in zip(made, words, digits, strict=True)]  # fmt: skip


def _apart(taken: dict[str, Any], prefix: str, new: dict[str, Any]) -> dict[str, Any]:
    """`new` with a prefix where a name is taken: a simulator may have a parameter `time`, or an output named like one."""
    return {f"{prefix}{n}" if n in taken else n: v for n, v in new.items()}


def _free(taken: Iterable[str], name: str) -> str:
    """The name of an axis, which nothing else along another axis may have."""
    return f"{name}_axis" if name in taken else name


def _text(text: str) -> str:
    """Text as any file may hold it: a simulator may print, and a stranger's store may say, what is no text."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")


def _asked(simulator: str, product: str) -> str:
    return "".join(f" with {k} {v!r}" for k, v in (("simulator", simulator), ("product", product)) if v)


def _split(r: Record) -> Iterable[dict[str, Any]]:
    return {n: r.inputs[n] for n in _WHO}, {n: r.inputs[n] for n in ("product", "gradient", "replicates")}


def _group(store: RunStore, records: list[Record], words: Mapping[bytes, str]) -> Group:
    who, product = _split(records[0])
    noted = description(store, who) or {"parameters": [], "outputs": []}
    units = dict.fromkeys(who["parameters"], "") | {p["name"]: _text(p["unit"]) for p in noted["parameters"]}
    try:
        outputs = Outputs.from_dict(noted["outputs"]) if noted["outputs"] else None
    except (InputError, TypeError, KeyError, ValueError):
        outputs = None  # a stranger's; the numbers stand without names
    return Group(who, product, records, units, outputs, words.get(canonical(who), ""))


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else np.nan
