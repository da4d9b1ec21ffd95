"""MLflow is a projection of the journal: complete, once, whatever dies in between."""

import http.server
import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from emulate.errors import InputError
from emulate.loading import load
from pipelines import tracking, views
from pipelines.addresses import page, redact, resolve, silence
from pipelines.journal import Journal
from pipelines.pages import ui
from tests.journals import PICTURE, closed_port, contents, copy_of, finding, run_of, write_study

ROOT = Path(__file__).parents[2]


def test_every_event_arrives(place, trained):
    folder = write_study(place / "study", model=trained)
    address = f"sqlite:///{place}/mlflow.db"
    events = len(Journal(folder / "journal.jsonl").read())
    synced = tracking.sync(folder)
    assert (synced.logged, synced.pending) == (events, 0)
    assert synced.sentence == f"{events} events were logged in {address}."

    parent, simulate, gp, validate = (run_of(address, s) for s in ("", "simulate", "train/gp", "validate/gp"))
    assert parent.data.params == {"name": "quick", "design.use": "sobol", "design.runs": "8", "emulators.0.use": "gp"}
    assert (parent.info.status, simulate.info.status, gp.info.status) == ("KILLED", "FINISHED", "FAILED")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", parent.info.run_name)
    assert synced.link == page("http://127.0.0.1:5000", "experiments", "1", "runs", parent.info.run_id)
    assert gp.info.run_name == "train/gp"
    assert gp.data.tags["mlflow.parentRunId"] == run_of(address, "train").info.run_id
    assert simulate.data.params == {"simulator": "linear_gaussian", "widths": "[1, 2]"}
    assert simulate.data.metrics["finished"] == 8
    assert simulate.data.metrics["share"] == 0.5
    assert math.isnan(simulate.data.metrics["pk_k_0.1 error"])  # infinity is no number to plot
    assert simulate.data.tags["pk_k_0.1 error is"] == "inf"
    (used,) = simulate.inputs.dataset_inputs
    assert (used.dataset.name, json.loads(used.dataset.source)) == (
        "quick-runs", {"uri": f"file://{folder}/simulate/runs.csv"})  # fmt: skip

    history = tracking._client(address).get_metric_history(gp.info.run_id, "loss")
    assert [m.value for m in sorted(history, key=lambda m: m.step)] == [math.exp(-i) for i in range(1200)]
    bounds = {"coverage": 0.7, "coverage/low": 0.6, "coverage/high": 0.76, "coverage/passed": 1.0, "shift/high": 0.3,
              "shift/passed": 0.0}  # fmt: skip
    assert {k: v for k, v in validate.data.metrics.items() if k != "shift"} == bounds
    assert parent.data.metrics["gp/coverage"] == 0.7
    assert parent.data.tags["findings"] == "1 of 2 passed"
    assert parent.data.tags["verdict"] == "failed"
    note = parent.data.tags["mlflow.note.content"].splitlines()
    assert note[0] == "1 of 2 findings passed. What blocks: shift."
    assert note[4:] == [
        "| FAILED | validate/gp: shift | nan | at most 0.3 | About the shift. |",
        "| passed | validate/gp: coverage | 0.7 | 0.6 to 0.76 | About the coverage. |",
    ]
    table = Path(parent.info.artifact_uri.removeprefix("file://")) / "findings.csv"
    assert table.read_text().splitlines()[1:] == [
        "passed,validate/gp,coverage,0.7,0.6,0.76,About the coverage.",
        "FAILED,validate/gp,shift,nan,,0.3,About the shift.",
    ]
    mixing = tracking._client(address).get_metric_history(run_of(address, "infer").info.run_id, "rhat")
    assert {m.step: m.value for m in mixing} == {10: 1.5, 20: 1.1, 30: 1.0}
    assert json.loads(used.dataset.schema)["mlflow_colspec"] == [
        {"type": "double", "name": name, "required": True} for name in ("a", "y")
    ]
    figures = run_of(address, "validate").info.artifact_uri.removeprefix("file://")
    assert (Path(figures) / "figures/error.png").read_bytes() == PICTURE
    assert Path(figures).is_relative_to(place / "mlartifacts")


