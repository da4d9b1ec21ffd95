"""YAML -> one frozen, validated `Study`; complaints name the line, the key, what was met and what is allowed.

`load_study` builds every entry through the registry, so that a wrong setting is met before the first run starts.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emulate import registry
from emulate.errors import InputError, nearest, shown
from pipelines import given
from pipelines.derivatives import OWN, Own, automatic
from pipelines.derived import read_derived, read_profile
from pipelines.parameters import read_space
from pipelines.schema import schema
from pipelines.source import Source
from pipelines.study import (
    AUTO,
    CheckPart,
    Fidelity,
    FidelityPart,
    InferPart,
    Observation,
    Study,
    StudyFile,
    of_posterior,
    smooths,
)

if TYPE_CHECKING:
    from emulate.space import Space

__all__ = ["Study", "load_raw", "load_study", "schema"]

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,59}")
CONFIRM = 32  # true runs: two standard errors of a shift are then 0.35 posterior standard deviations
FEW = 5  # parameters that an ensemble of 6 chains still learns: of 10 its draws were worth 14 of 600, measured
FOLDS, SEARCH = 5, 300.0  # folds, and seconds of a search, where the study names none
FIDELITY = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,59}")


def load_raw(path: Path | str, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """`name` and `folder` of a study without building it: nothing heavy is imported."""
    source = Source(Path(path), overrides)
    head = {k: source.data[k] for k in ("name", "output") if k in source.data}
    made = source.keep(registry.validate, StudyFile, {"simulator": "", **head}, path="")
    if made:
        source.keep(_name, made.name, "name")
    source.judge()
    return {"name": made.name, "folder": _folder(made)}


def load_study(path: Path | str, overrides: Iterable[str] = ()) -> Study:
    """The study in a YAML file, with `KEY.PATH=VALUE` overrides laid over it.

    Raises InputError with one line per problem: `quickstart.yaml:12: design.runs: must be at least 1. Got 0.`
    """
    path = Path(path)
    source = Source(path, overrides)
    data, keep = source.data, source.keep
    sizes, design = _split_design(data.get("design", {}))
    infers = data.get("infer", {}) is not None
    read = keep(registry.validate, StudyFile, {"simulator": "", **data, "design": sizes}, path="")
    if read:
        read = replace(read, infer=read.infer or InferPart())
        keep(_name, read.name, "name")
    space = keep(read_space, data["parameters"]) if "parameters" in data else None
    simulator = keep(_simulator, data.get("simulator"), space, "parameters" in data)
    made = keep(_design, design)
    recorded = False
    if read and simulator:
        points = keep(
            given.points, simulator.space, simulator, path.parent / read.design.file if read.design.file else None
        )
        recorded = keep(simulator.rows) is not None if read.design.file else points is not None
        read = replace(read, design=given.sized(read.design, sizes, None if points is None else len(points)))
        if recorded and "use" not in (data.get("cluster") or {}):  # nothing is computed that would be worth a worker
            read = replace(read, cluster=replace(read.cluster, use="serial"))
    fidelities = _fidelities(source, space) if simulator else {}
    parts = {
        "design": made,
        "fidelities": fidelities,
        "emulators": _emulators(source, read, simulator, fidelities),
        "checks": _entries(source, "checks"),
        "likelihood": keep(_likelihood, source) if infers else None,
        "sampler": keep(_entry, "samplers", source, "infer.sampler", "hmc"),
        "recoverer": keep(_entry, "samplers", source, "check.sampler", None),
        "npe": keep(_npe, read.infer.npe) if read else None,
        "gradient": keep(_gradient, source, "validate.gradient", simulator, "none" if recorded else "auto")
        if simulator
        else None,
        "jacobians": keep(_gradient, source, "simulate.jacobians", simulator, "none") if simulator else None,
    }
    asked = data["infer"] if isinstance(data.get("infer"), Mapping) else {}
    parts["derived"] = keep(read_derived, asked.get("derived"), simulator.space) if simulator else None
    parts["profile"] = (
        keep(read_profile, asked.get("profile"), simulator.space, parts["derived"]) if simulator else None
    )
    source.judge()
    if infers:
        read = replace(read, check=_check(read.check, parts["checks"], source.unasked, parts["likelihood"], recorded))
        parts["checks"] = _able(parts["checks"], source.unasked, parts["likelihood"], read.check.confirm, simulator)
    else:
        parts["checks"] = {n: c for n, c in parts["checks"].items() if not of_posterior(c) or n not in source.unasked}
    if recorded:
        parts["checks"] = {n: c for n, c in parts["checks"].items() if n not in source.unasked or not given.unable(c)}
    parts["checks"] = _placeless(parts["checks"], source.unasked, parts["emulators"])
    study = _study(read, simulator, parts, path, infers)
    from pipelines.rules import broken  # the rules count on parts that stand

    for sentence in broken(study):
        source.note(sentence)
    source.judge()
    return study


def _npe(spec: Any) -> Any:
    """How npe learns, where the study says it."""
    if spec is None:
        return None
    if not isinstance(spec, Mapping):
        raise InputError(f"infer.npe: must be settings, such as {{noise: 16}}. Got {shown(spec)}.")
    from emulate.amortised import NPE

    return registry.validate(NPE, spec, path="infer.npe")


def _study(read: StudyFile, simulator: Any, parts: dict[str, Any], path: Path, infers: bool) -> Study:
    """The whole, with the defaults that depend on other parts."""
    n, o = read.design.held_out, read.infer.observation
    if o.held_out is None and o.parameters is None and not o.file:
        o = Observation(held_out=0, noise=o.noise)
    if o.noise is None and infers:
        o = replace(o, noise=not o.file and parts["likelihood"].adds_noise)
    points, recovery = read.validate.gradient_points or min(10, n), read.check.recovery or min(20, n)
    folds = _folds(read, len(parts["emulators"]))
    within = read.train.within or (SEARCH if read.emulators == AUTO else None)
    return Study(
        name=read.name,
        seed=read.seed,
        space=simulator.space,
        simulator=simulator,
        design=replace(read.design, entry=parts["design"]),
        fidelities=parts["fidelities"],
        simulate=replace(read.simulate, jacobians=parts["jacobians"]),
        cluster=read.cluster,
        emulators=parts["emulators"],
        train=replace(read.train, folds=folds, within=within),
        validate=replace(read.validate, gradient=parts["gradient"], gradient_points=points),
        infer=replace(
            read.infer,
            observation=o,
            likelihood=parts["likelihood"],
            sampler=parts["sampler"],
            npe=parts["npe"],
            derived=parts["derived"],
            profile=parts["profile"],
        ),
        check=replace(
            read.check, recovery=recovery, sampler=parts["recoverer"] or _recoverer(parts["sampler"], simulator)
        ),
        checks=parts["checks"],
        optimise=read.optimise,
        infers=infers,
        tracking=read.tracking,
        folder=_folder(read),
        file=path,
    )


def _recoverer(sampler: Any, simulator: Any) -> Any:
    """Of the posteriors of held-out observations, some of which lie at the walls of the prior: in few dimensions a mixture
    that is learnt from a handful of chains reaches there by a tenth of the density's calls."""
    few = simulator.space.d <= FEW and sampler.entry_name() == "hmc"
    return registry.build("samplers", "ensemble", path="check.sampler") if few else sampler


