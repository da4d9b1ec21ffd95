"""Failed runs and single runs as the store holds them: readable while a campaign runs, from another shell, or when its
driver is dead, for nothing but the store is read."""

import contextlib
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emulate.errors import InputError, StoreError
from emulate.keys import canonical, identity
from emulate.store import Record, RunStore
from pipelines import pace, underway
from pipelines.study import ITSELF
from pipelines.terminal import Terminal, count, duration

if TYPE_CHECKING:
    from emulate.runs import Outputs
    from pipelines.study import Study

SHORT = 12  # digits of a key that a table shows
_SHOWN, _SAMPLE = 20, 300  # runs under way that a table shows; ended ones (keys are random) that they are held against


def show_failed(study: "Study", terminal: Terminal) -> None:
    """A table of the failed runs of the study's simulator as it is now, and how many there are of each kind."""
    store, mine = _store(study), _fidelities(study)
    rows, kinds, others = [], Counter(), 0
    for key in filter(store.failed, store.keys()):
        try:
            r = store.read(key)
        except StoreError as e:
            rows.append((key[:SHORT], "", "", "damaged", str(e), ""))
            kinds["damaged"] += 1
            continue
        if (fidelity := mine.get(_who(r))) is None:
            others += 1
            continue
        kinds[r.failure.kind] += 1
        tries = len(r.about.get("attempts", ())) + 1
        rows.append((key[:SHORT], fidelity, _named(r), r.failure.kind, visible(r.failure.reason), str(tries)))
    names = ("run", "fidelity", "parameters", "kind", "reason", "tries")
    terminal.give(failed=[dict(zip(names, r, strict=True)) for r in rows], failed_of_others=others)
    if rows:
        header = ("run", "fidelity", "parameters", "kind", "reason", "tries")
        if not study.fidelities:
            header, rows = header[:1] + header[2:], [r[:1] + r[2:] for r in rows]
        terminal.table(count(len(rows), "failed run"), header, rows)
        terminal.say("By kind: " + ", ".join(f"{n} {k}" for k, n in kinds.most_common()) + ".")
        terminal.say(f"`emulate status {study.file} --run {rows[0][0]}` prints a run with its log; the files lie in "
                     f"{store.path / 'runs' / rows[0][0][:2] / rows[0][0]}...")  # fmt: skip
    else:
        terminal.say("No run of this simulator failed.")
    if others:
        terminal.say(f"The store holds {count(others, 'failed run')} of other settings or versions of the simulator.")


def show_under_way(study: "Study", terminal: Terminal) -> None:
    """A table of the runs that workers are making now, and which of them take far longer than those that ended."""
    path = study.folder / "store"
    if not path.exists() or not (found := underway.listing(store := RunStore(path, create=False))):
        return
    ended = defaultdict(list)
    for key in store.keys()[:_SAMPLE]:
        with contextlib.suppress(StoreError):  # a damaged run is for `emulate store verify`
            r = store.read(key)
            ended[r.inputs["product"]].append(r.about.get("seconds", 0.0))
    terminal.give(under_way=[{**vars(u), "seconds": u.seconds} for u in found])
    rows = [(u.key[:SHORT], u.product, ", ".join(f"{x:.5g}" for x in u.theta), u.host, duration(u.seconds))
            for u in found[:_SHOWN]]  # fmt: skip
    terminal.table("", ("under way", "product", ", ".join(study.space.names), "host", "for"), rows)
    for product in sorted({u.product for u in found}):
        terminal.say(pace.sentence([u for u in found if u.product == product], ended[product]))


