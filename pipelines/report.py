"""Everything the stages wrote, as one HTML page that needs nothing else: no script, no network, no other file."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import jinja2

from emulate.artefact import FINDINGS
from pipelines import files, report_figures, typeset
from pipelines.stages import FIND, ORDER, of

_FAILURES = 12  # failed runs listed one by one; the page counts the others
_COLUMNS = {  # key of an emulator's scores: heading, how it is written
    "median": ("median error", typeset.percent),
    "worst99": ("99th percentile", typeset.percent),
    "worst": ("worst error", typeset.percent),
    "coverage": ("covered by 95 %", typeset.percent),
    "log_score": ("log score", typeset.number),
    "runs": ("training runs", typeset.number),
    "seconds": ("time to train", typeset.time),
}
_FILES = {"train": "train/summary.json", "validate": "validate/findings.json", "check": "check/findings.json"}
_HEADINGS = {"question": "Question", "design": "Design", "runs": "Runs and failures", "emulators": "Emulators compared",
             "accuracy": "Accuracy", "calibration": "Calibration", "gradient": "Gradient fidelity",
             "sensitivity": "Sensitivity", "identifiability": "Identifiability", "optimum": "Optimum",
             "posterior": "Posterior", "findings": "Every finding", "provenance": "Provenance"}  # fmt: skip
_KEY = {  # finding: what it is called on the first screen, and the section that tells more
    "accuracy.median": ("median error of a held-out run", "accuracy"),
    "coverage.interval": ("held-out outputs inside their 95 % intervals", "calibration"),
    "gradient.error": ("error of the gradient", "gradient"),
    "posterior.shift": ("shift of the posterior, in standard deviations", "posterior"),
    "confirmation.shift": ("shift of the posterior mean, in standard deviations", "posterior"),
}
_MADE_BY = {"design": "design", "runs": "simulate", "emulators": "train", "accuracy": "validate", "calibration": "validate",
            "gradient": "validate", "posterior": "infer"}  # sections that tell of a stage  # fmt: skip
_ORIGINS = {  # heading of a table of provenance
    "hashes": "Fingerprints of the stages: their part of the study, the code and what they read (sha256, first 16 digits)",
    "emulators": "Emulators (sha256 of their folder without the findings)",
}
_MEASURED = ("mean", "sd", "low", "high", "map", "truth")


def write(folder: Path) -> Path:
    """Read what the stages left in a study's folder and write `report/index.html` there, and `report/figures/` beside it.

    A stage that has not run leaves a sentence in its place. Raises StoreError for a file that is damaged.
    """
    path, page = folder / "report" / "index.html", _page(folder)
    with files.replacing(path) as temporary:
        temporary.write_text(_set(page), encoding="utf-8")
    report_figures.lay_beside(folder, page["figures"])
    return path


def render(folder: Path) -> str:
    """The page, which shows all figures without the files beside it."""
    return _set(_page(folder))


def _set(page: Mapping[str, Any]) -> str:
    """The template filled. Every text is escaped: reasons, names and sentences come from elsewhere."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True)  # fmt: skip
    names = (
        "number",
        "percent",
        "time",
        "given",
        "bound",
        "value",
        "prior",
        "alike",
        "symbol",
        "prose",
        "coded",
        "unit",
    )
    environment.filters |= {name: getattr(typeset, name) for name in names}
    environment.filters["json"] = lambda x: json.dumps(x, indent=1, ensure_ascii=False)
    environment.filters["merged"] = _merged
    return environment.get_template("report.html.j2").render(page).lstrip()


def _page(folder: Path) -> dict[str, Any]:
    study = _read(folder, "study.json") or {}
    scores = _read(folder, "train/scores.json") or {}
    stages = _stages(study)
    inferred = _read(folder, "infer/summary.json")
    findings = _findings(folder, stages, scores.get("champion"))
    markers = {s: _read(folder, f"stages/{s}.json") or {} for s in ORDER}
    told = {s: m for s, m in markers.items() if s in stages and s != "report"}
    known = _read(folder, "provenance.json")
    figures = report_figures.of(folder, _HEADINGS)
    return {
        "name": study.get("name", folder.name),
        "sections": _numbered(k for k in _HEADINGS if figures.get(k) or _told(k, stages)),
        "study": study,
        "question": _question(study, inferred, _read(folder, "simulate/summary.json") or {}),
        "recorded": _recorded(study),
        "verdict": _verdict(findings),
        "key": _key(findings),
        "bias": _read(folder, "check/bias.json"),
        "told": _read(folder, "identifiability/verdict.json"),
        "corrected": _corrected(_read(folder, "check/corrected.json"), study),
        "findings": findings,
        "rounds": _rounds(_read(folder, "simulate/rounds.json"), study),
        "runs": _runs(_read(folder, "simulate/summary.json"), _read(folder, "simulate/fidelities.json") or {}),
        "scores": _scores(scores),
        "compared": _compared(_read(folder, "train/comparison.json") or {}, scores),
        "private": _private(_read(folder, "train/summary.json") or {}),
        "why": scores.get("why"),
        "champion": scores.get("champion"),
        "posterior": inferred and {**inferred, "rows": _posterior(inferred, study)},
        "figures": figures,
        "numbers": {f["id"]: f["number"] for section in figures.values() for f in section},
        "provenance": _provenance(known, folder),
        "byline": _byline(known, told),
        "stages": [{"name": s, **_progress(m)} for s, m in told.items()],
        "total": sum(m.get("seconds") or 0.0 for m in told.values()) or None,
        "ran": {s: (folder / name).exists() for s, name in _FILES.items()},
        "had": stages,
        "lacking": {s: _lacking(s, markers[s]) for s in ORDER},
    }


