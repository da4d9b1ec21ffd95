"""Verdicts on maps whose answer is known by hand, and figures of the definitions."""

import math

import numpy as np
import pytest
import torch

from emulate.errors import InputError
from emulate.identifiability import POOR, collinearity, identify
from emulate.space import LogNormal, Normal, Parameter, Space, Uniform

T = torch.linspace(0.1, 2.0, 12, dtype=torch.float64)


def space(names, prior=None):
    return Space(tuple(Parameter(n, prior or Uniform(0.0, 2.0)) for n in names))


def looked(names, f, points=3, noise=0.01, error=None, prior=None):
    d = len(names)
    theta = 0.5 + torch.rand((points, d), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    jacobian = torch.stack([torch.autograd.functional.jacobian(f, t) for t in theta])
    if error is not None:
        jacobian = jacobian + error * torch.randn(jacobian.shape, generator=torch.Generator().manual_seed(4)).double()
        error = torch.full_like(jacobian, error)
    return identify(space(names, prior), theta, jacobian, noise**2 * torch.eye(jacobian.shape[1]).double(), error)


@pytest.mark.parametrize(("names", "f", "text", "told"), [
    ("abc", lambda x: (x[0] + x[1]) * T + x[2], "a + b", ("c",)),
    ("abc", lambda x: torch.exp(-(x[0] - 2 * x[2]) * T) + x[1], "a - 2 * c", ("b",)),
    ("abc", lambda x: torch.exp(-x[0] * x[1] * T) + x[2] * T, "a * b", ("c",)),
    ("abc", lambda x: torch.sin(x[2] / x[0] * T) + x[1], "a / c", ("b",)),
    ("abc", lambda x: torch.exp(-x[0] * x[1] ** 2 * T) + x[2] * T, "a * b**2", ("c",)),
    ("abc", lambda x: torch.exp(-(x[0] + 0.37 * x[1]) * T) + x[2] * T, "a + 0.37 * b", ("c",)),
    ("abc", lambda x: torch.exp(-x[0] * x[1] * x[2] * T), "a * b * c", ()),
])  # fmt: skip
def test_a_combination_is_found_by_name(names, f, text, told):
    found = looked(names, f)
    (only,) = found.combinations
    assert (only.text, only.rank, found.told) == (text, 1, told)
    assert only.one_minus_cos < 1e-14
    assert f"only {text} is told" in found.sentence
    assert found.verdict(only.members[0]) == f"only {text}"
    assert torch.isinf(found.together[[found.names.index(n) for n in only.members]]).all()


def test_one_point_cannot_tell_a_sum_from_a_product_and_takes_the_plain_one():
    (only,) = looked("ab", lambda x: torch.exp(-x[0] * x[1] * T), points=1).combinations
    assert only.text == "a * b"
    (only,) = looked("ab", lambda x: torch.exp(-(x[0] + x[1]) * T), points=1).combinations
    assert only.text == "a + b"


def test_three_parameters_in_two_combinations():
    found = looked("abcd", lambda x: torch.cat([(x[0] + x[1]) * T, (x[1] + x[2]) * T**2, x[3] * T]))
    (only,) = found.combinations
    assert (only.members, only.rank, only.text) == (("a", "b", "c"), 2, "")
    assert found.verdict("b") == "only in 2 of 3"
    assert found.sentence.startswith("Of a, b and c only 2 combinations of the 3 are told: ")


def test_two_pairs_at_once_and_a_parameter_that_does_nothing():
    found = looked("abcde", lambda x: torch.exp(-(x[0] + x[1]) * T) + x[2] * x[3] * T + 0.0 * x[4])
    assert [c.text for c in found.combinations] == ["a + b", "c * d"]
    assert found.unseen == ("e",)
    assert found.verdict("e") == "not seen"
    assert "e does nothing to the data." in found.sentence
    assert math.isinf(found.alone[4])


def test_standard_deviations_are_the_inverse_of_the_fisher_matrix():
    found = looked("abc", lambda x: x[0] * torch.exp(-x[1] * T) + x[2], prior=Normal(1.0, 0.3))
    inverse = np.linalg.inv(found.fisher[0].numpy())
    np.testing.assert_allclose(found.together.numpy(), np.sqrt(np.diag(inverse)), rtol=1e-6)
    np.testing.assert_allclose(found.alone.numpy(), np.diag(found.fisher[0].numpy()) ** -0.5, rtol=1e-12)
    np.testing.assert_allclose(found.scale.numpy(), 0.3, rtol=1e-5)


def test_the_rest_is_told_as_if_the_combination_were_one_parameter():
    two = looked("ac", lambda x: x[0] * T + torch.exp(-x[1] * T))
    three = looked("abc", lambda x: (x[0] + x[1]) * T + torch.exp(-x[2] * T))
    fisher = three.fisher[0][[0, 2]][:, [0, 2]].numpy()
    assert float(three.together[2]) == pytest.approx(np.sqrt(np.linalg.inv(fisher)[1, 1]), rel=1e-9)
    assert three.combinations[0].sd == pytest.approx(np.sqrt(np.linalg.inv(fisher)[0, 0]), rel=1e-9)
    assert two.combinations == ()
    assert two.told == ("a", "c")


def test_the_index_of_two_columns_is_that_of_their_angle():
    for angle in (0.01, 0.5, 1.2, 3.1):
        S = torch.tensor([[1.0, 3 * math.cos(angle)], [0.0, 3 * math.sin(angle)]], dtype=torch.float64)
        assert float(collinearity(S)) == pytest.approx((1 - abs(math.cos(angle))) ** -0.5, rel=1e-9)
    assert float(collinearity(torch.eye(5).double()[:, :3])) == pytest.approx(1.0)
    assert math.isinf(float(collinearity(torch.ones(2, 3).double())))  # three columns of two data


def test_what_is_nearly_alike_is_hard_to_tell_and_no_combination():
    """Two rates of decay that are close: the classical ill-posed fit."""
    found = looked("ab", lambda x: torch.exp(-(1 + 0.02 * x[0]) * T) + torch.exp(-(1.1 + 0.02 * x[1]) * T), points=1)
    assert found.combinations == ()
    gamma = float(collinearity(found.sensitivity[0]))
    assert gamma > POOR
    assert found.index == pytest.approx(gamma)
    assert (
        f"a and b are hard to tell apart: collinearity index {gamma:.3g}, where 15 is the usual limit" in found.sentence
    )
    assert "times wider for the others" in found.verdict("a")


def test_noise_of_the_derivatives_hides_no_combination_and_makes_none():
    found = looked("abc", lambda x: (x[0] + x[1]) * T + x[2] * T**3, error=1e-3)
    assert [c.members for c in found.combinations] == [("a", "b")]
    assert (found.combinations[0].text, found.told) == ("a + b", ("c",))
    rough = looked("abc", lambda x: (x[0] + x[1]) * T + x[2] * T**3, error=0.05)
    assert [c.members for c in rough.combinations] == [("a", "b")]
    assert "Of a and b only one combination is told, no plain sum or product: " in rough.sentence
    clear = looked("abc", lambda x: x[0] * T + x[1] * T**2 + x[2] * T**3, error=1e-4)
    assert clear.combinations == ()


def test_what_is_lost_in_the_noise_of_the_derivatives_is_not_said_to_do_nothing():
    f = lambda x: x[0] * T + 0.0 * x[1]  # noqa: E731
    found = looked("ab", f, noise=0.1, error=5.0)  # two standard errors of |S_j|, by sqrt(12) x 5 x 0.68 / 0.1, are 236
    assert (found.unseen, found.blurred, found.told) == ((), ("a", "b"), ())
    assert (found.verdict("a"), found.verdict("b")) == ("cannot say", "cannot say")
    assert found.sentence == (
        "Cannot say what data tell of a and b: the derivatives are noisier than what they tell; take an emulator's, or "
        "more runs for each. Derivatives at 3 points; figures are those of the first."
    )
    assert found.to_dict()["blurred"] == ["a", "b"]
    sure = looked("ab", f, noise=0.1, error=0.01)  # these are 0.47: b moves data by less than a standard error
    assert (sure.unseen, sure.blurred, sure.told) == (("b",), (), ("a",))


def test_what_holds_at_one_point_alone_is_no_combination():
    theta = torch.tensor([[1.0, 1.0], [0.5, 1.2]], dtype=torch.float64)  # a^2 t + b^2 t^a: alike at a = 1 only
    f = lambda x: x[0] ** 2 * T + x[1] ** 2 * T ** (2 * x[0] - 1)  # noqa: E731
    slope = torch.stack([torch.autograd.functional.jacobian(lambda x: f(torch.stack([x[0].detach(), x[1]])) + x[0] * 2 * T, t)
                         for t in theta])  # fmt: skip
    noise = torch.eye(12).double()
    assert len(identify(space("ab"), theta[:1], slope[:1], noise).combinations) == 1
    assert identify(space("ab"), theta, slope, noise).combinations == ()


def test_a_prior_in_logarithms_has_its_own_scale_and_the_verdict_is_plain_json():
    import json

    found = looked("ab", lambda x: x[0] * T + x[1] * T**2, prior=LogNormal(0.0, 0.5))
    assert found.scale.tolist() == pytest.approx([math.sinh(0.5)] * 2, rel=1e-4)
    told = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert told["sentence"] == found.sentence
    assert set(told["parameters"]) == {"a", "b"}


def test_many_parameters_are_looked_at_in_pairs_and_triples():
    names = "abcdefghijkl"
    mix = torch.randn(40, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    mix[:, 7] = -mix[:, 2]
    found = looked(names, lambda x: mix @ x, points=1)
    assert [c.text for c in found.combinations] == ["c - h"]
    assert [len(s) for s, _ in found.sets] == [2, 3]


def test_what_cannot_be_judged_is_said():
    theta = torch.ones(1, 2, dtype=torch.float64)
    with pytest.raises(
        InputError, match=r"^jacobian must be finite numbers \[g, m, d\] at points theta \[g, d\] of 2 parameters\."
    ):
        identify(space("ab"), theta, torch.full((1, 3, 2), torch.nan).double(), torch.eye(3).double())
    with pytest.raises(
        InputError, match=r"^covariance must be that of noise in every output\. Got one that is not positive"
    ):
        identify(space("ab"), theta, torch.ones(1, 3, 2).double(), torch.zeros(3, 3).double())
