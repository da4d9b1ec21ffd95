"""What is known of amplitudes, detections and the best places of stations without this code.

Two stations of which one must see an earthquake, and two places of equal weight, 160 km from each other: if a station at
a place sees its earthquakes with the probability q, and hardly those of the other place, one station at each place is the
best, q of all. Both at one place is a local optimum that symmetry holds, for the two stations are then alike:
(1 - (1 - q)^2) / 2 of all. With q = 0.895 that is 0.4945 against 0.895.
"""

import math

import torch
from torch import Tensor

from emulate.contracts import Truth
from emulate.minimisation import Minima, minimise
from emulate.simulators.seismometers.detection import at_least, log_amplitude
from emulate.simulators.seismometers.simulator import Seismometers
from emulate.space import Parameter, Space, Uniform

Q = 0.895  # of an earthquake right under a station of the two places
_APART, _STARTS, _Z = 80.0, 16, 1.2535654384704508  # km; starts; Phi(_Z) = Q
_CENTRE = {"x": 12.0, "y": -7.0}
_IASPEI = "IASPEI (2013), standard procedures for magnitude determination, eq. 1"


def truths() -> tuple[Truth, ...]:
    p = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5], dtype=torch.float64)
    return (
        Truth("amplitude of local magnitude 2 at 50 km, nm", lambda: float(10 ** log_amplitude(2.0, _at(50.0))), 128.7192, 5e-5,
              _IASPEI),
        Truth("d log10 A / dR of it, 1/km", _slope, -0.011531337, 5e-10, f"-1.11 / (R ln 10) - 0.00189; {_IASPEI}"),
        Truth("P(at least 4 of 5) with 0.9, 0.8, 0.7, 0.6, 0.5", lambda: float(at_least(4, p)), 0.5226, 1e-12,
              "0.1512 (1 + 1/9 + 1/4 + 3/7 + 2/3 + 1), the 6 outcomes"),
        Truth("distance of the best place of one station from the centre of an isotropic zone, km", _off_centre, 0.0, 1e-3,
              "symmetry"),
        Truth("share detected by the two best of two stations for two zones", lambda: -float(two().value.min()), Q, 1e-3,
              "a station at each zone sees q = 0.895 of it"),
        Truth("share detected by two stations in the trap at one zone", lambda: -float(trapped().value.min()),
              (1 - (1 - Q) ** 2) / 2, 1e-3, "(1 - (1 - q)^2) / 2, both stations at one zone"),
    )  # fmt: skip


def clusters() -> Seismometers:
    """Two stations for two places at x = -80 and 80 km, with a noise that makes q what it is."""
    sides = [(f"{c}{i}", Uniform(-120.0, 120.0)) for i in (1, 2) for c in "xy"]
    zones = tuple({"x": x, "y": 0.0, "sd": 0.0} for x in (-_APART, _APART))
    depth, scatter, snr = 10.0, 0.3, 3.0
    noise = 10 ** (float(log_amplitude(1.0, _at(depth))) - scatter * _Z) / snr
    return Seismometers(space=Space(tuple(Parameter(n, prior, unit="km") for n, prior in sides)), fixed={}, zones=zones,
                        noise=(noise, noise), least=1, events=2, depth=depth, scatter=scatter, snr=snr, forbidden=())  # fmt: skip


def two() -> Minima:
    """Where many starts end."""
    starts = torch.quasirandom.SobolEngine(4, scramble=True, seed=1).draw(_STARTS, dtype=torch.float64)
    return _climbed(clusters(), starts)


def trapped() -> Minima:
    """From two stations that start together, off the middle."""
    simulator = clusters()
    return _climbed(simulator, simulator.space.to_unit(torch.tensor([[50.0, 5.0, 50.0, 5.0]], dtype=torch.float64)))


def single() -> Seismometers:
    """One station for a zone around (12, -7)."""
    space = Space(tuple(Parameter(n, Uniform(-60.0, 60.0), unit="km") for n in ("x1", "y1")))
    return Seismometers(space=space, fixed={}, noise=(10.0,), least=1, zones=({**_CENTRE, "sd": 15.0},), forbidden=())


def _off_centre() -> float:
    simulator = single()
    found = _climbed(simulator, torch.tensor([[0.1, 0.8]], dtype=torch.float64))
    x, y = simulator.space.from_unit(found.u[0]).tolist()
    return math.hypot(x - _CENTRE["x"], y - _CENTRE["y"])


def _climbed(simulator: Seismometers, start: Tensor) -> Minima:
    return minimise(lambda u: -simulator.run(simulator.space.from_unit(u)).mean(-1), start)


def _slope() -> float:
    r = _at(50.0).requires_grad_()
    return float(torch.autograd.grad(log_amplitude(2.0, r), r)[0])


def _at(distance: float) -> Tensor:
    return torch.tensor(distance, dtype=torch.float64)
