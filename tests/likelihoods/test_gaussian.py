"""The Gaussian likelihood against scipy, and its refusals word for word."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal

from emulate import registry
from emulate.distributions import Exact
from emulate.distributions import Gaussian as Predicted
from emulate.errors import InputError
from emulate.likelihoods.gaussian import Gaussian

DATA = torch.tensor([10.0, -20.0, 4.0], dtype=torch.float64)
GIVEN = np.array([[4.0, 1.0, 0.0], [1.0, 9.0, -2.0], [0.0, -2.0, 1.0]])


def _refused(sentence: str):
    return pytest.raises(InputError, match=f"^{re.escape(sentence)}$")


def _file(tmp_path, matrix) -> str:
    np.savetxt(tmp_path / "c.csv", matrix, delimiter=",")
    return str(tmp_path / "c.csv")


def test_all_parts_together_agree_with_scipy(tmp_path):
    like = Gaussian(relative_error=0.1, absolute_error=(1.0, 2.0, 0.5), covariance_file=_file(tmp_path, GIVEN))
    mean = torch.tensor([9.0, -18.0, 3.0], dtype=torch.float64)
    root = torch.tensor([[0.5, 1.0, 0.2]], dtype=torch.float64)
    own = root.T @ root + 0.01 * torch.eye(3, dtype=torch.float64)
    noise = np.diag([1.0 + 1.0, 4.0 + 4.0, 0.16 + 0.25]) + GIVEN
    one = torch.ones(1, dtype=torch.float64)
    prediction = Predicted(mean, one, root, torch.full((3,), 0.01, dtype=torch.float64))
    expected = multivariate_normal(mean.numpy(), noise + own.numpy()).logpdf(DATA.numpy())
    assert float(like.log_prob(prediction, DATA)) == pytest.approx(expected, rel=1e-12)
    expected = multivariate_normal(mean.numpy(), noise).logpdf(DATA.numpy())
    assert float(like.log_prob(Exact(mean), DATA)) == pytest.approx(expected, rel=1e-12)
    alone = Gaussian(**{**like.settings(), "emulator_covariance": False})
    assert float(alone.log_prob(prediction, DATA)) == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(like.covariance(DATA, prediction), noise + own.numpy(), rtol=1e-12)
    np.testing.assert_allclose(alone.covariance(DATA, prediction), noise, rtol=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.floats(1e-8, 1e8), st.floats(1e-8, 1e8))
def test_units_do_not_matter(a, b):
    """Rescaling outputs by factors moves ln p by their logarithms, over sixteen decades between them."""
    units = torch.tensor([a, b], dtype=torch.float64)
    data, mean = torch.tensor([3.0, 5.0], dtype=torch.float64), torch.tensor([2.8, 5.5], dtype=torch.float64)
    root, unit = torch.tensor([[0.3, 0.2]], dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    one, other = (Gaussian(relative_error=0.1).log_prob(Predicted(mean * s, unit, root * s, 0 * mean), data * s)
                  for s in (torch.ones_like(units), units))  # fmt: skip
    assert float(other + units.log().sum()) == pytest.approx(float(one), rel=1e-9, abs=1e-9)


def test_a_study_names_its_errors_in_yaml():
    like = registry.build("likelihoods", {"use": "gaussian", "absolute_error": [1, 2, 3]})
    np.testing.assert_allclose(like.covariance(DATA), np.diag([1.0, 4.0, 9.0]))


def test_an_observation_without_error_is_refused():
    with _refused("the observation must have an error. Got relative_error = 0, absolute_error = 0, no "
                  "error_file and no covariance_file; give at least one of them."):  # fmt: skip
        Gaussian()


def test_a_negative_error_is_refused():
    with _refused("relative_error must be a finite number of at least 0, or a list of them, one per output. Got -0.1."):
        Gaussian(relative_error=-0.1)


def test_an_output_of_zero_with_a_relative_error_alone_is_refused():
    with _refused("the observation must have an error in every output. Got none in output 1 of 2, where the data may "
                  "be 0; give an absolute_error."):  # fmt: skip
        Gaussian(relative_error=0.1).covariance(torch.tensor([1.0, 0.0], dtype=torch.float64))


def test_errors_of_the_wrong_length_are_refused():
    with _refused("absolute_error must be one number, or a list of 3, one per output. Got 2 numbers."):
        Gaussian(absolute_error=(1.0, 2.0)).covariance(DATA)


def test_the_errors_of_a_file_are_added(tmp_path):
    table, plain = tmp_path / "data.csv", tmp_path / "errors.csv"
    table.write_text("low,high,value,error\n0,1,3,0.5\n1,2,5,1.5\n2,3,-1,2\n")
    plain.write_text("0.5\n1.5\n2\n")
    for path in (table, plain):
        like = Gaussian(error_file=str(path), relative_error=0.1, absolute_error=0.2)
        np.testing.assert_allclose(
            like.covariance(DATA), np.diag(0.04 + (0.1 * DATA.numpy()) ** 2 + np.square([0.5, 1.5, 2.0])), rtol=1e-15
        )


def test_a_file_of_errors_that_does_not_fit_is_refused(tmp_path):
    path = tmp_path / "errors.csv"
    for text, said in (
        ("1\n2\n", f"error_file {path} must hold 3 errors, one per output. Got 2."),
        ("1\n-2\n3\n", f"error_file {path} must hold errors of at least 0. Got -2."),
        ("value,erorr\n1,2\n", f"error_file {path} must have a column 'error', or one column alone. It has value, erorr; "
         'rename one. Did you mean "erorr"?'),
    ):  # fmt: skip
        path.write_text(text)
        with _refused(said):
            Gaussian(error_file=str(path)).covariance(DATA)


def test_a_covariance_of_the_wrong_size_is_refused(tmp_path):
    path = _file(tmp_path, GIVEN[:2, :2])
    with _refused(f"covariance_file {path} must be 3 x 3, a row for each output. Got 2 x 2."):
        Gaussian(covariance_file=path).covariance(DATA)


@pytest.mark.parametrize(
    ("matrix", "said"),
    [
        (GIVEN[:2], "must be square. Got 2 rows and 3 columns."),
        (GIVEN + np.triu(np.ones((3, 3)), 1), "must be finite and symmetric. Got a matrix that is not; average it with "
         "its transpose if the difference is rounding."),
        (np.array([[1.0, 2, 0], [2, 1, 0], [0, 0, 1]]), "must be positive definite. Got -1 as the smallest eigenvalue "
         "of its correlation matrix; an estimate from few runs needs more runs than outputs."),
        (GIVEN * np.nan, "must be finite and symmetric. Got a matrix that is not; average it with its transpose if the "
         "difference is rounding."),
    ],
)  # fmt: skip
def test_a_matrix_that_is_no_covariance_is_refused(tmp_path, matrix, said):
    path = _file(tmp_path, matrix)
    with _refused(f"covariance_file {path} {said}"):
        Gaussian(covariance_file=path).covariance(DATA)


def test_a_file_that_is_not_there_is_named():
    with _refused("covariance_file nowhere.csv must be a text of numbers parted by commas or blanks, without a header but for "
                  "lines that begin with #. It could not be read: [Errno 2] No such file or directory: 'nowhere.csv'"):  # fmt: skip
        Gaussian(covariance_file="nowhere.csv").covariance(DATA)


@pytest.mark.parametrize("keywords", [{}, {"delimiter": "\t", "header": "of the survey"}, {"delimiter": ", "}])
def test_what_savetxt_writes_is_read_whatever_parts_the_numbers(tmp_path, keywords):
    path = str(tmp_path / "c.txt")
    np.savetxt(path, GIVEN, **keywords)
    np.testing.assert_array_equal(Gaussian(covariance_file=path).covariance(DATA), GIVEN)


def test_a_header_without_a_mark_is_refused(tmp_path):
    path = tmp_path / "c.txt"
    path.write_text("k1 k2 k3\n1 0 0\n0 1 0\n0 0 1\n")
    with pytest.raises(
        InputError, match=r"begin with #\. It could not be read: could not convert string 'k1' to float64"
    ):
        Gaussian(covariance_file=str(path)).covariance(DATA)


@pytest.mark.parametrize("dof", [None, 7.0])
def test_few_components_give_the_density_of_the_whole_matrix(dof):
    """Through a k x k matrix: the value and its gradients are those through the m x m covariance."""
    r = torch.Generator().manual_seed(1)
    loc, spread, basis, rest = (
        torch.randn(*s, generator=r, dtype=torch.float64) for s in ((4, 9), (4, 2), (2, 9), (3, 9))
    )
    like, data = Gaussian(absolute_error=0.3, error_dof=dof), torch.linspace(-1, 1, 9, dtype=torch.float64)

    def asked(rest: torch.Tensor | None, whole: bool) -> tuple[torch.Tensor, ...]:
        given = [loc.clone().requires_grad_(), spread.square().requires_grad_()]
        prediction = Predicted(*given, basis, torch.full((4, 9), 0.01, dtype=torch.float64), rest)
        assert (prediction.factors is None) == (rest is not None and len(rest) > 6)
        if whole:
            prediction = torch.distributions.MultivariateNormal(prediction.mean, prediction.covariance_matrix)
            prediction.gaussian = lambda: (prediction.mean, prediction.covariance_matrix)
        value = like.log_prob(prediction, data)
        return value, *torch.autograd.grad(value.sum(), given)

    for one in (None, rest, rest.repeat(3, 1)):
        for found, expected in zip(asked(one, False), asked(one, True), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_a_component_without_variance_keeps_the_gradient_finite():
    zero, one = torch.zeros(1, dtype=torch.float64, requires_grad=True), torch.ones(3, dtype=torch.float64)
    prediction = Predicted(one, zero, one[None], 0 * one)
    (slope,) = torch.autograd.grad(Gaussian(absolute_error=1.0).log_prob(prediction, DATA), zero)
    assert torch.isfinite(slope).all()
