"""Indices against closed forms and SALib: how often their intervals hold the truth, of exact and of wrong emulators."""

import math
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from scipy.stats import binom, norm

from emulate.anchored import anchored
from emulate.distributions import Exact, Gaussian
from emulate.emulator import fit
from emulate.emulators.gp import GP
from emulate.errors import InputError
from emulate.indices import Indices, jackknife
from emulate.runs import Field, Outputs
from emulate.screening import _poincare, _walks, dgsm, morris
from emulate.sensitivity import Summary, sobol
from emulate.space import LogUniform, Normal, Parameter, Space, TruncatedNormal, Uniform
from tests import laws

PI = math.pi
Y = (Field("y"),)


class Known:
    """An emulator without error of a function theta `[..., d]` -> y `[..., m]`, or with a given standard deviation."""

    def __init__(self, function, *priors, fields=Y, sd=None):
        self.space = Space(tuple(Parameter(f"x{i}", p) for i, p in enumerate(priors, 1)))
        self.outputs, self.function, self.sd, self.asked = Outputs(tuple(fields)), function, sd, []

    def predict(self, theta):
        self.asked.append(len(theta))
        y = self.function(theta)
        if self.sd is None:
            return Exact(y)
        one = torch.eye(y.shape[-1], dtype=y.dtype)
        return Gaussian(y, self.sd(theta).square().expand_as(y), one, torch.zeros_like(y))

    def jacobian(self, theta):
        return torch.func.vmap(torch.func.jacrev(self.function))(theta)


def ishigami(theta):
    """sin x1 + 7 sin^2 x2 + 0.1 x3^4 sin x1 (Ishigami and Homma 1990)."""
    a, b, c = theta.unbind(-1)
    return (a.sin() + 7 * b.sin() ** 2 + 0.1 * c**4 * a.sin())[..., None]


def ishigami_indices(a=7.0, b=0.1) -> dict[str, np.ndarray]:
    one, two, both = 0.5 * (1 + b * PI**4 / 5) ** 2, a**2 / 8, b**2 * PI**8 * (1 / 18 - 1 / 50)
    v = one + two + both
    return {"first": np.array([one, two, 0]) / v, "total": np.array([one + both, two, both]) / v,
            "second": np.array([0, both, 0]) / v}  # fmt: skip


G = np.array([0.0, 1.0, 4.5, 9.0])


def g_function(theta):
    """prod (|4 x - 2| + a) / (1 + a) (Saltelli and Sobol 1995)."""
    a = torch.from_numpy(G)
    return (((4 * theta - 2).abs() + a) / (1 + a)).prod(-1, keepdim=True)


def g_indices() -> dict[str, np.ndarray]:
    part = 1 / (3 * (1 + G) ** 2)
    v = np.prod(1 + part) - 1
    pairs = [part[i] * part[j] for i, j in combinations(range(4), 2)]
    return {"first": part / v, "total": np.array([p * np.prod(np.delete(1 + part, i)) for i, p in enumerate(part)]) / v,
            "second": np.array(pairs) / v}  # fmt: skip


ISHIGAMI = (ishigami, *[Uniform(-PI, PI)] * 3)
CASES = {"ishigami": (ISHIGAMI, ishigami_indices()), "g": ((g_function, *[Uniform(0, 1)] * 4), g_indices())}


def test_the_closed_forms_are_those_that_are_published():
    """Saltelli et al. 2008, section 4: Ishigami's function."""
    known = ishigami_indices()
    assert known["first"].round(4).tolist() == [0.3139, 0.4424, 0]
    assert known["total"].round(4).tolist() == [0.5576, 0.4424, 0.2437]


@pytest.mark.parametrize("case", CASES)
def test_intervals_of_exact_functions_hold_the_closed_form_as_often_as_they_say(case):
    arguments, known = CASES[case]
    count = 100
    held = {name: np.zeros(len(v), int) for name, v in known.items()}
    for seed in range(count):
        found = sobol(Known(*arguments), seed=seed, n=2048, pairs=True)
        for name, v in known.items():
            held[name] += (found[name].low[:, 0] <= v) & (v <= found[name].high[:, 0])
    low = binom.ppf(1e-4, count, 0.95)
    assert all((h >= low).all() for h in held.values()), held
    inner = np.concatenate([held[n][known[n] > 0.1] for n in known])  # an index near 0 is held by the edge too
    assert inner.mean() <= 99, held


