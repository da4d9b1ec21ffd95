"""Rounds of runs aimed at one observation: learn, say where its parameters may lie, run there, learn again.

For npe the prior is truncated to where the posterior of every round so far is dense (Deistler, Goncalves and Macke 2022);
for nle the next points are draws of the posterior (Papamakarios, Sterratt and Murray 2019), since a likelihood asks for no
density of points. The points of a round are written before they are run, so that a loop that was killed goes on with the same.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from emulate.amortised import Amortised, noisy, to_theta, truncated
from emulate.errors import StoreError
from emulate.runs import Runs
from pipelines import files, histories
from pipelines.amortised_choice import NLE
from pipelines.terminal import Stopwatch, count
from pipelines.workbench import Workbench

if TYPE_CHECKING:
    from emulate.emulator import Emulator

ROUNDS = "infer/rounds.json"
NPE = "infer/npe"  # folder of one posterior for every round
_LOOKED_AT = 2000  # draws by which a round is measured

Learn = Callable[[Runs, int, str], Any]


def posterior(bench: Workbench, data: Tensor) -> Amortised:
    """q of the last round; it and those before are kept beside the draws."""
    study, recipe, regions, before = bench.study, settings(bench), [], []

    def learn(runs: Runs, k: int, digest: str) -> dict[str, Any]:
        folder = bench.folder / NPE / str(k)
        q = None if k + 1 == study.infer.rounds else _kept(folder, digest)
        if q is None:
            with bench.terminal.bar(f"learn q(parameters | data){_of(study, k)}"):
                q = recipe.fit(runs, study.likelihood, seed=bench.seed(f"infer/npe/{k}"))
            q.provenance["digest"] = digest
            q.save(folder)
        histories.training(bench.journal, "infer", q.history, _within("npe", study, k))
        x = q.draws_x(data, _LOOKED_AT, seed=bench.seed(f"infer/width/{k}"))
        from emulate.amortised import c2st

        moved = (
            c2st(before[-1].posterior(data), q.posterior(data), seed=bench.seed(f"infer/c2st/{k}")) if before else None
        )
        before.append(q)
        return {"width": _width(x), "c2st": moved}

    def aim(n: int, k: int) -> Tensor:
        regions.append(before[-1].region(data, seed=bench.seed(f"infer/region/{k}")))
        inside = lambda x: torch.stack([r(x) for r in regions]).all(0)  # noqa: E731
        return truncated(inside, before[-1].posterior(data), n, seed=bench.seed(f"infer/points/{k}"))

    def again(k: int) -> None:
        regions.append(before[-1].region(data, seed=bench.seed(f"infer/region/{k}")))

    _loop(bench, data, learn, aim, again)
    return before[-1]


def likelihood(bench: Workbench, data: Tensor) -> None:
    """The flow of the data as they are observed, given the parameters, left in `NLE`: learnt anew where the likelihood adds
    noise or there are rounds; else the champion is it already."""
    import shutil

    from emulate.emulator import fit
    from emulate.posterior import Posterior
    from pipelines import hindsight
    from pipelines.stages.infer import surrogate

    study = bench.study
    shutil.rmtree(bench.folder / NLE, ignore_errors=True)
    if not study.infer.likelihood.adds_noise and study.infer.rounds == 1:
        return
    recipe, before = study.emulators[bench.champion], []

    def learn(runs: Runs, k: int, digest: str) -> dict[str, Any]:
        y, row = noisy(runs.finished(), study.likelihood, settings(bench).noise, seed=bench.seed(f"infer/noise/{k}"))
        observed = Runs.of(runs.space, runs.outputs, runs.finished().theta[row], y.numpy(), stochastic=True)
        with bench.terminal.bar(f"learn p(data | parameters){_of(study, k)}"):
            emulator: Emulator = fit(recipe, observed, seed=bench.seed(f"infer/nle/{k}"))
        emulator.save(bench.folder / NLE)
        histories.training(bench.journal, "infer", emulator.history, _within("nle", study, k))
        if study.infer.rounds == 1:
            return {}
        target = Posterior(
            study.space, surrogate(bench, emulator), study.likelihood, data, hindsight.restriction(bench)
        )
        with bench.terminal.bar(f"sample{_of(study, k)}", total=1) as tick:
            start = target.find_map(seed=bench.seed(f"infer/map/{k}")).starts(
                study.infer.chains, seed=bench.seed(f"infer/start/{k}")
            )
            draws = study.infer.sampler.draw(target.log_density, start, study.infer.draws, seed=bench.seed(f"infer/draws/{k}"),
                                             progress=tick)  # fmt: skip
        flat, density = draws.x.transpose(0, 1).reshape(-1, study.space.d), draws.log_density.T.reshape(-1)
        moved = _moved(before[-1], target.log_density) if before else None
        before.append((flat, density))
        return {"width": _width(flat), "c2st": moved, "ess": float(draws.ess.min()), "rhat": float(draws.rhat.max())}

    def aim(n: int, k: int) -> Tensor:
        flat = before[-1][0]
        return flat[torch.linspace(0, len(flat) - 1, n).round().long()]

    _loop(bench, data, learn, aim, lambda k: None)


def settings(bench: Workbench) -> Any:
    """How npe learns: what the study says, or the defaults."""
    from emulate.amortised import NPE as Recipe

    return bench.study.infer.npe or Recipe()


def kept(bench: Workbench) -> list[dict[str, Any]]:
    """The rounds that the study's folder holds."""
    path = bench.folder / ROUNDS
    return files.read_json(path)["rounds"] if path.exists() else []