def test_the_pictures_of_the_stages_are_images_of_the_whole_run(place):
    """Under the names by which MLflow's own `log_image` tells key, step and time, so that its pages show them in a grid."""
    folder = write_study(place / "study")
    address = f"sqlite:///{place}/mlflow.db"
    tracking.sync(folder)
    parent = run_of(address, "")
    assert parent.data.tags["mlflow.loggedImages"] == "True"
    images = sorted((Path(parent.info.artifact_uri.removeprefix("file://")) / "images").iterdir())
    name = r"validate~error\+step\+0\+timestamp\+\d{13}\+[0-9a-f-]{36}"
    assert [bool(re.fullmatch(name + end, i.name)) for i, end in zip(images, (r"\+compressed\.webp", r"\.png"))] == [
        True,
        True,
    ]
    assert [Image.open(i).size for i in images] == [(900, 450), (1200, 600)]
    events = Journal(folder / "journal.jsonl").read()
    (time,) = [e["time"] for _, e in events if e["event"] == "figure"]
    assert str(round(tracking.datetime.fromisoformat(time).timestamp() * 1000)) in images[0].name
    client = tracking._client(address)
    client.log_image(parent.info.run_id, Image.open(images[1]), key="validate/error")
    theirs = [f.path for f in client.list_artifacts(parent.info.run_id, "images")]
    assert all(re.fullmatch(rf"images/{name}(\.png|\+compressed\.webp)", path) for path in theirs), theirs
    assert len(theirs) == 4


def test_a_figure_that_is_no_picture_does_not_hold_up_the_others(place):
    folder, told = write_study(place / "study"), []
    (folder / "validate/error.png").write_text("no picture")
    assert tracking.sync(folder, on_message=told.append).pending == 0
    assert [t.split(" (")[0] for t in told] == ["MLflow refused figure validate: error.png is no picture"]


def test_the_experiment_says_what_it_is_until_somebody_says_it_better(place):
    folder, address = write_study(place / "study"), f"sqlite:///{place}/mlflow.db"
    tracking.sync(folder)
    client = tracking._client(address)
    note = lambda: client.get_experiment_by_name("quick").tags["mlflow.note.content"]  # noqa: E731
    assert "8 to train on (sobol)" in note()
    journal = Journal(folder / "journal.jsonl")
    config = {"name": "quick", "design": {"use": "halton", "runs": 9}}
    journal.append("run_start", run="run2", study="quick", config=config)
    tracking.sync(folder)
    assert "9 to train on (halton)" in note(), "what was written from here is written again"
    client.set_experiment_tag("1", "mlflow.note.content", "Mine.")
    journal.append("run_start", run="run3", study="quick", config={"name": "quick"})
    tracking.sync(folder)
    assert note() == "Mine."


def test_the_view_of_verdicts_has_the_findings_as_columns(place):
    tracking.sync(write_study(place / "study"))
    tags = tracking._client(f"sqlite:///{place}/mlflow.db").get_experiment_by_name("quick").tags
    view = json.loads(tags["mlflow.sharedViewState.emulate"])
    assert view["name"] == "Verdicts"
    assert json.loads(view["state"])["selectedColumns"] == [
        "tags.`verdict`", "tags.`findings`", "tags.`emulator`", "metrics.`held_out/median`", "metrics.`bias`",
        "metrics.`coverage`", "metrics.`shift`"]  # fmt: skip


