"""One thread for each process of the tests: several share the cores (`-n logical`), and small tensors lose by more.

`--entry package.module:Class` holds a class of yours to the laws of its room, in place of the entries of the folder:
`uv run pytest tests/contracts/test_emulators.py --entry my_lab.kriging:Kriging`.

Fixtures that more than one folder of tests uses; what they need is imported when they are asked for.
"""

import os
import shutil
import sys
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("untimed", deadline=None)  # a busy machine is no fault of a property
settings.load_profile("untimed")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # else every process that a test starts compiles torch anew
sys.dont_write_bytecode = False
SLOW = Path(__file__).with_name("slow.txt")


def pytest_addoption(parser):
    parser.addoption(
        "--entry", action="append", default=[], metavar="MODULE:CLASS", help="hold this class to its room's laws"
    )


def pytest_configure(config):
    from tests.entries import NAMED

    NAMED[:] = config.getoption("--entry")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Mark what `slow.txt` names: a file, a test, or one of its cases; a line that names nothing in its file is wrong."""
    lines = [x for x in SLOW.read_text().splitlines() if x and not x.startswith("#")]
    met, seen = set(), set()
    whole = not config.getoption("--entry") and not any("::" in a for a in config.args)
    for item in items:
        file = item.nodeid.partition("::")[0]
        seen.add(file)
        for name in (file, item.nodeid.partition("[")[0], item.nodeid):
            if name in lines:
                met.add(name)
                item.add_marker(pytest.mark.slow)
    if whole and (stale := [x for x in lines if x not in met and x.partition("::")[0] in seen]):
        raise pytest.UsageError(f"tests/slow.txt must name tests. Got {', '.join(stale)}; take them out.")


@pytest.fixture(scope="session", autouse=True)
def fonts_as_they_are():
    """Cutting letters out of fonts is a third of the time of a small study; tests/pipelines/test_report_figures.py asks for it."""
    from pipelines import files

    files.FONTS, before = 3, files.FONTS
    yield before
    files.FONTS = before


@pytest.fixture(scope="session")
def migrated(tmp_path_factory):
    """One empty database with MLflow's tables, copied for every test: making it takes long."""
    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    from pipelines import tracking

    tracking._client(f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture
def place(migrated, tmp_path, monkeypatch):
    """An empty working folder with a database, as `emulate run` would find it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(migrated, tmp_path / "mlflow.db")
    return tmp_path


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """The folder of a polynomial that was fitted to s = a + b and pk(k = 0.1) = a b^2, with what checks found of it."""
    import numpy as np
    import torch

    from emulate.contracts import Finding
    from emulate.designs.sobol import Sobol
    from emulate.emulator import fit
    from emulate.emulators.polynomial import Polynomial
    from emulate.loading import keep
    from emulate.runs import Field, Outputs, Runs
    from emulate.space import Parameter, Space, Uniform

    space = Space((Parameter("a", Uniform(0.0, 1.0)), Parameter("b", Uniform(2.0, 4.0))))
    theta = space.from_unit(torch.tensor(Sobol().points(32, 2, seed=1))).numpy()
    y = np.stack([theta.sum(1), theta[:, 0] * theta[:, 1] ** 2], 1)
    runs = Runs.of(space, Outputs((Field("s"), Field("pk", coordinate="k", at=(0.1,)))), theta, y)
    path = fit(Polynomial(), runs, seed=0).save(tmp_path_factory.mktemp("emulator") / "gp")
    keep(path, [Finding("coverage", 0.7, 0.6, 0.76, "About the coverage.")], {"median": 0.01})
    return path