def test_values_are_unbiased():
    known = CASES["ishigami"][1]
    found = [sobol(Known(*ISHIGAMI), seed=seed, n=512) for seed in range(40)]
    for name in ("first", "total"):
        inner = known[name] > 0
        value = np.stack([f[name].value[inner, 0] for f in found])
        z = (value.mean(0) - known[name][inner]) / (value.std(0, ddof=1) / math.sqrt(len(found)))
        assert np.abs(z).max() < 4.0


def test_sobol_as_salib_finds_them():
    from SALib.analyze import sobol as analyse
    from SALib.sample import sobol as sample

    problem = {"num_vars": 3, "names": ["x1", "x2", "x3"], "bounds": [[-PI, PI]] * 3}
    x = sample.sample(problem, 4096, calc_second_order=True, seed=3)
    judge = analyse.analyze(problem, ishigami(torch.from_numpy(x))[:, 0].numpy(), seed=4)
    found = sobol(Known(*ISHIGAMI), seed=1, pairs=True)
    theirs = {"first": (judge["S1"], judge["S1_conf"]), "total": (judge["ST"], judge["ST_conf"]),
              "second": (judge["S2"][np.triu_indices(3, 1)], judge["S2_conf"][np.triu_indices(3, 1)])}  # fmt: skip
    for name, (value, reach) in theirs.items():
        apart = np.abs(found[name].value[:, 0] - value) / np.hypot(found[name].sampling[:, 0], reach)
        assert apart.max() < 2.0, (name, apart)
        assert found[name].sampling.max() < 1.2 * reach.max()  # scrambled sequences are no worse than a bootstrap says


@pytest.mark.parametrize("share", [0.03, 0.3])
def test_an_error_that_turns_the_function_is_inside_as_often_as_said(share):
    """The worst that an error can do: y = 2 a + b is turned towards b - 2 a by z sigmas; indices of that are known."""
    a, b = 2.0, 1.0
    line = Known(lambda t: a * t[..., :1] + b * t[..., 1:], Normal(0, 1), Normal(0, 1))
    line.sd = lambda t: (share * (b * t[..., :1] - a * t[..., 1:])).abs()
    found = sobol(line, seed=5)
    z = norm.ppf((np.arange(400) + 0.5) / 400)
    p, q = a + z * share * b, b - z * share * a
    truth = p**2 / (p**2 + q**2)
    held = (found["first"].low[0, 0] <= truth) & (truth <= found["first"].high[0, 0])
    assert held.mean() >= 0.93
    assert share > 0.1 or held.mean() <= 0.97  # an error so large that S_1 reaches 1 is held on that side
    line.sd = lambda t: (share * (b * t[..., :1] - a * t[..., 1:])).abs() / 2
    boastful = sobol(line, seed=5)
    held = (boastful["first"].low[0, 0] <= truth) & (truth <= boastful["first"].high[0, 0])
    assert held.mean() < 0.85


def field(seed: int, length: float, d: int):
    """A Gaussian random field of unit variance over the unit cube, from 200 cosines."""
    rng = np.random.default_rng([seed, 7])
    w = torch.from_numpy(rng.normal(0, 1 / length, (d, 200)))
    phase, weight = torch.from_numpy(rng.uniform(0, 2 * PI, 200)), torch.from_numpy(rng.normal(size=200))
    return lambda u: ((u @ w + phase).cos() @ weight)[..., None] * math.sqrt(2 / 200)


