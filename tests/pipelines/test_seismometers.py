"""The study of seismometers as users run it: families of constraints, the way of the search, the picture on the page."""

import json
from pathlib import Path

import numpy as np
import pytest

from emulate.errors import InputError
from pipelines.config import load_study
from tests.commands import emulate

CONFIG = Path(__file__).parents[2] / "configs" / "seismometers.yaml"


def test_a_family_of_constraints_is_asked_for_by_the_beginning_of_its_names():
    assert load_study(CONFIG).optimise.subject_to == ("spacing", "forbidden")
    with pytest.raises(
        InputError, match=r"subject_to.0: .*The simulator's own constraints are spacing_1_2, spacing_1_3"
    ):
        load_study(CONFIG, ["optimise.subject_to=[distance]"])


@pytest.mark.slow
def test_the_plan_is_improved_by_the_simulator_itself_and_drawn(tmp_path):
    by = ["optimise.by=simulator", "optimise.starts=4", "simulator.events=16", "output=out"]
    code, said = emulate(tmp_path, "run", str(CONFIG), *(x for one in by for x in ("--set", one)))
    assert code == 0, said
    found = json.loads((tmp_path / "out" / "optimise" / "optimum.json").read_text())
    assert found["confirmed"]["gained"]
    assert {c["text"].split("_")[0] for c in found["constraints"]} == {"spacing", "forbidden"}
    at = np.array(list(found["theta"].values())).reshape(3, 2)
    apart = [np.hypot(*(at[i] - at[j])) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert min(apart) > 15 - 0.05
    assert (np.hypot(*(at - [20, 13]).T) > 8 - 0.05).all()
    assert (tmp_path / "out" / "optimise" / "picture.png").stat().st_size > 20_000
    assert "lines are the way of each station" in (tmp_path / "out" / "report" / "index.html").read_text()
