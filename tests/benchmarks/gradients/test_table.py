"""One table of every figure that is known of the room of gradients: truth, estimate, standard error, z, calls, seconds.

    pytest -m benchmark -s tests/benchmarks/gradients/test_table.py

A row is `exact`; or `holds`: its interval of 99.99 %, widened by the bias bound, holds the truth; or says `bias unknown`.
"""

import itertools

import pytest

from tests.benchmarks.gradients.cases import CASES
from tests.benchmarks.gradients.figures import FIGURES
from tests.benchmarks.gradients.running import measured
from tests.benchmarks.gradients.table import HEAD

pytestmark = pytest.mark.benchmark


@pytest.mark.timeout(1800)
def test_every_figure(capsys):
    """Every method of the room on every case, then what is no derivative. Costs are printed, not judged."""
    wrong = []
    of_cases = ((case.name, *measured(case)) for case in CASES)
    of_figures = ((title, list(made()), []) for title, made in FIGURES.items())
    with capsys.disabled():
        print("\n" + HEAD)
        for title, rows, refused in itertools.chain(of_cases, of_figures):
            lines = [title, *(row.line for row in rows)]
            lines += [f"  refused, in a sentence, by {', '.join(refused)}"] if refused else []
            print(*lines, sep="\n", flush=True)
            wrong += [
                f"{title}: {row.method}"
                for row in rows
                if row.verdict in ("WRONG", "OVER") and "reported" not in row.note
            ]
    assert wrong == []
