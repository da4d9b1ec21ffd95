"""The records of a study: what a user may write in each section of the file, and the checked whole.

The fields of a section are the keys of its YAML. Fields of type Any hold a built entry of the room their comment names;
in the file they are written as its name or as `{use: NAME, ...settings}`.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Le, Lt
from pydantic import AfterValidator

from pipelines import files, given, stages
from pipelines.addresses import redact
from pipelines.limits import Limits, checked, size

if TYPE_CHECKING:
    import numpy as np

    from emulate.contracts import Check, Likelihood, Recipe, Simulator
    from emulate.space import Space

Size = Annotated[int | str, AfterValidator(checked)]


SETS = ("training", "held_out")  # the runs of the study's own simulator
AUTO = "auto"  # emulators: sensible recipes are tried; train.champion: the best is taken
CONFIRMING = "true runs"  # the runs at the posterior mean; no fidelity can have a name with a space
MADE = "what is made"  # of an optimum: `Simulator.made`, as a fidelity
ITSELF = "own"  # that simulator where fidelities are listed
JOBS = ("slurm", "pbs", "lsf", "htcondor", "sge", "oar", "moab")  # systems that start workers as jobs
CLUSTERS = ("serial", "local", "address", *JOBS)  # what cluster.use may be, beside the class of a Dask cluster


def smooths(simulator: Any) -> bool:
    """Whether a simulator's answers are histograms that are smoothed."""
    return callable(getattr(simulator, "softening", None)) and bool(getattr(simulator, "bandwidth", 0))


def of_posterior(check: Any) -> bool:
    """Whether a check needs a posterior, or the likelihood that one would have."""
    return check.stage == "check" or "likelihood" in check.needs


class Section:
    """What all sections share: no unknown keys, no NaN, no infinity."""

    __pydantic_config__: ClassVar[dict] = {"extra": "forbid", "allow_inf_nan": False}


@dataclass(frozen=True, kw_only=True)
class DesignPart(Section):
    """Where to run the simulator: the design with its settings, and how many points."""

    entry: Any = "sobol"  # designs; its `use` and settings stand beside runs and held_out
    runs: Annotated[int, Ge(1), Le(1_000_000)] = 64  # points to train on, each run once, or `replicates` times
    held_out: Annotated[int, Ge(1), Le(1_000_000)] = 20  # runs that no emulator sees in training, one at each point
    replicates: Annotated[int, Ge(1), Le(100_000)] = 1  # runs at each point to train on, with other seeds; for noise
    file: str = ""  # points of your own: a table with a column for each parameter; relative to the study's file
    fidelities: Any = None  # cheaper or dearer versions of the simulator by a name of your choice: {runs, with}


@dataclass(frozen=True, kw_only=True)
class FidelityPart(Section):
    """A fidelity: how often the simulator runs with other settings, which stand under `with`."""

    runs: Annotated[int, Ge(1), Le(1_000_000)]  # points, the first of them the training points


@dataclass(frozen=True)
class Fidelity:
    """The study's simulator with other settings, cheaper or dearer, and how many points it runs at."""

    runs: int
    settings: dict[str, Any]  # those that replace the study's, `with` in the file
    simulator: "Simulator"

    def to_dict(self) -> dict[str, Any]:
        return {"runs": self.runs, "with": self.settings}


@dataclass(frozen=True, kw_only=True)
class Retries(Section):
    """How often a run that failed is made again at once, by the kind of its failure.

    What the machine may have caused is worth one more try: a worker that was lost, a process that was killed. What the
    simulator itself said or did comes again with the same parameters and seed, and a second timeout costs as much as
    the first; those stand at 0 until a user knows better.
    """

    lost: Annotated[int, Ge(0), Le(10)] = 1  # the worker ended, by a fault of its machine or by the run
    crashed: Annotated[int, Ge(0), Le(10)] = 1  # the run's process ended: a signal, an exit code
    timeout: Annotated[int, Ge(0), Le(10)] = 0  # it was killed for its time
    oom: Annotated[int, Ge(0), Le(10)] = 0  # it was killed for its memory
    error: Annotated[int, Ge(0), Le(10)] = 0  # it raised an error
    nonfinite: Annotated[int, Ge(0), Le(10)] = 0  # it gave NaN or infinity
    badshape: Annotated[int, Ge(0), Le(10)] = 0  # it gave something else than it declares


