"""Several data sets: against one Gaussian of the whole, and by quadrature over an error that the emulator makes in all."""

import re

import numpy as np
import pytest
import torch
from scipy import stats

from emulate import registry
from emulate.discrepancy import Discrepancy
from emulate.distributions import Exact
from emulate.distributions import Gaussian as Predicted
from emulate.errors import InputError
from emulate.likelihoods.combined import Combined
from emulate.likelihoods.gaussian import Gaussian
from emulate.likelihoods.poisson import Poisson
from emulate.likelihoods.student_t import StudentT
from emulate.runs import Field, Outputs

PK, COUNTS = Field("pk", coordinate="k", at=(0.1, 0.2, 0.4)), Field("counts", coordinate="z", at=(0.5, 1.0))
OUTPUTS = Outputs((PK, COUNTS))
MEAN = torch.tensor([10.0, 8.0, 3.0, 40.0, 15.0], dtype=torch.float64)
DATA = torch.tensor([10.8, 8.3, 3.4, 47.0, 18.0], dtype=torch.float64)
ONE, NOTHING = torch.ones(1, dtype=torch.float64), torch.zeros(5, dtype=torch.float64)


def _common(mean: torch.Tensor = MEAN, share: float = 0.08) -> Predicted:
    """An emulator that errs in all outputs at once, by one factor."""
    return Predicted(mean, ONE, share * MEAN[None], NOTHING)


def test_normal_parts_are_one_normal():
    parts = {"counts": Gaussian(absolute_error=2.0, scale_error=0.1),
             "pk": Gaussian(relative_error=0.05, discrepancy=Discrepancy(amplitude=0.3, length=0.2))}  # fmt: skip
    like, prediction = Combined(parts=parts).on(OUTPUTS), _common()
    c = np.zeros((5, 5))
    x = np.array(PK.at)
    c[:3, :3] = np.diag((0.05 * DATA[:3].numpy()) ** 2) + 0.09 * np.exp(-((x[:, None] - x) ** 2) / 0.08)
    own = 0.0064 * np.outer(MEAN, MEAN)
    c[3:, 3:] = 4 * np.eye(2) + 0.01 * np.outer(MEAN[3:], MEAN[3:]) + 0.01 * own[3:, 3:]
    judge = stats.multivariate_normal(MEAN.numpy(), c + own)
    assert float(like.log_prob(prediction, DATA)) == pytest.approx(judge.logpdf(DATA.numpy()), rel=1e-10)
    np.testing.assert_allclose(like.covariance(DATA, prediction), c + own, rtol=1e-10)


def test_laplaces_method_is_exact_for_normal_noise():
    """A t of 10^9 degrees of freedom takes the integral's road, and a normal one the closed form."""
    given = {"counts": Gaussian(absolute_error=2.0, scale_error=0.1), "pk": Gaussian(relative_error=0.05)}
    near = {**given, "pk": Gaussian(relative_error=0.05, error_dof=1e9)}
    closed, by_laplace = (Combined(parts=p).on(OUTPUTS).log_prob(_common(), DATA) for p in (given, near))
    assert float(by_laplace) == pytest.approx(float(closed), abs=1e-6)


def test_a_spectrum_and_counts_by_quadrature():
    """Normal and Poisson noise around one common error of the emulator: the product of the two marginals is not it."""
    like = Combined(parts={"pk": Gaussian(absolute_error=0.5), "counts": Poisson()}).on(OUTPUTS)
    z = np.linspace(-8, 8, 4001)
    width = np.log1p(0.08**2) ** 0.5
    spectrum = stats.norm(MEAN[:3].numpy() * (1 + 0.08 * z[:, None]), 0.5).pdf(DATA[:3].numpy()).prod(1)
    counts = stats.poisson.pmf(DATA[3:].numpy(), MEAN[3:].numpy() * np.exp(width * z - width**2 / 2)[:, None]).prod(1)
    joint, *apart = (np.log(np.trapezoid(p * stats.norm.pdf(z), z)) for p in (spectrum * counts, spectrum, counts))
    value = float(like.log_prob(_common(), DATA))
    assert value == pytest.approx(joint, abs=0.004)
    assert abs(sum(apart) - joint) > 0.3


