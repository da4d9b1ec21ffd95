"""JaxPM as its notebooks use it: power spectrum, linear field, 2LPT, equal steps in a, density, P(k).

Force: cloud in cell on a mesh of as many cells as particles (`cic_paint` demands it: there is no other refinement),
-1/k^2, fourth-order difference gradient by three inverse complex transforms, no deconvolution.

Stepping "diffrax": `make_diffrax_ode` with `LeapfrogMidpoint`, `ConstantStepSize`, gradient by
`RecursiveCheckpointAdjoint`; of the solvers in JaxPM's notebooks the only one with a fixed number of steps, and the
adjoint of its own tests. Stepping "scan": the same right-hand side (`make_ode_fn`) in kick-drift-kick steps in a
`jax.lax.scan` whose body is a `jax.checkpoint`; one force a step, the leanest that can be built from its parts.
"""

from importlib.metadata import version

import diffrax
import jax
import jax.numpy as jnp
import jax_cosmo
import numpy as np
from jaxpm.distributed import fft3d, ifft3d, uniform_particles
from jaxpm.growth import growth_factor, growth_rate
from jaxpm.kernels import fftk
from jaxpm.painting import cic_paint, cic_paint_dx
from jaxpm.pm import lpt, make_diffrax_ode, make_ode_fn
from peer_spectrum import log_power, white_noise

A_START = 0.1


def about() -> dict:
    versions = {name: version(name) for name in ("jaxpm", "jax", "jax_cosmo", "diffrax", "numpy")}
    return {"versions": versions, "settings": ["particles", "steps", "stepping", "paint"]}


def build(task, *, theta, **settings):
    value = loss(**settings)
    run = jax.jit(jax.value_and_grad(value) if task == "gradient" else value)
    theta = jnp.asarray(theta)

    def evaluate():
        out = jax.block_until_ready(run(theta))
        return (float(out[0]), out[1].tolist()) if task == "gradient" else (float(out), [])

    return evaluate


def loss(*, box, omega_b, particles, steps, stepping="diffrax", paint="displacement"):
    """Sum of ln P(k) as a function of theta, not yet compiled."""
    shape = (particles,) * 3
    noise = white_noise(particles)
    spectrum = log_power(particles, particles)

    def value(theta):
        table = jnp.logspace(-4, 1, 128)
        power = jax_cosmo.power.linear_matter_power(cosmology(theta, omega_b), table)
        cosmo = cosmology(theta, omega_b)  # a new one: JaxPM cannot use the growth that the first keeps
        modes = fft3d(jnp.asarray(noise))
        k = sum((kk / box * particles) ** 2 for kk in fftk(modes))
        k = jnp.sqrt(jnp.where(k == 0, 1.0, k))
        size = jnp.interp(k.reshape(-1), table, power).reshape(k.shape) * particles**3 / box**3
        delta = ifft3d(modes.at[0, 0, 0].set(0.0) * jnp.sqrt(size))
        state = initial(cosmo, delta, shape, paint)
        x = march(cosmo, state, shape, steps, stepping, paint)
        field = cic_paint_dx(x) if paint == "displacement" else cic_paint(jnp.zeros(shape), x)
        return spectrum(field - 1.0)

    return value


def cosmology(theta, omega_b):
    omega_m, sigma_8, n_s, h = theta
    return jax_cosmo.Cosmology(Omega_c=omega_m - omega_b, Omega_b=omega_b, h=h, n_s=n_s, sigma8=sigma_8,
                               Omega_k=0.0, w0=-1.0, wa=0.0)  # fmt: skip


def initial(cosmo, delta, shape, paint):
    """2LPT positions (or displacements) and momenta a^3 E dx/da, [2, n, n, n, 3]."""
    lattice = None if paint == "displacement" else uniform_particles(shape).astype(delta.dtype)
    dx, p, _ = lpt(cosmo, delta, particles=lattice, a=A_START, order=2)
    return jnp.stack([dx if lattice is None else lattice + dx, p])


def march(cosmo, state, shape, steps, stepping, paint):
    """Final positions (or displacements) [n, n, n, 3]; "adaptive" is Dopri5 to 1e-7, as in JaxPM's own tests."""
    absolute = paint == "absolute"
    if stepping != "scan":
        solver, control, dt = {
            "diffrax": (diffrax.LeapfrogMidpoint(), diffrax.ConstantStepSize(), (1.0 - A_START) / steps),
            "adaptive": (diffrax.Dopri5(), diffrax.PIDController(rtol=1e-7, atol=1e-7), None),
        }[stepping]
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(make_diffrax_ode(shape, paint_absolute_pos=absolute)), solver, t0=A_START, t1=1.0, dt0=dt,
            y0=state, args=cosmo, saveat=diffrax.SaveAt(t1=True), stepsize_controller=control,
            adjoint=diffrax.RecursiveCheckpointAdjoint(), max_steps=max(4096, 2 * steps))  # fmt: skip
        return solution.ys[-1, 0]
    right = make_ode_fn(shape, paint_absolute_pos=absolute)
    da = (1.0 - A_START) / steps

    @jax.checkpoint
    def step(carry, a):
        x, p, force = carry  # the force at the end of a step is that at the start of the next
        p = p + 0.5 * da * force / _kick(cosmo, a)
        x = x + da * p / _drift(cosmo, a + 0.5 * da)
        force = right((x, p), a + da, cosmo)[1] * _kick(cosmo, a + da)
        return (x, p + 0.5 * da * force / _kick(cosmo, a + da), force), None

    x, p = state
    force = right((x, p), A_START, cosmo)[1] * _kick(cosmo, A_START)
    (x, _, _), _ = jax.lax.scan(step, (x, p, force), A_START + da * jnp.arange(steps))
    return x


def _drift(cosmo, a):
    return a**3 * jnp.sqrt(jax_cosmo.background.Esqr(cosmo, a))


def _kick(cosmo, a):
    return a**2 * jnp.sqrt(jax_cosmo.background.Esqr(cosmo, a))


def positions(*, theta, omega_b, delta, out, steps, stepping="scan", paint="displacement", x64=True) -> dict:
    """From a linear density [n, n, n] (`delta`, .npy): displacements in cells and momenta at the start, and at the end.

    Saves x0, p0, x1 [n, n, n, 3] and D, f at the start, as JaxPM has them. Double precision unless `x64` is false.
    """
    jax.config.update("jax_enable_x64", x64)
    field = jnp.asarray(np.load(delta), dtype=jnp.float64 if x64 else jnp.float32)
    cosmo = cosmology(theta, omega_b)
    state = initial(cosmo, field, field.shape, paint)
    x = jax.jit(lambda y: march(cosmology(theta, omega_b), y, field.shape, steps, stepping, paint))(state)
    a = jnp.atleast_1d(A_START)
    np.savez(out, x0=state[0], p0=state[1], x1=x, D=growth_factor(cosmo, a), f=growth_rate(cosmo, a))
    jax.config.update("jax_enable_x64", False)
    return {"dtype": str(x.dtype)}
