"""What the pages of MLflow say in words: Markdown for an experiment, a run, a model and its versions. Pure functions."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

ROWS = 40  # findings in the note of a run
RUN, PLACE = 8000, 5000  # characters that a database takes of a run's note, and of those of experiments and models
FEW = 4  # parameters that are named in the first line
VERSION_ROWS = 12  # in that of a model's version
_SCORES = {"median": "median error of a held-out run", "worst99": "error of the 99th percentile", "worst": "largest error",
           "coverage": "outputs inside their 95 % interval", "log_score": "mean log density", "seconds": "seconds to fit",
           "runs": "runs it learnt from"}  # fmt: skip
_SHARES = ("median", "worst99", "worst", "coverage")  # told in percent


def experiment(config: Mapping[str, Any]) -> str:
    """What a study asks: its simulator, its parameters with their priors, its runs and emulators, and how to go on."""
    simulator, design, name = _named(config.get("simulator")), _named(config.get("design")), config.get("name", "")
    emulators = ", ".join(f"{n} ({e.get('use', '')})" for n, e in _named(config.get("emulators")).items())
    parameters = _named(config.get("parameters"))
    of = f" as a function of {', '.join(parameters) if len(parameters) <= FEW else f'{len(parameters)} parameters'}"
    lines = [f"{simulator.get('use', 'A simulator')}{of if parameters else ''}, and what stands in for it.", ""]
    if parameters:
        lines += ["| parameter | prior | unit |", "|---|---|---|"]
        lines += [f"| {n} | {_prior(p)} | {_cell(p.get('unit', ''))} |" for n, p in parameters.items()]
        lines += [""]
    if design:
        lines += [
            f"- **runs**: {design.get('runs')} to train on ({design.get('use')}), {design.get('held_out')} held out"
        ]
    lines += [f"- **emulators**: {emulators}"] if emulators else []
    if infer := _named(config.get("infer")):
        how = [f"{k} {infer[k]['use']}" for k in ("likelihood", "sampler") if isinstance(infer.get(k), Mapping)]
        lines += [f"- **posterior**: {', '.join(how)}"]
    lines += ["", "Every row is one `emulate run`; its stages are nested in it. The view *Verdicts* of the menu *Views* shows "
              "verdict and findings side by side, *Pictures* its figures in the charts; select rows and press *Compare*.", "",
              f"`emulate.load(\"models:/{name}@champion\")` loads the emulator that passed its checks."]  # fmt: skip
    return _within(lines, PLACE)


def run(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """How many findings of a run passed, which of those that block did not, and a table of them, these first."""
    failed = [f["name"] for _, f in rows if not f["passed"] and f.get("blocking", True)]
    blocks = f"What blocks: {', '.join(failed)}." if failed else "None that blocks failed."
    head = [f"{sum(f['passed'] for _, f in rows)} of {_count(len(rows), 'finding')} passed. {blocks}", ""]
    whole = ("\n".join([*head, *_table(rows, n, "more stand in findings.csv.")]) for n in range(ROWS, 0, -1))
    return next((text for text in whole if len(text) <= RUN), _within(head, RUN))


def findings_csv(rows: Iterable[tuple[str, Mapping[str, Any]]]) -> str:
    """The findings as a table: verdict, where, name, value, low, high, sentence."""
    file = io.StringIO()
    table = csv.writer(file, lineterminator="\n")
    table.writerow(["verdict", "scope", "finding", "value", "low", "high", "sentence"])
    keys = ("name", "value", "low", "high", "sentence")
    table.writerows([_verdict(f), scope, *(f[k] for k in keys)] for scope, f in rows)
    return file.getvalue()


def model(study: str) -> str:
    """What the registered model of a study is, what its aliases mean and how it is loaded."""
    return "\n".join([
        f"Emulators of the study {study}: parameters in; the mean and the standard deviation (`_sd`) of every output out.", "",
        "- `champion`: the latest that was used and passed every blocking check",
        "- `challenger`: of the latest run, what did not displace the champion: the emulator that was used where a blocking "
        "check failed, else the runner-up", "",
        "```python", "import emulate", f'emulator = emulate.load("models:/{study}@champion")  # carries gradients',
        f'frame = mlflow.pyfunc.load_model("models:/{study}@champion").predict(points)  # one column per parameter', "```", "",
        f"`mlflow models serve -m models:/{study}@champion --env-manager local` answers over HTTP."])  # fmt: skip


def version(name: str, recipe: Mapping[str, Any], scores: Mapping[str, Any], findings: Sequence[Mapping[str, Any]],
            standing: str) -> str:  # fmt: skip
    """One emulator: how it was made, how far it is off on held-out runs, and what the checks found of it."""
    settings = ", ".join(f"{k} {v}" for k, v in recipe.items() if k != "use" and v not in (None, "", []))
    lines = [f"{name}, {standing}", ""]
    told = [(label, _score(key, scores[key])) for key, label in _SCORES.items() if scores.get(key) is not None]
    if told:
        lines += ["| of this emulator | |", "|---|---|", *(f"| {label} | {value} |" for label, value in told), ""]
    lines += (
        [*_table([("", f) for f in findings], VERSION_ROWS, "more stand in its findings.json."), ""] if findings else []
    )
    return _within([*lines, f"Recipe: {', '.join(filter(None, (recipe.get('use', ''), settings)))}."], PLACE).rstrip()


def _table(rows: Sequence[tuple[str, Mapping[str, Any]]], most: int, rest: str) -> list[str]:
    worst_first = sorted(rows, key=lambda row: (row[1]["passed"], not row[1].get("blocking", True)))
    lines = ["| | finding | value | allowed | |", "|---|---|---|---|---|"]
    for scope, f in worst_first[:most]:
        where = f"{scope}: " if scope else ""
        value = "not a number" if f["value"] is None else f"{float(f['value']):.4g}"
        lines.append(f"| {_verdict(f)} | {where}{f['name']} | {value} | {_allowed(f)} | {_cell(f['sentence'])} |")
    return [*lines, f"\n{len(rows) - most} {rest}"] if len(rows) > most else lines


def _within(lines: Sequence[str], most: int) -> str:
    """The lines that a database has room for."""
    text = "\n".join(lines)
    return text if len(text) <= most else text[: most - 4].rpartition("\n")[0] + "\n..."


def _verdict(finding: Mapping[str, Any]) -> str:
    return "passed" if finding["passed"] else "FAILED" if finding.get("blocking", True) else "failed (does not block)"


def _allowed(finding: Mapping[str, Any]) -> str:
    low, high = finding["low"], finding["high"]
    if low is not None and high is not None:
        return f"{float(low):.4g} to {float(high):.4g}"
    return f"at most {float(high):.4g}" if high is not None else f"at least {float(low):.4g}" if low is not None else ""


def _prior(parameter: Mapping[str, Any]) -> str:
    """`uniform 0.2 to 0.4`, `normal mean 0, sd 1`."""
    for kind, value in parameter.items():
        if kind in ("unit", "label"):
            continue
        if isinstance(value, Mapping) and value.keys() == {"low", "high"}:
            value = [value["low"], value["high"]]
        if isinstance(value, Mapping):
            return _cell(f"{kind} {', '.join(f'{k} {_number(v)}' for k, v in value.items())}")
        if isinstance(value, list | tuple):
            return _cell(f"{kind} {' to '.join(map(_number, value))}")
    return ""


def _named(section: Any) -> Mapping[str, Any]:
    """A section of a study; an old journal may hold it in another form, which is then left out."""
    return section if isinstance(section, Mapping) else {}


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def _score(key: str, value: float) -> str:
    return f"{100 * float(value):.3g} %" if key in _SHARES else f"{float(value):.4g}"


def _cell(text: str) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ")


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
