"""Arithmetic with the same bits everywhere: judged by mpmath, by sums in another order, and by exactness."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import emulate
from emulate import portable, registry
from emulate.emulators._arithmetic import Sliced, choice
from emulate.space import LogNormal, LogUniform, Parameter, Space
from tests import laws

TABLE = portable.table()
ULP = torch.finfo(torch.float64).eps


def of(*x: float) -> torch.Tensor:
    return torch.tensor(x, dtype=torch.float64)


@given(st.floats(-63.99, 0))
def test_exp_is_that_of_mpmath_to_a_unit_in_the_last_place(e):
    mpmath = pytest.importorskip("mpmath")
    with mpmath.workdps(40):
        true = mpmath.exp(mpmath.mpf(e))
        assert abs(mpmath.mpf(float(portable.exp(of(e), TABLE))) / true - 1) < 1.1 * ULP


@given(st.floats(math.exp(-62.9), math.exp(62.9)))
def test_log_is_that_of_mpmath(x):
    mpmath = pytest.importorskip("mpmath")
    with mpmath.workdps(40):
        true = mpmath.log(mpmath.mpf(x))
        assert abs(mpmath.mpf(float(portable.log(of(x), TABLE))) - true) < 1.5 * ULP * max(1, abs(true))


@given(st.floats(1e-30, 1e30))
def test_square_roots_are_rounded_correctly(x):
    assert float(portable.sqrt(of(x))) == math.sqrt(x)


def test_the_table_is_rounded_correctly():
    mpmath = pytest.importorskip("mpmath")
    with mpmath.workdps(40):
        assert TABLE.tolist() == [*(float(mpmath.exp(-mpmath.mpf(i) / 128)) for i in range(64 * 128)), 0.0]


def test_what_is_no_number_stays_none_and_far_ends_are_finite():
    assert portable.exp(of(0.0, -1e4, -math.inf), TABLE).tolist() == [1.0, 0.0, 0.0]
    assert portable.exp(of(math.nan), TABLE).isnan().all()
    assert portable.log(of(1.0, 0.0, math.inf), TABLE).tolist() == [0.0, -math.inf, math.inf]
    assert portable.log(of(math.nan, -1.0), TABLE).isnan().all()
    x = of(1e-300, 1e300).requires_grad_()
    (slope,) = torch.autograd.grad(portable.log(x, TABLE).sum(), x)
    torch.testing.assert_close(slope, 1 / x.detach(), rtol=1e-12, atol=0.0)


def root(x, _):
    return portable.sqrt(x)


@pytest.mark.parametrize(("f", "true"), [(portable.exp, torch.exp), (portable.log, torch.log), (root, torch.sqrt)],
                         ids=["exp", "log", "sqrt"])  # fmt: skip
def test_derivatives_are_those_of_the_function(f, true):
    x = torch.rand(200, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x = -20 * x if f is portable.exp else 50 * x + 0.01
    own, twin = (lambda t: f(t, TABLE)), true
    for rtol in (2e-15, 2e-14):
        own, twin = torch.func.grad(own), torch.func.grad(twin)
        torch.testing.assert_close(torch.func.vmap(own)(x), torch.func.vmap(twin)(x), rtol=rtol, atol=0.0)
    steps = torch.linspace(-1e-12, 1e-12, 2001, dtype=torch.float64) + of(math.log(2) / 2)  # across a step of the table
    assert (f(-steps if f is portable.exp else steps, TABLE).diff().sign() != (1 if f is portable.exp else -1)).all()


@given(st.integers(1, 70), st.integers(0, 2**31))
def test_a_sum_is_what_exact_sums_are(n, seed):
    x = torch.randn(3, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    exact = [math.fsum(row) for row in x.tolist()]
    bound = ULP * (1 + math.ceil(math.log2(n)) + n.bit_length()) * x.abs().sum(-1)  # pairwise: Higham 2002, section 4.2
    assert ((portable.total(x) - of(*exact)).abs() <= bound).all()


@given(st.integers(1, 300), st.integers(0, 2**31))
def test_products_of_slices_are_exact_so_their_order_does_not_matter(n, seed):
    g = torch.Generator().manual_seed(seed)
    k = 2 * torch.rand(2, 4, n, dtype=torch.float64, generator=g) - 1
    inverse = torch.randn(2, n, n, dtype=torch.float64, generator=g) * 10 ** (
        8 * torch.rand(2, n, 1, generator=g).double()
    )
    order = torch.randperm(n, generator=g)
    one, other = Sliced(inverse), Sliced(inverse[..., order])
    found = one(k, inverse)
    assert torch.equal(found, other(k[..., order], inverse[..., order])), "another order of the sums"
    assert torch.equal(found[:, 2:3], one(k[:, 2:3], inverse)), "one point alone"
    long = np.einsum("gNn,gmn->gNm", *(t.numpy().astype(np.longdouble) for t in (k, inverse)))
    size = torch.einsum("gNn,gmn->gNm", k.abs(), inverse.abs())
    limit = 2 * ULP * found.abs() + 2 * ULP**1.05 * inverse.abs().amax(-1)[:, None] * n + 1e-19 * size
    assert (torch.from_numpy((found.numpy() - long).astype(float)).abs() <= limit).all()


GP = {"use": "gp", "kernel": "rbf", "mean": "constant", "starts": 1}


@pytest.fixture(scope="module")
def pair():
    return [emulate.fit(registry.build("emulators", {**GP, "arithmetic": a}), laws.runs(32), seed=0) for a in
            ("portable", "library")]  # fmt: skip


def test_a_point_has_the_same_bits_alone_and_in_any_batch(pair):
    theta = laws.points(70, seed=3)
    mean, variance = pair[0].moments(theta)
    for rows in ([3], [5, 6], range(40)):
        m, v = pair[0].moments(theta[list(rows)])
        torch.testing.assert_close(m, mean[list(rows)], rtol=1e-15, atol=0.0)  # principal components, by the library
        torch.testing.assert_close(v, variance[list(rows)], rtol=1e-14, atol=0.0)


def test_both_arithmetics_say_the_same_but_for_rounding(pair):
    theta, scale = laws.points(100, seed=3), torch.from_numpy(laws.SCALE)
    (m, v), (n, w) = (e.moments(theta) for e in pair)
    assert ((m - n).abs() / (scale + 1e-3 * n.abs())).max() < 1e-8
    assert ((v - w).abs() <= 1e-3 * w + 1e-12 * scale**2).all()
    s, t = (e.jacobian(theta) for e in pair)
    assert ((s - t).abs() / t.abs().amax(0)).max() < 1e-7
    leaf = theta.clone().requires_grad_()
    (slope,) = torch.autograd.grad((pair[0].moments(leaf)[0] / scale).sum(), leaf)
    by_rule = (s / scale[:, None]).sum(1)
    torch.testing.assert_close(slope, by_rule, rtol=1e-6, atol=1e-7 * float(by_rule.abs().max()))


@pytest.mark.parametrize("kernel", ["rbf", "matern52", "additive"])
def test_variances_have_the_slopes_of_closed_form_in_both_modes(kernel):
    core = emulate.fit(
        registry.build("emulators", {**GP, "kernel": kernel, "arithmetic": "portable"}), laws.runs(32), seed=0
    ).core
    u = torch.rand(9, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    _, closed = core.slopes(u)
    for mode in (torch.func.jacrev, torch.func.jacfwd):
        found = torch.func.vmap(mode(lambda x: core(x[None]).variance[0]))(u)
        torch.testing.assert_close(found, closed, rtol=1e-4, atol=1e-6 * float(closed.abs().max()))


def test_what_is_saved_answers_with_the_same_bits(pair, tmp_path):
    theta = laws.points(20, seed=3)
    pair[0].save(tmp_path / "e")
    for other in (emulate.load(tmp_path / "e"), copy.deepcopy(pair[0])):
        assert other.recipe.arithmetic == "portable"
        assert torch.equal(other.moments(theta)[1], pair[0].moments(theta)[1])


@pytest.mark.parametrize("spec", [
    {**GP, "kernel": "matern52"}, {**GP, "kernel": "matern32"}, {**GP, "kernel": "additive"},
    {"use": "gradient_gp", "kernel": "matern52", "mean": "linear", "starts": 1},
], ids=lambda s: f"{s['use']}-{s['kernel']}")  # fmt: skip
def test_far_away_only_the_trend_is_left(spec):
    """As by the libraries, however far: powers of the distance times an exp that is not quite 0 would grow."""
    both = [emulate.fit(registry.build("emulators", {**spec, "arithmetic": a}), laws.runs(32), seed=0) for a in
            ("portable", "library")]  # fmt: skip
    far = torch.tensor([[1e3, 0.01, 5.0], [1e15, 0.01, 5.0]], dtype=torch.float64)
    p, twin = (e.core(e.scaled(far)) for e in both)
    torch.testing.assert_close(p.mean, twin.mean, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(p.variance, twin.variance, rtol=1e-6, atol=0.0)


def test_auto_is_portable_for_few_runs_with_large_weights(pair):
    few, many = torch.ones(1, 32), torch.ones(1, 33)
    assert [choice("auto", w, w.shape[1]) for w in (few, 2e4 * few, 2e4 * many)] == [0, 1, 0]
    assert choice("auto", 2e4 * torch.ones(1, 128), 32) == 1, "values and slopes of 32 runs"
    assert choice("portable", many, 33) == 1
    assert choice("library", 2e4 * few, 32) == 0
    by_default = emulate.fit(registry.build("emulators", GP), laws.runs(32), seed=0)
    theta = laws.points(9, seed=3)
    assert torch.equal(by_default.moments(theta)[1], pair[0].moments(theta)[1])


def test_logarithms_of_parameters_are_the_cores(pair):
    assert pair[0].core.log is not torch.log
    assert pair[1].core.log is torch.log
    space = Space((Parameter("a", LogUniform(1e-3, 1e2)), Parameter("b", LogNormal(0.5, 2.0))))
    theta = space.from_unit(torch.rand(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(space.scaled(theta, pair[0].core.log), space.scaled(theta), rtol=0.0, atol=1e-15)
