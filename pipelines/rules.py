"""What must hold between the parts of a study, each rule a sentence with the key to change."""

import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from emulate.costs import affordable
from emulate.errors import InputError, StoreError, nearest, shown
from emulate.expressions import Constraint, Expression
from emulate.keys import canonical, identity
from pipelines import amortised_rules, given, observed, private_rules
from pipelines.addresses import resolve
from pipelines.derivatives import OWN, automatic, has_own, inside
from pipelines.study import CLUSTERS, ITSELF, SETS, Study, of_posterior, smooths

if TYPE_CHECKING:
    from emulate.contracts import Simulator

_MOST = 1_000_000  # training runs that a plan holds


def broken(study: Study) -> Iterator[str]:
    """The sentences of all rules that the study breaks."""
    unable = list(_simulator(study))
    yield from unable
    able = () if unable else (_fidelities, _replicates, _optimise)
    rules = [given.broken, _region, _until, _active, _emulators, _gradient, *able, _surroundings, private_rules.broken]
    if study.infers:
        rules += [_sizes, _observation, _profile, amortised_rules.broken]
        rules += [] if unable else [_noise, _predictive, _softening, _confirm]
    else:
        rules += [_without_posterior]
    for rule in rules:
        yield from rule(study)


def _simulator(s: Study) -> Iterator[str]:
    yield from _ready(s.simulator, "simulator")


def _ready(simulator: "Simulator", path: str) -> Iterator[str]:
    """What a simulator needs is met before the first run: its callable, its executable, its outputs."""
    try:
        _ = simulator.version, simulator.outputs.size, bool(simulator.stochastic)
    except InputError as e:
        said = str(e).removeprefix("simulator.")
        yield f"{path}.{said}" if said != str(e) else f"{path}: {e}"
    except Exception as e:  # a user's module may raise anything while it is imported
        yield f"{path}: cannot be imported: {type(e).__name__}: {e}. Mend its module."


def _fidelities(s: Study) -> Iterator[str]:
    """A fidelity answers something else than the study's own simulator, at the same parameters."""
    met: dict[bytes, str] = {}
    taken = dict.fromkeys((ITSELF, *SETS), "a set of runs")
    for name, f in s.fidelities.items():
        path = f"design.fidelities.{name}"
        if name.lower() in taken:  # files are named by it, and some disks do not tell case
            yield f"{path}: must be a name that stands for nothing else. It is that of {taken[name.lower()]}; rename it."
        taken[name.lower()] = f"the fidelity {name}"
        if f.simulator.space != s.space:
            yield (f"{path}.with: must keep the parameters of the study, {', '.join(s.space.names)}, with their priors. "
                   f"These settings make them {', '.join(f.simulator.space.names)}; take that setting out.")  # fmt: skip
        elif unable := list(_ready(f.simulator, f"{path}.with")):
            yield from unable
        else:
            try:
                met = met or {canonical(identity(s.simulator)): "the study's own simulator"}
                who = canonical(identity(f.simulator))
            except InputError as e:  # settings of a class of the user's that no key can hold
                yield f"{path}.with: {e}"
                continue
            if who in met:
                yield (f"{path}.with: must change what the simulator answers. With {shown(f.settings)} it is {met[who]}; "
                       "change a setting, or raise the runs of that.")  # fmt: skip
            met.setdefault(who, f"the fidelity {name}")


def _sizes(s: Study) -> Iterator[str]:
    held_out, draws = s.design.held_out, s.infer.draws * s.infer.chains
    for path, n in (("check.recovery", s.check.recovery), ("validate.gradient_points", s.validate.gradient_points)):
        if n > held_out:
            yield f"{path}: must be at most design.held_out = {held_out}. Got {n}; raise design.held_out or lower this."
    if s.check.importance_runs > draws and s.weighs:
        yield (f"check.importance_runs: must be at most infer.draws x infer.chains = {draws}. "
               f"Got {s.check.importance_runs}; raise infer.draws or lower this.")  # fmt: skip
    if 0 < s.check.delayed_acceptance < 8:
        yield (f"check.delayed_acceptance: must be 0, or at least 8 steps, of which the first quarter is left out. Got "
               f"{s.check.delayed_acceptance}; raise it, or take it out.")  # fmt: skip
    if s.check.delayed_acceptance and not s.infer.likelihood.adds_noise:
        yield (f"check.delayed_acceptance: must be 0 with {s.infer.likelihood.entry_name()}: a true run is a draw and has no "
               "density that it could be accepted by. Take it out; the check confirmation makes true runs at the posterior "
               "mean.")  # fmt: skip


