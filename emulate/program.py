"""An emulator as one graph of tensor operations, for programs that know no `emulate`: torch's `.pt2`, or ONNX."""

import copy
import json
import math
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.distributions import Normal
from torch.fx.experimental.proxy_tensor import make_fx

from emulate import exchange
from emulate.distributions import Correlated
from emulate.emulator import Emulator
from emulate.errors import InputError, StoreError

ABOUT = "emulate.json"  # what a .pt2 holds beside its graph, and an ONNX file as its metadata `emulate`
RESULTS = {
    "mean": "[n, m], in the units of the outputs",
    "variance": "[n, m], its square root is the standard deviation",
    "outside": "[n], 0 inside the box of the parameters, else how far outside, in box widths; inf for what is no number",
    "jacobian": "[n, m, d], d mean / d theta",
}


class Moments(torch.nn.Module):
    """theta `[n, d]` float64 -> mean and variance `[n, m]`, and outside `[n]`: what is exported or compiled."""

    def __init__(self, emulator: Emulator):
        super().__init__()
        self.emulator = emulator

    def forward(self, theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        far = self.emulator.domain(theta)
        return *self.emulator.moments(theta), torch.where(far.isfinite(), far, math.inf)


class Planes(Moments):
    """The same at `at`, where theta is, and on its way to theta the slopes of the core in closed form: the value of
    m(a) + S(a) (u - a) at u = a is m(a), and its derivative S(a), to be had without differentiating m."""

    def forward(self, theta: Tensor, at: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        e = self.emulator
        u, a = e.scaled(theta), e.scaled(at)
        p, slopes = e.core.tangent(a)
        by_mean, by_variance = cast(tuple[Tensor, Tensor], slopes)
        step = (u - a)[..., None, :]
        mean, sd = p.mean + (by_mean * step).sum(-1), p.stddev + (by_variance * step).sum(-1) / (2 * p.stddev)
        near = Correlated(mean, sd, p.mix) if isinstance(p, Correlated) else Normal(mean, sd, validate_args=False)
        y, far = e.transform.push(near), e.domain(at)
        return y.mean, y.variance, torch.where(far.isfinite(), far, math.inf)


def export(emulator: Emulator, path: str | os.PathLike, *, jacobian: bool = False) -> Path:
    """Write mean, variance, `outside` and, where asked, the Jacobian as one graph for any number of points.

    - `.pt2`: any program with torch runs it, differentiably, by `torch.export.load(path).module()`; for C++ compile what is
      loaded by `torch._inductor.aoti_compile_and_package`.
    - `.onnx`: float64 throughout, for onnxruntime in C, C++, C#, Java, JavaScript or Python; the extra `onnx` writes it.

    The graph takes theta `[n, d]` and gives, in this order, mean `[n, m]`, variance `[n, m]`, outside `[n]` and the
    Jacobian d mean / d theta `[n, m, d]`. No graph can warn: it extrapolates, and `outside`, as of `Emulator.domain`, is
    there for the program around it to refuse what is above 0. A .pt2 says what `Emulator.moments` says, bit for bit where
    torch orders its sums alike. onnxruntime's exp and sums differ in the last bits, which move a mean by less than 1e-10 of
    what outputs vary by. More than 32 smooth runs without noise are the exception: the weights of a process then cancel and
    magnify those bits, up to 4e-6 of the outputs' spread in a mean of 200 runs and to some per cent of a variance, which is
    rounding in the emulator too; `arithmetic: portable` of `gp` rounds alike in both, for some times the time. Names, units
    and priors of the parameters and the names, units and coordinates of the outputs lie in the file as JSON: `emulate.json` in a
    .pt2, the metadata `emulate` in ONNX.

    `emulate.load` does not read such a file: the emulator itself is the folder that `save` writes. A .pt2 is in torch's
    format; open only those whose writer you trust. Raises `InputError` where the recipe's prediction is no such graph.

    >>> import numpy as np
    >>> from emulate import Field, Outputs, Parameter, Runs, Space, Uniform, fit
    >>> from emulate.emulators.polynomial import Polynomial
    >>> x = np.linspace(0, 1, 9)[:, None]
    >>> runs = Runs.of(Space((Parameter("a", Uniform(0, 1)),)), Outputs((Field("y"),)), x, 1000 + x**2)
    >>> path = export(fit(Polynomial(), runs, seed=0), "square.pt2")
    >>> mean, variance, outside = torch.export.load(path).module()(torch.tensor([[0.5], [1.25]], dtype=torch.float64))
    >>> mean.ravel(), outside
    (tensor([1000.2500, 1001.5625], dtype=torch.float64), tensor([0.0000, 0.2500], dtype=torch.float64))
    """
    path = Path(path)
    if path.suffix not in (".pt2", ".onnx"):
        stem = path.stem if path.suffix[1:].isalpha() else path.name  # of "v1.2" nothing is taken off
        raise InputError(
            f"the path of an exported emulator must end in .pt2 or .onnx. Got {path}; call it {stem}.pt2, or {stem}.onnx."
        )
    if path.suffix == ".onnx":
        exchange.need()
    if emulator.device.type != "cpu":  # a graph is of one device; who loads it moves it
        emulator = copy.deepcopy(emulator).to("cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch about itself
        graph = _graph(emulator, jacobian=jacobian, onnx=path.suffix == ".onnx")
        results = [*RESULTS][: 4 if jacobian else 3]
        text = json.dumps(about(emulator, results))
        write = _pt2 if path.suffix == ".pt2" else exchange.write
        _place(path, lambda beside: write(graph, beside, results, text))
    return path


def about(emulator: Emulator, results: list[str]) -> dict[str, Any]:
    """What a foreign program must know of the numbers: plain JSON."""
    parameters = [
        {**told, "box": [getattr(p.prior, end, None) for end in ("low", "high")]}
        for told, p in zip(emulator.space.to_dict(), emulator.space.parameters, strict=True)
    ]
    fields = [(f, x) for f in emulator.outputs.fields for x in f.at or (None,)]
    outputs = [
        {"label": label, "field": f.name, "unit": f.unit}
        | ({} if x is None else {"coordinate": f.coordinate, "at": x, "at_unit": f.at_unit})
        for label, (f, x) in zip(emulator.outputs.labels, fields, strict=True)
    ]
    return {"format": "emulate.graph", "version": 1, "made_with": f"emulate {version('emulate')}",
            "recipe": emulator.recipe.entry_name(), "theta": "[n, d] float64, the parameters in this order, in their units",
            "parameters": parameters, "outputs": outputs, "results": {name: RESULTS[name] for name in results}}  # fmt: skip


def _graph(emulator: Emulator, *, jacobian: bool, onnx: bool) -> torch.export.ExportedProgram:
    theta = emulator.space.from_unit(torch.full((emulator.space.d + 5, emulator.space.d), 0.5, dtype=torch.float64))
    try:
        closed = jacobian and emulator.core.closed
        made, at = (Planes, (theta, theta.clone())) if closed else (Moments, (theta,))
        plain = _exported(made(emulator).eval(), *at)
        if not jacobian and not onnx:
            return plain
        table, first = (exchange.DECOMPOSITIONS, exchange.FIRST) if onnx else ({}, {})
        simple = torch.export.default_decompositions()
        if not onnx:  # the same operations give the same bits; the slope of `linear` would fix the number of points
            simple = {op: made for op, made in simple.items() if op == torch.ops.aten.linear.default}
        inner = plain.run_decompositions({**simple, **first}).module()
        whole = _with_jacobian(inner if closed else lambda t, _: inner(t)) if jacobian else inner
        traced = make_fx(whole, table, tracing_mode="symbolic", _allow_non_fake_inputs=True)(theta)
        if onnx:
            exchange.fold(traced)
            exchange.keep_numbers(traced)
        traced.graph.eliminate_dead_code()
        traced.recompile()
        return _exported(traced, theta)
    except (RuntimeError, TypeError) as e:  # what torch raises where a value or a number of points decides what is done
        said = str(e).split("\n", 1)[0].rstrip(". ")
        raise InputError(f"{emulator.recipe.entry_name()} must predict by one graph for any number of points. Got a prediction "
                         f"that torch.export cannot follow ({said}); export an emulator of another recipe.") from e  # fmt: skip


def _exported(module: torch.nn.Module, *theta: Tensor) -> torch.export.ExportedProgram:
    any_number = {0: torch.export.Dim("n", min=1)}
    return torch.export.export(module, theta, dynamic_shapes=(any_number,) * len(theta), strict=False)


def _with_jacobian(
    graph: Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]],
) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """With d mean / d theta where graph(theta, theta) has it by its first theta.

    J v for each direction v by reverse mode twice, as J^T w is linear in w: what is left of both is a forward pass.

    (Torch's own forward mode does not follow a number of points that is open.)"""

    def whole(at: Tensor) -> tuple[Tensor, ...]:
        def split(theta: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
            mean, variance, outside = graph(theta, at)
            return mean, (variance, outside)

        pulled = torch.func.vjp(split, at, has_aux=True)
        mean, pull, (variance, outside) = cast(tuple[Tensor, Callable[..., Any], tuple[Tensor, Tensor]], pulled)
        push = torch.func.vjp(lambda w: pull(w)[0], torch.ones_like(mean))[1]
        one = torch.eye(at.shape[1], dtype=at.dtype)
        return mean, variance, outside, torch.stack([push(v.expand_as(at))[0] for v in one], -1)

    return whole


def _pt2(graph: torch.export.ExportedProgram, path: Path, results: list[str], text: str) -> None:
    torch.export.save(graph, path, extra_files={ABOUT: text})


def _place(path: Path, write: Callable[[Path], None]) -> None:
    """Write beside and rename: the archive holds the name that it is written under."""
    beside = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(dir=path.parent, prefix="."))
        write(beside / path.name)
        os.replace(beside / path.name, path)
    except OSError as e:
        raise StoreError(
            f"the emulator could not be exported to {path}: {e}. Free space, or choose another file."
        ) from e
    finally:
        if beside:
            shutil.rmtree(beside, ignore_errors=True)
