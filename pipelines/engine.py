"""Which stages to run, in what order, and what is remembered of them.

A stage is skipped when its fingerprint is unchanged: the part of the study it depends on, the code of the library, and
the digests of the files it reads. What is stored never depends on where or by how many workers it was made.
"""

import fcntl
import hashlib
import json
import os
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from emulate.artefact import FINDINGS
from emulate.errors import InputError
from pipelines import amortised_choice, files, stages, verdicts
from pipelines.terminal import Stopwatch, Terminal, count, duration
from pipelines.workbench import Workbench, one_thread


@dataclass(frozen=True)
class State:
    """What is known of a stage: done, stale, running, failed, interrupted or waiting, and why."""

    stage: str
    status: str
    why: str
    seconds: float | None = None


@cache
def code_digest() -> str:
    """sha256 over the sources of the library and of what runs it."""
    return digest_of(Path(__file__).parents[1])


def digest_of(top: Path) -> str:
    """The same of the packages and the page in the folder `top`."""
    total = hashlib.sha256()
    sources = [p for package in ("emulate", "pipelines") for p in (top / package).rglob("*")]
    for p in sorted(p for p in sources if p.suffix in (".py", ".j2")):
        total.update(p.relative_to(top).as_posix().encode() + b"\0" + p.read_bytes())
    return total.hexdigest()


def _marker(folder: Path, stage: str) -> Path:
    return folder / "stages" / f"{stage}.json"


def _read_marker(folder: Path, stage: str) -> dict[str, Any]:
    path = _marker(folder, stage)
    return files.read_json(path) if path.exists() else {}


def _digests(folder: Path, stage: str) -> dict[str, str]:
    """The digest of everything a stage writes; a missing file has none. What later stages found of an emulator lies in
    its folder, and is no other emulator."""
    paths = {w: folder / w for w in stages.load(stage).WRITES}
    return {w: files.digest(p, but=FINDINGS) for w, p in paths.items() if p.exists()}


def reads(study: Any, stage: str) -> tuple[str, ...]:
    """The stages of the study whose files a stage reads."""
    return tuple(r for r in stages.load(stage).READS if r in study.stages)


def fingerprint(study: Any, stage: str) -> str:
    read = {r: _digests(study.folder, r) for r in reads(study, stage)}
    material = {"section": study.section(stage), "code": code_digest(), "reads": read}
    return hashlib.sha256(json.dumps(material, sort_keys=True, default=str).encode()).hexdigest()


def state(study: Any, stage: str) -> State:
    marker = _read_marker(study.folder, stage)
    if not marker:
        return State(stage, "waiting", "it has not run yet")
    seconds = marker.get("seconds")
    if marker["status"] == "running" and not locked(study.folder):
        return State(stage, "interrupted", "its process ended before it did; `emulate run` goes on from there")
    if marker["status"] != "done":
        return State(stage, marker["status"], marker.get("why", ""), seconds)
    missing = [w for w in stages.load(stage).WRITES if not (study.folder / w).exists()]
    if missing:
        return State(stage, "stale", f"{missing[0]} is missing", seconds)
    if marker["fingerprint"] != fingerprint(study, stage):
        return State(stage, "stale", _why_stale(study, stage, marker), seconds)
    return State(stage, "done", "unchanged", seconds)


def _why_stale(study: Any, stage: str, marker: dict[str, Any]) -> str:
    if marker.get("section") != json.loads(json.dumps(study.section(stage), default=str)):
        return "its part of the study changed"
    if marker.get("code") != code_digest():
        return "the code changed"
    return f"the files of {' or '.join(reads(study, stage))} changed"


def need(study: Any, wanted: Sequence[str]) -> None:
    """Refuse stages that the study has not."""
    if absent := [s for s in wanted if s not in study.stages]:
        why = {"infer": "infer is null", "check": "infer is null", "optimise": "it has no section optimise"}
        raise InputError(f"{study.name} must have the stage {absent[0]}. Its stages are {', '.join(study.stages)}, for "
                         f"{why.get(absent[0], 'optimise.by is simulator and infer is null')}; change that.")  # fmt: skip


def plan(study: Any, wanted: Sequence[str], terminal: Terminal, *, force: bool) -> list[tuple[str, str, str, str]]:
    """(stage, run or skip, why, what) for each; a stage behind one that runs runs too when it reads its files."""
    decided: dict[str, bool] = {}
    lines = []
    for stage in wanted:
        s = state(study, stage)
        upstream = [r for r in reads(study, stage) if decided.get(r)]
        why = (
            "--force"
            if force
            else s.why or s.status
            if s.status != "done"
            else f"after {upstream[0]}"
            if upstream
            else ""
        )
        decided[stage] = bool(why)
        module = stages.load(stage)
        with Workbench(study, terminal) as bench:
            what = module.forecast(bench) if why and hasattr(module, "forecast") else module.SENTENCE
        lines.append((stage, "run" if why else "skip", why or "unchanged", what))
    return lines


