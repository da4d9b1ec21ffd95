"""The house keeps its own rules: floors, rooms, docstrings; `tests/manual` holds what the Markdown pages say."""

import ast
import functools
import inspect
import io
import itertools
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

from emulate import registry

ROOT = Path(__file__).parents[1]
SOURCES = sorted([*(ROOT / "emulate").rglob("*.py"), *(ROOT / "pipelines").rglob("*.py")])
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
ENTRIES = [(room, name) for room in registry.ROOMS for name in registry.names(room)]
TOP = {"pyproject.toml", "README.md", "emulate", "pipelines", "tests", "configs", "notebooks", "CHANGELOG.md", "LICENSE",
       "SECURITY.md"}  # fmt: skip


def _id(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return done.stdout


@functools.cache
def _imported() -> dict[Path, set[str]]:
    """The packages that each file imports, wherever in it."""
    found = {}
    for path in SOURCES:
        nodes = list(ast.walk(ast.parse(path.read_text())))
        modules = [a.name for node in nodes if isinstance(node, ast.Import) for a in node.names]
        modules += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
        found[path] = {m.split(".")[0] for m in modules}
    return found


def _tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=True, cwd=ROOT)
    return listed.stdout.splitlines()


def test_floors_hold():
    done = subprocess.run([Path(sys.executable).parent / "lint-imports"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        ("dask", {"pipelines/cluster.py"}),
        ("distributed", {"pipelines/cluster.py"}),
        ("yaml", {"pipelines/config.py", "pipelines/yaml12.py"}),
        ("mlflow", {"pipelines/tracking.py", "pipelines/pyfunc.py", "pipelines/replay.py"}),
        ("pickle", set()),
    ],
)
def test_one_door_to_each_service(package, allowed):
    assert {_id(path) for path, packages in _imported().items() if package in packages} <= allowed


def test_the_top_level_is_fixed():
    names = {name.split("/")[0] for name in _tracked()}
    assert {n for n in names if not n.startswith(".")} <= TOP


def test_nothing_unsafe_is_called():
    bad = re.compile(r"shell=True|yaml\.load\(|torch\.load\(|allow_pickle=True|(?<![\w.])(eval|exec)\(|os\.system")
    assert [f"{_id(p)}: {m.group()}" for p in SOURCES for m in bad.finditer(p.read_text())] == []


def test_no_room_is_called_utils():
    vague = {"utils", "helpers", "base", "core", "common", "manager", "misc"}
    assert [_id(p) for p in SOURCES if p.stem in vague or p.parent.name in vague] == []


def test_no_global_random_state():
    bad = re.compile(r"np\.random\.(seed|rand|randn|normal|uniform|shuffle|permutation)\(|torch\.manual_seed\(")
    assert [f"{_id(p)}: {m.group()}" for p in SOURCES for m in bad.finditer(p.read_text())] == []


@pytest.mark.parametrize("path", SOURCES, ids=_id)
def test_every_module_says_what_it_is(path):
    assert ast.get_docstring(ast.parse(path.read_text())), f"{_id(path)} has no docstring"


@pytest.mark.parametrize("path", SOURCES, ids=_id)
def test_no_sentence_loses_a_space_where_two_pieces_join(path):
    """Adjacent string literals: the left must end, or the right begin, with a space, or something that needs none."""
    tokens = [t for t in tokenize.generate_tokens(io.StringIO(path.read_text()).readline)
              if t.type not in (tokenize.NL, tokenize.COMMENT)]  # fmt: skip
    lost = []
    for left, right in itertools.pairwise(tokens):
        if left.type == right.type == tokenize.STRING:
            a, b = left.string.rstrip("\"'"), right.string.lstrip("rbfRBF").lstrip("\"'")
            if re.search(r"[\w.,;:!?})]$", a) and re.match(r"[\w{(]", b) and not a.endswith("\\n"):
                lost.append(f"line {right.start[0]}: ...{a[-30:]}|{b[:30]}")
    assert lost == []


@pytest.mark.parametrize(("room", "name"), ENTRIES)
def test_an_entry_is_one_public_class_with_one_sentence(room, name):
    cls = registry.find(room, name)
    first = registry.sentence(room, name)
    assert not inspect.isabstract(cls)
    assert cls.entry_name() == name
    assert len(first) > 20, f"{room}/{name} needs a first docstring line that says what it is"
    assert first.endswith((".", "?")), f"{room}/{name}: the sentence ends with a full stop"


@pytest.mark.parametrize("room", registry.ROOMS)
def test_every_room_has_a_door_sign_and_its_laws(room):
    sign = (ROOT / "emulate" / room / "__init__.py").read_text()
    assert "Contract:" in sign
    smallest = re.search(r"imitate: `(\w+\.py)`", sign)
    assert smallest, f"{room} names no smallest entry to imitate"
    assert (ROOT / "emulate" / room / smallest[1]).exists()
    assert (ROOT / "tests" / "contracts" / f"test_{room}.py").exists()


@pytest.mark.parametrize(("room", "name"), ENTRIES)
def test_public_methods_are_documented_by_themselves_or_their_contract(room, name):
    cls = registry.find(room, name)
    silent = [n for n, f in vars(cls).items()
              if not n.startswith("_") and (inspect.isfunction(f) or isinstance(f, property)) and not inspect.getdoc(getattr(cls, n))]  # fmt: skip  # noqa: E501
    assert silent == []


def test_import_emulate_is_light():
    loaded = _python("import sys, emulate; print(' '.join({m.split('.')[0] for m in sys.modules}))").split()
    assert not {"dask", "distributed", "mlflow", "torch", "xarray", "matplotlib", "yaml", "typer"} & set(loaded)


def test_help_is_light():
    code = ("import sys; sys.argv = ['emulate', '--help']; from pipelines.cli import main\n"
            "try: main()\nexcept SystemExit: pass\nprint('\\nLOADED', *{m.split('.')[0] for m in sys.modules})")  # fmt: skip
    loaded = _python(code).rsplit("LOADED", 1)[1].split()
    assert not {"dask", "distributed", "mlflow", "torch", "xarray", "matplotlib", "numpy"} & set(loaded)


def test_the_front_door_is_whole():
    import emulate

    for name in emulate.__all__:
        assert getattr(emulate, name) is not None
        assert inspect.getdoc(getattr(emulate, name)), f"emulate.{name} has no docstring"


@pytest.mark.parametrize("path", CONFIGS, ids=_id)
def test_every_config_parses(path):
    from pipelines.config import load_study

    assert load_study(path).name


@pytest.mark.parametrize("path", [p for p in _tracked() if p.endswith((".py", ".md", ".toml", ".yaml", ".j2", "run"))])
def test_nothing_speaks_of_one_machine(path):
    """No registry hosts and no absolute path of a development machine; the project speaks of itself alone."""
    hosts = "|".join(["py" + "pi.org", "python" + "hosted", "registry.npm" + "js", "deb.deb" + "ian", "/opt/" + "wheels",
                      "/wo" + "rk/"])  # fmt: skip
    found = re.findall(hosts, (ROOT / path).read_text())
    assert found == []
