"""`Lund`: the parameters of string fragmentation to observables of hadronic events."""

import time
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from emulate.contracts import Estimate, Simulator
from emulate.errors import InputError, nearest
from emulate.lund import Events, Flavours, String, generate
from emulate.lund.observables import charged_multiplicity, counts, gradient, scaled_momentum, thrust, transverse
from emulate.lund.string import NAMES
from emulate.runs import Field, Outputs, Runs
from emulate.space import Parameter, Space, Uniform

__all__ = ["Lund"]

_SPACE = Space((Parameter("a", Uniform(0.3, 1.2)), Parameter("b", Uniform(0.6, 1.4), unit="GeV^-2"),
                Parameter("sigma", Uniform(0.25, 0.45), unit="GeV", label=r"\sigma")))  # fmt: skip
_FIDUCIAL = {"a": 0.68, "b": 0.98, "sigma": 0.335}
_KINDS = {"pions": Flavours.pions(), "mesons": Flavours(), "baryons": Flavours(diquark=0.081)}
# name: coordinate, unit, default edges
_OBSERVABLES: dict[str, tuple[str, str, tuple[float, ...]]] = {
    "multiplicity": ("n", "", tuple(range(-1, 36, 2))),
    "thrust": ("t", "", (0.0, 0.002, 0.004, 0.006, 0.008, 0.01, 0.0125, 0.015, 0.02, 0.025, 0.03, 0.04, 0.06)),
    "x_p": ("xi", "", tuple(i / 2 for i in range(13))),
    "pt": ("pt", "GeV", (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8, 1.0, 1.5)),
}


