"""Transfer function by the Boltzmann code CAMB, with derivatives by central differences of its runs."""

import functools
import math

import numpy as np
import torch
from torch import Tensor

from emulate.errors import InputError
from emulate.simulators.nbody.background import Background
from emulate.simulators.nbody.growth import early_growth
from emulate.simulators.nbody.table import Grid

__all__ = ["RANGE", "camb_transfer"]

_GRID = Grid(5e-4, 20.0, 2048)
_LOG_K = np.log(_GRID.k.numpy())  # as numbers: under `torch.func` even a new tensor may not be one
RANGE = (_GRID.k_min, _GRID.k_max)  # h/Mpc
_HUBBLE_LENGTH = 2997.92458  # c / H_0 in Mpc/h
_ONCE = ('cosmology: derivatives must be first ones where transfer = "camb". Got a second one; differences of CAMB runs '
         'are too noisy for it, use "eisenstein_hu".')  # fmt: skip
_ACCURACY = 1.5  # of CAMB: P within 0.03 % of twice the default; the default itself leaves 0.08 %
_TEMPERATURE = 2.7255  # of the microwave background, K


def camb_transfer(k: Tensor, background: Background, omega_b: Tensor, h: Tensor) -> Tensor:
    r"""Transfer function T(k) of all matter today, close to 1 on large scales.

    .. math::
        \delta(k) = \tfrac25 \left( \frac{c k}{H_0} \right)^2 \frac{D(1)}{\Omega_m} T(k) \mathcal R(k)

    with delta in synchronous gauge by CAMB for the primordial curvature R, and D as in this library, a early. So the
    spectrum today is CAMB's, radiation and all; only growth before today is that without radiation. Three neutrinos
    without mass (N_eff = 3.044), dark energy in the parametrised post-Friedmann form, T_cmb = 2.7255 K.

    The values come from one run of CAMB (about a second on one core), the derivatives from two runs per number, which
    are made when a derivative is asked for. The last 64 runs are kept. Derivatives are good to about 0.5 % of the
    largest; second derivatives are refused.

    Reference: Lewis, Challinor & Lasenby 2000, ApJ 538, 473; Fang, Hu & Lewis 2008, PRD 78, 087303.

    Args:
        k: wavenumbers in h/Mpc, any shape, from 0.0005 to 20.
        background: matter, curvature and dark energy.
        omega_b: baryon density today, scalar.
        h: Hubble constant in units of 100 km/s/Mpc, scalar.

    Raises:
        InputError: CAMB is not installed or refuses the numbers, or k is outside its table.
    """
    b = background
    log_response = _GRID.at(_Response.apply(b.omega_m, omega_b, h, b.omega_k, b.w0, b.wa), k)
    return torch.exp(log_response) * 2.5 * b.omega_m / ((_HUBBLE_LENGTH * k) ** 2 * early_growth(b))


class _RowByRow(torch.autograd.Function):
    """A function of scalars that under `torch.func.vmap` is called once for each point."""

    @classmethod
    def vmap(cls, info, in_dims, *numbers):
        if all(dim is None for dim in in_dims):  # a batch of tangents at one point
            return cls.apply(*numbers), None
        at = [
            [x if dim is None else x.select(dim, i) for x, dim in zip(numbers, in_dims)] for i in range(info.batch_size)
        ]
        return torch.stack([cls.apply(*row) for row in at]), 0


class _Response(_RowByRow):
    """ln(delta / R) on the grid [n] as a function of the six numbers."""

    @staticmethod
    def forward(*numbers: Tensor) -> Tensor:
        return torch.from_numpy(_log_response(*_floats(numbers)).copy())

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)
        ctx.set_materialize_grads(False)  # a number without tangent costs no run

    @staticmethod
    def backward(ctx, cotangent):
        point, needed = ctx.saved_tensors, ctx.needs_input_grad
        return tuple((cotangent * _Slope.apply(i, *point)).sum(-1) if needed[i] else None for i in range(len(point)))

    @staticmethod
    def jvp(ctx, *tangents):
        return sum(_Slope.apply(i, *ctx.saved_tensors) * t for i, t in enumerate(tangents) if t is not None)


class _Slope(_RowByRow):
    """Derivative [n] of the response along number `i` by a central difference, itself without derivative.

    The steps are those where the noise of CAMB and the curvature of the function do equal harm.
    """

    @staticmethod
    def forward(i: int, *numbers: Tensor) -> Tensor:
        point = omega_m, omega_b, h, _, w0, wa = _floats(numbers)
        step = (0.03 * omega_m, 0.03 * omega_b, 0.015 * h, 0.01, 0.03, min(0.05, -0.5 * (w0 + wa)))[i]
        above, below = ((*point[:i], point[i] + s, *point[i + 1 :]) for s in (step, -step))
        return torch.from_numpy((_log_response(*above) - _log_response(*below)) / (2.0 * step))

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, cotangent):
        raise InputError(_ONCE)

    @staticmethod
    def jvp(ctx, *tangents):
        raise InputError(_ONCE)


def _floats(numbers: tuple[Tensor, ...]) -> tuple[float, ...]:
    return tuple(float(x.detach()) for x in numbers)


@functools.lru_cache(maxsize=64)
def _log_response(omega_m: float, omega_b: float, h: float, omega_k: float, w0: float, wa: float) -> np.ndarray:
    try:
        import camb
    except ImportError as error:
        raise InputError('cosmology: transfer = "camb" needs the package camb. Got no such package; '
                         "pip install emulate[cosmology].") from error  # fmt: skip
    from scipy.interpolate import CubicSpline

    try:
        parameters = camb.CAMBparams(WantCls=False)
        parameters.set_cosmology(H0=100.0 * h, ombh2=omega_b * h**2, omch2=(omega_m - omega_b) * h**2, omk=omega_k,
                                 mnu=0.0, nnu=3.044, TCMB=_TEMPERATURE)  # fmt: skip
        parameters.set_dark_energy(w=w0, wa=wa, dark_energy_model="ppf")  # pyright: ignore[reportArgumentType]  (0, not 0.0)
        parameters.set_matter_power(redshifts=[0.0], kmax=1.05 * _GRID.k_max * h, silent=True)
        parameters.set_accuracy(AccuracyBoost=_ACCURACY)
        data = camb.get_transfer_functions(parameters).get_matter_transfer_data()
    except camb.CAMBError as error:
        raise InputError(f"cosmology: the numbers must be ones that CAMB accepts. Got omega_m = {omega_m}, omega_b = "
                         f"{omega_b}, h = {h}, omega_k = {omega_k}, w0 = {w0}, wa = {wa}: {error}; narrow the "
                         "priors.") from error  # fmt: skip
    k, T = (data.transfer_data[row, :, 0].astype(np.float64) for row in (0, camb.model.Transfer_tot - 1))
    if not k[0] <= _GRID.k_min:
        raise InputError(f"cosmology: the table of CAMB must begin below {_GRID.k_min} h/Mpc. Got {k[0]:.3g} for "
                         f"omega_k = {omega_k}; use less curvature.")  # fmt: skip
    # CAMB divides by k^2 in 1/Mpc
    x = np.log(k)
    values = CubicSpline(x, np.log(T) + 2.0 * (x + math.log(h)))(_LOG_K)
    values.flags.writeable = False
    return values
