"""`emulate sensitivity` on a study whose indices are known in closed form: what it prints, writes, draws and logs."""

import csv
import json
import os
import re
from pathlib import Path

import matplotlib
import numpy as np
import pytest

from emulate.indices import Indices, Measure
from emulate.runs import Field, Outputs
from emulate.space import Parameter, Space, Uniform
from pipelines import files
from pipelines.config import load_study
from pipelines.engine import _lock
from pipelines.engine import run as run_stages
from pipelines.figures import sensitivity as figures
from pipelines.journal import Journal
from pipelines.report import render
from pipelines.sensitivity import leading, narrower
from pipelines.terminal import Terminal
from tests.commands import emulate

matplotlib.use("Agg")
STUDY = """
name: shares
seed: 3
parameters:
  a: {uniform: [0, 1], unit: kg, label: '\\alpha'}
  b: {normal: [1, 0.5]}
simulator:
  use: function
  call: shared_simulator:f
  outputs: [{name: p, coordinate: k, at: [1, 2, 4]}, {name: q}, {name: still}]
design: {runs: 32, held_out: 8}
cluster: {use: serial}
emulators: {quadratic: {use: polynomial}, gp: {use: gp, starts: 1}}
validate: {gradient: {use: finite_difference}}
infer: {likelihood: {use: gaussian, absolute_error: 0.1}}
tracking: {uri: "off"}
"""
SIMULATOR = """
def f(p):
    a, b = p["a"], p["b"]
    return [*(k * a + b for k in (1, 2, 4)), a - b, 7.0]
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> tuple[Path, Path, str]:
    """The study run up to validate, the folder of its indices, and what the command printed."""
    folder = tmp_path_factory.mktemp("shares")
    (folder / "study.yaml").write_text(STUDY)
    (folder / "shared_simulator.py").write_text(SIMULATOR)
    before = Path.cwd()
    os.chdir(folder)
    try:
        run_stages(load_study(Path("study.yaml")), ("design", "simulate", "train", "validate"), Terminal(quiet=True))
    finally:
        os.chdir(before)
    code, output = emulate(folder, "sensitivity", "study.yaml", "--samples", "2048", "--pairs")
    assert code == 0, output
    return folder, folder / "runs" / "shares" / "sensitivity", output


def known() -> dict[str, np.ndarray]:
    """Shares of a and b: var a = 1/12, var b = 1/4."""
    a, b = 1 / 12, 1 / 4
    k = np.array([1, 2, 4])
    field = np.array([(k**2).sum() * a, 3 * b])
    return {"p": field / field.sum(), "q": np.array([a, b]) / (a + b), "p[k=4]": np.array([16 * a, b]) / (16 * a + b)}


def test_the_table_and_the_sentences(done):
    _, _, output = done
    assert "shares: sensitivity of " in output
    assert "output ┃ parameter ┃ alone ┃ with others ┃ at most ┃ mu* ┃ sigma" in output.replace("  ", " ")
    assert "of the variance of p comes from a alone, " in output
    assert "of the variance of q comes from b alone, " in output
    assert "The strongest pair is a with b: 0" in output
    assert "mu*, sigma: size and spread" in output
    assert "and that of the emulator as 8 held-out runs show it." in output
    assert "still does not vary with the parameters, so its indices are undefined." in output
    assert "The indices of 3 more outputs, one by one, are in indices.csv." in output


def test_the_files_hold_the_closed_forms(done):
    _, folder, _ = done
    body = files.read_json(folder / "indices.json")
    found = Indices.from_dict(body["sobol"])
    assert found.undefined == ("still",)
    assert found.settings == {
        "n": 2048,
        "seed": found.settings["seed"],
        "evaluations": 2048 * 6,
        "sequences": 16,
        "held_out": 8,
    }
    for output, want in known().items():
        j = found.column(output)
        for name in ("first", "total"):
            m = found[name]
            np.testing.assert_allclose(m.value[:, j], want, atol=0.02)
            assert ((m.low[:, j] <= want) & (want <= m.high[:, j])).all()
        assert found["second"].low[0, j] <= 0.0 <= found["second"].high[0, j]
        assert (Indices.from_dict(body["dgsm"])["bound"].high[:, j] >= want).all()
    star = Indices.from_dict(body["morris"])["mu_star"]
    assert star.value[0, found.column("p[k=4]")] == pytest.approx(4, rel=1e-3)
    with open(folder / "indices.csv", newline="") as f:
        rows = list(csv.DictReader(f))
    mine = [r for r in rows if (r["method"], r["measure"], r["output"], r["term"]) == ("sobol", "total", "p", "a")]
    assert [float(r["value"]) for r in mine] == [found["total"].value[0, found.column("p")]]
    assert all(r["value"] == "" for r in rows if r["output"] == "still")
    assert {r["method"] for r in rows} == {"sobol", "morris", "dgsm"}


def test_figures_with_captions_reach_the_report(done):
    _, folder, _ = done
    listed = files.read_json(folder / "figures.json")
    assert [f["name"] for f in listed] == ["sobol", "morris"]
    assert all((folder / f["file"]).read_bytes().startswith(b"\x89PNG") for f in listed)
    assert "of the variance of p comes from a alone" in listed[0]["caption"]
    page = render(folder.parent)
    assert re.search(r'<h2 id="sensitivity">\d+ Sensitivity</h2>', page)
    assert 'id="figure-sensitivity-sobol"' in page
    assert '<a href="#sensitivity">' in page


def test_the_journal_holds_what_mlflow_shows(done):
    _, folder, _ = done
    events = [e for _, e in Journal(folder.parent / "journal.jsonl").read() if e["scope"] == "sensitivity"]
    kinds = [e["event"] for e in events]
    assert kinds == ["scope_start", "figure", "figure", "params", "metrics", "artifact", "artifact", "scope_end"]
    metrics = events[4]["metrics"]
    assert metrics["p/a/total"] == pytest.approx(known()["p"][0], abs=0.02)
    assert {"q/b/first", "q/b/bound", "q/b/mu_star", "seconds"} <= set(metrics)
    assert not [name for name in metrics if name.startswith("still")]


def test_the_same_command_gives_the_same_numbers(done):
    folder, out, _ = done
    first = json.loads((out / "indices.json").read_text())
    emulate(folder, "sensitivity", "study.yaml", "--samples", "2048", "--pairs")
    assert json.loads((out / "indices.json").read_text()) == first


def test_another_emulator(done):
    folder, _, _ = done
    code, output = emulate(folder, "sensitivity", "study.yaml", "--emulator", "quadratic", "--samples", "2048",
                           "--set", "output=runs/shares")  # fmt: skip
    assert code == 0, output
    assert "sensitivity of quadratic" in output


@pytest.mark.parametrize(
    ("words", "said"),
    [(("--emulator", "quadratc"), "--emulator must be one of quadratic, gp. Got 'quadratc'. Did you mean \"quadratic\"?"),
     (("--samples", "3000"), "--samples must be a power of 2, 2048 or more. Got 3000; 4096 is the default."),
     (("--samples", "0"), "--samples must be a power of 2, 2048 or more. Got 0; 4096 is the default."),
     (("--set", "output=nowhere"), "sensitivity needs the emulator 'quadratic', which was not trained in nowhere yet")],
)  # fmt: skip
def test_what_cannot_be_is_said(done, words, said):
    code, output = emulate(done[0], "sensitivity", "study.yaml", *words)
    assert code == 2
    assert said in output


def test_a_study_at_work_is_left_alone(done):
    folder, out, _ = done
    with _lock(out.parent):
        code, output = emulate(folder, "sensitivity", "study.yaml")
    assert code == 2
    assert "another `emulate` is at work in runs/shares. Wait for it, or stop it." in output


# -- figures and words -----------------------------------------------------------------------------------------------


def indices(method: str, d: int, outputs: Outputs, names: tuple[str, ...], size: float = 0.01) -> Indices:
    """Made-up indices of a space of d parameters, with intervals of `size` from samples, twice that from the emulator."""
    columns = (*outputs.labels, *(f.name for f in outputs.fields if f.size > 1))
    value = np.random.default_rng(d).dirichlet(np.full(d, 0.5), len(columns)).T
    half = np.full(value.shape, size)
    terms = tuple(f"p{i}" for i in range(d))
    measures = tuple(Measure(n, terms, value, value - 2 * half, value + 2 * half, half, 2 * half) for n in names)
    return Indices(method, terms, columns, measures)


def case(d: int, *fields: Field):
    space, outputs = Space(tuple(Parameter(f"p{i}", Uniform(0, 1)) for i in range(d))), Outputs(fields)
    return (space, outputs, indices("sobol", d, outputs, ("first", "total")), indices("dgsm", d, outputs, ("nu", "bound")),
            indices("morris", d, outputs, ("mu", "mu_star", "sigma")))  # fmt: skip


SPECTRUM = Field("pk", "(Mpc/h)^3", True, "k", tuple(np.geomspace(0.01, 1, 40)), "h/Mpc", "P(k)")


@pytest.mark.parametrize("d", [2, 5, 30])
@pytest.mark.parametrize(
    "fields", [(SPECTRUM,), (Field("q"),), (SPECTRUM, Field("q", "kg"), Field("r"), Field("s", "", True))]
)
def test_figures_name_what_they_show(d, fields):
    space, outputs, sobol, dgsm, morris = case(d, *fields)
    figure = figures.shares(space, outputs, sobol, dgsm)
    figure.draw_without_rendering()
    said = {t for ax in figure.axes if ax.get_visible() for t in (ax.get_xlabel(), ax.get_ylabel())}
    assert "share of the variance" in said
    strongest = " (strongest 12 of 30)" if d == 30 else ""
    if fields[0] is SPECTRUM:
        assert {f"parameter{strongest}", "k [h/Mpc]"} <= said
    figure = figures.effects(space, outputs, morris)
    figure.draw_without_rendering()
    shown = [ax for ax in figure.axes if ax.get_visible()]
    assert len(shown) == len(fields)
    assert len(figure.legends[0].get_texts()) == (d + 1 if d < 30 else 14)  # 12, the others and the line


def test_an_output_that_does_not_vary_is_said_in_figures():
    space, outputs, sobol, dgsm, morris = case(3, Field("q"))
    for found in (sobol, dgsm, morris):
        for m in found.measures:
            m.value[:], m.low[:], m.high[:] = np.nan, np.nan, np.nan
        object.__setattr__(found, "undefined", ("q",))
    for figure in (figures.shares(space, outputs, sobol, dgsm), figures.effects(space, outputs, morris)):
        assert "does not vary" in [t.get_text() for ax in figure.axes for t in ax.texts]


def test_what_narrows_an_interval():
    outputs = Outputs((SPECTRUM, Field("q")))
    assert leading(outputs) == ["pk", "q"]
    wide = indices("sobol", 3, outputs, ("total",), size=0.05)
    assert narrower(wide, ["pk"]) == (
        "The intervals of pk are as wide as they are because of the emulator's own error (0.1 of the variance; 0.05 from "
        "the samples): more runs of the simulator narrow them.")  # fmt: skip
    wide["total"].emulator[:] = 0
    assert "a higher --samples narrows them." in narrower(wide, ["q"])
    assert narrower(indices("sobol", 3, outputs, ("total",), size=0.001), ["pk", "q"]) == ""
