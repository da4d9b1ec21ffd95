"""Which emulators of a study are offered to the model registry, and under which alias."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines import files, notes
from pipelines.workbench import Workbench

CHAMPION, CHALLENGER = "champion", "challenger"


def offer(bench: Workbench, findings: Sequence[Mapping[str, Any]] = ()) -> None:
    """Register every emulator that was fitted, the baseline aside; `findings` are those that came after validate.

    `champion` goes to the emulator that is used, and only when all its blocking findings passed. `challenger` goes to what
    did not displace the champion: the emulator that is used when a blocking finding failed, else the runner-up, which is
    the other emulator with the best log score on held-out runs.
    """
    study, used = bench.study, bench.champion
    found = files.read_json(bench.folder / "validate" / "findings.json")["emulators"]
    told = files.read_json(bench.folder / "train" / "scores.json")["emulators"]
    found = {n: list(f) for n, f in found.items() if n != study.train.baseline or n == used}
    found[used] += findings
    good = all(f["passed"] for f in found[used] if f["blocking"])
    aliases = assigned(used, good, {n: told.get(n, {}).get("log_score") for n in found})
    for name in sorted(found, key=lambda n: n == used):  # the newest version is the one that is used
        row = told.get(name, {})
        passed = good and name == used
        bench.journal.append(
            "model",
            f"train/{name}",
            name=study.name,
            path=f"emulators/{name}",
            emulator=name,
            aliases=[aliases[name]] if name in aliases else [],
            findings_passed=passed,
            metrics={f["name"]: f["value"] for f in found[name]},
            note=notes.version(name, row.get("recipe", {}), row, found[name], _standing(name == used, passed)),
        )


def assigned(used: str, passed: bool, log_scores: Mapping[str, float | None]) -> dict[str, str]:
    """The alias of those that get one, by name.

    >>> assigned("gp", True, {"gp": 9.0, "mlp": 7.0, "flow": 8.0})
    {'gp': 'champion', 'flow': 'challenger'}
    >>> assigned("gp", False, {"gp": 9.0, "mlp": 7.0})
    {'gp': 'challenger'}
    """
    if not passed:
        return {used: CHALLENGER}
    rivals = {n: s for n, s in log_scores.items() if n != used and s is not None}
    runner_up = [max(rivals, key=lambda n: rivals[n])] if rivals else []
    return {used: CHAMPION, **dict.fromkeys(runner_up, CHALLENGER)}


def _standing(used: bool, passed: bool) -> str:
    if not used:
        return "beside the emulator that was used."
    return f"the emulator that was used; {'every blocking finding passed' if passed else 'a blocking finding failed'}."