def _stages(study: Mapping[str, Any]) -> tuple[str, ...]:
    """The stages of a study as study.json tells it."""
    return of(infers=study.get("infer", {}) is not None, optimises=(study.get("optimise") or {}).get("by", ""))


def _numbered(ids: Iterable[str]) -> dict[str, str]:
    """`3 Runs and failures` by the id of the section."""
    return {k: f"{number} {_HEADINGS[k]}" for number, k in enumerate(ids, 1)}


def _told(section: str, stages: Sequence[str]) -> bool:
    """Whether a section is there without a figure: where its stage may still run."""
    return section not in ("sensitivity", "identifiability", "optimum") and _MADE_BY.get(section, "report") in stages


def _read(folder: Path, name: str) -> Any:
    """The JSON of a stage, None where the stage has not written it."""
    path = folder / name
    return files.read_json(path) if path.exists() else None


# -- findings --------------------------------------------------------------------------------------------------------


def _findings(folder: Path, stages: Sequence[str], champion: str | None) -> list[dict[str, Any]]:
    """One group per stage and emulator, the champion's first; None for the findings of a stage that has not run."""
    groups = []
    for stage in (s for s in FIND if s in stages):
        found = _read(folder, f"{stage}/findings.json")
        if found is None:
            groups.append({"stage": stage, "emulator": None, "champion": False, "found": None})
            continue
        for name in sorted(found["emulators"], key=lambda n: n != champion):
            listed = [{**f, "passed": f.get("passed") is True} for f in found["emulators"][name]]
            listed = [{**f, "telling": f["blocking"] or not f["passed"]} for f in listed]
            groups.append({"stage": stage, "emulator": name, "champion": name == champion, "found": listed})
    return groups


def _merged(found: Iterable[Mapping[str, Any]]) -> list[tuple[str, list[Mapping[str, Any]]]]:
    """Findings that follow one another and say the same, under their one sentence."""
    return [(sentence, list(some)) for sentence, some in groupby(found, lambda f: f["sentence"])]


def _verdict(groups: list[dict[str, Any]]) -> dict[str, Any]:
    """Passed only when all stages that find something have run and nothing that blocks failed."""
    blocking = [f for g in groups for f in g["found"] or () if f["blocking"]]
    failed = [f for f in blocking if not f["passed"]]
    waiting = [g["stage"] for g in groups if g["found"] is None]
    if failed:
        return {"kind": "failed", "word": "FAILED", "failed": failed,
                "sentence": f"{len(failed)} of {len(blocking)} blocking checks failed. Do not trust what rests on them "
                            "before this is mended."}  # fmt: skip
    if waiting:
        so_far = f" The {len(blocking)} blocking checks so far passed." if blocking else ""
        return {"kind": "open", "word": "NOT DECIDED", "failed": [],
                "sentence": f"{' and '.join(waiting)} {'have' if waiting[1:] else 'has'} not run.{so_far}"}  # fmt: skip
    if not blocking:
        return {"kind": "open", "word": "NOT DECIDED", "failed": [], "sentence": "The study has no check that blocks."}
    return {
        "kind": "passed",
        "word": "PASSED",
        "failed": [],
        "sentence": f"All {len(blocking)} blocking checks passed.",
    }


