"""The entry `lund`: outputs, tables and gradients are those of its events; wrong settings are told."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from emulate import registry
from emulate.errors import InputError
from emulate.lund import Flavours, String, generate
from emulate.lund.measurement import Measurement
from emulate.lund.observables import charged_multiplicity, scaled_momentum, thrust, transverse
from emulate.simulators.lund import Lund
from emulate.space import Parameter, Space, Uniform

MONASH = torch.tensor([0.68, 0.98, 0.335], dtype=torch.float64)


def test_histograms_are_those_of_numpy():
    simulator = Lund(events=400, flavours="pions")
    y = simulator.run(MONASH, seed=3)
    events = generate(MONASH, 400, seed=3, string=String(flavours=Flavours.pions()))
    charged = events.charged.numpy()
    values = {"multiplicity": charged_multiplicity(events).numpy(), "thrust": 1 - thrust(events).value.numpy(),
              "x_p": -np.log(scaled_momentum(events).numpy()[charged]), "pt": transverse(events).numpy()[charged]}  # fmt: skip
    for name, where in simulator.outputs.slices.items():
        at = np.array(simulator.outputs.field(name).at)
        edges = Measurement().edges_of(name).numpy()
        np.testing.assert_allclose(at, (edges[1:] + edges[:-1]) / 2)
        np.testing.assert_allclose(y[where], np.histogram(values[name], edges)[0] / 400, rtol=1e-12, err_msg=name)
    assert y[simulator.outputs.slices["multiplicity"]].sum() == pytest.approx(1)
    assert simulator.outputs.field("pt").at_unit == "GeV"


def test_means_are_averages_of_single_events():
    one = Lund(output="event", flavours="pions")
    many = replace(one, output="means", events=50)
    table = one.table(MONASH.expand(50, 3), seed=9)
    assert table.outputs == one.outputs == many.outputs
    torch.testing.assert_close(many.run(MONASH, seed=9), torch.from_numpy(table.y.mean(0)), rtol=1e-12, atol=0)
    assert torch.equal(one.run(MONASH, seed=9), torch.from_numpy(table.y[0]))
    assert bool(table.ok.all())
    assert table.stochastic


def test_a_table_holds_one_event_at_each_theta():
    simulator = Lund(observables=("multiplicity", "pt"), flavours="pions")
    u = torch.rand((3000, 3), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    table = simulator.table(simulator.space.from_unit(u), seed=2)
    assert table.y.shape == (3000, 2)
    slope = np.polyfit(table.theta[:, 2], table.y[:, 1], 1)[0]
    assert slope == pytest.approx(1.2, abs=0.2)  # <p_T> of a hadron between two breaks: sigma sqrt(pi / 2)


def test_gradients_are_those_of_differences_for_hard_bins_too():
    simulator = Lund(
        flavours="pions", events=8000, edges={"pt": (0.0, 0.3, 0.6, 2.0)}, observables=("multiplicity", "pt")
    )
    found = simulator.gradient(MONASH, seed=1)
    assert found.gradient.shape == (simulator.outputs.size, 3)
    assert found.replicates == 8000
    step = torch.tensor([0.06, 0.08, 0.025], dtype=torch.float64)
    for k in range(3):
        h = step * torch.eye(3, dtype=torch.float64)[k]
        high, low = (simulator.measure(simulator.fragment(MONASH + s * h, seed=2)) for s in (1, -1))
        each = (high - low) / (2 * step[k])
        error = torch.sqrt(each.var(0) / len(each) + found.standard_error[:, k] ** 2)
        filled = error > 0
        pull = (found.gradient[:, k] - each.mean(0))[filled] / error[filled]
        assert float(pull.abs().max()) < 4.0


def test_parameters_may_be_fixed_and_stand_in_any_order():
    space = Space((Parameter("sigma", Uniform(0.2, 0.5)), Parameter("a", Uniform(0.2, 1.0))))
    few = Lund(space=space, fixed={"b": 1.1}, events=100)
    whole = Lund(events=100)
    theta = torch.tensor([0.3, 0.6], dtype=torch.float64)
    assert torch.equal(few.run(theta, seed=1), whole.run(torch.tensor([0.6, 1.1, 0.3], dtype=torch.float64), seed=1))
    assert few.gradient(theta, seed=1).gradient.shape == (few.outputs.size, 2)
    assert few.table(theta.expand(7, 2), seed=1).theta.shape == (7, 2)


def test_flavours_are_settings():
    assert Lund(flavours="baryons").string.flavours == Flavours(diquark=0.081)
    assert Lund(suppression={"strangeness": 0.3}).string.flavours == Flavours(strangeness=0.3)
    settings = {"use": "lund", "ends": "s", "energy": 30, "output": "means", "observables": ["multiplicity"]}
    simulator = registry.build("simulators", settings)
    assert simulator.run(MONASH, seed=0).shape == (1,)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"energy": 1.5}, "lund: energy must be at least 2.94 GeV"),
        ({"energy": -3}, "simulators.energy: must be greater than 0. Got -3."),
        ({"ends": "charm"}, "simulators.ends: must be 'd', 'u' or 's'. Got 'charm'."),
        ({"fixed": {"c": 1.0}}, "lund: the parameters must be among a, b, sigma. Got 'c'"),
        ({"fixed": {"b": 1.0}}, "lund: a parameter must be varied or fixed, not both. Got b in the space"),
        ({"suppression": {"strange": 1.0}}, 'Did you mean "strangeness"?'),
        ({"suppression": {"eta": -1.0}}, "flavours: eta must be a finite number of at least 0. Got -1.0."),
        ({"observables": ["thrust", "thrust"]}, "observables must be one or more, each once."),
        ({"observables": ["spin"]}, "Got 'spin'."),
        ({"edges": {"pt": [0.3, 0.2]}}, "edges must be two or more rising numbers for one of"),
        ({"events": 0}, "simulators.events: must be at least 1. Got 0."),
    ],
)
def test_wrong_settings_are_told(settings, said):
    with pytest.raises(InputError, match=re.escape(said)):
        registry.build("simulators", {"use": "lund", **settings})


def test_a_theta_that_no_string_takes_is_told():
    for theta, said in (
        ([-1.0, 1.0, 0.3], "a must be"),
        ([0.5, -1.0, 0.3], "b must be"),
        ([0.5, 1.0, 0.0], "sigma must be"),
    ):
        with pytest.raises(InputError, match=f"lund: {said}"):
            Lund().run(torch.tensor(theta, dtype=torch.float64), seed=0)
