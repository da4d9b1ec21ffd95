"""Spectral functions: derivatives by scipy, torch's matrix_exp and mpmath, at eigenvalues that repeat, nearly repeat or do not."""

import math

import mpmath
import numpy as np
import pytest
import scipy.linalg
import torch

from emulate.dual import derivative
from emulate.errors import InputError
from emulate.linalg import logdet, power, spectral, through_eigenvectors, trace_of

SPECTRA = ([0.3, 1.0, 2.0, 3.5], [1.0, 1.0, 2.0, 3.0], [0.5] * 4, [1.0, 1.0 + 1e-9, 1.0 + 1e-4, 2.0], [1.0, 1.01, 1.02, 1.03],
           [1.0, 1.0 + 1e-15, 1.0 + 1e-13, 1.0 + 1e-12])  # fmt: skip
NEAR_ZERO = ([0.0, 0.0, 1e-12, 1.0], [-1e-9, 0.0, 1e-9, 0.0])
FUNCTIONS = {"exp": torch.exp, "log": torch.log, "sqrt": torch.sqrt, "power": lambda x: x**-0.7, "sin": torch.sin}
G = torch.Generator().manual_seed(3)
Q = torch.linalg.qr(torch.randn(4, 4, generator=G, dtype=torch.float64)).Q
E, H = (m + m.mT for m in torch.randn(2, 4, 4, generator=G, dtype=torch.float64))
ZERO = torch.tensor(0.0, dtype=torch.float64)


def matrix(spectrum):
    a = (Q * torch.tensor(spectrum, dtype=torch.float64)) @ Q.mT
    return (a + a.mT) / 2


@pytest.fixture(params=[*SPECTRA, *NEAR_ZERO], ids=str)
def a(request):
    return matrix(request.param)


def twice(function, a):
    """<E, dF/dA> and its derivative along H, by reverse mode."""
    a = a.clone().requires_grad_()
    (slope,) = torch.autograd.grad((function(a) * E).sum(), a, create_graph=True)
    (second,) = torch.autograd.grad((slope * H).sum(), a)
    return slope.detach(), (second + second.mT) / 2


