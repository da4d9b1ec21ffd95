"""What a fit costs: of the right size, said before it where it is long, and refused where no memory holds it."""

import numpy as np
import pytest

import emulate
from emulate import costs, registry
from emulate.emulators.gp import GP
from emulate.emulators.gradient_gp import GradientGP
from emulate.emulators.polynomial import Polynomial
from emulate.emulators.svgp import SVGP
from emulate.errors import InputError
from pipelines.config import load_study
from pipelines.stages.train import cost
from tests.emulators.test_gp import sobol, table
from tests.pipelines.test_config import STUDY

MEASURED = [  # recipe, n, d, p, CPU seconds on one core of a busy machine
    (GP(), 300, 6, 1, 0.5),
    (GP(), 600, 6, 1, 2.0),
    (GP(), 600, 6, 4, 7.8),
    (GP(), 1500, 6, 1, 10.8),
    (SVGP(), 3000, 6, 1, 2.5),
    (SVGP(), 3000, 6, 4, 8.4),
    (SVGP(), 20000, 6, 1, 10.7),
    (GradientGP(), 150, 6, 1, 7.5),
    (GradientGP(), 250, 6, 1, 29.9),
]


@pytest.mark.parametrize(("recipe", "n", "d", "p", "seconds"), MEASURED)
def test_it_is_within_a_factor_of_three_of_what_was_measured(recipe, n, d, p, seconds):
    assert seconds / 3 < recipe.cost(n, d, p).seconds < 3 * seconds


@pytest.mark.parametrize("name", registry.names("emulators"))
def test_more_runs_never_cost_less(name):
    recipe = registry.build("emulators", {"use": name, **registry.find("emulators", name).example})
    found = [recipe.cost(n, 5, 3) for n in (50, 500, 5000)]
    assert all(c is None for c in found) or (
        found[0].seconds < found[1].seconds < found[2].seconds and found[0].bytes < found[1].bytes < found[2].bytes
    )


def test_a_long_fit_is_announced_and_a_short_one_is_not():
    u = sobol(2000, 2, 0)
    assert cost(GP(), table(u, u.sum(1))) == "gp: about 22 s and 0.6 GiB for 2000 runs x 1 component"
    assert cost(GP(), table(u[:50], u[:50].sum(1))) == ""
    assert cost(Polynomial(), table(u, u.sum(1))) == ""


def test_what_no_memory_can_hold_is_refused_with_what_to_do(monkeypatch):
    monkeypatch.setattr(costs, "memory", lambda: 2.0 * costs.GIB)
    u = sobol(8, 2, 0)
    runs = table(np.tile(u, (1000, 1)), np.tile(u.sum(1), 1000))
    with pytest.raises(InputError) as caught:
        emulate.fit(GP(log=False), runs, seed=0)
    assert str(caught.value) == ("gp: a fit must be held in memory, of which there are 2 GiB. 8000 runs take "
                                 "about 9.54 GiB; use svgp, or a network such as mlp.")  # fmt: skip
    assert SVGP().cost(8000, 2, 1).bytes < 2 * costs.GIB


def test_a_study_that_no_memory_holds_is_refused_before_the_first_run(monkeypatch, tmp_path):
    monkeypatch.setattr(costs, "memory", lambda: 2.0 * costs.GIB)
    (tmp_path / "study.yaml").write_text(STUDY.replace("second: {use: polynomial, log: false}", "second: {use: gp}")
                                         .replace("runs: 32", "runs: 6000"))  # fmt: skip
    with pytest.raises(InputError, match=r"emulators\.second: a fit must be held in memory, of which there are 2 GiB\. "
                       r"design\.runs = 6000 take about [\d.]+ GiB; use svgp, or a network such as mlp\.$"):  # fmt: skip
        load_study(tmp_path / "study.yaml")
