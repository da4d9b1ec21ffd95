"""MLflow as a projection of a study's journal. The only file that imports mlflow, and only when there is work for it.

`sync` replays what is not logged yet, `download_model` answers `emulate.load("models:/name@alias")`, `ui` opens the
pages on this machine. Every call names its run: there is no active run and no global address.
"""

import atexit
import contextlib
import fcntl
import functools
import getpass
import hashlib
import json
import logging
import math
import os
import re
import shutil
import tempfile
import uuid
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from importlib import metadata
from pathlib import Path

from emulate.errors import EmulateError, InputError, nearest
from pipelines import notes, views
from pipelines.addresses import LOOPBACK, database, page, redact, resolve, silence
from pipelines.journal import NAME, Journal
from pipelines.pages import ui
from pipelines.replay import Batch, Bookmark, Refused, Replay, Unreachable
from pipelines.terminal import count

__all__ = ["Synced", "download_model", "pack", "sync", "ui"]

STATE = "tracking.json"
_ENVIRONMENT = {  # read by mlflow when it is imported
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # the journal is what retries
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # else every ended run prints two lines
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_UV_AUTO_DETECT": "false",  # or the user's own uv project ends up in the model
}
_START = "Start that server, or set MLFLOW_TRACKING_URI to another; `emulate doctor STUDY.yaml` looks at a study's."
_DELETED_TOO = 3  # mlflow's ViewType.ALL: a run that was deleted on purpose does not come back
_LATER = (401, 403, 408, 409, 429)  # client errors that time or a log-in may heal
_NOTE, _NOTED = "mlflow.note.content", "mlflow.note.digest"  # what a page shows, and of what was last written there
_COLUMNS = 10  # metrics in that view
_SCHEMA = 1_000_000  # characters that a database has room for
_THUMBNAIL = 900  # pixels of the longer side
_SERVED_BY = ("torch", "gpytorch", "numpy", "pandas", "scipy", "safetensors", "mlflow")


@dataclass(frozen=True)
class Synced:
    """What a sync did: events logged now, events still waiting, a sentence, and the run's page on its server, or on that which
    `emulate ui` starts for a database."""

    logged: int
    pending: int
    sentence: str
    link: str = ""


def sync(folder: Path, uri: str = "", *, on_message: Callable[[str], None] | None = None) -> Synced:
    """Log the events of `<folder>/journal.jsonl` that the server at `uri` does not have yet.

    A server that does not answer is no error: the sentence says so and the events wait. The state of each address
    lies in `<folder>/tracking.json`; without it all is replayed, onto the runs that are there. Raises InputError for
    an address that can never work.
    """
    folder, address = Path(folder).absolute(), resolve(uri)
    journal, where = Journal(folder / NAME), redact(address)
    states = _read_states(folder / STATE)
    bookmark = _bookmark(states.get(where, {}), journal, address)
    events = journal.read(after=bookmark.offset)
    if not events:
        return Synced(0, 0, f"{where} holds all events of {folder}.", _link(address, bookmark))

    def save(mark: Bookmark) -> None:
        _write(folder / STATE, _read_states(folder / STATE) | {where: mark.to_dict()})

    replay = None
    try:
        if reason := silence(address):
            raise Unreachable(reason)
        server = _Server(address)
        if not server.knows(bookmark):  # a new database at the old address
            bookmark = Bookmark()
            events = journal.read()
        findings = functools.partial(_findings, journal)
        replay = Replay(server, folder, bookmark, findings=findings, save=save, say=on_message or (lambda _: None))
        replay.play(events)
    except Unreachable as error:
        reached = replay.bookmark.offset if replay else bookmark.offset
        waiting = sum(offset > reached for offset, _ in events)
        wait = f"{count(waiting, 'event')} {'waits' if waiting == 1 else 'wait'}"
        sentence = (f"{where} did not answer ({redact(str(error)).rstrip('.')}); {wait} in "
                    f"{journal.path}; `emulate sync STUDY.yaml` logs them later.")  # fmt: skip
        return Synced(len(events) - waiting, waiting, sentence)
    refused = f" MLflow refused {len(replay.refusals)} of them, first: {replay.refusals[0]}" if replay.refusals else ""
    sentence = f"{count(len(events), 'event')} {'was' if len(events) == 1 else 'were'} logged in {where}.{refused}"
    return Synced(len(events), 0, sentence, _link(address, replay.bookmark))


