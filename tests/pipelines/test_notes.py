"""What MLflow's pages say: read as text here, and as pages in `tests/browser`."""

import pytest

from pipelines import notes

CONFIG = {
    "name": "beam",
    "parameters": {
        "load": {"uniform": {"low": 0.5, "high": 1.5}, "unit": "kN", "label": "F"},
        "length": {"normal": {"mean": 1.0, "sd": 0.25}, "unit": "m"},
    },
    "simulator": {"use": "linear_gaussian"},
    "design": {"use": "sobol", "runs": 40, "held_out": 20},
    "emulators": {"gp": {"use": "gp"}, "quadratic": {"use": "polynomial"}},
    "infer": {"likelihood": {"use": "gaussian"}, "sampler": {"use": "hmc"}, "npe": None},
}


def finding(name: str, *, passed: bool = True, blocking: bool = True, sentence: str = "So it is.") -> dict:
    return {
        "name": name,
        "value": 0.5,
        "low": None,
        "high": 1.0,
        "sentence": sentence,
        "passed": passed,
        "blocking": blocking,
    }


def test_an_experiment_says_what_is_asked():
    lines = notes.experiment(CONFIG).splitlines()
    assert lines[0] == "linear_gaussian as a function of load, length, and what stands in for it."
    assert lines[2:7] == [
        "| parameter | prior | unit |",
        "|---|---|---|",
        "| load | uniform 0.5 to 1.5 | kN |",
        "| length | normal mean 1, sd 0.25 | m |",
        "",
    ]
    assert lines[7:10] == [
        "- **runs**: 40 to train on (sobol), 20 held out",
        "- **emulators**: gp (gp), quadratic (polynomial)",
        "- **posterior**: likelihood gaussian, sampler hmc",
    ]
    assert lines[-1] == '`emulate.load("models:/beam@champion")` loads the emulator that passed its checks.'


@pytest.mark.parametrize("config", [{}, {"emulators": ["gp"], "parameters": None, "infer": None}])
def test_an_old_journal_is_no_reason_to_say_nothing(config):
    assert notes.experiment(config).startswith("A simulator, and what stands in for it.")


@pytest.mark.parametrize("n", [2, 5, 5000])
def test_notes_are_no_longer_than_a_database_allows(n):
    parameters = {f"p{i}": {"uniform": [0, 1], "unit": "|"} for i in range(n)}
    assert len(notes.experiment(CONFIG | {"parameters": parameters})) <= notes.PLACE
    rows = [("validate/gp", finding(f"accuracy.{i}", sentence="far " * 100)) for i in range(n)]
    assert 0 < len(notes.run(rows)) <= notes.RUN
    assert len(notes.version("gp", {"use": "gp"}, {}, [f for _, f in rows], "used.")) <= notes.PLACE


def test_a_run_says_first_what_failed():
    rows = [("check", finding("good")), ("check", finding("advice", passed=False, blocking=False)),
            ("check", finding("bad", passed=False, sentence="a | b"))]  # fmt: skip
    assert notes.run(rows).splitlines() == [
        "1 of 3 findings passed. What blocks: bad.",
        "",
        "| | finding | value | allowed | |",
        "|---|---|---|---|---|",
        "| FAILED | check: bad | 0.5 | at most 1 | a \\| b |",
        "| failed (does not block) | check: advice | 0.5 | at most 1 | So it is. |",
        "| passed | check: good | 0.5 | at most 1 | So it is. |",
    ]
    assert notes.run(rows[:1]).splitlines()[0] == "1 of 1 finding passed. None that blocks failed."


def test_a_version_says_how_it_was_made_and_how_good_it_is():
    recipe, scores = (
        {"use": "gp", "log": True, "kernel": "", "inputs": []},
        {"median": 0.00123, "log_score": 12.3456, "runs": 40},
    )
    text = notes.version("gp", recipe, scores, [finding("accuracy.median")], "the emulator that was used.")
    assert text.splitlines()[0] == "gp, the emulator that was used."
    assert "| median error of a held-out run | 0.123 % |" in text
    assert "| mean log density | 12.35 |" in text
    assert "| passed | accuracy.median | 0.5 | at most 1 | So it is. |" in text
    assert text.splitlines()[-1] == "Recipe: gp, log True."


def test_the_registered_model_says_what_its_aliases_mean():
    text = notes.model("beam")
    assert "`champion`" in text
    assert "`challenger`" in text
    assert 'emulate.load("models:/beam@champion")' in text
