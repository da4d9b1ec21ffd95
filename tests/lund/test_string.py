"""Whole events: what is conserved, what is keyed, what is refused, and a slow twin that shares no code."""

import math
import re

import numpy as np
import pytest
import torch

from emulate.errors import InputError
from emulate.lund import Emission, Events, Flavours, String, generate
from emulate.lund.flavours import charge
from tests.reference.lund.twin import CHARGED, Twin

MONASH = (0.68, 0.98, 0.335)
STRINGS = {
    "pions": String(flavours=Flavours.pions()),
    "mesons": String(),
    "baryons": String(flavours=Flavours(diquark=0.3)),
    "strange ends": String(ends="s", energy=12.0),
    "low": String(ends="d", energy=5.0, flavours=Flavours.pions()),
    "high": String(energy=2000.0),
}


def content(code):
    """Net quarks (d, u, s) of a PDG code of this model, from its digits alone."""
    digits = [int(x) for x in f"{abs(code):04d}"[:3]]
    if digits[0]:  # three quarks
        net = [digits.count(q) for q in (1, 2, 3)]
        return np.array(net) * (1 if code > 0 else -1)
    big, small = digits[1:]
    net = np.zeros(3, int)
    if big != small:
        # PDG: an up-like heavier quark, or a down-like heavier antiquark, makes the positive code
        net[big - 1], net[small - 1] = (1, -1) if big == 2 else (-1, 1)
    return net * (1 if code > 0 else -1)


@pytest.fixture(scope="module", params=STRINGS)
def made(request):
    string = STRINGS[request.param]
    return string, generate(MONASH, 1500, seed=3, string=string)


def test_four_momentum_is_conserved_and_hadrons_are_on_shell(made):
    string, events = made
    total = events.sum(events.momentum) - torch.tensor([string.energy, 0.0, 0.0, 0.0], dtype=torch.float64)
    assert float(total.abs().max()) < 1e-11 * string.energy
    off = events.e**2 - events.px**2 - events.py**2 - events.pz**2 - events.mass**2
    assert float((off.abs() / events.e**2).max()) < 1e-13
    assert float((events.e - events.mass).min()) > 0


def test_every_flavour_and_every_charge_is_conserved(made):
    _, events = made
    net = torch.tensor(np.array([content(int(c)) for c in events.code]))
    assert not bool(events.sum(net).any())
    thirds = net @ torch.tensor([-1, 2, -1])
    assert torch.equal(events.charge * 3, thirds)


def test_hadrons_stand_in_order_along_the_string(made):
    string, events = made
    y = torch.atanh(events.pz / events.e)
    first, last = y[events.offsets[:-1]], y[events.offsets[1:] - 1]
    assert bool((first > last).float().mean() > 0.97)
    codes = events.code[events.offsets[:-1]].unique().tolist()
    quark = "dus".index(string.ends)
    assert all(content(c)[quark] >= 1 or (content(c) == 0).all() for c in codes)


def test_the_history_is_that_of_the_hadrons(made):
    string, events = made
    h = events.history
    assert torch.equal(h.offsets.diff() + 2, events.multiplicity)
    assert bool((h.mass2 > 0).all())
    first = h.offsets[:-1][h.offsets.diff() > 0]
    torch.testing.assert_close(h.mass2[first], torch.full_like(h.mass2[first], string.energy**2))
    assert bool((h.left[first] == 0).all())
    # the first emission of an event takes z of a whole light cone
    end, event = h.end[first], h.event[first]
    row = torch.where(end > 0, events.offsets[:-1][event], events.offsets[1:][event] - 1)
    along = events.e[row] + end * events.pz[row]
    torch.testing.assert_close(along, h.z[first] * string.energy, rtol=1e-12, atol=0)
    mt2 = events.mass[row] ** 2 + h.kick[first].square().sum(1)
    torch.testing.assert_close(mt2, h.mt2[first], rtol=1e-12, atol=0)


def test_only_what_is_asked_for_is_made():
    of = {name: set(generate(MONASH, 3000, seed=1, string=s).code.abs().tolist()) for name, s in STRINGS.items()}
    assert of["pions"] == {111, 211}
    assert of["mesons"] == {111, 211, 221, 331, 311, 321, 113, 213, 223, 333, 313, 323}
    assert of["baryons"] > of["mesons"] | {2112, 2212, 3122, 3222, 3112, 3322, 3312, 1114, 2224}