def download_model(uri: str, tracking_uri: str = "") -> Path:
    """The local folder of the emulator behind `models:/name@alias`, `models:/name/version` or `runs:/id/emulator`.

    Looks at `tracking_uri`, else $MLFLOW_TRACKING_URI, else `mlflow.db` of this folder. Nothing of the model is run.
    Raises InputError, saying what exists, when there is no such model.
    """
    address = resolve(tracking_uri)
    where = redact(address)
    if (file := database(address)) and not file.exists():
        raise InputError(f"{uri!r} was looked up in {where}, which does not exist; "
                         f"set MLFLOW_TRACKING_URI to where the model was logged.")  # fmt: skip
    if reason := silence(address):
        raise InputError(f"{uri!r} was looked up in {where}, which did not answer ({reason}). {_START}")
    client = _client(address)
    try:
        with _translated():
            return _download(client, uri, address)
    except Unreachable as error:
        raise InputError(
            f"{uri!r} was looked up in {where}, which did not answer ({redact(str(error))}). {_START}"
        ) from None
    except Refused as error:
        raise InputError(f"{where} has no {uri!r} ({redact(str(error)).rstrip('.')}); "
                         f"{_models_there(client, uri)}") from None  # fmt: skip


def _download(client, uri: str, address: str) -> Path:
    import mlflow.artifacts

    place, into = _place(client, uri), None
    if not place.startswith("file:"):  # what lies on this machine is read where it is
        into = tempfile.mkdtemp(prefix="emulate-model-")
        atexit.register(shutil.rmtree, into, ignore_errors=True)
    folder = Path(mlflow.artifacts.download_artifacts(place, dst_path=into, tracking_uri=address))
    found = sorted(folder.rglob("emulator.json"))
    if len(found) != 1:
        raise Refused(f"it holds {len(found)} emulators in place of one")
    return found[0].parent


def _place(client, uri: str) -> str:
    """Where the files of a model lie: mlflow itself would look for models:/ and runs:/ at its global address."""
    if match := re.fullmatch(r"models:/([^/@]+)@([^/@]+)", uri):
        version = client.get_model_version_by_alias(*match.groups()).version
        return client.get_model_version_download_uri(match[1], version)
    if match := re.fullmatch(r"models:/([^/@]+)/(\d+)", uri):
        return client.get_model_version_download_uri(*match.groups())
    if match := re.fullmatch(r"runs:/(\w+)(?:/([^/]+))?", uri):
        outputs = client.get_run(match[1]).outputs.model_outputs
        models = {m.name: m for m in (client.get_logged_model(o.model_id) for o in outputs)}
        chosen = models if match[2] is None else {n: m for n, m in models.items() if n == match[2]}
        if len(chosen) != 1:
            raise Refused(f"the run must be asked for one of its models: {', '.join(models) or 'it has none'}")
        return chosen.popitem()[1].artifact_location
    raise Refused("the address must be models:/NAME@ALIAS, models:/NAME/VERSION or runs:/ID/EMULATOR")


