"""The stages infer and check where `infer.method` is npe: draws of q(parameters | data), and what can be said of its bias."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from emulate.amortised import Amortised, to_theta, to_x
from emulate.contracts import Draws, Evidence, Recovery, Weighted
from emulate.diagnostics import diagnose
from emulate.distributions import Exact
from emulate.errors import CampaignError
from emulate.feasibility import Feasibility
from pipelines import amortised_rounds as rounds
from pipelines import answers, files, hindsight, observations, pictures, registration
from pipelines.corrected import correct
from pipelines.terminal import Stopwatch
from pipelines.workbench import SETS, Workbench

_PREDICTED, _FEW = 400, 20  # runs drawn by weight; that they are worth, below which it is said
_OF_EMULATORS = {"confirmation": "true runs against a prediction", "replicas": "data that a prediction makes again"}
_RECOVERED, _AT_ONCE = 1000, 20_000  # draws for each held-out observation; of all together in one call


def infer(bench: Workbench, observed: Any) -> str:
    """Learn, draw, and write what the stage writes; `observed` is the stage's observation."""
    from pipelines.stages.infer import _summary

    study, watch = bench.study, Stopwatch()
    _say_of_failures(bench)
    q = rounds.posterior(bench, observed.data)
    seconds = watch.seconds
    remote = q.remoteness(observed.data)
    _say_of_remoteness(bench, remote)
    n = study.infer.chains * study.infer.draws
    with bench.terminal.bar("draw"):
        x = q.draws_x(observed.data, n, seed=bench.seed("infer/draws"))
        x = x.reshape(study.infer.draws, study.infer.chains, -1).transpose(0, 1).contiguous()
        log_density = q.log_density(x, observed.data).detach()
    best = q.find_map(observed.data, x.reshape(n, -1))
    theta, zeros = to_theta(study.space, x), torch.zeros(x.shape[:2], dtype=torch.bool)
    draws = Draws(x, log_density, zeros, *diagnose(x))
    tensors = {
        "theta": theta,
        "x": x,
        "log_density": log_density,
        "map": best.theta,
        "divergent": zeros.to(torch.uint8),
    }
    files.write_tensors(bench.folder / "infer" / "draws.safetensors", tensors)
    learnt = {"runs": q.provenance["runs"], "rows": q.provenance["rows"], "rounds": study.infer.rounds, "seconds": seconds,
              "remoteness": max(remote.centre, remote.near), "outside": remote.outside}  # fmt: skip
    summary = _summary(bench, observed, theta, draws, best) | {"method": "npe", "npe": learnt}
    if told := answers.summary(bench, theta, best.theta, observed.truth):
        summary["derived"] = told
    files.write_json(bench.folder / "infer" / "summary.json", summary)
    some = _predicted(bench, q, observed.data)
    _write_posterior(bench, observed, theta, draws)
    _figures(bench, observed, q, theta, some, best.theta)
    _journal(bench, summary)
    keys = ("mean", "sd", "low", "high", "map", "truth")
    rows = [
        (n, *(f"{p[k]:.4g}" if p[k] is not None else "" for k in keys))
        for n, p in (summary["parameters"] | summary.get("derived", {})).items()
    ]
    bench.terminal.table("", ("parameter", "mean", "sd", "2.5 %", "97.5 %", "MAP", "truth"), rows)
    return f"{n} independent draws of a posterior learnt from {q.provenance['runs']} runs; {observed.sentence}"


def _say_of_failures(bench: Workbench) -> None:
    failed = int((~bench.runs_of("training").ok).sum())
    if failed and not bench.study.infer.feasible:
        bench.terminal.warn(f"{failed} training runs failed, and npe learns from finished ones: its prior is cut off where runs "
                            "fail, as with infer.feasible: true.")  # fmt: skip


def _say_of_remoteness(bench: Workbench, remote: Any) -> None:
    """A network answers whatever it is asked; what it was not taught is said, or refused."""
    if bench.study.infer.outside == "ignore":
        return
    if not remote.outside:
        bench.note(remote.sentence)
        return
    if bench.study.infer.outside == "refuse":
        raise CampaignError(f"{remote.sentence}, and infer.outside is refuse. Check the observation's unit and order, widen the "
                            "prior, or set infer.outside to warn.")  # fmt: skip
    bench.terminal.warn(f"{remote.sentence}; q extrapolates there, and nothing vouches for it. Check the observation's unit, "
                        "order and noise, or widen the prior.")  # fmt: skip


