"""The real Fourier transform in three dimensions, with the same bits on any number of threads, and its wavenumbers."""

import math
from typing import Literal

import torch
from torch import Tensor

__all__ = ["angular", "forward", "inverse"]

Norm = Literal["forward", "backward"]  # which of the two directions carries 1 / n^3, as in torch.fft


def forward(field: Tensor, norm: Norm = "backward") -> Tensor:
    """Half-complex transform [n, n, n // 2 + 1] of a real field [n, n, n].

    Equal to `torch.fft.rfftn` up to rounding. Two axes in the real direction and then the third, since both the one-
    and the three-dimensional real transforms of MKL round differently with the number of threads.
    """
    return torch.fft.fft(torch.fft.rfft2(field, norm=norm), dim=0, norm=norm)


def inverse(modes: Tensor, norm: Norm = "backward") -> Tensor:
    """Real field [n, n, n], n even, of a half-complex transform; the inverse of `forward`."""
    return torch.fft.irfft2(torch.fft.ifft(modes, dim=0, norm=norm), s=(modes.shape[0],) * 2, norm=norm)


def angular(cells: int) -> tuple[Tensor, Tensor, Tensor]:
    """Wavenumbers of a half-complex transform, radians per cell, float64, broadcastable to [n, n, n // 2 + 1]."""
    full = 2.0 * math.pi * torch.fft.fftfreq(cells, dtype=torch.float64)
    half = 2.0 * math.pi * torch.fft.rfftfreq(cells, dtype=torch.float64)
    return full[:, None, None], full[None, :, None], half[None, None, :]