def _folds(read: StudyFile, emulators: int) -> int:
    """One emulator alone needs no comparison, which would cost as much again as its fit, several times."""
    few = min(FOLDS, read.design.runs) if read.design.runs > 1 else 0
    return read.train.folds if read.train.folds is not None else few if emulators > 1 else 0


def _check(
    part: CheckPart, checks: dict[str, Any], unasked: frozenset[str], likelihood: Any, recorded: bool
) -> CheckPart:
    """True runs at the posterior mean are made for a check that was named, or where no true run can be weighed."""
    readers = {n for n, c in checks.items() if "confirmation" in c.needs}
    asked = readers - unasked or (readers and not likelihood.adds_noise)
    return part if part.confirm is not None else replace(part, confirm=CONFIRM if asked and not recorded else 0)


def _able(
    checks: dict[str, Any], unasked: frozenset[str], likelihood: Any, confirm: int, simulator: Any
) -> dict[str, Any]:
    """The checks, without those that nobody named and that this study has no evidence for."""
    unable = {n for n in unasked if (checks[n].weighs and not likelihood.adds_noise) or
              ("confirmation" in checks[n].needs and not confirm) or
              ("softening" in checks[n].needs and not smooths(simulator))}  # fmt: skip
    return {n: c for n, c in checks.items() if n not in unable}