def _predicted(bench: Workbench, q: Amortised, data: Tensor) -> Tensor:
    """Outputs `[n, m]` of runs that are there, drawn by the weights q(x | data) / p(x): what the posterior predicts without an
    emulator. After rounds those of the last, which is spread as the prior where q is dense."""
    study, points = bench.study, [r["theta"] for r in rounds.kept(bench) if r["theta"]]
    runs = (bench.runs(np.array(points[-1])) if points else bench.runs_of("training")).finished()
    x = to_x(study.space, torch.from_numpy(runs.theta))
    w = torch.softmax((q.log_density(x, data) + 0.5 * x.square().sum(-1)).detach(), 0)
    worth = float(1 / w.square().sum())
    if worth < _FEW:
        bench.note(
            f"the prediction rests on {worth:.2g} runs, for few lie where the posterior does; infer.rounds makes more there"
        )
    pick = torch.multinomial(
        w, _PREDICTED, True, generator=torch.Generator().manual_seed(bench.seed("infer/prediction"))
    )
    return torch.from_numpy(runs.y)[pick]


def _write_posterior(bench: Workbench, o: Any, theta: Tensor, draws: Draws) -> None:
    """`posterior.nc` for arviz: the draws, their density under q, the prior and the observation."""
    from importlib.metadata import version

    from emulate.inference_data import inference_data, save

    study = bench.study
    tree = inference_data(
        study.space, theta, derived=answers.derived(study), outputs=study.simulator.outputs, data=o.data,
        prior=answers.prior(study.space, seed=bench.seed("infer/prior")),
        stats={"lp": draws.log_density, "diverging": draws.divergent},
        attrs={"study": study.name, "likelihood": study.infer.likelihood.entry_name(), "sampler": "npe", "seed": study.seed,
               "observation": o.sentence, "inference_library": "emulate",
               "inference_library_version": version("emulate")})  # fmt: skip
    with files.replacing(bench.folder / answers.POSTERIOR) as temporary:
        save(tree, temporary)
    bench.journal.append("artifact", "infer", path=answers.POSTERIOR)


def _figures(bench: Workbench, o: Any, q: Amortised, theta: Tensor, some: Tensor, best: Tensor) -> None:
    from pipelines import figures

    sigma = bench.study.infer.likelihood.on(q.outputs).covariance(o.data).diagonal().sqrt()
    answers.write_prediction(bench, o.data, sigma, some)
    corner = answers.corner(bench.study, theta.reshape(-1, theta.shape[-1]), o.truth)
    bench.figures("infer", {
        "corner": (corner, "The posterior by the flow; the truth should lie inside."),
        "prediction": (figures.posterior_prediction(q.outputs, o.data, sigma, some),
                       "The observation, and runs of the campaign weighed by the posterior."),
        "training": (figures.training({"npe": q.history}), "Loss by epoch, on the runs seen and on those left out."),
        **pictures.picture(bench, {"truth": o.truth, "best fit": best}),
    })  # fmt: skip


def _journal(bench: Workbench, summary: dict[str, Any]) -> None:
    infer, learnt = bench.study.infer, summary["npe"]
    bench.journal.append("params", "infer", params={
        "likelihood": infer.likelihood.entry_name(), "sampler": "npe", "chains": infer.chains, "draws": infer.draws,
        "rounds": infer.rounds, "observation": summary["observation"]})  # fmt: skip
    metrics = {f"{n}/{k}": p[k] for n, p in summary["parameters"].items() for k in ("mean", "sd", "map", "rhat", "ess")}
    metrics |= {f"npe/{k}": float(learnt[k]) for k in ("runs", "rows", "seconds", "remoteness", "outside")}
    bench.journal.append("metrics", "infer", metrics=metrics)
    bench.journal.append("metrics", "", metrics=answers.headline(summary["parameters"]))


def check(bench: Workbench) -> str:
    """The evidence that npe leaves, what the checks find in it, and which of them cannot be made."""
    from pipelines.stages.check import _figures

    study, observed = bench.study, observations.load(bench)
    q = Amortised.load(bench.folder / rounds.NPE / str(study.infer.rounds - 1))
    weighted = _weighted(bench, q, observed.data)
    recovery = _recovery(bench, q) if study.infer.rounds == 1 else None
    known = bench.runs({which: bench.points(which) for which in SETS})
    evidence = Evidence(bench.emulator(bench.champion), bench.runs_of("held_out").finished(), weighted=weighted, recovery=recovery,
                        truth=observed.truth, feasibility=Feasibility.fit(known, seed=bench.seed("feasibility")))  # fmt: skip
    findings = []
    for name, c in study.checks.items():
        if c.stage != "check":
            continue
        if why := _inapplicable(c, evidence):
            bench.note(f"{name} is left out: {why}")
        else:
            findings += [f.to_dict() for f in c.find(evidence)]
    bench.findings("check", {bench.champion: findings})
    stored = {f"weighted.{k}": v for k, v in vars(weighted).items() if isinstance(v, Tensor)}
    stored |= {f"recovery.{k}": v for k, v in vars(recovery or ()).items() if isinstance(v, Tensor)} if recovery else {}
    files.write_tensors(bench.folder / "check" / "evidence.safetensors", stored)
    corrected = correct(bench, evidence.emulator, weighted, None)
    _figures(bench, weighted, recovery, observed.truth, corrected, None)
    registration.offer(bench)
    said = [f"{len(weighted.theta)} true runs at draws of the posterior"] * bool(len(weighted.theta))
    return ", ".join(
        [*said, f"{len(recovery.rank)} recovered observations" if recovery else "rounds leave nothing to recover"]
    )