def _replicates(s: Study) -> Iterator[str]:
    """Runs are repeated where they differ, and where nothing counts single runs."""
    r, n = s.design.replicates, s.design.runs
    if r == 1:
        return
    if not s.simulator.stochastic:
        yield (f"design.replicates: must be 1 for a simulator that is not stochastic, whose runs at one point are all the "
               f"same. Got {r} with {s.simulator.entry_name()}; take it out, or raise design.runs.")  # fmt: skip
    if n * r > _MOST:
        yield (f"design.replicates: must leave at most {_MOST} runs. Got {r} at each of design.runs = {n} points; lower one "
               "of them.")  # fmt: skip
    if hasattr(s.design.entry, "look"):
        yield (f"design.replicates: must be 1 with {s.design.entry.entry_name()}, which weighs every run alone against "
               f"design.budget. Got {r}; take it out, or use another design.")  # fmt: skip


def _region(s: Study) -> Iterator[str]:
    """A design that reads a region of an earlier campaign needs that of the same parameters."""
    if hasattr(s.design.entry, "require"):
        try:
            s.design.entry.require(s.space)
        except (InputError, StoreError) as e:
            yield f"design.{str(e).removeprefix('feasible.')}"


def _until(s: Study) -> Iterator[str]:
    if s.simulate.skip and s.simulate.until is None:
        yield "simulate.skip: is only read with simulate.until, which adds points. Got no until; add it, or take skip out."
    if s.simulate.until is not None and not s.design.entry.extensible:
        yield (f"simulate.until: must have a design whose points go on, such as sobol. More points of "
               f"{s.design.entry.entry_name()} are other points; use another design, or take this out and raise "
               "design.runs.")  # fmt: skip


def _active(s: Study) -> Iterator[str]:
    """A design that asks an emulator needs one of the study that can answer, and room to go on."""
    if not hasattr(s.design.entry, "look"):
        return
    name, budget, runs = s.guide, s.design.entry.budget, s.design.runs
    if name not in s.emulators:
        yield (f"design.emulator: must name an emulator of this study: {', '.join(s.emulators)}. Got {shown(name)}"
               f".{nearest(name, s.emulators)}")  # fmt: skip
    elif "coarse" in s.emulators[name].takes:
        yield (f"design.emulator: must learn from the study's own runs alone. {name} reads fidelities, which run after the "
               "training points are chosen; name another.")  # fmt: skip
    if budget < runs:
        yield (f"design.budget: must be at least design.runs = {runs}, the first points of the loop. Got {budget}; raise it "
               "or lower design.runs.")  # fmt: skip
    if s.simulate.until is not None:
        yield "simulate.until: is only read with a design that asks no emulator; design.budget says when to stop. Take it out."


