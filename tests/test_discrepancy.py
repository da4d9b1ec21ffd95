"""A discrepancy against scikit-learn's kernel, and the posterior it gives against its data simulated in full."""

import re

import numpy as np
import pytest
import torch
from sklearn.gaussian_process.kernels import RBF

from emulate import registry
from emulate.discrepancy import Discrepancy
from emulate.distributions import Exact
from emulate.errors import InputError
from emulate.likelihoods.gaussian import Gaussian
from emulate.runs import Field, Outputs

K = (0.1, 0.2, 0.5, 1.0)
OUTPUTS = Outputs((Field("pk", coordinate="k", at=K), Field("age"), Field("pdf", coordinate="x", at=(1.0, 2.0))))
Y = torch.tensor([4.0, 3.0, 2.0, 1.0, 5.0, 0.5, 0.2], dtype=torch.float64)


def test_blocks_are_those_of_scikit_learn():
    made = Discrepancy(amplitude=2.0, share=0.1, length=0.3).covariance(OUTPUTS, Y).numpy()
    height = 4 + 0.01 * np.outer(Y, Y)
    x = np.array(K)[:, None]
    np.testing.assert_allclose(made[:4, :4], height[:4, :4] * RBF(0.3)(x), rtol=1e-12)
    assert made[4, 4] == pytest.approx(4.25)
    assert not made[:4, 4:].any()
    assert not made[4, 5:].any()
    log = Discrepancy(amplitude=2.0, length=0.7, log=True).covariance(Outputs(OUTPUTS.fields[:1]), Y[:4])
    np.testing.assert_allclose(log, 4 * RBF(0.7)(np.log(x)), rtol=1e-12)


def test_intervals_hold_where_the_simulator_is_wrong():
    """data = theta + delta(x) + noise, 300 times: 95 % intervals of theta hold with the discrepancy, and not without."""
    at = tuple(np.linspace(0, 1, 20))
    outputs = Outputs((Field("f", coordinate="x", at=at),))
    wrong = Discrepancy(amplitude=1.0, length=0.3)
    likelihoods = [Gaussian(absolute_error=0.3, discrepancy=d).on(outputs) for d in (wrong, None)]
    theta = torch.linspace(-5, 5, 101, dtype=torch.float64)
    prediction = Exact(theta[:, None, None].expand(-1, 1, 20))
    rng, root = np.random.default_rng(2), np.linalg.cholesky(RBF(0.3)(np.array(at)[:, None]) + 1e-9 * np.eye(20))
    data = torch.from_numpy(rng.standard_normal((300, 20)) @ root.T + 0.3 * rng.standard_normal((300, 20)))
    inside = []
    for like in likelihoods:
        p = torch.softmax(like.log_prob(prediction, data), 0)
        below = p[:50].sum(0) + 0.5 * p[50]
        inside.append(int(((below > 0.025) & (below < 0.975)).sum()))
    assert abs(inside[0] - 285) < 3 * (300 * 0.95 * 0.05) ** 0.5
    assert inside[1] < 150


def test_a_study_names_it_in_yaml():
    spec = {"use": "gaussian", "absolute_error": 1.0, "discrepancy": {"share": 0.05, "length": 0.3, "log": True}}
    assert registry.build("likelihoods", spec).discrepancy == Discrepancy(share=0.05, length=0.3, log=True)
    with pytest.raises(InputError, match=r"^here\.discrepancy\.lenght: this key is not known"):
        registry.build("likelihoods", {"use": "gaussian", "absolute_error": 1.0, "discrepancy": {"amplitude": 1.0,
                       "lenght": 1.0}}, path="here")  # fmt: skip


def _refused(sentence: str):
    return pytest.raises(InputError, match=f"^{re.escape(sentence)}$")


def test_what_cannot_be_is_refused():
    with _refused("a discrepancy must have an amplitude or a share above 0. Got 0 for both; give one, or take the "
                  "discrepancy out."):  # fmt: skip
        Discrepancy(length=1.0)
    zero = Outputs((Field("f", coordinate="x", at=(0.0, 1.0)),))
    with _refused("discrepancy.log must be false where a coordinate is not above 0. Got 0 in field 'f'; give the length in "
                  "the coordinate itself."):  # fmt: skip
        Discrepancy(amplitude=1.0, log=True).covariance(zero, Y[:2])
    like = Gaussian(absolute_error=1.0, discrepancy=Discrepancy(amplitude=1.0))
    with _refused("a discrepancy must know the fields and coordinates of the outputs. Got a likelihood that has not been told; use "
                  "likelihood.on(simulator.outputs)."):  # fmt: skip
        like.covariance(Y)
    with _refused("the outputs must be those that the likelihood was told of, 7 numbers. Got 2."):
        like.on(OUTPUTS).covariance(Y[:2])
