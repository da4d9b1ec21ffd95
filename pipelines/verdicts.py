"""What the checks found of an emulator, put into its own folder: who gets the folder gets the verdict with it."""

from dataclasses import fields

from emulate.contracts import Finding
from emulate.loading import keep
from pipelines import amortised_choice, files
from pipelines.workbench import Workbench

STAGES = ("validate", "check")  # that find something
CHAMPION = "validate/champion.json"  # the emulator that is used
BIAS = "check/bias.json"  # what the emulator did to the posterior, in one sentence and its numbers


def write(bench: Workbench, stage: str) -> None:
    """After a stage that finds something: its findings, those of the stages before it, and the scores on held-out runs."""
    if stage not in STAGES or (stage == "check" and amortised_choice.method(bench.study) == "npe"):
        return  # what npe found is no verdict on an emulator
    found: dict[str, list[Finding]] = {}
    for earlier in STAGES[: STAGES.index(stage) + 1]:
        for name, listed in files.read_json(bench.folder / earlier / "findings.json")["emulators"].items():
            found.setdefault(name, []).extend(map(_finding, listed))
    rows = files.read_json(bench.folder / "train" / "scores.json")["emulators"]
    for name, findings in found.items():
        row = rows.get(name, {}).items()
        scores = {k: float(v) for k, v in row if isinstance(v, int | float) and not isinstance(v, bool)}
        keep(bench.folder / "emulators" / name, findings, scores)


def _finding(stored: dict) -> Finding:
    """A finding as a stage wrote it: null for what is not a number."""
    known = {f.name: stored[f.name] for f in fields(Finding) if f.name in stored}
    return Finding(**known | {"value": float("nan") if stored["value"] is None else stored["value"]})
