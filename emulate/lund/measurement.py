"""`Measurement`: which observables of events are an answer, as histograms, as means, or as those of one event."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from emulate.axes import Axis
from emulate.errors import InputError
from emulate.kernels import Kernel
from emulate.lund.events import Events
from emulate.lund.observables import charged_multiplicity, counts, scaled_momentum, thrust, transverse
from emulate.runs import Field, Outputs

Observable = Literal["multiplicity", "thrust", "x_p", "pt"]
Output = Literal["histograms", "means", "event"]
ALL: tuple[Observable, ...] = ("multiplicity", "thrust", "x_p", "pt")

# name: coordinate, unit
_COORDINATES = {"multiplicity": ("n", ""), "thrust": ("t", ""), "x_p": ("xi", ""), "pt": ("pt", "GeV")}
STRING: Mapping[str, tuple[float, ...]] = {
    "multiplicity": tuple(range(-1, 36, 2)),
    "thrust": (0.0, 0.002, 0.004, 0.006, 0.008, 0.01, 0.0125, 0.015, 0.02, 0.025, 0.03, 0.04, 0.06),
    "x_p": tuple(i / 2 for i in range(13)),
    "pt": (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8, 1.0, 1.5),
}
"""Edges of the bins that suit a string of some 90 GeV."""


@dataclass(frozen=True)
class Measurement:
    """What of events is an answer: the mean over events of what each of them adds.

    "multiplicity" is that of charged particles; "thrust" 1 - T of all particles; "x_p" is ln(1 / x_p) of charged ones,
    x_p = 2 |p| / W; "pt" of charged ones, GeV, to the string or to the thrust axis. Of the last two the mean over all
    particles of an event is taken where the output is not histograms.

    bandwidth smooths the histograms of all but the multiplicity, which has no density: the kernel's standard deviation in
    widths of the narrowest bin of an observable, reflected at 0, where their ranges end; 0 are hard bins. Compare soft with
    soft: against hard counts a share is off by h^2 / 2 of the difference of the density's slopes at its edges.

    >>> Measurement(("thrust", "pt"), output="means").outputs.labels
    ('thrust', 'pt')
    """

    observables: tuple[Observable, ...] = ALL
    output: Output = "histograms"
    edges: Mapping[str, tuple[float, ...]] = field(default_factory=dict)  # in place of the usual ones
    usual: Mapping[str, tuple[float, ...]] = field(default_factory=lambda: STRING)
    axis: Literal["string", "thrust"] = "string"  # that pt is measured to
    bandwidth: float = 0.0

    def __post_init__(self) -> None:
        if not self.observables or len(set(self.observables)) < len(self.observables):
            raise InputError(f"observables must be one or more, each once. Got {list(self.observables)}.")
        for name, edges in self.edges.items():
            if name not in self.observables or len(edges) < 2 or any(x >= y for x, y in itertools.pairwise(edges)):
                raise InputError(f"edges must be two or more rising numbers for one of {', '.join(self.observables)}. Got "
                                 f"{name} = {list(edges)}.")  # fmt: skip
        if not 0 <= self.bandwidth <= 2:
            raise InputError(
                f"bandwidth must be from 0, hard bins, to 2 widths of the narrowest bin. Got {self.bandwidth:g}."
            )
        if self.bandwidth and self.output != "histograms":
            raise InputError(f"bandwidth must go with histograms. Got output = {self.output}; leave it out.")

    @property
    def outputs(self) -> Outputs:
        """The fields of an answer, with the middles of the bins as coordinates."""
        found = []
        for name in self.observables:
            coordinate, unit = _COORDINATES[name]
            edges = self.edges_of(name).tolist()
            if self.output == "histograms":
                middles = tuple((x + y) / 2 for x, y in itertools.pairwise(edges))
                found.append(Field(name, coordinate=coordinate, at=middles, at_unit=unit))
            else:
                found.append(Field(name, unit))
        return Outputs(tuple(found))

    def of(self, events: Events) -> Tensor:
        """What every event adds to the outputs, `[n, m]`: the outputs are its mean over events."""
        columns = []
        axis = cache(lambda: thrust(events))
        for name in self.observables:
            if name == "multiplicity":
                x = charged_multiplicity(events)
            elif name == "thrust":
                x = 1 - axis().value
            elif name == "x_p":
                x = -torch.log(scaled_momentum(events))
            else:
                x = transverse(events, axis().axis if self.axis == "thrust" else None)
            of_particles = name in ("x_p", "pt")
            if self.output != "histograms":
                x = events.sum(x) / events.multiplicity if of_particles else x
                columns.append(x[:, None])
            elif of_particles:
                columns.append(events.sum(self._shares(name, x) * events.charged[:, None]))
            else:
                columns.append(self._shares(name, x))
        return torch.cat(columns, 1)

    def softening(self, y: Tensor) -> Tensor:
        """What smoothing adds to hard histograms `[m]`, about, from smoothed ones y `[m]`: h^2 / 2 (f'(r) - f'(l)) in each bin.

        The slopes of the density f are differences of the bins' own contents; at 0, where it is reflected, there is none.
        """
        found, at = [], 0
        for name in self.observables:
            edges = self.edges_of(name)
            width, counts = edges.diff(), y[at : (at := at + len(edges) - 1)]
            h = self.bandwidth * float(width.min())
            if name == "multiplicity" or len(counts) < 3:
                found.append(torch.zeros_like(counts))
                continue
            middle, density = (edges[1:] + edges[:-1]) / 2, counts / width
            slope = density.diff() / middle.diff()
            first, last = (
                2 * slope[:1] - slope[1:2],
                2 * slope[-1:] - slope[-2:-1],
            )  # beyond: as curved as the neighbour
            first = torch.zeros_like(first) if edges[0] == 0 else first
            found.append(0.5 * h**2 * torch.cat((first, slope, last)).diff())
        return torch.cat(found)

    def _shares(self, name: str, x: Tensor) -> Tensor:
        """The share `[n, bins]` of each value `[n]` in each bin."""
        edges = self.edges_of(name)
        if not self.bandwidth or name == "multiplicity":
            return counts(x, edges)[:, 1:-1]
        h = self.bandwidth * float(edges.diff().min())
        axis = Axis(tuple(edges.tolist()), Kernel.of("compact"), h, (0.0, None))
        x = axis.near(x)
        start = axis.start(x)
        found = axis.shares(x, start, 0, axis.kernel)
        rows = x.new_zeros(len(x), len(edges) + 1 + axis.touched)  # what starts at the last bins reaches beyond them
        return rows.scatter_(1, start[:, None] + torch.arange(found.shape[1]), found)[:, 1 : len(edges)]

    def edges_of(self, name: str) -> Tensor:
        """The edges of the bins of an observable, float64."""
        return torch.tensor(self.edges.get(name, self.usual[name]), dtype=torch.float64)
