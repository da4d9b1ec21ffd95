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
_CACHE = 2**19  # numbers between two products of a chain
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
    t = torch.zeros(())
    for i, (weight, bias, *shape) in enumerate(layers):
        a = torch.baddbmm(bias, x, weight)
        t = t.flatten(1, 2).matmul(weight).unflatten(1, t.shape[1:3]) if i else _STRETCH * weight[:, :, None]
        t = t * _tilt(a, shape)[:, None]
        x = _bend(a, shape)
    return x, t


class Chain:
    """The derivatives of networks by u in one pass without a graph: W_1 D_1 W_2 ... D_L W_L+1, D the activations' slopes.

    Multiplied from the side that has fewer rows, d parameters or p outputs, k of them and q of the others, and for so many
    points together that what is between two products stays in the cache. `affine`: (c `[m, p, d]`, h `[m, d, p, d]`) of
    slopes c + u h that are to be added.
    """

    def __init__(self, layers: list[Layer], affine: tuple[Tensor, Tensor] | None = None):
        *self.hidden, self.last = layers
        (self.m, w, p), d = self.last[0].shape, layers[0][0].shape[1]
        self.back = p < d
        self.k, self.q = sorted((d, p))
        weights = [_STRETCH * layers[0][0], *(layer[0] for layer in layers[1:])]
        self.weights = [weight.mT for weight in reversed(weights)] if self.back else weights
        self.rows = max(1, _CACHE // (self.m * self.k * w))
        self.affine = None
        if affine is not None:
            c, h = affine if self.back else (affine[0].mT, affine[1].mT)
            self.affine = c.reshape(self.m, 1, d * p), h.reshape(self.m, d, d * p)

    def room(self, u: Tensor) -> list[Tensor]:
        """What `__call__` works in, for up to `rows` points: memory that is taken anew costs more than the products."""
        size, w = self.m * self.k * min(len(u), self.rows), self.last[0].shape[1]
        return list(u.new_empty(size * (2 * w + self.q)).split([size * w, size * w, size * self.q]))

    def __call__(self, u: Tensor, room: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Outputs `[m, n, p]` and derivatives `[m, n, k, q]`, which lie in `room`, at u `[n, d]`, n up to `rows`."""
        m, n, k = self.m, len(u), self.k
        x, tilts = (_STRETCH * (u - 0.5)).expand(m, *u.shape), []
        for weight, bias, *shape in self.hidden:
            x, tilt = _bend_and_tilt(torch.baddbmm(bias, x, weight), shape)
            tilts.append(tilt[:, :, None])
        tilts = tilts[::-1] if self.back else tilts
        t, spare = (part[: m * n * k * x.shape[-1]].view(m, n, k, -1) for part in room[:2])
        torch.mul(self.weights[0][:, None], tilts[0], out=t)
        for weight, tilt in zip(self.weights[1:-1], tilts[1:], strict=True):
            torch.bmm(t.flatten(1, 2), weight, out=spare.flatten(1, 2))
            t, spare = spare.mul_(tilt), t
        slope = room[2][: m * n * k * self.q].view(m, n, -1)
        if self.affine is None:
            torch.bmm(t.flatten(1, 2), self.weights[-1], out=slope.view(m, n * k, -1))
        else:
            torch.baddbmm(self.affine[0], u.expand(m, *u.shape), self.affine[1], out=slope)
            slope.view(m, n * k, -1).baddbmm_(t.flatten(1, 2), self.weights[-1])
        return output(x, self.last), slope.view(m, n, k, -1)


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


def _bend_and_tilt(x: Tensor, shape: list[Tensor]) -> tuple[Tensor, Tensor]:
    """f and df/dx; x is used up."""
    if not shape:
        s = torch.sigmoid(x)
        f = x.mul_(s)
        return f, torch.lerp(f, f.new_ones(()), s)
    return _bend(x, shape), _tilt(x, shape)


def _tilt(x: Tensor, shape: list[Tensor]) -> Tensor:
    """df/dx."""
    alpha, gamma = shape or (1.0, 0.0)
    s = torch.sigmoid(alpha * x)
    return gamma + (1 - gamma) * s * (1 + alpha * x * (1 - s))
