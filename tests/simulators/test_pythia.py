"""Pythia as a simulator, judged by plain scripts of Pythia itself, by quadrature, and by what it would not say."""

import importlib.metadata
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from emulate.emissions import tabulated
from emulate.errors import InputError, RunFailed
from emulate.lund.observables import thrust
from emulate.simulators.pythia import Pythia
from emulate.simulators.pythia.events import collected, generated
from emulate.simulators.pythia.recording import Notes
from emulate.space import Parameter, Space, Uniform

THETA = torch.tensor([0.68, 0.98, 0.335], dtype=torch.float64)


@pytest.fixture(scope="module")
def package():
    return pytest.importorskip("pythia8mc", reason="pythia needs pythia8mc: pip install emulate[pythia]")


def space(**ranges):
    return Space(tuple(Parameter(name, Uniform(*ends)) for name, ends in ranges.items()))


# --- what it is told, with or without the package


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"space": space(c=(0, 1))}, r"sets must name a setting of Pythia for every parameter\. Got none for 'c'"),
        ({"lines": ["StringZ:aLund"]}, r"a line must be `Name = value`.*Got 'StringZ:aLund'"),
        ({"lines": ["! a comment"]}, r"a line must be `Name = value`"),
        ({"lines": ["Random:seed = 3"]}, r"lines must leave Random:seed alone\. Got 'Random:seed = 3'; seeds"),
        ({"lines": ["stringz:alund = 1"]}, r"varied or fixed, not both\. Got StringZ:aLund for a and in lines"),
        (
            {"process": "z", "flavours": "pions"},
            r"flavours and ends must be left out for the process z\. Got flavours = pions",
        ),
        ({"energy": 1.0}, r"energy must be at least"),
        ({"energy": 9.0, "ends": "b"}, r"energy must be at least 13\.68 GeV for a string between b and its antiquark"),
        ({"observables": ["thrust", "thrust"]}, r"observables must be one or more, each once"),
        ({"edges": {"pt": [1.0, 0.0]}}, r"edges must be two or more rising numbers"),
    ],
)
def test_settings_that_make_no_sense_are_refused_before_a_run(settings, said):
    with pytest.raises(InputError, match=said):
        Pythia(**settings)


def test_without_the_package_the_sentence_says_what_to_install(monkeypatch):
    def none(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setitem(sys.modules, "pythia8mc", None)
    monkeypatch.setattr(importlib.metadata, "version", none)
    said = r"must have the package pythia8mc\. It is not installed; `pip install emulate\[pythia\]`"
    assert (Pythia().outputs.size, Pythia().version) == (57, "1-absent")  # a study is read, and a plan made, without it
    with pytest.raises(InputError, match=said):
        Pythia().run(THETA, seed=0)


def test_the_version_of_pythia_is_in_the_key(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: f"9.1 of {name}")
    assert Pythia().version == "1-9.1 of pythia8mc"


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (
            ["StringZ:rFactC = 3"],
            r"StringZ:rFactC must be at least 0 and at most 2\. Got `StringZ:rFactC = 3`, which Pythia "
            "would ignore",
        ),
        (["Tune:ee = 99"], r"Tune:ee must be at least -1 and at most \d+\."),
        (
            ["StringZ:rFactC = 0.5x"],
            r"`StringZ:rFactC = 0\.5x` must be a value that Pythia understands\. Pythia has 0\.5",
        ),
        (
            ["StringZ:rFactK = 1"],
            r"StringZ:rFactK must be a setting of Pythia 8\.\d+\.\d+, with a value that it allows",
        ),
        (
            ["HadronLevel:Decay = maybe"],
            r"`HadronLevel:Decay = maybe` must be a value that Pythia understands\. Pythia has False",
        ),
        (["111:m0 = -4"], r"`111:m0 = -4` must be a value that Pythia understands"),
        (["99999:m0 = 4"], r"99999:m0 must be a setting of Pythia"),
        (
            ["StringFlav:probStoUD = 0.25", "Tune:ee = 1"],
            r"probStoUD must keep its value 0\.25, but another setting changes it",
        ),
        (["Tune:ee = 1", "StringFlav:probStoUD = 0.3"], ""),
        (["StringZ:rFactC force = 3"], ""),
        (["111:mayDecay = off", "HadronLevel:Decay = no"], ""),
    ],
    ids=lambda x: ", ".join(x) if isinstance(x, list) else "",
)
def test_what_pythia_would_ignore_or_change_is_refused_in_words(package, lines, said):
    simulator = Pythia(lines=lines, events=1)
    if not said:
        assert torch.isfinite(simulator.run(THETA, seed=1)).all()
        return
    with pytest.raises(InputError, match=said):
        simulator.run(THETA, seed=1)


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        (
            "StringZ:aLund",
            2.5,
            r"StringZ:aLund must be at least 0 and at most 2\. Got `StringZ:aLund = 2\.5`.*narrow the prior",
        ),
        (
            "Tune:ee",
            3.0,
            r"a parameter must set a number of Pythia that may take any value.*Tune:ee is none; fix it by a line",
        ),
        ("StringZ:aLundd", 0.5, r"StringZ:aLundd must be a setting of Pythia"),
    ],
)
def test_a_parameter_out_of_range_is_refused_not_ignored(package, setting, value, said):
    simulator = Pythia(space=space(x=(0, 3)), sets={"x": setting})
    with pytest.raises(InputError, match=said):
        simulator.run(torch.tensor([value], dtype=torch.float64), seed=1)


