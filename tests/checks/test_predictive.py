"""Posterior predictive p-values against closed forms, for every likelihood, and of misfits in one field."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import chi2, kstest

import emulate
from emulate import registry
from emulate.checks.predictive import Predictive
from emulate.contracts import Evidence
from emulate.distributions import Gaussian as Prediction
from emulate.likelihoods.gaussian import Gaussian
from emulate.replicas import p_values, replicas
from emulate.runs import Field, Outputs, Runs
from emulate.space import Parameter, Space, Uniform
from tests.checks.stand_ins import OUTPUTS, SIZE, StandIn, again

TWO = Outputs((Field("pk", "", True, "k", (0.1, 0.2, 0.3), "h/Mpc"), Field("counts", "", True, "bin", (1.0, 2.0))))


class Line:
    """Mean 20 + theta in each of five outputs, known to sd, in any direction alike."""

    outputs = TWO

    def __init__(self, sd: float = 0.0):
        self.sd = sd

    def predict(self, theta: torch.Tensor) -> Prediction:
        mean = 20 + theta.expand(*theta.shape[:-1], 5)
        return Prediction(mean, torch.zeros_like(mean[..., :1]), torch.zeros(1, 5, dtype=mean.dtype),
                          torch.full_like(mean, self.sd**2))  # fmt: skip


def _draws(n: int = 4000, sd: float = 1.0) -> torch.Tensor:
    return sd * torch.randn(n, 1, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def _find(emulator, known) -> dict:
    return {f.name.removeprefix("predictive."): f for f in Predictive().find(Evidence(emulator, replicas=known))}


def test_p_values_of_normal_data_are_the_closed_form():
    """chi2 of replicas has the law of its name, so that p is the mean over the draws of its upper tail at the data."""
    data = torch.tensor([22.0, 18.0, 21.0, 19.5, 24.0], dtype=torch.float64)
    emulator, draws = Line(0.3), _draws(200)
    known = replicas(emulator.predict, Gaussian(absolute_error=2.0), data, draws, TWO, seed=1)
    assert known.parts == ("", "pk", "counts")
    assert known.sizes == (5, 3, 2)
    variance, n = 2.0**2 + 0.3**2, known.replica.shape[0] * 200
    for i, (part, size) in enumerate(zip((slice(0, 5), slice(0, 3), slice(3, 5)), known.sizes, strict=True)):
        off = ((data - 20 - draws)[:, part] ** 2).sum(1) / variance
        assert torch.allclose(known.data[:, i], off)
        assert kstest(known.replica[..., i].flatten(), chi2(size).cdf).pvalue > 0.001
        exact = chi2.sf(off, size).mean()
        assert abs(p_values(known)[0][i] - exact) < 4 * math.sqrt(exact * (1 - exact) / n) + 2 / n
    assert torch.allclose(known.pull, (data - 20 - draws).mean(0) / math.sqrt(variance))


def test_an_output_that_no_run_varied_has_no_say_where_the_noise_is_that_of_runs():
    """Whatever is observed there, the discrepancies are those of an emulator without it."""
    rng, space = np.random.default_rng(2), Space((Parameter("a", Uniform(0.0, 1.0)),))
    theta, found = rng.random((40, 1)), []
    y = theta + 0.1 * rng.standard_normal((40, 2))
    for names, rows, data in (("yz", y, [0.6, 0.4]), ("yzx", np.hstack([y, 0 * theta]), [0.6, 0.4, 1.0])):
        outputs = Outputs(tuple(Field(n) for n in names))
        runs = Runs.of(space, outputs, theta, rows, stochastic=True)
        predict = emulate.fit(registry.build("emulators", "polynomial"), runs, seed=0).predict
        likelihood = registry.build("likelihoods", "predictive").on(outputs)
        draws = torch.full((50, 1), 0.5, dtype=torch.float64)
        found.append(replicas(predict, likelihood, torch.tensor(data, dtype=torch.float64), draws, outputs, seed=1))
    torch.testing.assert_close(found[1].data[:, 0], found[0].data[:, 0], rtol=1e-6, atol=0.0)
    assert kstest(found[1].replica[..., 0].flatten(), chi2(2).cdf).pvalue > 0.001
    assert found[1].pull[2].abs() < 1e-6


@pytest.mark.parametrize("name", registry.names("likelihoods"))
def test_every_likelihood_can_make_its_data_again(name):
    cls = registry.find("likelihoods", name)
    spec = {"use": name, **cls.example}
    if name == "combined":
        spec["parts"] = {"pk": {"use": "gaussian", "absolute_error": 2.0}, "counts": {"use": "poisson"}}
    if name == "binomial":
        spec["trials"] = 60
    likelihood = registry.build("likelihoods", spec).on(TWO)
    emulator, alarms = Line(1.0), 0
    for seed in range(6):
        run = emulator.predict(torch.zeros(1, dtype=torch.float64)).sample(
            generator=torch.Generator().manual_seed(seed)
        )
        data = likelihood.sample(run, seed=seed)
        known = replicas(emulator.predict, likelihood, data, _draws(100, 0.3), TWO, seed=seed)
        assert known.replica.isfinite().all()
        alarms += not _find(emulator, known)["p"].passed
    assert alarms == 0
    far = (
        replicas(emulator.predict, likelihood, data + 40, _draws(100, 0.3), TWO, seed=1) if name != "binomial" else None
    )
    if far is not None:
        assert not _find(emulator, far)["p"].passed


def test_what_the_emulator_is_unsure_of_is_left_out_where_the_likelihood_does():
    data = torch.full((5,), 20.0, dtype=torch.float64)
    spread = [replicas(Line(5.0).predict, Gaussian(absolute_error=1.0, emulator_covariance=on), data, _draws(200, 0.0), TWO,
                       seed=1).data[:, 0].mean() for on in (True, False)]  # fmt: skip
    assert float(spread[0]) == 0
    for on in (True, False):
        known = replicas(
            Line(5.0).predict, Gaussian(absolute_error=1.0, emulator_covariance=on), data, _draws(200), TWO, seed=1
        )
        assert kstest(known.replica[..., 0].flatten(), chi2(5).cdf).pvalue > 0.001


def test_the_field_that_no_parameter_explains_is_named_with_its_worst_output():
    data = torch.tensor([20.0, 20.0, 27.0, 20.0, 20.0], dtype=torch.float64)
    known = replicas(Line().predict, Gaussian(absolute_error=1.0), data, _draws(400, 0.4), TWO, seed=1)
    found = _find(Line(), known)
    assert not found["p"].passed
    assert "The model cannot explain the field pk: pk at k = 0.3 h/Mpc lies " in found["p"].sentence
    assert "standard deviations above the prediction." in found["p"].sentence
    assert not found["p.pk"].passed
    assert found["p.counts"].passed
    assert {n for n, f in found.items() if f.blocking} == {"p"}


def test_data_that_lie_too_near_are_told_unless_they_hold_no_noise():
    outputs = Outputs((Field("pk", "", True, "k", tuple(range(60)), "h/Mpc"),))

    class Long(Line):
        def predict(self, theta):
            mean = 20 + theta.expand(*theta.shape[:-1], 60)
            return Prediction(mean, mean[..., :1] * 0, torch.zeros(1, 60, dtype=mean.dtype), mean * 0)

    Long.outputs = outputs
    data = torch.full((60,), 20.0, dtype=torch.float64)
    for noisy in (True, False):
        known = replicas(
            Long().predict, Gaussian(absolute_error=1.0), data, _draws(200, 0.13), outputs, seed=1, noisy=noisy
        )
        found = _find(Long(), known)
        assert list(found) == ["p"]
        assert found["p"].passed != noisy
        if noisy:
            assert found["p"].sentence.endswith(
                "nearer to the model than their errors allow: the errors are too large."
            )


def test_an_honest_model_fails_less_often_than_said_and_a_wrong_one_often():
    share = {}
    for name, emulator in (("honest", StandIn()), ("boastful", StandIn(stated=0.2))):
        share[name] = np.mean([not _find(emulator, again(emulator, seed=i))["p"].passed for i in range(10)])
    assert share["honest"] == 0
    assert share["boastful"] > 0.5


def test_same_seed_same_replicas():
    first, second = again(StandIn(), seed=2), again(StandIn(), seed=2)
    assert torch.equal(first.replica, second.replica)
    assert OUTPUTS.size == len(first.pull)
    assert SIZE > 0