@dataclass(frozen=True, kw_only=True)
class SimulatePart(Section):
    """How the campaign of runs is held together."""

    jacobians: Any = "none"  # dy/dtheta of every training run, stored with it: none, auto, or as validate.gradient
    timeout: Annotated[float, Gt(0)] = 600.0  # s, after which a run is killed and counts as failed
    memory: Size | None = None  # that a run and all it starts may hold together, such as "4 GiB"; empty: no limit
    threads: Annotated[int, Ge(1), Le(1024)] = 1  # cores that a run owns: threads of torch, BLAS and OpenMP
    log_bytes: Annotated[int, Ge(256), Le(2**22)] = 8192  # bytes, of what a run prints, the last are kept
    answer: Size = "1 GiB"  # that the arrays of one run may hold, such as "100 MB"
    retries: Retries = field(default_factory=Retries)  # how often a failed run is made again at once, by kind
    require: Annotated[float, Gt(0), Le(1)] = 0.9  # share of the runs that must finish
    until: Annotated[int, Ge(1), Le(1_000_000)] | None = None  # training runs to finish, by more points when some fail
    most: Annotated[float, Ge(1), Le(100)] = 2.0  # for until: points tried, over the larger of until and design.runs
    skip: Annotated[float, Ge(0), Lt(1)] = 0.0  # for until: points that finish with less probability are left out
    retry_failed: bool = False  # run failed runs again

    @property
    def limits(self) -> Limits:
        """What every run is held to."""
        memory = None if self.memory is None else size(self.memory)
        retries = tuple(vars(self.retries).items())
        return Limits(self.timeout, memory, self.threads, self.log_bytes, size(self.answer), retries)


@dataclass(frozen=True, kw_only=True)
class ClusterPart(Section):
    """Where the runs are computed; never changes an answer."""

    use: str = "local"  # serial; local: processes of this machine; address; slurm, pbs ...: jobs; package.module:Class
    workers: Annotated[int, Ge(1)] = 2  # runs at a time
    minimum: Annotated[int, Ge(1)] | None = None  # workers come and go between so many and `workers`; empty: all stay
    address: str = ""  # of a running Dask scheduler, tcp://host:8786 or tls://host:8786; only with `use: address`
    certificates: str = ""  # folder with the TLS keys of a cluster, as `emulate certificates` makes it
    options: dict[str, Any] = field(default_factory=dict)  # passed on to the cluster: queue, walltime, memory ...


@dataclass(frozen=True, kw_only=True)
class TrainPart(Section):
    """Which emulator is used, and which is printed beside for scale."""

    champion: str = "auto"  # name of an emulator; auto: the best on folds of the training runs, the baseline aside
    baseline: str | None = None  # name of an emulator that never becomes champion
    folds: Annotated[int, Ge(0), Le(100)] | None = None  # to compare on; 0: none; empty: 5, or none for one emulator
    within: Annotated[float, Gt(0)] | None = None  # s for the folds, then no other recipe is tried; empty: no end


@dataclass(frozen=True, kw_only=True)
class ValidatePart(Section):
    """How the simulator's own derivatives are found, which the emulators' are held against."""

    gradient: Any = "auto"  # gradients, or simulator: its own; auto: simulator, else reverse, else finite_difference
    gradient_points: Annotated[int, Ge(1)] | None = None  # held-out points to differentiate at; empty: 10, or all


@dataclass(frozen=True, kw_only=True)
class Observation(Section):
    """The data to explain: one of a held-out run, a run at given parameters, a file."""

    held_out: Annotated[int, Ge(0)] | None = None  # number of a held-out run, from 0
    parameters: dict[str, float] | None = None  # a value for every parameter; the simulator runs there once
    file: str = ""  # numbers, one per output; relative to the study's file
    noise: bool | None = None  # add noise of the likelihood; true for runs, and never for a file


