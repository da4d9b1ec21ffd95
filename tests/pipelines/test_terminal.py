"""What a person sees and what a script reads: bars on a terminal, lines elsewhere, one JSON object, exit codes.

Terminals are real pseudo-terminals in front of real processes; JSON is judged by a schema.
"""

import fcntl
import json
import os
import re
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import jsonschema
import pytest

from pipelines import progress
from pipelines.terminal import Terminal
from tests.commands import LINE
from tests.commands import printed as emulate

ROOT = Path(__file__).parents[2]
COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-7]m|\x1b\[3[0-7]")
CURSOR = re.compile(r"\x1b\[[0-9]*[ABCDGHJK]|\x1b\[\?25[lh]")  # moves, clears, hides
STYLE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")

WORK = """
import time
from pipelines import progress
from pipelines.terminal import Terminal
progress.FIRST = 0.3
terminal = Terminal()
terminal.say("simulate: run the simulator")
with terminal.bar("simulate", total=40) as tick:
    for i in range(41):
        time.sleep(0.03)
        tick(i, 40, "2 failed")
terminal.findings("check (gp)", [
    {"name": "posterior.shift", "value": 0.3, "low": None, "high": 0.2, "passed": False, "blocking": True,
     "sentence": "The mean of omega_m is moved by 0.3 standard deviations."},
    {"name": "recovery.coverage", "value": 0.5, "low": 0.255288, "high": 2.41126, "passed": True, "blocking": False,
     "sentence": ""}])
terminal.warn("the chains have not mixed")
"""


def environment(**more: str) -> dict[str, str]:
    kept = {
        k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "TERM", "CI")
    }
    return kept | {"PYTHONPATH": str(ROOT), "TERM": "xterm-256color"} | more


def on_a_terminal(code: str, columns: int = 100, **more: str) -> str:
    """All that a process of Python writes to a terminal of so many columns."""
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    with subprocess.Popen([sys.executable, "-c", code], stdin=slave, stdout=slave, stderr=slave, env=environment(**more),
                          start_new_session=True) as process:  # fmt: skip
        os.close(slave)
        seen, deadline = b"", time.monotonic() + 500
        while time.monotonic() < deadline:
            if select.select([master], [], [], 0.5)[0]:
                try:
                    seen += os.read(master, 65536)
                except OSError:  # the other end is closed
                    break
            elif process.poll() is not None:
                break
    os.close(master)
    assert process.returncode == 0, seen.decode()
    return seen.decode()


def piped(code: str, **more: str) -> tuple[str, str]:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(**more), check=True
    )
    return done.stdout, done.stderr


def last(seen: str) -> list[str]:
    """What is left on the screen: a terminal of text, carriage return, line feed, cursor up and erase line."""
    lines, row, column = [""], 0, 0
    for text, command in re.findall(r"([^\x1b\r\n]+)|(\r|\n|\x1b\[[0-9;?]*[A-Za-z])", seen):
        if text:
            lines[row] = lines[row][:column].ljust(column) + text + lines[row][column + len(text) :]
            column += len(text)
        elif command == "\r":
            column = 0
        elif command == "\n":
            row += 1
            lines += [""] * (row == len(lines))
        elif command.endswith("A"):
            row = max(0, row - int(command[2:-1] or 1))
        elif command.endswith("K"):
            assert command == "\x1b[2K"
            lines[row] = ""
    return [line.rstrip() for line in lines]


def test_a_terminal_shows_rate_and_time_left_and_clears_the_bar():
    seen = on_a_terminal(WORK)
    assert CURSOR.search(seen)
    assert COLOUR.search(seen)
    plain = STYLE.sub("", seen)
    shown = re.findall(r"simulate \S+ (\d+)/40 (\S+)/(?:s|min) ([\d.]+) s, ([\d.]+) s left 2 failed", plain)
    assert shown, plain
    for done, rate, seconds, left in shown[3:]:  # the rate is of the last seconds, so only its size can be foretold
        assert 0.2 < float(rate) * float(seconds) / max(int(done), 1) < 5 or int(done) < 5
        assert float(left) < 120
    assert not any("/40" in line for line in last(seen))


def test_a_narrow_terminal_is_not_overrun():
    columns = 60
    seen = on_a_terminal(WORK, columns)
    lines = last(seen)
    wide = [line for line in lines if len(line) > columns and "┃" not in line and "│" not in line]
    assert all(" " in line for line in wide)  # sentences are wrapped by the terminal itself
    assert [line for line in lines if ("┃" in line or "│" in line) and len(line) > columns] == []
    table = "".join(line.replace(" ", "") for line in lines)
    for word in ("posterior.shift", "recovery.coverage", "FAILED", "passed"):
        assert word in table
    frames = [STYLE.sub("", f) for part in seen.split("\n") for f in part.split("\r") if "/40" in f]
    assert frames
    assert max(map(len, frames)) <= columns


