"""Dual numbers: every rule gives what torch's reverse mode gives, once and twice; nesting is right; nothing is lost unsaid."""

import math

import numpy as np
import pytest
import torch
from torch import distributions
from torch.nn import functional

from emulate.derived_rules import DERIVED
from emulate.dual import Dual, derivative, pushforward
from emulate.errors import InputError
from emulate.rules import RULES

A = torch.tensor([1.1, 1.5, 1.3, 2.2], dtype=torch.float64)
B = torch.tensor([0.7, 1.9, 0.4, 1.6], dtype=torch.float64)
AB = torch.cat([A, B])
EYE = torch.eye(2, dtype=torch.float64)
ONE = torch.tensor(1.0, dtype=torch.float64)
INDEX = torch.tensor([0, 0])


def square(a):
    return a.reshape(2, 2)


def spd(a):
    return square(a) @ square(a).mT + EYE


OPERATIONS = {
    "add": lambda a, b: torch.add(a, b, alpha=3) + 1 + b,
    "sub": lambda a, b: 2 - torch.sub(a, b, alpha=3) - torch.rsub(a, b, alpha=2),
    "mul": lambda a, b: a * b * 3,
    "div": lambda a, b: a / b + 1 / a + b / 3,
    "div_floor": lambda a, b: torch.div(a, b, rounding_mode="floor") + a,
    "pow": lambda a, b: a**b + 2**a + a**2 + a**0.5 + a**0,
    "where": lambda a, b: torch.where(a > 1.2, a * a, b) + a.where(b > 1, 2 * a) + torch.where(a > 1.4, a, 0.5),
    "broadcast": lambda a, b: a[:, None] * b + a[0] * b,
    "clamp": lambda a, b: a.clamp(1.2, 1.6) + b.clamp(min=1) + functional.hardtanh(b),
    "reductions": lambda a, b: a.sum() * b.mean() + square(a).sum(0).prod() + a.var() + square(b).std(1)[0],
    "products": lambda a, b: torch.cat([a.prod()[None], a.cumprod(0), square(b).prod(1), b.cumsum(0)]),
    "extremes": lambda a, b: torch.stack([torch.max(a), a.amax(), square(a).amin((0, 1)), square(b).max(1).values[0],
                                          square(b).min(dim=0)[0][1], torch.maximum(a, b)[0], torch.minimum(a, b)[1]]),
    "order": lambda a, b: torch.cat([torch.sort(b).values, torch.topk(a, 2).values, square(b).median(1).values]),
    "shape": lambda a, b: torch.stack([a, b]).mT.flatten().roll(1).flip(0).reshape(2, 4).unsqueeze(0).expand(3, 2, 4),
    "pieces": lambda a, b: torch.cat([x * y for x, y in zip(a.split(2), reversed(b.chunk(2)), strict=True)]),
    "index": lambda a, b: torch.cat([a[1:] * b[:-1], a[[0, 2]], a[None, 2], a.gather(0, INDEX), torch.diff(a)]),
    "scatter": lambda a, b: torch.index_add(a, 0, INDEX, b[:2]),
    "pad": lambda a, b: functional.pad(a, (1, 2), value=3.0) + functional.pad(square(b), (-1, 1, 1, 0)).sum(),
    "matmul": lambda a, b: square(a) @ square(b) + a @ b + torch.ones(2, 4, dtype=torch.float64) @ a,
    "einsum": lambda a, b: torch.einsum("i,j,i->ij", a, b, b) + torch.outer(a, b),
    "cross": lambda a, b: torch.linalg.cross(a[:3], b[:3]) + torch.trapezoid(a, b),
    "linear": lambda a, b: functional.linear(square(a), square(b), a[:2]) + torch.addmm(square(a), square(a), square(b), beta=2),
    "conv": lambda a, b: functional.conv1d(a[None, None], b[None, None, :2]),
    "solve": lambda a, b: torch.linalg.solve(square(a) + EYE, b[:2]) + torch.linalg.solve(square(a) + EYE, square(b)),
    "inverse": lambda a, b: torch.linalg.inv(square(a) + EYE),
    "determinants": lambda a, b: torch.linalg.det(square(a)) + torch.logdet(spd(a)) + torch.linalg.slogdet(spd(b))[1],
    "cholesky": lambda a, b: torch.linalg.cholesky(spd(a)),
    "triangular": lambda a, b: torch.linalg.solve_triangular(square(a).tril(), square(b), upper=False),
    "matrix_exp": lambda a, b: torch.linalg.matrix_exp(square(a)) + torch.linalg.matrix_power(square(b), 3),
    "norms": lambda a, b: a.norm() + torch.linalg.norm(a) + torch.linalg.vector_norm(b, ord=3) + torch.linalg.norm(b, 1),
    "softmaxes": lambda a, b: torch.softmax(a, 0) * b + torch.log_softmax(b, -1) + torch.logsumexp(a, 0),
    "activations": lambda a, b: functional.softplus(a) + functional.silu(b) + functional.gelu(a) + functional.elu(-b)
                                + functional.leaky_relu(-a) + functional.relu(b - 1) + functional.logsigmoid(a),
    "exponentials": lambda a, b: a.exp() + b.log() + a.log2() + b.log10() + a.log1p() + b.expm1() + a.exp2() + a.sigmoid(),
    "roots": lambda a, b: a.sqrt() + b.rsqrt() + a.square() + b.reciprocal() + (-a).abs() + torch.hypot(a, b),
    "circular": lambda a, b: a.sin() * b.cos() + a.tan() + (a / 9).asin() + (b / 9).acos() + a.atan() + torch.atan2(a, b),
    "hyperbolic": lambda a, b: a.sinh() + b.cosh() + a.tanh() + a.asinh() + (a + 1).acosh() + (b / 9).atanh(),
    "special": lambda a, b: a.lgamma() + b.digamma() + torch.polygamma(1, a) + torch.i0(a) + torch.xlogy(a, b) + torch.sinc(a),
    "normal": lambda a, b: torch.special.ndtr(a) + torch.special.ndtri(b / 9) + torch.special.log_ndtr(a) + a.erf() + b.erfc()
                           + (a / 9).erfinv() + torch.special.erfcx(a) + torch.logaddexp(a, b) + torch.logit(b / 9),
    "remainder": lambda a, b: torch.remainder(a, 0.7) + torch.floor(a) * a + b.frac() + torch.special.i1(a),
    "fourier": lambda a, b: torch.fft.irfft(torch.fft.rfft(a) * torch.fft.rfft(b), 4) + torch.fft.rfft(a).abs().sum(),
    "density": lambda a, b: distributions.Normal(a[0], b[1]).log_prob(a[2]) + distributions.Gamma(a[0], b[1]).log_prob(a[2])
                            + distributions.MultivariateNormal(a[:2], EYE * b[0]).log_prob(b[:2])
                            + distributions.Categorical(a / a.sum()).log_prob(torch.tensor(1)),
}  # fmt: skip


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_differentiated_as_by_torch(name):
    def f(x):
        return OPERATIONS[name](x[:4], x[4:])

    first = torch.func.jacrev(f)
    torch.testing.assert_close(derivative(f, AB), first(AB), rtol=1e-12, atol=1e-13)
    y, one = pushforward(f, AB, AB[None])
    torch.testing.assert_close(y, f(AB), rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(one[0], first(AB) @ AB, rtol=1e-12, atol=1e-12)
    twice = derivative(lambda x: derivative(f, x), AB)
    torch.testing.assert_close(twice, torch.func.jacrev(first)(AB), rtol=1e-10, atol=1e-11)


def test_no_operation_has_two_rules():
    assert not set(RULES) & set(DERIVED)


def test_nested_derivatives_are_not_confused():
    """d/dx [x d/dy (x + y)] = d/dx [x * 1] = 1 (Siskind & Pearlmutter 2005); 2 with one tag for both."""
    assert derivative(lambda x: x * derivative(lambda y: x + y, ONE), ONE) == 1
    two = torch.tensor(2.0, dtype=torch.float64)
    assert (
        derivative(lambda x: derivative(lambda y: x**3 * y**2, x), two) == 3 * 4 * 2 * 2 + 2 * 8
    )  # d/dx [2 x^3 y] at y = x
    third = derivative(lambda x: derivative(lambda y: derivative(lambda z: z**5, y), x), two)
    assert third == 60 * 4


def test_it_lives_within_batches_and_under_reverse_mode():
    def f(x):
        return (x.sin() * x.sum()).cumsum(0)

    many = torch.stack([A, B])
    torch.testing.assert_close(
        torch.func.vmap(lambda x: derivative(f, x))(many), torch.func.vmap(torch.func.jacrev(f))(many)
    )
    mixed = torch.autograd.functional.jacobian(lambda x: derivative(f, x), A)
    torch.testing.assert_close(mixed, torch.func.jacrev(torch.func.jacrev(f))(A))


def augmented(x):
    y = 2 * x
    y += x
    y -= 1.0
    y *= x
    y /= x + 1
    y **= 2
    return y.add_(x, alpha=2).mul_(x).sin_()


def elements(x):
    y = torch.zeros(4, dtype=torch.float64)
    y[0] = x[0] * x[1]
    y[1:3] = x[:2] ** 2
    y[torch.tensor([False, False, True, True])] = x[2:] * x[0]
    y[[0, 3]] += x[2]
    y[-1] *= y[0]
    return y * x


def views_of_numbers(x):
    y = torch.zeros(2, 2, dtype=torch.float64)
    row, column = y[0], y.t()[1]
    row += x[:2]
    column.mul_(x[2]).add_(x[2:])
    for part in y.view(-1).split(2):
        part.mul_(x[0])
    y.diagonal().copy_(y.diagonal() * x[3])
    return torch.stack([y.flatten(), row.repeat(2), column.repeat(2)])


def views_of_theta(x):
    y = x * 1
    row, same = y[1:3], y.reshape(2, 2)
    y.mul_(x[0])
    row.add_(1.0)
    row[0] = x[3]
    same[1].zero_()
    return torch.cat([y * x, row, same.flatten()])


def copies(x):
    """What is no view stays what it was."""
    y = x + 0.0
    turned, kept = y.reshape(2, 2).t().flatten(), y.clone()
    y.add_(x[0])
    turned.mul_(2.0)
    return torch.cat([x, y, turned, kept, y[[0, 1]].mul_(5.0), y])


def named(x):
    y = torch.ones(4, dtype=torch.float64)
    y.index_add_(0, INDEX, x[:2]).scatter_(0, torch.tensor([2]), x[2:3]).scatter_add_(0, INDEX, x[2:] * x[:2])
    y.masked_fill_(torch.tensor([False, True, False, False]), x[3]).clamp_(max=3.0)
    y.addcmul_(x, x, value=2.0).addcdiv_(x, y.clone()).index_copy_(0, INDEX[:1], x[1:2] ** 2)
    y[2:].fill_(x[0] * x[3])
    return y.lerp_(x, 0.25).square_()


def emptied(x):
    y = torch.zeros(4, dtype=torch.float64)
    y[0] = x[0]
    y.zero_()
    y[1] = 5.0  # numbers alone, of what once carried theta
    part = y[2:]
    part += 1.0
    torch.nn.init.constant_(y[:1], 2.0)
    return y * x + y


def outward(x):
    y = torch.empty(4, dtype=torch.float64)
    torch.sub(x, x[0], out=y)
    return torch.add(y, x, alpha=3.0, out=y).sub_(x[1]).mul_(y)


def activated(x):
    y = x - 1.2
    return functional.relu(y, inplace=True) * y + functional.silu(y, inplace=True)


def filled(x):
    y = x * x
    return y.scatter(0, INDEX[:1], 7.0) + y.index_fill(0, INDEX[:1], 3.0) * x + y.index_put((INDEX[:1] + 1,), x[:1])


WRITTEN = {
    f.__name__: f
    for f in (augmented, elements, views_of_numbers, views_of_theta, copies, named, emptied, activated, filled)
}


def along(f):
    """df/dx of torch's own forward mode, which takes writing in place, one direction after the other."""
    return lambda x: torch.stack([torch.func.jvp(f, (x,), (e,))[1] for e in torch.eye(len(x), dtype=x.dtype)], -1)


@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_written_in_place_is_differentiated_as_by_torch(name):
    f = WRITTEN[name]
    y, slopes = pushforward(f, A, torch.eye(4, dtype=torch.float64))
    torch.testing.assert_close(y, f(A.clone()), rtol=1e-14, atol=0)
    torch.testing.assert_close(slopes.movedim(0, -1), along(f)(A), rtol=1e-12, atol=1e-12)
    twice = derivative(lambda x: derivative(f, x), A)
    torch.testing.assert_close(twice, along(along(f))(A), rtol=1e-11, atol=1e-11)


def test_what_is_written_out_is_differentiated():
    """(4 x - x_0 - x_1)^2; torch's own derivatives refuse `out`."""
    torch.testing.assert_close(derivative(outward, A), derivative(lambda x: (4 * x - x[0] - x[1]) ** 2, A))


def test_writing_leaves_the_callers_numbers_alone():
    kept, buffer = A.clone(), torch.zeros(4, dtype=torch.float64)

    def f(x):
        x += 1
        buffer.copy_(x)
        buffer[0] = x[1]
        return buffer * x

    twin = torch.func.jacrev(lambda x: torch.cat([x[1:2], x[1:]]).add(1) * (x + 1))
    torch.testing.assert_close(derivative(f, A), twin(A))
    assert torch.equal(A, kept)
    assert torch.equal(buffer, torch.zeros(4, dtype=torch.float64))


def test_what_an_inner_derivative_writes_outside_is_refused():
    def f(x):
        y = x * 1

        def inner(z):
            y.add_(z)
            return z

        derivative(inner, ONE)
        return y

    with pytest.raises(
        InputError, match=r"^forward must have nothing of an inner derivative written into what was made outside"
    ):
        derivative(f, A)


NUMBER = (r"^forward must see a tensor wherever theta goes\. Got {}, which makes a plain number of it and loses the derivative; "
          r"stay in torch, detach it first, or use finite_difference\.$")  # fmt: skip
PLACE = (r"^forward must be able to do an operation in place as the same one out of place, and then write\. Got {}; write "
         r"x = x \+ y, build by torch\.stack or torch\.where, or use reverse\.$")  # fmt: skip
RULE = (r"^forward must have a rule for every operation on theta\. Got {}, which has none; write it by others "
        r"\(emulate/rules\.py lists them\), or use reverse\.$")  # fmt: skip


@pytest.mark.parametrize(
    ("f", "sentence"),
    [
        (lambda x: math.exp(x[0]), NUMBER.format("__float__")),
        (lambda x: x[0].item(), NUMBER.format("item")),
        (lambda x: int(x[0]), NUMBER.format("__int__")),
        (lambda x: np.sin(x), NUMBER.format("__array__")),
        (lambda x: torch.tensor([x[0], x[1]]), NUMBER.format("__float__")),
        (lambda x: torch.full((2,), x[0]), NUMBER.format(r"aten\._local_scalar_dense\.default")),
        (lambda x: x.detach().mul_(2), PLACE.format("detached numbers of a tensor that carries theta")),
        (lambda x: x[0].add_(x), PLACE.format(r"values of shape \[2\] for one of shape \[\]")),
        (lambda x: torch.complex(x, x).real.mul_(x), PLACE.format("a view that shows other numbers than its base")),
        (lambda x: torch._foreach_add_([x], [x]), PLACE.format("_foreach_add_ of list")),
        (lambda x: (x * 1).resize_(1), PLACE.format("resize_")),
        (lambda x: torch.outer(x, x).t_(), PLACE.format("t_")),
        (lambda x: (x * 1).erfinv_().geometric_(0.5), PLACE.format("geometric_")),
        (lambda x: torch.linalg.svd(x.reshape(1, 2)), RULE.format("linalg_svd")),
        (lambda x: torch.linalg.eigh(torch.outer(x, x)), RULE.format("linalg_eigh")),
        (lambda x: torch.linspace(0, x[0], 3), RULE.format("linspace")),
        (lambda x: torch.special.gammainc(x[0], x[1]), RULE.format("gammainc")),
    ],
)
def test_what_has_no_rule_is_named(f, sentence):
    with pytest.raises(InputError, match=sentence):
        pushforward(f, A[:2], EYE)


def test_decisions_and_detached_values_carry_no_derivative():
    def f(x):
        return torch.stack([x[0] if x[0] > 1 else x[1], x[0].detach() * x[1], torch.floor(x[0]), x[0].sign()])

    expected = torch.tensor([[1, 0], [0, 1.1], [0, 0], [0, 0]], dtype=torch.float64)
    assert torch.equal(derivative(f, A[:2]), expected)


def test_an_answer_without_theta_has_slope_zero_and_a_dual_number_shows_itself():
    y, slopes = pushforward(lambda x: A, A[:2], EYE)
    assert torch.equal(y, A)
    assert torch.equal(slopes, torch.zeros(2, 4, dtype=torch.float64))
    assert f"{Dual(ONE, ONE[None], 3)}" == "Dual(1.0, tensor([1.], dtype=torch.float64), tag=3)"
