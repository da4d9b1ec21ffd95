"""What `emulate store` does: verify, merge, export and prune run stores; each prints what it found and gives an exit code."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emulate.store import RunStore
    from pipelines.study import Study
    from pipelines.terminal import Terminal

_SHOWN = 20  # findings printed one by one


def verify(terminal: "Terminal", where: Path, *, quarantine: bool = False) -> int:
    from emulate.upkeep import verify as find

    store, _ = _open(where)
    with terminal.bar("verify") as tick:
        found = find(store, tick)
    for d in found[:_SHOWN]:
        terminal.fail(f"run {d.key}: {d.sentence}" if d.key else d.sentence)
    if len(found) > _SHOWN:
        terminal.fail(f"and {len(found) - _SHOWN} more.")
    damaged = sorted({d.key for d in found if d.key})
    terminal.give(store=str(store.path), runs=len(store.keys()), passed=not found, damaged=[vars(d) for d in found],
                  quarantined=damaged if quarantine else [])  # fmt: skip
    for key in damaged if quarantine else ():
        store.quarantine(key)
    moved = f", moved to {store.path / 'damaged'}; the next campaign makes them again" if quarantine and damaged else ""
    odd = sum(not d.key for d in found)
    strange = f", {odd} that are no runs" if odd else ""
    terminal.say(f"{len(store.keys())} runs in {store.path}: {len(damaged)} damaged{moved}{strange}.")
    return 1 if found else 0


def merge(terminal: "Terminal", into: Path, sources: list[Path], *, limit_mib: int = 1024) -> int:
    from emulate.store import RunStore
    from emulate.upkeep import merge as copy

    others = [_open(s)[0] for s in sources]
    store = _open(into)[0] if into.exists() and any(into.iterdir() if into.is_dir() else [into]) else RunStore(into)
    bad = 0
    for other in others:
        with terminal.bar(f"merge {other.path.name}") as tick:
            done = copy(store, other, limit=limit_mib * 2**20, tick=tick)
        told = [*done.conflicts, *done.refused]
        for sentence in told[:_SHOWN]:
            terminal.fail(sentence)
        if len(told) > _SHOWN:
            terminal.fail(f"and {len(told) - _SHOWN} more.")
        bad += len(told)
        terminal.add("merged", {"from": str(other.path), "into": str(store.path), **vars(done)})
        terminal.say(f"{other.path}: {done.copied} runs copied, {done.present} there already, {len(done.conflicts)} in "
                     f"conflict, {len(done.refused)} refused.")  # fmt: skip
    return 1 if bad else 0


def export(
    terminal: "Terminal", where: Path, out: Path, *, simulator: str = "", product: str = "", group: str = ""
) -> int:
    from emulate.errors import InputError, nearest
    from emulate.export import groups
    from pipelines.failures import visible
    from pipelines.study import ITSELF
    from pipelines.writing import FORMATS, write

    if out.suffix not in FORMATS:
        raise InputError(f"OUT must end in {', '.join(FORMATS)}. Got {out.name!r}; the ending chooses the format.")
    store, study = _open(where)
    mine = _simulators(study) if study else {}
    named = {name or ITSELF: who for name, who in mine.items()} if len(mine) > 1 else {}
    with terminal.bar("read the runs") as tick:
        found = groups(store, simulator=simulator, product=product, fidelities=named, tick=tick)
    if study and not simulator:
        found = [g for g in found if g.who in mine.values()] or found
    if group:
        names = [g.name for g in found]
        found = [g for i, g in enumerate(found, 1) if group in (g.name, str(i))]
        if not found:
            raise InputError(f"--group must name one kind of runs: {', '.join(names)}. Got {group!r}"
                             f".{nearest(group, names)}")  # fmt: skip
    with terminal.bar("write"):
        written = write(out, found)
    terminal.give(written={name: str(path) for name, path in written.items()})
    for g in found:
        place = f", group {g.name}" if len(found) > 1 and out.suffix == ".nc" else ""
        terminal.say(f"{written[g.name]}{place}: {visible(g.sentence)}.")
        if g.outputs is None:
            terminal.warn(
                "the store does not say the names and units of these outputs; they are y0, y1 ... without units."
            )
    return 0


def _simulators(study: "Study") -> dict[str, dict[str, Any]]:
    """What the study's simulator puts into the keys of its runs, and what each of its fidelities does."""
    from emulate.keys import identity

    return {name: identity(study.simulator_of(name)) for name in ("", *study.fidelities)}


