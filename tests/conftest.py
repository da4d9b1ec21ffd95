"""One thread for each process of the tests: several share the cores (`-n logical`), and small tensors lose by more.

`--entry package.module:Class` holds a class of yours to the laws of its room, in place of the entries of the folder:
`uv run pytest tests/contracts/test_emulators.py --entry my_lab.kriging:Kriging`.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_addoption(parser):
    parser.addoption(
        "--entry", action="append", default=[], metavar="MODULE:CLASS", help="hold this class to its room's laws"
    )


def pytest_configure(config):
    from tests.entries import NAMED

    NAMED[:] = config.getoption("--entry")