def test_the_view_of_pictures_has_those_of_every_run_without_their_parameters(place):
    folder = write_study(place / "study")
    tracking.sync(folder)
    experiment = lambda: tracking._client(f"sqlite:///{place}/mlflow.db").get_experiment_by_name("quick")  # noqa: E731
    view = lambda: experiment().tags["mlflow.sharedViewState.emulate-pictures"]  # noqa: E731
    assert views.pictured(view()) == ["validate/error"]
    note = Journal(folder / "journal.jsonl").append
    note("run_start", run="run2", study="quick", config={"name": "quick"})
    for name in ("train/loss", "check/corner"):  # not in the order of the alphabet
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / f"{name}.png").write_bytes(PICTURE)
        note("figure", name.partition("/")[0], path=f"{name}.png")
        time.sleep(0.005)  # MLflow's clock has milliseconds
    note("run_end", status="done")
    tracking.sync(folder)
    assert views.pictured(view()) == ["validate/error", "train/loss", "check/corner"]
    state = json.loads(json.loads(view())["state"])
    assert [s["name"] for s in state["compareRunSections"]] == ["validate", "train", "check"]
    assert not any(chart["showRunParams"] for chart in state["compareRunCharts"])


def test_a_view_of_more_pictures_than_a_tag_has_room_for_shows_the_first():
    keys = [f"train/{n:03d}" for n in range(200)]
    view = views.pictures(keys, 0)
    assert len(view) <= 5000
    assert 10 < len(views.pictured(view)) < 200
    assert views.pictured(view) == keys[: len(views.pictured(view))]


def test_the_row_of_a_study_has_the_findings_of_the_emulator_that_is_used_under_their_own_names(place):
    folder = write_study(place / "study", ends=False)
    note = Journal(folder / "journal.jsonl").append
    note("finding", "validate/gp", finding=finding("coverage", 0.7, 0.6, 0.76), used=True)
    note("finding", "validate/mlp", finding=finding("coverage", 0.5, 0.6, 0.76, False), used=False)
    tracking.sync(folder)
    metrics = run_of(f"sqlite:///{place}/mlflow.db", "").data.metrics
    assert metrics == {"coverage": 0.7}, "that of another emulator stands in its own run alone"
    assert run_of(f"sqlite:///{place}/mlflow.db", "validate/mlp").data.metrics["coverage"] == 0.5


def test_the_times_are_those_of_the_events(place):
    folder = write_study(place / "study")
    tracking.sync(folder)
    events = [e for _, e in Journal(folder / "journal.jsonl").read()]
    parent = run_of(f"sqlite:///{place}/mlflow.db", "")
    stamps = [tracking.datetime.fromisoformat(events[i]["time"]).timestamp() * 1000 for i in (0, -1)]
    assert [parent.info.start_time, parent.info.end_time] == pytest.approx(stamps, abs=0.6)


def test_a_second_sync_has_nothing_to_do(place, trained):
    folder = write_study(place / "study", model=trained)
    address = f"sqlite:///{place}/mlflow.db"
    tracking.sync(folder)
    before = contents(address)
    again = tracking.sync(folder)
    assert (again.logged, again.pending, again.sentence) == (0, 0, f"{address} holds all events of {folder}.")
    (folder / "tracking.json").unlink()  # even without its memory nothing is logged twice
    assert tracking.sync(folder).pending == 0
    assert contents(address) == before


@pytest.mark.parametrize("point", ["before the state is written", "after a call"])
def test_a_crash_anywhere_logs_nothing_twice_and_loses_nothing(place, trained, monkeypatch, point):
    folder = write_study(place / "clean", model=trained)
    crashed = copy_of(folder, place / "crashed")
    truth, other = f"sqlite:///{place}/mlflow.db", f"sqlite:///{place}/other/mlflow.db"
    (place / "other").mkdir()
    shutil.copy(place / "mlflow.db", place / "other/mlflow.db")
    tracking.sync(folder, truth)

    class Killed(BaseException):
        pass

    left = [0]

    def mortal(method, before):
        def call(*arguments):
            if before and left[0] == 0:
                raise Killed
            result = method(*arguments)
            if not before and left[0] == 0:
                raise Killed
            left[0] -= 1
            return result

        return call

    if point == "after a call":
        for name in (
            "experiment",
            "begin",
            "end",
            "log",
            "text",
            "config",
            "upload",
            "image",
            "view",
            "dataset",
            "model",
        ):
            monkeypatch.setattr(tracking._Server, name, mortal(getattr(tracking._Server, name), before=False))
        lives = range(60)
    else:
        monkeypatch.setattr(tracking, "_write", mortal(tracking._write, before=True))
        lives = [0] + [1] * 40
    deaths = 0
    for life in lives:
        left[0] = life
        try:
            synced = tracking.sync(crashed, other)
        except Killed:
            deaths += 1
        else:
            break
    assert synced.pending == 0, synced.sentence
    assert deaths > 5
    assert contents(other) == contents(truth)


