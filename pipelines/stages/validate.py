"""validate: held-out runs and the simulator's own gradient -> scores, findings, and the emulator that is used on."""

import math

import torch

from emulate.contracts import Evidence, Jacobians
from emulate.distributions import apart
from emulate.emulator import Emulator
from emulate.errors import CampaignError, InputError
from emulate.runs import Runs
from emulate.scoring import misses
from pipelines import comparison, files, registration
from pipelines.terminal import count
from pipelines.typeset import percent
from pipelines.workbench import Workbench

SENTENCE = "hold the emulators against held-out runs and the simulator's gradient"
READS = ("design", "simulate", "train")
WRITES = ("validate/findings.json", "validate/champion.json", "validate/jacobians.safetensors")


def run(bench: Workbench) -> str:
    study = bench.study
    made = bench.runs_of("held_out")
    held_out = made.finished()
    if not len(held_out):
        raise CampaignError(
            "no held-out run finished, so nothing can be validated. See `emulate status`, mend the "
            "simulator, or raise design.held_out."
        )
    trained = files.read_json(bench.folder / "train" / "summary.json")["emulators"]
    emulators = {name: bench.emulator(name) for name in study.emulators if name in trained}
    jacobians = _jacobians(bench, held_out)
    scores = {name: _score(e, held_out) for name, e in emulators.items()}
    champion, why = _champion(bench, scores)
    found = _findings(bench, emulators, champion, made, jacobians)
    bench.findings("validate", found, used=champion)
    for name, score in scores.items():
        bench.journal.append("metrics", f"validate/{name}", metrics=score)
    bench.journal.append("metrics", "", metrics={f"held_out/{k}": v for k, v in scores[champion].items()})
    bench.journal.append("tags", "", tags={"emulator": champion})
    chosen = {"champion": champion, "baseline": study.train.baseline, "why": why}
    files.write_json(bench.folder / "validate" / "champion.json", chosen)
    table = {name: {**trained[name], **scores[name]} for name in emulators}
    files.write_json(bench.folder / "train" / "scores.json", {**chosen, "emulators": table})
    _figures(bench, emulators, champion, held_out, jacobians, scores)
    if "check" not in study.stages:  # which would say more
        registration.offer(bench)
    _print(bench, scores, champion)
    return f"{why[:-1]}; {count(len(held_out), 'held-out run')}"


def _champion(bench: Workbench, scores: dict[str, dict[str, float]]) -> tuple[str, str]:
    """The emulator that is used and why: chosen on the folds of train, so that held-out runs stay an honest test; on
    these where nothing was compared there."""
    study, named = bench.study, bench.study.train.champion
    failed = files.read_json(bench.folder / "train" / "summary.json")["failed"]
    compared = {n: s for n, s in comparison.read_scores(bench.folder).items() if n not in failed}
    champion, why = comparison.chosen(study, compared) if named == "auto" or named in scores else (named, "")
    if champion and champion not in scores:
        raise InputError(f"train.champion: must be an emulator that was fitted: {', '.join(scores)}. {champion} was not; see "
                         "what `emulate train --force` says of it, or name another.")  # fmt: skip
    if champion:
        return champion, why
    rivals = {n: scores[n]["log_score"] for n in comparison.rivals(study, list(scores))}
    able = {n: x for n, x in rivals.items() if math.isfinite(x) or len(rivals) == 1}  # which the checks then judge
    if not able:
        raise InputError("train.champion: must be an emulator whose density of every held-out run is a finite number. Got "
                         f"none among {', '.join(rivals)}; mend their recipes, or add another.")  # fmt: skip
    champion = max(able, key=lambda n: able[n])
    alone = "it is the only one" if len(rivals) == 1 else "it has the best log score on held-out runs"
    return champion, f"{champion} is chosen: {alone}."


def _jacobians(bench: Workbench, held_out: Runs) -> Jacobians:
    """The simulator's derivatives at the first held-out points, run and stored like any other run; of none where runs are
    there already and no other can be made."""
    theta = held_out.theta[: bench.study.validate.gradient_points]
    if bench.study.recorded:
        theta, y = (torch.from_numpy(t[:0]) for t in (held_out.theta, held_out.y))
        none = y.new_zeros(0, y.shape[-1], theta.shape[-1])
        result = Jacobians(theta, y, none, none)
    else:
        bench.campaign(theta, "gradients of the simulator", product="jacobian")
        runs = bench.runs(theta, product="jacobian").finished()
        result = Jacobians(*map(torch.from_numpy, (runs.theta, runs.y, runs.jacobian, runs.jacobian_error)))
    files.write_tensors(bench.folder / "validate" / "jacobians.safetensors", vars(result))
    return result


def _findings(
    bench: Workbench, emulators: dict[str, Emulator], champion: str, held_out: Runs, jacobians: Jacobians
) -> dict[str, list[dict]]:
    """Every check on every emulator; only the champion's findings block."""
    baseline = emulators.get(bench.study.train.baseline or "")
    found = {}
    for name, emulator in emulators.items():
        beside = None if emulator is baseline else baseline
        known = None if bench.study.recorded else jacobians
        evidence = Evidence(emulator, held_out, known, baseline=beside, likelihood=bench.study.likelihood)
        findings = [f.to_dict() for c in bench.study.checks.values() if c.stage == "validate" for f in c.find(evidence)]
        found[name] = [{**f, "blocking": f["blocking"] and name == champion} for f in findings]
    return found


def _score(emulator: Emulator, held_out: Runs) -> dict[str, float]:
    """Errors over held-out runs; log_score is the mean log density, the proper score that chooses."""
    prediction = emulator.predict(torch.from_numpy(held_out.theta))
    y = torch.from_numpy(held_out.y)
    error = (prediction.mean - y).abs()
    worst = misses(prediction.mean, y, held_out).amax(-1)
    inside = error <= 1.96 * prediction.variance.sqrt()
    return {
        "median": float(worst.quantile(0.5)),
        "worst99": float(worst.quantile(0.99)),
        "worst": float(worst.max()),
        "coverage": float(inside.double().mean()),
        "log_score": float(prediction.log_prob(apart(prediction, y)).mean()),
    }


def _figures(bench: Workbench, emulators, champion, held_out, jacobians, scores) -> None:
    from pipelines import figures

    made = {
        "accuracy": (
            figures.accuracy(emulators, held_out),
            "Predicted against true for held-out runs, and residuals with the band of 68 and 95 % of the runs.",
        ),
        "calibration": (
            figures.calibration(emulators, held_out),
            "Calibration: what the emulator promises against what held-out runs show. Above the line it is shy.",
        ),
        "scores": (figures.scores(scores), "Largest error in a held-out run, by emulator."),
        **figures.calibrated(emulators, champion, held_out),
    }
    if len(jacobians.theta):
        made["gradient"] = (
            figures.gradient(emulators[champion], jacobians),
            f"Gradient of {champion} (lines) and of the simulator (points).",
        )
    bench.figures("validate", made)


def _print(bench: Workbench, scores: dict[str, dict[str, float]], champion: str) -> None:
    rows = [
        (
            f"{n}{' (champion)' if n == champion else ''}",
            percent(s["median"]),
            percent(s["worst99"]),
            f"{s['coverage']:.1%}",
            f"{s['log_score']:.4g}",
        )
        for n, s in scores.items()
    ]
    bench.terminal.table("", ("emulator", "median error", "99th percentile", "95 % coverage", "log score"), rows)
