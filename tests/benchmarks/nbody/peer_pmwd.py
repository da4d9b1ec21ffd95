"""pmwd as its own examples use it: Boltzmann, linear modes, 2LPT, leapfrog with FastPM factors, its own adjoint.

Its pieces are compiled one by one, as in its examples: the 63 steps are a Python loop of one compiled step. float32
particles and meshes, float64 cosmology, as by default. Default mesh: as many cells as particles (`mesh_shape=1`);
`mesh_shape=2` is offered too. Force: -1/k^2 and spectral gradient, no deconvolution. Equal steps in a; its default is
63 from a = 1/64.
"""

from importlib.metadata import version

import jax
import jax.numpy as jnp
import numpy as np
import pmwd
from peer_spectrum import log_power, white_noise

A_START = 0.1


def about() -> dict:
    versions = {"pmwd": getattr(pmwd, "__version__", "checkout")} | {name: version(name) for name in ("jax", "mcfit")}
    return {"versions": versions, "settings": ["particles", "steps", "refinement"]}


def build(task, *, theta, **settings):
    value = loss(**settings)
    run = jax.value_and_grad(value) if task == "gradient" else value
    theta = jnp.asarray(theta)

    def evaluate():
        out = jax.block_until_ready(run(theta))
        return (float(out[0]), out[1].tolist()) if task == "gradient" else (float(out), [])

    return evaluate


def configure(box, particles, steps, refinement, **more):
    conf = pmwd.Configuration(box / particles, (particles,) * 3, mesh_shape=refinement, a_start=A_START,
                              a_nbody_maxstep=(1.0 - A_START) / steps * (1.0 + 1e-9),
                              growth_inistep=(1, 1), **more)  # fmt: skip  # its own guess of the second makes the gradient nan
    if conf.a_nbody_num != steps:
        raise ValueError(f"pmwd takes {conf.a_nbody_num} steps instead of {steps}")
    return conf


def loss(*, box, omega_b, particles, steps, refinement=1):
    """Sum of ln P(k) as a function of theta, its pieces compiled."""
    conf = configure(box, particles, steps, refinement)
    noise = jnp.asarray(white_noise(particles))
    spectrum = log_power(particles * refinement, particles)

    @jax.jit
    def start(theta):
        omega_m, sigma_8, n_s, h = theta
        cosmo = pmwd.Cosmology.from_sigma8(conf, sigma_8, n_s, omega_m, omega_b, h)
        cosmo = pmwd.boltzmann(cosmo, conf)
        return pmwd.lpt(pmwd.linear_modes(noise, cosmo, conf), cosmo, conf)[0], cosmo

    @jax.jit
    def finish(particles):
        return spectrum(pmwd.scatter(particles, conf) - 1.0)

    def value(theta):
        particles, cosmo = start(theta)
        particles, _ = pmwd.nbody(particles, None, cosmo, conf)
        return finish(particles)

    return value


def positions(*, theta, omega_b, box, delta, out, steps, refinement=1) -> dict:
    """From a linear density [n, n, n] (`delta`, .npy) to final displacements in particle spacings: x1 [n^3, 3]."""
    field = np.load(delta)
    conf = configure(box, field.shape[0], steps, refinement, float_dtype=jnp.float64)
    omega_m, _, n_s, h = theta
    cosmo = pmwd.boltzmann(pmwd.Cosmology(conf, 2.0, n_s, omega_m, omega_b, h), conf)  # the amplitude is in delta
    modes = jnp.fft.rfftn(jnp.asarray(field)) * conf.ptcl_cell_vol
    modes = modes / pmwd.growth(1.0, cosmo, conf)  # its growth is a at early times, ours 1 today
    particles, _ = pmwd.nbody(pmwd.lpt(modes, cosmo, conf)[0], None, cosmo, conf)
    np.savez(out, x1=particles.disp / conf.ptcl_spacing)
    return {"dtype": str(particles.disp.dtype)}