def test_a_killed_run_is_marked_by_the_next_one(place):
    folder = write_study(place / "study", "first", ends=False)
    address = f"sqlite:///{place}/mlflow.db"
    tracking.sync(folder)
    assert [run_of(address, s, "first").info.status for s in ("", "train", "train/gp")] == ["RUNNING"] * 3
    last = Journal(folder / "journal.jsonl").read()[-1][1]["time"]
    write_study(folder, "second")
    tracking.sync(folder)
    killed = [run_of(address, s, "first").info for s in ("", "train", "train/gp")]
    assert [k.status for k in killed] == ["KILLED"] * 3
    assert killed[0].end_time == pytest.approx(tracking.datetime.fromisoformat(last).timestamp() * 1000, abs=0.6)
    assert run_of(address, "simulate", "first").info.status == "FINISHED"
    assert run_of(address, "", "second").info.status == "KILLED"


def test_a_stage_that_ends_ends_what_it_holds(place):
    note = Journal(place / "study/journal.jsonl").append
    note("run_start", run="run1", study="quick", config={})
    note("metrics", "validate/gp", metrics={"x": 1})
    note("scope_end", "validate", status="done")
    tracking.sync(place / "study")
    states = [run_of(f"sqlite:///{place}/mlflow.db", s).info.status for s in ("", "validate", "validate/gp")]
    assert states == ["RUNNING", "FINISHED", "FINISHED"]


def test_a_dead_server_costs_a_sentence_and_nothing_else(place):
    folder, port = write_study(place / "study"), closed_port()
    events = len(Journal(folder / "journal.jsonl").read())
    synced = tracking.sync(folder, f"http://ada:lovelace@127.0.0.1:{port}")
    assert synced == tracking.Synced(0, events, (
        f"http://***@127.0.0.1:{port} did not answer ([Errno 111] Connection refused); {events} events wait in "
        f"{folder}/journal.jsonl; `emulate sync STUDY.yaml` logs them later."))  # fmt: skip
    assert not (folder / "tracking.json").exists()
    later, clean = tracking.sync(folder), f"sqlite:///{place}/clean.db"
    assert (later.logged, later.pending) == (events, 0)
    shutil.copy(place / "mlflow.db", place / "clean.db")
    tracking.sync(copy_of(folder, place / "copy"), clean)
    assert contents(f"sqlite:///{place}/mlflow.db")["runs"].keys() == contents(clean)["runs"].keys()


@pytest.mark.parametrize("status", [503, 401, 404])
def test_a_server_that_cannot_take_it_now_is_asked_again_later(place, monkeypatch, status):
    class Ill(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(status)

        do_POST = do_GET

        def log_message(self, *arguments):
            pass

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    folder = write_study(place / "study")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Ill) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        synced = tracking.sync(folder, address)
        server.shutdown()
    assert synced.logged == 0
    assert synced.pending == len(Journal(folder / "journal.jsonl").read())
    assert synced.sentence.startswith(f"{address} did not answer (")
    assert tracking.sync(folder).pending == 0