def test_two_pions_are_charged_for_each_neutral_one():
    """Of all but the last two; the last one's flavours are there already, so that half of those are neutral."""
    events = generate(MONASH, 4000, seed=2, string=STRINGS["pions"])
    neutral = (events.history.old == events.history.new).double()
    assert float(neutral.mean()) == pytest.approx(1 / 3, abs=4 * math.sqrt(2 / 9 / len(neutral)))
    everyone = float((events.code == 111).double().sum() / len(events))
    assert everyone == pytest.approx((float(events.multiplicity.double().mean()) - 1) / 3 + 1 / 2, abs=0.1)


def test_each_event_has_its_own_theta():
    """Rows of a mixed table are the rows of tables of one theta each, bit for bit."""
    low, high = torch.tensor([0.3, 0.7, 0.25]).double(), torch.tensor([1.2, 1.3, 0.45]).double()
    mixed = torch.where((torch.arange(400) % 2 == 0)[:, None], low, high)
    events = generate(mixed, seed=8)
    for theta, start in ((low, 0), (high, 1)):
        alone = generate(theta, 400, seed=8).select(torch.arange(start, 400, 2))
        mine = events.select(torch.arange(start, 400, 2))
        assert torch.equal(alone.pz, mine.pz)
        assert torch.equal(alone.history.z, mine.history.z)
        assert torch.equal(mine.history.theta, theta.expand(200, 3))


def test_the_first_of_more_events_are_the_events_and_seeds_differ():
    many = generate(MONASH, 5000, seed=5)
    few, rest = generate(MONASH, 700, seed=5), generate(MONASH, 300, seed=5, first=700)
    both = Events.concatenate([few, rest])
    chosen = many.select(torch.arange(len(many)) < 1000)
    for name in ("offsets", "px", "py", "pz", "e", "mass", "code"):
        assert torch.equal(getattr(both, name), getattr(chosen, name))
    for name in ("offsets", "theta", "z", "mt2", "kick", "left", "old", "new", "split", "reversed", "tries"):
        assert torch.equal(getattr(both.history, name), getattr(chosen.history, name))
    other = generate(MONASH, 700, seed=6)
    assert not torch.equal(other.multiplicity, few.multiplicity)
    assert abs(np.corrcoef(other.multiplicity, few.multiplicity)[0, 1]) < 0.15


def compared(theta, n, pions):
    twin = Twin(*theta, seed=17, pions=pions)
    made = [twin.event() for _ in range(n)]
    slow = np.array([[len(e), sum(h[0] in CHARGED for h in e), max(h[1][0] for h in e),
                      sum(h[1][1] ** 2 + h[1][2] ** 2 for h in e)] for e in made])  # fmt: skip
    events = generate(theta, 4 * n, seed=23, string=STRINGS["pions" if pions else "mesons"])
    leading = np.maximum.reduceat(events.e.numpy(), events.offsets[:-1].numpy())
    fast = np.stack((events.multiplicity.numpy(), events.sum(events.charged.double()).numpy(), leading,
                     events.sum(events.px**2 + events.py**2).numpy()), 1)  # fmt: skip
    z = (fast.mean(0) - slow.mean(0)) / np.sqrt(slow.var(0) / len(slow) + fast.var(0) / len(fast))
    print(f"\n{theta}: multiplicity {slow[:, 0].mean():.3f} and {fast[:, 0].mean():.3f}; z {np.round(z, 2)}")
    return z


@pytest.mark.parametrize(("theta", "pions"), [(MONASH, True), (MONASH, False), ((1.2, 0.7, 0.45), False)])
def test_means_are_those_of_a_plain_twin(theta, pions):
    """Hadrons, charged hadrons, the highest energy and the sum of p_T^2 of an event."""
    assert np.abs(compared(theta, 2000, pions)).max() < 3.3


@pytest.mark.slow
@pytest.mark.parametrize("pions", [True, False])
@pytest.mark.parametrize("theta", [MONASH, (0.2, 1.3, 0.25), (1.2, 0.7, 0.45)])
def test_means_are_those_of_a_plain_twin_with_many_events(theta, pions):
    assert np.abs(compared(theta, 20_000, pions)).max() < 3.3