@pytest.mark.parametrize("length", [0.1, 0.5, 3.0])
def test_an_emulator_off_by_a_random_field_holds_the_truth(length):
    """Predictions that are 8 % of the spread wrong, and say so, at three lengths of correlation."""
    known, spread = ishigami_indices(), 0.08 * 3.72
    held = {name: np.zeros(3, int) for name in ("first", "total")}
    for seed in range(40):
        error = field(seed, length, 3)
        wrong = Known(lambda t, e=error: ishigami(t) + spread * e((t + PI) / (2 * PI)), *ISHIGAMI[1:])
        wrong.sd = lambda t: torch.full_like(t[..., :1], spread)
        found = sobol(wrong, seed=seed, n=1024)
        for name in held:
            held[name] += (found[name].low[:, 0] <= known[name]) & (known[name] <= found[name].high[:, 0])
            assert (found[name].emulator < 0.2).all()
    assert all((h >= binom.ppf(1e-4, 40, 0.95)).all() for h in held.values()), held


def test_without_its_error_a_wrong_emulator_misses_the_truth():
    known, held = ishigami_indices()["first"][1], 0
    for seed in range(20):
        error = field(seed, 3.0, 3)
        wrong = Known(lambda t, e=error: ishigami(t) + 2 * e((t + PI) / (2 * PI)), *ISHIGAMI[1:])
        found = sobol(wrong, seed=seed, n=4096)["first"]
        held += found.low[1, 0] <= known <= found.high[1, 0]
    assert held < 14


def test_a_trained_process_carries_its_own_error():
    """A GP of 40 runs of Ishigami's function is poor, says so, and its intervals hold the truth; one of 200 is good."""
    from emulate.designs.sobol import Sobol
    from emulate.runs import Runs

    space, known, widths = Known(*ISHIGAMI).space, ishigami_indices(), []
    for n in (40, 200):
        theta = space.from_unit(torch.from_numpy(Sobol().points(n, 3, seed=1)))
        runs = Runs.of(space, Outputs((Field("y"),)), theta.numpy(), ishigami(theta).numpy())
        found = sobol(fit(GP(starts=1), runs, seed=0), seed=2, n=1024)
        for name in ("first", "total"):
            assert (found[name].low[:, 0] <= known[name]).all()
            assert (known[name] <= found[name].high[:, 0]).all()
        widths.append(found["total"].emulator.max())
    assert widths[1] < 0.3 * widths[0]


# -- outputs ---------------------------------------------------------------------------------------------------------

VECTOR = (Field("p", "", False, "k", (1.0, 2.0), ""), Field("q"))


def test_a_field_is_judged_by_its_summed_variances():
    """(2 a, b) and a - b, standard normal: shares of a 4/5 of the field, 1/2 of the number; they add to one."""
    e = Known(lambda t: torch.stack([2 * t[..., 0], t[..., 1], t[..., 0] - t[..., 1]], -1), Normal(0, 1), Normal(0, 1),
              fields=VECTOR)  # fmt: skip
    found = sobol(e, seed=0)
    assert found.outputs == ("p[k=1]", "p[k=2]", "q", "p")
    want = np.array([[1, 0, 0.5, 0.8], [0, 1, 0.5, 0.2]])
    for name in ("first", "total"):
        assert np.abs(found[name].value - want).max() < 0.01
        assert ((found[name].low - 1e-12 <= want) & (want <= found[name].high + 1e-12)).all()
    slopes = morris(e, seed=0)
    norm_of_field = slopes["mu_star"].value[:, 3]
    one_each = slopes["mu_star"].value[:, :2].sum(1)
    np.testing.assert_allclose(norm_of_field, one_each / math.sqrt(2), rtol=1e-12)
    bound = dgsm(e, seed=0)["bound"].value
    assert np.abs(bound - want).max() < 0.02  # linear functions of normal parameters attain the bound


def test_a_positive_field_is_judged_by_its_fractions():
    """1000 (3 + a) and 3 + b: a holds all of the variance, and half of that of the fractions."""
    shares = {}
    for positive in (True, False):
        e = Known(lambda t: (3 + t) * torch.tensor([1000.0, 1.0]), Uniform(-1, 1), Uniform(-1, 1),
                  fields=(Field("p", "W", positive, "k", (1.0, 2.0), ""),))  # fmt: skip
        shares[positive] = sobol(e, seed=0)["total"].value[:, -1]
        star = morris(e, seed=0)["mu_star"].value[:, -1]
        assert star == pytest.approx([2 / 3 / 2**0.5] * 2 if positive else [2000 / 2**0.5, 2 / 2**0.5], rel=1e-3)
    assert shares[True] == pytest.approx([0.5, 0.5], abs=0.01)
    assert shares[False] == pytest.approx([1, 0], abs=0.01)