def test_the_light_answers_do_not_import_mlflow(place):
    folder = write_study(place / "study")
    tracking.sync(folder)
    code = (
        "import sys; from pathlib import Path; from pipelines.tracking import sync\n"
        "done = sync(Path(sys.argv[1]), sys.argv[2])\n"
        "dead = sync(Path(sys.argv[1]), sys.argv[3])\n"
        "print(done.logged, done.pending, dead.logged, dead.pending > 0, 'mlflow' in sys.modules)"
    )
    addresses = [f"sqlite:///{place}/mlflow.db", f"http://127.0.0.1:{closed_port()}"]
    command = [sys.executable, "-c", code, str(folder), *addresses]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "0 0 0 True False\n"


def test_a_database_that_was_removed_is_filled_again(place, migrated, monkeypatch):
    folder = write_study(place / "study")
    first = tracking.sync(folder)
    held = contents(f"sqlite:///{place}/mlflow.db")
    (state,) = json.loads((folder / "tracking.json").read_text()).values()
    gone = f"sqlite:///{place}/gone.db"
    (folder / "tracking.json").write_text(json.dumps({gone: state}))
    connect = tracking._client

    def connect_to_a_new_file(address):
        if not (place / "gone.db").exists():
            shutil.copy(migrated, place / "gone.db")
        return connect(address)

    monkeypatch.setattr(tracking, "_client", connect_to_a_new_file)
    assert tracking.sync(folder, gone).logged == first.logged
    assert contents(gone) == held


def test_a_database_that_was_replaced_is_filled_again(place, migrated):
    folder = write_study(place / "study")
    first = tracking.sync(folder)
    (state,) = json.loads((folder / "tracking.json").read_text()).values()
    another = f"sqlite:///{place}/another.db"
    shutil.copy(migrated, place / "another.db")
    (folder / "tracking.json").write_text(json.dumps({another: state}))
    Journal(folder / "journal.jsonl").append("tags", "", tags={"more": "yes"})
    assert tracking.sync(folder, another).logged == first.logged + 1
    assert run_of(another, "").data.tags["more"] == "yes"


def test_one_refused_event_does_not_hold_up_the_others(place):
    folder = write_study(place / "study", ends=False)
    note = Journal(folder / "journal.jsonl").append
    note("params", "simulate", params={"simulator": "another", "new": 1})
    note("figure", "simulate", path="gone.png")
    note("metrics", "simulate", metrics={"late": 2})
    told = []
    synced = tracking.sync(folder, on_message=told.append)
    assert synced.pending == 0, synced.sentence
    assert told == [
        "MLflow refused values: simulator is linear_gaussian already; another stays in the journal only.",
        f"MLflow refused figure simulate: gone.png is no longer in {folder}.",
    ]
    assert f"MLflow refused 2 of them, first: {told[0]}" in synced.sentence
    simulate = run_of(f"sqlite:///{place}/mlflow.db", "simulate")
    assert (simulate.data.params["new"], simulate.data.metrics["late"]) == ("1", 2)


def test_a_deleted_run_does_not_come_back_and_a_deleted_experiment_waits(place):
    folder = write_study(place / "study", ends=False)
    address = f"sqlite:///{place}/mlflow.db"
    tracking.sync(folder)
    client = tracking._client(address)
    client.delete_run(run_of(address, "simulate").info.run_id)
    note = Journal(folder / "journal.jsonl").append
    note("metrics", "simulate", metrics={"late": 2})
    assert tracking.sync(folder).pending == 0
    experiment = client.get_experiment_by_name("quick").experiment_id
    assert len(client.search_runs([experiment], "tags.`emulate.scope` = 'simulate'", run_view_type=3)) == 1
    client.delete_experiment(experiment)
    note("run_start", run="run2", study="quick", config={})
    synced = tracking.sync(folder)
    assert synced.pending == 1
    assert "its experiment 'quick' was deleted; restore it there, or give the study another name" in synced.sentence
    client.restore_experiment(experiment)
    assert tracking.sync(folder).pending == 0