# --- what comes out


def by_hand(package, lines, seed, n):
    """A script as Pythia's users write it: codes and momenta of the hadrons of n pion strings."""
    pythia = package.Pythia("", False)
    for line in (*lines, "Print:quiet = on", "Random:setSeed = on", f"Random:seed = {seed}"):
        assert pythia.readString(line)
    assert pythia.init()
    found = []
    for _ in range(n):
        pythia.event.reset()
        pythia.event.append(2, 23, 101, 0, 0.0, 0.0, 45.6, 45.6, 0.0)
        pythia.event.append(-2, 23, 0, 101, 0.0, 0.0, -45.6, 45.6, 0.0)
        assert pythia.next()
        found += [(p.id(), p.px(), p.py(), p.pz(), p.e(), p.m()) for p in pythia.event if p.isFinal()]
    return found


def test_events_are_those_of_a_plain_script_with_the_same_seed(package):
    lines = ["ProcessLevel:all = off", "StringZ:aLund = 0.68", "StringZ:bLund = 0.98", "StringPT:sigma = 0.335"]
    events = Pythia(events=30).generate(THETA, seed=900_000_007)
    columns = (events.code.double(), events.px, events.py, events.pz, events.e, events.mass)
    assert torch.stack(columns, 1).tolist() == [list(map(float, p)) for p in by_hand(package, lines, 7, 30)]


@pytest.mark.parametrize("flavours", ["all", "pions", "mesons", "baryons"])
def test_energy_momentum_and_charge_are_those_of_the_string(package, flavours):
    events = Pythia(events=200, flavours=flavours).generate(THETA, seed=4)
    whole = torch.tensor([91.2, 0.0, 0.0, 0.0], dtype=torch.float64).expand(200, 4)
    torch.testing.assert_close(events.sum(events.momentum), whole, rtol=0, atol=1e-7)
    assert not events.sum(events.charge).any()
    on_shell = events.e.square() - events.momentum[:, 1:].square().sum(1) - events.mass.square()
    assert float(on_shell.abs().max()) < 1e-6  # of energies squared up to 2000
    if flavours == "pions":
        assert events.code.unique().tolist() == [-211, 111, 211]


def test_charges_are_those_of_pythias_particle_table(package):
    from emulate.lund.flavours import charge

    table = package.Pythia("", False).particleData
    codes, code = [1], 1
    while code := table.nextId(code):
        codes.append(code)
    codes = [c for c in codes if table.isHadron(c) or 10 < c < 17]
    assert len(codes) > 200
    assert charge(torch.tensor(codes)).tolist() == [table.charge(c) for c in codes]
    assert charge(-torch.tensor(codes)).tolist() == [-table.charge(c) for c in codes]


def test_any_setting_may_be_a_parameter(package):
    """More strange quarks, more kaons: in proportion where they are few."""
    simulator = Pythia(space=space(s=(0.0, 1.0)), sets={"s": "StringFlav:probStoUD"}, flavours="mesons", events=2000)
    few, more = (simulator.generate(torch.tensor([s], dtype=torch.float64), seed=1) for s in (0.05, 0.1))
    kaons = [int(((e.code.abs() == 321) | (e.code.abs() == 311)).sum()) for e in (few, more)]
    assert kaons[1] / kaons[0] == pytest.approx(2 * 2.05 / 2.1, abs=4 * 2 * (2 / kaons[0]) ** 0.5)


