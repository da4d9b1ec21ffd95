"""A posterior, and an emulator, as functions that JAX compiles, maps and differentiates once (extra `jax`).

JAX calls torch on the host and differentiates by torch's own derivative: `jit`, `vmap`, `grad`, `jvp`, `jacfwd` and `jacrev`
work, second derivatives do not. Answers have the dtype of what is asked: switch on `jax_enable_x64` before, or the seven
digits of float32 are all that is left.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from emulate.adapters.numpy import Coordinates, Density
from emulate.contracts import rows_of
from emulate.emulator import Emulator
from emulate.errors import MissingPackage
from emulate.posterior import Posterior

try:
    import jax
    import jax.numpy as jnp
except ImportError as e:
    raise MissingPackage("emulate.adapters.jax", "jax", "jax") from e


def log_density(posterior: Posterior, coordinates: Coordinates = "theta") -> Callable[[Any], Any]:
    """ln p(theta, data) of x `[..., d]`, shape `[...]`, as `emulate.adapters.numpy.Density` gives it; see its coordinates.

    With coordinates "x", which have no bounds:

    - numpyro: `NUTS(potential_fn=lambda x: -ln_p(x))`; within a model of yours `numpyro.factor("emulated", ln_p(x))`.
    - blackjax: `blackjax.nuts(ln_p, ...)`.

    `posterior.theta` maps draws of x to the parameters. Chains that are mapped are asked in one batch
    (`chain_method="vectorized"`).

    >>> from emulate.distributions import Exact
    >>> from emulate.likelihoods.gaussian import Gaussian
    >>> from emulate.space import Normal, Parameter, Space
    >>> space = Space((Parameter("a", Normal(0.0, 1.0)),))
    >>> ln_p = log_density(Posterior(space, Exact, Gaussian(absolute_error=1.0), torch.tensor([2.0], dtype=torch.float64)))
    >>> jax.grad(ln_p)(jnp.array([0.5])).tolist(), jax.vmap(ln_p)(jnp.zeros((3, 1))).shape
    ([1.0], (3,))
    """
    density = Density(posterior, coordinates)

    @jax.custom_jvp
    def ln_p(x: Any) -> Any:
        return _ask(lambda t: (density(t),), [()], x)[0]

    @ln_p.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        (x,), (dx,) = primals, tangents
        value, slope = _ask(density.value_and_gradient, [(), x.shape[-1:]], x)
        return value, (slope * dx).sum(-1)

    return lambda x: ln_p(_floating(x))


def mean(emulator: Emulator) -> Callable[[Any], Any]:
    """E[y | theta] `[..., m]` of theta `[..., d]`: for a likelihood that you write in JAX yourself.

    The guard is that of `Emulator.moments`: none. Stay inside the box by the prior of your model.

    >>> from emulate import Field, Outputs, Parameter, Runs, Space, Uniform, fit
    >>> from emulate.emulators.polynomial import Polynomial
    >>> a = np.linspace(0, 1, 9)[:, None]
    >>> runs = Runs.of(Space((Parameter("a", Uniform(0, 1)),)), Outputs((Field("y"),)), a, a**2)
    >>> square = mean(fit(Polynomial(), runs, seed=0))
    >>> jax.jit(jax.jacrev(square))(jnp.array([0.5])).round(4).tolist()
    [[1.0]]
    """
    return _mapped(emulator, (lambda t: emulator.moments(t)[0],), (emulator.jacobian,), lambda found: found[0])


def moments(emulator: Emulator) -> Callable[[Any], tuple[Any, Any]]:
    """Mean and variance `[..., m]` of theta `[..., d]`, both differentiable: for likelihoods that count the emulator's error."""

    def slopes(theta: Any) -> Any:
        return rows_of(lambda t: emulator.moments(t)[1], theta)

    parts = (lambda t: emulator.moments(t)[0], lambda t: emulator.moments(t)[1])
    return _mapped(emulator, parts, (emulator.jacobian, slopes), tuple)


def _mapped(emulator: Emulator, values: tuple, slopes: tuple, given: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Functions of theta `[..., d]` with outputs `[..., m]`, and their Jacobians, as one function of JAX."""
    m, d = emulator.outputs.size, emulator.space.d

    def of(functions: tuple) -> Callable[[np.ndarray], tuple[np.ndarray, ...]]:
        return lambda t: tuple(f(torch.from_numpy(t)).detach().numpy() for f in functions)

    @jax.custom_jvp
    def f(theta: Any) -> Any:
        return tuple(_ask(of(values), [(m,)] * len(values), theta))

    @f.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        (theta,), (dtheta,) = primals, tangents
        found = _ask(of(values + slopes), [(m,)] * len(values) + [(m, d)] * len(slopes), theta)
        half = len(values)
        return tuple(found[:half]), tuple((j @ dtheta[..., None])[..., 0] for j in found[half:])

    return lambda theta: given(f(_floating(theta)))


def _floating(x: Any) -> Any:
    x = jnp.asarray(x)
    return x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(jnp.result_type(float))


def _ask(f: Callable[[np.ndarray], tuple], shapes: list[tuple[int, ...]], x: Any) -> list[Any]:
    """f of float64 arrays on the host, answers `[..., *shape]`; numpy alone is touched there, or JAX may wait for itself."""

    def on_host(x: Any) -> list[np.ndarray]:
        return [np.asarray(y, dtype) for y in f(np.array(x, np.float64))]

    dtype = x.dtype
    told = [jax.ShapeDtypeStruct((*x.shape[:-1], *shape), dtype) for shape in shapes]
    return jax.pure_callback(on_host, told, x, vmap_method="expand_dims")