def test_the_registry_has_versions_aliases_and_a_signature(place, trained):
    folder, address = write_study(place / "study", model=trained), f"sqlite:///{place}/mlflow.db"
    write_study(folder, "run2", model=trained, alias="challenger")
    write_study(folder, "run3", model=trained, alias="")
    tracking.sync(folder)
    client = tracking._client(address)
    assert contents(address)["aliases"] == {"champion": 1, "challenger": 2}
    tags = {str(v.version): v.tags["findings_passed"] for v in client.search_model_versions("name = 'quick'")}
    assert tags == {"1": "true", "2": "false", "3": "false"}
    from mlflow.models import get_model_info

    version = client.get_model_version_by_alias("quick", "champion")
    info = get_model_info(version.source.removeprefix("file://"))
    assert info.signature.inputs.input_names() == ["a", "b"]
    assert info.signature.outputs.input_names() == ["s", "pk[k=0.1]", "s_sd", "pk[k=0.1]_sd"]
    requirements = Path(tracking.download_model("models:/quick@champion")).parents[1] / "requirements.txt"
    assert {line.split("==")[0] for line in requirements.read_text().splitlines()} == set(tracking._SERVED_BY)


def test_a_challenger_of_an_earlier_run_has_lost_to_a_new_champion(place, trained):
    folder, address = place / "study", f"sqlite:///{place}/mlflow.db"
    held = []
    for run, alias in (("run1", "challenger"), ("run2", "champion"), ("run3", "challenger"), ("run4", "")):
        write_study(folder, run, model=trained, alias=alias)
        tracking.sync(folder)
        held.append(contents(address)["aliases"])
    third = {"champion": 2, "challenger": 3}
    assert held == [{"challenger": 1}, {"champion": 2}, third, third]


def test_the_runner_up_of_the_same_run_stays_beside_the_new_champion(place, trained):
    folder = write_study(place / "study", ends=False)
    shutil.copytree(trained, folder / "emulators/gp")
    note = Journal(folder / "journal.jsonl").append
    for name, alias in (("mlp", "challenger"), ("gp", "champion")):
        note("model", f"train/{name}", name="quick", path="emulators/gp", emulator=name, aliases=[alias], note=name)
    tracking.sync(folder)
    assert contents(f"sqlite:///{place}/mlflow.db")["aliases"] == {"challenger": 1, "champion": 2}


def test_a_damaged_emulator_is_not_registered(place, trained):
    folder = write_study(place / "study", model=trained)
    weights = folder / "emulators/gp/weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    told = []
    assert tracking.sync(folder, on_message=told.append).pending == 0
    assert len(told) == 1
    assert told[0].startswith("MLflow refused model train/gp: ")
    assert contents(f"sqlite:///{place}/mlflow.db")["models"] == []


def test_nothing_is_written_outside_the_address_and_the_study(place, trained, monkeypatch):
    folder = write_study(place / "study", model=trained)
    (place / "elsewhere").mkdir()
    monkeypatch.chdir(place / "elsewhere")
    address = f"sqlite:///{place}/mlflow.db"
    assert tracking.sync(folder, address).pending == 0
    assert tracking.download_model("models:/quick@champion", address).is_relative_to(place / "mlartifacts")
    assert list((place / "elsewhere").iterdir()) == []
    assert {p.name for p in place.iterdir()} == {"elsewhere", "mlartifacts", "mlflow.db", "study"}
    assert "MLFLOW_TRACKING_URI" not in os.environ


