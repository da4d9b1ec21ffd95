r"""A pulse marched through a lattice, its phasors at monitors, and their derivative with respect to the material.

One step, with the medium's a and g at every number of E, and p, q the memories of the absorbers:

    [dH, p] = M [E, p],   H += dH,   [c, q] = C [H, q],   E <- a E + g c + s_n

In matter of permittivity epsilon and conductivity sigma a = (1 - k) / (1 + k) and g = (S / epsilon) / (1 + k), with
k = sigma dt / 2 epsilon.

Backwards, with bars for the derivative of the answer by each of them, last step first:

    a_bar += E_bar E,   g_bar += E_bar c,   [H_bar, q_bar] = [H_bar, 0] + C^T [g E_bar, q_bar],
    [E_bar, p_bar] = [a E_bar, 0] + M^T [H_bar, p_bar]

which is the exact derivative of the discrete answer. It needs E and c of every step, and memory for none: fields are kept at
the start of every segment of sqrt(n) steps, and a segment is run again when its turn comes (Griewank & Walther 2000).
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from emulate.simulators.maxwell.lattice import Lattice

__all__ = ["March"]

_RISE = 5.0  # standard deviations of the pulse before its middle at which it begins


@dataclass(frozen=True, eq=False)
class March:
    r"""n steps from fields at rest, under a source and with monitors.

    The source adds s_n = profile sin(2 pi f (t - t_0)) exp(-(t - t_0)^2 / 2 w^2) to E, a current that holds no charge back;
    phasors are sum_n F(t_n) exp(2 pi i f t_n), F at its own times, n + 1 for E and n + 1/2 for H. At frequencies at which the
    pulse has power they are those of a steady wave, once the fields have left.

    Attributes:
        lattice: where.
        steps: how many.
        source: places in E of the current.
        profile: its strength at each of them.
        electric: places in E that are watched.
        magnetic: places in H that are watched.
        frequencies: of the phasors, in 1/period.
        pulse: w, periods.
    """

    lattice: Lattice
    steps: int
    source: np.ndarray
    profile: np.ndarray
    electric: np.ndarray
    magnetic: np.ndarray
    frequencies: tuple[float, ...]
    pulse: float = 0.75

    def medium(self, epsilon: Tensor, sigma: Tensor | None = None) -> Tensor:
        """a and g `[2, numbers of E]` from permittivity and conductivity `[numbers of E]`, the latter in 1/period."""
        half = torch.zeros_like(epsilon) if sigma is None else 0.5 * self.lattice.dt * sigma / epsilon
        return torch.stack(((1 - half) / (1 + half), self.lattice.courant / (epsilon * (1 + half))))

    def phasors(self, medium: Tensor) -> tuple[Tensor, Tensor]:
        """complex128 `[frequencies, places]` of E and of H; carries gradients to the medium `[2, numbers of E]`."""
        e, h = _Phasors.apply(medium, self)
        return torch.view_as_complex(e), torch.view_as_complex(h)

    def pulled(self, medium: Tensor) -> tuple[Tensor, Tensor, Callable[[Tensor, Tensor], Tensor]]:
        """The phasors, and what takes the derivatives of r answers by them, complex `[r, frequencies, places]`, to those by
        the medium `[r, 2, numbers of E]`: all of them in one march backwards."""
        numbers = medium.detach().numpy()
        e, h, kept = self._forward(numbers, True)

        def pull(by_e: Tensor, by_h: Tensor) -> Tensor:
            parts = (torch.view_as_real(x).permute(1, 3, 2, 0).numpy() for x in (by_e, by_h))
            return torch.from_numpy(self._pull(numbers, kept, *parts)).movedim(-1, 0)

        of_e, of_h = (torch.complex(*torch.from_numpy(x).unbind(1)) for x in (e, h))
        return of_e, of_h, pull

    @property
    def segments(self) -> list[range]:
        """Of about sqrt(n) steps each."""
        length = math.ceil(math.sqrt(self.steps))
        return [range(i, min(i + length, self.steps)) for i in range(0, self.steps, length)]

    @property
    def _signal(self) -> np.ndarray:
        t = (np.arange(self.steps) + 0.5) * self.lattice.dt - _RISE * self.pulse
        f = float(np.mean(self.frequencies))
        return np.sin(2 * np.pi * f * t) * np.exp(-0.5 * (t / self.pulse) ** 2)

    def _weights(self, of: range) -> tuple[np.ndarray, np.ndarray]:
        """Real and imaginary part `[frequencies, 2, steps]` of exp(2 pi i f t) at the times of E and of H."""
        n = np.arange(of.start, of.stop)
        turns = (2 * np.pi * self.lattice.dt * np.outer(self.frequencies, n + shift) for shift in (1.0, 0.5))
        of_e, of_h = (np.stack([np.cos(x), np.sin(x)], 1) for x in turns)
        return of_e, of_h

    def _rest(self) -> tuple[np.ndarray, np.ndarray]:
        """[E, p] and [H, q] before the first step."""
        lattice = self.lattice
        e, h = lattice.magnetic_step.shape, lattice.electric_step.shape
        return np.zeros(e[1]), np.zeros(h[1])  # pyright: ignore[reportOptionalSubscript]  (scipy has no types)

    def _run(self, e: np.ndarray, h: np.ndarray, medium: np.ndarray, of: range) -> Iterator[np.ndarray]:
        """March over steps, in place; gives the curl `[numbers of E]` of each before it is added to E."""
        m, c, (a, g) = self.lattice.magnetic_step, self.lattice.electric_step, medium
        ne, nh, signal = len(g), self.lattice.magnetic, self._signal
        for n in of:
            r = m @ e
            h[:nh] += r[:nh]
            e[ne:] = r[nh:]
            r = c @ h
            h[nh:] = r[ne:]
            yield r[:ne]
            e[:ne] *= a
            e[:ne] += g * r[:ne]
            e[self.source] += signal[n] * self.profile

    def _forward(self, medium: np.ndarray, keep: bool) -> tuple[np.ndarray, np.ndarray, list]:
        """Phasors `[frequencies, 2, places]` of E and H, and the fields at the start of every segment."""
        e, h = self._rest()
        found = [np.zeros((len(self.frequencies), 2, len(at))) for at in (self.electric, self.magnetic)]
        kept = []
        for of in self.segments:
            if keep:
                kept.append((e.copy(), h.copy()))
            seen = [np.empty((len(of), len(at))) for at in (self.electric, self.magnetic)]
            for k, _ in enumerate(self._run(e, h, medium, of)):
                seen[1][k] = h[self.magnetic]
                if k:
                    seen[0][k - 1] = e[self.electric]
            seen[0][-1] = e[self.electric]
            for total, weights, record in zip(found, self._weights(of), seen, strict=True):
                total += np.einsum("fct,tp->fcp", weights, record)  # one order of summation, whatever the threads
        return found[0], found[1], kept

    def _pull(self, medium: np.ndarray, kept: list, by_e: np.ndarray, by_h: np.ndarray) -> np.ndarray:
        """Derivatives `[2, numbers of E, rows]` by the medium of rows of answers, whose derivatives by the phasors are
        `by_e`, `by_h` `[frequencies, 2, places, rows]`; `kept` are the fields at the start of every segment."""
        rows = by_e.shape[-1]
        tail = (rows,) if rows > 1 else ()  # the product of a matrix and a vector is the faster one
        back_m, back_c = self.lattice.magnetic_step.T.tocsr(), self.lattice.electric_step.T.tocsr()
        ne, nh = self.lattice.electric, self.lattice.magnetic
        e_bar, h_bar = np.zeros((back_m.shape[0], *tail)), np.zeros((back_c.shape[0], *tail))
        by_a, by_g = np.zeros((2, ne, *tail))
        a, g = medium.reshape(2, ne, *(1 for _ in tail))
        for of, fields in zip(reversed(self.segments), reversed(kept), strict=True):
            e, h = (x.copy() for x in fields)
            before, curls = np.empty((2, len(of), *g.shape))
            for k, curl in enumerate(self._run(e, h, medium, of)):
                before[k], curls[k] = e[:ne].reshape(g.shape), curl.reshape(g.shape)
            pushes = [np.einsum("fct,fcpr->tpr", w, by).reshape(len(of), -1, *tail)
                      for w, by in zip(self._weights(of), (by_e, by_h), strict=True)]  # fmt: skip
            for k in reversed(range(len(of))):
                e_bar[self.electric] += pushes[0][k]
                by_a += e_bar[:ne] * before[k]
                by_g += e_bar[:ne] * curls[k]
                h_bar, r = back_c @ np.concatenate((g * e_bar[:ne], h_bar[nh:])), h_bar
                h_bar[:nh] += r[:nh]
                h_bar[self.magnetic] += pushes[1][k]
                e_bar, r = back_m @ np.concatenate((h_bar[:nh], e_bar[ne:])), e_bar
                e_bar[:ne] += a * r[:ne]
        return np.stack((by_a, by_g)).reshape(2, ne, rows)


class _Phasors(torch.autograd.Function):
    @staticmethod
    def forward(ctx, medium: Tensor, march: March):
        numbers = medium.detach().numpy()
        e, h, ctx.kept = march._forward(numbers, ctx.needs_input_grad[0])
        ctx.march, ctx.medium = march, numbers
        return tuple(torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, 1, -1))) for x in (e, h))

    @staticmethod
    @once_differentiable
    def backward(ctx, by_e: Tensor, by_h: Tensor):
        pulled = ctx.march._pull(ctx.medium, ctx.kept, *(x.movedim(-1, 1)[..., None].numpy() for x in (by_e, by_h)))
        return torch.from_numpy(pulled[..., 0]), None