def _emulators(s: Study) -> Iterator[str]:
    champion, baseline = s.train.champion, s.train.baseline
    for key, name in (("champion", champion), ("baseline", baseline)):
        if name not in (*s.emulators, "auto" if key == "champion" else None):
            yield (f"train.{key}: must name an emulator of this study: {', '.join(s.emulators)}. Got {shown(name)}"
                   f".{nearest(name, s.emulators)}")  # fmt: skip
    if "auto" in s.emulators:
        yield "emulators.auto: the name auto stands for the best emulator in train.champion. Choose another name."
    if champion == baseline:
        yield f"train.champion: must not be the baseline. Got {shown(champion)} for both; change one of them."
    elif list(s.emulators) == [baseline]:
        yield f"train.baseline: must leave another emulator. There is only {baseline}; add one, or take this out."
    folds, runs = s.train.folds, s.design.runs
    if folds == 1 or folds > runs:
        yield (f"train.folds: must be 0, which compares on held-out runs, or 2 to design.runs = {runs}. Got {folds}; "
               "change one of them.")  # fmt: skip
    if s.train.within is not None and not folds:
        yield "train.within: is only read with folds. Got train.folds: 0; raise it, or take this out."
    for name, recipe in s.emulators.items():
        least = recipe.least_runs(s.space.d)
        if s.design.runs < least:
            yield (f"design.runs: must be at least {least}, for emulators.{name} needs that many with {s.space.d} "
                   f"parameters. Got {s.design.runs}.")  # fmt: skip
        for word in getattr(recipe, "fidelities", ()):
            if word not in s.fidelities:
                there = ", ".join(s.fidelities) or "none"
                yield (f"emulators.{name}.fidelities: must be among those of design.fidelities, {there}. Got {shown(word)}"
                       f"; add it there, or mend the name.{nearest(word, s.fidelities)}")  # fmt: skip
        try:
            n, each = s.design.runs * s.design.replicates, s.design.replicates
            price = recipe.cost(n, s.space.d, min(s.simulator.outputs.size, n))
            times = f" x design.replicates = {each}" if each > 1 else ""
            affordable(f"emulators.{name}", price, f"design.runs = {s.design.runs}{times}")
        except InputError as e:
            yield str(e)
        if recipe.needs_slopes and s.simulate.jacobians is None:
            yield (f"simulate.jacobians: must not be none, for emulators.{name} learns from the Jacobians of the training "
                   "runs. Got none; set it to auto, or use an emulator that reads values alone.")  # fmt: skip


def _gradient(s: Study) -> Iterator[str]:
    simulator = s.simulator.entry_name()
    for path, gradient in (("validate.gradient", s.validate.gradient), ("simulate.jacobians", s.simulate.jacobians)):
        if gradient is None:
            continue
        # one run of what is random is differentiated with its noise held fixed, and that has neither sites nor steps
        shown = inside(s.simulator) if path == "validate.gradient" or not s.simulator.stochastic else frozenset()
        if "graph" in gradient.needs and not (s.simulator.differentiable or shown):
            yield (f"{path}.use: {gradient.entry_name()} must have a simulator that carries a torch graph. "
                   f"{simulator} carries none; use finite_difference.")  # fmt: skip
        if inner := [need for need in ("sites", "dynamics") if need in gradient.needs and need not in shown]:
            yield (f"{path}.use: {gradient.entry_name()} must see the {inner[0]} of a simulator, which a study hides from it. "
                   f"Got {simulator}; use {automatic(s.simulator)} here, and {gradient.entry_name()} in Python.")  # fmt: skip
        if gradient.entry_name() == OWN and not has_own(s.simulator):
            yield (f"{path}.use: {OWN} must have a simulator with a `jacobian` of its own. {simulator} has none; "
                   f"use {automatic(s.simulator)}.")  # fmt: skip


def _without_posterior(s: Study) -> Iterator[str]:
    """What is said of a posterior needs one."""
    for key, check in s.checks.items():
        if of_posterior(check):
            yield (f"checks.{key}: must have a posterior to judge, and infer is null in this study. Got {check.entry_name()}; "
                   "take it out, or write `infer`.")  # fmt: skip
    if getattr(s.design.entry, "aim", "") == "posterior":
        yield "design.aim: must not be posterior where infer is null. Got posterior; aim at the box, or write `infer`."


