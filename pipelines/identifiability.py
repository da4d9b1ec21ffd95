"""`emulate identifiability`: which parameters a study's data tell, which in combination only, and how far profiles bear it out."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from emulate.derived import Derived
from emulate.errors import CampaignError, InputError
from emulate.expressions import Expression
from emulate.identifiability import Identifiability, identify
from emulate.keys import run_seed
from pipelines import amortised_choice, files, observations
from pipelines.beside import beside, noted
from pipelines.engine import synchronise
from pipelines.learning import chosen
from pipelines.tasks import Tasks
from pipelines.terminal import Stopwatch, count
from pipelines.verification import places
from pipelines.workbench import Workbench

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from emulate.profiles import Profile
    from pipelines.study import Study
    from pipelines.terminal import Terminal

_SCOPE = "identifiability"
_NAMELESS = 0.01  # of a field's size: the error of data that nobody told the error of


def command(study: "Study", terminal: "Terminal", *, points: int = 3, name: str = "") -> int:
    """Print, draw and keep the verdict: by derivatives of the simulator, or of the emulator that is named."""
    from pipelines.figures import identifiability as figures

    watch = Stopwatch()
    with beside(study, terminal) as bench:
        name = chosen(bench, name) if name or study.recorded else ""  # of a table nobody knows other derivatives
        theta, where = _points(bench, points)
        found, lost = measured(bench, theta, name)
        if lost:
            terminal.warn(f"runs failed at {count(lost, 'point')} of {points}, which are left out; first {where}.")
        _print(bench, found)
        terminal.say(found.sentence)
        profiled, said = _profiles(bench, found)
        if said:
            terminal.say(said)
        folder = bench.folder / _SCOPE
        by = f"the emulator {name}" if name else f"the simulator, by {bench.study.gradient_spec('jacobian')['use']}"
        body = {"derivatives": by, "first_point": where, **found.to_dict(), "profiles": said,
                "intervals": {n: p.to_dict()["intervals"] for n, p in profiled.items()}}  # fmt: skip
        files.write_json(folder / "verdict.json", body)
        terminal.give(study=study.name, **body, paths={"folder": str(folder)})
        labels = study.simulator.outputs.labels
        rows = [[label, *row] for label, row in zip(labels, found.sensitivity[0].tolist(), strict=True)]
        files.write_csv(folder / "sensitivities.csv", ["output", *found.names], rows)
        what = (f"What each parameter does to the data at {where}, by {by}, scaled to 1; the number beside a parameter is by how "
                f"many standard errors its prior's standard deviation moves an output. {found.sentence}")  # fmt: skip
        alike = ("Left: the cosine between what two parameters do to the data; at 1 or -1 nothing tells them apart. Right: the "
                 "standard deviation that the data alone would leave, with the other parameters known and with them free, over "
                 "the prior's.")  # fmt: skip
        drawn = {
            "sensitivities": (figures.sensitivities(study.space, study.simulator.outputs, found), what),
            "collinearity": (figures.collinearity(study.space, found), alike),
        }
        if profiled:
            drawn["profiles"] = (_drawn(bench, profiled), f"Profile likelihoods through {bench.champion}, beside the posterior. "
                                 f"{said}")  # fmt: skip
        with noted(bench, _SCOPE):
            bench.figures(_SCOPE, drawn)
            bench.journal.append("params", _SCOPE, params={"derivatives": by, "points": points})
            bench.journal.append("metrics", _SCOPE, metrics={**_metrics(found), "seconds": watch.seconds})
            for file in ("verdict.json", "sensitivities.csv"):
                bench.journal.append("artifact", _SCOPE, path=f"{_SCOPE}/{file}")
    terminal.say(f"Figures and numbers in {folder}; `emulate report --force` puts them on the page.")
    synchronise(study, terminal)
    return 0


def measured(bench: Workbench, theta: Tensor, name: str = "") -> tuple[Identifiability, int]:
    """The verdict from derivatives at points theta `[g, d]`, and how many of these failed."""
    if name:
        if not (bench.folder / "emulators" / name).exists():
            raise InputError(f"identifiability needs the emulator {name!r}, which was not trained in {bench.study.folder} yet. Run "
                             "`emulate train` first, or leave --emulator out for the simulator's own.")  # fmt: skip
        emulator = bench.emulator(name)
        y = emulator.predict(theta).mean.detach()
        jacobian, error, lost = emulator.jacobian(theta).detach(), None, 0
    else:
        study = bench.study
        seeds = [run_seed(study.seed, t, stochastic=study.simulator.stochastic) for t in theta.tolist()]
        asked = [("jacobian", study.gradient_spec("jacobian"))]
        tasks = Tasks.of(
            study.simulator, theta.numpy(), np.array(seeds, np.int64), np.zeros(len(theta), np.uint8), asked
        )
        bench.make(tasks, "identifiability: derivatives")
        runs = bench.store.rows(study.simulator, theta.numpy(), list(tasks.keys()))
        if not runs.ok.any():
            raise CampaignError(f"identifiability needs a point at which a derivative is known. Got {len(theta)} that failed, "
                                f"first: {runs.reason[0]}. Mend the simulator, or try other points with --points.")  # fmt: skip
        lost, runs = int((~runs.ok).sum()), runs.finished()
        theta, y, jacobian, error = map(torch.from_numpy, (runs.theta, runs.y, runs.jacobian, runs.jacobian_error))
    return identify(bench.study.space, theta, jacobian, _noise(bench, theta, y, name), error), lost


def _points(bench: Workbench, points: int) -> tuple[Tensor, str]:
    """theta `[g, d]` and what the first of them is: where the observation was made, or its best fit, or the prior's middle;
    the others are spread over the inner half of the box."""
    study, infer = bench.study, bench.folder / "infer"
    choice = study.infer.observation if study.infers else None
    first, where = (
        study.space.from_unit(torch.full((study.space.d,), 0.5, dtype=torch.float64)),
        "the middle of the prior",
    )
    if choice is not None and choice.parameters is not None:
        first, where = study.space.pack(choice.parameters), "the parameters of the observation"
    elif (infer / "draws.safetensors").exists() and "map" in (drawn := files.read_tensors(infer / "draws.safetensors")):
        first, where = drawn["map"].double(), "the best fit"
    return torch.stack([first, *(p.theta for p in places(bench, points - 1))]), where


def _noise(bench: Workbench, theta: Tensor, y: Tensor, name: str) -> Tensor:
    """The covariance `[g, m, m]` of data at the points: the likelihood's; the emulator's where all noise is the simulator's;
    one part in a hundred of each field where the study has no observation."""
    study = bench.study
    if not study.infers:
        fields = study.simulator.outputs
        size = torch.cat(
            [y[:, fields.slices[f.name]].square().mean(1, keepdim=True).expand(-1, f.size) for f in fields.fields], 1
        )
        return torch.diag_embed(_NAMELESS**2 * size)
    covariance = torch.stack([study.infer.likelihood.on(study.simulator.outputs).covariance(row) for row in y])
    if covariance.diagonal(dim1=-2, dim2=-1).gt(0).all():
        return covariance
    try:
        emulator = bench.emulator(name or chosen(bench, ""))
    except (OSError, InputError) as e:
        raise InputError("identifiability must know the noise of the data, which is the simulator's own in this study. Got no "
                         "emulator that has learnt it; run `emulate train` first.") from e  # fmt: skip
    return emulator.predict(theta).gaussian()[1].detach()


def _print(bench: Workbench, found: Identifiability) -> None:
    rows = []
    for i, n in enumerate(found.names):
        others = [(abs(float(found.cosine[i, j])), m) for j, m in enumerate(found.names) if j != i]
        close = max(others, default=(0.0, ""))
        sds = [
            "not told" if not np.isfinite(x) else f"{x:.3g}" for x in (float(found.alone[i]), float(found.together[i]))
        ]
        rows.append((n, f"{float(found.strength[i]):.3g}", *sds, f"{close[1]} ({close[0]:.4f})" if close[1] else "",
                     found.verdict(n)))  # fmt: skip
    bench.terminal.table(f"{bench.study.name}: identifiability, standard deviations in the prior's",
                         ("parameter", "moves data by", "sd alone", "sd with others free", "most like (|cos|)", "verdict"),
                         rows)  # fmt: skip
    if found.sets:
        rows = [(", ".join(names), f"{gamma:.3g}") for names, gamma in found.sets]
        bench.terminal.table("", ("most collinear set of its size", "collinearity index"), rows)


def combined(found: Identifiability) -> tuple[Derived, ...]:
    """What is told of parameters that are not told by themselves, as derived parameters."""
    texts = [c.text for c in found.combinations if c.text]
    return tuple(Derived(text, Expression.read(text, dict.fromkeys(found.names))) for text in texts)


def _profiles(bench: Workbench, found: Identifiability) -> "tuple[dict[str, Profile], str]":
    """Profile likelihoods of the parameters and of what they are told in, and what they say; nothing before inference by a
    likelihood."""
    infer, study = bench.folder / "infer", bench.study
    there = all((infer / f).exists() for f in ("observation.json", "draws.safetensors"))
    if not there or amortised_choice.method(study) != "likelihood":
        return {}, ""
    from emulate.posterior import Posterior
    from emulate.profiles import profile

    emulator = bench.emulator(bench.champion)
    posterior = Posterior(study.space, lambda t: emulator.predict(t, outside="ignore"), study.likelihood,
                          observations.load(bench).data)  # fmt: skip
    made = combined(found)
    with bench.terminal.bar("profile likelihoods"):
        profiled = profile(posterior, derived=made, seed=bench.seed("identifiability/profile"))
    return profiled, in_words(profiled)


def in_words(profiled: "Mapping[str, Profile]") -> str:
    """Which profiles end within the box, and which do not."""
    told: dict[str, list[str]] = {"both": [], "one": [], "none": []}
    for n, p in profiled.items():
        last = p.intervals[-1]
        open_ = last.low_open + last.high_open
        told[("both", "one", "none")[open_]].append(n if open_ == 2 else f"{n} {last}")
    level = f"{next(iter(profiled.values())).intervals[-1].level:.0%}"
    parts = [f"{said} {'; '.join(names)}." for said, names in (
        (f"By the profile likelihoods, at {level} confidence, bounded on both sides:", told["both"]),
        ("Bounded on one side:", told["one"]),
        ("Not bounded within the box, so that the prior bounds it:", told["none"])) if names]  # fmt: skip
    return " ".join(parts)


def _drawn(bench: Workbench, profiled: "Mapping[str, Profile]") -> "Figure":
    from emulate.derived import values
    from pipelines.figures.identifiability import latex
    from pipelines.figures.profiles import profiles

    space = bench.study.space
    made = tuple(Derived(n, Expression.read(n, dict.fromkeys(space.names)), label=latex(space, n)) for n in profiled
                 if n not in space.names)  # fmt: skip
    things = {p.name: p for p in (*space.parameters, *made)}
    theta = files.read_tensors(bench.folder / "infer" / "draws.safetensors")["theta"].flatten(0, -2)
    columns = dict(zip(things, torch.cat([theta, values(space, made, theta)], -1).T))
    truth = observations.load(bench).truth
    true = None if truth is None else dict(zip(things, torch.cat([truth, values(space, made, truth)], -1).tolist()))
    return profiles(profiled, things, columns, true)


def _metrics(found: Identifiability) -> dict[str, float]:
    told = {"collinearity": found.index, "combinations": len(found.combinations), "unseen": len(found.unseen),
            "blurred": len(found.blurred)}  # fmt: skip
    told |= {f"{n}/{k}": float(getattr(found, k)[i]) for i, n in enumerate(found.names)
             for k in ("strength", "alone", "together")}  # fmt: skip
    return {k: v for k, v in told.items() if np.isfinite(v)}