def table(bench: Workbench, theta: np.ndarray) -> Runs:
    """The training runs, and those of the rounds at theta `[n, d]`."""
    both = [bench.runs_of("training"), *([bench.runs(theta)] if len(theta) else [])]
    return Runs.of(both[0].space, both[0].outputs, np.concatenate([r.theta for r in both]),
                   np.concatenate([r.y for r in both]), stochastic=both[0].stochastic)  # fmt: skip


def _loop(
    bench: Workbench, data: Tensor, learn: Learn, aim: Callable[[int, int], Tensor], again: Callable[[int], None]
) -> None:
    study, found = bench.study, []
    stored, theta = {r["digest"]: r for r in kept(bench)}, np.empty((0, bench.study.space.d))
    for k in range(study.infer.rounds):
        watch, runs, more = Stopwatch(), table(bench, theta), k + 1 < study.infer.rounds
        digest = _digest(bench, data, theta, k)
        measured = learn(runs, k, digest)
        known, points = stored.get(digest), []
        if more and known and known["theta"]:
            again(k)
            points = known["theta"]
        elif more:
            with bench.terminal.bar(f"choose the points of round {k + 1}"):
                points = to_theta(study.space, aim(study.infer.round_runs or study.design.runs, k)).tolist()
        found.append({"round": k, "runs": len(runs), "finished": int(runs.ok.sum()), **measured, "theta": points,
                      "seconds": watch.seconds, "digest": digest})  # fmt: skip
        if study.infer.rounds == 1:
            (bench.folder / ROUNDS).unlink(missing_ok=True)
            return
        files.write_json(bench.folder / ROUNDS, {"rounds": [*found, *(r for r in stored.values() if r["digest"] not in
                                                                    {f["digest"] for f in found})]})  # fmt: skip
        _log(bench, found[-1])
        if points:
            bench.campaign(np.array(points), f"round {k + 1}, aimed at the observation")
            theta = np.concatenate([theta, np.array(points)])
    files.write_json(bench.folder / ROUNDS, {"rounds": found})
    bench.terminal.table(f"{study.name}: rounds aimed at the observation", ("round", "runs", "finished", "width over the prior's",
                         "moved by (C2ST)", "seconds"), [_row(r) for r in found])  # fmt: skip


def _digest(bench: Workbench, data: Tensor, theta: np.ndarray, k: int) -> str:
    """Of all that the points of a round depend on. The code is left out: points once chosen stay where they are."""
    from pipelines.study import plain

    infer, study = bench.study.infer, bench.study
    asked = {
        name: plain(getattr(infer, name))
        for name in ("method", "npe", "likelihood", "sampler", "draws", "chains", "feasible")
    }
    runs = [(t.key, bench.store.failed(t.key)) for points in ({"training": bench.points("training")}, theta) if len(points)
            for t in bench.tasks(points)]  # fmt: skip
    emulator = plain(study.emulators.get(bench.champion))
    material = json.dumps([study.seed, k, asked, emulator, infer.round_runs or study.design.runs, data.tolist(), runs],
                          sort_keys=True, default=str)  # fmt: skip
    return hashlib.sha256(material.encode()).hexdigest()


def _kept(folder: Any, digest: str) -> Amortised | None:
    """A posterior that was learnt from the same runs before; it says again where the next round was aimed."""
    if not folder.exists():
        return None
    try:
        q = Amortised.load(folder)
    except StoreError:
        return None
    return q if q.provenance.get("digest") == digest else None


def _width(x: Tensor) -> float:
    """The geometric mean of the standard deviations over x, whose prior has 1."""
    return float(x.std(0).log().mean().exp())


def _moved(before: tuple[Tensor, Tensor], log_density: Callable[[Tensor], Tensor]) -> float:
    """C2ST of two densities that are known up to a constant, from draws x `[n, d]` of one with its ln p `[n]`."""
    x, density = before
    some = torch.linspace(0, len(x) - 1, min(len(x), _LOOKED_AT)).round().long()
    with torch.no_grad():
        w = torch.softmax(log_density(x[some]) - density[some], 0) * len(some)
    return float(0.5 + 0.5 * (1 - w).clamp_min(0).mean())


def _of(study: Any, k: int) -> str:
    return f", round {k} of {study.infer.rounds}" if study.infer.rounds > 1 else ""


def _log(bench: Workbench, latest: Mapping[str, Any]) -> None:
    said = {f"round/{key}": v for key in ("runs", "finished", "width", "c2st", "ess", "rhat", "seconds")
            if (v := latest.get(key)) is not None}  # fmt: skip
    bench.journal.append("metrics", "infer", metrics=said, step=latest["round"])
    moved = "" if latest.get("c2st") is None else f", moved by {latest['c2st']:.3f} (C2ST)"
    bench.note(f"round {latest['round']}: {count(latest['runs'], 'run')}, {latest['width']:.3g} of the prior's width{moved}",
               latest["seconds"])  # fmt: skip


def _within(method: str, study: Any, k: int) -> str:
    """What is put before the names of the losses of a round."""
    return method if study.infer.rounds == 1 else f"{method}/round {k}"


def _row(r: Mapping[str, Any]) -> tuple[str, ...]:
    moved = "" if r.get("c2st") is None else f"{r['c2st']:.3f}"
    return str(r["round"]), str(r["runs"]), str(r["finished"]), f"{r['width']:.3g}", moved, f"{r['seconds']:.1f}"
