"""Noise by name: what it depends on and what not, judged by rerunning, by scipy and by a branch."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch.distributions import Gamma, Normal

from emulate.errors import InputError
from emulate.noise import Forced, Noise, Place, uniforms


@settings(deadline=None)
@given(st.integers(0, 2**62), st.integers(0, 10**9), st.lists(st.integers(0, 5), max_size=3), st.integers(1, 6))
def test_a_batch_of_replicates_is_the_same_numbers_one_by_one(seed, first, shape, n):
    place = Place("x", 2)
    many = uniforms(seed, place, tuple(shape), range(first, first + n))
    ones = [uniforms(seed, place, tuple(shape), range(i, i + 1))[0] for i in range(first, first + n)]
    assert torch.equal(many, torch.stack(ones))
    assert ((many > 0) & (many < 1)).all()


def test_seed_site_step_and_replicate_all_key_the_numbers():
    one = [Noise(1).uniform("a"), Noise(2).uniform("a"), Noise(1, 1).uniform("a"), Noise(1).uniform("b"),
           Noise(1).uniform("a", step=1)]  # fmt: skip
    assert len({float(u) for u in one}) == 5


def test_the_numbers_are_uniform_and_independent_between_replicates_sites_and_steps():
    u = torch.stack([uniforms(3, place, (5,), range(20_000)) for place in (Place("a"), Place("b"), Place("a", 1))], -1)
    flat = u.reshape(20_000, -1)
    assert all(stats.kstest(column, "uniform").pvalue > 1e-4 for column in flat.T.numpy())
    correlation = torch.corrcoef(flat.T) - torch.eye(15, dtype=torch.float64)
    assert correlation.abs().max() < 4.5 / 20_000**0.5
    neighbours = torch.corrcoef(torch.stack([flat[1:, 0], flat[:-1, 0]]))[0, 1]
    assert neighbours.abs() < 4.5 / 20_000**0.5


def test_noise_survives_a_branch_that_draws_more():
    def program(theta, noise):
        extra = noise.draw("extra", Normal(0.0, 1.0)) if theta > 0 else 0.0
        return extra * 0 + noise.draw("common", Normal(0.0, 1.0))

    assert program(1.0, Noise(5)) == program(-1.0, Noise(5))


def test_visits_of_a_site_are_counted():
    noise = Noise(5)
    first, second = noise.uniform("u"), noise.uniform("u")
    assert first != second
    assert second == Noise(5).uniform("u", step=1)
    assert noise.draws == 2


def test_the_plain_seed_is_the_users_own_for_the_first_replicate():
    assert Noise(11).seed == 11
    assert len({Noise(11, i).seed for i in range(100)}) == 100


@pytest.mark.parametrize(("call", "words"), [
    (lambda n: (n.uniform("u", step=0), n.uniform("u", step=0)),
     r"^the place u must be drawn once in a run\. Got a second draw: leave `step` out so that visits are counted, or "
     r"give every run a noise of its own \(`noise\.again\(\)`\)\.$"),
    (lambda n: n.draw("u", 3.0),
     r"^noise\.draw\('u', \.\.\.\) must be given a torch distribution, such as Normal\(mean, sd\)\. Got float 3\.0\.$"),
    (lambda n: n.draw("u", torch.distributions.VonMises(1.0, 2.0)),
     r"^a draw must be of a family with a known inverse: .*, or any with an icdf\. Got VonMises; write it as a map of "
     r"draws of these\.$"),
    (lambda n: n.uniform("~u"), r"^a site's name must not begin with '~', which estimators use\. Got '~u'\.$"),
])  # fmt: skip
def test_wrong_use_is_told(call, words):
    with pytest.raises(InputError, match=words):
        call(Noise(1))


def test_again_is_the_same_noise_and_keeps_one_record():
    noise = Noise(4, 7)
    x = noise.draw("x", Gamma(2.0, 1.0))
    assert noise.again().draw("x", Gamma(2.0, 1.0)) == x
    assert list(noise.record.shapes) == [Place("x")]


def test_a_hard_decision_is_one_or_nothing():
    noise = Noise(1)
    assert noise.above("a", torch.tensor([-1.0, 0.0, 2.0])).tolist() == [0.0, 0.0, 1.0]
    assert noise.record.decisions == {Place("a"): (3,)}


@settings(deadline=None)
@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 9))
def test_a_longer_draw_begins_with_the_shorter_one(one, other, replicate):
    short, long = sorted((one, other))
    a, b = (uniforms(2, Place("x"), (k,), range(replicate, replicate + 1)) for k in (short, long))
    assert torch.equal(a, b[:, :short])


def test_draws_of_different_lengths_share_no_number_between_replicates():
    numbers = [uniforms(2, Place("x"), (k,), range(i, i + 1)) for i, k in enumerate((8, 4, 16, 5, 64, 4))]
    flat = torch.cat([u.flatten() for u in numbers])
    assert len(set(flat.tolist())) == len(flat)


def test_the_ends_of_the_interval_are_never_reached(monkeypatch):
    for bits, end in ((0, 2.0**-53), (2**64 - 1, 1 - 2.0**-53)):
        monkeypatch.setattr("numpy.random.Philox", lambda bits=bits, **_: type("Stream", (), {
            "random_raw": lambda self, shape: np.full(shape, bits, np.uint64)})())  # fmt: skip
        assert float(uniforms(1, Place("x"), (), range(1))) == end
        assert torch.special.ndtri(uniforms(1, Place("x"), (), range(1))).isfinite()


def test_forced_noise_and_decisions():
    def program(noise):
        x, y = noise.draw("x", Normal(0.0, 1.0)), noise.draw("y", Normal(0.0, 1.0))
        return x, y, noise.above("up", x)

    noise = Noise(3)
    _, y, up = program(noise)
    half, other = torch.tensor(0.5, dtype=torch.float64), 1 - up
    assert [float(v) for v in program(noise.again(Forced({Place("x"): half}, {Place("up"): other})))] == [
        0.0,
        float(y),
        float(other),
    ]