def _optimise(s: Study) -> Iterator[str]:
    """What an optimum is asked of can be read before the first run."""
    part, names = s.optimise, s.space.names
    if part is None:
        return
    if bool(part.minimise) == bool(part.maximise):
        got = "both" if part.minimise else "none"
        yield f"optimise: must have one of minimise and maximise, such as minimise: mean(pk). Got {got}."
    sizes = {f.name: f.size if f.at else None for f in s.simulator.outputs.fields} | dict.fromkeys(names)
    from emulate.optimisation import family

    own = s.simulator.constraints()
    asked = [(k, v, Expression.read) for k in ("minimise", "maximise") if (v := getattr(part, k))]
    asked += [(f"subject_to.{i}", v, Constraint.read) for i, v in enumerate(part.subject_to) if not family(own, v)]
    for key, text, read in asked:
        try:
            read(text, sizes)
        except InputError as e:
            also = f" The simulator's own constraints are {', '.join(own)}." if own and read is Constraint.read else ""
            yield f"optimise.{key}: {e}{also}"
    if part.emulator and part.emulator not in s.emulators:
        yield (f"optimise.emulator: must name an emulator of this study: {', '.join(s.emulators)}. Got {shown(part.emulator)}"
               f".{nearest(part.emulator, s.emulators)}")  # fmt: skip
    if part.reference is not None:
        yield from _point(s, part.reference, "optimise.reference")
    if s.simulator.stochastic and part.confirm == 1:
        yield ("optimise.confirm: must be 0, or at least 2 for a standard error, where runs are random. Got 1; raise it, or "
               "leave it out.")  # fmt: skip
    if part.by == "simulator" and not (s.simulator.differentiable or has_own(s.simulator)):
        yield (f"optimise.by: must be emulator for {s.simulator.entry_name()}, which has no derivative of its own. Got simulator; "
               "take it out.")  # fmt: skip
    if part.by == "simulator" and part.robust is not None and s.simulator.stochastic:
        yield "optimise.robust: must be left out where random runs are climbed themselves, for their mean is. Take it out."


def _observation(s: Study) -> Iterator[str]:
    o, path = s.infer.observation, "infer.observation"
    given = {"held_out": o.held_out, "parameters": o.parameters, "file": o.file or None}
    if len(both := [k for k, v in given.items() if v is not None]) > 1:
        yield f"{path}: must have one of held_out, parameters and file. Got {' and '.join(both)}; keep one."
    if o.held_out is not None and o.held_out >= s.design.held_out:
        yield (f"{path}.held_out: must be below design.held_out = {s.design.held_out}, for runs are numbered from 0. "
               f"Got {o.held_out}.")  # fmt: skip
    if o.file and o.noise:
        yield f"{path}.noise: must be false for a file, which is an observation already. Got true; take it out."
    if o.noise and not o.file and not (likelihood := s.infer.likelihood).adds_noise:
        yield (f"{path}.noise: must be false with {likelihood.entry_name()}, for a run has all the noise of its observation. Got "
               "true; take it out.")  # fmt: skip
    if o.parameters is not None:
        yield from _point(s, o.parameters, f"{path}.parameters")


def _profile(s: Study) -> Iterator[str]:
    """A profile is that of a likelihood."""
    if s.infer.profile and s.infer.method == "npe":
        yield ("infer.profile: must be left out with infer.method npe, which learns the posterior and has no likelihood. Got "
               f"{', '.join(s.infer.profile)}; take it out, or infer by the likelihood.")  # fmt: skip


def _point(s: Study, parameters: dict[str, float], path: str) -> Iterator[str]:
    for name in parameters:
        if name not in s.space.names:
            yield (f"{path}.{name}: this parameter is not known. The study has {', '.join(s.space.names)}"
                   f".{nearest(name, s.space.names)}")  # fmt: skip
    if missing := [n for n in s.space.names if n not in parameters]:
        yield f"{path}: must name every parameter. Missing: {', '.join(missing)}."
    for p in s.space.parameters:
        value = parameters.get(p.name)
        if value is not None and p.prior.log_prob(torch.tensor(value, dtype=torch.float64)) == -torch.inf:
            yield f"{path}.{p.name}: must lie in the prior, for emulators know nothing outside. Got {value}."


def _noise(s: Study) -> Iterator[str]:
    """The noise and an observed file must fit the outputs: a wrong length is met here and not after the last run."""
    absent = {k: p for k, p in s.data_files().items() if not p.is_file()}
    for key, path in absent.items():
        there = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        yield (f"{key}: there is no file {path}; paths are relative to the study's file"
               f".{nearest(path.name, there)}")  # fmt: skip
    if not absent:
        try:
            s.likelihood.covariance(torch.ones(s.simulator.outputs.size, dtype=torch.float64))
        except InputError as e:
            yield f"infer.likelihood: {e}"
    if s.infer.observation.file and "infer.observation.file" not in absent:
        try:
            observed.read(s)
        except InputError as e:
            yield str(e)


