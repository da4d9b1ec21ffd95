"""`emulate doctor`: each look is shown a machine that has the fault, and one that has not."""

import contextlib
import fcntl
import json
import os
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import pytest

from pipelines.doctor import disks, examination, installation, machine, services, studies
from pipelines.doctor.notes import Note, Place
from tests.commands import LINE

ANSWER = {
    "type": "object",
    "required": ["command", "exit_code", "passed", "versions", "notes"],
    "properties": {
        "passed": {"type": "boolean"},
        "versions": {"type": "object", "required": ["python", "torch", "numpy", "dask", "mlflow"]},
        "notes": {"type": "array", "minItems": 10, "items": {
            "type": "object", "required": ["topic", "verdict", "found", "mend"], "additionalProperties": False,
            "properties": {"topic": {"type": "string"}, "verdict": {"enum": ["fine", "advice", "wrong"]},
                           "found": {"type": "string", "minLength": 1}, "mend": {"type": "string"}}}},
    },
}  # fmt: skip


def place(folder: Path = Path(), **environment: str) -> Place:
    return Place(folder, environment=environment)


def verdicts(notes: Iterator[Note]) -> set[str]:
    return {n.verdict for n in notes}


def only(notes: Iterator[Note], verdict: str) -> Note:
    (found,) = [n for n in notes if n.verdict == verdict]
    assert found.mend, f"{found.found}: nothing mends it"
    return found


def study(workers: int = 2, threads: int = 1, memory: int | None = None, use: str = "local") -> SimpleNamespace:
    simulate = SimpleNamespace(threads=threads, limits=SimpleNamespace(memory=memory))
    return SimpleNamespace(
        cluster=SimpleNamespace(use=use, workers=workers), simulate=simulate, file=Path("study.yaml")
    )


# -- installation ---------------------------------------------------------------------------------------------------------


def test_a_package_that_is_missing_or_too_old_is_named_with_its_command(monkeypatch):
    monkeypatch.setattr(
        installation, "_required", lambda: ["numpy>=99", "no-such-package>=1", "torch>=1", "x>1; extra == 'y'"]
    )
    wrong = [n for n in installation.packages(place()) if n.verdict == "wrong"]
    assert [n.mend for n in wrong] == ['pip install "numpy>=99"', 'pip install "no-such-package>=1"']
    assert "is missing" in wrong[1].found


def test_this_installation_has_what_it_asks_for():
    assert verdicts(installation.packages(place())) == {"fine"}


def test_packages_of_one_release_must_be_of_one_release(monkeypatch):
    monkeypatch.setattr(
        installation, "_version", lambda name: {"dask": "2026.8.0", "distributed": "2026.3.0"}.get(name)
    )
    monkeypatch.setattr(installation, "_required", lambda: [])
    assert "dask==2026.8.0" in only(installation.packages(place()), "wrong").mend


def test_extras_that_are_not_whole_are_told_with_their_command(monkeypatch):
    monkeypatch.setattr(installation, "_version", lambda name: None if name == "camb" else "1")
    told = {n.mend for n in installation.extras(place())}
    assert told == {"", 'pip install "emulate[cosmology]"'}


@pytest.mark.parametrize(("prefixes", "verdict"), [
    (("libgomp", "libgomp"), "fine"), (("libomp",), "fine"), (("libiomp", "libomp"), "wrong"), ((), "fine"),
])  # fmt: skip
def test_two_makers_of_openmp_in_one_process(monkeypatch, prefixes, verdict):
    import threadpoolctl

    loaded = [{"prefix": p, "filepath": f"/x/{i}/{p}.so", "user_api": "openmp"} for i, p in enumerate(prefixes)]
    monkeypatch.setattr(threadpoolctl, "threadpool_info", lambda: loaded)
    assert verdicts(installation.openmp(place())) == {verdict}


def test_a_hidden_clash_of_openmp_is_told_of_the_users_environment_alone():
    """scikit-learn sets the variable itself when it is imported."""
    import sklearn  # noqa: F401

    assert "KMP_DUPLICATE_LIB_OK" in os.environ
    assert verdicts(installation.openmp(place())) == {"fine"}
    assert "unset" in only(installation.openmp(place(KMP_DUPLICATE_LIB_OK="TRUE")), "advice").mend