def _key(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The champion's few findings that say most, in words, with the section that tells more."""
    found = {f["name"]: f for g in groups if g["champion"] for f in g["found"] or ()}
    return [
        {**found[name], "words": words, "section": section} for name, (words, section) in _KEY.items() if name in found
    ]


def _question(study: Mapping[str, Any], inferred: Mapping[str, Any] | None, runs: Mapping[str, Any]) -> str:
    names = list(study.get("parameters", {}))
    simulator = (study.get("simulator") or {}).get("use", "the simulator")
    design = study.get("design") or {}
    if asked := study.get("optimise"):
        goal, objective = (
            ("least", asked["minimise"]) if asked.get("minimise") else ("greatest", asked.get("maximise", ""))
        )
        bounds = "".join(f", with {c}" for c in asked.get("subject_to") or ())
        optimum = f"Where is {objective} of the simulator {simulator} {goal}{bounds}?"
        if "infer" not in _stages(study):
            how = "an emulator of it" if asked.get("by") == "emulator" else "its own derivative"
            judge = "no true run can confirm it" if _recorded(study) else "is held against true runs"
            return f"{optimum} The answer comes through {how}, and {judge}."
    if "infer" not in _stages(study):
        return (f"What is the answer of the simulator {simulator} at any {_listed(names)} of the priors, without a run? An "
                f"emulator is trained on {_trained(design, runs)} and held against {_held_out(design, runs)} others.")  # fmt: skip
    said = (inferred or {}).get("observation")
    observation = f"the {said.removeprefix('the ')}" if said else "an observation"
    return (
        f"Which values of {', '.join(names) or 'the parameters'} of the simulator {simulator} explain {observation}? "
        f"The answer comes through an emulator that is trained on {_trained(design, runs)} of the simulator "
        f"and held against {_held_out(design, runs)} others."
    )


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]])) if names else "parameters"


def _recorded(study: Mapping[str, Any]) -> str:
    """The table that holds the only runs there are; nothing where the simulator can be run."""
    simulator = study.get("simulator") or {}
    return simulator.get("file", "") if simulator.get("use") == "table" else ""


def _trained(design: Mapping[str, Any], runs: Mapping[str, Any]) -> str:
    """`64 runs`, or `256 runs at 64 points`: those that finished, once they are there."""
    points, each = design.get("runs"), design.get("replicates", 1)
    told = runs.get("finished") or (points and points * each) or "some"
    return f"{told} runs" if not points or each == 1 else f"{told} runs at {points} points"


def _held_out(design: Mapping[str, Any], runs: Mapping[str, Any]) -> Any:
    return (runs.get("held_out") or {}).get("finished") or design.get("held_out", "some")


# -- tables ----------------------------------------------------------------------------------------------------------


def _runs(summary: dict[str, Any] | None, fidelities: dict[str, Any]) -> dict[str, Any] | None:
    """The runs of the study's own simulator by set, then those of its fidelities by name."""
    if summary is None:
        return None
    held_out = {"held out": summary["held_out"]} if summary.get("held_out") else {}
    sets = {"training": summary, **held_out, **fidelities}
    failures = [{"set": name, **f} for name, part in sets.items() for f in part.get("failures", [])]
    kinds = Counter(f.get("kind") or "unknown" for f in failures)
    return {"sets": sets, "failures": failures[:_FAILURES], "more": max(0, len(failures) - _FAILURES),
            "kinds": kinds.most_common()}  # fmt: skip


def _rounds(found: dict[str, Any] | None, study: Mapping[str, Any]) -> dict[str, Any] | None:
    """The loop of an active design; None where the study, as it is now, has none."""
    return found if found and study.get("design", {}).get("use") == "active" else None


def _scores(scores: Mapping[str, Any]) -> dict[str, Any] | None:
    """Heading and written cells of every number that is known of any emulator."""
    table = scores.get("emulators")
    if not table:
        return None
    present = {k for row in table.values() for k in row if k not in ("recipe", "privacy")}
    keys = [k for k in _COLUMNS if k in present] + sorted(present - set(_COLUMNS))
    write_as = {k: _COLUMNS.get(k, (k.replace("_", " "), typeset.number)) for k in keys}
    rows = [{"name": name, "recipe": row.get("recipe") or {}, "role": _role(name, scores),
             "cells": [write_as[k][1](row.get(k)) for k in keys]} for name, row in table.items()]  # fmt: skip
    return {"headings": [write_as[k][0] for k in keys], "rows": rows}


def _compared(found: Mapping[str, Any], scores: Mapping[str, Any]) -> dict[str, Any] | None:
    """The emulators on folds of the training runs, those that cannot be chosen last; None where nothing was compared."""
    table = found.get("emulators")
    if not table:
        return None

    def cells(row: Mapping[str, Any]) -> list[str]:
        bars = {k: (row.get(k), row.get(f"{k}_error")) for k in ("log_score", "median", "gradient", "coverage")}
        shares = [[None if x is None else 100 * x for x in bars[k]] for k in ("median", "gradient", "coverage")]
        written = [typeset.with_error(*bars["log_score"]), *(typeset.with_error(*pair, " %") for pair in shares)]
        return [*written, typeset.time(row.get("seconds") or None)]

    order = sorted(table, key=lambda n: (bool(table[n].get("note")), -(table[n].get("log_score") or 0.0)))
    rows = [{"name": n, "role": _role(n, scores), "cells": cells(table[n]), "note": table[n].get("note") or ""}
            for n in order]  # fmt: skip
    return {"folds": found.get("folds"), "runs": found.get("runs"), "rows": rows}