def test_a_scalar_summary_is_an_emulator_too():
    e = Known(lambda t: t, Normal(0, 1), Normal(0, 1), fields=(Field("p", "", False, "k", (1.0, 2.0), ""),),
              sd=lambda t: torch.full_like(t, 0.1))  # fmt: skip
    found = sobol(Summary(e, lambda y: 3 * y[..., 0] + y[..., 1], "weighted", draws=64), seed=0)
    assert found.outputs == ("weighted",)
    assert abs(found["first"].value[0, 0] - 0.9) < 0.01
    alpha = 1.96 * 0.1  # sd 0.1 sqrt(10) of a spread of sqrt(10)
    phi = math.acos(math.sqrt(0.9))
    want = max(0.9 - math.cos(phi + alpha) ** 2, math.cos(phi - alpha) ** 2 - 0.9)
    assert found["first"].emulator[0, 0] == pytest.approx(want, abs=0.01)


def test_a_constant_output_is_named_and_a_constant_simulator_refused():
    e = Known(lambda t: torch.stack([t.sum(-1), 0 * t[..., 0] + 1e20], -1), Uniform(0, 1), Uniform(0, 1),
              fields=(Field("a"), Field("b")))  # fmt: skip
    for found, name in ((sobol(e, seed=0), "total"), (morris(e, seed=0), "mu_star"), (dgsm(e, seed=0), "bound")):
        assert found.undefined == ("b",)
        assert np.isfinite(found[name].value[:, 0]).all()
        assert np.isnan(found[name].value[:, 1]).all()
        assert found.sentence("b") == "b does not vary with the parameters, so its indices are undefined."
    still = Known(lambda t: 0 * t[..., :1] + 3, Uniform(0, 1), Uniform(0, 1))
    for method in (sobol, morris, dgsm):
        with pytest.raises(InputError, match=r"needs an output that varies .* Got constant values everywhere"):
            method(still, seed=0)


def test_data_of_any_size():
    small = Known(lambda t: 1000 + 1e-6 * ishigami(t), *ISHIGAMI[1:])
    plain = sobol(Known(*ISHIGAMI), seed=0, n=512)
    for scaled in (small, Known(lambda t: 1e-20 * ishigami(t), *ISHIGAMI[1:])):
        np.testing.assert_allclose(sobol(scaled, seed=0, n=512)["total"].value, plain["total"].value, atol=1e-6)


# -- many parameters, and the record ---------------------------------------------------------------------------------


def test_thirty_parameters_and_many_outputs_are_worked_off_in_parts():
    weight = torch.arange(1.0, 31).double()
    e = Known(lambda t: (t * weight).sum(-1, keepdim=True).expand(-1, 500), *[Uniform(0, 1)] * 30,
              fields=(Field("p", "", False, "k", tuple(range(1, 501)), ""),))  # fmt: skip
    seen = []
    found = sobol(e, seed=0, n=1024, progress=lambda done, total: seen.append((done, total)))
    want = (weight**2 / (weight**2).sum()).numpy()
    assert np.abs(found["total"].value[:, -1] - want).max() < 0.02
    assert max(e.asked) * 500 * 32 < 2**22
    assert seen[-1] == (1024, 1024)
    assert all(a[0] < b[0] for a, b in pairwise(seen))


def test_same_seed_same_bits_and_no_global_state():
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    for method in (sobol, morris, dgsm):
        one, two, other = (method(Known(*ISHIGAMI), seed=s) for s in (1, 1, 2))
        for a, b, c in zip(one.measures, two.measures, other.measures, strict=True):
            assert a.value.dtype == np.float64
            assert np.array_equal(a.value, b.value)
            assert not np.array_equal(a.value, c.value)
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002