def _placeless(checks: dict[str, Any], unasked: frozenset[str], emulators: dict[str, Any]) -> dict[str, Any]:
    """The checks without those that nobody named and that ask where the runs lie, where a private emulator does not say it."""
    secret = any(r is not None and r.privacy is not None for r in emulators.values())
    return {n: c for n, c in checks.items() if not (secret and n in unasked and c.entry_name() == "domain")}


def _folder(read: StudyFile) -> Path:
    return Path(read.output or f"runs/{read.name}").expanduser()


def _name(name: str, path: str) -> str:
    if not NAME.fullmatch(name):
        raise InputError(f"{path}: must be letters, digits, - and _ (at most 60), with a letter or digit first. "
                         f"Got {shown(name)}; rename it.")  # fmt: skip
    return name


def _simulator(spec: Any, space: "Space | None", named: bool) -> Any:
    """The simulator over the study's parameters; `named` says whether the study has any, good or bad."""
    if spec is None:
        raise InputError(f"simulator: this key is missing. Add it: {{use: NAME, ...}} with a NAME of "
                         f"{', '.join(registry.names('simulators'))}.")  # fmt: skip
    if isinstance(spec, Mapping) and "space" in spec:
        raise InputError("simulator.space: this key is not known. Write the parameters under `parameters:`.")
    use = spec.get("use") if isinstance(spec, Mapping) else spec
    if space is None and isinstance(use, str) and _needs_space(_find("simulators", use, "simulator")):
        if named:
            return None  # what is wrong with the parameters is noted already
        raise InputError(f"parameters: this key is missing, and {use} has no parameters of its own. Add it, "
                         "such as {h: {uniform: [0.6, 0.8]}}.")  # fmt: skip
    return registry.build("simulators", spec, path="simulator", **({"space": space} if space else {}))


def _find(room: str, use: str, path: str) -> type:
    try:
        return registry.find(room, use)
    except InputError as e:
        raise InputError(f"{path}.use: {e}") from None


def _needs_space(cls: type) -> bool:
    space = next(f for f in fields(cls) if f.name == "space")
    return space.default is MISSING and space.default_factory is MISSING


def _split_design(section: Any) -> tuple[Any, Any]:
    """The keys that say how many points, and those of the design itself."""
    if not isinstance(section, Mapping):
        return ({}, section) if isinstance(section, str) else (section, {})
    own = ("runs", "held_out", "replicates", "file")  # fidelities hold built entries, and are read apart
    rest = {k: v for k, v in section.items() if k not in (*own, "fidelities")}
    return {k: section[k] for k in own if k in section}, rest


def _design(spec: Any) -> Any:
    spec = {"use": "sobol", **spec} if isinstance(spec, Mapping) else {"use": spec}
    if isinstance(spec["use"], str):
        cls = _find("designs", spec["use"], "design")
        allowed = (
            "use",
            "runs",
            "held_out",
            "replicates",
            "file",
            "fidelities",
            *(f.name for f in fields(cls) if f.init),
        )
        if unknown := [k for k in spec if k not in allowed]:
            raise InputError("\n".join(f"design.{k}: this key is not known. Keys allowed here: {', '.join(allowed)}"
                                       f".{nearest(k, allowed)}" for k in unknown))  # fmt: skip
    return registry.build("designs", spec, path="design")


