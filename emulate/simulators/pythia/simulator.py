"""`Pythia`: any settings of Pythia 8 to observables of its events."""

from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt
from torch import Tensor

from emulate.contracts import Simulator
from emulate.errors import InputError, nearest
from emulate.lund import Events
from emulate.lund.measurement import ALL, STRING, Measurement, Observable, Output
from emulate.runs import Outputs
from emulate.simulators.pythia import conditions, program
from emulate.simulators.pythia.events import collected, generated
from emulate.simulators.pythia.recording import Emissions, Notes, emissions, recorder
from emulate.space import Parameter, Space, Uniform

__all__ = ["Pythia"]

_SPACE = Space((Parameter("a", Uniform(0.3, 1.2)), Parameter("b", Uniform(0.6, 1.4), unit="GeV^-2"),
                Parameter("sigma", Uniform(0.25, 0.45), unit="GeV", label=r"\sigma")))  # fmt: skip
_SETS = {"a": "StringZ:aLund", "b": "StringZ:bLund", "sigma": "StringPT:sigma"}
_Z_EDGES = {"multiplicity": tuple(range(-1, 62, 2)), "x_p": STRING["x_p"],
            "thrust": (0.0, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.12, 0.14, 0.17, 0.2, 0.25, 0.3, 0.4),
            "pt": (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0, 1.2, 1.5, 2.0, 3.0, 5.0)}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Pythia(Simulator):
    """Pythia 8, the event generator: strings that become hadrons, or e+ e- -> Z -> hadrons, with any of its settings.

    Needs the extra `pythia` (`pip install emulate[pythia]`), which is under the GPL and imported when a run begins. Every
    value is read back, for Pythia ignores what it does not understand; its version enters the key of every run. Same theta
    and seed, same events: seed s is Pythia's own `Random:seed = s`, up to 900 million.

    Settings:
        space: priors of what is varied, by any names.
        sets: the setting of Pythia that a parameter sets, by the parameter's name; a, b and sigma set StringZ:aLund,
            StringZ:bLund and StringPT:sigma.
        lines: further settings, `Name = value`; they are set after those of the process.
        process: "string", a quark along +z and its antiquark with a string between them, or "z", e+ e- -> Z -> hadrons with
            photon, shower and decays.
        energy: mass of the string, or of electron and positron together, GeV.
        ends: flavour of the quark and antiquark of a string, massless where it is light.
        flavours: of a string: "all" hadrons that Pythia makes, which decay; "pions", "mesons" or "baryons" of the plain
            Lund string, as the simulator `lund` has them, without decays and all that Pythia adds to the string.
        events: how many events a run averages over.
        output: what a run gives, "histograms", "means" or one "event", as `lund` has them.
        observables: as those of `lund`, of all particles that do not decay; "pt" in Z decays is to the thrust axis.
        edges: of the bins of an observable, in place of the usual ones; what lies outside is in no bin.
        bandwidth: smooths histograms, as that of `lund`; 0 are hard bins.

    >>> Pythia(process="z", output="means", sets={"strange": "StringFlav:probStoUD"}).outputs.labels
    ('multiplicity', 'thrust', 'x_p', 'pt')
    """

    space: Space = _SPACE
    sets: dict[str, str] = field(default_factory=dict)
    lines: tuple[str, ...] = ()
    process: Literal["string", "z"] = "string"
    energy: Annotated[float, Gt(0)] = 91.2  # GeV, of string or collision
    ends: Literal["d", "u", "s", "c", "b"] = "u"
    flavours: Literal["all", "pions", "mesons", "baryons"] = "all"
    events: Annotated[int, Ge(1)] = 1000
    output: Output = "histograms"
    observables: tuple[Observable, ...] = ALL
    edges: dict[str, tuple[float, ...]] = field(default_factory=dict)
    bandwidth: Annotated[float, Ge(0)] = 0.0

    def __post_init__(self) -> None:
        for name in ("lines", "observables"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "edges", {k: tuple(v) for k, v in self.edges.items()})
        for name in self.space.names:
            if name not in self._sets:
                raise InputError(f"pythia: sets must name a setting of Pythia for every parameter. Got none for {name!r}; write "
                                 f"{{{name}: StringZ:aLund}}, or the like.{nearest(name, self._sets)}")  # fmt: skip
        fixed = {program.parsed(line)[0].lower() for line in self.lines}
        if twice := [n for n in self.space.names if self._sets[n].lower() in fixed]:
            raise InputError(f"pythia: a setting must be varied or fixed, not both. Got {self._sets[twice[0]]} for {twice[0]} and "
                             "in lines; leave out one.")  # fmt: skip
        if self.process == "z" and (self.flavours != "all" or self.ends != "u"):
            raise InputError("pythia: flavours and ends must be left out for the process z. Got "
                             f"flavours = {self.flavours}, ends = {self.ends}; use lines, such as `23:onIfAny = 5`.")  # fmt: skip
        _ = self._lines, self._measurement  # check energy, observables and edges

    @property
    def version(self) -> str:
        """The version of the code and that of Pythia; a study may be read where there is none."""
        return f"1-{program.version()}"

    @property
    def outputs(self) -> Outputs:
        return self._measurement.outputs

    @property
    def stochastic(self) -> bool:
        return True

    def run(self, theta: Tensor, *, seed: int) -> Tensor:
        """The outputs [m] at theta [d]: averages over `events` events, or one event.

        Raises:
            InputError: Pythia is not installed, or does not take a setting.
            RunFailed: Pythia gives up too many events.
        """
        return self.measure(self.generate(theta, seed=seed, n=1 if self.output == "event" else None)).mean(0)

    def generate(self, theta: Tensor, *, seed: int, n: int | None = None) -> Events:
        """Whole events at theta `[d]`: n of them, by default `events`."""
        pythia = program.started(self._lines, self._values(theta), seed=seed)
        return self._collected(pythia, n)

    def emissions(self, theta: Tensor, *, seed: int, n: int | None = None) -> tuple[Emissions, Events]:
        """Every emission of n straight strings, by default `events`, and the events with their history.

        `events.history.score()` is the exact score of Pythia's own events, and its weights are exact, where the string is
        the plain one; with `flavours = "all"` the events have no history. A flow is trained on
        `emulate.emissions.tabulated(every.z, given.a, given.c)` with `given = every.condition()`. Python is asked at every
        emission: this is slower by three than events alone.

        Raises:
            InputError: the process is not a string with light ends.
        """
        if self.process != "string" or conditions.QUARKS[self.ends] > 3:
            raise InputError("pythia: emissions must be those of a string between d, u or s. Got "
                             f"process = {self.process}, ends = {self.ends}.")  # fmt: skip
        notes = Notes()
        hook = recorder(program.found(), notes)
        pythia = program.started(self._lines, self._values(theta), seed=seed, hook=hook)
        events = self._collected(pythia, n, notes)
        given = [pythia.settings.parm(name) for name in _SETS.values()]
        every, history = emissions(notes, given, self.energy)
        return every, events if self.flavours == "all" else replace(events, history=history)

    def softening(self, y: Tensor) -> Tensor | None:
        """What the bandwidth adds to hard histograms, about, from smoothed ones y `[m]`; None for hard bins."""
        return self._measurement.softening(y) if self.bandwidth else None

    def measure(self, events: Events) -> Tensor:
        """What every event adds to the outputs, `[n, m]`: the outputs are its mean over events."""
        return self._measurement.of(events)

    @property
    def _sets(self) -> dict[str, str]:
        return {**_SETS, **self.sets}

    @property
    def _lines(self) -> tuple[str, ...]:
        return (*conditions.lines(self.process, self.energy, self.ends, self.flavours), *self.lines)

    @property
    def _measurement(self) -> Measurement:
        z = {"usual": _Z_EDGES, "axis": "thrust"} if self.process == "z" else {}
        return Measurement(self.observables, self.output, self.edges, bandwidth=self.bandwidth, **z)

    def _values(self, theta: Tensor) -> dict[str, float]:
        return {self._sets[k]: v for k, v in zip(self.space.names, theta.detach().tolist(), strict=True)}

    def _collected(self, pythia: Any, n: int | None, notes: Notes | None = None) -> Events:
        string = (conditions.QUARKS[self.ends], self.energy) if self.process == "string" else None
        particle = program.found().Particle
        return collected(generated(pythia, particle, n or self.events, string, notes), particle)