def run(study: Any, wanted: Sequence[str], terminal: Terminal, *, force: bool = False) -> bool:
    """Run the stages that need it; True when no blocking finding of these stages failed."""
    one_thread()
    watch = Stopwatch()
    with _lock(study.folder), Workbench(study, terminal) as bench:
        files.write_json(study.folder / "study.json", study.to_dict())
        noted = False
        outcome = "failed"
        try:
            for stage in wanted:
                why = state(study, stage)
                if why.status == "done" and not force:
                    terminal.say(f"{stage}: skipped, unchanged")
                    terminal.add(
                        "stages", {"stage": stage, "status": "skipped", "why": why.why, "seconds": why.seconds}
                    )
                    continue
                if not noted:
                    bench.journal.append(
                        "run_start", run=uuid.uuid4().hex[:8], study=study.name, config=study.to_dict()
                    )
                    noted = True
                if stage == "report":
                    _provenance(study)
                _run_stage(bench, stage)
                synchronise(study, terminal)
            outcome = "done"
            if noted and (told := judged(study, wanted)):
                bench.journal.append("tags", "", tags={"verdict": "passed" if _good(told) else "FAILED"})
        except KeyboardInterrupt:
            outcome = "interrupted"
            raise
        finally:
            if noted:
                bench.journal.append("run_end", status=outcome)
                _provenance(study)
                if outcome != "interrupted" or "mlflow" in sys.modules:  # its import takes longer than a hand waits
                    synchronise(study, terminal, closing=True)
    good = verdict(study, wanted, terminal)
    terminal.say(f"{study.name}: {duration(watch.seconds)} in all; files in {study.folder}")
    return good


