"""What a shell offers: asked through real shells where they are installed; every offer is held against what reads it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from emulate import registry
from pipelines.commands import completion

ROOT = Path(__file__).parents[2]
STUDY = """
name: line
parameters: {a: {uniform: [0, 1]}, b: {uniform: [0, 1]}}
simulator: {use: linear_gaussian, outputs_count: 4}
design: {use: latin_hypercube, runs: 24}
cluster: {use: serial}
emulators: {fine: {use: gp}, rough: {use: polynomial, degree: 3}}
infer: {draws: 77, likelihood: {use: gaussian, absolute_error: 0.1}}
"""


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.yaml").write_text(STUDY)
    (tmp_path / "notes.txt").write_text("")
    made = tmp_path / "runs/line/emulators/fine"
    made.mkdir(parents=True)
    (made / "emulator.json").write_text("{}")
    command = tmp_path / "bin" / "emulate"
    command.parent.mkdir()
    command.write_text(f"#!/bin/sh\nexec {sys.executable} -c 'import sys; sys.argv[0] = \"emulate\"; "
                       "from pipelines.cli import main; main()' \"$@\"\n")  # fmt: skip
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path


def offered(*words: str) -> list[str]:
    """What bash would show behind these words, the last of them begun, by the script that it is given."""
    script = f"""
source <(emulate --show-completion)
COMP_WORDS=({" ".join(f"'{w}'" for w in words)}) COMP_CWORD={len(words) - 1}
_emulate_completion emulate
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    if shutil.which("bash") is None:
        pytest.skip("there is no bash")
    done = subprocess.run(["bash", "--norc", "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(("words", "some"), [
    (("emulate", "ident"), {"identifiability"}),
    (("emulate", "run", "st"), {"study.yaml"}),
    (("emulate", "run", "study.yaml", "--set", "infer.dr"), {"infer.draws=77"}),
    (("emulate", "predict", ""), {"runs/line/emulators/fine"}),
])  # fmt: skip
def test_bash_offers(here, words, some):
    assert set(offered(*words)) == some


@pytest.mark.parametrize(("shell", "line"), [
    ("zsh", "emulate list simul"), ("fish", "emulate list simul"),
])  # fmt: skip
def test_other_shells_have_a_script(here, shell, line):
    """The script of the shell calls the command with these variables; its own grammar is checked where it is installed."""
    more = {
        "_EMULATE_COMPLETE": f"complete_{shell}",
        "_TYPER_COMPLETE_ARGS": line,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    said = subprocess.run(["emulate"], capture_output=True, text=True, env=os.environ | more).stdout
    assert "simulators" in said
    if shutil.which(shell):
        shown = subprocess.run(
            [shell, "-c", "emulate --show-completion; true"], capture_output=True, text=True, check=True
        )
        checked = subprocess.run([shell, "-n"], input=shown.stdout, capture_output=True, text=True)
        assert checked.returncode == 0, checked.stderr


def test_completion_is_light(here):
    """A shell waits for it: no torch, no numpy."""
    code = ("import sys; sys.argv = ['emulate']; from pipelines.cli import main\n"
            "try: main()\nexcept SystemExit: pass\nprint('\\nLOADED', *{m.split('.')[0] for m in sys.modules})")  # fmt: skip
    words = "emulate run study.yaml --set simulator."
    env = os.environ | {"_EMULATE_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": "4"}
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True).stdout
    assert "simulator.outputs_count=4" in said
    assert not {"torch", "numpy", "dask", "mlflow", "matplotlib", "pandas"} & set(said.rsplit("LOADED", 1)[1].split())


def keys(begun: str) -> dict[str, str]:
    said = dict(completion.keys(SimpleNamespace(params={"study": Path("study.yaml")}), begun))
    return dict(offer.partition("=")[::2] for offer in said)


def test_every_offered_key_is_read_as_it_is_offered(here):
    """All at once, for each is the value that holds; a section that the study has not may ask for more."""
    from pipelines.config import load_study

    offers = {k: v for k, v in keys("").items() if v}
    assert len(offers) > 50
    study = load_study("study.yaml", [f"{k}={v}" for k, v in offers.items() if not k.startswith("optimise.")])
    assert study.infer.draws == 77
    assert study.emulators["rough"].degree == 3


def test_every_key_of_the_schema_is_offered(here):
    """The schema is made by pydantic from the same records; completion reads their text."""
    from pipelines.schema import schema

    made = schema()
    offers = keys("")
    for name, section in made["properties"].items():
        part = made["$defs"].get(section.get("$ref", "").rpartition("/")[2], {})
        for key in part.get("properties", {}):
            if f"{name}.{key}" not in completion._ROOM_OF and name in (
                "simulate",
                "train",
                "validate",
                "check",
                "tracking",
            ):
                assert any(o == f"{name}.{key}" or o.startswith(f"{name}.{key}.") for o in offers), f"{name}.{key}"
    for place, room, use in (("emulators.rough", "emulators", "polynomial"), ("emulators.fine", "emulators", "gp"),
                             ("simulator", "simulators", "linear_gaussian")):  # fmt: skip
        known = set(made["$defs"][f"{room}.{use}"]["properties"])
        mine = {o.removeprefix(f"{place}.") for o in offers if o.startswith(f"{place}.")}
        assert known <= mine | {"space"}, place


def test_values_are_offered_behind_the_equals_sign(here):
    offers = [o for o, _ in completion.keys(SimpleNamespace(params={"study": Path("study.yaml")}), "design.use=s")]
    assert offers == [f"design.use={n}" for n in registry.names("designs") if n.startswith("s")]
    flags = [o for o, _ in completion.keys(SimpleNamespace(params={"study": Path("study.yaml")}), "infer.feasible=")]
    assert flags == ["infer.feasible=true", "infer.feasible=false"]


def test_rooms_entries_and_names_of_emulators(here):
    context = SimpleNamespace(params={"study": Path("study.yaml"), "room": "designs"})
    assert completion.rooms("sim") == ["simulators"]
    assert completion.entries(context, "so") == ["sobol"]
    assert completion.names_of_emulators(context, "") == ["fine", "rough"]
    assert "notes.txt" not in completion.studies("")
    assert completion.studies("no/such/folder/") == []


@pytest.mark.parametrize("text", ["name: [", "", "- 1", "emulators: 3", "a: \x00"])
def test_a_study_that_cannot_be_read_stops_no_completion(here, text):
    Path("study.yaml").write_text(text)
    assert "infer.draws" in keys("infer.")
