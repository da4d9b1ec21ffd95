"""Journals as the stages write them, and what a tracking server makes of them."""

import io
import math
import shutil
import socket
from pathlib import Path

from PIL import Image

from pipelines import tracking
from pipelines.journal import Journal


def picture(width: int = 1200, height: int = 600) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), "steelblue").save(file, "PNG")
    return file.getvalue()


PICTURE = picture()


def finding(name, value, low, high, blocking=True):
    passed = math.isfinite(value) and (low is None or value >= low) and (high is None or value <= high)
    return {"name": name, "value": value, "low": low, "high": high, "sentence": f"About the {name}.", "figure": "",
            "blocking": blocking, "passed": passed}  # fmt: skip


def write_study(folder, run="run1", *, study="quick", ends=True, model=None, alias="champion"):
    """A journal with every event there is, as the stages write it."""
    files = {"simulate/runs.csv": b"a,y\n1,2\n", "validate/error.png": PICTURE, "report/index.html": b"<p>x"}
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    note = Journal(folder / "journal.jsonl").append
    config = {"name": "quick", "design": {"use": "sobol", "runs": 8}, "emulators": [{"use": "gp"}], "off": None}
    note("run_start", run=run, study=study, config=config)
    note("scope_start", "simulate")
    note("params", "simulate", params={"simulator": "linear_gaussian", "widths": [1, 2]})
    note("metrics", "simulate", metrics={"finished": 8, "share %": 0.5, "pk[k=0.1] error": math.inf, "none": None})
    note("dataset", "simulate", name="quick-runs", digest="ab" * 32, path="simulate/runs.csv", rows=8,
         columns={"a": "double", "y": "double"})  # fmt: skip
    note("scope_end", "simulate", status="done")
    note("scope_start", "train")
    note("scope_start", "train/gp")
    note("series", "train/gp", name="loss", values=[math.exp(-i) for i in range(1200)])
    note("series", "infer", name="rhat", values=[1.5, 1.1, 1.0], steps=[10, 20, 30])
    if not ends:
        return folder
    note("scope_end", "train/gp", status="failed")
    note("scope_end", "train", status="done")
    note("finding", "validate/gp", finding=finding("coverage", 0.7, 0.6, 0.76))
    note("finding", "validate/gp", finding=finding("shift", math.nan, None, 0.3))
    note("figure", "validate", path="validate/error.png")
    if model:
        shutil.copytree(model, folder / "emulators/gp", dirs_exist_ok=True)
        note("model", "train/gp", name=study, path="emulators/gp", emulator="gp", aliases=[alias] if alias else [],
             metrics={"coverage": 0.7, "shift": math.nan}, findings_passed=alias == "champion", note="About gp.")  # fmt: skip
    note("artifact", "report", path="report/index.html")
    note("tags", "", tags={"verdict": "failed"})
    note("run_end", status="interrupted")
    return folder


def contents(address: str, study: str = "quick") -> dict:
    """All that a server holds of a study, without its own ids."""
    client = tracking._client(address)
    experiment = client.get_experiment_by_name(study)
    runs = client.search_runs([experiment.experiment_id])
    who = {r.info.run_id: (r.data.tags["emulate.run"], r.data.tags["emulate.scope"]) for r in runs}
    assert len(set(who.values())) == len(runs), "a run was made twice"

    def files(id, path=None):
        for f in client.list_artifacts(id, path):
            yield from files(id, f.path) if f.is_dir else [(f.path, f.file_size)]

    held = {}
    for r in runs:
        tags = {k: who.get(v, v) for k, v in r.data.tags.items()}
        history = {(m.key, repr(m.value), m.timestamp, m.step)
                   for k in r.data.metrics for m in client.get_metric_history(r.info.run_id, k)}  # fmt: skip
        points = sum(len(client.get_metric_history(r.info.run_id, k)) for k in r.data.metrics)
        assert points == len(history)
        data = [(d.dataset.name, d.dataset.digest, d.dataset.profile) for d in r.inputs.dataset_inputs]
        held[who[r.info.run_id]] = (
            (r.info.status, r.info.start_time, r.info.end_time, r.data.params, tags, history, data),
            (sorted(files(r.info.run_id)), len(r.outputs.model_outputs)),
        )
    versions = client.search_model_versions(f"name = '{study}'")
    models = sorted((int(v.version), v.tags["emulate.event"], who[v.run_id], v.status) for v in versions)
    found = client.search_registered_models(f"name = '{study}'")
    return {"runs": held, "models": models, "aliases": {a: int(v) for m in found for a, v in m.aliases.items()},
            "logged": len(client.search_logged_models([experiment.experiment_id]))}  # fmt: skip


def run_of(address: str, scope: str, run: str = "run1"):
    client = tracking._client(address)
    experiment = client.get_experiment_by_name("quick").experiment_id
    return client.get_run(tracking._run_of(client, experiment, run, scope))


def copy_of(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    return to


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
