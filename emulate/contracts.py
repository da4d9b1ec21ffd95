"""THE PLAN: every contract and record of the house. Read first.

Letters mean the same everywhere: `theta` physical parameters `[..., d]`, `u` the unit cube `[..., d]`, `y` physical
output `[..., m]`, `z` standardised output `[..., p]`; n runs, d parameters, m outputs, p components.

An entry of a room is one file with one public class: a frozen dataclass whose fields are the keys of a study's YAML.
Every class is abstract or final: implement the abstract methods, never override a concrete one.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol, SupportsFloat, cast

import numpy as np
import torch
from annotated_types import Ge
from scipy import special
from torch import Tensor
from torch.distributions import Distribution, Normal

from emulate import conformal
from emulate.axes import given
from emulate.binning import Binning
from emulate.costs import Cost
from emulate.distributions import Correlated
from emulate.errors import InputError
from emulate.runs import Outputs, Runs
from emulate.space import Space

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Entry:
    """What every entry of a room shares: strict settings, and the name it is found by."""

    __dataclass_fields__: ClassVar[dict[str, Any]]  # every entry is one
    __pydantic_config__: ClassVar[dict] = {"extra": "forbid", "allow_inf_nan": False, "arbitrary_types_allowed": True}
    example: ClassVar[dict] = {}  # settings for the contract tests, where the defaults are refused or take long

    @classmethod
    def entry_name(cls) -> str:
        """`gp` for `emulate.emulators.gp:GP`, `my_lab.flows:Flow` for a class outside the house."""
        parts = cls.__module__.split(".")
        return parts[2] if parts[0] == "emulate" and len(parts) > 2 else f"{cls.__module__}:{cls.__qualname__}"

    def settings(self) -> dict[str, Any]:
        """The fields by name, without the parameter space; entries that stand in a field as `{"use": NAME, ...}`."""

        def spelled(value: Any) -> Any:
            if isinstance(value, dict):
                return {k: spelled(v) for k, v in value.items()}
            if isinstance(value, Entry):
                return {"use": value.entry_name(), **value.settings()}
            return value.settings() if hasattr(value, "settings") else value

        return {f.name: spelled(getattr(self, f.name)) for f in fields(self) if f.init and f.name != "space"}


@dataclass(frozen=True)
class Truth:
    """A fact about a simulator that is known without its code: a closed form, published digits, another library.

    >>> Truth("the sum of the weights", lambda: 0.5 + 0.5, 1.0, 1e-12, "by definition").finding("sum").passed
    True
    """

    says: str  # what is measured, in words with its unit
    measure: Callable[[], SupportsFloat]  # of the code, at any settings and parameters
    expected: float
    tolerance: float  # that |measured - expected| may reach, in the same unit
    source: str  # who says so: author and year, or the formula
    slow: bool = False  # it takes more than a second

    def finding(self, name: str) -> "Finding":
        """Whether the code says so too."""
        value, low, high = float(self.measure()), self.expected - self.tolerance, self.expected + self.tolerance
        verb = "is" if low <= value <= high else "must be"
        return Finding(name, value, low, high, f"{self.says}: {value:.8g}; it {verb} {self.expected:.8g} within "
                       f"{self.tolerance:.2g} ({self.source}).")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Simulator(Entry, ABC):
    """y = f(theta, seed): one run. Running many is the pipeline's business.

    Same theta and seed, same answer, bit for bit, in any process. Raise to fail; never return a filler value.
    Noise is keyed by the seed and drawn from a generator of its own, never from a global one.

    A simulator that knows its derivative better than a generic method does defines
    `jacobian(theta, *, seed) -> (y [m], dy/dtheta [m, d])` beside `run`; stages then ask for that.

    One that lets the room of gradients see inside defines, beside `run`, `program(theta, noise) -> y [m]`, which draws
    by name (`emulate.noise`), and `replicates`: a run is the mean of so many, keyed from its seed; or `dynamics`, the
    `emulate.dynamics.Trajectory` or `ODE` that a run is. Estimators and stages then ask for that. Where it also knows
    `exact(theta) -> (E[y] [m], dE[y]/dtheta [m, d])` in closed form, `emulate verify` holds every method against that; its
    `ladders` are settings to try, by method.
    """

    space: Space
    version: ClassVar[str] = "1"  # enters the key of every stored run: change it when answers change
    differentiable: ClassVar[bool] = False  # a torch gradient flows from theta through `run`; the tests measure it
    batched: ClassVar[bool] = False  # `run` takes many theta [..., d] too and gives y [..., m] of each
    incidental: ClassVar[tuple[str, ...]] = ()  # settings that never change an answer: they stay out of the key
    tracks: ClassVar[bool] = False  # its picture draws the way of a search too, "path" [s, d] among the points
    pathologies: ClassVar[tuple[str, ...]] = ()  # of `emulate.diagnosis.TROUBLES`, in the middle of the prior

    @property
    @abstractmethod
    def outputs(self) -> Outputs:
        """The fields of y with their coordinates and units."""

    @property
    @abstractmethod
    def stochastic(self) -> bool:
        """Whether the answer depends on the seed; when it does not, every run is stored under seed 0."""

    @abstractmethod
    def run(self, theta: Tensor, *, seed: int) -> Tensor:
        """theta `[d]` float64 -> y `[m]` float64."""

    # What a simulator may say of itself beside; one that knows overrides it.

    def truths(self) -> tuple[Truth, ...]:
        """Facts that are known without this code, at the default settings; tests and `emulate verify` hold it to them."""
        return ()

    def constraints(self) -> dict[str, Callable[[Tensor], Tensor]]:
        """Bounds on the parameters by name, theta `[..., d]` -> `[...]`, each met where it is at most 0; `subject_to` of an
        optimisation names them, and a family `spacing_1_2`, `spacing_1_3` ... as `spacing`."""
        return {}

    def rows(self) -> Tensor | None:
        """theta `[n, d]` of the only points that it answers at, as a table of runs does; None: it can be run anywhere. A
        study of such a simulator takes its points from there, and asks nothing that needs a run elsewhere."""
        return None

    def made(self) -> "Simulator":
        """What an optimum is made as, where that is not quite what is optimised: a device of two materials in the place of one
        of grey densities, an environment in the place of an emulator of it. It has the same parameters and outputs, and true
        runs that confirm an optimum are its."""
        return self

    def picture(self, points: Mapping[str, Tensor]) -> "Figure | None":
        """What a practitioner expects to see at parameters `[d]` that are named in words: "truth" and "best fit",
        "reference" and "optimum". The first paragraph of this docstring is its caption. It is drawn in seconds, on a
        `matplotlib.figure.Figure`, which is imported within."""
        return None


@dataclass(frozen=True, kw_only=True)
class Design(Entry, ABC):
    """Where to run: n points in the unit cube."""

    extensible: ClassVar[bool] = False  # the first n of 2n points are the n points

    @abstractmethod
    def points(self, n: int, dim: int, *, seed: int, emulator: "Any | None" = None) -> np.ndarray:
        """u `[n, dim]` float64, in the open unit cube; adaptive designs read `emulator`."""


class Core(torch.nn.Module, ABC):
    """A fitted map to standardised outputs: u = space.scaled(theta) `[..., d]` -> p(z | u) with event shape `(p,)`.

    All it knows lies in its `state_dict`, float64 buffers and parameters. `history` holds one dict per epoch.
    """

    history: tuple[dict[str, float], ...] = ()
    closed: bool = False  # whether `tangent` is one expression for any number of points, fit for `program.export`
    left_out: Distribution | None = None  # p(z) of each training run by the other runs, where training knows it

    @property
    def log(self) -> Callable[[Tensor], Tensor]:
        """The logarithm with which theta becomes u, for `space.scaled`: torch's, or that which a part of it asks for."""
        parts = (m for m in self.modules() if isinstance(m, Core) and m is not self)
        return next((log for log in (m.log for m in parts) if log is not torch.log), torch.log)

    @abstractmethod
    def forward(self, u: Tensor) -> Distribution:
        """p(z | u), differentiable with respect to u, batched over leading axes: a Normal or MultivariateNormal, or any
        distribution with a mean, a variance, `rsample` and `log_prob`."""

    def slopes(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """d mean / du and d variance / du at u `[N, d]`, both `[N, p, d]`. A core that knows a cheaper way overrides it."""
        return rows_of(lambda x: self(x).mean, u), rows_of(lambda x: self(x).variance, u)

    def tangent(self, u: Tensor) -> tuple[Distribution, tuple[Tensor, Tensor] | None]:
        """p(z | u) with its `slopes`; without where it is no Gaussian. A core that finds both in one pass overrides it."""
        p = self(u)
        return p, self.slopes(u) if isinstance(p, Normal | Correlated) else None


def rows_of(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """df/dx `[..., m, d]` of a batched f(x `[..., d]`) `[..., m]`.

    J^T v is linear in v, so d backward passes through it give all rows at once, whatever m.
    """
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        y = f(x)
        if not y.requires_grad:
            return y.new_zeros(*y.shape, x.shape[-1])
        v = torch.zeros_like(y, requires_grad=True)
        (pulled,) = torch.autograd.grad(y, x, v, create_graph=True)
        columns = [torch.autograd.grad(column.sum(), v, retain_graph=True, allow_unused=True, materialize_grads=True)[0]
                   for column in pulled.unbind(-1)]  # fmt: skip
    return torch.stack(columns, -1)


@dataclass(frozen=True)
class Made:
    """Rows that a recipe made for itself: `runs` with the outputs of the study's, what it knows of each of them, and more.

    scores `[n, d]` are d ln p(row) / du; see `Recipe.make`.
    """

    runs: Runs
    scores: Tensor | None = None
    extras: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Recipe(Entry, ABC):
    """How to fit an emulator. `emulate.emulator.fit(recipe, runs, seed=...)` alone knows units, logs and PCA.

    What `takes` names is given to `train` beside u and z, as a keyword of that name:

    - `slopes`: dz/du `[n, p, d]` of runs that carry Jacobians, else None; with `needs_slopes` those are refused.
    - `coarse`: (u `[c, d]`, z `[c, q]`) of each cheaper fidelity in the recipe's `fidelities`, in that order, in the
      components of the study's own runs where the outputs are the same, else in components of its own.
    - `made`: (u `[k, d]`, z `[k, p]`, the rest) of what `make` made of the study's simulator, in the components of the runs.
    """

    takes: ClassVar[tuple[str, ...]] = ()
    needs_slopes: ClassVar[bool] = False
    privacy: ClassVar[Any] = None  # an `emulate.privacy.Privacy`, in recipes with such a setting

    log: bool | Literal["auto"] = True  # work on ln y of fields that are positive by nature; auto: where it is better
    truncation: float = 1e-10  # share of the standardised variance that the dropped PCA components may hold together
    calibrate: bool | Literal["conformal"] = True  # scale error bars by left-out runs; conformal: and by held-out ones

    @abstractmethod
    def minimum_runs(self, d: int) -> int:
        """The least number of finished runs that this recipe accepts for d parameters."""

    def least_runs(self, d: int) -> int:
        """`minimum_runs`, and those that `calibrate: conformal` holds out beside."""
        return self.minimum_runs(d) + (conformal.FEWEST if self.calibrate == "conformal" else 0)

    def quick(self) -> "Recipe":
        """A recipe that is trained faster and errs alike: what chooses the transform where `log` is "auto"."""
        return self

    def cost(self, n: int, d: int, p: int) -> Cost | None:
        """What `train` takes with n runs, d parameters and p components; None where nobody knows. A recipe that grows
        faster than its runs overrides it, so that this can be said before."""
        return None

    def make(self, space: Space, outputs: Outputs, simulator: Simulator | None, *, seed: int) -> "Made":
        """What a recipe that takes `made` makes for itself of the study's simulator, which is None where `fit` has none."""
        raise InputError(f"{self.entry_name()} takes what it makes for itself, and must define `make`. Got a recipe without; "
                         "define it, or take \"made\" out of `takes`.")  # fmt: skip

    def doubt(self, runs: Runs) -> str:
        """What in the finished runs speaks against what this recipe takes from them, as one sentence; nothing where all is
        well. `fit` warns of it. A recipe that reads more than theta and y may override it."""
        return ""

    @abstractmethod
    def train(self, u: Tensor, z: Tensor, *, noisy: bool, seed: int, **given: Any) -> Core:
        """u `[n, d]`, z `[n, p]` (mean 0, unit variance, uncorrelated), float64; `noisy`: a stochastic simulator; `given`: what
        `takes` names."""

    @abstractmethod
    def rebuild(self, state: dict[str, Tensor]) -> Core:
        """The core whose `state_dict` is `state`, ready to predict; what `load` calls."""


FOLLOWS = torch.empty(0)  # in the place of what follows from the other fields; None does the same


@dataclass(frozen=True)
class Estimate:
    """A derivative of E[y] with its error bar and its price.

    value `[m]`, gradient `[m, d]` = dE[y]/dtheta, standard_error `[m, d]` of the gradient (0: exact to rounding; NaN: one
    replicate of something random, which says nothing of its own scatter); covariance `[m, d, d]` of each output's
    gradient; bias_bound `[m, d]` what the method itself may be wrong by however many replicates there are (0: unbiased;
    NaN: unknown). calls of f; seconds; peak_memory in bytes above the start, NaN where the system does not tell;
    replicates that the standard error rests on, 0 where it does not rest on any.

    >>> e = Estimate(torch.tensor([1.0]), torch.tensor([[2.0]]), torch.tensor([[0.1]]), calls=64, seconds=0.1, replicates=16)
    >>> [round(float(end), 3) for end in e.interval(0.95)]
    [1.787, 2.213]
    """

    value: Tensor
    gradient: Tensor
    standard_error: Tensor
    calls: int
    seconds: float
    diagnostics: dict[str, Any] = field(default_factory=dict)
    covariance: Tensor = FOLLOWS
    bias_bound: Tensor = FOLLOWS
    peak_memory: float = float("nan")
    replicates: int = 0

    def __post_init__(self) -> None:
        if self.covariance is None or self.covariance is FOLLOWS:
            object.__setattr__(self, "covariance", torch.diag_embed(self.standard_error.square()))
        if self.bias_bound is None or self.bias_bound is FOLLOWS:
            object.__setattr__(self, "bias_bound", torch.zeros_like(self.gradient))

    def interval(self, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """Lower and upper ends `[m, d]` of the central confidence interval: Student's with replicates - 1 degrees of
        freedom, and the bias bound on both sides."""
        if not 0 < level < 1:
            raise InputError(f"level must be a probability between 0 and 1, such as 0.95. Got {level}.")
        dof = self.replicates - 1
        reach = special.stdtrit(dof, 0.5 + level / 2) if dof > 0 else special.ndtri(0.5 + level / 2)
        half = float(reach) * self.standard_error + self.bias_bound
        return self.gradient - half, self.gradient + half


@dataclass(frozen=True, kw_only=True)
class Gradient(Entry, ABC):
    """How to differentiate E[f(theta)]: an argument, never a property of the thing differentiated.

    What a method needs of f is said by `needs`: "graph", f carries torch's derivatives (`forward`, `reverse`);
    "sites", f draws through `noise.draw`, so that its random sites are seen (`score`); "dynamics", f is an
    `emulate.dynamics.Trajectory` (`adjoint`); "complex", f takes complex theta. It refuses any other f in a sentence.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    exact: ClassVar[bool] = False  # the derivative of a run is exact to rounding; else it has an error of its own
    draws: ClassVar[bool] = False  # it may draw numbers of its own, so that its error asks for replicates of any f

    @abstractmethod
    def estimate(self, f: Any, theta: Tensor, *, seed: int, n: int = 1) -> Estimate:
        """dE[y]/dtheta at theta `[d]`, averaged over n replicates keyed from `seed`; f is whatever
        `emulate.replication.lift` takes: f(theta), f(theta, seed), f(theta, noise), a simulator, an emulator."""


@dataclass(frozen=True)
class Counts:
    """Contents of the bins: values `[..., *bins]`, under- and overflow first and last on every axis.

    binning: edges and smoothing; two counts are alike where it is equal. samples: how many were counted. covariance
    `[..., size, size]` of the flat values, where it was asked for.
    """

    values: Tensor
    binning: Binning
    samples: int
    covariance: Tensor | None = None

    @classmethod
    def of(cls, binning: Binning, x: Any, weights: Any = None) -> "Counts":
        """Samples `[..., n]`, or `[..., n, 2]` of two axes, sorted into these very bins."""
        x, w = given(x, weights, len(binning.axes))
        return cls(binning.spread(x, w), binning, x.shape[-2])

    @classmethod
    def measured(cls, binning: Binning, x: Any, weights: Any = None,
                 kind: Literal["poisson", "multinomial"] = "poisson") -> "Counts":  # fmt: skip
        """The same with the covariance that repeating them would show, from these samples; no gradient flows through it.

        With q_j the weight of a sample times its share of bin j: poisson, for a number of samples that is Poisson's,
        sum q_j q_k: the squared weights on the diagonal, and beside it only what smoothing shares; multinomial, for a
        fixed number n, n / (n - 1) sum (q_j - mean)(q_k - mean).
        """
        if kind not in ("poisson", "multinomial"):
            raise InputError(f"kind must be 'poisson' or 'multinomial'. Got {kind!r}.")
        made = cls.of(binning, x, weights)
        x, w = given(x, weights, len(binning.axes))
        n, flat = made.samples, made.flat.detach()
        count = flat.shape[:-1].numel()
        rows = zip(x.detach().reshape(count, *x.shape[-2:]), w.detach().reshape(count, n), strict=True)
        each = [binning.pairs(one, v.square()) for one, v in rows]
        covariance = (
            torch.stack(each).reshape(*flat.shape, binning.size) if each else flat.new_zeros(*flat.shape, binning.size)
        )
        if kind == "multinomial":
            if n < 2:
                raise InputError(f"a multinomial covariance must have at least 2 samples. Got {n}.")
            covariance = (covariance - flat[..., :, None] * flat[..., None, :] / n) * (n / (n - 1))
        return replace(made, covariance=covariance)

    @property
    def flat(self) -> Tensor:
        """All bins in one row `[..., size]`, under- and overflow among them."""
        return self.values.flatten(-len(self.binning.axes))

    @property
    def inside(self) -> Tensor:
        """The values without under- and overflow."""
        return self.values[(..., *[slice(1, -1)] * len(self.binning.axes))]

    @property
    def total(self) -> Tensor:
        """The sum over all bins: that of the weights."""
        return self.flat.sum(-1)

    @property
    def known_covariance(self) -> Tensor:
        """`covariance`, or a complaint where there is none."""
        if self.covariance is None:
            raise InputError("the standard error must have a covariance. Got counts without; make them by `measured`.")
        return self.covariance

    @property
    def standard_error(self) -> Tensor:
        """Of the values, in their shape."""
        return self.known_covariance.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt().reshape(self.values.shape)


@dataclass(frozen=True, kw_only=True)
class Histogram(Entry, ABC):
    """How samples are sorted into bins `[l, r)` on one or two axes; all weight lands in a bin, an under- or an overflow.

    Samples are `[..., n]` on one axis and `[..., n, 2]` on two, weights `[..., n]`; leading axes are histograms of their
    own. Infinite samples are under- or overflow, NaN is refused. Derivatives flow to samples and weights, in any of
    torch's modes.
    """

    edges: tuple[float, ...] | tuple[tuple[float, ...], ...]  # of the bins, rising; of two axes, a list for each

    @abstractmethod
    def binning(self, x: Any, weights: Any = None) -> Binning:
        """The bins as these samples are spread over them: what may depend on samples is settled."""

    def counts(self, x: Any, weights: Any = None) -> Counts:
        """The sum of the weights in each bin; without weights, the number of samples."""
        return Counts.of(self.binning(x, weights), x, weights)

    def measured(self, x: Any, weights: Any = None, *, kind: Literal["poisson", "multinomial"] = "poisson") -> Counts:
        """`counts` with their covariance, for a number of samples that is Poisson's, or fixed; see `Counts.measured`."""
        return Counts.measured(self.binning(x, weights), x, weights, kind)


@dataclass(frozen=True, kw_only=True)
class Likelihood(Entry, ABC):
    """p(data | prediction): the observation's noise, with the emulator's own covariance added."""

    adds_noise: ClassVar[bool] = True  # to a run; else the observation is a run, and all noise lies in the prediction

    def on(self, outputs: Outputs) -> "Likelihood":
        """The same likelihood told of the fields of y and their coordinates, which one that reads them overrides."""
        return self

    @abstractmethod
    def log_prob(self, prediction: Distribution, data: Tensor) -> Tensor:
        """ln p(data `[..., m]` | prediction), shape of the prediction's batch, normalised."""

    @abstractmethod
    def covariance(self, data: Tensor, prediction: Distribution | None = None) -> Tensor:
        """The covariance `[..., m, m]` of the observation's noise, plus the emulator's own if a prediction is given.

        Zeros without one where the observation has no noise beside the prediction's."""

    @abstractmethod
    def sample(self, truth: Tensor, *, seed: int) -> Tensor:
        """One observation `[m]` of a truth `[m]` without the observation's noise."""


LogDensity = Callable[[Tensor], Tensor]  # x [..., chains, d] unconstrained -> ln p [..., chains], differentiable
Progress = Callable[[int, int, str], None]  # done, total, and what is known so far, such as divergences and R-hat


@dataclass(frozen=True)
class Draws:
    """Draws of a sampler: x `[chains, draws, d]` unconstrained, log_density and divergent `[chains, draws]`."""

    x: Tensor
    log_density: Tensor
    divergent: Tensor
    rhat: Tensor  # [d], rank-normalised split R-hat
    ess: Tensor  # [d], bulk effective sample size
    diagnostics: dict[str, float] = field(default_factory=dict)


class Checkpoint(Protocol):
    """Where the state of a sampler is kept, of one density, start, seed and settings; n alone may differ."""

    def load(self) -> dict[str, Tensor] | None:
        """The state that was saved last, None where there is none."""

    def save(self, state: dict[str, Tensor]) -> None:
        """Called whenever progress is told; every state makes those before it worthless, so not all need to be kept."""


@dataclass(frozen=True, kw_only=True)
class Sampler(Entry, ABC):
    """Draws from a density that is known up to a constant, many chains in one batched call."""

    resumable: ClassVar[bool] = False  # a checkpoint is read: more draws continue its chains
    needs_gradient: ClassVar[bool] = True  # of the density; else values alone are asked for

    groups: Annotated[int, Ge(1)] = 1  # equal runs of neighbouring chains, each run with a target of its own

    def grouped(self, groups: int) -> "Sampler":
        """The same sampler for chains of many targets; R-hat and ESS are then those of the worst group."""
        return replace(self, groups=groups)

    @abstractmethod
    def draw(self, log_density: LogDensity, start: Tensor, n: int, *, seed: int, progress: Progress | None = None,
             checkpoint: Checkpoint | None = None) -> Draws:  # fmt: skip
        """n draws for each row of start `[chains, d]`; `progress(done, total, note)` is called now and then.

        With a `checkpoint` an interrupted call is made again and gives the draws that it would have given, bit for bit;
        where the sampler is `resumable` it goes on from there, and from n draws to more, of which the first are those.
        """


@dataclass(frozen=True)
class Finding:
    """One verdict: a value, the bound it must keep (low, high; None is open), and a sentence for a human.

    A value that is not a finite number never passes. A finding that does not block is printed and logged only.

    >>> f = Finding("accuracy.median", 0.004, None, 0.01, "The median error of 20 held-out runs is 0.4 %.")
    >>> f.passed, f.bound
    (True, '<= 0.01')
    """

    name: str
    value: float
    low: float | None
    high: float | None
    sentence: str
    figure: str = ""
    blocking: bool = True

    @property
    def passed(self) -> bool:
        """Whether the value is a finite number within its bound."""
        good = bool(np.isfinite(self.value))
        return good and (self.low is None or self.value >= self.low) and (self.high is None or self.value <= self.high)

    @property
    def bound(self) -> str:
        """`<= 0.01`, `0.9 to 0.99`, or `none`."""
        if self.low is not None and self.high is not None:
            return f"{self.low:g} to {self.high:g}"
        if self.high is not None:
            return f"<= {self.high:g}"
        return f">= {self.low:g}" if self.low is not None else "none"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON, with the verdict."""
        return {**vars(self), "passed": self.passed}


@dataclass(frozen=True)
class Jacobians:
    """The simulator's derivatives at g points: theta `[g, d]`, y `[g, m]`, value and standard_error `[g, m, d]`."""

    theta: Tensor
    y: Tensor
    value: Tensor
    standard_error: Tensor


@dataclass(frozen=True)
class Weighted:
    """Draws of the surrogate posterior at which the true simulator was run.

    theta `[s, d]` equally likely under the surrogate posterior; log_weight `[s]` = ln p_true - ln p_surrogate of the
    unnormalised densities, -inf where the true run failed and the prior excludes that; s = 0 where the observation adds no
    noise to a run, so that true runs have no density; draws `[t, d]` all draws of the
    surrogate posterior; failed `[k, d]` draws whose true run failed where that says nothing of the parameters, and which
    are left out on both sides; expected `[s + k]` the probability to finish that earlier runs gave each of both, None
    where none failed.
    """

    theta: Tensor
    log_weight: Tensor
    draws: Tensor
    failed: Tensor | None = None
    expected: Tensor | None = None


@dataclass(frozen=True)
class Recovery:
    """Posteriors of q held-out observations, s draws of each.

    rank `[q]` is the share of draws with a higher density than the truth (below 0.95: the truth lies inside the 95 %
    region); truth `[q, d]`, mean and sd `[q, d]` of the posteriors; draws `[q, s, d]` and x `[q, d]`, the truths, in the
    sampler's coordinates, in which the prior is standard normal; ess `[q]`, how many independent draws the draws of an
    observation are worth at least; failed `[k, d]` the parameters of held-out runs that failed and made no observation,
    expected `[q + k]` the probability to finish that the runs gave each of both, or None where none failed.
    """

    rank: Tensor
    truth: Tensor
    mean: Tensor
    sd: Tensor
    draws: Tensor
    x: Tensor
    ess: Tensor
    failed: Tensor | None = None
    expected: Tensor | None = None


@dataclass(frozen=True)
class Confirmation:
    """k true runs of a stochastic simulator at one point, the mean of the surrogate posterior.

    theta `[d]` and covariance `[d, d]` are the posterior's mean and covariance, y `[k, m]` the runs that finished, spread
    `[m, m]` the covariance of the data about the prediction there as the likelihood has it; failed: runs that did not finish.
    """

    theta: Tensor
    covariance: Tensor
    y: Tensor
    spread: Tensor
    failed: int = 0


@dataclass(frozen=True)
class Replicas:
    """chi^2 of the observation and of data made again, both under t draws of the posterior; see `emulate.replicas`.

    data `[t, k]` and replica `[r, t, k]` for k parts of the outputs, of the `sizes` numbers: all, whose name is empty, and
    each field where there are several; pull `[m]` the observation less the prediction in standard deviations, the mean over
    the draws; noisy: the observation holds noise, as far as is known.
    """

    parts: tuple[str, ...]
    sizes: tuple[int, ...]
    data: Tensor
    replica: Tensor
    pull: Tensor
    noisy: bool = True


@dataclass(frozen=True)
class Softening:
    """By how many posterior standard deviations each parameter would move `[d]` if hard counts were read as smoothed ones;
    alike: a run of the simulator made the observation, so that it is smoothed as the predictions are."""

    moved: Tensor
    alike: bool


@dataclass(frozen=True)
class Evidence:
    """All a check may read; what a stage has not made yet is None.

    Where a posterior lies tells a check that reads nothing else:

    >>> import emulate
    >>> space = Space((emulate.Parameter("a", emulate.Uniform(0, 1)),))
    >>> x = np.linspace(0, 1, 9)[:, None]
    >>> runs = Runs.of(space, Outputs((emulate.Field("y"),)), x, x**2)
    >>> made = emulate.fit(emulate.build("emulators", "polynomial"), runs, seed=0)
    >>> new = Runs.of(space, runs.outputs, x[1:-1] + 0.01, (x[1:-1] + 0.01) ** 2)
    >>> [f.passed for f in emulate.build("checks", "accuracy").find(Evidence(made, held_out=new))]
    [True, True]
    """

    emulator: "Any"  # emulate.emulator.Emulator
    held_out: Runs | None = None
    jacobians: Jacobians | None = None
    weighted: Weighted | None = None
    recovery: Recovery | None = None
    baseline: "Any | None" = None  # an emulator printed beside, for scale
    truth: Tensor | None = None  # [d], the parameters of the observation where they are known
    feasibility: "Any | None" = None  # emulate.feasibility.Feasibility of all runs, finished and failed
    confirmation: Confirmation | None = None
    replicas: Replicas | None = None
    likelihood: Likelihood | None = None  # of the study's observation
    softening: Softening | None = None  # where the simulator smooths its histograms


class Whole(Evidence):
    """Evidence in which all that a check `needs` is there, as `Check.require` gives it: for type checkers alone."""

    held_out: Runs
    jacobians: Jacobians
    weighted: Weighted
    recovery: Recovery
    feasibility: Any
    confirmation: Confirmation
    replicas: Replicas
    likelihood: Likelihood
    softening: Softening


@dataclass(frozen=True, kw_only=True)
class Check(Entry, ABC):
    """Evidence -> findings. A check is itself tested on an honest, a shy and a boastful emulator."""

    stage: ClassVar[Literal["validate", "check"]]
    needs: ClassVar[tuple[str, ...]]  # the fields of Evidence that it reads
    weighs: ClassVar[bool] = False  # it reads the weights of true runs, which need an observation with noise of its own
    alarms: ClassVar[int] = (
        0  # blocking tests, each of which fails what is right with a probability of at most `chance`
    )

    def require(self, evidence: Evidence) -> Whole:
        """The same evidence; complains about what no stage has made yet. The first line of every `find`."""
        missing = [name for name in self.needs if getattr(evidence, name) is None]
        if missing:
            raise InputError(f"the check {self.entry_name()!r} must be given {' and '.join(missing)}. Got None; run "
                             f"`emulate {self.stage}`, which makes it, or leave the check out.")  # fmt: skip
        return cast("Whole", evidence)

    @abstractmethod
    def find(self, evidence: Evidence) -> tuple[Finding, ...]:
        """One or several findings, names unique in the study."""