def test_the_emulator_is_switched_off_for_one_part_or_for_all():
    parts = {"pk": Gaussian(absolute_error=0.5), "counts": Poisson(emulator_covariance=False)}
    sure = Poisson().log_prob(Exact(MEAN[3:]), DATA[3:])
    one = Combined(parts=parts).on(OUTPUTS).log_prob(_common(), DATA)
    alone = Gaussian(absolute_error=0.5).log_prob(
        Predicted(MEAN[:3], ONE, 0.08 * MEAN[None, :3], NOTHING[:3]), DATA[:3]
    )
    assert float(one) == pytest.approx(float(alone + sure), rel=1e-10)
    off = Combined(parts=parts, emulator_covariance=False).on(OUTPUTS)
    exact = Gaussian(absolute_error=0.5).log_prob(Exact(MEAN[:3]), DATA[:3]) + sure
    assert float(off.log_prob(_common(), DATA)) == pytest.approx(float(exact), rel=1e-10)


def test_chains_are_batched_and_differentiable():
    parts = {"pk": StudentT(absolute_error=0.5), "counts": Poisson(scale_error=0.1)}
    like = Combined(parts=parts).on(OUTPUTS)
    means = MEAN * (1 + 0.05 * torch.randn(6, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    each = torch.stack([like.log_prob(_common(y), DATA) for y in means])
    torch.testing.assert_close(
        like.log_prob(Predicted(means, ONE.expand(6, 1), 0.08 * MEAN[None], 0 * means), DATA), each
    )
    assert torch.autograd.gradcheck(lambda y: like.log_prob(_common(y), DATA), MEAN.clone().requires_grad_())


def test_errors_of_unknown_size_in_one_part():
    """The t of `error_dof` beside counts that are sure: as by itself, where the emulator is sure; else by quadrature."""
    spectrum = Gaussian(absolute_error=0.5, error_dof=4.0)
    like = Combined(parts={"pk": spectrum, "counts": Poisson(emulator_covariance=False)}).on(OUTPUTS)
    apart = spectrum.log_prob(Exact(MEAN[:3]), DATA[:3]) + Poisson().log_prob(Exact(MEAN[3:]), DATA[3:])
    assert float(like.log_prob(Exact(MEAN), DATA)) == pytest.approx(float(apart), rel=1e-10)
    z = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    moved = spectrum.log_prob(Exact(MEAN[:3] * (1 + 0.03 * z[:, None])), DATA[:3]).exp().numpy()
    expected = np.log(np.trapezoid(moved * stats.norm.pdf(z), z)) + float(Poisson().log_prob(Exact(MEAN[3:]), DATA[3:]))
    assert float(like.log_prob(_common(share=0.03), DATA)) == pytest.approx(expected, abs=0.05)


def test_a_study_names_its_parts_in_yaml():
    spec = {"use": "combined", "parts": {"pk": {"use": "gaussian", "relative_error": 0.05}, "counts": "poisson"}}
    made = registry.build("likelihoods", spec, path="infer.likelihood")
    assert made.parts == {"pk": Gaussian(relative_error=0.05), "counts": Poisson()}
    assert made.settings()["parts"]["counts"]["use"] == "poisson"
    spec["parts"]["pk"] = {"use": "gaussian", "relative_eror": 0.05}
    with pytest.raises(InputError, match=r"^infer\.likelihood\.parts\.pk\.relative_eror: this key is not known"):
        registry.build("likelihoods", spec, path="infer.likelihood")


def _refused(sentence: str):
    return pytest.raises(InputError, match=f"^{re.escape(sentence)}$")


def test_parts_that_do_not_fit_are_refused():
    poisson = Poisson()
    with _refused('parts.pks: there is no such output. Fields are pk, counts. Did you mean "pk"?'):
        Combined(parts={"pks": poisson, "counts": poisson}).on(OUTPUTS)
    with _refused("parts must name a likelihood for every field. Got none for pk; add it."):
        Combined(parts={"counts": poisson}).on(OUTPUTS)
    both = Combined(parts={"pk": poisson, "counts": poisson})
    with _refused(
        "parts.pk must be a likelihood of noise around a prediction, such as gaussian or poisson. Got combined."
    ):
        Combined(parts={"pk": both})
    with _refused("a combined likelihood must know the fields and coordinates of the outputs. Got a likelihood that has not "
                  "been told; use likelihood.on(simulator.outputs)."):  # fmt: skip
        both.covariance(DATA)
    with _refused("the outputs must be those that the likelihood was told of, 5 numbers. Got 2."):
        both.on(OUTPUTS).covariance(DATA[:2])