def show_run(study: "Study", terminal: Terminal, prefix: str) -> None:
    """One run of the store, whose key starts with `prefix`: its question, what came of it, and all of its log."""
    store = _store(study)
    found = [k for k in store.keys() if k.startswith(prefix.lower())]  # noqa: SIM118
    if len(found) != 1:
        met = f"{len(found)} runs, such as {', '.join(k[:SHORT] for k in found[:3])}" if found else "no run"
        raise InputError(f"--run must be the first digits of the key of one run in {store.path}. {prefix!r} is those of "
                         f"{met}; `emulate status {study.file} --failed` lists the keys of failed runs.")  # fmt: skip
    r = store.read(found[0])
    about, fidelity = r.about, _fidelities(study).get(_who(r))
    simulator = study.simulator_of("" if fidelity in (None, ITSELF) else fidelity)
    folder = store.path / "runs" / r.key[:2] / r.key
    lines = [("key", r.key), ("simulator", f"{r.inputs['simulator']}, version {r.inputs['version']}"),
             *([("fidelity", fidelity)] if study.fidelities and fidelity else []),
             ("product", f"{r.inputs['product']}, seed {r.inputs['seed']}"), ("parameters", _named(r)),
             ("came of it", visible(str(r.failure)) if r.failure else "finished")]  # fmt: skip
    lines += [(f"try {i}", visible(f"{a['kind']}: {a['reason']} ({duration(a['seconds'])} on {a['host']})"))
              for i, a in enumerate(about.get("attempts", ()), 1)]  # fmt: skip
    lines += [("took", f"{about.get('seconds', 0.0):.4g} s, {about.get('memory_mib', 0.0):g} MiB"),
              ("where, when", f"{about.get('host', '?')}, {about.get('time', '?')}"),
              ("files", str(folder))]  # fmt: skip
    if r.ok and r.inputs["product"] == "y" and simulator.outputs.size == r.y.size:
        lines += [(f"output {name}", text) for name, text in outputs_in_words(simulator.outputs, r.y)]
    terminal.table("", ("", ""), lines)
    question = {k: r.inputs[k] for k in ("simulator", "version", "product", "seed", "parameters")}
    theta = {n: float.fromhex(r.inputs["theta"][n]) for n in r.inputs["parameters"]}
    terminal.give(run={"key": r.key, **question, "theta": theta, "ok": r.ok, "failure": r.failure and str(r.failure),
                       "y": r.y.tolist() if r.ok else None, "about": about, "folder": str(folder)})  # fmt: skip
    for i, a in enumerate(about.get("attempts", ()), 1):
        _log(terminal, f"log of try {i}", a.get("log", ""))
    _log(terminal, "log", about.get("log", ""))


def outputs_in_words(outputs: "Outputs", y: Any) -> list[tuple[str, str]]:
    """For each field its name and its numbers, of a long one the first, the last, and the range."""
    found = []
    for f in outputs.fields:
        values = [float(x) for x in y[outputs.slices[f.name]]]
        few = ", ".join(f"{x:.6g}" for x in values[:4])
        tail = f" ... {values[-1]:.6g} ({len(values)} values, {min(values):.6g} to {max(values):.6g})"
        found.append((f.name, few + (tail if len(values) > 4 else "") + (f"  [{f.unit}]" if f.unit else "")))
    return found


def visible(text: str) -> str:
    """Text in which no byte can command a terminal.

    >>> visible("a\\x1b[2Jb\\n")
    'a\\ufffd[2Jb\\n'
    """
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)


def _log(terminal: Terminal, title: str, text: str) -> None:
    terminal.say(f"{title}:" if text else f"{title}: empty")
    if text:
        terminal.say(visible(text))


def _fidelities(study: "Study") -> dict[bytes, str]:
    """By what a simulator puts into the keys of its runs, the fidelity that it is."""
    return {canonical(identity(study.simulator_of(name))): name or ITSELF for name in ("", *study.fidelities)}


def _who(r: Record) -> bytes:
    return canonical({k: r.inputs[k] for k in ("simulator", "version", "settings", "parameters", "stochastic")})


def _named(r: Record) -> str:
    pairs = zip(r.inputs["parameters"], (float.fromhex(r.inputs["theta"][n]) for n in r.inputs["parameters"]))
    return ", ".join(f"{n}={x:.5g}" for n, x in pairs)


def _store(study: "Study") -> RunStore:
    path: Path = study.folder / "store"
    if not path.exists():
        raise InputError(f"there is no store yet in {study.folder}. Run `emulate simulate {study.file}` first.")
    return RunStore(path, create=False)
