"""The events of a journal replayed onto a tracking server, in order, each as often as it takes and never twice.

A server's methods are all repeatable: the same call with the same values changes nothing. So an offset written down
after the calls is enough: what lies between the last written offset and a crash is simply called again.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from emulate.errors import EmulateError
from pipelines import notes

STATUS = {"done": "FINISHED", "passed": "FINISHED", "interrupted": "KILLED"}  # every other word is FAILED


_HEADLINES = ("held_out/median", "bias")  # of the view of verdicts, before the findings


class Refused(EmulateError):
    """The server answered that it will never take this call: asking again is of no use."""


class Unreachable(EmulateError):
    """The server did not answer, or cannot take the call now: it is asked again later."""


@dataclass
class Bookmark:
    """How far the journal is logged at one address, and under which ids."""

    offset: int = 0  # bytes of the journal that are logged
    study: str = ""
    experiment: str = ""  # the server's id
    run: str = ""  # the journal's id of the current run
    start: int = 0  # byte at which the current run begins
    clock: int = 0  # ms, time of the last event of the current run
    ids: dict[str, str] = field(default_factory=dict)  # scope -> the server's run id
    open: list[str] = field(default_factory=list)  # scopes that have not ended

    to_dict = asdict


class Server(Protocol):
    """What a replay asks of a server; every method may be called again with the same values."""

    def experiment(self, name: str, note: str) -> str: ...
    def begin(self, experiment: str, run: str, scope: str, parent: str, clock: int) -> str: ...
    def end(self, id: str, status: str, clock: int) -> None: ...
    def log(self, id: str, batch: "Batch") -> None: ...
    def text(self, id: str, text: str, name: str) -> None: ...
    def config(self, id: str, config: dict, name: str) -> None: ...
    def upload(self, id: str, path: Path, folder: str) -> None: ...
    def image(self, id: str, path: Path, key: str, mark: str, clock: int) -> None: ...
    def view(self, experiment: str, metrics: list[str], clock: int) -> None: ...
    def pictures(self, experiment: str, id: str, clock: int) -> None: ...
    def dataset(self, id: str, event: dict, path: Path) -> None: ...
    def model(self, experiment: str, ids: tuple[str, str], event: dict, path: Path, mark: str, clock: int) -> None: ...


@dataclass
class Batch:
    """What one call can carry for one run: metrics are (name, value, ms, step)."""

    metrics: list[tuple[str, float, int, int]] = field(default_factory=list)
    params: dict[str, Any] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)


class Replay:
    """Apply events to a server; `save(bookmark)` is called when all up to the bookmark's offset is there."""

    def __init__(self, server: Server, folder: Path, bookmark: Bookmark, *, findings: Callable[[int], list[dict]],
                 save: Callable[[Bookmark], None], say: Callable[[str], None]):  # fmt: skip
        self.server, self.folder, self.bookmark = server, folder, bookmark
        self._findings, self._save, self._say = findings, save, say
        self._batches: dict[str, Batch] = {}
        self._verdicts_due = False
        self.refusals: list[str] = []

    def play(self, events: list[tuple[int, dict]]) -> None:
        """Apply the events in order. Raises Unreachable; then the bookmark says how far it came."""
        reached = self.bookmark.offset
        for offset, event in events:
            handler = getattr(self, f"_on_{event['event']}", None)
            if handler and (self.bookmark.run or event["event"] == "run_start"):
                if event["event"] not in _CHEAP:
                    self._flush(reached)
                self._patiently(f"{event['event']} {event['scope']}".strip(), handler, event, reached)
                self.bookmark.clock = _milliseconds(event)
            reached = offset
        self._flush(reached)

    def _flush(self, offset: int) -> None:
        if offset == self.bookmark.offset:
            return
        if self._verdicts_due:
            self._patiently("findings", self._log_verdicts)
        for id, batch in self._batches.items():
            self._patiently("values", self.server.log, id, batch)
        self._batches, self._verdicts_due = {}, False
        self.bookmark.offset = offset
        self._save(self.bookmark)

    def _patiently(self, what: str, call: Callable, *arguments) -> None:
        """One refused event is told and passed over, or it would hold up all that come after it."""
        try:
            call(*arguments)
        except Refused as error:
            sentence = f"MLflow refused {what}: {error}"
            if sentence not in self.refusals:
                self._say(sentence)
            self.refusals.append(sentence)

    def _id(self, scope: str, event: dict) -> str:
        """The server's run of a scope, begun with its parents when it is new."""
        mark = self.bookmark
        if scope not in mark.ids:
            parent = "" if scope == "" else self._id(scope.rpartition("/")[0], event)
            mark.ids[scope] = self.server.begin(mark.experiment, mark.run, scope, parent, _milliseconds(event))
            mark.open.append(scope)
        return mark.ids[scope]

    def _batch(self, event: dict) -> Batch:
        return self._batches.setdefault(self._id(event["scope"], event), Batch())

    def _on_run_start(self, event: dict, offset: int) -> None:
        mark = self.bookmark
        for scope in reversed(mark.open):  # a run that was killed could not end itself
            self._patiently(f"end of {scope}", self.server.end, mark.ids[scope], "KILLED", mark.clock)
        experiment = self.server.experiment(event["study"], notes.experiment(event.get("config") or {}))
        self.bookmark = Bookmark(mark.offset, event["study"], experiment, event["run"], offset, _milliseconds(event))
        config = event.get("config") or {}
        self._batch(event | {"scope": ""}).params.update(flatten(config))
        self.server.config(self._id("", event), config, "study.yaml")

    def _on_run_end(self, event: dict, offset: int) -> None:
        mark = self.bookmark
        self._patiently("the view of pictures", self.server.pictures, mark.experiment, self._id("", event), mark.clock)
        for scope in reversed(list(self.bookmark.open)):
            self._on_scope_end(event | {"scope": scope}, offset)

    def _on_scope_start(self, event: dict, offset: int) -> None:
        self._id(event["scope"], event)

    def _on_scope_end(self, event: dict, offset: int) -> None:
        mark, scope = self.bookmark, event["scope"]
        self._id(scope, event)
        for ended in [s for s in reversed(mark.open) if s == scope or s.startswith(f"{scope}/")]:
            self.server.end(mark.ids[ended], STATUS.get(event["status"], "FAILED"), _milliseconds(event))
            mark.open.remove(ended)

    def _on_params(self, event: dict, offset: int) -> None:
        params = self._batch(event).params
        for name, value in flatten(event["params"]).items():
            params.setdefault(name, value)

    def _on_metrics(self, event: dict, offset: int) -> None:
        clock, step = _milliseconds(event), int(event.get("step", 0))
        self._batch(event).metrics.extend((name, float(v), clock, step)
                                          for name, v in event["metrics"].items() if v is not None)  # fmt: skip

    def _on_series(self, event: dict, offset: int) -> None:
        clock, steps = _milliseconds(event), event.get("steps") or range(len(event["values"]))
        self._batch(event).metrics.extend((event["name"], float(v), clock, int(step))
                                          for step, v in zip(steps, event["values"]) if v is not None)  # fmt: skip

    def _on_finding(self, event: dict, offset: int) -> None:
        finding, clock = event["finding"], _milliseconds(event)
        name = finding["name"]
        values = {name: finding["value"], f"{name}/low": finding["low"], f"{name}/high": finding["high"],
                  f"{name}/passed": finding["passed"]}  # fmt: skip
        self._batch(event).metrics.extend((n, float(v), clock, 0) for n, v in values.items() if v is not None)
        self._verdicts_due = True
        if event.get("used", True):  # the study's row of the table of runs
            inner = "" if "used" in event else event["scope"].partition("/")[2]
            summary = (f"{inner}/{name}" if inner else name, float(finding["value"]), clock, 0)
            self._batch(event | {"scope": ""}).metrics.append(summary)

    def _on_tags(self, event: dict, offset: int) -> None:
        self._batch(event).tags.update({k: str(v) for k, v in event["tags"].items()})

    def _on_figure(self, event: dict, offset: int) -> None:
        """In its stage's artifacts, and among the images of the whole run, which can be compared with those of others."""
        path = self._upload(event, "figures")
        mark = f"{self.bookmark.run}@{offset}"
        self.server.image(
            self._id("", event), path, str(Path(event["path"]).with_suffix("")), mark, _milliseconds(event)
        )

    def _on_artifact(self, event: dict, offset: int) -> None:
        self._upload(event, "")

    def _upload(self, event: dict, folder: str) -> Path:
        path = self.folder / event["path"]
        if not path.exists():
            raise Refused(f"{event['path']} is no longer in {self.folder}.")
        self.server.upload(self._id(event["scope"], event), path, folder)
        return path

    def _on_dataset(self, event: dict, offset: int) -> None:
        for scope in {event["scope"], ""}:
            self.server.dataset(self._id(scope, event), event, self.folder / event["path"])

    def _on_model(self, event: dict, offset: int) -> None:
        path = self.folder / event["path"]
        if not (path / "emulator.json").exists():
            raise Refused(f"{event['path']} of {self.folder} no longer holds an emulator.")
        ids, mark = (self._id(event["scope"], event), self._id("", event)), f"{self.bookmark.run}@{offset}"
        self.server.model(self.bookmark.experiment, ids, event, path, mark, _milliseconds(event))

    def _log_verdicts(self) -> None:
        """The table of all findings of the run, on its first page and as a file."""
        found = self._findings(self.bookmark.start)
        rows = list({(e["scope"], e["finding"]["name"]): (e["scope"], e["finding"]) for e in found}.values())
        passed = sum(f["passed"] for _, f in rows)
        id = self._id("", found[0])
        self._batches.setdefault(id, Batch()).tags.update({
            "findings": f"{passed} of {len(rows)} passed", "mlflow.note.content": notes.run(rows)})  # fmt: skip
        self.server.text(id, notes.findings_csv(rows), "findings.csv")
        own = [e["finding"] for e in found if e.get("used", True)]
        columns = [*_HEADLINES, *(f["name"] for f in own if f.get("blocking", True))]
        self.server.view(self.bookmark.experiment, list(dict.fromkeys(columns)), self.bookmark.clock)


_CHEAP = ("params", "metrics", "series", "finding", "tags")  # events that wait for a common call


def flatten(values: dict, prefix: str = "") -> dict[str, Any]:
    """Nested settings as one level of dotted names, without empty ones; lists of plain values stay one value.

    >>> flatten({"train": {"emulators": [{"use": "gp"}], "sizes": [1, 2], "device": None}})
    {'train.emulators.0.use': 'gp', 'train.sizes': '[1, 2]'}
    """
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, list) and any(isinstance(v, dict | list) for v in value):
            value = {str(i): v for i, v in enumerate(value)}
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        elif value not in (None, "", []):
            flat[f"{prefix}{name}"] = str(value) if isinstance(value, list) else value
    return flat


def _milliseconds(event: dict) -> int:
    return round(datetime.fromisoformat(event["time"]).timestamp() * 1000)