def test_a_record_is_read_back(tmp_path):
    e = Known(lambda t: torch.stack([t.sum(-1), 0 * t[..., 0]], -1), Uniform(0, 1), Uniform(0, 1),
              fields=(Field("a"), Field("b")))  # fmt: skip
    for found in (sobol(e, seed=0, pairs=True), dgsm(e, seed=0)):
        back = Indices.load(found.save(tmp_path / "indices.json"))
        assert (back.method, back.outputs, back.undefined, back.settings) == (
            found.method, found.outputs, found.undefined, found.settings)  # fmt: skip
        for a, b in zip(found.measures, back.measures, strict=True):
            np.testing.assert_array_equal(a.value, b.value)
            assert (a.emulator is None) == (b.emulator is None)
        frame = found.to_pandas()
        assert len(frame) == sum(len(m.terms) for m in found.measures) * 2
        assert frame.iloc[0]["value"] == found.measures[0].value[0, 0]


def test_sentences():
    found = sobol(Known(*ISHIGAMI), seed=0)
    said = found.sentence("y")
    assert said.startswith("44.")
    assert " %) of the variance of y comes from x2 alone, 31." in said
    assert "; interactions hold 2" in said
    line = sobol(Known(lambda t: t.sum(-1, keepdim=True), *[Uniform(0, 1)] * 5), seed=0).sentence("y")
    assert "; 2 others less; interactions hold no more than 1." in line
    assert "is what y moves by when x1 crosses its range" in morris(Known(*ISHIGAMI), seed=0).sentence("y")
    assert "of the variance of y at most involves x" in dgsm(Known(*ISHIGAMI), seed=0).sentence("y")


@pytest.mark.parametrize(
    ("call", "said"),
    [(lambda e: sobol(e, seed=0, n=1000), "n must be a power of 2, 512 or more. Got 1000; 1024 is the next."),
     (lambda e: sobol(e, seed=0, n=256), "n must be a power of 2, 512 or more. Got 256."),
     (lambda e: sobol(e, seed=0, n=512.0), "n must be a power of 2, 512 or more. Got 512.0."),
     (lambda e: dgsm(e, seed=0, n=100), "n must be a power of 2, 64 or more. Got 100; 128 is the next."),
     (lambda e: morris(e, seed=0, trajectories=2), "trajectories must be a whole number, 16 or more. Got 2."),
     (lambda e: morris(e, seed=0, trajectories=20), "trajectories must be a multiple of 16, the parts that tell their "
      "scatter. Got 20; 32 is the next."),
     (lambda e: sobol(e, seed=0)["frist"], "sobol has no measure 'frist'; it has first, total. Did you mean \"first\"?"),
     (lambda e: sobol(e, seed=0).sentence("z"), "there are no indices of 'z'; there are some of y.")],
)  # fmt: skip
def test_wrong_input_is_said(call, said):
    with pytest.raises(InputError) as caught:
        call(Known(*ISHIGAMI))
    assert str(caught.value) == said


def test_one_parameter_and_broken_predictions_are_refused():
    with pytest.raises(InputError, match=r"needs two parameters or more to compare. Got one"):
        sobol(Known(lambda t: t, Uniform(0, 1)), seed=0)
    with pytest.raises(InputError, match=r"needs finite predictions over the whole prior. Got NaN or infinity"):
        sobol(Known(lambda t: t.sum(-1, keepdim=True).log(), Uniform(-1, 1), Uniform(-1, 1)), seed=0)


def test_a_real_emulator_of_every_prior():
    """Uniform, log-uniform and normal parameters, outputs of all sizes: T is at most its bound, within the errors."""
    e = fit(GP(starts=1), laws.runs(48), seed=0)
    one, two = sobol(e, seed=0, n=512), dgsm(e, seed=0, n=256)
    assert (one["total"].low <= two["bound"].high + 1e-12).all()
    want = np.array([1, 0.25, 0.09]) * np.array([1 / 12, 1 / 12, 1 / 16])  # of 1000 + a - b / 2 + 0.3 c, scaled
    np.testing.assert_allclose(one["first"].value[:, 0], want / want.sum(), atol=0.03)


# -- elementary effects ----------------------------------------------------------------------------------------------


