"""The posterior as true runs correct it, and the one number that says what the emulator did to it: files of check."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from emulate.bias import Bias, by_confirmation, by_weights
from emulate.contracts import Confirmation, Weighted
from emulate.corrections import Correction
from emulate.corrections import correct as by_runs_at_the_mean
from emulate.emulator import Emulator
from emulate.importance import BLUR, TRUSTED, Reweighted, reweigh
from pipelines import files
from pipelines.delaying import Delayed
from pipelines.verdicts import BIAS
from pipelines.workbench import Workbench

CORRECTED, DRAWS = "check/corrected.json", "check/corrected.safetensors"
_LEAST = 5  # true runs below which nothing is said
_Pair = tuple[Tensor, Tensor]  # a value with its standard error


@dataclass(frozen=True)
class Corrected:
    """What true runs made of the posterior; None where they say nothing, or no such runs were made."""

    confirmed: Correction | None
    draws: tuple[Tensor, Tensor] | None = None  # theta `[t, d]` and their ln weights `[t]`, where these mend it
    runs: int = 0  # true runs behind these draws


def correct(bench: Workbench, emulator: Emulator, weighted: Weighted, known: Confirmation | None,
            delayed: Delayed | None = None) -> Corrected:  # fmt: skip
    """Write what the true runs say of the posterior beside the findings, print the corrected values, and note all for MLflow.

    Chains in the true posterior go before true runs at the posterior mean, which a stochastic simulator is asked for, and
    these before weights of single runs."""
    for name in (CORRECTED, DRAWS, BIAS):
        (bench.folder / name).unlink(missing_ok=True)
    names = bench.study.space.names
    confirmed = by_runs_at_the_mean(emulator, known) if known is not None and len(known.y) > 1 else None
    if confirmed is not None and confirmed.finite:
        _say(bench, by_confirmation(confirmed, known, names))
        if delayed is None:
            _write_confirmed(bench, confirmed, known)
            return Corrected(confirmed)
    else:
        confirmed = None
    made = reweigh(weighted, bench.study.space) if _enough(weighted) else None
    why = beyond(made, bench.study.simulator.stochastic) if made is not None else ""
    if made is not None and confirmed is None:
        _say(bench, by_weights(made, names), "" if delayed else why)
    if delayed is not None:
        _write_delayed(bench, delayed, weighted)
        flat = delayed.theta.flatten(0, 1)
        return Corrected(confirmed, (flat, torch.zeros(len(flat), dtype=flat.dtype)), delayed.runs)
    if made is None or why:
        return Corrected(confirmed)
    _write_reweighted(bench, made, weighted)
    return Corrected(confirmed, (made.theta, made.log_weight), len(weighted.theta))


def _enough(weighted: Weighted) -> bool:
    log_weight, draws = weighted.log_weight, weighted.draws
    ran = int(log_weight.isfinite().sum())
    return ran >= _LEAST and not bool((log_weight == torch.inf).any()) and bool((draws != draws[0]).any())


def beyond(made: Reweighted, stochastic: bool) -> str:
    """Why the weights do not mend the posterior, and what to do; nothing where they do."""
    if made.trusted:
        return ""
    if stochastic:
        return ("The true runs cannot correct the posterior: the simulator is random, and the single run that weighs a draw "
                "has noise of its own. Name the check confirmation in place of posterior, and let a run be as long as the "
                "data.")  # fmt: skip
    more = ("Raise check.importance_runs, or run the simulator where the posterior lies, `design: {use: active, aim: posterior}`, "
            "and train again.")  # fmt: skip
    if made.tame:
        return (f"The true runs do not correct the posterior: its means and widths would be known to {made.blur:.2g} standard "
                f"deviations only, and {BLUR:g} is asked. {more}")  # fmt: skip
    k = f"the Pareto shape of their weights is {made.pareto_k:.2g}, and {TRUSTED:g} is the most"
    few = "they are too few to tell how their weights fall off" if made.pareto_k != made.pareto_k else k
    return f"The true runs cannot correct the posterior: {few}. {more}"


def _say(bench: Workbench, bias: Bias, why: str = "") -> None:
    told = bias.to_dict() | ({"beyond": why} if why else {})
    files.write_json(bench.folder / BIAS, told)
    bench.journal.append("metrics", "check", metrics=bias.metrics())
    bench.journal.append("metrics", "", metrics=bias.metrics())


def _write_confirmed(bench: Workbench, made: Correction, known: Confirmation) -> None:
    columns = {"mean": made.theta, "sd": made.sd, "delta": made.delta, "error": made.error, "corrected": made.corrected}
    whole = {
        "by": "confirmation",
        "runs": len(known.y),
        "failed": known.failed,
        "chi2": made.chi2,
        "numbers": made.numbers,
    }
    parameters = _write(bench, whole, columns)
    rows = [(n, *(f"{p[k]:.4g}" for k in columns)) for n, p in parameters.items()]
    bench.terminal.table("", ("parameter", "posterior mean", "sd", "off by", "+-", "corrected"), rows)


def _write_reweighted(bench: Workbench, made: Reweighted, weighted: Weighted) -> None:
    failed = 0 if weighted.failed is None else len(weighted.failed)
    whole = {"by": "importance", "runs": len(weighted.log_weight), "failed": failed + int(weighted.log_weight.isneginf().sum()),
             "pareto_k": made.pareto_k, "covariance": made.covariance.tolist(),
             "covariance_error": made.covariance_error.tolist()}  # fmt: skip
    _write_whole(bench, whole, made.theta, (made.mean, made.mean_error), (made.sd, made.sd_error),
                 (made.quantiles, made.quantiles_error))  # fmt: skip
    files.write_tensors(bench.folder / DRAWS, {"theta": made.theta, "log_weight": made.log_weight})


def _write_delayed(bench: Workbench, delayed: Delayed, weighted: Weighted) -> None:
    flat, ess = delayed.theta.flatten(0, 1), delayed.made.ess.clamp_min(1)
    sd, levels = flat.std(0), torch.tensor([0.025, 0.5, 0.975], dtype=flat.dtype)
    blur = (levels * (1 - levels)).sqrt() / ess[:, None].sqrt()  # [d, 3], of the share of draws below a quantile
    ends = [
        torch.stack([flat[:, i].quantile((levels + k * blur[i]).clamp(0, 1)) for i in range(flat.shape[1])])
        for k in (-1, 0, 1)
    ]
    whole = {"by": "delayed_acceptance", "runs": delayed.runs, "failed": 0, "rhat": float(delayed.made.rhat.max()),
             "ess": float(delayed.made.ess.min()), **delayed.made.diagnostics,
             "covariance": flat.mT.cov().reshape(flat.shape[1], -1).tolist()}  # fmt: skip
    _write_whole(bench, whole, weighted.draws, (flat.mean(0), sd / ess.sqrt()), (sd, sd / (2 * ess).sqrt()),
                 (ends[1], (ends[2] - ends[0]) / 2))  # fmt: skip
    files.write_tensors(
        bench.folder / DRAWS, {"theta": delayed.theta, "log_weight": torch.zeros(delayed.theta.shape[:2])}
    )


def _write_whole(
    bench: Workbench, whole: dict[str, Any], draws: Tensor, mean: _Pair, sd: _Pair, quantiles: _Pair
) -> None:
    """A corrected posterior of which everything is known, beside the draws `[t, d]` of the surrogate's."""
    (low, median, high), (low_error, _, high_error), before = (*(q.unbind(1) for q in quantiles), draws.mean(0))
    columns = {"mean": before, "sd": draws.std(0), "delta": before - mean[0], "error": mean[1], "corrected": mean[0],
               "corrected_sd": sd[0], "corrected_sd_error": sd[1], "low": low, "median": median, "high": high,
               "low_error": low_error, "high_error": high_error}  # fmt: skip
    parameters = _write(bench, whole, columns)
    shown = ("mean", "sd", "corrected", "error", "corrected_sd", "corrected_sd_error", "low", "high")
    rows = [(n, *(f"{p[k]:.4g}" for k in shown)) for n, p in parameters.items()]
    heading = ("parameter", "posterior mean", "sd", "corrected", "+-", "corrected sd", "+-", "2.5 %", "97.5 %")
    bench.terminal.table("", heading, rows)


def _write(bench: Workbench, whole: dict[str, Any], columns: dict[str, Tensor]) -> dict[str, dict[str, float]]:
    parameters = {n: {k: float(x[i]) for k, x in columns.items()} for i, n in enumerate(bench.study.space.names)}
    files.write_json(bench.folder / CORRECTED, {**whole, "parameters": parameters})
    metrics = {f"{n}/{k}": p[k] for n, p in parameters.items() for k in ("delta", "corrected")}
    bench.journal.append("metrics", "check", metrics=metrics)
    return parameters