@pytest.mark.parametrize(("environment", "verdict"), [
    ({}, "fine"), ({"MPLBACKEND": "agg"}, "fine"), ({"MPLBACKEND": "TkAgg", "DISPLAY": ":0"}, "fine"),
    ({"MPLBACKEND": "TkAgg"}, "advice"), ({"MPLBACKEND": "module://matplotlib_inline.backend_inline"}, "advice"),
])  # fmt: skip
def test_matplotlib(environment, verdict, tmp_path):
    assert verdicts(installation.pictures(place(MPLCONFIGDIR=str(tmp_path), **environment))) == {verdict}


# -- machine --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("files", "cores"), [
    ({"cpu.max": "150000 100000\n"}, 1.5), ({"cpu.max": "max 100000\n"}, None), ({}, None), ({"cpu.max": "rubbish"}, None),
    ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2.0),
    ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
])  # fmt: skip
def test_cores_that_a_container_leaves(tmp_path, files, cores):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert machine.quota_of(tmp_path) == cores


@pytest.mark.parametrize(("workers", "threads", "quota", "mend"), [
    (8, 1, None, "cluster.workers=4"), (2, 4, None, "cluster.workers=1"), (4, 1, 1.5, "cluster.workers=1"),
    (1, 1, None, "cluster.workers=4"), (4, 1, None, ""), (2, 2, None, ""),
])  # fmt: skip
def test_workers_against_cores(monkeypatch, workers, threads, quota, mend):
    monkeypatch.setattr(machine, "usable", lambda: 4)
    monkeypatch.setattr(machine, "quota_of", lambda top: quota)
    told = [n for n in machine.cores(Place(Path(), study=study(workers, threads))) if n.verdict != "fine"]
    assert [n.mend.rpartition(" ")[2] for n in told] == ([mend] if mend else [])


@pytest.mark.parametrize(("environment", "verdict", "mend"), [
    ({"OMP_NUM_THREADS": "many"}, "wrong", "export OMP_NUM_THREADS=1"),
    ({"MKL_NUM_THREADS": "0"}, "wrong", "export MKL_NUM_THREADS=1"),
    ({"OMP_NUM_THREADS": "9999"}, "advice", "export OMP_NUM_THREADS="),
    ({"OMP_PROC_BIND": "close", "OMP_PLACES": "cores"}, "advice", "unset OMP_PROC_BIND OMP_PLACES"),
])  # fmt: skip
def test_threads(environment, verdict, mend):
    assert only(machine.threads(place(**environment)), verdict).mend.startswith(mend)
    assert verdicts(machine.threads(place(OMP_NUM_THREADS="1,1", OMP_PROC_BIND="false"))) == {"fine"}


def test_memory_of_the_runs_together(monkeypatch):
    monkeypatch.setattr(machine, "_memory", lambda: (16 * 2**30, 10 * 2**30))
    monkeypatch.setattr(machine, "_limit", lambda top: None)
    note = only(machine.memory(Place(Path(), study=study(4, memory=4 * 2**30))), "advice")
    assert note.mend.endswith("cluster.workers=2")
    monkeypatch.setattr(machine, "_limit", lambda top: 2**30)
    assert "container" in only(machine.memory(place()), "advice").found