def test_no_color_is_kept_and_bars_stay():
    seen = on_a_terminal(WORK, NO_COLOR="1")
    assert not COLOUR.search(seen)
    assert CURSOR.search(seen)


def test_a_dumb_terminal_is_sent_no_command():
    seen = on_a_terminal(WORK, TERM="dumb")
    assert "\x1b" not in seen
    assert re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d simulate: \d+ of 40", seen)


@pytest.mark.parametrize("more", [{}, {"FORCE_COLOR": "1"}])
def test_a_pipe_gets_lines_with_the_time(more):
    out, err = piped(WORK, **more)
    assert not CURSOR.search(out + err)  # FORCE_COLOR makes a pipe coloured, and no terminal of it
    assert bool(COLOUR.search(out)) == bool(more)
    assert re.search(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d simulate: \d+ of 40, \S+/(s|min), \S+ s so far, \S+ s left, 2 failed$",
                     STYLE.sub("", out), re.M)  # fmt: skip
    assert "Warning: the chains have not mixed" in STYLE.sub("", err)


def test_quiet_leaves_findings_and_errors():
    out, err = piped(WORK.replace("Terminal()", "Terminal(quiet=True)"))
    assert "run the simulator" not in out
    assert "posterior.shift" in out
    assert "have not mixed" in err
    assert "simulate" not in out


def test_a_bar_within_a_bar_and_a_warning_take_their_turns():
    code = """
import time
from pipelines.terminal import Terminal
terminal = Terminal(verbose=True)
with terminal.bar("validate"):
    time.sleep(0.25)
    terminal.detail("four checks")
    with terminal.bar("gradients", total=8, left=False) as tick:
        for i in range(9):
            time.sleep(0.05)
            tick(i, 8)
        terminal.warn("half way")
    time.sleep(0.25)
terminal.say("end")
"""
    assert [line for line in last(on_a_terminal(code)) if line] == ["four checks", "Warning: half way", "end"]


def test_a_line_of_progress_is_arithmetic():
    """30 of 120 in 60 s: one in two seconds, and 90 left take 180 s."""
    now = iter([1000.0, 1060.0])
    lines = progress.Lines(None, "validate", None, left=True, clock=lambda: next(now))
    lines.tick(30, 120, "1 straggler")
    said = lines.line().split(" ", 2)[2]
    assert said == "validate: 30 of 120, 30/min, 1 min 00 s so far, 3 min 00 s left, 1 straggler"


def test_lines_come_ever_more_rarely(monkeypatch, capsys):
    class Event:
        def __init__(self):
            self.waited = []

        def wait(self, seconds):
            self.waited.append(seconds)
            return sum(self.waited) > 7200

    from rich.console import Console

    event = Event()
    lines = progress.Lines(Console(width=120), "train", None, left=True, clock=lambda: sum(event.waited))
    lines._over, lines._start = event, 0.0
    lines._watch()
    assert event.waited[0] == progress.FIRST
    assert max(event.waited) <= progress.MOST
    assert event.waited[-1] == progress.MOST
    assert len(capsys.readouterr().out.splitlines()) < 30  # of two hours
    assert event.waited == sorted(event.waited)


STUDY = LINE.split("infer:")[0] + "infer: null\ntracking: {uri: 'off'}\n"
FINDING = {
    "type": "object",
    "required": ["stage", "of", "name", "value", "low", "high", "sentence", "passed", "blocking"],
}
COMMON = {
    "type": "object",
    "required": ["command", "emulate", "exit_code", "warnings"],
    "properties": {
        "command": {"type": "string"},
        "emulate": {"type": "string", "pattern": r"^\d+\.\d+"},
        "exit_code": {"enum": [0, 1, 2, 3, 70, 130]},
        "warnings": {"type": "array", "items": {"type": "string"}},
        "error": {"type": "object", "required": ["kind", "message"]},
        "passed": {"type": "boolean"},
        "findings": {"type": "array"},
        "stages": {"type": "array", "items": {
            "type": "object", "required": ["stage", "status", "why", "seconds"],
            "properties": {"status": {"enum": ["done", "skipped", "failed", "interrupted", "stale", "running", "waiting"]}}}},
        "paths": {"type": "object"},
    },
}  # fmt: skip
STAGE = ["study", "passed", "findings", "stages", "champion", "paths"]
NEEDS = {
    "run": STAGE,
    "validate": STAGE,
    "status": ["study", "at_work", "stages", "runs", "champion", "paths"],
    "costs": ["study", "workers", "products", "paths"],
    "learning-curve": ["study", "emulator", "sentence", "answer", "fits", "paths"],
    "verify": ["store", "runs", "passed", "damaged"],
    "list": ["rooms"],
    "describe": ["emulator", "parameters", "outputs", "provenance", "scores", "findings"],
    "predict": ["emulator", "parameters", "outputs", "theta", "mean", "sd"],
}


