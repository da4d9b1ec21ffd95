"""Uniform numbers keyed by (seed, event, trial, site), made for many events at once.

A number depends on these four alone: the first n of 2n events are the n, however many are made side by side, and two
values of theta share the noise of every trial that both reach (common random numbers).
"""

import torch
from torch import Tensor

_GAMMA = -7046029254386353131  # 2^64 / golden ratio, odd
_M1, _M2 = -4658895280553007687, -7723592293110705685
_TRIAL = 1 << 20  # sites per trial


def _stir(x: Tensor, bits: int) -> Tensor:
    """x ^= x >> bits of the unsigned number, in place; torch shifts the sign in."""
    high = x >> bits
    return x.bitwise_xor_(high.bitwise_and_((1 << (64 - bits)) - 1))


def mixed(x: Tensor) -> Tensor:
    """The finaliser of SplitMix64 (Steele, Lea & Flood 2014): int64 to int64, one to one, every bit stirred; in place."""
    return _stir(_stir(_stir(x, 30).mul_(_M1), 27).mul_(_M2), 31)


def streams(seed: int, events: Tensor) -> Tensor:
    """The key of each event, int64 as `events`."""
    start = mixed(torch.tensor([seed & ((1 << 63) - 1), seed >> 63], dtype=torch.int64) + 1)
    return mixed(mixed(events * _GAMMA + start[0]) + start[1])


class Keyed:
    """The noise of one trial of each of n events: every call gives numbers that no other call gives.

    >>> keys = streams(7, torch.arange(3))
    >>> u = Keyed(keys, torch.zeros(3, dtype=torch.int64)).uniform(2)
    >>> again = Keyed(keys[1:], torch.zeros(2, dtype=torch.int64)).uniform(2)
    >>> tuple(u.shape), torch.equal(u[:, 1:], again)
    ((2, 3), True)
    """

    def __init__(self, keys: Tensor, trials: Tensor | None = None) -> None:
        self._keys = keys if trials is None else keys + trials * (_TRIAL * _GAMMA % (1 << 64) - (1 << 64))
        self._site = 0

    def uniform(self, k: int) -> Tensor:
        """u `[k, n]` float64 in the open interval (0, 1)."""
        sites = torch.arange(self._site + 1, self._site + k + 1, device=self._keys.device) * _GAMMA
        self._site += k
        bits = (mixed(self._keys + sites[:, None]) >> 12).bitwise_and_((1 << 52) - 1)
        return bits.to(torch.float64).add_(0.5).mul_(2.0**-52)  # exact, and neither 0 nor 1

    def later(self) -> "Keyed":
        """Numbers of the same trial that lie beyond all that `uniform` gives here, however many those were."""
        beyond = Keyed(self._keys)
        beyond._site = _TRIAL // 2
        return beyond

    def select(self, index: Tensor) -> "Keyed":
        """The noise of some of the events, from here on."""
        chosen = Keyed(self._keys.index_select(0, index))
        chosen._site = self._site
        return chosen