def test_the_served_model_predicts_what_the_emulator_predicts(place, trained):
    tracking.sync(write_study(place / "study", model=trained))
    folder = tracking.download_model("models:/quick@champion")
    import mlflow.pyfunc
    import pandas

    served = mlflow.pyfunc.load_model(str(folder.parents[1]))
    frame = pandas.DataFrame({"b": [2.5, 3.0, 3.5], "a": [0.1, 0.2, 0.3]}, index=[7, 8, 9])  # any order, any index
    answer = served.predict(frame)
    prediction = load("models:/quick@champion").predict(torch.tensor(frame[["a", "b"]].to_numpy().copy()))
    assert list(answer.index) == [7, 8, 9]
    np.testing.assert_array_equal(answer[["s", "pk[k=0.1]"]], prediction.mean)
    np.testing.assert_array_equal(answer[["s_sd", "pk[k=0.1]_sd"]], prediction.variance.sqrt())


def test_a_model_is_found_by_alias_version_and_run(place, trained, monkeypatch):
    folder = write_study(place / "study", model=trained)
    tracking.sync(folder)
    ids = json.loads((folder / "tracking.json").read_text())[f"sqlite:///{place}/mlflow.db"]["ids"]
    addresses = ("models:/quick@champion", "models:/quick/1", f"runs:/{ids['train/gp']}/gp", f"runs:/{ids['']}")
    for address in addresses:
        found = tracking.download_model(address)
        assert {p.name: p.read_bytes() for p in found.iterdir()} == {p.name: p.read_bytes() for p in trained.iterdir()}
        assert [f.name for f in load(found).findings] == ["coverage"], "the verdict comes with the registered model"
    with pytest.raises(InputError, match=r"\(the run must be asked for one of its models: gp\); it has quick\.$"):
        tracking.download_model(f"runs:/{ids['']}/mlp")
    monkeypatch.chdir("/")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{place}/mlflow.db")
    assert (tracking.download_model("models:/quick/1") / "emulator.json").exists()


@pytest.mark.parametrize(
    ("uri", "end"),
    [
        ("models:/quick@best", "(Registered model alias best not found); quick has version 1 @champion."),
        ("models:/quick/9", "(Model Version (name=quick, version=9) not found); quick has version 1 @champion."),
        ("models:/quik@best", '(Registered Model with name=quik not found); it has quick. Did you mean "quick"?'),
        (
            "models:/quick",
            "(the address must be models:/NAME@ALIAS, models:/NAME/VERSION or runs:/ID/EMULATOR); "
            "quick has version 1 @champion.",
        ),
        ("runs:/abc/gp", "(Run with id=abc not found); it has quick."),
    ],
)
def test_an_unknown_model_is_answered_with_what_there_is(place, trained, uri, end):
    tracking.sync(write_study(place / "study", model=trained))
    with pytest.raises(InputError) as error:
        tracking.download_model(uri)
    assert str(error.value) == f"sqlite:///{place}/mlflow.db has no {uri!r} {end}"


def test_a_model_is_not_looked_up_where_nothing_is(place):
    with pytest.raises(InputError, match=r"it has no registered model yet; `emulate run STUDY\.yaml` registers one\.$"):
        tracking.download_model("models:/quick@champion")
    with pytest.raises(InputError) as error:
        tracking.download_model("models:/quick@champion", f"sqlite:///{place}/none.db")
    assert str(error.value) == (f"'models:/quick@champion' was looked up in sqlite:///{place}/none.db, which does not "
                                f"exist; set MLFLOW_TRACKING_URI to where the model was logged.")  # fmt: skip
    assert not (place / "none.db").exists()
    with pytest.raises(InputError, match=re.escape("http://***@127.0.0.1")):
        tracking.download_model("models:/quick@champion", f"http://a:bc@127.0.0.1:{closed_port()}")


WORDS = st.text(st.characters(exclude_characters="/@'\"", exclude_categories=["Z", "C"]))


@given(user=WORDS, token=st.from_regex("[a-z0-9]+", fullmatch=True))
def test_no_secret_survives_redaction(user, token):
    text = f"cannot reach https://{user}:{user}@lab.org/mlflow?token={token}&page=2 now"
    assert redact(text) == "cannot reach https://***@lab.org/mlflow?token=***&page=2 now"