def test_the_exponential_of_the_identity():
    """d sum(exp A) / dA at A = 1: exp(1 + E) = e (1 + E + ..), so it is e everywhere; eigenpairs one by one give e on the
    diagonal alone."""
    eye = torch.eye(5, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(spectral(eye, torch.exp).sum(), eye)
    torch.testing.assert_close(slope, torch.full((5, 5), math.e, dtype=torch.float64), rtol=0, atol=1e-10)


def test_the_exponential_is_that_of_scipy_and_of_torch(a):
    slope, second = twice(lambda x: spectral(x, torch.exp), a)
    value, along = scipy.linalg.expm_frechet(a.numpy(), E.numpy())
    torch.testing.assert_close(spectral(a, torch.exp), torch.from_numpy(value), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(slope, torch.from_numpy(along), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(second, twice(torch.linalg.matrix_exp, a)[1], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("spectrum", SPECTRA, ids=str)
def test_slopes_are_those_of_forty_digits(name, spectrum):
    """A difference of f(A + t E) in 60 digits, where nothing cancels that matters."""
    f, a = FUNCTIONS[name], matrix(spectrum)
    numbers = {
        "exp": mpmath.exp,
        "log": mpmath.log,
        "sqrt": mpmath.sqrt,
        "power": lambda x: x ** mpmath.mpf(-0.7),
        "sin": mpmath.sin,
    }
    with mpmath.workdps(60):
        t = mpmath.mpf(10) ** -20

        def at(sign):
            values, vectors = mpmath.eigsy(mpmath.matrix(a.numpy()) + sign * t * mpmath.matrix(E.numpy()))
            return vectors * mpmath.diag([numbers[name](v) for v in values]) * vectors.T

        truth = (at(1) - at(-1)) / (2 * t)
        truth = torch.tensor([[float(truth[i, j]) for j in range(4)] for i in range(4)], dtype=torch.float64)
    slope, _ = twice(lambda x: spectral(x, f), a)
    torch.testing.assert_close(slope, truth, rtol=1e-12, atol=1e-11 * float(truth.abs().max()))


def test_all_modes_agree(a):
    slope, second = twice(lambda x: spectral(x, torch.exp), a)

    def line(t):
        return (spectral(a + t * H, torch.exp) * E).sum()

    first = (slope * H).sum()
    torch.testing.assert_close(derivative(line, ZERO), first, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(torch.func.jvp(line, (ZERO,), (ZERO + 1,))[1], first, rtol=1e-11, atol=1e-11)
    for bend in (derivative(lambda t: derivative(line, t), ZERO), torch.func.grad(torch.func.grad(line))(ZERO)):
        torch.testing.assert_close(bend, (second * H).sum(), rtol=1e-10, atol=1e-10)
    many = torch.func.vmap(torch.func.grad(line))(torch.stack([ZERO, ZERO]))
    torch.testing.assert_close(many, first.repeat(2), rtol=1e-11, atol=1e-11)


def test_roots_powers_and_traces():
    a = matrix([1.0, 1.0, 2.0, 3.0]).requires_grad_()
    root = power(a, 0.5)
    torch.testing.assert_close(root @ root, a)
    torch.testing.assert_close(power(a, -1), torch.linalg.inv(a))
    (slope,) = torch.autograd.grad(logdet(a), a)
    torch.testing.assert_close(logdet(a), torch.logdet(a))
    torch.testing.assert_close(slope, torch.linalg.inv(a))
    (slope,) = torch.autograd.grad(trace_of(a, torch.sqrt), a)
    torch.testing.assert_close(slope, 0.5 * torch.linalg.inv(root))


def test_a_third_derivative_is_refused():
    def line(t):
        return spectral(matrix(SPECTRA[0]) + t * H, torch.exp).sum()

    with pytest.raises(InputError, match=r"^a spectral function must be differentiated at most twice\. Got a third derivative; "
                       r"take a difference of second ones\.$"):  # fmt: skip
        derivative(lambda t: derivative(lambda s: derivative(line, s), t), ZERO)
    with pytest.raises(InputError, match=r"^a spectral function must be differentiated at most twice"):
        torch.func.grad(torch.func.grad(torch.func.grad(line)))(ZERO)


def projector(x, v):
    """The weight of the first coordinate in the two lowest states."""
    return v[0, :2].square().sum() + x[:2].sum() * v[1, 2:].square().sum()


@pytest.mark.parametrize("spectrum", [SPECTRA[0], SPECTRA[1]], ids=str)
def test_a_loss_of_eigenspaces_is_differentiated(spectrum):
    a = matrix(spectrum).requires_grad_()
    (slope,) = torch.autograd.grad(through_eigenvectors(projector, a), a)
    h = 1e-5
    low, high = (projector(*torch.linalg.eigh(a.detach() + s * h * H)) for s in (-1, 1))
    torch.testing.assert_close((slope * H).sum(), (high - low) / (2 * h), rtol=1e-7, atol=1e-8)
    line = derivative(lambda t: through_eigenvectors(projector, a.detach() + t * H), ZERO)
    torch.testing.assert_close(line, (slope * H).sum())


GAUGE = (r"^a loss must not depend on the choice of eigenvectors that the matrix leaves free\. Got one that changes with the {}; "
         r"write it by projectors V V\^T of whole eigenspaces, or by spectral\(A, f\)\.$")  # fmt: skip
APART = r"^a loss must not tell repeated eigenvalues apart\. Got one whose slopes differ within one eigenvalue"


@pytest.mark.parametrize(
    ("loss", "spectrum", "sentence"),
    [
        (lambda x, v: v[0, 0], SPECTRA[0], GAUGE.format("sign of an eigenvector")),
        (lambda x, v: v.sum(), SPECTRA[0], GAUGE.format("sign of an eigenvector")),
        (lambda x, v: v[0, 0] ** 2, SPECTRA[1], GAUGE.format("rotation within a repeated eigenvalue")),
        (lambda x, v: v[0, 1] * v[1, 1], SPECTRA[2], GAUGE.format("rotation within a repeated eigenvalue")),
        (lambda x, v: x[0], SPECTRA[1], APART),
        (lambda x, v: ((v * x.exp()) @ v.mT).sum(), SPECTRA[2], APART),
    ],
)
def test_a_loss_that_depends_on_the_gauge_raises(loss, spectrum, sentence):
    with pytest.raises(InputError, match=sentence):
        through_eigenvectors(loss, matrix(spectrum))


def test_symmetric_sums_of_repeated_eigenvalues_are_smooth():
    eye = torch.eye(3, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(through_eigenvectors(lambda x, v: x.exp().sum(), eye), eye)
    torch.testing.assert_close(slope, math.e * torch.eye(3, dtype=torch.float64))


@pytest.mark.parametrize(
    ("a", "sentence"),
    [
        (torch.ones(3), r"^a symmetric matrix must be of shape \[\.\.\., n, n\]\. Got \[3\]\.$"),
        (torch.tensor([[1.0, 2.0], [0.0, 1.0]]), r"^a matrix must be symmetric\. Got one that differs from its transpose by 1 of "
                                                 r"its greatest entry; take \(A \+ A\^T\) / 2 if that is what is meant\.$"),
    ],
)  # fmt: skip
def test_what_is_no_symmetric_matrix_is_refused(a, sentence):
    with pytest.raises(InputError, match=sentence):
        spectral(a, torch.exp)


def test_a_batch_of_matrices():
    many = torch.stack([matrix(s) for s in SPECTRA]).requires_grad_()
    (slope,) = torch.autograd.grad(trace_of(many, torch.log).sum(), many)
    np.testing.assert_allclose(slope.numpy(), np.linalg.inv(many.detach().numpy()), rtol=1e-12, atol=1e-13)
