"""Derived parameters against numbers made by hand, and what a study may not name."""

import pytest
import torch

from emulate.derived import read, values
from emulate.errors import InputError
from emulate.space import Parameter, Space, Uniform

SPACE = Space((Parameter("sigma_8", Uniform(0.7, 0.9)), Parameter("omega_m", Uniform(0.2, 0.4))))


def test_values_are_the_formula_s_with_gradients():
    made = read({"S_8": "sigma_8 * (omega_m / 0.3)**0.5", "twice": {"expression": "2 * S_8", "label": "2S_8"}}, SPACE)
    theta = torch.tensor([[0.8, 0.27], [0.75, 0.33]], dtype=torch.float64, requires_grad=True)
    found = values(SPACE, made, theta)
    hand = theta[:, 0] * (theta[:, 1] / 0.3).sqrt()
    torch.testing.assert_close(found, torch.stack([hand, 2 * hand], -1))
    assert torch.autograd.gradcheck(lambda t: values(SPACE, made, t), theta)
    assert made[1].to_dict() == {"expression": "2 * S_8", "label": "2S_8"}


def test_a_constant_is_one_for_every_draw():
    assert values(SPACE, read({"c": "3"}, SPACE), torch.rand(5, 7, 2).double()).shape == (5, 7, 1)


@pytest.mark.parametrize(("entries", "said"), [({"sigma_8": "omega_m"}, "must be a new one .* Got a parameter of the space"),
                                               ({"S 8": "omega_m"}, "letters, digits and _. Got 'S 8'"),
                                               ({"s": "t", "t": "omega_m"}, "must be made of sigma_8, omega_m, pi. Got t"),
                                               ({"s": "omega_n"}, 'Did you mean "omega_m"')])  # fmt: skip
def test_what_cannot_be_derived_is_refused(entries, said):
    with pytest.raises(InputError, match=said):
        read(entries, SPACE)