def judged(folder: Path, *words: str) -> dict:
    """The object that a command prints, and nothing beside it on standard output; judged by the schema."""
    from typer.testing import CliRunner

    from pipelines.cli import app

    before = Path.cwd()
    os.chdir(folder)
    try:
        result = CliRunner().invoke(app, [*words, "--json"])
    finally:
        os.chdir(before)
    told = json.loads(result.stdout)
    jsonschema.validate(told, COMMON)
    short = {"error", "plan", "run", "entry"} & told.keys()  # of what was asked less
    jsonschema.validate(told, {"required": [] if short else NEEDS[told["command"]]})
    assert told["exit_code"] == result.exit_code
    assert (told["exit_code"] >= 2) == ("error" in told)
    return told


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("json")
    (folder / "study.yaml").write_text(STUDY)
    told = judged(folder, "run", "study.yaml")
    assert told["passed"] == (told["exit_code"] == 0)
    (folder / "told.json").write_text(json.dumps(told))
    return folder


def test_run_tells_stages_findings_and_paths(study):
    told = json.loads((study / "told.json").read_text())
    assert [s["stage"] for s in told["stages"]] == ["design", "simulate", "train", "validate", "report"]
    assert {s["status"] for s in told["stages"]} == {"done"}
    for f in told["findings"]:
        jsonschema.validate(f, FINDING)
    stored = json.loads((study / "runs/line/validate/findings.json").read_text())["emulators"]["quadratic"]
    assert {f["name"]: f["value"] for f in told["findings"]} == {f["name"]: f["value"] for f in stored}
    assert told["champion"] == "quadratic"
    for path in (told["paths"]["folder"], told["paths"]["report"], told["paths"]["emulators"]["quadratic"]):
        assert Path(path).is_absolute()
        assert Path(path).exists()


def test_run_again_says_that_stages_were_skipped(study):
    told = judged(study, "run", "study.yaml")
    assert {s["status"] for s in told["stages"]} == {"skipped"}
    assert told["findings"] == json.loads((study / "told.json").read_text())["findings"]


@pytest.mark.parametrize("words", [
    ("status", "study.yaml"), ("costs", "study.yaml"), ("learning-curve", "study.yaml", "--fits", "1"),
    ("store", "verify", "study.yaml"), ("list", "histograms"), ("run", "study.yaml", "--dry-run"),
    ("status", "study.yaml", "--failed"), ("validate", "study.yaml"),
    ("predict", "runs/line/emulators/quadratic", "--set", "a=0.5", "--set", "b=0.25"),
    ("describe", "runs/line/emulators/quadratic"),
])  # fmt: skip
def test_every_answer_is_one_object(study, words):
    told = judged(study, *words)
    assert told["exit_code"] in (0, 1)
    if words[0] == "status":
        assert told["runs"] == {"stored": 16 + 20 + 4, "failed": 0, "jacobians": 4}  # training, held out, gradients
        assert {s["status"] for s in told["stages"]} == {"done"}
    if "--dry-run" in words:
        assert {p["action"] for p in told["plan"]} == {"skip"}
    if words[0] == "predict":
        assert (told["theta"], len(told["mean"][0]), len(told["sd"][0])) == ([[0.5, 0.25]], 4, 4)
    if words[0] == "describe":
        assert [p["name"] for p in told["parameters"]] == ["a", "b"]
        assert {f["name"] for f in told["findings"]} >= {"accuracy.median", "gradient.cosine"}
        jsonschema.validate(
            told["findings"], {"items": {"required": ["value", "low", "high", "sentence", "blocking", "passed"]}}
        )
    if words[0] == "list":
        assert set(told["rooms"]["histograms"]) >= {"hard", "soft"}


def test_the_keys_of_an_entry_are_listed(study):
    keys = judged(study, "list", "emulators", "polynomial")["keys"]
    assert judged(study, "list", "polynomial")["keys"] == keys
    assert keys["degree"]["default"] == 2
    assert keys["degree"]["description"]
    told = judged(study, "list", "emulators", "polynomal")
    assert told["exit_code"] == 2
    assert 'Did you mean "polynomial"' in told["error"]["message"]