def test_a_heavy_string_ends_in_heavy_hadrons(package):
    events = Pythia(ends="b", lines=["HadronLevel:Decay = off"], events=50).generate(THETA, seed=1)
    heavy = (events.code.abs() // 100 % 10 == 5) | (events.code.abs() // 1000 % 10 == 5)
    assert (events.sum(heavy.double()) == 2).all()


def test_z_decays_have_the_multiplicity_and_thrust_of_pythia(package):
    """20.66 charged particles and 1 - T of 0.0685 in 20,000 events of a plain script; thrust by Pythia's own class."""
    simulator = Pythia(process="z", events=400, output="means", observables=("multiplicity", "thrust"))
    events = simulator.generate(THETA, seed=2)
    whole = torch.tensor([91.2, 0.0, 0.0, 0.0], dtype=torch.float64).expand(400, 4)
    torch.testing.assert_close(events.sum(events.momentum), whole, rtol=0, atol=1e-5)
    n, t = simulator.measure(events).T
    for x, expected in ((n, 20.66), (t, 0.0685)):
        assert abs(float(x.mean()) - expected) < 4 * float(x.std()) / len(x) ** 0.5
    record, judge = package.Event(), package.Thrust(1)
    for i in range(20):
        record.reset()
        rows = range(int(events.offsets[i]), int(events.offsets[i + 1]))
        for k in rows:
            record.append(
                int(events.code[k]), 1, 0, 0, *(float(c[k]) for c in (events.px, events.py, events.pz, events.e)), 0.0
            )
        assert judge.analyze(record)
        assert float(thrust(events.select(torch.tensor([i]))).value) == pytest.approx(judge.thrust(), abs=1e-9)


class Stubborn:
    """A Pythia that gives up every event but some."""

    def __init__(self, good):
        self.event, self.particleData, self.good, self.asked = Record(), None, good, 0

    def next(self):
        self.asked += 1
        return self.good(self.asked)


class Record(list):
    def reset(self):
        self.clear()

    def size(self):
        return len(self)


def test_events_given_up_are_made_again_and_too_many_fail_the_run(package):
    rare = Stubborn(lambda k: k % 200 != 7)
    assert len(collected(generated(rare, package.Particle, 1000, None), package.Particle)) == 1000
    assert rare.asked == 1005
    never = Stubborn(lambda k: False)
    with pytest.raises(
        RunFailed, match=r"at most one event in a hundred may be given up\. Got 11 such beside 0 good ones"
    ):
        collected(generated(never, package.Particle, 100, None), package.Particle)


# --- emissions


@pytest.fixture(scope="module")
def recorded(package):
    """(emissions, events) of pion strings."""
    return Pythia(flavours="pions", events=1500).emissions(THETA, seed=3)


def distribution(a, c):
    """F(z) of z^-1 (1 - z)^a exp(-c / z), by quadrature."""

    def f(z):
        return (1 - z) ** a / z * np.exp(c * (1 - 1 / z))

    return lambda z: integrate.quad(f, 0, z, limit=200)[0] / integrate.quad(f, 0, 1, limit=200)[0]


def test_every_z_follows_the_density_of_its_own_transverse_mass(recorded):
    every, _ = recorded
    assert len(every) > 20_000
    some = np.random.default_rng(1).choice(len(every), 1500, replace=False)
    u = [distribution(0.68, 0.98 * float(every.mt2[i]))(float(every.z[i])) for i in some]
    assert stats.kstest(u, "uniform").pvalue > 1e-3


def test_emissions_are_a_table_to_train_on(recorded):
    every, _ = recorded
    given = every.condition()
    runs = tabulated(every.z, given.a, given.c)
    assert len(runs.theta) == len(every)
    np.testing.assert_allclose(runs.theta[:, 1], 0.98 * every.mt2.numpy())


def test_every_kick_is_gaussian(recorded):
    every, _ = recorded
    for column in every.kick.T:
        assert stats.kstest(column.numpy() / (0.335 / 2**0.5), "norm").pvalue > 1e-3


def test_the_history_is_that_of_the_hadrons(recorded):
    """What is written down at the ends, against the momenta of the final hadrons."""
    every, events = recorded
    history = events.history
    assert torch.equal(history.offsets.diff() + 2, events.multiplicity)
    assert torch.equal(every.z[every.accepted], history.z)
    for i in range(200):
        rows = slice(int(history.offsets[i]), int(history.offsets[i + 1]))
        ends = history.end[rows].tolist()
        one = events.select(torch.tensor([i]))
        front, back, left = 0, len(one.px) - 1, torch.tensor([91.2, 0.0, 0.0, 0.0], dtype=torch.float64)
        for end, z, mt2, mass2 in zip(ends, history.z[rows], history.mt2[rows], history.mass2[rows], strict=True):
            assert float(left[0] ** 2 - left[1:].square().sum()) == pytest.approx(float(mass2), abs=1e-6)
            k = front if end == 1 else back
            front, back = (front + 1, back) if end == 1 else (front, back - 1)
            p = one.momentum[k]
            assert float(p[0] ** 2 - p[3] ** 2) == pytest.approx(float(mt2), abs=1e-6)
            own = 91.2 - sum(
                float(one.e[j] + end * one.pz[j]) for j in (range(k) if end == 1 else range(k + 1, len(one.px)))
            )
            assert float(p[0] + end * p[3]) == pytest.approx(float(z) * own, rel=1e-6)
            left = left - p
        m1, m2 = (float(one.mass[j] ** 2 + one.px[j] ** 2 + one.py[j] ** 2) for j in (front, back))
        room = float(left[0] ** 2 - left[3] ** 2)
        split = ((room - m1 - m2) ** 2 - 4 * m1 * m2) ** 0.5
        assert float(history.split[i]) == pytest.approx(split, rel=1e-5)
        forwards = one.pz[front] / one.e[front] > one.pz[back] / one.e[back]
        assert bool(history.reversed[i]) != bool(forwards)


def test_emissions_are_of_one_light_string(package):
    for settings in ({"process": "z"}, {"ends": "c"}):
        with pytest.raises(InputError, match=r"emissions must be those of a string between d, u or s"):
            Pythia(**settings).emissions(THETA, seed=1)
    with pytest.raises(RunFailed, match="one straight string per event"):
        Notes().end_event()


@pytest.mark.parametrize("flavours", ["all", "mesons"])
def test_recording_changes_no_event(package, flavours):
    simulator = Pythia(flavours=flavours, events=50)
    every, events = simulator.emissions(THETA, seed=5)
    assert torch.equal(events.momentum, simulator.generate(THETA, seed=5).momentum)
    assert (events.history is None) == (flavours == "all")
    assert {len(every)} == {len(x) for x in vars(every).values()}


@pytest.mark.slow
def test_the_score_of_the_history_is_the_derivative_of_pythias_own_means(package):
    """dE[h]/d(a, b, sigma) by Cov(h, score) at one place against differences of runs around it."""
    simulator = Pythia(flavours="pions", output="means", observables=("multiplicity", "x_p", "pt"), events=60_000)
    _, events = simulator.emissions(THETA, seed=8)
    h, score = simulator.measure(events), events.history.score()
    h, score = h - h.mean(0), score - score.mean(0)
    slope = h.T @ score / len(h)
    error = ((h.square().T @ score.square() / len(h) - slope.square()) / len(h)).sqrt()
    pulls = []
    for i, step in enumerate((0.1, 0.1, 0.02)):
        ends = [
            simulator.measure(simulator.generate(THETA + s * step * torch.eye(3).double()[i], seed=20 + i))
            for s in (1, -1)
        ]
        difference = (ends[0].mean(0) - ends[1].mean(0)) / (2 * step)
        noise = ((ends[0].var(0) + ends[1].var(0)) / len(h)).sqrt() / (2 * step)
        pulls.append((slope[:, i] - difference) / (noise.square() + error[:, i].square()).sqrt())
    pulls = torch.stack(pulls)
    print("pulls of the slopes of multiplicity, x_p and pt (columns) in a, b, sigma (rows):\n", pulls)
    assert float(pulls.abs().max()) < 3.5


def test_the_settings_of_one_simulator_are_not_those_of_the_next(package):
    theta = torch.tensor([0.3, 0.6, 0.25], dtype=torch.float64)
    simulator = Pythia(events=20, flavours="pions")
    first = simulator.run(THETA, seed=1)
    replace(simulator, flavours="all", lines=("StringFlav:probStoUD = 0.5",)).run(theta, seed=1)
    assert torch.equal(simulator.run(THETA, seed=1), first)
