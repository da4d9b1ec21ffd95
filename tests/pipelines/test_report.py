"""The page of a study: whole, alone, escaped, and in words where something is missing."""

# ruff: noqa: RUF001  (the typographic characters are what is tested)
import json
import math
import re
from html.parser import HTMLParser

import pytest
from matplotlib.figure import Figure

from emulate.errors import StoreError
from emulate.space import LogUniform, Normal, Parameter, Space, TruncatedNormal, Uniform
from pipelines import report, typeset

EVIL = "<script>alert(1)</script> & \"quoted\" 'too'"
VOID = {"meta", "link", "img", "br", "hr", "input"}


def finding(name, value, low, high, figure, sentence, *, blocking=True, passed=True) -> dict:
    return {"name": name, "value": value, "low": low, "high": high, "figure": figure, "sentence": sentence,
            "blocking": blocking, "passed": passed}  # fmt: skip


FINDINGS = {
    "validate": {
        "polynomial": [finding("accuracy.median", 0.084, None, 0.01, "accuracy", "The median run is off by 8.4 %.",
                               blocking=False, passed=False)],
        "gp": [
            finding("accuracy.median", 0.00231, None, 0.01, "accuracy", "The median held-out run is off by 0.231 %."),
            finding("coverage.95", 0.941, 0.9, 0.99, "calibration", "The 95 % interval holds 94.1 % of true values."),
            finding("gradient.error", 0.0123, None, 0.05, "gradient", "Worst with respect to sigma_8: off by 1.23 %."),
            finding("gradient.error.sigma_8", None, None, 0.05, "gradient", "Cannot say: noisier than the bound <5 %>.",
                    blocking=False, passed=False)]},
    "check": {
        "gp": [
            finding("posterior.shift", 0.11, None, 0.25, "corner", "The posterior mean moves by 0.11 sd."),
            finding("recovery.coverage", 0.95, 0.83, None, "recovery", "19 of 20 truths lie inside the 95 % region.")]},
}  # fmt: skip
SPACE = Space((
    Parameter("omega_m", Uniform(0.2, 0.4), "", r"\Omega_m"), Parameter("sigma_8", Normal(0.8, 0.05), "", r"\sigma_8"),
    Parameter("box", LogUniform(100.0, 1000.0), "Mpc/h"), Parameter("n_s", TruncatedNormal(0.96, 0.02, 0.9, 1.0)),
))  # fmt: skip
PICTURES = {
    "design": {"design": "The design: points to train on and points held out."},
    "simulate": {"outputs": "Every finished run."},
    "train": {"training": "Loss by epoch."},
    "validate": {"accuracy": "Predicted against true, and residuals.",
                 "calibration": "Nominal against empirical coverage.",
                 "gradient": "Gradient of gp and simulator.", "scores": "Errors of the emulators over held-out runs."},
    "infer": {"corner": "Posterior of the parameters.", "prediction": "Observation and prediction."},
    "check": {"corner": "Surrogate and true posterior.", "recovery": "Posterior mean against truth."},
}  # fmt: skip


