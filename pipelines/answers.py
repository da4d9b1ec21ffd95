"""What the infer stage tells beside the draws: derived parameters, prediction of the data, a file that arviz reads."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from emulate.derived import Derived, values
from emulate.diagnostics import diagnose
from emulate.posterior import Posterior
from emulate.space import Parameter, Space
from pipelines import files
from pipelines.workbench import Workbench

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from emulate.contracts import Draws
    from pipelines.study import Study

POSTERIOR, PREDICTION, PROFILE = "infer/posterior.nc", "infer/prediction.csv", "infer/profile.json"
_PREDICTED, _PRIOR = 400, 1000  # draws of the data, and of the prior
_QUANTILES = {"median": 0.5, "p16": 0.16, "p84": 0.84, "p2.5": 0.025, "p97.5": 0.975}


def derived(study: "Study") -> tuple[Derived, ...]:
    """The derived parameters of the study, none where it names none."""
    return tuple((study.infer.derived or {}).values())


def summary(bench: Workbench, theta: Tensor, best: Tensor, truth: Tensor | None) -> dict[str, dict[str, Any]]:
    """The derived parameters of draws theta `[chains, draws, d]`, as the summary tells the others."""
    study = bench.study
    made = derived(study)
    if not made:
        return {}
    chains = values(study.space, made, theta)
    flat = chains.reshape(-1, len(made))
    lost = ~torch.isfinite(flat)
    for name, share in zip((d.name for d in made), lost.double().mean(0).tolist()):
        if share:
            bench.terminal.warn(f"{name} is no finite number in {share:.2g} of the draws, which are left out of its figures. "
                                "Look at the roots, logarithms and divisions of infer.derived.")  # fmt: skip
    rhat, ess = diagnose(torch.where(lost.reshape(chains.shape), 0.0, chains))
    flat = torch.where(lost, torch.nan, flat)
    low, high, mean = flat.nanquantile(0.025, 0), flat.nanquantile(0.975, 0), flat.nanmean(0)
    sd = (flat - mean).square().nanmean(0).sqrt()
    at = values(study.space, made, best)
    true = None if truth is None else values(study.space, made, truth)
    return {
        d.name: {"mean": float(mean[i]), "sd": float(sd[i]), "low": float(low[i]), "high": float(high[i]), "map": float(at[i]),
                 "truth": None if true is None else float(true[i]), "rhat": float(rhat[i]), "ess": float(ess[i])}
        for i, d in enumerate(made)
    }  # fmt: skip


class Induced:
    """What the prior of the parameters makes of a derived one: a density smoothed from draws, so that a figure may show it."""

    def __init__(self, draws: Tensor):
        self.draws = draws[torch.isfinite(draws)]
        self.width = (1.06 * self.draws.std() * len(self.draws) ** -0.2).clamp_min(1e-30)  # Silverman (1986)

    def log_prob(self, x: Tensor) -> Tensor:
        steps = (x[..., None] - self.draws) / self.width
        return torch.distributions.Normal(0.0, 1.0).log_prob(steps).exp().mean(-1).log() - self.width.log()


def corner(study: "Study", theta: Tensor, truth: Tensor | None) -> "Figure":
    """The corner figure of draws theta `[n, d]` with the derived parameters beside."""
    from pipelines import figures

    space, made = study.space, derived(study)
    if not made:
        return figures.corner(space, theta, truth=truth)
    drawn = values(space, made, prior(space, seed=study.seed))
    more = [Parameter(d.name, Induced(drawn[:, i]), d.unit, d.label) for i, d in enumerate(made)]
    extend = lambda t: torch.cat([t, values(space, made, t)], -1)  # noqa: E731
    whole = extend(theta)
    whole = whole[torch.isfinite(whole).all(-1)]
    return figures.corner(
        Space((*space.parameters, *more)), whole, truth=None if truth is None else extend(truth.double())
    )


def prior(space: Space, *, seed: int) -> Tensor:
    """Draws theta `[n, d]` of the prior."""
    generator = torch.Generator().manual_seed(seed)
    return space.from_unit(torch.rand(_PRIOR, space.d, generator=generator, dtype=torch.float64))


def thinned(theta: Tensor) -> int:
    """Every how many draws of theta `[chains, draws, d]` the data are predicted."""
    return max(1, -(-theta.shape[0] * theta.shape[1] // _PREDICTED))


def predicted(bench: Workbench, posterior: Posterior, theta: Tensor) -> Tensor:
    """Noise-free outputs `[n, m]` at some of the draws theta `[chains, draws, d]`, with the emulator's own error."""
    some = theta[:, :: thinned(theta)]
    return posterior.predictive(some, seed=bench.seed("infer/prediction"), noise=False).reshape(-1, len(posterior.data))


