"""How the posterior of a study is found: by a likelihood, or by flows that ask for no gradient. `infer.method: auto` chooses.

The rule of auto, in this order:

1. The likelihood is `predictive`: a run of a stochastic simulator is the observation, and its density must be learnt from runs.
   nle where the emulator that is used is a flow, which has learnt it; else npe.
2. The emulator foretells the held-out runs to the error of the observation: likelihood, whatever the simulator is like, for
   its gradients are those of a function that is right.
3. It does not, and the simulator is deterministic: `emulate.diagnosis` looks at it around the middle of the prior, by runs
   that are made and stored as all others. Where at least half of the outputs jump, are drawn from lists or are chaotic, no
   gradient leads anywhere: npe. Else likelihood: more runs or another emulator will help.
4. It does not, and the simulator is stochastic: the derivatives of runs that `validate` made are looked at. Where they grow as
   in chaos past its horizon, so that over the width of the prior they would move at least half of the outputs ten times as
   far as runs differ at all, gradients of runs are noise: npe. Else likelihood, for the emulator's mean is an average and its
   variance counts.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pipelines import files

if TYPE_CHECKING:
    from emulate.emulator import Emulator
    from pipelines.study import Study
    from pipelines.workbench import Workbench

METHOD = "infer/method.json"
NLE = "infer/nle"  # folder of the flow that has learnt the data as they are observed, by rounds
USELESS = ("chaos", "unsynchronised noise", "discrete choice", "accept-reject", "jump")
GROWN = (
    10.0  # times what runs differ by, over one standard deviation of the prior, from which a derivative is of no use
)
CALLS = 500  # runs that a diagnosis may make, at most
PATIENCE = 900.0  # seconds of runs that it may take


def settled(study: "Study") -> tuple[str, str] | None:
    """The method and the reason where they are known before any run; None where the runs have to tell."""
    asked = study.infer.method
    if asked != "auto":
        return asked, "the study names it"
    if study.infer.likelihood.adds_noise:
        return None
    if flow_is_used(study):
        return (
            "nle",
            "the observation is a run, and the emulator that is used is a flow, which has learnt the density of runs",
        )
    return "npe", "the observation is a run of a stochastic simulator, whose density no one knows"


def method(study: "Study") -> str:
    """The method as it is known by now; likelihood where `infer` has not chosen yet."""
    if known := settled(study):
        return known[0]
    path = study.folder / METHOD
    return files.read_json(path)["method"] if path.exists() else "likelihood"


def choose(bench: "Workbench", data: Tensor) -> str:
    """Choose, say why, and write it down, for an observation `[m]`."""
    study = bench.study
    found = settled(study) or _by_runs(bench, data)
    files.write_json(bench.folder / METHOD, {"asked": study.infer.method, "method": found[0], "reason": found[1]})
    bench.journal.append("params", "infer", params={"method": found[0]})
    if study.infer.method == "auto":
        bench.note(f"infer.method: auto takes {found[0]}: {found[1]}")
    return found[0]


def flow_is_used(study: "Study") -> bool:
    """Whether a flow is the champion, whichever is chosen."""
    from emulate.emulators.flow import Flow

    names = [n for n in study.emulators if n != study.train.baseline]
    names = names if study.train.champion == "auto" else [study.train.champion]
    return all(isinstance(study.emulators.get(n), Flow) for n in names)


def emulator(bench: "Workbench") -> "Emulator":
    """What stands in for the simulator: the champion, or for nle the flow of the last round where there is one of its own."""
    from emulate.loading import load

    own = bench.folder / NLE
    if method(bench.study) == "nle" and own.exists():
        return load(own, recipe=type(bench.study.emulators[bench.champion]))
    return bench.emulator(bench.champion)


def left_out(study: "Study", stage: str, findings: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The findings of a stage: where npe answers, those of `validate` on the emulator are advice, for nothing asks it."""
    if stage != "validate" or method(study) != "npe":
        return list(findings)
    return [{**f, "blocking": False} for f in findings]


