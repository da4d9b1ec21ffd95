"""MLflow's own pages in a real browser, after three real runs of a study: what a user finds there, and not what was sent.

`EMULATE_SCREENSHOTS=FOLDER pytest tests/browser -m slow` keeps a picture of every page.
"""

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest

from pipelines import tracking
from pipelines.addresses import page as address_of
from tests.journals import closed_port

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
PROGRAM = [sys.executable, "-c", "from pipelines.cli import main; main()"]
PATIENCE = 60_000  # ms, for a page on a busy machine
STUDY = """
name: beam
parameters:
  load: {uniform: [0.5, 1.5], unit: kN, label: F}
  length: {uniform: [1.0, 2.0], unit: m, label: L}
simulator: {use: linear_gaussian, outputs_count: 4}
design: {runs: 24, held_out: 12}
cluster: {use: serial}
emulators:
  quadratic: {use: polynomial}
  mlp: {use: mlp, members: 3, width: 4, epochs: 4}
train: {champion: quadratic, baseline: null, folds: 0}
infer:
  likelihood: {use: gaussian, absolute_error: 0.1}
  draws: 400
  chains: 4
check: {importance_runs: 20, recovery: 8}
"""
FAILING = ["--set", "checks={accuracy: {use: accuracy, median: 1.0e-30}}"]


@dataclass
class Pages:
    """A server with the runs of the study: the first passed its checks, the second did not."""

    site: str
    database: str
    said: tuple[str, ...]  # by the commands that made the runs
    told: tuple[str, ...]  # by the command that serves the pages

    @property
    def client(self):
        return tracking._client(self.database)

    def runs(self, scope: str = "/") -> list:
        return self.client.search_runs(["1"], f"tags.`emulate.scope` = '{scope}'", order_by=["attributes.start_time"])

    def open(self, tab, *steps: str, query: str = "") -> None:
        tab.goto(address_of(self.site, *steps) + query)

    def link(self, n: int) -> str:
        """What the n-th run printed, at the port that this server has."""
        return re.search(r"http://127\.0\.0\.1:5000(/#\S+)", self.said[n])[1]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder, port = tmp_path_factory.mktemp("pages"), closed_port()
    (folder / "beam.yaml").write_text(STUDY)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    said = []
    for more in ([], FAILING):
        made = subprocess.run([*PROGRAM, "run", "beam.yaml", *more], cwd=folder, env=environment, text=True,
                              capture_output=True)  # fmt: skip
        assert made.returncode == (1 if more else 0), made.stdout + made.stderr
        said.append(made.stdout)
    server = subprocess.Popen([*PROGRAM, "ui", "--port", str(port)], cwd=folder, env=environment, text=True,
                              stdout=subprocess.PIPE)  # fmt: skip
    try:
        told = tuple(server.stdout.readline().strip() for _ in range(3))
        yield Pages(f"http://127.0.0.1:{port}", f"sqlite:///{folder}/mlflow.db", tuple(said), told)
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(60)


@pytest.fixture
def tab(browser):
    page = browser.new_page(viewport={"width": 1600, "height": 1000})
    page.set_default_timeout(PATIENCE)
    page.add_init_script(
        "localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')"
    )  # a panel over the right third
    yield page
    page.close()


def curves(tab) -> dict[str, list]:
    """The charts of a page that have lines: (x, y) of the first, by the title of the chart's card."""
    tab.wait_for_function(
        "[...document.querySelectorAll('.js-plotly-plot')].some(g => g.data?.some(t => t.x?.length > 1))"
    )
    return tab.evaluate("""[...document.querySelectorAll('.js-plotly-plot')].flatMap(g => (g.data ?? []).filter(
        t => t.x?.length > 1).map(t => ({x: [...t.x], y: [...t.y]})))""")


def beside(tab, name: str) -> list[str]:
    """The cells beside a name in a table of which MLflow draws only the rows in view: the wheel is turned until it is there."""
    tab.locator(".ReactVirtualized__Grid").last.hover()
    for _ in range(60):
        if tab.get_by_text(name, exact=True).count():
            break
        tab.mouse.wheel(0, 150)
        tab.wait_for_timeout(300)
    return tab.evaluate("""name => {
        const cells = [...document.querySelectorAll('.ReactVirtualized__Grid__innerScrollContainer > *')]
        const named = cells.find(c => c.innerText.trim() === name)
        return cells.filter(c => c !== named && named && c.style.top === named.style.top).map(c => c.innerText.trim())
    }""", name)  # fmt: skip


def test_the_list_of_experiments_says_what_each_is(pages, tab, shot):
    pages.open(tab, "experiments")
    tab.get_by_role("link", name="beam", exact=True).wait_for()
    tab.get_by_text("linear_gaussian as a function").first.wait_for()
    shot(tab, "experiments")