def test_elementary_effects_as_salib_finds_them():
    """The same trajectories in both: SALib divides by its own step, 2/3 for four levels, where that of two is 1/2."""
    from SALib.analyze import morris as analyse

    problem = {"num_vars": 3, "names": ["x1", "x2", "x3"], "bounds": [[0, 1]] * 3}
    wave = Known(
        lambda t: (3 * t[..., 0] - 2 * t[..., 1] + t[..., 0] * t[..., 2] ** 2)[..., None], *[Uniform(0, 1)] * 3
    )
    found = morris(wave, seed=3, trajectories=96, levels=2)
    u = _walks(96, 3, 2, np.random.default_rng(3))[0].reshape(-1, 3)
    judge = analyse.analyze(problem, u.numpy(), wave.function(u)[:, 0].numpy(), num_levels=4, seed=1)
    ratio = (4 / (2 * 3)) / 0.5
    for name in ("mu", "mu_star", "sigma"):
        theirs = np.asarray(judge[name], float) * ratio
        np.testing.assert_allclose(found[name].value[:, 0], theirs, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found["mu_star"].sampling[2, 0], judge["mu_star_conf"][2] * ratio, rtol=0.5)


@pytest.mark.parametrize("levels", [2, 3, 4, 16])
def test_trajectories_are_what_they_say(levels):
    """Every parameter moves once, by a quarter of the range at least; every level is as likely at every place."""
    count, d = 4000, 3
    u, moved, by = _walks(count, d, levels, np.random.default_rng(0))
    step = u.diff(dim=1)
    assert torch.equal((step.abs() > 1e-9).sum(-1), torch.ones(count, d, dtype=torch.long))
    torch.testing.assert_close(step.gather(2, moved[..., None])[..., 0], by)
    assert torch.equal(moved.sort(1).values, torch.arange(d).expand(count, d))
    assert by.abs().min() >= 0.25
    for place in (0, d):
        seen = np.bincount((u[:, place].numpy() * levels - 0.5).round().astype(int).ravel(), minlength=levels)
        assert (np.abs(seen - count * d / levels) < 4 * np.sqrt(count * d / levels)).all()


def test_intervals_of_elementary_effects_hold_the_closed_form():
    """y = a b^2 on the unit square: EE_a = b^2, EE_b = a (b + b'), over the levels."""
    level, held = (np.arange(16) + 0.5) / 16, np.zeros(2, int)
    want = [(level**2).mean(), 0.5]
    for seed in range(100):
        found = morris(Known(lambda t: t[..., :1] * t[..., 1:] ** 2, Uniform(0, 1), Uniform(0, 1)), seed=seed)[
            "mu_star"
        ]
        held += (found.low[:, 0] <= want) & (want <= found.high[:, 0])
    assert (held >= binom.ppf(1e-4, 100, 0.95)).all()
    assert (held <= 99).all()


def test_an_output_with_a_period_of_half_the_range_is_not_missed():
    """sin^2 x2 of Ishigami's function has one; a fixed step of half the range sees nothing of it."""
    assert morris(Known(*ISHIGAMI), seed=0)["mu_star"].low[1, 0] > 5
    assert morris(Known(*ISHIGAMI), seed=0, levels=2)["mu_star"].high[1, 0] < 1e-9


def test_elementary_effects_carry_the_error_of_the_emulator():
    """A function off by z times a step of one parameter, the worst that errors of one size can do to an effect."""
    line = Known(lambda t: t.sum(-1, keepdim=True), Uniform(0, 1), Uniform(0, 1), sd=lambda t: 0.01 + 0 * t[..., :1])
    found = morris(line, seed=0, levels=2)["mu_star"]
    z = norm.ppf((np.arange(400) + 0.5) / 400)
    truth = 1 + z * 0.01 * (1 - -1) / 0.5  # + 1 above the middle of x1, -1 below
    held = (found.low[0, 0] <= truth) & (truth <= found.high[0, 0])
    assert 0.93 <= held.mean() <= 0.97