@dataclass(frozen=True, kw_only=True)
class Lund(Simulator):
    """Lund string fragmentation: a quark and its antiquark become hadrons, with the exact score of every event.

    Each hadron takes a share z of its end's light-cone momentum, f(z) proportional to (1 - z)^a / z exp(-b m_T^2 / z), and
    each break a Gaussian transverse momentum of width sigma. What comes out are primary hadrons: nothing decays. The
    string itself is `emulate.lund`; `fragment`, `table` and `gradient` give more than `run`.

    Settings:
        space: priors of any of a, b, sigma, in any order; fixed: values of the others, by default 0.68, 0.98, 0.335.
        energy: mass of the string, GeV; ends: flavour of the quark and antiquark, "u", "d" or "s".
        flavours: "pions" alone, "mesons", or "baryons" too; suppression: other numbers of `emulate.lund.Flavours`.
        events: how many events a run averages over.
        output: what a run gives. "histograms": hadrons or events per event and bin; "means": of the observables over all
            events; "event": of one event alone, a draw from their joint distribution.
        observables: "multiplicity" of charged hadrons; "thrust" as 1 - T; "x_p" of charged hadrons as ln(1 / x_p), x_p =
            2 |p| / energy; "pt" of charged hadrons to the string, GeV. Of the last two the mean over all hadrons of an
            event is taken where the output is not histograms.
        edges: of the bins of an observable, in place of the usual ones; what lies outside is in no bin.

    >>> y = Lund(output="means", events=200).run(torch.tensor([0.68, 0.98, 0.335], dtype=torch.float64), seed=1)
    >>> y.round(decimals=1)
    tensor([7.7, 0.0, 2.7, 0.4], dtype=torch.float64)
    """

    space: Space = _SPACE
    fixed: dict[str, float] = field(default_factory=dict)
    energy: Annotated[float, Gt(0)] = 91.2  # GeV
    ends: Literal["d", "u", "s"] = "u"
    flavours: Literal["pions", "mesons", "baryons"] = "mesons"
    suppression: dict[str, float] = field(default_factory=dict)
    events: Annotated[int, Ge(1)] = 1000
    output: Literal["histograms", "means", "event"] = "histograms"
    observables: tuple[Literal["multiplicity", "thrust", "x_p", "pt"], ...] = ("multiplicity", "thrust", "x_p", "pt")
    edges: dict[str, tuple[float, ...]] = field(default_factory=dict)

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
        for name in self.suppression:
            if name not in vars(Flavours()):
                raise InputError(f"lund: suppression must name {', '.join(vars(Flavours()))}. Got {name!r}."
                                 f"{nearest(name, vars(Flavours()))}")  # fmt: skip
        if not self.observables or len(set(self.observables)) < len(self.observables):
            raise InputError(f"lund: observables must be one or more, each once. Got {list(self.observables)}.")
        for name, edges in self.edges.items():
            if name not in self.observables or len(edges) < 2 or any(x >= y for x, y in zip(edges, edges[1:])):
                raise InputError(f"lund: edges must be two or more rising numbers for one of {', '.join(self.observables)}. Got "
                                 f"{name} = {list(edges)}.")  # fmt: skip
        _ = self.string  # checks energy and flavours

    @property
    def string(self) -> String:
        """What is fragmented."""
        kind = Flavours(**{**vars(_KINDS[self.flavours]), **self.suppression})
        return String(energy=self.energy, ends=self.ends, flavours=kind)

    @property
    def outputs(self) -> Outputs:
        found = []
        for name in self.observables:
            coordinate, unit, _ = _OBSERVABLES[name]
            edges = self._edges(name).tolist()
            if self.output == "histograms":
                middles = tuple((x + y) / 2 for x, y in zip(edges, edges[1:]))
                found.append(Field(name, coordinate=coordinate, at=middles, at_unit=unit))
            else:
                found.append(Field(name, unit))
        return Outputs(tuple(found))

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
        return generate(self._abc(theta), (n or self.events) if theta.ndim == 1 else n, seed=seed, string=self.string)

    def measure(self, events: Events) -> Tensor:
        """What every event adds to the outputs, `[n, m]`: the outputs are its mean over events."""
        columns = []
        for name in self.observables:
            x, of_hadrons = self._observed(name, events)
            if self.output != "histograms":
                x = events.sum(x) / events.multiplicity if of_hadrons else x
                columns.append(x[:, None])
            elif of_hadrons:
                rows = counts(x, self._edges(name)) * events.charged[:, None]
                columns.append(events.sum(rows)[:, 1:-1])
            else:
                columns.append(counts(x, self._edges(name))[:, 1:-1])
        return torch.cat(columns, 1)

    def table(self, theta: Tensor, *, seed: int) -> Runs:
        """A table to train on, one event at each row of theta `[n, d]`, made all at once: what `output = "event"` gives."""
        one = replace(self, output="event")
        y = one.measure(self.fragment(theta, seed=seed))
        return Runs.of(self.space, one.outputs, theta.numpy(), y.numpy(), stochastic=True)

    def gradient(self, theta: Tensor, *, seed: int, n: int | None = None) -> Estimate:
        """dE[y]/dtheta at theta `[d]` by the score of n events, `events` by default: unbiased, for hard counts too."""
        start = time.perf_counter()
        events = self.fragment(theta, seed=seed, n=n)
        of = [NAMES.index(name) for name in self.space.names]
        value, slope, error = gradient(self.measure(events), events.history.score()[:, of])
        return Estimate(value, slope, error, calls=1, seconds=time.perf_counter() - start, replicates=len(events))

    def _abc(self, theta: Tensor) -> Tensor:
        """a, b, sigma `[..., 3]` from theta `[..., d]` in the order of the space."""
        given = {**_FIDUCIAL, **self.fixed, **self.space.unpack(self.space.pack(theta))}
        return torch.stack(torch.broadcast_tensors(*(torch.as_tensor(given[k], dtype=torch.float64) for k in NAMES)), -1)

    def _edges(self, name: str) -> Tensor:
        return torch.tensor(self.edges.get(name, _OBSERVABLES[name][2]), dtype=torch.float64)

    def _observed(self, name: str, events: Events) -> tuple[Tensor, bool]:
        """An observable of each event `[n]` or of each hadron `[N]`, and whether it is of hadrons."""
        if name == "multiplicity":
            return charged_multiplicity(events), False
        if name == "thrust":
            return 1 - thrust(events).value, False
        return (-torch.log(scaled_momentum(events)), True) if name == "x_p" else (transverse(events), True)