def _private(summary: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What is promised, and not, of every emulator that was trained under differential privacy."""
    return {name: row["privacy"] for name, row in (summary.get("emulators") or {}).items() if row.get("privacy")}


def _role(name: str, scores: Mapping[str, Any]) -> str:
    return "champion" if name == scores.get("champion") else "baseline" if name == scores.get("baseline") else ""


def _posterior(inferred: Mapping[str, Any], study: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The parameters as they are written, with the distance from the truth in standard deviations where it is known."""
    rows = []
    words = {**(study.get("parameters") or {}), **((study.get("infer") or {}).get("derived") or {})}
    for name, p in {**inferred["parameters"], **inferred.get("derived", {})}.items():
        sd, truth = p.get("sd"), p.get("truth")
        known = words.get(name, {})
        shift = None if truth is None or not sd or p.get("mean") is None else (p["mean"] - truth) / sd
        rows.append({"name": name, "unit": known.get("unit", ""), "label": known.get("label", ""), "p": p,
                     "written": {k: typeset.measured(p.get(k), sd) for k in _MEASURED},
                     "shift": typeset.NONE if shift is None else f"{shift:+.2f} sd"})  # fmt: skip
    return rows


def _corrected(found: Mapping[str, Any] | None, study: Mapping[str, Any]) -> dict[str, Any] | None:
    """The posterior as true runs correct it: mean before and after, and the width where they say it."""
    if found is None:
        return None
    rows = []
    for name, p in found["parameters"].items():
        known, sd = study.get("parameters", {}).get(name, {}), p.get("corrected_sd") or p.get("sd")
        ends = [typeset.measured(p[k], sd) for k in ("low", "high") if k in p]
        rows.append({"name": name, "unit": known.get("unit", ""), "label": known.get("label", ""),
                     "mean": typeset.measured(p["mean"], p["sd"]), "sd": typeset.measured(p["sd"], p["sd"]),
                     "corrected": typeset.with_error(p["corrected"], p["error"]),
                     "corrected_sd": typeset.with_error(p.get("corrected_sd"), p.get("corrected_sd_error")),
                     "interval": " to ".join(ends) or typeset.NONE})  # fmt: skip
    return {"runs": found["runs"], "by": found.get("by", "confirmation"), "rows": rows}


def _provenance(known: Mapping[str, Any] | None, folder: Path) -> dict[str, dict[str, str]] | None:
    """Small tables by heading, in the order in which they were written; values that stand alone come first."""
    if known is None:
        return None
    tables = {_ORIGINS.get(k, k.replace("_", " ").capitalize()): v
              for k, v in known.items() if isinstance(v, Mapping) and k != "seconds"}  # fmt: skip
    alone = {k: v for k, v in known.items() if not isinstance(v, Mapping)}
    emulators = {p.name: files.digest(p, but=FINDINGS) for p in sorted((folder / "emulators").glob("*")) if p.is_dir()}
    return {"Machine": alone, **tables, **({_ORIGINS["emulators"]: emulators} if emulators else {})}


def _byline(known: Mapping[str, Any] | None, markers: Mapping[str, Mapping[str, Any]]) -> str:
    """By which version, when it began, and how long it took."""
    started = sorted(m["started"] for m in markers.values() if m.get("started"))
    seconds = [m["seconds"] for m in markers.values() if m.get("seconds") is not None]
    version = ((known or {}).get("versions") or {}).get("emulate")
    said = [f"emulate {version}" if version else "", f"begun on {started[0][:10]}" if started else "",
            f"{typeset.time(sum(seconds))} of wall time" if seconds else ""]  # fmt: skip
    return ", ".join(filter(None, said))


def _progress(marker: Mapping[str, Any]) -> dict[str, Any]:
    return {"status": marker.get("status", "not run"), "why": marker.get("why") or "", "seconds": marker.get("seconds"),
            "started": marker.get("started") or ""}  # fmt: skip


def _lacking(stage: str, marker: Mapping[str, Any]) -> str:
    """What stands where a stage has left nothing."""
    if marker.get("status") in ("failed", "interrupted"):
        how = "failed" if marker["status"] == "failed" else "was interrupted"
        return f"The stage {stage} {how}{': ' if marker.get('why') else ''}{marker.get('why') or ''}."
    return f"The stage {stage} has not run. Run `emulate {stage}` or `emulate run`."