@dataclass(frozen=True, kw_only=True)
class InferPart(Section):
    """What is observed, with what noise, and how the posterior is drawn."""

    observation: Observation = Observation(held_out=0)  # the data to explain
    method: Literal["likelihood", "npe", "nle", "auto"] = (
        "likelihood"  # by gradients of a likelihood; by flows that need none
    )
    likelihood: Any = "gaussian"  # likelihoods: what noise the observation has
    sampler: Any = "hmc"  # samplers: how the posterior is drawn from
    draws: Annotated[int, Ge(4)] = 500  # of each chain, which are kept
    chains: Annotated[int, Ge(2)] = 16  # that go side by side in one batch
    outside: Literal["warn", "refuse", "inflate", "ignore"] = "warn"  # what is done of draws far from every run
    derived: Any = None  # derived parameters by name: an expression of the parameters, or {expression, unit, label}
    profile: Any = None  # profile likelihoods: true, or names of parameters and derived ones; empty: none
    feasible: bool = False  # the prior times the probability that a run finishes there, as the failed runs teach it
    npe: Any = None  # how npe learns: {flow: {use: flow, ...}, noise, components, log}; empty: as it does by default
    rounds: Annotated[int, Ge(1), Le(100)] = (
        1  # for npe and nle: the design's runs, then rounds aimed at the observation
    )
    round_runs: Annotated[int, Ge(1), Le(1_000_000)] | None = None  # runs of each further round; empty: design.runs


@dataclass(frozen=True, kw_only=True)
class CheckPart(Section):
    """How much of the true simulator is spent on the bias of the posterior."""

    importance_runs: Annotated[int, Ge(2)] = 128  # true runs at draws of the posterior
    recovery: Annotated[int, Ge(1)] | None = None  # held-out runs to recover; empty: 20, or all
    confirm: Annotated[int, Ge(0), Le(100_000)] | None = None  # true runs at the mean; empty: 32 if read, else 0
    sampler: Any = None  # samplers: of the recovered; empty: that of infer, but ensemble for hmc of up to 5 parameters
    delayed_acceptance: Annotated[int, Ge(0), Le(100_000)] = 0  # steps of 16 chains in the true posterior, a run each


@dataclass(frozen=True, kw_only=True)
class OptimisePart(Section):
    """What shall be least or greatest, by the emulator or the simulator itself, and the true runs that confirm it."""

    minimise: str = ""  # an expression of outputs and parameters, such as mean(pk) + h
    maximise: str = ""  # the same, for the greatest
    subject_to: tuple[str, ...] = ()  # comparisons such as pk[3] <= 2, and names of the simulator's own constraints
    by: Literal["emulator", "simulator"] = "emulator"  # whose derivative is climbed
    emulator: str = ""  # its name; empty: the one that is used
    robust: Annotated[float, Ge(0), Lt(100)] | None = None  # the mean + so many sd over the emulator's error
    starts: Annotated[int, Ge(1), Le(4096)] | None = None  # empty: 64 of an emulator, 8 of a simulator
    method: Literal["auto", "bfgs", "adam"] = "auto"  # auto: adam for random runs and many parameters, else bfgs
    steps: Annotated[int, Ge(1), Le(1_000_000)] | None = None  # from each start, at most; empty: as many as it takes
    replicates: Annotated[int, Ge(2), Le(100_000)] = 16  # random runs at each step, where the simulator is climbed
    confirm: Annotated[int, Ge(0), Le(100_000)] | None = None  # true runs at the optimum; empty: 1, or 32 random ones
    reference: dict[str, float] | None = None  # what it is held against; empty: the best training run, or the middle


@dataclass(frozen=True, kw_only=True)
class TrackingPart(Section):
    """Where MLflow keeps the experiment."""

    uri: str = ""  # sqlite:///FILE or https://SERVER; empty: mlflow.db in the current folder; off: no MLflow


@dataclass(frozen=True, kw_only=True)
class StudyFile(Section):
    """A study, from its parameters to the verdict."""

    name: str  # letters, digits, - and _; names the experiment
    seed: Annotated[int, Ge(0), Lt(2**32)] = 1  # of everything random
    parameters: Any = None  # names with priors; empty: the simulator's own
    simulator: Any  # simulators: what is run
    design: DesignPart = field(default_factory=DesignPart)  # where to run it, and how often
    simulate: SimulatePart = field(default_factory=SimulatePart)  # how the campaign of runs is held together
    cluster: ClusterPart = field(default_factory=ClusterPart)  # where the runs are computed
    emulators: Any = None  # emulators by a name of your choice; auto: sensible ones are tried; empty: gp
    train: TrainPart = field(default_factory=TrainPart)  # which emulator is used
    validate: ValidatePart = field(default_factory=ValidatePart)  # how the simulator is differentiated
    infer: InferPart | None = field(default_factory=InferPart)  # the observation and its posterior; null: none
    check: CheckPart = field(default_factory=CheckPart)  # true runs that judge the posterior
    optimise: OptimisePart | None = None  # what shall be least or greatest; empty: no optimum is asked for
    checks: Any = None  # checks by a name of your choice; empty: all that can be made, with default bounds
    tracking: TrackingPart = field(default_factory=TrackingPart)  # where MLflow keeps the experiment
    output: str = ""  # folder of the results; empty: runs/NAME