def _fidelities(source: Source, space: "Space | None") -> dict[str, Fidelity]:
    """The fidelities of the study, each with the simulator that its settings make of the study's."""
    section = source.data.get("design")
    if not isinstance(section, Mapping) or "fidelities" not in section:
        return {}
    listed, path = section["fidelities"], "design.fidelities"
    if not isinstance(listed, Mapping) or not listed:
        source.note(f"{path}: must be names with runs and settings, such as {{coarse: {{runs: 256, with: "
                    f"{{particles: 16}}}}}}. Got {shown(listed)}.")  # fmt: skip
        return {}
    made = {}
    for name, spec in listed.items():
        if not isinstance(name, str) or not FIDELITY.fullmatch(name):
            source.note(f"{path}.{name}: must be a word of letters, digits and _ (at most 60) that begins with no "
                        f"digit. Got {shown(name)}; rename it.")  # fmt: skip
        else:
            made[name] = source.keep(_fidelity, spec, f"{path}.{name}", source.data["simulator"], space)
    return made


def _fidelity(spec: Any, path: str, simulator: Any, space: "Space | None") -> Fidelity:
    if not isinstance(spec, Mapping):
        raise InputError(f"{path}: must be runs and settings, such as {{runs: 256, with: {{particles: 16}}}}. "
                         f"Got {shown(spec)}.")  # fmt: skip
    allowed, rest = ("runs", "with"), {k: v for k, v in spec.items() if k == "runs"}
    if unknown := [k for k in spec if k not in allowed]:
        raise InputError("\n".join(f"{path}.{k}: this key is not known. Keys allowed here: {', '.join(allowed)}"
                                   f".{nearest(k, allowed)}" for k in unknown))  # fmt: skip
    runs, settings, own = registry.validate(FidelityPart, rest, path=path).runs, spec.get("with"), _spelled(simulator)
    if not isinstance(settings, Mapping) or not settings:
        raise InputError(f"{path}.with: must be settings of the simulator that replace the study's, {{key: value}}. "
                         f"Got {shown(settings)}; name at least one.")  # fmt: skip
    if odd := [k for k in ("use", "space") if k in settings]:
        raise InputError(f"{path}.with.{odd[0]}: a fidelity is the same simulator over the same parameters, with other "
                         "settings. Take it out.")  # fmt: skip
    given = {"space": space} if space else {}
    built = registry.build("simulators", {**own, **settings}, path=f"{path}.with", **given)
    return Fidelity(runs, dict(settings), built)


def _spelled(spec: Any) -> dict[str, Any]:
    """An entry's part of the study with its `use`."""
    return {"use": spec} if isinstance(spec, str) else dict(spec)


def _entry(room: str, source: Source, path: str, default: str | None) -> Any:
    """The entry at a path of two keys, None where neither it nor a default is there; its settings that end in `_file` are
    relative to the study's file."""
    section, key = path.split(".")
    around = source.data.get(section)
    spec = around.get(key) if isinstance(around, Mapping) else None
    if isinstance(spec, Mapping):
        folder = Path(source.name).parent
        spec = ({"use": default} if default else {}) | _beside(folder, spec)
    spec = default if spec is None else spec
    return None if spec is None else registry.build(room, spec, path=path)


def _likelihood(source: Source) -> Any:
    """That of `infer`; a study that says nothing of data is told how to go without."""
    try:
        return _entry("likelihoods", source, "infer.likelihood", "gaussian")
    except InputError as e:
        if "infer" in source.data:
            raise
        raise InputError(f"{e} A study without data must say so. Got no infer at all; set `infer: null`.") from None


