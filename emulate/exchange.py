"""ONNX, the Open Neural Network Exchange: a graph of torch in float64 as a file that onnxruntime runs.

torch.onnx writes exp(x) - 1 and ln(1 + x) as they stand here, which loses the digits of a small x, and every number of the
program in single precision, and knows no triangular matrices: all are mended before it sees the graph.
"""

import logging
import struct
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.fx.node import map_arg

from emulate.errors import InputError

_aten = torch.ops.aten
_OF_TENSORS = {  # the same operation where a number became a tensor
    _aten.add.Scalar: _aten.add.Tensor, _aten.sub.Scalar: _aten.sub.Tensor, _aten.mul.Scalar: _aten.mul.Tensor,
    _aten.div.Scalar: _aten.div.Tensor, _aten.pow.Tensor_Scalar: _aten.pow.Tensor_Tensor,
    _aten.pow.Scalar: _aten.pow.Tensor_Tensor, _aten.clamp_min.default: _aten.clamp_min.Tensor,
    _aten.clamp_max.default: _aten.clamp_max.Tensor, _aten.clamp.default: _aten.clamp.Tensor,
    _aten.where.ScalarOther: _aten.where.self, _aten.where.ScalarSelf: _aten.where.self,
    **{getattr(_aten, n).Scalar: getattr(_aten, n).Tensor for n in ("gt", "ge", "lt", "le", "eq", "ne")},
}  # fmt: skip

_FACTORS = {  # and what makes up for half of a factor
    _aten.mul.Tensor: 2.0, _aten.mul.Scalar: 2.0, _aten.div.Tensor: 0.5, _aten.div.Scalar: 0.5,
}  # fmt: skip


def need() -> None:
    """Complain where the packages that write ONNX are not installed."""
    if missing := [name for name in ("onnx", "onnxscript") if find_spec(name) is None]:
        raise InputError(f"writing .onnx must have the packages onnx and onnxscript. Missing: {', '.join(missing)}; install the "
                         "extra: pip install 'emulate[onnx]', or export to .pt2.")  # fmt: skip


def _expm1(x: Tensor) -> Tensor:
    """exp(x) - 1 with all its digits, from exp and ln alone (Kahan, by Higham 2002, section 1.14.1).

    >>> x = torch.tensor([-1e-17, 1e-9, 2.0, -800.0], dtype=torch.float64)
    >>> bool(torch.allclose(_expm1(x), x.expm1(), rtol=1e-15, atol=0.0))
    True
    """
    u = x.exp()
    plain = (u == 1) | (u == 0)
    return torch.where(u == 1, x, (u - 1) * torch.where(plain, 1.0, x / torch.where(plain, 2.0, u).log()))


def _log1p(x: Tensor) -> Tensor:
    """ln(1 + x) with all its digits, from ln alone (the same)."""
    u = 1 + x
    one = u == 1
    return torch.where(one, x, u.log() * (x / torch.where(one, 1.0, u - 1)))


def _cholesky(a: Tensor, *, upper: bool = False, check_errors: bool = False) -> tuple[Tensor, Tensor]:
    """The lower triangle L of A = L L^T, column by column, of an A `[..., p, p]` whose p is known; NaN where there is none.

    >>> a = torch.tensor([[4.0, 2.0], [2.0, 5.0]], dtype=torch.float64)
    >>> _cholesky(a)[0]
    tensor([[2., 0.],
            [1., 2.]], dtype=torch.float64)
    """
    columns: list[Tensor] = []
    for j in range(a.shape[-1]):
        left = a[..., j:, j]
        for c in columns:
            left = left - c[..., j:] * c[..., j, None]
        head = left[..., :1].sqrt()
        columns.append(torch.cat([torch.zeros_like(a[..., :j, j]), head, left[..., 1:] / head], -1))
    made = torch.stack(
        columns, -1 if upper else -2
    ).mT  # column-major as torch's own, which what follows was traced with
    return made, torch.zeros_like(a[..., 0, 0], dtype=torch.int32)


def _solve_triangular(a: Tensor, b: Tensor, *, upper: bool, left: bool = True, unitriangular: bool = False) -> Tensor:
    """X of A X = B, or of X A = B, row by row.

    >>> a = torch.tensor([[2.0, 0.0], [1.0, 2.0]], dtype=torch.float64)
    >>> _solve_triangular(a, a @ a, upper=False)
    tensor([[2., 0.],
            [1., 2.]], dtype=torch.float64)
    """
    if not left:
        made = _solve_triangular(a.mT, b.mT, upper=not upper, unitriangular=unitriangular)
        return made.contiguous().mT
    p = a.shape[-1]
    rows: dict[int, Tensor] = {}
    for i in reversed(range(p)) if upper else range(p):
        rest = b[..., i, :]
        for j, row in rows.items():
            rest = rest - a[..., i, j, None] * row
        rows[i] = rest if unitriangular else rest / a[..., i, i, None]
    return torch.stack([rows[i] for i in range(p)], -1).mT


def _diagonal_backward(slope: Tensor, sizes: list[Any], offset: int, dim1: int, dim2: int) -> Tensor:
    """Of the diagonal of square matrices, without writing into them."""
    if offset or sizes[dim1] != sizes[dim2]:
        raise RuntimeError("the slope of a diagonal beside the main one")
    return torch.diag_embed(slope, 0, dim1, dim2)