def put(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def study() -> dict:
    """As `Study.to_dict` writes it."""
    parameters = {}
    for p in SPACE.to_dict():
        parameters[p.pop("name")] = {**p.pop("prior"), **p}
    recipe = {"gp": {"use": "gp", "kernel": "matern"}, "polynomial": {"use": "polynomial", "degree": 2}}
    return {"name": "matter power", "seed": 7, "parameters": parameters, "simulator": {"use": "nbody", "particles": 32},
            "design": {"use": "sobol", "runs": 64, "held_out": 20}, "emulators": recipe}  # fmt: skip


def set_of_runs(planned: int, failed: int) -> dict:
    theta = {"omega_m": 0.21534567, "sigma_8": 0.91, "box": 123.4, "n_s": 0.95}
    return {"planned": planned, "finished": planned - failed, "failed": failed,
            "seconds": {"median": 12.3, "total": 760.5},
            "failures": [{"parameters": theta, "kind": ("timeout", "error")[i % 2], "reason": f"reason {i}: {EVIL}"}
                         for i in range(failed)]}  # fmt: skip


def posterior() -> dict:
    values = {"omega_m": (0.31234, 0.0123), "sigma_8": (0.8123, 0.0087), "box": (333.3, 41.0), "n_s": (0.961, 0.0049)}
    return {n: {"mean": m, "sd": s, "map": m + 0.1 * s, "truth": None if n == "n_s" else m - 0.42 * s, "low": m - 2 * s,
                "high": m + 2 * s, "rhat": 1.0012, "ess": 2345.6} for n, (m, s) in values.items()}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """A study folder as the stages leave it, with failures whose reasons try to break the page."""
    f = tmp_path / "matter"
    put(f / "study.json", study())
    put(f / "simulate" / "summary.json", {**set_of_runs(64, 25), "held_out": set_of_runs(20, 1)})
    row = {"seconds": 12.5, "runs": 39, "worst99": 0.0123, "coverage": 0.941, "log_score": 123.4, "sharpness": 1.5}
    put(f / "train" / "summary.json", {"emulators": {}})
    put(f / "train" / "scores.json", {"champion": "gp", "baseline": "polynomial", "emulators": {
        "gp": {"recipe": {"use": "gp", "kernel": "matern", "log": True}, "median": 0.00231, **row},
        "polynomial": {"recipe": {"use": "polynomial", "degree": 2}, "median": 0.084, **row}}})  # fmt: skip
    for stage, found in FINDINGS.items():
        put(f / stage / "findings.json", {"emulators": found})
    sampler = {"chains": 8, "draws": 1000, "divergent": 0, "step_size": 0.41}
    sentence = "observation made from held-out run 0 with noise added"
    put(f / "infer" / "summary.json", {"observation": sentence, "parameters": posterior(), "sampler": sampler})
    for stage, pictures in PICTURES.items():
        put(f / stage / "figures.json", [{"name": n, "file": f"{n}.png", "caption": c} for n, c in pictures.items()])
        for name in pictures:
            face = (len(stage) / 20, len(name) / 20, ord(name[0]) / 200)  # no two are alike
            Figure(figsize=(2, 1), facecolor=face).savefig(f / stage / f"{name}.png", dpi=20)
            (f / stage / f"{name}.pdf").write_bytes(b"%PDF-1.4")
    for i, stage in enumerate(("design", "simulate", "train", "validate", "infer", "check")):
        marker = {"status": "done", "seconds": 10.0**i / 7, "started": "2026-11-23T11:00:00"}
        put(f / "stages" / f"{stage}.json", marker)
    origin = {"versions": {"emulate": "0.1.0", "torch": "2.13.0"}, "python": "3.11.2", "host": "node7"}
    rest = {"seeds": {"study": 7}, "hashes": {"train": "0123456789abcdef"}, "seconds": {"train": 12.5}}
    put(f / "provenance.json", origin | rest)
    return f


class Page(HTMLParser):
    """Well formed, or an error: every element is closed in order, every id is used once."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.ids, self.links, self.images, self.labels = [], [], [], [], [], []
        self.rows, self.text = [], ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        self.ids += [attrs["id"]] if "id" in attrs else []
        self.links += [attrs[k] for k in ("href", "src", "srcset", "data", "action") if k in attrs]
        self.images += [attrs] if tag == "img" else []
        self.labels += attrs.get("aria-labelledby", "").split()
        assert not any(a.startswith("on") for a in attrs), attrs
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text += data
            if {"td", "th"} & set(self.open):
                self.rows[-1][-1] += data


def page(folder) -> Page:
    return Page(report.write(folder).read_text(encoding="utf-8"))


def said(folder) -> str:
    return re.sub(r"\s+", " ", page(folder).text)


def rows(folder) -> list[list[str]]:
    """Every row of every table, cell by cell."""
    return [[" ".join(cell.split()) for cell in row] for row in page(folder).rows]


def test_the_page_is_whole_and_needs_nothing_else(folder):
    p = page(folder)
    assert report.write(folder) == folder / "report" / "index.html"
    assert len(p.ids) == len(set(p.ids))
    assert "script" not in p.tags
    assert all(i["src"].startswith("data:") for i in p.images)
    beside = {link for link in p.links if not link.startswith(("#", "data:"))}
    assert beside
    assert all((folder / "report" / link).is_file() for link in beside)  # to be opened; the page shows all without them
    assert {link[1:] for link in p.links if link.startswith("#")} | set(p.labels) <= set(p.ids)
    text = (folder / "report" / "index.html").read_text()
    assert not re.search(r"https?:|@import|url\(", text)


def test_every_picture_is_inside_with_size_and_words(folder):
    images = page(folder).images
    captions = [
        c for stage, pictures in PICTURES.items() for n, c in pictures.items() if (stage, n) != ("infer", "corner")
    ]
    assert sorted(i["alt"] for i in images) == sorted(captions)
    assert all(i["src"].startswith("data:image/png;base64,iVBOR") for i in images)
    assert {(i["width"], i["height"]) for i in images} == {("25", "12")}  # 125 pixels for what is an inch at 200 dots


def test_the_verdict_comes_first_in_words(folder):
    text = said(folder)
    assert "✓ PASSED All 5 blocking checks passed." in text
    assert text.index("PASSED") < text.index("Which values of omega_m")


def test_what_the_emulator_did_to_the_posterior_stands_first(folder):
    """Where true runs say it; with the corrected values beside the posterior, to two digits of their errors."""
    sentence = "The emulator moves the posterior by 0.11 +- 0.02 sigma."
    put(folder / "check" / "bias.json", {"sentence": sentence, "beyond": "The true runs cannot correct it."})
    row = {"mean": 0.31, "sd": 0.01, "delta": 0.001, "error": 0.0004, "corrected": 0.309, "corrected_sd": 0.0102,
           "corrected_sd_error": 0.0002, "low": 0.289, "high": 0.329}  # fmt: skip
    put(folder / "check" / "corrected.json", {"by": "importance", "runs": 128, "parameters": {"omega_m": row}})
    text = said(folder)
    sentence = "The emulator moves the posterior by 0.11 ± 0.02 σ."
    assert f"{sentence} The true runs cannot correct it." in text
    assert text.index(sentence) < text.index("All 5 blocking checks passed.")
    assert "The posterior as 128 true runs correct it, by their weights at draws of it." in text
    assert ["Ωm omega_m", "–", "0.310", "0.010", "0.30900 ± 0.00040", "0.01020 ± 0.00020", "0.289 to 0.329"] in rows(
        folder
    )


def test_one_failed_blocking_finding_is_the_verdict(folder):
    found = json.loads((folder / "check" / "findings.json").read_text())
    found["emulators"]["gp"][0] |= {"passed": False, "value": 0.8}
    put(folder / "check" / "findings.json", found)
    assert ("✗ FAILED 1 of 5 blocking checks failed. Do not trust what rests on them before this is mended. "
            "posterior.shift: The posterior mean moves by 0.11 sd."
            ) in said(folder)  # fmt: skip


def test_a_verdict_waits_for_the_stages_of_checks(folder):
    (folder / "check" / "findings.json").unlink()
    assert "? NOT DECIDED check has not run. The 3 blocking checks so far passed." in said(folder)
    (folder / "validate" / "findings.json").unlink()
    assert "? NOT DECIDED validate and check have not run." in said(folder)


def test_a_study_without_blocking_checks_does_not_pass(folder):
    for stage in FINDINGS:
        put(folder / stage / "findings.json", {"emulators": {"gp": []}})
    assert "? NOT DECIDED The study has no check that blocks." in said(folder)


def test_a_finding_that_does_not_say_that_it_passed_failed(folder):
    found = json.loads((folder / "check" / "findings.json").read_text())
    del found["emulators"]["gp"][0]["passed"]
    put(folder / "check" / "findings.json", found)
    assert "✗ FAILED 1 of 5" in said(folder)


def test_every_finding_is_told_with_value_bound_and_verdict(folder):
    text = said(folder)
    for found in FINDINGS.values():
        for listed in found.values():
            for f in listed:
                assert f["name"] in text
                assert f["sentence"] in text
    assert "✓ passed accuracy.median value 0.231 %, bound at most 1 %" in text
    assert "✓ passed coverage.95 value 0.941, bound 0.9 to 0.99" in text
    assert "✓ passed recovery.coverage value 0.950, bound at least 0.83" in text
    assert "! outside its bound accuracy.median value 8.40 %, bound at most 1 %, advice only" in text
    assert "gradient.error.sigma_8 value not a number, bound at most 5 %, advice only" in text


def test_markup_in_a_reason_a_sentence_or_a_name_is_text(folder):
    found = json.loads((folder / "check" / "findings.json").read_text())
    found["emulators"]["gp"][0]["sentence"] = EVIL
    found["emulators"] = {EVIL: found["emulators"]["gp"]}
    put(folder / "check" / "findings.json", found)
    put(folder / "study.json", {**study(), "name": EVIL, "description": EVIL})
    put(folder / "design" / "figures.json", [{"name": EVIL, "file": "design.png", "caption": EVIL}])
    p = page(folder)
    assert "script" not in p.tags
    assert p.text.count("<script>alert(1)</script>") > 15
    assert EVIL in [i["alt"] for i in p.images]
    assert "<script>" not in (folder / "report" / "index.html").read_text()


def test_the_question_counts_the_runs_that_finished(folder):
    assert "trained on 39 runs of the simulator and held against 19 others." in said(folder)
    (folder / "simulate" / "summary.json").unlink()
    assert "trained on 64 runs of the simulator and held against 20 others." in said(folder)


def test_failures_are_counted_by_kind_and_listed_up_to_a_number(folder):
    text = said(folder)
    assert "By kind: 14 timeout, 12 error." in text
    assert ["training", "64", "39", "25", "60.9 %", "12 s", "12 min 40 s"] in rows(folder)
    assert "14 more are listed in simulate/summary.json." in text
    assert "omega_m = 0.2153" in text
    put(folder / "simulate" / "summary.json", set_of_runs(8, 0))
    assert "No run failed." in said(folder)


def test_the_posterior_is_written_to_the_digits_of_its_spread(folder):
    text = said(folder)
    assert "Observation made from held-out run 0 with noise added." in text
    omega, _, box, n_s = [r for r in rows(folder) if len(r) == 10][1:]
    assert omega == [
        "Ωm omega_m",
        "–",
        "0.312",
        "0.012",
        "0.288 to 0.337",
        "0.314",
        "0.307",
        "+0.42 sd",
        "1.001",
        "2350",
    ]
    assert box[:4] == ["box", "Mpc/h", "333", "41"]
    assert n_s[2:8] == ["0.9610", "0.0049", "0.9512 to 0.9708", "0.9615", "–", "–"]
    assert "Sampler: chains 8, draws 1000, divergent 0, step size 0.410." in text


def test_scores_and_priors_carry_their_units(folder):
    found = rows(folder)
    headings = ["median error", "99th percentile", "covered by 95 %", "log score", "training runs", "time to train"]
    assert ["emulator", *headings, "sharpness"] in found
    assert ["gp champion", "0.231 %", "1.23 %", "94.1 %", "123", "39", "12 s", "1.50"] in found
    assert ["gp", "gp", "kernel: matern, log: yes"] in found
    assert ["omega_m", "Ωm", "–", "uniform from 0.2 to 0.4"] in found
    assert ["box", "–", "Mpc/h", "log-uniform from 100 to 1000"] in found
    assert ["n_s", "–", "–", "normal, mean 0.96, sd 0.02, between 0.9 and 1"] in found


def test_what_a_check_finds_stands_beside_its_picture(folder):
    """A finding that names a picture of a section is told in that section, also where the two have other names."""
    found = json.loads((folder / "validate" / "findings.json").read_text())
    found["emulators"]["gp"].append(finding("calibration.narrow", 0.1, None, 0.2, "pit", "The PIT is level."))
    put(folder / "validate" / "findings.json", found)
    Figure(figsize=(1, 1)).savefig(folder / "validate" / "pit.png")
    pictures = [{"name": n, "file": f"{n}.png", "caption": f"About {n}."} for n in ("calibration", "pit")]
    put(folder / "validate" / "figures.json", pictures)
    page = report.write(folder).read_text()
    section = page[page.index('<h2 id="calibration">') : page.index('<h2 id="gradient">')]
    assert "The PIT is level." in section
    assert '<a href="#figure-validate-pit">Figure 5</a>' in section
    assert '<figure id="figure-validate-pit">' in section


@pytest.mark.parametrize("stage", ["design", "simulate", "train", "validate", "infer", "check"])
def test_a_stage_that_has_not_run_is_said_to_be_missing(folder, stage):
    for path in (folder / stage).iterdir():
        path.unlink()
    (folder / "stages" / f"{stage}.json").unlink()
    assert f"The stage {stage} has not run. Run emulate {stage} or emulate run." in said(folder)
    assert f"<code>emulate {stage}</code>" in report.render(folder)


def test_an_empty_folder_is_a_page_too(tmp_path):
    text = said(tmp_path)
    assert "? NOT DECIDED validate and check have not run." in text
    assert "The file study.json is missing: nothing has run in this folder." in text


def test_a_stage_that_failed_says_why(folder):
    (folder / "infer" / "summary.json").unlink()
    put(folder / "stages" / "infer.json", {"status": "failed", "why": f"the run failed {EVIL}", "seconds": 3.0})
    assert f"The stage infer failed: the run failed {EVIL}." in said(folder)
    put(folder / "stages" / "infer.json", {"status": "interrupted", "why": "Ctrl-C", "seconds": 3.0})
    assert "The stage infer was interrupted: Ctrl-C." in said(folder)


def test_a_picture_that_is_missing_or_outside_its_folder_is_not_shown(folder, tmp_path):
    Figure(figsize=(1, 1)).savefig(tmp_path / "secret.png")
    (folder / "train" / "training.png").write_text("no picture")
    put(folder / "infer" / "figures.json", [{"name": "other", "file": "../../secret.png", "caption": "outside"}])
    p = page(folder)
    assert not {"outside", "Loss by epoch."} & {i["alt"] for i in p.images}
    assert "The picture train/training.png is missing." in p.text
    assert "The picture infer/../../secret.png is missing." in p.text


def test_a_damaged_file_is_an_error_with_advice(folder):
    (folder / "train" / "scores.json").write_text("{")
    with pytest.raises(StoreError, match=r"scores.json is not the JSON that was written there: .* with --force"):
        report.write(folder)


def test_the_same_files_make_the_same_page(folder):
    assert report.render(folder) == report.render(folder)


@pytest.mark.parametrize(
    ("value", "written"),
    [(0.0312499, "0.0312"), (12345.6, "12\xa0300"), (1234.4, "1230"), (1234.0, "1230"), (20.0, "20"),
     (9.996, "10.0"), (0.0, "0"), (-2.5, "-2.50"), (1.2345e-7, "1.23 × 10⁻⁷"),
     (2.0e9, "2.00 × 10⁹"), (64, "64"), (123456, "123\xa0456"), (True, "yes"),
     (None, "–"), ("text", "text"), (math.nan, "not a number"), (math.inf, "infinite"), (-math.inf, "minus infinite")],
)  # fmt: skip
def test_numbers_have_three_digits(value, written):
    assert typeset.number(value) == written


def test_times_are_told_in_their_own_unit():
    assert [typeset.time(s) for s in (0.0123, 0.5, 185.0, 7800, None, math.nan)] == [
        "12\xa0ms", "0.5 s", "3 min 05 s", "2 h 10 min", "–", "–"]  # fmt: skip


@pytest.mark.parametrize(
    ("label", "html"),
    [(r"\Omega_m", "<i>Ω<sub>m</sub></i>"), (r"$\sigma_8$", "<i>σ<sub>8</sub></i>"), ("n_s", "<i>n<sub>s</sub></i>"),
     (r"\lambda^{2}", "<i>λ<sup>2</sup></i>"), (r"\Omega_{\mathrm{b}}h^2", ""), (r"\frac{a}{b}", ""), ("", ""),
     ("<b>", "<i>&lt;b&gt;</i>"), ("a_", "")],
)  # fmt: skip
def test_short_labels_become_html_and_others_nothing(label, html):
    assert str(typeset.symbol(label)) == html