def test_secrets_of_the_environment_are_taken_out(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "abcd1234")
    assert redact("header Bearer abcd1234 was refused") == "header Bearer *** was refused"


def test_addresses_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert resolve() == resolve("sqlite:///mlflow.db") == f"sqlite:///{tmp_path}/mlflow.db"
    assert resolve("sqlite:////data/x.db") == "sqlite:////data/x.db"
    assert resolve("https://lab.org") == "https://lab.org"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://lab.org")
    assert resolve() == "https://lab.org"
    assert silence(resolve()) == "" or "lab.org" not in silence(resolve())


@pytest.mark.parametrize("uri", ["./mlruns", "file:///data/mlruns", "mlruns"])
def test_the_folder_of_files_is_refused_in_a_sentence(uri, place):
    message = (f"tracking.uri must be a database or a server, for MLflow gave up its folders of files. Got {uri!r}; "
               f"write sqlite:///mlflow.db, or https://... of a server.")  # fmt: skip
    with pytest.raises(InputError) as error:
        tracking.sync(write_study(place / "study"), uri)
    assert str(error.value) == message


def test_the_pages_stay_on_this_machine(place):
    with pytest.raises(InputError, match=r"^host must be one of 127\.0\.0\.1, localhost, ::1, for the pages have no"):
        ui(host="0.0.0.0")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"^port {port} must be free. Got: Address already in use; choose another"):
            ui(port=port)
    told = []
    assert ui("https://ada:love@lab.org", say=told.append) == 0
    assert told == ["The pages are at https://***@lab.org/#/experiments?workflowType=machine_learning."]


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_a_server_on_loopback_takes_the_study_and_ends_cleanly(place, trained, capsys, ending):
    folder, port = write_study(place / "study", model=trained), closed_port()
    tracking.sync(folder)
    code = "import sys; from pipelines.tracking import ui; sys.exit(ui(port=int(sys.argv[1]), study='quick'))"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen([sys.executable, "-c", code, str(port)], stdout=subprocess.PIPE, text=True, cwd=place,
                               env=environment)  # fmt: skip
    try:
        told = [process.stdout.readline().strip() for _ in range(3)]
        site = f"http://127.0.0.1:{port}"
        assert (
            told[1] == f"The pages are at {page(site, 'experiments', '1', 'runs', view='emulate')} (Ctrl-C ends them)."
        )
        parent = run_of(f"sqlite:///{place}/mlflow.db", "").info.run_id
        assert told[2] == f"The latest run is at {page(site, 'experiments', '1', 'runs', parent)}"
        over_http = copy_of(folder, place / "copy")
        (over_http / "tracking.json").unlink()
        before = contents(f"sqlite:///{place}/mlflow.db")
        capsys.readouterr()
        synced = tracking.sync(over_http, site)
        assert (synced.pending, *capsys.readouterr()) == (0, "", "")
        assert synced.link == page(site, "experiments", "1", "runs", run_of(site, "").info.run_id)
        assert contents(site) == before  # the same journal: the runs are found, nothing is added
        assert (tracking.download_model("models:/quick@champion", site) / "emulator.json").exists()
        write_study(over_http, "run2", model=trained, alias="challenger")
        assert tracking.sync(over_http, site).pending == 0
        assert contents(site)["aliases"] == {"champion": 1, "challenger": 2}
        # an experiment that the server made: its files travel over HTTP both ways
        assert tracking.sync(write_study(place / "far", study="far", model=trained), site).pending == 0
        found = tracking.download_model("models:/far@champion", site)
        assert not found.is_relative_to(place)
        assert {p.name: p.read_bytes() for p in found.iterdir()} == {p.name: p.read_bytes() for p in trained.iterdir()}
        assert [f.name for f in load(found).findings] == ["coverage"], "the verdict comes with the registered model"
    finally:
        process.send_signal(ending)
        code = process.wait(60)
    assert (code, silence(site)) == (0, "[Errno 111] Connection refused")