@dataclass(frozen=True, kw_only=True)
class Study:
    """A study as `load_study` returns it: every default filled in, every entry built, every rule kept."""

    name: str
    seed: int
    space: "Space"
    simulator: "Simulator"
    design: DesignPart
    simulate: SimulatePart
    cluster: ClusterPart
    emulators: dict[str, "Recipe"]
    train: TrainPart
    validate: ValidatePart
    infer: InferPart
    check: CheckPart
    checks: dict[str, "Check"]
    optimise: OptimisePart | None
    infers: bool  # whether a posterior is asked for; `infer` holds its defaults where it is not
    tracking: TrackingPart
    folder: Path  # where the stages write
    file: Path  # where the study was read
    fidelities: dict[str, Fidelity] = field(default_factory=dict)  # by name, in the order of the file

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that this study has, in their order."""
        return stages.of(infers=self.infers, optimises=self.optimise.by if self.optimise else "")

    @property
    def guide(self) -> str:
        """The emulator that an active design asks where to run; nothing where the design asks none."""
        if not hasattr(self.design.entry, "look"):
            return ""
        return self.design.entry.emulator or next((n for n in self.emulators if n != self.train.baseline), "")

    @property
    def given(self) -> "np.ndarray | None":
        """theta `[n, d]` of points that are given, in a file or by the simulator; None where the design chooses them."""
        return given.points(self.space, self.simulator, self.resolve(self.design.file) if self.design.file else None)

    @property
    def recorded(self) -> bool:
        """Whether the runs are there already, in a table, and no other can be made."""
        return self.simulator.rows() is not None

    @property
    def weighs(self) -> bool:
        """Whether true runs at draws of the posterior weigh it: they can be made, and the likelihood has a density of each."""
        return self.infer.likelihood.adds_noise and not self.recorded

    @property
    def likelihood(self) -> "Likelihood | None":
        """That of `infer`, told of the simulator's outputs; for nle one that asks the flow of noisy data for its density. None
        where no posterior is asked for."""
        if not self.infers:
            return None
        told = self.infer.likelihood.on(self.simulator.outputs)
        if self.infer.method == "nle" and told.adds_noise:
            from pipelines.amortised_likelihood import Learnt

            return Learnt(inner=told)
        return told

    def replicates_of(self, which: str) -> int:
        """How often each point of a set is run: points to train on, and those of a fidelity that is stochastic, as often as
        the study says. Held-out points once: coverage and CRPS are judged by independent runs, and runs at one point share
        the emulator's error there. The posterior mean as often as `check.confirm` says."""
        if which == CONFIRMING:
            return self.check.confirm
        repeated = which == "training" or (which in self.fidelities and self.simulator_of(which).stochastic)
        return self.design.replicates if repeated else 1

    def simulator_of(self, fidelity: str = "") -> "Simulator":
        """The simulator of a fidelity, the study's own without one, and what is made of an optimum."""
        if fidelity == MADE:
            return self.simulator.made()
        return self.fidelities[fidelity].simulator if fidelity else self.simulator

    def gradient_spec(self, product: str) -> dict[str, Any] | None:
        """How a product of the store is differentiated, as plain JSON: "jacobian" by the validate stage, "tangent" with
        the training runs; None for y, and for training runs that are y alone."""
        return plain({"y": None, "jacobian": self.validate.gradient, "tangent": self.simulate.jacobians}[product])

    @property
    def simulator_spec(self) -> dict[str, Any]:
        """Plain JSON from which a worker builds the simulator: use, settings, and `space` as `Space.to_dict` gives."""
        return self.spec_of()

    def spec_of(self, fidelity: str = "") -> dict[str, Any]:
        """`simulator_spec` of a fidelity."""
        return {**plain(self.simulator_of(fidelity)), "space": self.space.to_dict()}

    def resolve(self, name: str) -> Path:
        """A path that the study names, relative to the study's file."""
        return self.file.parent / name

    def section(self, stage: str) -> dict[str, Any]:
        """What of the study the results of a stage depend on, as plain JSON: never where or how fast it runs."""
        whole = self.to_dict()
        taken = {
            "design": ("parameters", "design"),
            "simulate": (),
            "train": ("emulators",),
            "validate": ("validate", "train"),
            "infer": ("infer",),
            "check": ("check",),
            "optimise": ("optimise",),
            "report": ("name",),
        }[stage]
        part = {"seed": self.seed} | {k: whole[k] for k in taken}
        if stage == "train":  # a search fits those alone to all runs that are used; else all are, whichever is champion
            searched, kept = self.train.within is not None, ("folds", "within")
            part["train"] = {k: v for k, v in whole["train"].items() if searched or k in kept}
        if stage == "design" and self.fidelities:
            part["design"] = whole["design"] | {"fidelities": {n: f.runs for n, f in self.fidelities.items()}}
        if stage == "design" and (region := getattr(self.design.entry, "inside", None)):
            part["region"] = files.digest(Path(region))
        if stage == "design" and self.design.file:
            part["file"] = files.digest(self.resolve(self.design.file))
        if stage == "design" and self.recorded:
            part["simulator"] = self._versioned()
        if stage == "simulate":
            part["simulator"] = self._versioned()
            if self.fidelities:
                part["fidelities"] = {n: {"runs": f.runs, **self._versioned(n)} for n, f in self.fidelities.items()}
            part |= {"require": self.simulate.require, "jacobians": self.gradient_spec("tangent")}
            part |= {"replicates": self.design.replicates} if self.design.replicates > 1 else {}
            if self.guide:
                part["active"] = {"design": whole["design"], "emulator": whole["emulators"].get(self.guide)}
                if self.design.entry.aim == "posterior":
                    told = {k: whole["infer"].get(k) for k in ("observation", "likelihood", "outside", "feasible")}
                    part["active"] |= {"posterior": told, "digests": self.section("infer")["digests"]}
            if self.simulate.until is not None:
                part |= {"until": self.simulate.until, "most": self.simulate.most}
                part |= {"skip": self.simulate.skip} if self.simulate.skip else {}
        if stage == "optimise":
            part["simulator"] = self._versioned()
            part["outside"] = self.infer.outside
        if stage == "report":
            part["stages"] = list(self.stages)
        if stage in ("validate", "check"):
            part["checks"] = {n: plain(c) for n, c in self.checks.items() if c.stage == stage}
        if stage == "infer":
            part["digests"] = {k: hashlib.sha256(p.read_bytes()).hexdigest() for k, p in self.data_files().items()}
        return part

    def _versioned(self, fidelity: str = "") -> dict[str, Any]:
        return {**self.spec_of(fidelity), "version": str(self.simulator_of(fidelity).version)}

    def data_files(self) -> dict[str, Path]:
        """The files that inference reads, by the key that names them; settings that end in `_file` name one."""
        if not self.infers:
            return {}
        o = self.infer.observation
        found = {"infer.observation.file": self.resolve(o.file)} if o.file else {}
        return found | dict(_files("infer.likelihood", self.infer.likelihood.settings()))

    def to_dict(self) -> dict[str, Any]:
        """The whole study with every default, as plain JSON that reads as a study again; secrets are taken out."""
        apart = ("space", "folder", "file", "fidelities", "infers")
        parts = {k: plain(v) for k, v in vars(self).items() if k not in apart}
        parts["infer"] = parts["infer"] if self.infers else None
        parameters = {p.pop("name"): {**p.pop("prior"), **p} for p in plain(self.space.to_dict())}
        design = parts["design"].pop("entry") | parts["design"]
        if self.fidelities:
            design["fidelities"] = plain(self.fidelities)
        parts["tracking"]["uri"] = redact(self.tracking.uri)
        head = {k: parts.pop(k) for k in ("name", "seed")}
        return {**head, "parameters": parameters, **parts, "design": design, "output": str(self.folder)}


def _files(path: str, settings: Mapping[str, Any]) -> Iterator[tuple[str, Path]]:
    """The settings that name a file, by their path; those of entries within too."""
    for k, v in settings.items():
        if isinstance(v, Mapping):
            yield from _files(f"{path}.{k}", v)
        elif k.endswith("_file") and v:
            yield f"{path}.{k}", Path(v)


def plain(value: Any) -> Any:
    """Built entries and sections as plain JSON: entries with their `use`, what is None left out."""
    if hasattr(value, "entry_name"):
        return {"use": value.entry_name(), **plain(value.settings())}
    if hasattr(value, "to_dict"):
        return plain(value.to_dict())
    if is_dataclass(value):
        return plain({f.name: x for f in fields(value) if (x := getattr(value, f.name)) is not None})
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
