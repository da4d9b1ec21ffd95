"""Networks of an ensemble in one batch, with their derivatives; what `mlp.py` is made of.

m members, n points, d parameters, w units. A layer is (weight `[m, in, out]`, bias `[m, 1, out]`), and with a learned
activation also (alpha, gamma `[m, 1, out]`): f(x) = [gamma + (1 - gamma) sigmoid(alpha x)] x (Alsing et al. 2020, eq. 8;
Spurio Mancini et al. 2022, eq. 4), which is SiLU for alpha = 1 and gamma = 0, where it starts.
"""

import itertools
import math

import torch
from torch import Tensor

Layer = tuple[Tensor, ...]
_SMALL = 0.3  # scale of the first weights: the ensemble starts near its trend
_NAMES = ("weight", "bias", "alpha", "gamma")
_STRETCH = math.sqrt(12)  # points of the unit cube leave it with unit variance


def hidden(u: Tensor, layers: list[Layer]) -> Tensor:
    """The last hidden units `[m, n, w]` at u `[n, d]`."""
    x = (_STRETCH * (u - 0.5)).expand(len(layers[0][0]), *u.shape)
    for weight, bias, *shape in layers:
        x = _bend(torch.baddbmm(bias, x, weight), shape)
    return x


def hidden_slopes(u: Tensor, layers: list[Layer]) -> tuple[Tensor, Tensor]:
    """The last hidden units `[m, n, w]` and their derivatives by u, `[m, d, n, w]`, all parameters in one pass."""
    x = (_STRETCH * (u - 0.5)).expand(len(layers[0][0]), *u.shape)
    t = None
    for weight, bias, *shape in layers:
        a = torch.baddbmm(bias, x, weight)
        t = _STRETCH * weight[:, :, None] if t is None else t.flatten(1, 2).matmul(weight).unflatten(1, t.shape[1:3])
        t = t * _tilt(a, shape)[:, None]
        x = _bend(a, shape)
    return x, t


def output(x: Tensor, layer: Layer) -> Tensor:
    """`[m, n, p]` of hidden units `[m, n, w]`."""
    return torch.baddbmm(layer[1], x, layer[0])


def new_layers(sizes: list[int], members: int, *, learned: bool, generator: torch.Generator) -> list[Layer]:
    """Hidden layers as they start, each member with weights of its own; sizes from the entrance to the last of them."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    made = []
    for a, b in itertools.pairwise(sizes):
        layer = (_SMALL / math.sqrt(a) * normal(members, a, b), 0.5 * normal(members, 1, b))
        shape = (torch.ones_like(layer[1]), torch.zeros_like(layer[1])) if learned else ()
        made.append((*layer, *shape))
    return made


def named(layers: list[Layer], prefix: str = "") -> dict[str, Tensor]:
    """`weight0`, `bias0`, ...: how the tensors are saved."""
    return {f"{prefix}{name}{i}": t for i, layer in enumerate(layers) for name, t in zip(_NAMES, layer, strict=False)}


def unnamed(state: dict[str, Tensor], prefix: str = "") -> list[Layer]:
    """The layers that `named` named."""
    count = sum(name.startswith(f"{prefix}weight") for name in state)
    return [tuple(state[key] for name in _NAMES if (key := f"{prefix}{name}{i}") in state) for i in range(count)]


def _bend(x: Tensor, shape: list[Tensor]) -> Tensor:
    if not shape:
        return torch.nn.functional.silu(x)
    alpha, gamma = shape
    return (gamma + (1 - gamma) * torch.sigmoid(alpha * x)) * x


def _tilt(x: Tensor, shape: list[Tensor]) -> Tensor:
    """df/dx."""
    alpha, gamma = shape or (1.0, 0.0)
    s = torch.sigmoid(alpha * x)
    return gamma + (1 - gamma) * s * (1 + alpha * x * (1 - s))