def _by_runs(bench: "Workbench", data: Tensor) -> tuple[str, str]:
    study = bench.study
    error = misses(bench, data)
    if error <= 1:
        return "likelihood", (f"{bench.champion} foretells held-out runs to {error:.2g} of the observation's error, so that its "
                              "gradients are those of the simulator")  # fmt: skip
    missed = f"{bench.champion} misses held-out runs by {error:.3g} of the observation's error"
    grown = grows(bench) if study.simulator.stochastic else None
    if grown is not None and not float(grown.quantile(0.5)) >= GROWN:
        return "likelihood", f"{missed}; runs are random, and its mean and variance are averages that are smooth"
    if why := _spread(study):
        return "likelihood", f"{missed}; {why}"
    if grown is not None:
        return "npe", (f"{missed}, and gradients are useless: the derivative of a run, followed over one standard deviation of the "
                       f"prior, would move an output {float(grown.quantile(0.5)):.2g} times as far as runs differ at all, as it is "
                       "in chaos once runs are longer than its horizon. npe asks for no gradient")  # fmt: skip
    seconds = float(np.nanmedian(bench.runs_of("training").seconds))
    if not seconds * CALLS / study.cluster.workers <= PATIENCE:
        return "likelihood", (f"{missed}; a diagnosis of the simulator would take up to {CALLS} runs of {seconds:.3g} s, and none "
                              "was made. Name npe if its outputs jump or are chaotic")  # fmt: skip
    found = _diagnosed(bench)
    troubles = found.evidence["troubles"]
    share = sum(t in USELESS for t in troubles) / len(troubles)
    if share >= 0.5:
        return "npe", f"{missed}, and gradients lead nowhere in {share:.0%} of the outputs: {found.sentence}"
    return (
        "likelihood",
        f"{missed}, but the simulator has derivatives ({found.trouble}): more runs will help, and npe would not",
    )


def misses(bench: "Workbench", data: Tensor) -> float:
    """The root mean square, over held-out runs and outputs, of the champion's error over the observation's."""
    held_out = bench.runs_of("held_out").finished()
    noise = bench.study.likelihood.covariance(data).diagonal(dim1=-2, dim2=-1)
    with torch.no_grad():
        mean = bench.emulator(bench.champion).predict(torch.from_numpy(held_out.theta)).mean
    return float(((mean - torch.from_numpy(held_out.y)).square() / noise).mean().sqrt())


def grows(bench: "Workbench") -> Tensor:
    """`[m]`: how far the derivatives of runs, of those that `validate` made, would move each output over one standard
    deviation of the prior, over the standard deviation of the output between runs; the median of the points. Zeros where no
    derivative was found, and nothing where it is not a number."""
    held_out = bench.runs_of("held_out").finished()
    found = files.read_tensors(bench.folder / "validate" / "jacobians.safetensors")["value"]
    width, spread = (torch.from_numpy(x).std(0).clamp(min=1e-300) for x in (held_out.theta, held_out.y))
    if not len(found) or len(held_out) < 2:
        return torch.zeros(len(spread), dtype=torch.float64)
    return (found * width).norm(dim=-1).nan_to_num(0.0, posinf=1e300).median(0).values / spread


def spread_as_the_prior(study: "Study") -> bool:
    """Whether the design's points are spread as the prior, which is what npe learns."""
    return not (hasattr(study.design.entry, "look") or hasattr(study.design.entry, "inside"))


def _spread(study: "Study") -> str:
    return (
        ""
        if spread_as_the_prior(study)
        else "npe needs points that are spread as the prior, and the design chose others"
    )


def _diagnosed(bench: "Workbench") -> Any:
    """`diagnose` at the middle of the prior, each of its runs made by the campaign's workers and kept in the store."""
    from emulate.diagnosis import diagnose

    study = bench.study
    middle = study.space.from_unit(torch.full((study.space.d,), 0.5, dtype=torch.float64))
    with bench.terminal.bar("diagnose the simulator", total=CALLS) as tick:
        made = 0

        def f(theta: Tensor) -> Tensor:
            nonlocal made
            point = theta.detach().numpy()[None]
            todo = bench.missing(bench.tasks(point))
            if todo:
                bench.executor.campaign(todo, store=bench.folder / "store", simulator=study.spec_of(), limits=study.simulate.limits,
                                        progress=lambda *_: None)  # fmt: skip
            made += 1
            tick(min(made, CALLS), CALLS)
            runs = bench.runs(point)
            if not runs.ok[0]:
                raise ValueError(f"the run failed: {runs.reason[0]}")
            return torch.from_numpy(runs.y[0])

        return diagnose(f, middle, seed=bench.seed("infer/diagnosis"), calls=CALLS)
