"""The loss of all peers: sum of ln P(k) over bins one fundamental mode wide, up to half the particles' Nyquist."""

import jax
import jax.numpy as jnp
import numpy as np


def white_noise(particles: int) -> np.ndarray:
    """Real white noise [n, n, n], float32, the same in every process."""
    return np.random.default_rng(0).standard_normal((particles,) * 3).astype(np.float32)


def log_power(cells: int, particles: int):
    """A function of the density contrast [M, M, M]: sum of ln P over its bins, up to a constant."""
    full = np.fft.fftfreq(cells, 1.0 / cells)
    half = np.arange(cells // 2 + 1)
    n = np.sqrt(full[:, None, None] ** 2 + full[None, :, None] ** 2 + half**2)
    count = particles // 4
    which = np.round(n).astype(np.int32) - 1
    inside = (which >= 0) & (which < count)
    weight = np.where((half == 0) | (half == cells // 2), 1.0, 2.0) * inside
    which = np.where(inside, which, 0).reshape(-1)
    total = np.bincount(which, weight.reshape(-1), count)
    weight = (weight.reshape(-1) / total[which]).astype(np.float32)

    def value(delta):
        modes = jnp.fft.rfftn(delta).reshape(-1)
        size = (modes.real**2 + modes.imag**2) * weight
        return jnp.log(jax.ops.segment_sum(size, which, count)).sum()

    return value