def test_a_run_of_the_store_is_told_whole(study):
    from emulate.store import RunStore

    store = RunStore(study / "runs/line/store", create=False)
    key = store.keys()[0]
    told = judged(study, "status", "study.yaml", "--run", key[:10])["run"]
    assert told["key"] == key
    assert told["y"] == store.read(key).y.tolist()


@pytest.mark.parametrize(("words", "code", "kind", "said"), [
    (("run", "nowhere.yaml"), 2, "InputError", "there is no file nowhere.yaml"),
    (("run", "study.yaml", "--set", "design.rums=3"), 2, "InputError", "design.rums"),
    (("store", "verify", "nowhere"), 2, "InputError", "must be a run store"),
])  # fmt: skip
def test_an_error_is_an_object_too(study, words, code, kind, said):
    told = judged(study, *words)
    assert told["exit_code"] == code
    assert told["error"]["kind"] == kind
    assert said in told["error"]["message"]


def test_a_fault_of_ours_is_no_failed_check(study, monkeypatch):
    """Python itself ends with 1, which says that a check failed."""
    from pipelines import engine

    def broken(*_, **__):
        raise RuntimeError("an index is off")

    monkeypatch.setattr(engine, "run", broken)
    told = judged(study, "run", "study.yaml")
    assert told["exit_code"] == 70
    assert told["error"]["kind"] == "Bug"
    assert "emulate doctor" in told["error"]["message"]


def test_verbose_shows_where_an_error_came_from(study):
    code, said = emulate(study, "run", "nowhere.yaml")
    assert code == 2
    assert "Traceback" not in said
    code, said = emulate(study, "run", "nowhere.yaml", "-v")
    assert code == 2
    assert "Traceback" in said
    assert re.search(r"python 3\.\d+.*emulate \d.*torch \d", " ".join(said.split()))


def test_verbose_says_what_the_stages_were_told(study):
    code, said = emulate(study, "design", "study.yaml", "--force", "-v")
    assert code == 0
    assert "design: its part of the study" in said
    assert re.search(r"design: done after [\d.]+ s", said)


def test_json_is_alone_on_standard_output_whatever_is_printed():
    """Also what a library in C, or a child, writes to the file descriptor itself."""
    code = """
import os, subprocess, sys
from pipelines.commands import frame
@frame.command("noisy")
def noisy(terminal):
    print("from python")
    os.write(1, b"from a library\\n")
    subprocess.run([sys.executable, "-c", "print('from a child')"])
    terminal.say("from emulate")
    terminal.give(answer=42, odd=float("inf"))
    return 1
sys.argv = ["emulate", "noisy", "--json"]
frame.app()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
    assert done.returncode == 1
    told = json.loads(done.stdout)
    assert (told["answer"], told["odd"], told["exit_code"]) == (42, None, 1)
    for who in ("python", "a library", "a child", "emulate"):
        assert f"from {who}" in done.stderr


@pytest.mark.parametrize(
    ("words", "named"),
    [("run --jsno study.yaml", "--jsno"), ("run", "STUDY.yaml"), ("predcit", "predict"), ("--nosuch run", "--nosuch"),
     ("simulate study.yaml --only x", "--only")])  # fmt: skip
def test_a_line_that_cannot_be_read_is_an_object_too(tmp_path, words, named):
    told = judged(tmp_path, *words.split())
    assert (told["exit_code"], told["error"]["kind"]) == (2, "UsageError")
    assert named in told["error"]["message"]


def test_a_reader_that_went_away_is_no_error():
    code = """
import sys
from pipelines.commands import frame
@frame.command("long")
def long(terminal):
    for i in range(100_000):
        terminal.say(f"line {i}")
sys.argv = ["emulate", "long"]
frame.app()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          env=environment()) as process:  # fmt: skip
        assert process.stdout.readline() == "line 0\n"
        process.stdout.close()
        said = process.stderr.read()
    assert said == ""
    assert process.returncode == 0


def test_markup_in_a_label_is_text(capsys):
    Terminal().verdict({"[bold]a": [{"name": "pk[k=0.1]", "value": 1.0, "low": None, "high": None, "passed": False,
                                     "blocking": True, "sentence": "pk[k=0.1] is off."}]})  # fmt: skip
    said = capsys.readouterr().out
    assert "[bold]a" in said
    assert said.count("pk[k=0.1]") == 3
