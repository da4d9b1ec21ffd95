"""JAX differentiates through torch: against the linear Gaussian in closed form; numpyro and blackjax reach its answers."""

import numpy as np
import pytest
import torch

from emulate.adapters.numpy import Density
from tests.adapters import line

jax = pytest.importorskip("jax")
jnp = pytest.importorskip("jax.numpy")
adapter = pytest.importorskip("emulate.adapters.jax")

THETA = np.random.default_rng(1).normal(size=(4, 3, 2))


@pytest.fixture(autouse=True)
def _float64():
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


@pytest.fixture(scope="module")
def posterior():
    return line.posterior()


def test_values_and_gradients_are_those_of_the_closed_form(posterior):
    ln_p, told = adapter.log_density(posterior), line.answer()
    np.testing.assert_allclose(jax.jit(ln_p)(THETA), told.log_density(THETA), rtol=1e-9)
    np.testing.assert_allclose(jax.vmap(jax.vmap(jax.grad(ln_p)))(THETA), told.gradient(THETA), rtol=1e-8, atol=1e-9)
    value, slope = jax.jvp(ln_p, (THETA[0, 0],), (np.array([0.6, -0.8]),))
    assert float(value) == pytest.approx(told.log_density(THETA[0, 0]), rel=1e-9)
    assert float(slope) == pytest.approx(told.gradient(THETA[0, 0]) @ [0.6, -0.8], rel=1e-8)


def test_mapped_points_are_asked_in_one_call(posterior, monkeypatch):
    shapes = []
    plain = Density.value_and_gradient
    monkeypatch.setattr(Density, "value_and_gradient", lambda self, x: shapes.append(np.shape(x)) or plain(self, x))
    jax.jit(jax.vmap(jax.value_and_grad(adapter.log_density(posterior, "x"))))(THETA[0])
    assert shapes == [(3, 2)]


def test_an_emulator_is_a_function_of_jax():
    emulator = line.emulator()
    mean, moments = adapter.mean(emulator), adapter.moments(emulator)
    theta = torch.from_numpy(THETA)
    np.testing.assert_allclose(mean(THETA), THETA @ line.A.T + line.B, atol=1e-9)
    np.testing.assert_allclose(
        jax.vmap(jax.vmap(jax.jacrev(mean)))(THETA), np.broadcast_to(line.A, (4, 3, 3, 2)), atol=1e-9
    )
    np.testing.assert_allclose(jax.jacfwd(mean)(THETA[0, 0]), line.A, atol=1e-9)
    for found, told in zip(jax.jit(moments)(THETA), emulator.moments(theta), strict=True):
        np.testing.assert_array_equal(found, told)
    slope = jax.jacrev(lambda t: moments(t)[1])(THETA[0, 0])
    told = torch.func.jacrev(lambda t: emulator.moments(t)[1])(theta[0, 0])
    np.testing.assert_allclose(slope, told, rtol=1e-9)
    assert np.abs(slope).max() > 0


def test_answers_have_the_dtype_of_the_question(posterior):
    ln_p = adapter.log_density(posterior)
    assert ln_p(jnp.zeros(2, jnp.float32)).dtype == jnp.float32
    assert jax.grad(ln_p)(jnp.zeros(2, jnp.float32)).dtype == jnp.float32
    assert ln_p(jnp.zeros(2, int)).dtype == jnp.float64


def test_a_point_outside_the_prior_has_no_density_and_no_slope():
    from emulate import Parameter, Space, Uniform

    space = Space((Parameter("a", Uniform(-1, 2)), Parameter("b", Uniform(-1, 1))))
    value, slope = jax.value_and_grad(adapter.log_density(line.posterior(space)))(jnp.array([3.0, 0.0]))
    assert float(value) == -np.inf
    assert slope.tolist() == [0.0, 0.0]


@pytest.mark.slow
def test_numpyro_reaches_the_closed_form(posterior):
    infer = pytest.importorskip("numpyro.infer")
    diagnostics = pytest.importorskip("numpyro.diagnostics")
    ln_p = adapter.log_density(posterior, "x")
    kernel = infer.NUTS(potential_fn=lambda x: -ln_p(x))
    chains = infer.MCMC(
        kernel, num_warmup=150, num_samples=250, num_chains=4, chain_method="vectorized", progress_bar=False
    )
    chains.run(jax.random.key(1), init_params=jnp.asarray(Density(posterior, "x").starts(4, seed=1)))
    x = np.array(chains.get_samples(group_by_chain=True))
    theta = Density(posterior, "x").theta(x)
    ess = np.minimum(diagnostics.effective_sample_size(theta), diagnostics.effective_sample_size(theta**2))
    assert ess.min() > 200
    assert np.abs(line.z_scores(theta.reshape(-1, 2), ess)).max() < 4


@pytest.mark.slow
def test_a_model_of_numpyro_calls_the_emulator_itself():
    numpyro = pytest.importorskip("numpyro")
    diagnostics = pytest.importorskip("numpyro.diagnostics")
    mean = adapter.mean(line.emulator())

    def model():
        theta = numpyro.sample("theta", numpyro.distributions.Normal(line.MEAN, line.SD).to_event(1))
        numpyro.sample("y", numpyro.distributions.Normal(mean(theta), line.NOISE).to_event(1), obs=line.DATA)

    chain = numpyro.infer.MCMC(numpyro.infer.NUTS(model), num_warmup=300, num_samples=1000, progress_bar=False)
    chain.run(jax.random.key(2))
    theta = np.array(chain.get_samples(group_by_chain=True)["theta"])
    ess = np.minimum(diagnostics.effective_sample_size(theta), diagnostics.effective_sample_size(theta**2))
    assert np.abs(line.z_scores(theta.reshape(-1, 2), ess)).max() < 4


@pytest.mark.slow
def test_blackjax_reaches_the_closed_form(posterior):
    blackjax = pytest.importorskip("blackjax")
    ln_p = adapter.log_density(posterior, "x")
    warm = blackjax.window_adaptation(blackjax.nuts, ln_p)
    (state, parameters), _ = warm.run(jax.random.key(1), jnp.zeros(2), 300)
    step = blackjax.nuts(ln_p, **parameters).step
    _, x = jax.lax.scan(
        lambda s, k: (lambda n: (n, n.position))(step(k, s)[0]), state, jax.random.split(jax.random.key(2), 1000)
    )
    theta = Density(posterior, "x").theta(np.array(x))
    ess = np.array([float(blackjax.ess(jnp.asarray(v)[None], sample_axis=1)) for v in theta.T])
    assert np.abs(line.z_scores(theta, ess)).max() < 4