def test_another_emission_may_stand_in():
    class Half(Emission):
        def sample(self, given, noise):
            return 0.4 + 0.2 * noise.uniform(1)[0]

        def log_prob(self, z, given):
            return torch.full_like(z, math.log(5.0))

    events = generate(MONASH, 500, seed=1, emission=Half())
    assert bool(((events.history.z > 0.4) & (events.history.z < 0.6)).all())
    assert float((events.sum(events.e) - 91.2).abs().max()) < 1e-9


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: generate((0.68, -0.5, 0.3), 5, seed=0), "lund: b must be from 0.01 to 50 GeV^-2. Got -0.5."),
        (lambda: generate((0.68, 0.9, 0.0), 5, seed=0), "lund: sigma must be from 0.01 to 2 GeV. Got 0.0."),
        (lambda: generate((-1.0, 0.9, 0.3), 5, seed=0), "lund: a must be from 0 to 10. Got -1.0."),
        (lambda: generate((0.5, math.nan, 0.3), 5, seed=0), "lund: b must be from 0.01 to 50 GeV^-2. Got nan."),
        (lambda: generate((0.5, 0.9), 5, seed=0), "Got shape [2] and n = 5."),
        (lambda: generate((0.5, 0.9, 0.3), seed=0), "Got shape [3] and n = None."),
        (lambda: generate(torch.ones(4, 3), 5, seed=0), "Got shape [4, 3] and n = 5."),
        (lambda: String(energy=2.0, flavours=Flavours.pions()), "lund: energy must be at least 2.52 GeV"),
        (lambda: String(energy=math.nan), "Got nan GeV; raise it, or lower stop."),
        (lambda: String(energy=1e6), "lund: energy must be at most 1e5 GeV"),
        (lambda: String(ends="c"), "a flavour at the end of the string must be d, u or s. Got 'c'."),
        (lambda: String(smear=1.0), "smear from 0 to below 1. Got stop = 0.8, stop_new = 2.0, smear = 1.0."),
        (lambda: Flavours(strangeness=-0.1), "flavours: strangeness must be a finite number of at least 0. Got -0.1."),
        (lambda: charge(torch.tensor([211, 2101])), "(Particle Data Group). Got 2101."),
        (lambda: Events(torch.tensor([0, 2]), *[torch.ones(2)] * 4, torch.ones(1), torch.ones(2)),
         "events: mass must have one entry for each hadron, 2 by the offsets. Got shape [1]."),
    ],
)  # fmt: skip
def test_wrong_input_is_told(make, said):
    with pytest.raises(InputError, match=re.escape(said)):
        make()


def test_awkward_arrays_where_the_package_is_there():
    events = generate(MONASH, 5, seed=0)
    try:
        import awkward
    except ImportError:
        with pytest.raises(InputError, match="must have the package awkward"):
            events.to_awkward()
    else:
        assert awkward.num(events.to_awkward()).tolist() == events.multiplicity.tolist()


def test_charges_are_read_off_the_codes():
    """Of this model's hadrons by the Particle Data Group's table, and of what other generators make."""
    known = {211: 1, 111: 0, 321: 1, 311: 0, 213: 1, 113: 0, 223: 0, 333: 0, 323: 1, 313: 0, 221: 0, 331: 0, 2212: 1, 2112: 0,
             3122: 0, 3212: 0, 3222: 1, 3112: -1, 3322: 0, 3312: -1, 1114: -1, 2224: 2, 3334: -1,
             130: 0, 310: 0, 411: 1, 421: 0, 431: 1, 511: 0, 521: 1, 4122: 1, 5122: 0, 443: 0, 22: 0, 11: -1, 13: -1, 12: 0,
             14: 0}  # fmt: skip
    code = torch.tensor(list(known))
    assert charge(code).tolist() == list(known.values())
    assert charge(-code).tolist() == [-q for q in known.values()]


def test_bits_do_not_hang_on_the_number_of_threads():
    threads = torch.get_num_threads()
    made = []
    try:
        for n in (1, 3):
            torch.set_num_threads(n)
            made.append(generate(MONASH, 20_000, seed=2, string=STRINGS["pions"]))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(made[0].pz, made[1].pz)
    assert torch.equal(made[0].history.z, made[1].history.z)
