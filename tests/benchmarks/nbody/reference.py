"""Cloud in cell and differences in plain C, and the same differences by rolling arrays."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from torch import Tensor


class Reference:
    """`cic.c`, compiled into a folder for this machine; skips in words without a compiler.

    Arguments are contiguous float32: x [3, N] in cells, fields [M, M, M] or [3, M, M, M], and where to write.
    """

    def __init__(self, folder: Path):
        compiler = shutil.which("gcc") or shutil.which("cc")
        if compiler is None:
            pytest.skip("the C reference needs gcc or cc")
        target, source = folder / "cic.so", Path(__file__).with_name("cic.c")
        command = [compiler, "-O3", "-march=native", "-shared", "-fPIC", "-o", str(target), str(source), "-lm"]
        made = subprocess.run(command, capture_output=True, text=True)
        if made.returncode:
            pytest.skip(f"the C reference did not compile: {made.stderr[-400:]}")
        self._library = ctypes.CDLL(str(target))

    def paint(self, mesh, x: Tensor, out: Tensor) -> Tensor:
        self._library.paint(_at(x), mesh.particles, mesh.refinement, ctypes.c_float(mesh.offset), _at(out))
        return out

    def gather(self, mesh, x: Tensor, three: Tensor, out: Tensor) -> Tensor:
        self._library.gather(_at(x), mesh.particles, mesh.refinement, ctypes.c_float(mesh.offset), _at(three), _at(out))
        return out

    def slope(self, field: Tensor, out: Tensor) -> Tensor:
        self._library.slope(_at(field), field.shape[0], _at(out))
        return out


def _at(x: Tensor) -> ctypes.c_void_p:
    if x.dtype != torch.float32 or not x.is_contiguous():
        raise ValueError(f"the C reference takes contiguous float32. Got {x.dtype}, strides {x.stride()}")
    return ctypes.c_void_p(x.data_ptr())


def slope(field: Tensor) -> Tensor:
    """Gradient [3, M, M, M] of a periodic field by fourth-order central differences, per cell."""

    def shifted(by: int, axis: int) -> Tensor:
        return torch.roll(field, -by, axis)

    return torch.stack([(8.0 * (shifted(1, i) - shifted(-1, i)) - (shifted(2, i) - shifted(-2, i))) / 12.0
                        for i in range(3)])  # fmt: skip


def inverse_laplacian(field: Tensor) -> Tensor:
    """Solution of laplacian phi = field, mean zero, per cell squared, by the kernel -1 / k^2."""
    k = 2.0 * torch.pi * torch.fft.fftfreq(field.shape[0], dtype=field.dtype)
    k2 = k[:, None, None] ** 2 + k[:, None] ** 2 + k**2
    k2[0, 0, 0] = torch.inf
    return torch.fft.ifftn(-torch.fft.fftn(field) / k2).real