def _models_there(client, uri: str) -> str:
    """What could have been meant, for the end of a sentence."""
    with _translated():
        models = {m.name: m for m in client.search_registered_models()}
    if not models:
        return "it has no registered model yet; `emulate run STUDY.yaml` registers one."
    name = re.split(r"[@/]", uri.removeprefix("models:/"))[0]
    if name not in models:
        return f"it has {', '.join(sorted(models))}.{nearest(name, models)}"
    with _translated():
        versions = client.search_model_versions(f"name = '{name}'")
    aliases: dict[int, list[str]] = {}
    for alias, version in models[name].aliases.items():
        aliases.setdefault(int(version), []).append(alias)
    numbers = sorted(int(v.version) for v in versions)
    return f"{name} has {', '.join(' @'.join([f'version {n}', *aliases.get(n, ())]) for n in numbers)}."


class _Server:
    """One MLflow server; every method may be called again with the same values and then changes nothing."""

    def __init__(self, address: str):
        self.address = address
        with _translated():
            self.client = _client(address)

    def knows(self, mark: Bookmark) -> bool:
        """Whether the runs of the bookmark are there, or nothing was logged yet."""
        if not mark.experiment:
            return True
        with _translated():
            found = self.client.get_experiment_by_name(mark.study)
            if found is None or found.experiment_id != mark.experiment:
                return False
        return _run_of(self.client, mark.experiment, mark.run, "") == mark.ids.get("")

    def experiment(self, name: str, note: str) -> str:
        with _translated(never=Unreachable):
            found = self.client.get_experiment_by_name(name)
            if found is None:
                file = database(self.address)
                place = (file.parent / "mlartifacts").as_uri() if file else None
                tags = {"mlflow.experimentKind": "custom_model_development", _NOTE: note, _NOTED: _mark(note)}
                return self.client.create_experiment(name, place, tags)
            if found.lifecycle_stage != "active":
                raise Unreachable(
                    f"its experiment {name!r} was deleted; restore it there, or give the study another name"
                )
            there = found.tags.get(_NOTE, "")
            if there == note or _mark(there) == found.tags.get(_NOTED, _mark("")):  # what somebody wrote by hand stays
                for key, value in ((_NOTE, note), (_NOTED, _mark(note))):
                    self.client.set_experiment_tag(found.experiment_id, key, value)
        return found.experiment_id

    def begin(self, experiment: str, run: str, scope: str, parent: str, clock: int) -> str:
        with _translated(never=Unreachable):  # passing over a run would lose all that belongs to it
            if found := _run_of(self.client, experiment, run, scope):
                return found
            tags = {"emulate.run": run, "emulate.scope": scope or "/", "mlflow.user": _user(),
                    "mlflow.source.name": "emulate", "mlflow.source.type": "LOCAL"}  # fmt: skip
            if parent:
                tags["mlflow.parentRunId"] = parent
            name = scope or f"{datetime.fromtimestamp(clock / 1000):%Y-%m-%d %H:%M:%S}"
            return self.client.create_run(experiment, clock, tags, name).info.run_id

    def end(self, id: str, status: str, clock: int) -> None:
        with _translated():
            self.client.set_terminated(id, status, clock)

    def log(self, id: str, batch: Batch) -> None:
        from mlflow.entities import Metric, Param, RunTag

        tags = {k if k.startswith("mlflow.") else n: v for (k, v), n in zip(batch.tags.items(), names(batch.tags))}
        known = dict(zip({m[0]: 0 for m in batch.metrics}, names({m[0]: 0 for m in batch.metrics})))
        metrics = []
        for name, value, clock, step in batch.metrics:
            if math.isinf(value):  # the databases would keep 1.8e308
                tags[f"{known[name]} is"] = str(value)
                value = math.nan
            metrics.append(Metric(known[name], value, clock, step))
        params = [Param(n, str(v)) for n, v in zip(names(batch.params), batch.params.values())]
        with _translated():
            for part in _parts(metrics, 1000):
                self.client.log_batch(id, metrics=part)
            for part in _parts([RunTag(k, v) for k, v in tags.items()], 100):
                self.client.log_batch(id, tags=part)
        self._log_params(id, params)

    def _log_params(self, id: str, params: list) -> None:
        with _translated():
            there = self.client.get_run(id).data.params if params else {}
        new = [p for p in params if p.key not in there]
        with _translated():
            for part in _parts(new, 100):
                self.client.log_batch(id, params=part)
        for p in params:
            if p.key in there and there[p.key] != p.value:
                raise Refused(f"{p.key} is {there[p.key]} already; {p.value} stays in the journal only.")

    def text(self, id: str, text: str, name: str) -> None:
        with _translated():
            self.client.log_text(id, text, name)

    def config(self, id: str, config: dict, name: str) -> None:
        with _translated():
            self.client.log_dict(id, config, name)

    def upload(self, id: str, path: Path, folder: str) -> None:
        with _translated():
            if path.is_dir():
                self.client.log_artifacts(id, str(path), f"{folder}/{path.name}".strip("/"))
            else:
                self.client.log_artifact(id, str(path), folder or None)

    def image(self, id: str, path: Path, key: str, mark: str, clock: int) -> None:
        """As `MlflowClient.log_image` would, but under the same name whenever it is called again."""
        from PIL import Image

        name = f"{key.replace('/', '~')}+step+0+timestamp+{clock}+{uuid.uuid5(uuid.NAMESPACE_URL, mark)}"
        with tempfile.TemporaryDirectory(prefix="emulate-") as folder:
            try:
                with Image.open(path) as picture:
                    picture.save(Path(folder) / f"{name}.png")
                    picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
                    picture.convert("RGB").save(Path(folder) / f"{name}+compressed.webp")
            except OSError as error:
                raise Refused(f"{path.name} is no picture ({error}).") from error
            with _translated():
                self.client.log_artifacts(id, folder, "images")
                self.client.set_tag(id, "mlflow.loggedImages", "True")

    def view(self, experiment: str, metrics: list[str], clock: int) -> None:
        """The view of the table of runs with verdict and these metrics as columns."""
        view = views.verdicts(names(dict.fromkeys(metrics[:_COLUMNS])), clock)
        with _translated():
            self.client.set_experiment_tag(experiment, views.TAG + views.VERDICTS, view)

    def pictures(self, experiment: str, id: str, clock: int) -> None:
        """The view of the pictures of the runs, those of this run added to those that it had."""
        tag = views.TAG + views.PICTURES
        with _translated():
            files = [Path(f.path).name for f in self.client.list_artifacts(id, "images") if f.path.endswith(".png")]
            if not files:
                return
            had = views.pictured(self.client.get_experiment(experiment).tags.get(tag, ""))
            drawn = sorted(files, key=lambda name: name.split("+")[4:5])  # by the clock that `image` wrote in it
            keys = [name.partition("+")[0].replace("~", "/") for name in drawn]
            self.client.set_experiment_tag(experiment, tag, views.pictures([*had, *keys], clock))

    def dataset(self, id: str, event: dict, path: Path) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        columns = [
            {"type": kind, "name": name, "required": True} for name, kind in (event.get("columns") or {}).items()
        ]
        schema = json.dumps({"mlflow_colspec": columns})
        data = Dataset(event["name"], str(event["digest"])[:16], "local", json.dumps({"uri": path.as_uri()}),
                       schema=schema if columns and len(schema) < _SCHEMA else None,
                       profile=json.dumps({"num_rows": event["rows"]}))  # fmt: skip
        with _translated():
            self.client.log_inputs(id, [DatasetInput(data, [InputTag("mlflow.data.context", event["scope"])])])

    def model(self, experiment: str, ids: tuple[str, str], event: dict, path: Path, mark: str, clock: int) -> None:
        from mlflow.entities import LoggedModelOutput, Metric

        name, passed, id = event["name"], bool(event.get("findings_passed")), ids[0]
        emulator = str(event.get("emulator", ""))
        text = event.get("note") or f"The emulator {emulator}."
        tags = {"emulator": emulator, "findings_passed": str(passed).lower(), "emulate.event": mark}
        with _translated():
            logged = self._logged_model(experiment, id, event, path, tags)
            # the place and not models:/ID, which a database would look up at mlflow's global address
            place = self.client.get_logged_model(logged).artifact_location
            for run in ids:  # that of the emulator, and that of the whole study, whose row of the table then names it
                if not any(m.model_id == logged for m in self.client.get_run(run).outputs.model_outputs):
                    self.client.log_outputs(run, [LoggedModelOutput(logged, 0)])
            metrics = {k: float(v) for k, v in (event.get("metrics") or {}).items() if v is not None}
            scores = [Metric(n, v, clock, 0, logged) for n, v in zip(names(metrics), metrics.values())]
            for part in _parts([s for s in scores if math.isfinite(s.value)], 1000):
                self.client.log_batch(id, metrics=part)
            if not self.client.search_registered_models(f"name = '{name}'"):
                self.client.create_registered_model(name, description=notes.model(name))
            versions = self.client.search_model_versions(f"name = '{name}'")
            known = [v for v in versions if v.tags.get("emulate.event") == mark and v.run_id == id]
            version = known[0] if known else self.client.create_model_version(
                name, place, id, tags, description=text, model_id=logged)  # fmt: skip
            listed = json.dumps([{"name": name, "version": int(version.version)}])
            self.client.set_logged_model_tags(logged, {"mlflow.modelVersions": listed})
            for alias in event.get("aliases") or ():
                self.client.set_registered_model_alias(name, alias, version.version)
            if "champion" in (event.get("aliases") or ()):
                self._retire_challenger(name, version)

    def _retire_challenger(self, name: str, champion) -> None:
        """A challenger of an earlier run has lost to a new champion; the runner-up of the same run stays."""
        aliases = self.client.get_registered_model(name).aliases
        if (old := aliases.get("challenger")) is None or int(old) >= int(champion.version):
            return
        runs = [v.tags.get("emulate.event", "").partition("@")[0]
                for v in (champion, self.client.get_model_version(name, str(old)))]  # fmt: skip
        if runs[0] != runs[1]:
            self.client.delete_registered_model_alias(name, "challenger")

    def _logged_model(self, experiment: str, id: str, event: dict, path: Path, tags: dict) -> str:
        mark = tags["emulate.event"]
        found = [m for m in self.client.search_logged_models([experiment], f"tags.`emulate.event` = '{mark}'")
                 if m.source_run_id == id]  # fmt: skip
        model = found[0] if found else self.client.create_logged_model(
            experiment, event.get("emulator") or event["name"], id, tags | {_NOTE: event.get("note") or ""},
            model_type="emulator")  # fmt: skip
        if str(model.status) != "READY":
            with tempfile.TemporaryDirectory(prefix="emulate-") as parent:
                pack(path, Path(parent) / "model", model.model_id)
                self.client.log_model_artifacts(model.model_id, str(Path(parent) / "model"))
            self.client.finalize_logged_model(model.model_id, "READY")
        return model.model_id


