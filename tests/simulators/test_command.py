"""Runs of small POSIX programs: what they are given, what is read back, and how each way to fail is told."""
# ruff: noqa: E501 - tables of whole sentences

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch

from emulate import registry
from emulate.errors import InputError, RunFailed
from emulate.keys import identity
from emulate.runs import Field, Outputs
from emulate.simulators.command import Command
from emulate.simulators.command.settings import Read
from emulate.space import Parameter, Space, Uniform
from emulate.store import RunStore
from pipelines.limits import Limits
from pipelines.runner import Runner
from pipelines.study import plain

SPACE = Space((Parameter("a", Uniform(0.0, 1.0)), Parameter("b", Uniform(0.0, 2.0))))
THETA = torch.tensor([0.25, 1.5], dtype=torch.float64)
Y = [{"name": "y", "file": "stdout.txt"}]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """The folder where emulate is started, with an own place for the runs' folders."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    return tmp_path


def command(*arguments, **settings):
    spec = {"use": "command", "command": list(arguments), "outputs": Y, "scratch": "runs", **settings}
    return registry.build("simulators", spec, space=SPACE)


def shell(script, **settings):
    """A program of several lines; the shell is the program here, named by the user."""
    return command("sh", "-c", script, **settings)


def failure(simulator, theta=THETA):
    with pytest.raises(RunFailed) as caught:
        simulator.run(theta, seed=0)
    return caught.value


def test_parameters_that_nothing_reads_are_known(here):
    (here / "in.j2").write_text("{{ a }}")
    assert command("true", "{{ a }}").unread == ["b"]
    assert command("true").unread == ["a", "b"]
    assert command("true", templates={"x": "in.j2"}, environment={"B": "{{ b }}"}).unread == []


def test_arguments_and_files_from_templates(here):
    (here / "in.j2").write_text('a = {{ a }}\nb = {{ "%.6e" % b }}\n{% for i in range(2) %}x{{ i }} {% endfor %}\n')
    simulator = shell("cat conf/in.ini; echo $1", templates={"conf/in.ini": "in.j2"}, success={"pattern": {
        "file": "stdout.txt", "text": "b = 1.500000e+00\nx0 x1 "}}, outputs=[{"name": "y", "file": "stdout.txt", "skip": 3}],
        command=["sh", "-c", "cat conf/in.ini; echo $1", "--", "{{ a * 8 + b }}"])  # fmt: skip
    assert simulator.run(THETA, seed=0).tolist() == [3.5]


def test_parameters_reach_the_program_with_every_bit():
    theta = torch.tensor([0.1 + 0.2, 1e-300], dtype=torch.float64)
    simulator = command(
        "printf", "%s\n", "{{ a }}", "{{ b }}", outputs=[{"name": "y", "size": 2, "file": "stdout.txt"}]
    )
    assert torch.equal(simulator.run(theta, seed=0), theta)


def test_working_files_are_copied_or_linked_and_a_run_cannot_change_the_copied(here):
    (here / "data").mkdir()
    (here / "data" / "x.txt").write_text("3\n")
    (here / "big.txt").write_text("4\n")
    simulator = shell(
        "cat d/x.txt big.txt; echo 9 > d/x.txt; test -L big.txt",
        outputs=[{"name": "y", "size": 2, "file": "stdout.txt"}],
        files={"d": {"copy": "data"}, "big.txt": {"link": "big.txt"}},
    )
    assert simulator.run(THETA, seed=0).tolist() == [3, 4]
    assert (here / "data" / "x.txt").read_text() == "3\n"


def test_steps_run_in_order_and_the_failing_one_is_named():
    two = command(["sh", "-c", "echo {{ a }} > m.txt"], ["sh", "-c", "cat m.txt"])
    assert two.run(THETA, seed=0).tolist() == [0.25]
    broken = command(["true"], ["sh", "-c", "exit 3"], ["true"])
    assert failure(broken).reason == "step 2 of 3 (`sh -c exit 3`) ended with exit code 3, where 0 is allowed."


def test_a_program_of_the_users_and_one_that_is_a_working_file(here):
    for name in ("own", "copied"):
        (here / name).write_text("#!/bin/sh\necho 5 $1\n")
        (here / name).chmod(0o755)
    size = [{"name": "y", "size": 2, "file": "stdout.txt"}]
    assert command("./own", "{{ b }}", outputs=size).run(THETA, seed=0).tolist() == [5, 1.5]
    inside = command("./tool", "6", outputs=size, files={"tool": {"copy": "copied"}})
    assert inside.run(THETA, seed=0).tolist() == [5, 6]


def test_a_launcher_threads_and_environment(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    script = 'echo $OMP_NUM_THREADS $A_VALUE "${PYTHONPATH:-0}" $L'
    simulator = shell(script, launcher=["env", "L=7"], threads=3, environment={"A_VALUE": "{{ b }}"},
                      outputs=[{"name": "y", "size": 4, "file": "stdout.txt"}])  # fmt: skip
    assert simulator.run(THETA, seed=0).tolist() == [3, 1.5, 0, 7]


def test_a_program_has_the_threads_that_its_run_owns():
    simulator = shell(
        "echo $OMP_NUM_THREADS $MKL_NUM_THREADS", outputs=[{"name": "y", "size": 2, "file": "stdout.txt"}]
    )
    with Runner({**plain(simulator), "space": SPACE.to_dict()}, limits=Limits(timeout=60.0, threads=3)) as runner:
        assert runner.run(THETA.tolist(), seed=0).y.tolist() == [3, 3]
        assert runner.identity == identity(simulator)  # how many is no part of the question


def test_a_stochastic_program_takes_the_seed():
    simulator = command("echo", "{{ seed }}", stochastic=True)
    assert simulator.run(THETA, seed=2**52 + 1).tolist() == [2**52 + 1]
    assert simulator.stochastic
    with pytest.raises(
        InputError, match=r"a stochastic program must be given the seed of its run\. Write \{\{ seed \}\}"
    ):
        _ = command("echo", "1", stochastic=True).version
    with pytest.raises(InputError, match=r"the name 'seed' is not known; there are a, b\. Set `stochastic: true`"):
        _ = command("echo", "{{ seed }}").version


def test_several_fields_of_several_files_in_the_declared_order(here):
    (here / "k.txt").write_text("# k\n0.1\n0.2\n0.3\n")
    simulator = shell(
        'printf "k,pk\\n0.1,1\\n0.2,2\\n0.3,3\\n" > pk.csv; echo \'{"s": {"total": [4]}}\' > s.json',
        outputs=[
            {"name": "total", "file": "s.json", "key": "s.total.0", "unit": "s", "positive": True},
            {
                "name": "pk",
                "file": "pk.csv",
                "column": "pk",
                "at_column": 1,
                "coordinate": "k",
                "at": {"file": "k.txt", "column": "k"},
            },
        ],
    )
    assert simulator.outputs == Outputs((Field("total", "s", True), Field("pk", coordinate="k", at=(0.1, 0.2, 0.3))))
    assert simulator.run(THETA, seed=0).tolist() == [4, 1, 2, 3]
    again = registry.build("simulators", plain(simulator), space=SPACE)
    assert again == simulator


def test_a_function_of_the_users_decodes_what_no_format_does(here):
    (here / "my_decoder_1.py").write_text(
        "def f(folder):\n    return {'y': float((folder / 'o').read_text().split('=')[1])}\n"
        "def g(folder):\n    raise KeyError('no tea')\n"
        "def h(folder):\n    return {'z': 1}\n"
    )
    outputs = [{"name": "y"}]
    assert shell("echo x=4 > o", decode="my_decoder_1:f", outputs=outputs).run(THETA, seed=0).tolist() == [4]
    broken = failure(shell("true", decode="my_decoder_1:g", outputs=outputs))
    assert (broken.kind, broken.reason) == ("error", "my_decoder_1:g raised KeyError: 'no tea'")
    assert "in g" in broken.log
    assert failure(shell("true", decode="my_decoder_1:h", outputs=outputs)).reason == (
        "my_decoder_1:h must return a dict with every output that names no file. Missing: y; it has z.")  # fmt: skip


def test_success_may_be_an_exit_code_a_file_and_a_text():
    assert shell("echo 1; exit 4", success={"exit_code": [0, 4]}).run(THETA, seed=0).tolist() == [1]
    shell("echo 1; touch done", success={"file": "done"}).run(THETA, seed=0)
    assert failure(shell("echo 1", success={"file": "done"})).reason == (
        "success.file must be there when the program has ended. There is no done; it holds stderr.txt, stdout.txt."
    )
    shell("echo 1; echo it converged >&2", success={"pattern": {"file": "stderr.txt", "regex": "converged$"}}).run(THETA, seed=0)  # fmt: skip
    assert failure(shell("echo 1", success={"pattern": {"file": "stdout.txt", "text": "converged"}})).reason == (
        "stdout.txt must hold 'converged'. It does not.")  # fmt: skip


@pytest.mark.parametrize(("script", "kind", "reason"), [
    ("exit 7", "error", r"^`sh -c exit 7` ended with exit code 7, where 0 is allowed\.$"),
    ("kill -SEGV $$", "crashed", r"^`sh -c kill -SEGV \$\$` was ended by the signal SIGSEGV$"),
    ("true", "badshape", r"^stdout\.txt must hold numbers\. It holds no row of them; was it cut\?$"),
    ("echo 1 2; echo 3 4", "badshape", r"^stdout\.txt has 2 columns and 2 rows; say which by `column`, or `row`\.$"),
    ("echo 1; echo 2", "badshape", r"^output y in stdout\.txt must have the declared 1 values\. Got 2\.$"),
    ("echo 1; echo 2 3", "badshape", r"^stdout\.txt: every row must have 1 values, as the first has\. Row 2 has 2\.$"),
    ("echo nan", "nonfinite", r"^output y in stdout\.txt must be finite numbers\. 1 of 1 are not, the first is value 1: nan\.$"),
    ("echo 1e999", "nonfinite", r"the first is value 1: inf\.$"),
    ("echo '****'", "error", r"^stdout\.txt must hold numbers\. Row 1 has '\*\*\*\*'\. Fortran prints stars"),
    ("printf '\\0'", "error", r"^stdout\.txt must be text\. It holds a NUL at byte 0; was it cut, or is it binary\?$"),
    ("printf '\\377'", "error", r"^stdout\.txt must be text in UTF-8\. Byte 0 is 0xff\.$"),
])  # fmt: skip
def test_a_failure_has_its_kind_and_a_sentence(script, kind, reason):
    found = failure(shell(script))
    assert found.kind == kind
    import re

    assert re.search(reason, found.reason), found.reason


@pytest.mark.parametrize(("output", "kind", "reason"), [
    ({"file": "out.txt"}, "error", "output y must be there when the program has ended. There is no out.txt; it holds o/out.txt, "
     'stderr.txt, stdout.txt. Did you mean "o/out.txt"?'),
    ({"file": "o"}, "error", "output y must be a file. o is a folder or a device."),
    ({"file": "o/out.txt", "column": 3}, "badshape", "o/out.txt must have a column 3. It has 2; columns are counted from 1."),
    ({"file": "o/out.txt", "column": "z"}, "badshape", "o/out.txt must have a column 'z'. It has k, pk."),
    ({"file": "o/out.txt", "column": "pk", "row": 5}, "badshape", "o/out.txt must have a row 5. It has 3; rows are counted from 1."),
    ({"file": "o/out.txt", "column": "pk", "size": 4}, "badshape",
     "output y in o/out.txt (column pk) must have the declared 4 values. Got 3."),
    ({"file": "o/out.txt", "column": "pk", "coordinate": "k", "at": [0.1, 0.2, 0.5], "at_column": "k"}, "badshape",
     "output y in o/out.txt (column pk): the coordinate k must be the declared one in every run. Got 0.3 at value 3, where `at` "
     "has 0.5."),
    ({"file": "o/out.txt", "format": "json"}, "error", "o/out.txt cannot be read as json: JSONDecodeError: Expecting value: line 1 "
     "column 1 (char 0)."),
])  # fmt: skip
def test_a_file_that_is_not_as_declared_is_told(output, kind, reason):
    simulator = shell(
        'mkdir o; printf "# k pk\\n0.1 1\\n0.2 2\\n0.3 3\\n" > o/out.txt', outputs=[{"name": "y", **output}]
    )
    found = failure(simulator)
    assert (found.kind, found.reason) == (kind, reason)


def test_the_last_row_and_a_row_of_many():
    for row, y in ((-1, 3.0), (1, 1.0), (2, 2.0)):
        simulator = shell(
            "printf '1 x\\n2 x\\n3 x\\n'", outputs=[{"name": "y", "file": "stdout.txt", "column": 1, "row": row}]
        )
        assert simulator.run(THETA, seed=0).tolist() == [y]


def test_an_argument_that_names_a_file_left_outside_is_explained(here):
    (here / "code.py").write_text("print(1)\n")
    found = failure(command(sys.executable, "code.py"))
    assert found.reason.endswith(
        "The argument 'code.py' is a file where emulate was started, but not in the run's folder: add "
        "files: {code.py: {copy: code.py}}.")  # fmt: skip


def test_the_log_holds_the_ends_of_what_was_printed_and_of_chosen_files():
    found = failure(
        shell(
            "yes word | head -c 100000; echo oh dear >&2; echo step 9 > log.txt; exit 1", logs=["log.txt", "none.txt"]
        )
    )
    assert "--- log.txt\nstep 9" in found.log
    assert "--- stderr.txt\noh dear" in found.log
    assert "word\nword" in found.log
    assert len(found.log) < 8192


def test_the_end_of_what_a_good_run_said_is_kept():
    simulator = shell("echo 1; echo it converged >&2; echo step 9 > log.txt", logs=["log.txt"])
    with Runner({**plain(simulator), "space": SPACE.to_dict()}, limits=Limits(timeout=60.0)) as runner:
        answer = runner.run(THETA.tolist(), seed=0)
    assert answer.y.tolist() == [1]
    assert answer.log == "--- log.txt\nstep 9\n--- stderr.txt\nit converged"


def test_a_flood_is_stopped(here):
    found = failure(shell("yes", printed_mib=1))
    assert (found.kind, found.reason) == (
        "error", "`sh -c yes` must print at most 1 MiB. It printed more and was killed; print less, or raise `printed_mib`.")  # fmt: skip


def test_an_output_above_the_limit_is_refused_and_the_limit_can_be_raised():
    script = "head -c 3000000 /dev/zero | tr '\\0' ' ' > o.txt; echo 1 >> o.txt"
    outputs = [{"name": "y", "file": "o.txt"}]
    assert failure(shell(script, outputs=outputs, output_mib=1)).reason == (
        "output y must have at most 1 MiB. o.txt has 2.9 MiB; raise `output_mib`, or write less.")  # fmt: skip
    assert shell(script, outputs=outputs, output_mib=4).run(THETA, seed=0).tolist() == [1]


@pytest.mark.parametrize(("keep", "good", "bad"), [("never", 0, 0), ("failed", 0, 1), ("always", 1, 1)])
def test_folders_are_kept_or_cleaned(here, keep, good, bad):
    shell("echo 1; mkdir x; chmod 0 x", keep=keep).run(THETA, seed=0)
    assert len(list((here / "runs").iterdir())) == good
    found = failure(shell("exit 1", keep=keep))
    kept = list((here / "runs").iterdir())
    assert len(kept) == good + bad
    assert ("The run's folder is kept: " in found.log) == bool(bad)


def test_what_a_killed_process_left_is_removed_later(here):
    from emulate.simulators.command import folder

    left, young, kept = (here / "runs" / f"emulate-{x}" for x in ("run-old", "run-young", "kept-old"))
    for path in (left, young, kept):
        path.mkdir()
    try:
        folder._YOUNG, young_for = -1.0, folder._YOUNG
        with folder.scratch(str(here / "runs"), "never") as living:
            folder._sweep.cache_clear()
            folder._sweep(str(here / "runs"))
            assert living.exists()
    finally:
        folder._YOUNG = young_for
    assert [p.exists() for p in (left, young, kept)] == [False, False, True]


def test_content_is_in_the_key_and_places_are_not(here):
    (here / "t.j2").write_text("{{ a }}\n")
    (here / "d.txt").write_text("1\n")
    (here / "own").write_text("#!/bin/sh\ncat t d\n")
    (here / "own").chmod(0o755)
    (here / "my_decoder_2.py").write_text("def f(folder):\n    return 1.0\n")
    settings = {
        "templates": {"t": "t.j2"},
        "files": {"d": {"copy": "d.txt"}},
        "decode": "my_decoder_2:f",
        "outputs": [{"name": "y"}],
    }

    def key(**more):
        return RunStore.key(command("./own", **{**settings, **more}), THETA, 0)

    first = key()
    assert key(keep="always", scratch="elsewhere", logs=["x"], output_mib=1, printed_mib=1) == first
    (here / "moved.j2").write_text("{{ a }}\n")
    assert key(templates={"t": "moved.j2"}) == first
    assert (
        len({first, key(revision="2"), key(threads=2), key(files={"e": {"copy": "d.txt"}}), key(success={"file": "x"})})
        == 5
    )
    for name in ("t.j2", "d.txt", "own", "my_decoder_2.py"):
        content = (here / name).read_text()
        (here / name).write_text(content + "\n#\n")
        assert key() != first, name
        (here / name).write_text(content)
    assert key() == first


def test_a_huge_link_may_be_left_out_of_the_key(here):
    (here / "big").write_text("1")
    simulator = command("echo", "1", files={"big": {"link": "big", "hashed": False}})
    before = identity(simulator)
    (here / "big").write_text("2")
    assert identity(command("echo", "1", files={"big": {"link": "big", "hashed": False}})) == before
    simulator.run(THETA, seed=0)


def test_a_file_that_changes_while_a_campaign_runs_is_noticed(here):
    (here / "d.txt").write_text("1\n")
    simulator = command("cat", "d", files={"d": {"copy": "d.txt"}})
    simulator.run(THETA, seed=0)
    os.utime(here / "d.txt", (1, 1))
    simulator.run(THETA, seed=0)  # the same content at another time
    (here / "d.txt").write_text("2\n")
    assert failure(simulator).reason == (
        f"{here}/d.txt has changed since this campaign began. Start it again, so that its runs are stored under the new content."
    )


def test_it_can_be_written_in_python():
    simulator = Command(space=SPACE, command=(("echo", "{{ a }}"),), outputs=Outputs((Field("y"),)),
                        read={"y": Read(file="stdout.txt")})  # fmt: skip
    assert simulator.run(THETA, seed=0).tolist() == [0.25]


@pytest.mark.parametrize(("settings", "sentence"), [
    ({"command": "./code -i {{ a }}"}, r"command must be a list of arguments, for no shell reads it\. Got '\./code -i \{\{ a \}\}'; write \[\./code, -i, "),
    ({"command": []}, r"command must be a list of arguments, or a list of such lists\. Got \[\]\."),
    ({"command": [["echo"], []]}, r"every step must start with a program\. Got \[\]\."),
    ({"command": ["echo", 1.5]}, r"every argument must be text\. Got 1\.5; put it in quotes"),
    ({"command": ["ech0"]}, r"there is no program 'ech0' on the PATH\. Install it, or write the path of a file\."),
    ({"command": ["./own"]}, r"there is no program .*/own\. Paths are relative to the folder where emulate is started\."),
    ({"command": ["./plain.txt"]}, r"plain\.txt must be a program\. It may not be executed; `chmod \+x` it, or put"),
    ({"command": ["plain.txt"]}, r"there is no program 'plain\.txt' on the PATH\. The file \./plain\.txt is here: write \./plain\.txt\."),
    ({"command": ["{{ a }}"]}, r"the program must be named without a template\. Got '\{\{ a \}\}'\."),
    ({"command": ["echo", "{{ aa }}"]}, r"argument '\{\{ aa \}\}': the name 'aa' is not known; there are a, b\."),
    ({"templates": {"x": "no.j2"}}, r"templates: no\.j2 cannot be read for x: No such file or directory\."),
    ({"templates": {"x": "."}}, r"templates: \. must be a file\. It is a folder or a device\."),
    ({"files": {"x": {"copy": "no"}}}, r"files: there is no file or folder no for x\."),
    ({"files": {"x": {"copy": "a", "link": "b"}}}, r"must have one of `copy` and `link`\. Got both"),
    ({"files": {"x": {}}}, r"must have one of `copy` and `link`\. Got neither"),
    ({"files": {"x": {"copi": "a"}}}, r"files\.x\.copi: this key is not known"),
    ({"files": {"x": {"copy": "plain.txt"}}, "templates": {"x": "plain.txt"}}, r"x must be a template or a working file\. Got both"),
    ({"files": {"d": {"link": "runs"}}, "templates": {"d/x": "plain.txt"}}, r"d/x must not lie below d, which is a link\."),
    ({"outputs": [{"name": "y"}]}, r"output 'y' must say where it is read: file, or `decode` for all\."),
    ({"outputs": [{"name": "y", "file": "f", "colum": 1}]}, r"the key 'colum' is not known.* Did you mean \"column\"\?"),
    ({"outputs": [{"name": "y", "file": "f", "column": 0}]}, r"column must be a name, or a number counted from 1\. Got 0\."),
    ({"outputs": [{"name": "y", "file": "f", "row": 0}]}, r"row must be counted from 1, or from the end by -1"),
    ({"outputs": [{"name": "y", "file": "f", "coordinate": "k", "at": {"file": "no.txt"}}]}, r"output 'y': at: there is no file no\.txt"),
    ({"outputs": [{"name": "y", "file": "f", "coordinate": "k", "at": {"fil": "x"}}]}, r"output 'y': at must be numbers, or \{file: PATH"),
    ({"outputs": [{"name": "y", "file": "f"}], "read": {"y": {"file": "g"}}}, r"output 'y' must be read at one place"),
    ({"read": {"z": {"file": "g"}}}, r"read must name outputs: y\. Got 'z'\."),
    ({"success": {"pattern": {"file": "f"}}}, r"success\.pattern must have one of `text` and `regex`\. Got neither\."),
    ({"success": {"pattern": {"file": "f", "regex": "("}}}, r"success\.pattern\.regex must be a regular expression\."),
    ({"success": {"exit": 0}}, r"success\.exit: this key is not known\. Keys allowed here: exit_code, file, pattern\."),
    ({"environment": {"A=B": "1"}}, r"environment: a name must be made of letters, digits and _\. Got 'A=B'\."),
    ({"decode": "no_module_here:f", "outputs": [{"name": "y"}]}, r"decode: 'no_module_here:f' cannot be imported"),
    ({"keep": "all"}, r"keep: must be 'never', 'failed' or 'always'\. Got 'all'\."),
])  # fmt: skip
def test_wrong_settings_are_answered_with_a_sentence(here, settings, sentence):
    (here / "plain.txt").write_text("x\n")
    with pytest.raises(InputError, match=sentence):
        _ = command(**{"command": ["echo", "1"], **settings}).version


def alive(mark):
    listed = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if f"sleep {mark}" in line and "sh -c" not in line]


@pytest.mark.parametrize("script", ["sleep 1{n}; echo 1", "setsid sleep 1{n} & sleep 1{n}", "trap '' TERM; sleep 1{n}"])
def test_an_interrupted_run_leaves_no_process(script, here):
    mark = f"{os.getpid()}{abs(hash(script)) % 10000}"
    simulator = shell(script.replace("{n}", mark))
    threading.Timer(0.7, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        simulator.run(THETA, seed=0)
    time.sleep(0.1)
    assert alive(f"1{mark}") == []
    assert list((here / "runs").iterdir()) == []


def test_what_a_good_run_left_in_the_background_is_ended():
    mark = f"2{os.getpid()}77"
    shell(f"sleep {mark} & echo 1").run(THETA, seed=0)
    time.sleep(0.1)
    assert alive(mark) == []


def test_a_runner_kills_it_with_everything_it_started(here):
    mark = f"3{os.getpid()}55"
    simulator = shell(f"setsid sleep {mark} & sleep {mark}")
    with Runner({**plain(simulator), "space": SPACE.to_dict()}, limits=Limits(timeout=2.0)) as runner:
        answer = runner.run(THETA.tolist(), seed=0)
        assert answer.failure.kind == "timeout"
    assert alive(mark) == []


def test_a_run_inside_the_runner_is_that_of_the_library():
    simulator = command(
        "printf", "%s\n", "{{ exp(a) }}", "{{ b }}", outputs=[{"name": "y", "size": 2, "file": "stdout.txt"}]
    )
    with Runner({**plain(simulator), "space": SPACE.to_dict()}, limits=Limits(timeout=60.0)) as runner:
        answer = runner.run(THETA.tolist(), seed=0)
        assert runner.identity == identity(simulator)
    np.testing.assert_array_equal(answer.y, simulator.run(THETA, seed=0).numpy())