def prune(terminal: "Terminal", where: Path, unused: Path | None = None, *, yes: bool = False) -> int:
    from emulate.upkeep import prunable
    from pipelines.terminal import count

    store, _ = _open(where)
    keys = _unused(store, unused) if unused else []
    found = {what: paths for what, paths in prunable(store, keys).items() if paths}
    terminal.give(store=str(store.path), found={what: [str(p) for p in paths] for what, paths in found.items()},
                  removed=bool(found) and yes)  # fmt: skip
    if not found:
        terminal.say(f"There is nothing to remove in {store.path}.")
        return 0
    rows = [(what, str(len(paths)), _size(sum(map(_bytes, paths)))) for what, paths in found.items()]
    terminal.table(str(store.path), ("what", "number", "size"), rows)
    if not yes:
        terminal.say("Nothing was removed; add --yes to remove these.")
        return 0
    for key in keys:
        store.remove(key)
    for path in [p for paths in found.values() for p in paths]:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
    terminal.say(f"{count(sum(map(len, found.values())), 'folder')} removed.")
    return 0


def _unused(store: "RunStore", path: Path) -> list[str]:
    """The runs at points that no stage of the study has asked for, or of another simulator."""
    from emulate.errors import InputError
    from emulate.keys import canonical
    from pipelines import engine
    from pipelines.config import load_study

    study = load_study(path)
    if engine.locked(study.folder):
        raise InputError(
            f"another `emulate` is at work in {study.folder}. Wait for it; what it makes might be removed."
        )
    mine, wanted = _simulators(study), _points(study)
    by_who = {canonical(who): wanted[name] for name, who in mine.items()}
    unused = []
    for key in store.keys():  # noqa: SIM118
        r = store.read(key)
        if tuple(r.theta) not in by_who.get(canonical({k: r.inputs[k] for k in mine[""]}), ()):
            unused.append(key)
    return unused


def _points(study: "Study") -> dict[str, set[tuple[float, ...]]]:
    """Every theta that a stage of the study asks for, or has asked for: design, observation, gradients, true runs; and
    those of its fidelities by their names."""
    import numpy as np

    from pipelines import files
    from pipelines.stages import design
    from pipelines.terminal import Terminal
    from pipelines.workbench import FIDELITIES, SETS, Workbench

    with Workbench(study, Terminal(quiet=True)) as bench:
        found = list(design.points(bench).values())
        if (study.folder / "design" / "points.csv").exists():
            found += [bench.points(which) for which in SETS]
        others = {name: [theta] for name, theta in design.fidelities(bench).items()}
        if (study.folder / FIDELITIES).exists():
            for name in {r["set"] for r in files.read_csv(study.folder / FIDELITIES)} & others.keys():
                others[name].append(bench.points(name))
    for stage, file, name in (("validate", "jacobians", "theta"), ("check", "evidence", "weighted.theta")):
        made = study.folder / stage / f"{file}.safetensors"
        if made.exists():
            found.append(files.read_tensors(made)[name].numpy())
    at = study.infer.observation.parameters
    if at:
        found.append(np.array([[at[n] for n in study.space.names]]))
    return {name: {tuple((row + 0.0).tolist()) for theta in listed for row in np.asarray(theta, np.float64)}
            for name, listed in {"": found, **others}.items()}  # fmt: skip


def _open(where: Path) -> "tuple[RunStore, Study | None]":
    """The store in a folder, of a results' folder, or of a study's file; the study where it was named."""
    from emulate.errors import InputError
    from emulate.store import RunStore

    if where.suffix in (".yaml", ".yml") and not where.is_dir():
        from pipelines.config import load_study

        study = load_study(where)
        return RunStore(study.folder / "store", create=False), study
    for path in (where, where / "store"):
        if (path / "store.json").exists():
            return RunStore(path, create=False), None
    raise InputError(f"{where} must be a run store, the results' folder of a study, or a study's YAML. Got no store.json "
                     "there; check the path.")  # fmt: skip


def _bytes(path: Path) -> int:
    files = [p for p in path.rglob("*") if p.is_file() and not p.is_symlink()] if path.is_dir() else [path]
    return sum(p.lstat().st_size for p in files)


def _size(n: int) -> str:
    return f"{n / 2**20:.1f} MiB" if n >= 2**20 else f"{n / 2**10:.1f} KiB"