def test_a_gpu_that_torch_cannot_use(monkeypatch):
    import torch

    monkeypatch.setattr(machine.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "without CUDA" in only(machine.gpu(place()), "advice").found
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    assert only(machine.gpu(place(CUDA_VISIBLE_DEVICES="")), "advice").mend == "unset CUDA_VISIBLE_DEVICES"


def test_a_clock_that_was_never_set(monkeypatch):
    assert verdicts(machine.clock(place())) == {"fine"}
    monkeypatch.setattr(machine.time, "time", lambda: 0.0)
    assert verdicts(machine.clock(place())) == {"wrong"}


def test_text_that_is_not_utf_8(monkeypatch):
    monkeypatch.setattr(machine.locale, "getpreferredencoding", lambda do_setlocale=True: "ISO-8859-1")
    assert only(machine.language(place()), "wrong").mend == "export PYTHONUTF8=1"


def test_few_open_files(monkeypatch):
    import resource

    monkeypatch.setattr(resource, "getrlimit", lambda which: (256, 4096))
    assert only(machine.open_files(Place(Path(), study=study(64))), "advice").mend == "ulimit -n 4096"


# -- disks ----------------------------------------------------------------------------------------------------------------


def test_a_good_disk_keeps_its_promises_and_is_left_as_it_was(tmp_path):
    assert "wrong" not in verdicts(disks.results(place(tmp_path / "not" / "there")))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written(monkeypatch, tmp_path):
    monkeypatch.setattr(disks.os, "access", lambda path, mode: False)
    assert "output=FOLDER" in only(disks.results(place(tmp_path)), "wrong").mend


@pytest.mark.parametrize("fault", ["no locks", "locks of nobody", "replaces", "no renames"])
def test_a_disk_that_breaks_a_promise(monkeypatch, tmp_path, fault):
    rename = os.rename

    def refused(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    def replaced(old: Path, new: Path) -> None:
        import shutil

        shutil.rmtree(new, ignore_errors=True)
        rename(old, new)

    if "locks" in fault:
        monkeypatch.setattr(fcntl, "flock", refused if fault == "no locks" else lambda *_: None)
    else:
        monkeypatch.setattr(disks.os, "rename", replaced if fault == "replaces" else refused)
    said = only(disks.promises(tmp_path, "nfs4"), "wrong")
    word = {"no locks": "cannot be locked", "locks of nobody": "exclude nobody", "replaces": "replaces another",
            "no renames": "cannot be renamed"}[fault]  # fmt: skip
    assert word in said.found
    assert "local disk" in said.mend


def test_a_file_server_whose_clock_is_off(monkeypatch, tmp_path):
    monkeypatch.setattr(disks.time, "time", lambda: 0.0)
    assert "disk's clock" in only(disks.promises(tmp_path, "nfs4"), "advice").found


@pytest.mark.parametrize(("free", "files", "verdict"), [
    (2**40, 10**6, "fine"), (2**30, 10**6, "advice"), (2**20, 10**6, "wrong"), (2**40, 100, "advice"),
])  # fmt: skip
def test_room(monkeypatch, tmp_path, free, files, verdict):
    made = SimpleNamespace(f_bavail=free // 4096, f_frsize=4096, f_favail=files, f_files=10**7, f_flag=0)
    monkeypatch.setattr(disks.os, "statvfs", lambda path: made)
    assert verdicts(disks.room("results", tmp_path, "ext4")) == {verdict}


def test_a_folder_for_temporary_files_that_runs_nothing(monkeypatch, tmp_path):
    made = SimpleNamespace(f_bavail=2**40, f_frsize=1, f_favail=10**6, f_files=10**7, f_flag=os.ST_NOEXEC)
    monkeypatch.setattr(disks.os, "statvfs", lambda path: made)
    assert "noexec" in only(disks.temporary(place()), "advice").found


def test_the_kind_of_a_file_system_is_that_of_the_nearest_mount(tmp_path):
    mounts = tmp_path / "mounts"
    (tmp_path / "a b" / "c").mkdir(parents=True)
    inner = str(tmp_path / "a b").replace(" ", "\\040")
    mounts.write_text(f"disk / ext4 rw 0 0\nserver:/x {inner} nfs4 rw 0 0\ntmpfs {tmp_path}/a tmpfs rw 0 0\n")
    assert disks.kind_of(tmp_path / "a b" / "c", mounts) == "nfs4"
    assert disks.kind_of(tmp_path, mounts) == "ext4"


# -- services -------------------------------------------------------------------------------------------------------------


def test_a_proxy_in_the_way_of_this_machine(monkeypatch):
    for name in (
        "http_proxy",
        "https_proxy",
        "no_proxy",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "NO_PROXY",
        "all_proxy",
        "ALL_PROXY",
    ):
        monkeypatch.delenv(name, raising=False)
    assert verdicts(services.loopback(place())) == {"fine"}
    monkeypatch.setenv("http_proxy", "http://ada:secret@proxy.lab:3128")
    note = only(services.loopback(place()), "advice")
    assert "secret" not in note.found
    assert "no_proxy" in note.mend
    monkeypatch.setenv("no_proxy", "localhost,127.0.0.1")
    assert verdicts(services.loopback(place())) == {"fine"}


def test_the_newest_schema_is_one_of_those_that_are_known():
    head, known = services.revisions()
    assert head in known
    assert len(known) > 50


@pytest.mark.slow
def test_the_newest_schema_is_that_of_mlflows_own_migrations():
    """Judged by alembic, which MLflow migrates with."""
    from importlib.util import find_spec

    from alembic.script import ScriptDirectory

    folder = Path(find_spec("mlflow").submodule_search_locations[0]) / "store" / "db_migrations"
    head, known = services.revisions()
    assert head == ScriptDirectory(str(folder)).get_current_head()
    assert known == {s.revision for s in ScriptDirectory(str(folder)).walk_revisions()}


@pytest.mark.parametrize(("schema", "verdict", "mend"), [
    ("head", "fine", ""), ("older", "wrong", "mlflow db upgrade sqlite:///"), ("ffffffffffff", "wrong", "upgrade mlflow"),
])  # fmt: skip
def test_a_database_of_another_mlflow(tmp_path, schema, verdict, mend):
    head, known = services.revisions()
    met = {"head": head, "older": sorted(known - {head})[0]}.get(schema, schema)
    file = tmp_path / "mlflow.db"
    with contextlib.closing(sqlite3.connect(file)) as made:
        made.execute("CREATE TABLE alembic_version (version_num VARCHAR(32))")
        made.execute("INSERT INTO alembic_version VALUES (?)", (met,))
        made.commit()
    before = file.read_bytes()
    (note,) = services.mlflow(Place(tmp_path, f"sqlite:///{file}"))
    assert note.verdict == verdict
    assert mend in note.mend
    assert file.read_bytes() == before


def test_files_that_are_no_database_of_mlflow(tmp_path):
    (tmp_path / "a.db").write_text("this is no database, and long enough to be looked at as one" * 20)
    assert "cannot be read" in only(services.mlflow(Place(tmp_path, f"sqlite:///{tmp_path}/a.db")), "wrong").found
    with contextlib.closing(sqlite3.connect(tmp_path / "b.db")) as made:
        made.execute("CREATE TABLE cats (name TEXT)")
    assert "cats" in only(services.mlflow(Place(tmp_path, f"sqlite:///{tmp_path}/b.db")), "advice").found
    assert verdicts(services.mlflow(Place(tmp_path, f"sqlite:///{tmp_path}/c.db"))) == {"fine"}
    assert not (tmp_path / "c.db").exists()
    assert "folders of files" in only(services.mlflow(Place(tmp_path, "file:///x")), "wrong").found
    assert verdicts(services.mlflow(Place(tmp_path, "off"))) == {"fine"}


@contextlib.contextmanager
def server(answer: Callable[[BaseHTTPRequestHandler], tuple[int, str]]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            code, text = answer(self)
            self.send_response(code)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{made.server_port}"
        made.shutdown()


@pytest.mark.parametrize(("code", "text", "verdict", "said"), [
    (200, "3.17.2", "fine", "MLflow 3"), (200, "1.30.0", "advice", "MLflow 1.30.0"), (200, "<html>", "advice", "not as MLflow"),
    (404, "", "advice", "404"), (401, "", "wrong", "login"),
])  # fmt: skip
def test_a_server(monkeypatch, code, text, verdict, said):
    monkeypatch.delenv("MLFLOW_TRACKING_TOKEN", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with server(lambda request: (code, text)) as address:
        (note,) = services.mlflow(Place(Path(), address))
    assert note.verdict == verdict
    assert said in note.found
    assert bool(note.mend) == (verdict != "fine")


def test_a_server_is_shown_the_token_and_the_report_is_not(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "sesame-open")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with server(
        lambda r: (200, "3.17.2") if r.headers["Authorization"] == "Bearer sesame-open" else (401, "")
    ) as address:
        (note,) = services.mlflow(Place(Path(), address))
    assert note.verdict == "fine"
    assert "sesame" not in str(note)


def test_a_server_that_is_not_there():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert "does not answer" in only(services.mlflow(Place(Path(), f"http://127.0.0.1:{port}")), "wrong").found


@pytest.mark.parametrize(("use", "there", "verdict"), [("slurm", False, "wrong"), ("slurm", True, "fine")])
def test_a_queue_is_looked_for_and_given_no_job(monkeypatch, use, there, verdict):
    pytest.importorskip("dask_jobqueue")
    monkeypatch.setattr(services.shutil, "which", lambda name: f"/usr/bin/{name}" if there else None)
    assert verdicts(services.dask(Place(Path(), study=study(use=use)))) == {verdict}


def test_a_cluster_that_hangs_or_breaks_is_told_with_its_last_line(monkeypatch):
    monkeypatch.setattr(services, "_greeted", lambda asked: ("OSError: no more processes", 1.0))
    assert "no more processes" in only(services.dask(place()), "wrong").found


@pytest.mark.slow
def test_a_local_cluster_answers():
    assert "answered in" in next(n.found for n in services.dask(place()) if n.topic == "dask")
    assert services._greeted({"use": "address", "address": "tcp://127.0.0.1:1", "certificates": ""})[0]


# -- the whole ------------------------------------------------------------------------------------------------------------


def doctor(folder: Path, *words: str) -> tuple[int, dict]:
    from typer.testing import CliRunner

    from pipelines.cli import app

    before = Path.cwd()
    os.chdir(folder)
    try:
        result = CliRunner().invoke(app, ["doctor", *words, "--json"])
    finally:
        os.chdir(before)
    told = json.loads(result.stdout)
    jsonschema.validate(told, ANSWER)
    assert told["exit_code"] == result.exit_code == (not told["passed"])
    return result.exit_code, told


@pytest.fixture
def no_cluster(monkeypatch):
    monkeypatch.setattr(services, "_greeted", lambda asked: ("", 1.0))


def test_the_whole_examination(tmp_path, no_cluster):
    (tmp_path / "study.yaml").write_text(LINE.split("infer:")[0] + "infer: null\ntracking: {uri: 'off'}\n")
    _, told = doctor(tmp_path, "study.yaml")
    assert [n for n in told["notes"] if "could not be looked at" in n["found"]] == []
    assert {n["topic"] for n in told["notes"]} >= {"python", "packages", "extras", "openmp", "matplotlib", "cores", "threads",
                                                   "memory", "gpu", "clock", "locale", "open files", "results", "temporary files",
                                                   "loopback", "dask", "mlflow", "study"}  # fmt: skip
    assert all(n["mend"] for n in told["notes"] if n["verdict"] != "fine")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["study.yaml"]


def test_a_study_that_does_not_read_is_wrong_and_the_look_goes_on(tmp_path, no_cluster):
    (tmp_path / "study.yaml").write_text("name: x\nsimulator: {use: nbodie}\n")
    code, told = doctor(tmp_path, "study.yaml")
    assert code == 1
    (note,) = [n for n in told["notes"] if n["topic"] == "study"]
    assert "nbodie" in note["found"]


def test_a_look_that_fails_does_not_end_the_others(monkeypatch, tmp_path):
    def broken(place):
        raise RuntimeError("a machine that nobody foresaw")
        yield

    (note,) = examination._seen(broken, place(tmp_path))
    assert note.verdict == "advice"
    assert "nobody foresaw" in note.found


def test_what_killed_workers_left_behind(tmp_path):
    from emulate.store import RunStore

    store = RunStore(tmp_path / "store")
    (store.path / "under_way").mkdir()
    gone = {"product": "y", "theta": [0.0], "since": 0.0, "host": socket.gethostname(), "pid": 2**22 + 1, "until": None}
    (store.path / "under_way" / ("a" * 64)).write_text(json.dumps(gone))
    half = store.path / "tmp" / "x.y"
    half.mkdir(parents=True)
    told = list(studies._left(Place(tmp_path, study=SimpleNamespace(folder=tmp_path, file="study.yaml"))))
    assert [n.verdict for n in told] == ["advice", "advice"]
    assert "1 notes" in told[0].found or "1 note" in told[0].found
    assert "store prune" in told[1].mend