FIRST: dict[Any, Callable[..., Any]] = {  # before anything is differentiated
    _aten.linalg_cholesky_ex.default: _cholesky, _aten.linalg_solve_triangular.default: _solve_triangular,
}  # fmt: skip
DECOMPOSITIONS: dict[Any, Callable[..., Tensor]] = {
    _aten.expm1.default: _expm1, _aten.log1p.default: _log1p, _aten.diagonal_backward.default: _diagonal_backward,
}  # fmt: skip


def fold(module: torch.fx.GraphModule) -> None:
    """Compute what no input reaches, once and in place: the algebra of an emulator's own numbers."""
    known: dict[torch.fx.Node, Any] = {}
    for node in list(module.graph.nodes):
        if node.target is _aten._linalg_check_errors.default:  # a graph raises nothing
            module.graph.erase_node(node)
            continue
        if node.op == "get_attr":
            known[node] = getattr(module, node.target)
        elif node.op == "call_function" and all(n in known for n in node.all_input_nodes):
            args, kwargs = map_arg((node.args, node.kwargs), lambda n: known[n])
            known[node] = node.target(*args, **kwargs)
    for i, (node, value) in enumerate(known.items()):
        if node.op == "get_attr" or not isinstance(value, Tensor) or all(user in known for user in node.users):
            continue
        module.register_buffer(f"folded_{i}", value.detach().clone())
        with module.graph.inserting_before(node):
            node.replace_all_uses_with(module.graph.get_attr(f"folded_{i}"))
    module.graph.eliminate_dead_code()


def keep_numbers(module: torch.fx.GraphModule) -> None:
    """Turn the numbers in the calls of a graph that single precision would change into float64 tensors, in place.

    onnxruntime leaves out factors that are 1 in single precision, as the width of a box may be that has been rounded: half of
    them and then a factor of 2 are the same to the last bit.
    """
    kept: dict[float, str] = {}
    for node in list(module.graph.nodes):
        if node.target in _FACTORS and isinstance(c := node.args[1], float) and c != 1 and not _changes(c, 1.0):
            with module.graph.inserting_after(node):
                whole = module.graph.call_function(_aten.mul.Tensor, (node, _FACTORS[node.target]))
            node.replace_all_uses_with(whole, delete_user_cb=lambda user, whole=whole: user is not whole)
            node.args = (node.args[0], c / 2)
        if node.op != "call_function" or not any(isinstance(a, float) and _changes(a) for a in node.args):
            continue
        if node.target in (_aten.scalar_tensor.default, _aten.full.default):
            with module.graph.inserting_before(node):
                made = _tensor(module, kept, node.args[-1])
                if node.target is _aten.full.default:
                    made = module.graph.call_function(_aten.expand.default, (made, node.args[0]))
            node.replace_all_uses_with(made)
            module.graph.erase_node(node)
            continue
        if node.target not in (*_OF_TENSORS, *_OF_TENSORS.values()):
            raise RuntimeError(f"a number in {node.target} that single precision would change")
        with module.graph.inserting_before(node):
            node.args = tuple(_tensor(module, kept, a) if isinstance(a, int | float) else a for a in node.args)
        node.target = _OF_TENSORS.get(node.target, node.target)


def _changes(x: float, into: float | None = None) -> bool:
    """Whether single precision makes another number of it, or another one than `into`."""
    try:
        return x == x and struct.unpack("f", struct.pack("f", x))[0] != (x if into is None else into)
    except OverflowError:
        return True


def _tensor(module: torch.fx.GraphModule, kept: dict[float, str], x: float) -> torch.fx.Node:
    if x not in kept:
        kept[x] = f"number_{len(kept)}"
        module.register_buffer(kept[x], torch.tensor(x, dtype=torch.float64))
    return module.graph.get_attr(kept[x])


def _tidied(model: Any) -> None:
    """One graph without functions, nor what nobody reads or stands there twice, in place.

    The optimizer that torch.onnx calls also takes a number below 1e-8 for 0, and leaves out what adds it: a parameter of 1e-9
    then has another box.
    """
    from onnx_ir.passes import Sequential, common

    steps = (common.InlinePass, common.RemoveUnusedNodesPass, common.RemoveUnusedFunctionsPass, common.RemoveUnusedOpsetsPass,
             common.DeduplicateInitializersPass, common.CommonSubexpressionEliminationPass, common.OutputFixPass,
             common.NameFixPass)  # fmt: skip
    Sequential(*(step() for step in steps))(model)


def write(program: torch.export.ExportedProgram, path: Path, results: list[str], text: str) -> None:
    """One file with the input `theta`, outputs by the names of `results`, and `text` as its metadata `emulate`."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)  # it tells of packages that nobody asked for
    try:
        told = torch.onnx.export(program, input_names=["theta"], output_names=results, verbose=False, optimize=False)
    finally:
        log.setLevel(level)
    made = cast(torch.onnx.ONNXProgram, told)  # None only where torch writes the file itself
    _tidied(made.model)
    own = set(map(id, made.model.graph.outputs))
    for i, value in enumerate(v for node in made.model.graph for v in node.outputs):
        if value.name in results and id(value) not in own:  # torch calls what a mean gives `mean`, too
            value.name = f"{value.name}_inside_{i}"
    made.model.metadata_props["emulate"] = text
    made.model.producer_name = "emulate"
    made.save(path)