def write_prediction(bench: Workbench, data: Tensor, sigma: Tensor, y: Tensor) -> None:
    """`prediction.csv`, a row for each output: the observation with its error sigma, quantiles of the posterior's draws y
    `[n, m]` of the noise-free output, and the pull (observation - median) / sqrt(sigma^2 + var y)."""
    quantiles = y.quantile(torch.tensor(list(_QUANTILES.values()), dtype=y.dtype), dim=0)
    pull = (data - quantiles[0]) / (sigma.square() + y.var(0)).sqrt()
    outputs = bench.study.simulator.outputs
    units = [f.unit for f in outputs.fields for _ in range(f.size)]
    columns = torch.cat([data[None], sigma[None], quantiles, pull[None]]).T.tolist()
    rows = [[name, unit, *row] for name, unit, row in zip(outputs.labels, units, columns)]
    files.write_csv(bench.folder / PREDICTION, ["output", "unit", "observation", "error", *_QUANTILES, "pull"], rows)
    bench.journal.append("artifact", "infer", path=PREDICTION)


def profiled(
    bench: Workbench, posterior: Posterior, theta: Tensor, truth: Tensor | None
) -> dict[str, tuple["Figure", str]]:
    """`profile.json` with the profile likelihoods that the study asks for, told in a table; their figure with its caption."""
    study, path = bench.study, bench.folder / PROFILE
    names, made = study.infer.profile, derived(study)
    if not names:
        path.unlink(missing_ok=True)  # of an earlier answer
        return {}
    from emulate.profiles import profile
    from pipelines.figures.profiles import profiles

    with bench.terminal.bar("profile likelihoods"):
        found = profile(posterior, names, derived=made, seed=bench.seed("infer/profile"))
    files.write_json(path, {name: p.to_dict() for name, p in found.items()})
    bench.journal.append("artifact", "infer", path=PROFILE)
    ends = {f"{name}/profile_{end}_{i.level:g}": getattr(i, end)
            for name, p in found.items() for i in p.intervals for end in ("low", "high")}  # fmt: skip
    bench.journal.append("metrics", "infer", metrics=ends)
    levels = [f"{i.level:.0%} confidence" for i in next(iter(found.values())).intervals]
    rows = [(name, f"{p.best:.4g}", *map(str, p.intervals)) for name, p in found.items()]
    bench.terminal.table("profile likelihoods, without the prior", ("parameter", "best", *levels), rows)
    if lost := [name for name, p in found.items() if not p.converged]:
        bench.terminal.warn(f"the highest likelihood of {', '.join(lost)} lies at the edge of the box, or the climb to it "
                            "has not ended; intervals there are rather too wide.")  # fmt: skip
    things = {p.name: p for p in (*study.space.parameters, *made)}
    extend = lambda t: torch.cat([t, values(study.space, made, t)], -1)  # noqa: E731
    columns = dict(zip(things, extend(theta.reshape(-1, theta.shape[-1])).T))
    true = None if truth is None else dict(zip(things, extend(truth.double()).tolist()))
    told = "; ".join(f"{name} {p.intervals[-1]}" for name, p in found.items())
    caption = f"Profile likelihoods, in which the prior has no part, beside the posterior. {levels[-1]}: {told}."
    return {"profile": (profiles(found, things, columns, true), caption)}


def headline(parameters: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """The answer as metrics of the whole run: what is compared from one run to another."""
    told = {f"posterior/{n}/{k}": p[k] for n, p in parameters.items() for k in ("mean", "sd")}
    return told | {"posterior/rhat": max(p["rhat"] for p in parameters.values()),
                   "posterior/ess": min(p["ess"] for p in parameters.values())}  # fmt: skip


def write_posterior(bench: Workbench, posterior: Posterior, theta: Tensor, draws: "Draws", said: str) -> None:
    """`posterior.nc`: the draws theta `[chains, draws, d]` with all that arviz looks for."""
    from importlib.metadata import version

    from emulate.inference_data import inference_data, save

    study, thin = bench.study, thinned(theta)
    predictive = posterior.predictive(theta[:, ::thin], seed=bench.seed("infer/predictive"))
    with torch.no_grad():
        likelihood = draws.log_density - posterior.log_prior(draws.x)
    tree = inference_data(
        study.space, theta, derived=derived(study), outputs=study.simulator.outputs, data=posterior.data,
        predictive=predictive, thin=thin, prior=prior(study.space, seed=bench.seed("infer/prior")),
        log_likelihood=likelihood, stats={"lp": draws.log_density, "diverging": draws.divergent},
        attrs={"study": study.name, "emulator": bench.champion, "likelihood": study.infer.likelihood.entry_name(),
               "sampler": study.infer.sampler.entry_name(), "observation": said, "seed": study.seed,
               "inference_library": "emulate", "inference_library_version": version("emulate")})  # fmt: skip
    with files.replacing(bench.folder / POSTERIOR) as temporary:
        save(tree, temporary)
    bench.journal.append("artifact", "infer", path=POSTERIOR)