def test_the_printed_link_opens_the_run(pages, tab, shot):
    first, second = pages.runs()
    for n, run in enumerate((first, second)):
        assert run.info.run_id in pages.link(n)
    assert second.info.run_id in pages.told[2]
    tab.goto(pages.site + pages.link(1))
    tab.get_by_role("heading", name=second.info.run_name).wait_for()
    tab.get_by_text("What blocks: accuracy.median").first.wait_for()
    assert tab.get_by_text("FAILED").count()
    shot(tab, "run")


def test_verdicts_stand_side_by_side(pages, tab, shot):
    tab.goto(address_of(pages.site, "experiments", "1", "runs", view="emulate"))
    tab.get_by_text("accuracy.median").first.wait_for()
    assert tab.get_by_text("Verdicts").count()
    for run in pages.runs():
        assert tab.get_by_text(run.info.run_name).count()
    shot(tab, "verdicts")


def test_two_runs_are_compared_metric_by_metric(pages, tab, shot):
    first, second = pages.runs()
    both, experiments = (quote(json.dumps(ids)) for ids in ([first.info.run_id, second.info.run_id], ["1"]))
    tab.goto(f"{pages.site}/#/compare-runs?runs={both}&experiments={experiments}&workflowType=machine_learning")
    name = "posterior/load/mean"
    tab.get_by_text("accuracy.p99", exact=True).first.wait_for()
    values = [float(x) for x in beside(tab, name)]
    assert values == pytest.approx([r.data.metrics[name] for r in (first, second)], rel=0.01)
    shot(tab, "comparison")


@pytest.mark.parametrize(("scope", "name"), [("train/mlp", "training/loss"), ("infer", "length/ess")])
def test_a_history_is_a_curve(pages, tab, shot, scope, name):
    run = pages.runs(scope)[0]
    history = sorted(pages.client.get_metric_history(run.info.run_id, name), key=lambda m: m.step)
    assert len(history) > 1
    pages.open(tab, "experiments", "1", "runs", run.info.run_id, "model-metrics")
    tab.get_by_text(name.rpartition("/")[2], exact=True).first.scroll_into_view_if_needed()
    tab.wait_for_timeout(2000)
    steps, values = [m.step for m in history], [m.value for m in history]
    drawn = [c for c in curves(tab) if c["x"] == steps]
    assert any(c["y"] == pytest.approx(values) for c in drawn), f"no curve of {name} among {len(drawn)}"
    shot(tab, f"history_{name.rpartition(chr(47))[2]}")


def test_figures_are_shown_inline(pages, tab, shot):
    run = pages.runs("check")[0]
    pages.open(tab, "experiments", "1", "runs", run.info.run_id, "artifacts", "figures", "corner.png")
    loaded = "[...document.images].some(i => i.complete && i.naturalWidth > 400)"
    tab.wait_for_function(loaded)
    shot(tab, "figure")
    tab.goto("about:blank")
    tab.goto(address_of(pages.site, "experiments", "1", "runs", view="emulate-pictures") + "&compareRunsMode=CHART")
    tab.get_by_text("design/", exact=False).first.wait_for()
    tab.wait_for_function("""[...document.images].some(i => i.naturalWidth > 400 && i.getBoundingClientRect().width > 100
        && i.getBoundingClientRect().top > 0 && i.getBoundingClientRect().bottom < innerHeight)""")
    shot(tab, "images")


def test_the_report_opens_within_the_run(pages, tab, shot):
    pages.open(tab, "experiments", "1", "runs", pages.runs()[0].info.run_id, "artifacts", "index.html")
    frame = tab.frame_locator("iframe").first
    frame.locator("h1").first.wait_for()
    assert "beam" in frame.locator("body").inner_text()
    shot(tab, "report")


def test_the_data_set_has_its_columns(pages, tab, shot):
    pages.open(tab, "experiments", "1", "runs", pages.runs()[0].info.run_id)
    tab.get_by_text(re.compile("beam-runs")).first.click()
    for column in ("load", "length", "y0", "double"):
        tab.get_by_text(column, exact=True).first.wait_for()
    assert tab.get_by_text("36").count(), "24 runs to train on and 12 held out"
    shot(tab, "dataset")


def test_the_registry_has_a_champion_and_a_challenger(pages, tab, shot):
    aliases = pages.client.get_registered_model("beam").aliases
    emulators = {a: pages.client.get_model_version("beam", v).tags["emulator"] for a, v in aliases.items()}
    assert emulators == {"champion": "quadratic", "challenger": "quadratic"}
    assert int(aliases["challenger"]) > int(aliases["champion"]), "the run that failed its checks came later"
    pages.open(tab, "models", "beam")
    for alias in ("champion", "challenger"):
        tab.get_by_text(re.compile(rf"@\s?{alias}$")).first.wait_for()
    assert tab.get_by_text("import emulate").count()
    shot(tab, "registry")
    pages.open(tab, "models", "beam", "versions", str(aliases["challenger"]))
    tab.get_by_text("a blocking finding failed").first.wait_for()
    shot(tab, "version")
