"""Points that are given and not designed: a file of the user's, or the rows of a simulator that is a table of runs."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emulate.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from emulate.contracts import Simulator
    from emulate.space import Space
    from pipelines.study import DesignPart, Study

_SHARE = 5  # one of so many points is held out where the study says no number, as far as `held_out` goes


def points(space: "Space", simulator: "Simulator", file: Path | None) -> "np.ndarray | None":
    """theta `[n, d]` in the order of the table; None where a design chooses them."""
    from emulate.columns import table

    key = "simulator" if file is None else "design.file"
    try:
        if file is not None:
            return _inside(*table(file, {p.name: p.unit for p in space.parameters}), space)
        rows = simulator.rows()
        return None if rows is None else _inside(rows.numpy(), None, space)
    except InputError as e:
        said = str(e)
        raise InputError(said if said.startswith(f"{key}.") else f"{key}: {said}") from None


def dealt(theta: "np.ndarray", sizes: Mapping[str, int], seed: int) -> "dict[str, np.ndarray]":
    """The points of each set, by chance: more runs to train on are these and more."""
    import numpy as np

    order = np.random.default_rng(seed).permutation(len(theta))
    held_out = order[: sizes["held_out"]]
    return {"training": theta[order[len(held_out) :][: sizes["training"]]], "held_out": theta[held_out]}


def sized(part: "DesignPart", asked: Mapping[str, Any], n: int | None) -> "DesignPart":
    """How many points of n are held out, and how many trained on, where the study does not say it."""
    if n is None:
        return part
    held_out = part.held_out if "held_out" in asked else max(1, min(part.held_out, n // _SHARE))
    return replace(part, held_out=held_out, runs=part.runs if "runs" in asked else max(1, n - held_out))


def broken(s: "Study") -> Iterator[str]:
    """What a study of given points cannot ask."""
    theta = s.given
    if theta is None:
        return
    n = len(theta)
    where = origin(s)
    if s.design.held_out >= n:
        yield (f"design.held_out: must be below {n}, for {where} has so many points and some must be left to train on. Got "
               f"{s.design.held_out}; lower it.")  # fmt: skip
    elif s.design.runs + s.design.held_out > n:
        yield (f"design.runs: must be at most {max(0, n - s.design.held_out)}, for {where} has {n} points and design.held_out is "
               f"{s.design.held_out}. Got {s.design.runs}; take it out, and all the rest are trained on.")  # fmt: skip
    if s.design.entry.entry_name() != "sobol":
        yield f"design.use: must be left out where points are given. Got {s.design.entry.entry_name()} and {where}; take one out."
    if s.simulate.until is not None:
        yield f"simulate.until: must be left out where points are given, for {where} does not go on. Take it out."
    for name, f in s.fidelities.items():
        if f.runs > n - s.design.held_out:
            yield (f"design.fidelities.{name}.runs: must be at most {n - s.design.held_out}, the points of {where} that are not "
                   f"held out. Got {f.runs}; lower it.")  # fmt: skip
    if s.recorded:
        yield from _recorded(s, where)


def _recorded(s: "Study", where: str) -> Iterator[str]:
    """Nothing that needs a run elsewhere."""
    where = getattr(s.simulator, "file", where)
    none = f"{where} holds the only runs there are"
    if s.design.replicates > 1:
        yield (f"design.replicates: must be 1, for {none}, one at each point. Got {s.design.replicates}; take it out.")
    if s.design.file:
        yield f"design.file: must be left out where the runs are there already: their rows are the points. Got {s.design.file}."
    if s.fidelities:
        yield f"design.fidelities: must be left out, for {none}. Take them out."
    if s.validate.gradient is not None:
        yield f"validate.gradient: must be left out, for {none}, so nobody knows its derivatives. Take it out."
    if s.simulate.jacobians is not None:
        yield f"simulate.jacobians: must be none, for {none}, without derivatives. Take it out."
    for key, check in s.checks.items():
        if unable(check):
            yield (f"checks.{key}: must not ask for runs or derivatives beside those of the table. Got {check.entry_name()}, and "
                   f"{none}; take the check out.")  # fmt: skip
    if s.optimise and s.optimise.by == "simulator":
        yield f"optimise.by: must be emulator, for {none}. Take it out."
    if s.optimise and s.optimise.confirm:
        yield f"optimise.confirm: must be 0, for {none}, so nothing can confirm an optimum. Got {s.optimise.confirm}; take it out."
    if not s.infers:
        return
    if s.infer.method != "likelihood":
        yield f"infer.method: must be likelihood, for {none}, too few to learn a posterior from. Got {s.infer.method}; take it out."
    if s.infer.observation.parameters is not None:
        yield (f"infer.observation.parameters: must be left out, for {none}. Name a file with your data, or the number of a "
               "held-out run.")  # fmt: skip
    for key in ("confirm", "delayed_acceptance"):
        if value := getattr(s.check, key):
            yield f"check.{key}: must be 0, for {none}. Got {value}; take it out."


def origin(s: "Study") -> str:
    """Where the points are given."""
    return s.design.file or getattr(s.simulator, "file", s.simulator.entry_name())


def unable(check: Any) -> bool:
    """Whether a check needs what a table of runs cannot give."""
    return check.weighs or bool({"jacobians", "confirmation"} & set(check.needs))


def _inside(theta: "np.ndarray", lines: list[int] | None, space: "Space") -> "np.ndarray":
    """The points, each of which lies in the prior and stands there once."""
    import numpy as np
    import torch

    if not len(theta):
        raise InputError("must have a row for each point. Got none.")
    for i, p in enumerate(space.parameters):
        out = np.flatnonzero(p.prior.log_prob(torch.from_numpy(theta[:, i])).numpy() == -np.inf)
        if len(out):
            at = f"line {lines[out[0]]}" if lines else f"row {out[0] + 1}"
            raise InputError(f"must lie in the priors. Got {p.name} = {theta[out[0], i]:.6g} in {at}, and so {len(out)} of "
                             f"{len(theta)}; widen its prior under `parameters`, or take the rows out.")  # fmt: skip
    first: dict[tuple[float, ...], int] = {}
    for i, t in enumerate(map(tuple, theta.tolist())):
        if (j := first.setdefault(t, i)) != i and lines:
            raise InputError(f"must have each point once. Got the same in lines {lines[j]} and {lines[i]}; take one out, and "
                             "set design.replicates where runs are random.")  # fmt: skip
    return theta