def _run_stage(bench: Workbench, stage: str) -> None:
    study, terminal = bench.study, bench.terminal
    module = stages.load(stage)
    for upstream in reads(study, stage):
        if any(not (study.folder / w).exists() for w in stages.load(upstream).WRITES):
            raise InputError(
                f"{stage} needs the files of {upstream}, which has not finished in {study.folder}. "
                f"Run `emulate {upstream}` first, or `emulate run`."
            )
    _warn_of_stale(study, stage, terminal)
    terminal.say(f"{stage}: {module.SENTENCE}")
    terminal.detail(f"{stage}: its part of the study: {json.dumps(study.section(stage), default=str)}")
    watch = Stopwatch()
    record = {
        "fingerprint": fingerprint(study, stage),
        "section": study.section(stage),
        "code": code_digest(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "pid": os.getpid(),
    }
    files.write_json(_marker(study.folder, stage), {**record, "status": "running"})
    bench.journal.append("scope_start", stage)
    status, why = "failed", ""
    try:
        with terminal.bar(stage):  # what is within may show one of its own
            said = module.run(bench)
        bench.note(said, watch.seconds)
        verdicts.write(bench, stage)
        status = "done"
    except KeyboardInterrupt:
        status, why = "interrupted", "Ctrl-C"
        raise
    except Exception as e:
        why = str(e).split("\n", 1)[0]
        raise
    finally:
        bench.journal.append("metrics", stage, metrics={"seconds": watch.seconds})
        bench.journal.append("scope_end", stage, status=status)
        ended = {"status": status, "why": why, "seconds": watch.seconds}
        files.write_json(_marker(study.folder, stage), {**record, **ended})
        terminal.add("stages", {"stage": stage, **ended})
        terminal.detail(f"{stage}: {status} after {duration(watch.seconds)}")


def _warn_of_stale(study: Any, stage: str, terminal: Terminal) -> None:
    """Files of an earlier stage that is not done: refused where it did not end well, named where they are old."""
    before = {r: state(study, r) for r in reads(study, stage)}
    for name, s in before.items():
        if s.status not in ("done", "stale", "waiting"):
            ended = f"failed: {s.why}" if s.status == "failed" else "was interrupted."
            raise InputError(f"{stage} needs the files of {name}, which {ended} Run `emulate {name}` first, or "
                             "`emulate run`.")  # fmt: skip
    old = [f"{n} ({s.why})" for n, s in before.items() if s.status != "done"]
    if old:
        terminal.warn(f"{stage} reads files that are not up to date: {', '.join(old)}. `emulate run` renews them.")


def synchronise(study: Any, terminal: Terminal, *, closing: bool = False) -> None:
    """Bring MLflow up to the journal; a server that does not answer costs a warning at the end, and no data."""
    if study.tracking.uri == "off":
        return
    from pipelines import tracking
    from pipelines.addresses import opening, redact, resolve

    with terminal.bar("MLflow"):
        synced = tracking.sync(study.folder, study.tracking.uri)
    if closing and synced.pending:
        terminal.warn(synced.sentence)
    elif closing:
        address = resolve(study.tracking.uri)
        terminal.give(mlflow=synced.link or None)
        terminal.say(f"MLflow: the run is logged in {redact(address)}. {opening(address, synced.link)}")


def verdict(study: Any, wanted: Sequence[str], terminal: Terminal) -> bool:
    """Print what the emulator did to the posterior, and the findings of these stages; False when a blocking one failed."""
    told: dict[str, Any] = {}
    if "check" in wanted and (path := study.folder / verdicts.BIAS).exists():
        told = files.read_json(path)
        terminal.headline(" ".join(told[k] for k in ("sentence", "beyond") if k in told))
    shown = judged(study, wanted)
    listed = [{"stage": stage, "of": name, **f} for (stage, name), found in shown.items() for f in found]
    if shown:
        terminal.verdict({f"{stage} ({name})": found for (stage, name), found in shown.items()})
    good = _good(shown)
    terminal.give(passed=good, findings=listed, bias=told or None)
    return good


def judged(study: Any, wanted: Sequence[str]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """The findings that count, of the emulator that is used, by stage and emulator."""
    told = {}
    for stage in wanted:
        path = study.folder / stage / "findings.json"
        if stage not in stages.FIND or not path.exists():
            continue
        found = files.read_json(path)["emulators"]
        name = files.read_json(study.folder / verdicts.CHAMPION)["champion"] if len(found) > 1 else next(iter(found))
        if findings := amortised_choice.left_out(study, stage, found[name]):
            told[stage, name] = findings
    return told


def _good(told: dict[tuple[str, str], list[dict[str, Any]]]) -> bool:
    return all(f["passed"] for findings in told.values() for f in findings if f["blocking"])


def _provenance(study: Any) -> None:
    from importlib.metadata import version
    from platform import node, platform, python_version

    packages = ("emulate", "torch", "gpytorch", "numpy", "scipy", "scikit-learn", "zuko", "dask", "mlflow-skinny",
                "matplotlib")  # fmt: skip
    seconds = {s: m["seconds"] for s in stages.ORDER if (m := _read_marker(study.folder, s)).get("seconds") is not None}
    hashes = {s: m["fingerprint"][:16] for s in stages.ORDER if (m := _read_marker(study.folder, s))}
    files.write_json(
        study.folder / "provenance.json",
        {
            "versions": {p: version(p) for p in packages},
            "python": python_version(),
            "host": node(),
            "system": platform(),
            "cores": os.cpu_count(),
            "workers": study.cluster.workers,
            "seeds": {"study": study.seed},
            "hashes": hashes,
            "seconds": seconds,
        },
    )


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """One writer of stages at a time; the operating system frees the lock when its process ends, however it ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = open(folder / ".lock", "w")  # noqa: SIM115  (held open as long as the lock)
    except OSError as e:
        raise files.advice(e, folder) from e
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(
                f"another `emulate` is at work in {folder}. Wait for it, or stop it; `emulate status` "
                "shows how far it is."
            ) from None
        yield


def locked(folder: Path) -> bool:
    """Whether a process is at work in the folder of a study."""
    try:
        with open(folder / ".lock") as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def planned(study: Any) -> str:
    """One sentence on the runs of a study that repeats its points, nothing for others."""
    whole = stages.load("design").total(study)
    return f"Its design: {whole}." if whole else ""


def stored(study: Any) -> dict[str, int]:
    """How many runs the store holds, failed, and carry a Jacobian; readable while another process writes to it."""
    path = study.folder / "store"
    if not path.exists():
        return {"stored": 0, "failed": 0, "jacobians": 0}
    from emulate.store import RunStore

    store = RunStore(path)
    keys = list(store.keys())
    return {
        "stored": len(keys),
        "failed": sum(map(store.failed, keys)),
        "jacobians": sum(map(store.differentiated, keys)),
    }


def stored_in_words(study: Any, n: dict[str, int]) -> str:
    """One sentence on the run store."""
    path = study.folder / "store"
    if not path.exists():
        return "No runs are stored yet."
    carried = f"; {n['jacobians']} carry a Jacobian" if n["jacobians"] else ""
    said = f"{count(n['stored'], 'run')} {'is' if n['stored'] == 1 else 'are'} stored in {path}"
    return f"{said}, {n['failed']} of them failed{carried}."


def champion(study: Any) -> str | None:
    """The emulator that is used, once the validate stage has said so."""
    path = study.folder / verdicts.CHAMPION
    return files.read_json(path)["champion"] if path.exists() else None


def paths(study: Any) -> dict[str, Any]:
    """The files and folders that are there, for whoever goes on from them."""
    known = {"folder": "", "store": "store", "runs": "simulate/runs.csv", "posterior": "infer/posterior.nc",
             "optimum": "optimise/optimum.json", "report": "report/index.html", "provenance": "provenance.json"}  # fmt: skip
    there = {k: str(p.absolute()) for k, v in known.items() if (p := study.folder / v).exists()}
    emulators = {n: str(p.absolute()) for n in study.emulators if (p := study.folder / "emulators" / n).is_dir()}
    return {**there, "emulators": emulators}