def weighs(study: Any) -> bool:
    """Whether the true posterior is known at a draw: a deterministic run, and an observation with noise of its own."""
    return study.infer.likelihood.adds_noise and not study.simulator.stochastic


def _inapplicable(check: Any, evidence: Evidence) -> str:
    """Why a check cannot be made where npe answers, as the end of a sentence; nothing where it can."""
    name = check.entry_name()
    if name == "domain":
        return "it asks how near to its runs the emulator was asked, and npe asks none; infer says how near the observation is."
    if check.weighs and not len(evidence.weighted.theta):
        return "true runs have no density here, for they are random or are observed without noise, so that none can be weighed."
    if "recovery" in check.needs and evidence.recovery is None:
        return "after rounds q is aimed at one observation, and others are not its business."
    if missing := [_OF_EMULATORS.get(n, n) for n in check.needs if getattr(evidence, n) is None]:
        return f"it reads {' and '.join(missing)}, and npe asks no emulator."
    return ""


def _weighted(bench: Workbench, q: Amortised, data: Tensor) -> Weighted:
    """ln w = ln p(data | true run) + ln p(x) - ln q(x | data) at draws spread evenly; no true run where it has no density.

    A draw whose true run failed has the weight 0: the prior that q has learnt excludes what cannot be run.
    """
    study = bench.study
    stored = files.read_tensors(bench.folder / "infer" / "draws.safetensors")
    flat, x, log_q = (stored[k].transpose(0, 1).flatten(0, 1) for k in ("theta", "x", "log_density"))
    if not weighs(study):
        return Weighted(flat[:0], flat[:0, 0], flat)
    some = torch.linspace(0, len(flat) - 1, study.check.importance_runs).round().long()
    theta = flat[some]
    bench.campaign(theta.numpy(), "true runs at draws of the posterior")
    runs = bench.runs(theta.numpy())
    ok = torch.from_numpy(runs.ok)
    log_weight = torch.full((len(theta),), -torch.inf, dtype=torch.float64)
    true = study.likelihood.log_prob(Exact(torch.from_numpy(runs.y[runs.ok])), data).detach()
    log_weight[ok] = (true - 0.5 * x[some].square().sum(-1)[ok] - log_q[some][ok]).detach()
    return Weighted(theta, log_weight, flat)


def _recovery(bench: Workbench, q: Amortised) -> Recovery:
    """Posteriors of all held-out observations at once, each with its own noise: the flow answers for any."""
    study = bench.study
    made = bench.runs_of("held_out")
    held_out, failed = made.finished(), torch.from_numpy(made.theta[~made.ok])
    truth, y = torch.from_numpy(held_out.theta), torch.from_numpy(held_out.y)
    data = torch.stack([study.likelihood.sample(v, seed=bench.seed(f"recovery/{i}")) for i, v in enumerate(y)])
    with bench.terminal.bar(f"recover {len(y)} held-out observations"), torch.no_grad():
        x = q.draws_x(data, _RECOVERED, seed=bench.seed("recovery/draws"))  # [n, q, d]
        density = torch.cat([q.log_density(part, data) for part in x.split(max(1, _AT_ONCE // len(y)))])
        at_truth = q.log_density(to_x(study.space, truth), data)
        theta = to_theta(study.space, x)
    rank, ess = (density > at_truth).double().mean(0), torch.full((len(y),), float(_RECOVERED), dtype=torch.float64)
    folder = bench.folder / hindsight.FEASIBILITY
    both = torch.cat([truth, failed])
    expected = Feasibility.load(folder).probability(both).detach() if folder.exists() else None
    return Recovery(
        rank, truth, theta.mean(0), theta.std(0), x.transpose(0, 1), to_x(study.space, truth), ess, failed, expected
    )
