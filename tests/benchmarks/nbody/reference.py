"""The parts of a step as they are now (the hook to adapt when they change), and the same in plain C."""

import ctypes
import shutil
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from torch import Tensor

from emulate.simulators.nbody.cloud import Cloud, Mesh


def mesh_of(particles: int, refinement: int, compiled: bool = False) -> Mesh:
    """The mesh; skips in words when there is no compiled one."""
    if not compiled:
        return Mesh(particles, refinement)
    if "compiled" not in {field.name for field in fields(Mesh)}:
        pytest.skip("this version has no compiled paint and gather")
    return Mesh(particles, refinement, compiled=True)


def cloud(x: Tensor, mesh: Mesh):
    return mesh.cloud(x) if hasattr(mesh, "cloud") else Cloud(x, mesh)


def paint(x: Tensor, mesh: Mesh) -> Tensor:
    """Displacements to mesh, with the corners that a cloud finds once for painting and gathering."""
    out = cloud(x, mesh).paint(None)
    return out[0] if isinstance(out, list) else out


class Reference:
    """`cic.c`, compiled into a folder with the optimisation of its users' machine; skips in words without a compiler."""

    def __init__(self, folder: Path):
        compiler = shutil.which("gcc") or shutil.which("cc")
        if compiler is None:
            pytest.skip("the C reference needs gcc or cc")
        target = folder / "cic.so"
        source = Path(__file__).with_name("cic.c")
        command = [compiler, "-O3", "-march=native", "-shared", "-fPIC", "-o", str(target), str(source), "-lm"]
        made = subprocess.run(command, capture_output=True, text=True)
        if made.returncode:
            pytest.skip(f"the C reference did not compile: {made.stderr[-400:]}")
        self._library = ctypes.CDLL(str(target))

    def paint(self, x: Tensor, mesh: Mesh, out: Tensor) -> Tensor:
        self._library.paint(_at(x), mesh.particles, mesh.refinement, _offset(mesh), _at(out))
        return out

    def gather(self, x: Tensor, mesh: Mesh, three: Tensor, out: Tensor) -> Tensor:
        self._library.gather(_at(x), mesh.particles, mesh.refinement, _offset(mesh), _at(three), _at(out))
        return out

    def slope(self, field: Tensor, out: Tensor) -> Tensor:
        self._library.slope(_at(field), field.shape[0], _at(out))
        return out


def _at(x: Tensor) -> ctypes.c_void_p:
    if x.dtype != torch.float32 or not x.is_contiguous():
        raise ValueError(f"the C reference takes contiguous float32. Got {x.dtype}, strides {x.stride()}")
    return ctypes.c_void_p(x.data_ptr())


def _offset(mesh: Mesh) -> ctypes.c_float:
    return ctypes.c_float(getattr(mesh, "offset", 0.5))