def _predictive(s: Study) -> Iterator[str]:
    """An observation without noise of its own must be a random run, and no true run can then be weighed by it."""
    likelihood = s.infer.likelihood
    if likelihood.adds_noise:
        return
    name, simulator = likelihood.entry_name(), s.simulator.entry_name()
    if not s.simulator.stochastic:
        yield (f"infer.likelihood.use: {name} must have a simulator that is stochastic, for the noise of a run is all the noise "
               f"there is. {simulator} is not; use gaussian with the observation's error.")  # fmt: skip
    for key, check in s.checks.items():
        if check.weighs:
            yield (f"checks.{key}: must not be {check.entry_name()} with {name}: a true run is a draw and has no density that "
                   "could weigh it. Take it out.")  # fmt: skip


def _softening(s: Study) -> Iterator[str]:
    """Where nothing is smoothed there is nothing to move."""
    for key, check in s.checks.items():
        if "softening" in check.needs and not smooths(s.simulator):
            yield (f"checks.{key}: must have a simulator whose histograms are smoothed by a bandwidth. "
                   f"{s.simulator.entry_name()} smooths nothing here. Take the check out.")  # fmt: skip


def _confirm(s: Study) -> Iterator[str]:
    """Runs at the posterior mean differ only where they are random, and give a standard error where there are two."""
    readers, k = [n for n, c in s.checks.items() if "confirmation" in c.needs], s.check.confirm
    if k and not s.simulator.stochastic:
        if s.infer.likelihood.adds_noise:  # else that is said already
            path = f"checks.{readers[0]}" if readers else "check.confirm"
            yield (f"{path}: must have a simulator that is stochastic, for the true runs of {s.simulator.entry_name()} at one "
                   "point are all the same. Take it out; the check posterior weighs true runs.")  # fmt: skip
    elif k == 1:
        yield "check.confirm: must be 0, or at least 2 for a standard error. Got 1; raise it, or set it to 0."
    elif readers and not k:
        yield (f"check.confirm: must be at least 2, for checks.{readers[0]} reads these runs. Got 0; raise it, or take the "
               "check out.")  # fmt: skip


def _surroundings(s: Study) -> Iterator[str]:
    use = s.cluster.use
    if use not in CLUSTERS and not re.fullmatch(r"[\w.]+:\w+", use):
        yield (f"cluster.use: must be one of {', '.join(CLUSTERS)}, or the class of a Dask cluster, "
               f"package.module:Class. Got {shown(use)}.{nearest(use, CLUSTERS)}")  # fmt: skip
    if s.cluster.minimum and s.cluster.minimum > s.cluster.workers:
        yield (f"cluster.minimum: must be at most cluster.workers = {s.cluster.workers}. Got {s.cluster.minimum}; "
               "raise workers, which is the most there may be.")  # fmt: skip
    if s.cluster.minimum and use in ("serial", "address"):
        yield f"cluster.minimum: is only read where workers can be started. Got use: {use}; take it out."
    if use == "address" and not s.cluster.address:
        yield "cluster.address: must be the address of a Dask scheduler, such as tcp://host:8786. Got ''; add it."
    if s.cluster.use != "address" and s.cluster.address:
        yield f"cluster.address: is only read with `use: address`. Got use: {s.cluster.use}; change one of them."
    if s.tracking.uri not in ("", "off"):
        try:
            resolve(s.tracking.uri)
        except InputError as e:
            yield f"tracking.uri: {str(e).removeprefix('tracking.uri ')}"
    if s.folder.exists() and not s.folder.is_dir():
        yield f"output: must be a folder. Got {shown(str(s.folder))}, which is a file; name another."
    try:
        json.dumps(s.to_dict(), allow_nan=False)
    except ValueError:
        yield "simulator: settings must be finite numbers, texts, lists and mappings of these. Got NaN or infinity."