def _beside(folder: Path, spec: Mapping[str, Any]) -> dict[str, Any]:
    """Settings whose files lie relative to a folder, those of entries within too."""

    def placed(k: Any, v: Any) -> Any:
        if isinstance(v, Mapping):
            return _beside(folder, v)
        return str(folder / v) if isinstance(v, str) and v and str(k).endswith("_file") else v

    return {k: placed(k, v) for k, v in spec.items()}


def _gradient(source: Source, path: str, simulator: Any, default: str) -> Any:
    """How the simulator is differentiated: an entry of the room, its own way, or None where the study says none."""
    section, key = path.split(".")
    around = source.data.get(section)
    spec = around.get(key) if isinstance(around, Mapping) else None
    spec = default if spec is None else spec
    if default == "none" and not isinstance(spec, str | Mapping):
        raise InputError(f"{path}: must be none, auto, or a way to differentiate such as {{use: reverse}}. "
                         f"Got {shown(spec)}; write {'auto' if spec is True else 'none'}.")  # fmt: skip
    if spec == default == "none":
        return None
    auto = automatic(simulator)
    use = auto if spec == "auto" else spec.get("use", auto) if isinstance(spec, Mapping) else spec
    if use == OWN:
        if extra := [k for k in spec if k != "use"] if isinstance(spec, Mapping) else []:
            raise InputError(f"{path}.{extra[0]}: this key is not known, for the simulator's own way has no settings. "
                             "Take it out.")  # fmt: skip
        return Own()
    made = registry.build("gradients", auto, path=path) if spec == "auto" else _entry("gradients", source, path, auto)
    if made is not None and made.settings().get("scale") == ():  # steps are shares of the prior's width
        made = replace(made, scale=_widths(simulator.space))
    return made


def _widths(space: "Space") -> tuple[float, ...]:
    """The width of every prior: the range of a uniform one, of the others the central 80 % over 0.8."""
    import torch

    low, high = (space.from_unit(torch.full((space.d,), u, dtype=torch.float64)) for u in (0.1, 0.9))
    return tuple(((high - low) / 0.8).tolist())


def _emulators(source: Source, read: StudyFile | None, simulator: Any, fidelities: Mapping[str, Any]) -> dict[str, Any]:
    """The recipes that the study names; for `auto` those that its runs allow when a fold is left out."""
    if source.data["emulators"] != AUTO:
        return _entries(source, "emulators")
    if not read or not simulator:
        return {}  # what is wrong is noted already
    from emulate.candidates import candidates

    folds = max(2, _folds(read, 2))
    try:
        stochastic = bool(simulator.stochastic)
    except Exception:  # a simulator that is not ready is told by its own rule
        stochastic = False
    n, jacobians = read.design.runs, read.simulate.jacobians not in (None, "none")
    found = candidates(n - -(-n // folds), simulator.space.d, jacobians=jacobians, stochastic=stochastic,
                       replicates=read.design.replicates,
                       fidelities={name: f.runs for name, f in fidelities.items() if f and f.runs > n})  # fmt: skip
    if not found:
        source.note(f"design.runs: must be more, for no recipe can be tried on {n} runs with {simulator.space.d} parameters "
                    "when a fold is left out. Run more points, or name an emulator.")  # fmt: skip
    return found


def _entries(source: Source, room: str) -> dict[str, Any]:
    """The entries of a section that names them; a name that is an entry's needs no `use`."""
    section, known = source.data[room], registry.names(room)
    if not isinstance(section, Mapping) or not section:
        search = "auto, or " if room == "emulators" else ""
        source.note(f"{room}: must be {search}names with entries, such as {{{known[0]}: {{use: {known[0]}}}}}. "
                    f"Got {shown(section)}.")  # fmt: skip
        return {}
    made = {}
    for name, spec in section.items():
        if isinstance(spec, Mapping | None):
            spec = ({"use": name} if name in known else {}) | dict(spec or {})
        if source.keep(_name, name, f"{room}.{name}"):
            made[name] = source.keep(registry.build, room, spec, path=f"{room}.{name}")
    return made
