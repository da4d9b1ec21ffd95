"""`Lund`: the parameters of string fragmentation to observables of hadronic events."""

import time
from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar, Literal, cast

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from emulate.contracts import Estimate, Recipe, Simulator
from emulate.emissions import FlowEmission, saved, table
from emulate.emulator import Emulator, fit
from emulate.errors import InputError, nearest
from emulate.lund import Events, Flavours, String, generate
from emulate.lund.history import History
from emulate.lund.measurement import ALL, Measurement, Observable, Output
from emulate.lund.observables import gradient
from emulate.lund.string import KINDS, NAMES
from emulate.runs import Outputs, Runs
from emulate.space import Parameter, Space, Uniform

__all__ = ["Lund"]

_SPACE = Space((Parameter("a", Uniform(0.3, 1.2)), Parameter("b", Uniform(0.6, 1.4), unit="GeV^-2"),
                Parameter("sigma", Uniform(0.25, 0.45), unit="GeV", label=r"\sigma")))  # fmt: skip
_FIDUCIAL = {"a": 0.68, "b": 0.98, "sigma": 0.335}


@dataclass(frozen=True, kw_only=True)
class Lund(Simulator):
    """Lund string fragmentation: a quark and its antiquark become hadrons, with the exact score of every event.

    Each hadron takes a share z of its end's light-cone momentum, f(z) proportional to (1 - z)^a / z exp(-b m_T^2 / z), and
    each break a Gaussian transverse momentum of width sigma. What comes out are primary hadrons: nothing decays. The
    string itself is `emulate.lund`; `fragment`, `table` and `gradient` give more than `run`.

    Settings:
        space: priors of any of a, b, sigma, in any order.
        fixed: values of those that are not in the space, by default 0.68, 0.98 and 0.335.
        energy: mass of the string, GeV.
        ends: flavour of the quark and antiquark, "u", "d" or "s".
        flavours: "pions" alone, "mesons", or "baryons" too.
        suppression: other numbers of `emulate.lund.Flavours`, by name.
        events: how many events a run averages over.
        output: what a run gives. "histograms": hadrons or events per event and bin; "means": of the observables over all
            events; "event": of one event alone, a draw from their joint distribution.
        observables: "multiplicity" of charged hadrons; "thrust" as 1 - T; "x_p" of charged hadrons as ln(1 / x_p), x_p =
            2 |p| / energy; "pt" of charged hadrons to the string, GeV. Of the last two the mean over all hadrons of an
            event is taken where the output is not histograms.
        edges: of the bins of an observable, in place of the usual ones; what lies outside is in no bin.
        bandwidth: smooths histograms by a kernel of that standard deviation, in widths of an observable's narrowest bin; 0 are
            hard bins. Compare soft with soft, observations included.
        emission: folder of a saved emulator of one emission that draws z in place of the exact density, relative to where
            emulate is started; see `emulate.emissions`. Its content enters the key of every run.

    >>> y = Lund(output="means", events=200).run(torch.tensor([0.68, 0.98, 0.335], dtype=torch.float64), seed=1)
    >>> y.round(decimals=1).tolist()
    [6.7, 0.0, 2.6, 0.4]
    """

    space: Space = _SPACE
    fixed: dict[str, float] = field(default_factory=dict)
    energy: Annotated[float, Gt(0)] = 91.2  # GeV, of the string
    ends: Literal["d", "u", "s"] = "u"
    flavours: Literal["pions", "mesons", "baryons"] = "mesons"
    suppression: dict[str, float] = field(default_factory=dict)
    events: Annotated[int, Ge(1)] = 1000
    output: Output = "histograms"
    observables: tuple[Observable, ...] = ALL
    edges: dict[str, tuple[float, ...]] = field(default_factory=dict)
    bandwidth: Annotated[float, Ge(0)] = 0.0
    emission: str = ""
    _learnt: ClassVar[FlowEmission | None] = None  # of an instance: what `emission` names, loaded

    pathologies: ClassVar[tuple[str, ...]] = ("jump",)  # hadrons are counted, and strings end, by hard decisions
    incidental: ClassVar[tuple[str, ...]] = ("emission",)  # `version` knows its content

    def __post_init__(self) -> None:
        object.__setattr__(self, "observables", tuple(self.observables))
        object.__setattr__(self, "edges", {k: tuple(v) for k, v in self.edges.items()})
        for name in (*self.space.names, *self.fixed):
            if name not in NAMES:
                raise InputError(f"lund: the parameters must be among a, b, sigma. Got {name!r}; change their priors, keep "
                                 f"their names.{nearest(name, NAMES)}")  # fmt: skip
        if twice := sorted(set(self.space.names) & set(self.fixed)):
            raise InputError(f"lund: a parameter must be varied or fixed, not both. Got {', '.join(twice)} in the space and "
                             "in fixed; leave out one.")  # fmt: skip
        known = tuple(vars(Flavours()))
        for name in self.suppression:
            if name not in known:
                raise InputError(f"lund: suppression must name {', '.join(known)}. Got {name!r}.{nearest(name, known)}")
        _ = self.string, self._measurement  # check energy and flavours, observables and edges
        object.__setattr__(self, "_learnt", saved(self.emission) if self.emission else None)

    @property
    def version(self) -> str:
        """The version of the code, and the first digits of the sha256 of the emulator of the emission where there is one."""
        return "1" if self._learnt is None else f"1.{self._learnt.digest[:16]}"

    @property
    def string(self) -> String:
        """What is fragmented."""
        kind = Flavours(**{**vars(KINDS[self.flavours]), **self.suppression})
        return String(energy=self.energy, ends=self.ends, flavours=kind)

    @property
    def outputs(self) -> Outputs:
        return self._measurement.outputs

    @property
    def stochastic(self) -> bool:
        return True

    def run(self, theta: Tensor, *, seed: int) -> Tensor:
        """The outputs [m] at theta [d]: averages over `events` events, or one event.

        Raises:
            InputError: theta is not allowed.
        """
        return self.measure(self.fragment(theta, seed=seed, n=1 if self.output == "event" else None)).mean(0)

    def fragment(self, theta: Tensor, *, seed: int, n: int | None = None) -> Events:
        """Whole events with their history: n, by default `events`, at theta `[d]`, or one at each row of theta `[n, d]`."""
        return generate(self._abc(theta), (n or self.events) if theta.ndim == 1 else n, seed=seed, string=self.string,
                        emission=self._learnt)  # fmt: skip

    def softening(self, y: Tensor) -> Tensor | None:
        """What the bandwidth adds to hard histograms, about, from smoothed ones y `[m]`; None for hard bins."""
        return self._measurement.softening(y) if self.bandwidth else None

    def measure(self, events: Events) -> Tensor:
        """What every event adds to the outputs, `[n, m]`: the outputs are its mean over events."""
        return self._measurement.of(events)

    def table(self, theta: Tensor, *, seed: int) -> Runs:
        """A table to train on, one event at each row of theta `[n, d]`, made all at once: what `output = "event"` gives."""
        one = replace(self, output="event")
        y = one.measure(self.fragment(theta, seed=seed))
        return Runs.of(self.space, one.outputs, theta.numpy(), y.numpy(), stochastic=True)

    def scored(self, theta: Tensor, *, seed: int) -> tuple[Tensor, Tensor]:
        """What one event at each row of theta `[n, d]` adds to the outputs, `[n, m]`, and its score d ln p / dtheta `[n, d]`,
        which lacks the normaliser of strings that are begun again."""
        events = self.fragment(theta, seed=seed)
        return self.measure(events), self._of_mine(_history(events).score(self._learnt))

    def taught(self, recipe: Recipe, *, draws: int, seed: int) -> "Lund":
        """The same with z by a flow, trained by a recipe on so many draws of the exact density; `learnt` is the emulator."""
        made = replace(self, emission="")
        object.__setattr__(made, "_learnt", FlowEmission(fit(recipe, table(draws, seed=seed), seed=seed)))
        return made

    @property
    def learnt(self) -> Emulator | None:
        """The emulator of logit_z that draws z; None where the exact density does."""
        return self._learnt and self._learnt.emulator

    def gradient(self, theta: Tensor, *, seed: int, n: int | None = None) -> Estimate:
        """dE[y]/dtheta at theta `[d]` by the score of n events, `events` by default: unbiased, for hard counts too."""
        start = time.perf_counter()
        events = self.fragment(theta, seed=seed, n=n)
        value, slope, error = gradient(self.measure(events), self._of_mine(_history(events).score(self._learnt)))
        return Estimate(value, slope, error, calls=1, seconds=time.perf_counter() - start, replicates=len(events))

    def _of_mine(self, score: Tensor) -> Tensor:
        """The columns of a score `[n, 3]` that belong to the parameters of the space."""
        return score[:, [NAMES.index(name) for name in self.space.names]]

    def _abc(self, theta: Tensor) -> Tensor:
        """a, b, sigma `[..., 3]` from theta `[..., d]` in the order of the space."""
        given = {**_FIDUCIAL, **self.fixed, **self.space.unpack(self.space.pack(theta))}
        return torch.stack(
            torch.broadcast_tensors(*(torch.as_tensor(given[k], dtype=torch.float64) for k in NAMES)), -1
        )

    @property
    def _measurement(self) -> Measurement:
        return Measurement(self.observables, self.output, self.edges, bandwidth=self.bandwidth)


def _history(events: Events) -> History:
    """Of events that were fragmented here: they have one."""
    return cast(History, events.history)