def test_elementary_effects_of_a_normal_parameter_are_finite():
    found = morris(Known(lambda t: t.sum(-1, keepdim=True), Normal(0, 1), LogUniform(1, 100)), seed=0, levels=2)
    assert found["mu"].value[0, 0] == pytest.approx(2 * norm.ppf(0.75) / 0.5, rel=1e-9)
    assert np.isfinite(
        morris(Known(lambda t: t.sum(-1, keepdim=True), Normal(0, 1), Normal(0, 1)), seed=0)["mu"].value
    ).all()


# -- derivative-based indices ----------------------------------------------------------------------------------------


def test_derivatives_against_closed_forms():
    """Ishigami's function; then a^2 + b^3 + ln c of a uniform, a normal and a log-uniform parameter."""
    found = dgsm(Known(*ISHIGAMI), seed=0, n=4096)
    x4, x6, x8 = (PI**k / (k + 1) for k in (4, 6, 8))
    nu = np.array([0.5 * (1 + 0.2 * x4 + 0.01 * x8), 24.5, 0.08 * x6])
    v = 0.5 * (1 + 0.1 * PI**4 / 5) ** 2 + 49 / 8 + 0.01 * PI**8 * (1 / 18 - 1 / 50)
    for name, want in (("nu", nu), ("bound", 4 * nu / v)):  # (2 pi)^2 / pi^2
        m = found[name]
        assert np.abs((m.value[:, 0] - want) / m.sampling[:, 0]).max() < 2
        np.testing.assert_allclose(m.value[:, 0], want, rtol=0.02)
    mixed = Known(lambda t: t[..., :1] ** 2 + t[..., 1:2] ** 3 + t[..., 2:].log(), Uniform(-1, 2), Normal(0, 1),
                  LogUniform(1, math.e))  # fmt: skip
    found = dgsm(mixed, seed=0, n=4096)
    v = (33 / 15 - 1) + 15 + 1 / 12  # a^2: E a^4 = 11/5, E a^2 = 1
    nu = np.array([4.0, 27.0, 0.5 * (1 - math.exp(-2))])  # E 1/c^2 over ln c
    bound = np.array([4 * 9 / PI**2, 27.0, 1 / PI**2]) / v
    np.testing.assert_allclose(found["nu"].value[:, 0], nu, rtol=0.05)
    np.testing.assert_allclose(found["bound"].value[:, 0], bound, rtol=0.05)


def test_intervals_of_derivatives_hold_the_closed_form():
    x4, x8, held = PI**4 / 5, PI**8 / 9, 0
    for seed in range(40):
        m = dgsm(Known(*ISHIGAMI), seed=seed, n=256)["nu"]
        held += m.low[0, 0] <= 0.5 * (1 + 0.2 * x4 + 0.01 * x8) <= m.high[0, 0]
    assert binom.ppf(1e-4, 40, 0.95) <= held


def test_derivatives_as_salib_finds_them():
    from SALib.analyze import dgsm as analyse
    from SALib.sample import finite_diff

    problem = {"num_vars": 3, "names": ["x1", "x2", "x3"], "bounds": [[-PI, PI]] * 3}
    x = finite_diff.sample(problem, 4096, delta=1e-6, seed=3)
    judge = analyse.analyze(problem, x, ishigami(torch.from_numpy(x))[:, 0].numpy(), seed=4)
    found = dgsm(Known(*ISHIGAMI), seed=0, n=4096)
    np.testing.assert_allclose(found["nu"].value[:, 0], judge["vi"], rtol=0.05)
    np.testing.assert_allclose(found["bound"].value[:, 0], judge["dgsm"], rtol=0.05)


@pytest.mark.parametrize("prior", [Uniform(-1, 3), Normal(2, 0.5), TruncatedNormal(0.3, 0.2, 0.0, 1.0),
                                   TruncatedNormal(0.0, 5.0, -1.0, 1.0), TruncatedNormal(0, 1, 0.0, 9.0)])  # fmt: skip
