"""y <-> z against scikit-learn's PCA, closed forms, and round trips over twenty decades."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from torch.distributions import Independent, Laplace, MultivariateNormal, Normal

from emulate.errors import InputError
from emulate.runs import Field, Outputs
from emulate.transforms import OutputTransform

WIDE = Outputs((Field("w", coordinate="k", at=tuple(range(1, 7))),))


def table(n: int = 40, seed: int = 0) -> np.ndarray:
    """Six outputs of three directions, and a thousandth of noise."""
    rng = np.random.default_rng(seed)
    return 5 + rng.normal(size=(n, 3)) * [3, 1, 0.3] @ rng.normal(size=(3, 6)) + 1e-3 * rng.normal(size=(n, 6))


def test_z_is_white_and_its_components_are_those_of_scikit_learn():
    y = table()
    t = OutputTransform.fit(WIDE, y, log=True, truncation=0.0)
    z = t.to_z(torch.from_numpy(y))
    n, p = z.shape
    assert p == t.p == 6
    torch.testing.assert_close(z.mean(0), torch.zeros(p).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(z.T @ z / n, torch.eye(p).double(), rtol=0, atol=1e-9)
    pca = PCA(whiten=True).fit((y - y.mean(0)) / y.std(0))
    twin = pca.transform((y - y.mean(0)) / y.std(0)) * np.sqrt(n / (n - 1))  # scikit-learn divides by n - 1
    np.testing.assert_allclose(np.abs(z.numpy()), np.abs(twin), rtol=1e-6, atol=1e-8)


def test_truncation_keeps_its_word():
    y = table()
    x = (y - y.mean(0)) / y.std(0)
    for truncation in (1e-10, 1e-5, 1e-2, 0.3):
        t = OutputTransform.fit(WIDE, y, log=True, truncation=truncation)
        back = t.from_z(t.to_z(torch.from_numpy(y))).numpy()
        lost = ((back - y) / y.std(0)) ** 2
        assert lost.sum() / (x**2).sum() <= truncation * (1 + 1e-9)
        if t.p > 1:
            shares = PCA().fit(x).explained_variance_ratio_
            assert shares[t.p - 1 :].sum() > truncation, "one component fewer would have kept the word too"


def test_what_is_dropped_is_in_every_prediction():
    """With z known exactly, the covariance left is that of the dropped components, and what held-out runs add."""
    y = table(400)
    t = OutputTransform.fit(WIDE, y, log=True, truncation=1e-2)
    assert t.p < 6
    p = t.push(Normal(t.to_z(torch.from_numpy(y)), 1e-9 * torch.ones(400, t.p).double()))
    residual = torch.from_numpy(y) - p.mean
    dropped = residual.T @ residual / 400
    torch.testing.assert_close(p.covariance_matrix[0] - torch.diag(t.unseen), dropped, rtol=1e-6, atol=1e-12)
    assert (t.unseen >= 0).all()
    assert (t.unseen < 0.1 * dropped.diagonal()).all()


def test_noise_outside_the_span_of_few_runs_is_seen():
    """64 runs of 200 noisy outputs span 63 directions: the variance told is that of new runs, not of these."""
    rng = np.random.default_rng(1)
    outputs = Outputs((Field("w", coordinate="k", at=tuple(range(200))),))
    y, new = rng.normal(size=(64, 200)), torch.from_numpy(rng.normal(size=(500, 200)))
    t = OutputTransform.fit(outputs, y, log=True, truncation=1e-10)
    z = t.to_z(new)
    p = t.push(Normal(z, 1e-6 * torch.ones_like(z)))
    ratio = ((new - p.mean) ** 2).mean() / p.variance.mean()
    assert 0.8 < ratio < 1.3


def test_a_full_covariance_of_z_is_carried_over():
    y = table()
    t = OutputTransform.fit(WIDE, y, log=True, truncation=1e-4)
    a = torch.as_tensor(np.random.default_rng(2).normal(size=(t.p, t.p)))
    c = a @ a.T + torch.eye(t.p).double()
    p = t.push(MultivariateNormal(torch.zeros(2, t.p).double(), c))
    floor = p.diagonal[0] - t.unseen
    expected = t.basis.T @ c @ t.basis + t.rest.T @ t.rest + torch.diag(t.unseen + floor)
    torch.testing.assert_close(p.covariance_matrix[1], expected)
    assert (floor > 0).all()
    diagonal = t.push(Normal(torch.zeros(t.p).double(), c.diagonal().sqrt()))
    twin = t.push(MultivariateNormal(torch.zeros(t.p).double(), torch.diag(c.diagonal())))
    torch.testing.assert_close(diagonal.covariance_matrix, twin.covariance_matrix)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(3, 12), st.integers(1, 5), st.integers(0, 2**31), st.booleans(),
    st.lists(st.floats(-25, 25), min_size=5, max_size=5), st.lists(st.floats(-3, 3), min_size=5, max_size=5),
)  # fmt: skip
def test_round_trip_in_any_units(n, m, seed, positive, decades, offsets):
    """The training runs come back to 1e-9 of what they vary by, from 1e-25 to 1e25 and around any offset."""
    rng = np.random.default_rng(seed)
    size = 10.0 ** np.array(decades[:m])
    y = size * (np.exp(rng.normal(size=(n, m))) if positive else np.array(offsets[:m]) + rng.normal(size=(n, m)))
    t = OutputTransform.fit(
        Outputs(tuple(Field(f"y{i}", positive=positive) for i in range(m))), y, log=True, truncation=0.0
    )
    z = t.to_z(torch.from_numpy(y))
    assert torch.isfinite(z).all()
    assert (np.abs(t.from_z(z).numpy() - y) <= 1e-9 * (np.abs(y) if positive else size)).all()


def test_constant_outputs_stay_constant():
    y = np.stack([np.linspace(0, 1, 9), np.full(9, 1000.0), np.zeros(9)], 1)
    t = OutputTransform.fit(Outputs((Field("a"), Field("b"), Field("c"))), y, log=True, truncation=1e-10)
    assert t.p == 1
    p = t.push(Normal(torch.zeros(1).double(), torch.ones(1).double()))
    assert p.mean.tolist() == pytest.approx([0.5, 1000.0, 0.0], abs=1e-12)
    assert p.stddev[1:].tolist() == pytest.approx([1e-9, 1e-12], rel=1e-3)
    everything = OutputTransform.fit(Outputs((Field("a"), Field("b"))), np.full((5, 2), 7.0), log=True, truncation=0.0)
    assert torch.equal(everything.to_z(torch.full((5, 2), 7.0).double()), torch.zeros(5, 1).double())
    assert everything.from_z(torch.zeros(1).double()).tolist() == [7.0, 7.0]


def test_logarithms_only_where_declared_and_asked():
    y = np.exp(np.random.default_rng(0).normal(size=(9, 2)))
    outputs = Outputs((Field("a", positive=True), Field("b")))
    assert OutputTransform.fit(outputs, y, log=True, truncation=0.0).log.tolist() == [True, False]
    assert OutputTransform.fit(outputs, y, log=False, truncation=0.0).log.tolist() == [False, False]


def test_what_has_no_square_in_float64_is_refused():
    outputs, y = Outputs((Field("a"), Field("b", positive=True))), np.arange(1.0, 6.0)[:, None] * np.ones(2)
    for scale, label, got in (
        ([1e200, 1.0], "a", "5e+200"),
        ([1e-200, 1.0], "a", "5e-200"),
        ([1.0, 1e200], "b", "5e+200"),
    ):
        with pytest.raises(InputError) as caught:
            OutputTransform.fit(outputs, y * scale, log=True, truncation=0.0)
        assert str(caught.value) == (f"output {label} must lie between 1e-130 and 1e+130 in size, for its variance is a number "
                                     f"too. Got {got}; give it in another unit.")  # fmt: skip
    for scale in (1e-120, 1e120):
        t = OutputTransform.fit(outputs, y * scale, log=False, truncation=1e-10)
        p = t.push(Normal(torch.zeros(t.p).double(), torch.ones(t.p).double()))
        assert ((p.variance > 0) & p.variance.isfinite()).all()
        assert p.log_prob(p.mean).isfinite()
    OutputTransform.fit(outputs, y * [1.0, 1e-200], log=True, truncation=0.0)  # a logarithm has a square


def test_outputs_that_never_vary_are_normal_whatever_z_is():
    t = OutputTransform.fit(Outputs((Field("a"),)), np.full((5, 1), 3.0), log=True, truncation=0.0)
    z = Independent(Laplace(torch.zeros(1).double(), 1.0), 1)
    p = t.push(z)
    assert (p.mean.item(), p.stddev.item()) == (3.0, pytest.approx(3e-12))
    assert p.log_prob(p.mean).isfinite()
    assert p.sample().isfinite().all()


def test_a_positive_field_that_is_not_is_refused():
    y = np.array([[1.0, 2.0], [3.0, -0.5], [1.0, 1.0]])
    outputs = Outputs((Field("pk", positive=True, coordinate="k", at=(0.1, 0.2)),))
    with pytest.raises(InputError) as caught:
        OutputTransform.fit(outputs, y, log=True, truncation=0.0)
    assert str(caught.value) == ("output pk[k=0.2] is declared positive. Got -0.5 in finished run 1; declare the field with "
                                 "positive = False, or set log: false in the recipe.")  # fmt: skip
    OutputTransform.fit(outputs, y, log=False, truncation=0.0)
