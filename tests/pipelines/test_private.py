"""A private emulator in a study: what would break its promise is refused, the page states it, utility against epsilon."""

import json
import sys

import pytest

from emulate.errors import InputError
from pipelines import report
from pipelines.config import load_study
from tests.commands import emulate

pytest.importorskip("dp_accounting", reason="privacy needs dp-accounting: pip install emulate[dp]")

STUDY = """
name: secret
seed: 5
simulator: {use: linear_gaussian, outputs_count: 2}
design: {use: sobol, runs: 40, held_out: 8}
cluster: {use: serial}
emulators:
  mlp:
    width: 8
    members: 3
    privacy: {ranges: {y0: [-6, 6], y1: [-6, 6]}, epsilon: 20, delta: 0.001, sampling: 1, steps: 12}
infer: {likelihood: {absolute_error: 0.2}, outside: ignore}
tracking: {uri: "off"}
output: out
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A study whose emulator is trained, with its curve and its page."""
    folder = tmp_path_factory.mktemp("private")
    (folder / "study.yaml").write_text(STUDY)
    for words in (("design",), ("simulate",), ("train",), ("learning-curve", "--epsilon", "10,40", "--fits", "1")):
        code, said = emulate(folder, words[0], "study.yaml", *words[1:])
        assert code == 0, said
        (folder / f"{words[0]}.txt").write_text(said)
    report.write(folder / "out")
    return folder


def test_the_missing_package_is_named_before_a_run_is_made(tmp_path, monkeypatch):
    (tmp_path / "study.yaml").write_text(STUDY)
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    code, said = emulate(tmp_path, "run", "study.yaml")
    assert code == 2
    assert "pip install emulate[dp]" in said
    assert not (tmp_path / "out").exists()


def test_training_says_the_promise(folder):
    said = " ".join((folder / "train.txt").read_text().split())
    assert "mlp: Differentially private with epsilon 19.9" in said
    assert "what is protected is one run of the simulator" in said


def test_the_page_states_the_promise_and_what_it_does_not_cover(folder):
    page = (folder / "out" / "report" / "index.html").read_text()
    told = json.loads((folder / "out" / "train" / "summary.json").read_text())["emulators"]["mlp"]["privacy"]
    assert "<h3>Privacy of mlp</h3>" in page
    for sentence in (told["promise"], *told["not_covered"]):
        assert sentence.replace("'", "&#39;") in page
    assert 'id="figure-privacy-utility"' in page


def test_the_curve_has_every_budget_and_says_what_it_would_give_away(folder):
    made = json.loads((folder / "out" / "privacy" / "summary.json").read_text())
    assert [f["epsilon"] for f in made["fits"]] == [10.0, 40.0, None]
    noise = [f["noise"] for f in made["fits"]]
    assert noise[0] > noise[1] > noise[2] == 0
    assert "Keep this curve to yourself" in made["sentence"]
    said = (folder / "learning-curve.txt").read_text()
    assert "without" in said


def test_budgets_that_are_none_are_refused(tmp_path):
    (tmp_path / "study.yaml").write_text(STUDY)
    for given in ("a,b", "0", "inf", "-1,2"):
        code, said = emulate(tmp_path, "learning-curve", "study.yaml", "--epsilon", given)
        assert code == 2
        assert "--epsilon must be budgets above 0 with commas between them" in " ".join(said.split())


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("emulators:\n", "emulators:\n  gp: {use: gp}\n", "emulators.mlp: must stand alone in its study"),
        ("cluster:", "train: {folds: 3}\ncluster:", "train.folds: must be 0 where mlp has privacy"),
        ("use: sobol", "use: active, aim: prior", "design.use: must be a design that looks at no run"),
        ("cluster:", "simulate: {until: 40}\ncluster:", "simulate.until: must be empty where mlp has privacy"),
        ("held_out: 8", "held_out: 8, replicates: 2", "design.replicates: must be 1 where mlp has privacy"),
        (", outside: ignore", "", "infer.outside: must be ignore where mlp has privacy"),
        ("y1: [-6, 6]", "y2: [-6, 6]", "privacy.ranges must give low and high of every field of the outputs: y0, y1"),
        ("epsilon: 20", "epsilon: -1", "emulators.mlp.privacy.epsilon: must be greater than 0"),
        ("epsilon: 20", "budget: 20", "emulators.mlp.privacy.budget: this key is not known"),
        ("epsilon: 20, ", "", "must have an epsilon, a noise multiplier, or both"),
    ],
)
def test_what_would_break_the_promise_is_refused(tmp_path, old, new, said):
    assert old in STUDY
    (tmp_path / "study.yaml").write_text(STUDY.replace(old, new))
    with pytest.raises(InputError) as caught:
        load_study(tmp_path / "study.yaml")
    assert said in str(caught.value)


def test_no_check_asks_where_the_runs_lie(tmp_path):
    (tmp_path / "study.yaml").write_text(STUDY)
    assert "domain" not in load_study(tmp_path / "study.yaml").checks
