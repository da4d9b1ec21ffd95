"""What is shipped: metadata, extras and types of the checkout; a wheel that works where there is no checkout."""

import ast
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from typer.testing import CliRunner

import emulate
from emulate import gradients
from pipelines.cli import app

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SOURCES = sorted([*(ROOT / "emulate").rglob("*.py"), *(ROOT / "pipelines").rglob("*.py")])
STUDY = """
name: line
simulator: {use: linear_gaussian, outputs_count: 3}
design: {runs: 12, held_out: 6}
cluster: {use: serial}
emulators: {quadratic: {use: polynomial}}
infer: null
tracking: {uri: off}
"""
FIT = """
import numpy as np, emulate, emulate.references
from emulate.emulators.gp import GP
x = np.linspace(0, 1, 12)[:, None]
space = emulate.Space((emulate.Parameter("a", emulate.Uniform(0, 1)),))
runs = emulate.Runs.of(space, emulate.Outputs((emulate.Field("y"),)), x, 3 + np.sin(3 * x))
at = emulate.fit(GP(), runs, seed=0).predict({"a": 0.37})
print(emulate.__file__)
print(emulate.__version__)
print(abs(float(at.mean) - 3 - np.sin(1.11)))
print(len(emulate.references.references()))
"""


def test_one_version():
    assert emulate.__version__ == PROJECT["version"] == metadata.version("emulate")
    printed = CliRunner().invoke(app, ["--version"])
    assert (printed.exit_code, printed.stdout) == (0, f"emulate {PROJECT['version']}\n")


def test_extras_named_in_sentences_exist():
    texts = {p: p.read_text() for p in [*SOURCES, ROOT / "README.md", *(ROOT / "notebooks").glob("*.ipynb")]}
    named = {extra for text in texts.values() for group in re.findall(r"emulate\[([a-z, ]+)\]", text)
             for extra in re.split(r"[, ]+", group)}  # fmt: skip
    assert {"cosmology", "hist", "pythia"} <= named
    assert named <= set(PROJECT["optional-dependencies"])


def test_pythons_are_those_of_the_classifiers():
    told = {c.rsplit(" ", 1)[1] for c in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", c)}
    assert told == {"3.11", "3.12", "3.13"}
    assert PROJECT["requires-python"] == ">=3.11"
    assert f"{sys.version_info.major}.{sys.version_info.minor}" in told


@pytest.mark.parametrize(("module", "door"), [("emulate", emulate), ("emulate.gradients", gradients)])
def test_a_type_checker_sees_the_names_that_a_door_gives(module, door):
    """The imports under TYPE_CHECKING are the names of `__all__`, from the modules that they come of at run time."""
    tree = ast.parse(Path(door.__file__).read_text())
    shown = {}
    for node in tree.body:
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            for line in (x for x in node.body if isinstance(x, ast.ImportFrom)):
                shown |= {a.asname or a.name: (line.module, a.name) for a in line.names}
    assert set(shown) == set(door.__all__)
    for name, (home, own) in shown.items():
        at_home = (
            importlib.import_module(f"{home}.{own}")
            if home == "emulate"
            else getattr(importlib.import_module(home), own)
        )
        assert getattr(door, name) is at_home, f"{module}.{name}"


@pytest.mark.slow
def test_types_hold():
    """pyright, basic, on the whole library."""
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--outputjson"]
    found = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    told = json.loads(found.stdout)
    said = [f"{d['file']}:{d['range']['start']['line'] + 1}: {d['message']}" for d in told["generalDiagnostics"]]
    assert told["summary"]["filesAnalyzed"] > 200
    assert said == []


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    if not (uv := shutil.which("uv")):
        pytest.skip("uv builds the packages, and is not there")
    out = tmp_path_factory.mktemp("dist")
    subprocess.run([uv, "build", "--quiet", "--out-dir", out, ROOT], check=True)
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    return uv, wheel, sdist


@pytest.mark.slow
def test_packages_hold_what_they_need_and_no_more(built):
    _, wheel, sdist = built
    with zipfile.ZipFile(wheel) as z:
        inside = set(z.namelist())
        told = z.read(next(n for n in inside if n.endswith("METADATA"))).decode()
        entries = z.read(next(n for n in inside if n.endswith("entry_points.txt"))).decode()
    tracked = subprocess.run(
        ["git", "ls-files", "emulate", "pipelines"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    info = {n for n in inside if ".dist-info/" in n}
    assert inside - info == set(tracked.stdout.split())
    assert {"emulate/py.typed", "emulate/references.bib", "pipelines/report.html.j2"} <= inside
    assert "emulate = pipelines.cli:main" in entries
    assert f"\nVersion: {PROJECT['version']}\n" in told
    assert "\nDescription-Content-Type: text/markdown\n" in told
    assert "\nLicense-Expression: Apache-2.0\n" in told
    assert set(re.findall(r"^Provides-Extra: (\S+)$", told, re.M)) == set(PROJECT["optional-dependencies"])
    with tarfile.open(sdist) as t:
        names = {n.split("/", 1)[1] for n in t.getnames() if "/" in n}
    files = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=True, cwd=ROOT).stdout.split()
    assert names - {"PKG-INFO"} <= set(files)
    assert {
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        "emulate/py.typed",
        "configs/linear.yaml",
    } <= names


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_wheel_works_without_the_checkout(built, tmp_path):
    uv, wheel, _ = built
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, tmp_path / "env"], check=True)
    known = {d.metadata["Name"]: d.version for d in metadata.distributions() if d.metadata["Name"] != "emulate"}
    (tmp_path / "known.txt").write_text("".join(f"{name}=={version}\n" for name, version in known.items()))
    subprocess.run(
        [uv, "pip", "install", "--quiet", "--python", python, "--constraint", tmp_path / "known.txt", wheel], check=True
    )
    work = tmp_path / "work"
    work.mkdir()
    (work / "study.yaml").write_text(STUDY)
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}

    def run(*words: str) -> str:
        done = subprocess.run(
            [python.parent / words[0], *words[1:]], capture_output=True, text=True, cwd=work, env=clean
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "Differentiable stand-ins" in run("emulate", "--help")
    assert run("emulate", "--version") == f"emulate {PROJECT['version']}\n"
    assert "linear_gaussian" in run("emulate", "list", "simulators")
    run(
        "emulate",
        "init",
        "own.yaml",
        "--command",
        "true",
        "--input",
        "",
        "--parameter",
        "a=0:1",
        "--output",
        "y=out.csv",
    )
    assert "use: command" in (work / "own.yaml").read_text()
    run("emulate", "run", "study.yaml")
    assert "<html" in next((work / "runs" / "line").rglob("*.html")).read_text()
    assert "@article" in run("emulate", "cite", "study.yaml")
    where, version, error, works = run("python", "-c", FIT).split()
    assert Path(where).is_relative_to(tmp_path / "env")
    assert version == PROJECT["version"]
    assert float(error) < 1e-3
    assert int(works) > 100