def pack(folder: Path, into: Path, model_id: str = "") -> None:
    """Write the emulator of `folder` as an MLflow model: its own files, `pyfunc.py`, a signature and an example."""
    import mlflow.pyfunc
    import pandas
    import torch
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    from emulate.loading import load

    try:
        emulator = load(folder)
    except EmulateError as error:  # damaged, or of a recipe that only the user's own code can load
        raise Refused(str(error)) from error
    space, labels = emulator.space, emulator.outputs.labels
    middle = space.from_unit(torch.full((1, space.d), 0.5, dtype=torch.float64))
    signature = ModelSignature(
        Schema([ColSpec("double", n) for n in space.names]),
        Schema([ColSpec("double", n) for n in (*labels, *(f"{n}_sd" for n in labels))]),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mlflow's advice on type hints and integer columns
        mlflow.pyfunc.save_model(
            str(into),
            python_model=str(Path(__file__).with_name("pyfunc.py")),
            artifacts={"emulator": str(folder)},
            signature=signature,
            input_example=pandas.DataFrame(middle.numpy(), columns=list(space.names)),
            # not emulate itself: a package index may hold a stranger's package of that name
            pip_requirements=[f"{name}=={metadata.version(name)}" for name in _SERVED_BY],
            metadata={"emulate_version": metadata.version("emulate"), "emulate_needed": "install emulate beside these"},
        )


def names(values: dict) -> list[str]:
    """The keys in MLflow's alphabet, distinct.

    >>> names({"pk[k=0.1] error": 0.1, "a(b)": 0.2, "a[b]": 0.3})
    ['pk_k_0.1 error', 'a_b-cce46e', 'a_b-26974b']
    """
    plain = ["/".join(filter(None, map(_plain_part, str(key).split("/")))) for key in values]
    return [p if p and len(p) <= 240 and (p == k or plain.count(p) == 1)
            else f"{p[:230]}-{hashlib.sha256(str(k).encode()).hexdigest()[:6]}".lstrip("-")
            for p, k in zip(plain, values)]  # fmt: skip


def _plain_part(part: str) -> str:
    return re.sub(r"_+(?= )", "", re.sub(r"[^\w\-. :]+", "_", part)).strip("_. ")


def _run_of(client, experiment: str, run: str, scope: str) -> str:
    """The server's id of a scope of one of the journal's runs, deleted or not; empty when there is none."""
    wanted = f"tags.`emulate.run` = '{run}' and tags.`emulate.scope` = '{scope or '/'}'"
    with _translated():
        found = client.search_runs([experiment], wanted, run_view_type=_DELETED_TOO, max_results=1)
    return found[0].info.run_id if found else ""


@functools.lru_cache(maxsize=4)
def _client(address: str):
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow.tracking import MlflowClient

    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if not (file := database(address)):
        return MlflowClient(address, address)
    file.parent.mkdir(parents=True, exist_ok=True)
    with _alone(file.parent):  # two that make the tables of one new database at once fail both
        return MlflowClient(address, address)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time; the operating system frees the lock when a process ends, however it ends."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def _translated(never: type[Exception] = Refused) -> Iterator[None]:
    """mlflow's errors as the two that matter: never, or later."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except MlflowException as error:
        status = error.get_http_status_code()
        kind = never if 400 <= status < 500 and status not in _LATER else Unreachable
        raise kind(redact(str(error.message))) from error
    except (OSError, SQLAlchemyError) as error:
        raise Unreachable(redact(str(error)) or type(error).__name__) from error


def _bookmark(state: dict, journal: Journal, address: str) -> Bookmark:
    """The saved bookmark, or a new one when the database or the journal is not the one it was made for."""
    mark = Bookmark(**state)
    file = database(address)
    gone = file is not None and not file.exists()
    shrunk = mark.offset > (journal.path.stat().st_size if journal.path.exists() else 0)
    return Bookmark() if gone or shrunk else mark


def _findings(journal: Journal, start: int) -> list[dict]:
    return [event for _, event in journal.read(after=start) if event["event"] == "finding"]


def _read_states(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):  # all is replayed then, onto the runs that are there
        return {}


def _write(path: Path, states: dict) -> None:
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(states, indent=1))
    os.replace(part, path)


def _link(address: str, mark: Bookmark) -> str:
    site = address if address.startswith("http") else LOOPBACK if database(address) else ""
    return page(site, "experiments", mark.experiment, "runs", mark.ids[""]) if site and mark.ids.get("") else ""


def _mark(note: str) -> str:
    return hashlib.sha256(note.encode()).hexdigest()[:16]


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without a user table
        return ""


def _parts(items: list, size: int) -> list[list]:
    return [items[i : i + size] for i in range(0, len(items), size)]
