"""Each block of Python of the page on extending is a file of a package of its own; its class keeps the laws of its room."""

import os
import re
import subprocess
import sys

import pytest

from emulate import contracts, registry
from pipelines import yaml12
from pipelines.config import load_study
from tests import pages
from tests.pages import MANUAL, ROOT

PAGE = MANUAL / "extending.md"
FILES = dict(re.fullmatch(r"# (my_lab/\w+\.py)\n(.*)", b.text, re.S).groups() for b in pages.blocks(PAGE, "python"))


def _class(file: str) -> str:
    """`my_lab.decay:Decay`: the one public class of a file."""
    (name,) = re.findall(r"^class ([A-Z]\w+)\(", FILES[file], re.M)
    return f"{file.removesuffix('.py').replace('/', '.')}:{name}"


CLASSES = [_class(file) for file in FILES]


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """The package in a folder that Python finds, here and in processes that are started from here."""
    for file, text in FILES.items():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(text)
    (tmp_path / "my_lab" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in [n for n in sys.modules if n.split(".")[0] == "my_lab"]:
        del sys.modules[name]


def test_there_is_one_entry_for_every_room_and_each_fits_on_a_screen_or_two(lab):
    rooms = []
    for name in CLASSES:
        (room,) = [
            r for r, contract in registry.ROOMS.items() if issubclass(_found(name), getattr(contracts, contract))
        ]
        assert registry.find(room, name) is _found(name)
        assert registry.sentence(room, name).endswith(".")
        rooms.append(room)
    assert sorted(rooms) == sorted(registry.ROOMS)
    assert max(text.count("\n") for text in FILES.values()) <= 60


def _found(name: str) -> type:
    module, _, cls = name.partition(":")
    return getattr(__import__(module, fromlist=[cls]), cls)


def test_a_study_takes_them(lab):
    """The part of a study that the page shows, with a name and parameters as they come, and a run of its simulator."""
    (part,) = pages.blocks(PAGE, "yaml")
    assert {n for n in CLASSES if n in part.text} == set(CLASSES) - {"my_lab.rows:Rows", "my_lab.blurred:Blurred"}
    (lab / "study.yaml").write_text(f"name: mine\n{part.text}")
    study = load_study(lab / "study.yaml")
    assert study.simulator.times == (0.5, 1.0, 2.0)
    assert study.emulators["mine"].length == 1.5
    assert yaml12.parse(part.text).data["checks"].keys() == {"worst"}


def _keep_the_laws(lab, names: list[str], *more: str) -> None:
    rooms = {r for r, c in registry.ROOMS.items() for n in names if issubclass(_found(n), getattr(contracts, c))}
    files = [str(ROOT / "tests" / "contracts" / f"test_{room}.py") for room in rooms]
    chosen = [x for n in names for x in ("--entry", n)]
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "my_lab", *chosen, *more,
                           *files], cwd=ROOT, capture_output=True, text=True, timeout=500)  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]
    assert re.search(r"\d+ passed", done.stdout)


QUICK = ["my_lab.decay:Decay", "my_lab.kronecker:Kronecker", "my_lab.equal:Equal", "my_lab.worst:Worst"]


def test_they_keep_the_laws_of_their_rooms(lab):
    _keep_the_laws(lab, QUICK)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*CLASSES} - {*QUICK}))
def test_it_keeps_the_laws_of_its_room(lab, name):
    _keep_the_laws(lab, [name])


def test_an_entry_that_breaks_a_law_is_told(lab):
    """A design that leaves the cube fails by the same command."""
    (lab / "my_lab" / "careless.py").write_text(
        FILES["my_lab/kronecker.py"].replace("Kronecker(", "Careless(").replace("+ np.arange(1", "+ 1 + np.arange(1")
        .replace("% 1\n", "\n"))  # fmt: skip
    with pytest.raises(AssertionError, match="test_points_lie_in_the_open_unit_cube"):
        _keep_the_laws(lab, ["my_lab.careless:Careless"], "-k", "open_unit_cube")


@pytest.mark.slow
def test_a_whole_study_of_them_runs_to_its_verdict(lab):
    (part,) = pages.blocks(PAGE, "yaml")
    more = "cluster: {use: serial}\ntracking: {uri: off}\nvalidate: {gradient: {use: 'my_lab.rows:Rows'}}\n"
    (lab / "study.yaml").write_text(f"name: mine\n{part.text}{more}")
    done = subprocess.run([sys.executable, "-c", "from pipelines.cli import main; main()", "run", "study.yaml"], cwd=lab,
                          capture_output=True, text=True, timeout=500)  # fmt: skip
    assert done.returncode in (0, 1), done.stdout[-3000:] + done.stderr[-3000:]
    assert "worst.error" in done.stdout
