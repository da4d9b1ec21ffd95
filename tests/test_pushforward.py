"""A p(z) of any shape in physical units: scipy and quadrature for its density, draws for its moments."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal, Normal, StudentT

from emulate.distributions import Gaussian
from emulate.pushforward import Pushforward, draws, nodes
from emulate.runs import Field, Outputs
from emulate.transforms import OutputTransform

M, P, Z = 4, 2, 4.5
LOG = torch.tensor([False, True, True, False])


def tensor(*rows) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def two_humps(p: int, batch: int = 3) -> MixtureSameFamily:
    """Two Gaussians in p dimensions, other ones in every row of the batch."""
    centre, sd = random(batch, 2, p, seed=1), 0.2 + random(batch, 2, p, seed=2).abs()
    weight = torch.full((batch, 2), 0.5, dtype=torch.float64)
    return MixtureSameFamily(Categorical(weight), Independent(Normal(centre, sd), 1))


class WithNodes(MixtureSameFamily):
    """The mixture, with 20,000 draws for nodes."""

    @property
    def nodes(self) -> torch.Tensor:
        return draws(self, (20000,), torch.Generator().manual_seed(5)).movedim(0, -2)


def wide(z, log=LOG) -> Pushforward:
    """Fewer components than outputs, with much outside their span; outputs differ by twenty decades."""
    size = torch.where(LOG, 1.0, tensor(1e3, 1.0, 1.0, 1e-17)) * 0.5
    rest = 0.4 * random(1, M, seed=4) * size
    return Pushforward(z, random(M, seed=5) * size, random(P, M, seed=6) * size, 0.1 * size.square(), rest, log)


def test_with_all_components_it_is_the_change_of_variables_of_scipy():
    basis, centre = random(3, 3, seed=1), tensor(3.0, -1.0, 0.5)
    log, df = torch.tensor([True, False, True]), 4.0
    z = Independent(StudentT(torch.full((3,), df, dtype=torch.float64)), 1)
    y = Pushforward(z, centre, basis, torch.zeros(3, dtype=torch.float64), None, log)
    at = random(5, 3, seed=2)
    w = centre + at @ basis
    value = torch.where(log, w.exp(), w)
    twin = stats.t.logpdf(at.numpy(), df).sum(1) - np.log(abs(np.linalg.det(basis.numpy())))
    twin -= np.log(value.numpy()[:, log.numpy()]).sum(1)
    np.testing.assert_allclose(y.log_prob(value).numpy(), twin, rtol=1e-10)


def test_of_a_gaussian_it_is_the_gaussian_that_scipy_knows():
    """Both paths of the transform agree up to what is dropped, which is the noise inside the span."""
    z = MultivariateNormal(random(5, P, seed=3), torch.diag_embed(0.5 + random(5, P, seed=4).abs()))
    found = wide(z, log=None)
    inside = found.basis.mT @ torch.diag_embed(z.variance) @ found.basis
    mean, covariance = found.gaussian()
    torch.testing.assert_close(covariance - inside, found._outside.expand_as(inside), rtol=1e-9, atol=0.0)
    size = found._size
    value = mean + size * random(5, M, seed=6)
    for b in range(5):
        c = (covariance[b] / (size[:, None] * size)).numpy()
        twin = stats.multivariate_normal(mean[b] / size, c).logpdf(value[b] / size) - float(size.log().sum())
        assert abs(float(found.log_prob(value)[b]) - twin) < 1e-8
    dense = Gaussian(mean, z.variance, found.basis, found.diagonal, found.rest)
    assert (torch.linalg.eigvalsh((dense.covariance_matrix - covariance) / (size[:, None] * size)) > -1e-9).all()


def test_what_lies_outside_the_span_never_moves_z():
    """z is got back exactly from every draw: that is what makes the density exact."""
    z = two_humps(P)
    found = wide(z, log=None)
    y, same = (draws(d, (50,), torch.Generator().manual_seed(3)) for d in (found, z))
    torch.testing.assert_close((y - found.centre) @ found._back, same, rtol=1e-8, atol=1e-8)
    assert (y - found.centre - same @ found.basis).abs().max() > 0.1


@pytest.mark.parametrize("log", [LOG, None], ids=["mixed", "linear"])
@pytest.mark.parametrize("kind", [MixtureSameFamily, WithNodes])
def test_moments_are_those_of_the_draws(kind, log):
    z = two_humps(P)
    p, n = wide(kind(z.mixture_distribution, z.component_distribution), log), 20000
    y = p.sample((n,), generator=torch.Generator().manual_seed(7))
    count = 2 if kind is WithNodes else 1 + n / 1024  # both sides are draws
    off = (y.mean(0) - p.mean) / (y.std(0) * math.sqrt(count / n))
    assert off.abs().max() < Z
    x = (y - p.mean) / p.stddev
    product = x[..., :, None] * x[..., None, :]
    scale = p.stddev[..., :, None] * p.stddev[..., None, :]
    off = (product.mean(0) - p.covariance_matrix / scale) / (product.std(0) * math.sqrt(count / n))
    assert off.abs().max() < Z + 0.5
    torch.testing.assert_close(p.covariance_matrix.diagonal(dim1=-2, dim2=-1), p.variance, rtol=1e-9, atol=0.0)


@pytest.mark.parametrize("log", [LOG, None], ids=["mixed", "linear"])
def test_the_density_is_that_of_the_draws(log):
    """E[g(y) / p(y)] = 1 for a density g: normal in w, narrower than the draws."""
    p, n = wide(two_humps(P), log), 20000
    y = p.sample((n,), generator=torch.Generator().manual_seed(1))
    w = y if log is None else torch.where(log, torch.where(log, y, 1.0).log(), y)
    jacobian = 0.0 if log is None else torch.where(log, w, 0.0).sum(-1)
    for b in range(3):
        scale = w[:, b].std(0)
        c = torch.cov((w[:, b] / scale).T) / 2
        g = stats.multivariate_normal((w[:, b] / scale).mean(0), c).logpdf(w[:, b] / scale) - float(scale.log().sum())
        weight = (torch.from_numpy(g) - (0.0 if log is None else jacobian[:, b]) - p.log_prob(y)[:, b]).exp()
        assert abs(float(weight.mean() - 1) / float(weight.std()) * math.sqrt(n)) < Z


@pytest.mark.parametrize("positive", [False, True])
def test_in_one_and_two_dimensions_it_integrates_to_one(positive):
    for m in (1, 2):
        z = two_humps(m, batch=1)
        log = torch.full((m,), positive)
        p = Pushforward(z, torch.zeros(m, dtype=torch.float64), torch.eye(m, dtype=torch.float64) + 0.3,
                        torch.zeros(m, dtype=torch.float64), None, log)  # fmt: skip
        axis = torch.linspace(-14, 14, 1401, dtype=torch.float64)
        w = torch.stack(torch.meshgrid(*[axis] * m, indexing="ij"), -1).reshape(-1, m)
        y, jacobian = (w.exp(), w.sum(-1)) if positive else (w, 0.0)
        assert abs(float((p.log_prob(y) + jacobian).exp().sum()) * 0.02**m - 1) < 1e-3


def test_the_transform_pushes_anything_that_is_not_a_gaussian():
    outputs = Outputs((Field("a"), Field("b", "", True)))
    y = np.stack([1000 + random(50).numpy(), np.exp(random(50, seed=1).numpy())], 1)
    transform = OutputTransform.fit(outputs, y, log=True, truncation=1e-10)
    normal = Normal(random(3, 2, seed=2), torch.ones(3, 2, dtype=torch.float64))
    a, b = transform.push(normal), transform.push(Independent(normal, 1))
    assert (type(a), type(b)) == (Gaussian, Pushforward)
    value = a.sample((4,), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(a.log_prob(value), b.log_prob(value), rtol=1e-6, atol=1e-6)
    assert (b.batch_shape, b.event_shape) == ((3,), (2,))


def test_a_positive_output_has_no_density_below_zero_and_gradients_stay_finite():
    z = two_humps(2, batch=1)
    p = Pushforward(z, torch.zeros(2).double(), torch.eye(2, dtype=torch.float64), torch.zeros(2).double(), None,
                    torch.tensor([True, False]))  # fmt: skip
    y = tensor([-1.0, 0.0], [0.0, 0.0], [1.0, 0.0]).requires_grad_()
    density = p.log_prob(y)
    assert torch.isneginf(density).flatten().tolist() == [True, True, False]
    density[torch.isfinite(density)].sum().backward()
    assert torch.isfinite(y.grad).all()


def test_its_own_moments_are_enough_where_it_tells_them_all():
    z = MultivariateNormal(random(3, P), torch.eye(P, dtype=torch.float64))
    p = wide(z, log=None)
    torch.testing.assert_close(p.mean, p.centre + z.mean @ p.basis)
    torch.testing.assert_close(p.covariance_matrix, (p.basis.mT @ p.basis + p._outside).expand(3, M, M))


def test_a_generator_makes_draws_repeat_and_the_global_one_is_left_alone():
    z = two_humps(P)
    before = torch.get_rng_state()
    found = [wide(z).sample((3,), generator=torch.Generator().manual_seed(2)) for _ in range(2)]
    assert torch.equal(*found)
    assert torch.equal(nodes(z), nodes(z))
    assert torch.equal(torch.get_rng_state(), before)