def test_the_constant_bounds_every_variance_by_its_slope(prior):
    """Var g <= C E g'^2 by quadrature over 2^16 quantiles for polynomials and waves; a wave or a line attains it."""
    u = (torch.arange(2**16).double() + 0.5) / 2**16
    x = prior.from_unit(u)
    c, ratios = _poincare(Parameter("x", prior)), []
    z = (x - x.mean()) / x.std()
    for f, slope in ((z, torch.ones_like(z)), (z**2, 2 * z), (z**3 - z, 3 * z**2 - 1), (z.sin(), z.cos()),
                     ((u * PI).cos(), None)):  # fmt: skip
        slope = torch.gradient(f, spacing=(x,))[0] if slope is None else slope / x.std()
        ratios.append(float(f.var() / slope.square().mean() / c))
    assert max(ratios) <= 1.0001
    if not isinstance(prior, TruncatedNormal):
        assert max(ratios) > 0.999


def test_half_widths_are_those_of_students_t():
    """The mean of five normal numbers: the jackknife is exactly the textbook's interval, and so holds 95 %."""
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(5, 2000)))
    value, half = jackknife(x, lambda mean: mean)
    np.testing.assert_allclose(half, 2.776445105 * x.std(0) / math.sqrt(5), rtol=1e-8)
    assert abs(float((value.abs() <= half).double().mean()) - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 2000)


# -- held against true runs ------------------------------------------------------------------------------------------


def held_out(case: str, n: int, seed: int):
    from emulate.designs.sobol import Sobol
    from emulate.runs import Runs

    function, *priors = CASES[case][0]
    space = Known(function, *priors).space
    theta = space.from_unit(torch.from_numpy(Sobol().points(n, space.d, seed=seed)))
    return Runs.of(space, Outputs(Y), theta.numpy(), function(theta).numpy())


@pytest.mark.parametrize("length", [0.1, 0.5, 3.0])
def test_held_out_runs_hold_the_truth_of_a_wrong_emulator_that_says_it_is_right(length):
    """Ishigami's function off by a random field of a fifth of its spread, a predicted variance of 0, 20 true runs."""
    known, held, widths = ishigami_indices(), {"first": np.zeros(3, int), "total": np.zeros(3, int)}, []
    for seed in range(30):
        error = field(seed, length, 3)
        wrong = Known(lambda t, e=error: ishigami(t) + 0.2 * 3.72 * e((t + PI) / (2 * PI)), *ISHIGAMI[1:])
        found = anchored(sobol(wrong, seed=seed, n=512), wrong, held_out("ishigami", 20, seed + 500), seed=seed)
        for name in held:
            held[name] += (found[name].low[:, 0] <= known[name]) & (known[name] <= found[name].high[:, 0])
            assert ((found[name].low <= found[name].value) & (found[name].value <= found[name].high)).all()
            widths.append(found[name].emulator.max())
    assert all((h >= binom.ppf(1e-4, 30, 0.95)).all() for h in held.values()), held
    assert np.median(widths) < 0.3  # the worst case of such an error is 0.39


@pytest.mark.parametrize("case", CASES)
def test_held_out_runs_narrow_what_a_trained_process_leaves_open(case):
    known = CASES[case][1]
    e = fit(GP(kernel="rbf", starts=1), held_out(case, 100, 0), seed=0)
    worst = sobol(e, seed=0, n=1024)
    found = anchored(worst, e, held_out(case, 40, 900), seed=0)
    for name in ("first", "total"):
        assert ((found[name].low[:, 0] <= known[name]) & (known[name] <= found[name].high[:, 0])).all()
        assert found[name].emulator.max() < 0.6 * worst[name].emulator.max()
    assert found.settings["held_out"] == 40


def test_an_exact_emulator_needs_nothing_of_its_held_out_runs():
    e = Known(*ISHIGAMI)
    found = anchored(sobol(e, seed=0, n=512, pairs=True), e, held_out("ishigami", 8, 1), seed=0)
    assert found["total"].emulator.max() < 1e-12
    assert [m.name for m in found.measures] == ["first", "total", "second"]
    with pytest.raises(
        InputError, match=r"anchored needs Sobol indices and 8 finished held-out runs or more. Got sobol and 7"
    ):
        anchored(found, e, held_out("ishigami", 7, 1), seed=0)
