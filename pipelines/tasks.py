"""Runs to be made: one as a `Task`, a million as `Tasks`, which keeps numbers and makes each task when it is asked for."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np

from emulate.keys import identity, key_of, record_of
from emulate.store import RunStore

_PART = 100_000  # keys that the store is asked for at once


@dataclass(frozen=True, slots=True)
class Task:
    """One run to be made: `key` is where the store will hold it; `gradient` says how to differentiate, None for y."""

    key: str
    theta: tuple[float, ...]
    seed: int
    product: str = "y"
    gradient: Mapping[str, Any] | None = None


class Tasks(Sequence[Task]):
    """A sequence of tasks in about 50 bytes each: theta `[n, d]`, seeds `[n]`, keys `[n, 32]` and what is asked.

    `asked` are pairs of product and gradient, `which` `[n]` says which of them each run is.
    """

    def __init__(self, theta: np.ndarray, seeds: np.ndarray, keys: np.ndarray, which: np.ndarray,
                 asked: Sequence[tuple[str, Mapping[str, Any] | None]]):  # fmt: skip
        self._theta, self._seeds, self._keys, self._which, self._asked = theta, seeds, keys, which, tuple(asked)

    @classmethod
    def of(cls, simulator: Any, theta: np.ndarray, seeds: np.ndarray, which: np.ndarray,
           asked: Sequence[tuple[str, Mapping[str, Any] | None]]) -> "Tasks":  # fmt: skip
        """The runs of a simulator, keyed."""
        who, keys = identity(simulator), np.empty((len(theta), 32), np.uint8)
        for i, (t, seed, a) in enumerate(zip(theta, seeds.tolist(), which.tolist(), strict=True)):
            product, gradient = asked[a]
            key = key_of(record_of(who, t.tolist(), seed, product, gradient))
            keys[i] = np.frombuffer(bytes.fromhex(key), np.uint8)
        return cls(theta, seeds, keys, which, asked)

    @property
    def theta(self) -> np.ndarray:
        """theta `[n, d]` of every run."""
        return self._theta

    def __len__(self) -> int:
        return len(self._keys)

    @overload
    def __getitem__(self, i: int) -> Task: ...
    @overload
    def __getitem__(self, i: slice | np.ndarray) -> "Tasks": ...
    def __getitem__(self, i):
        if isinstance(i, slice | np.ndarray):
            return Tasks(self._theta[i], self._seeds[i], self._keys[i], self._which[i], self._asked)
        product, gradient = self._asked[self._which[i]]
        return Task(
            self._keys[i].tobytes().hex(), tuple(self._theta[i].tolist()), int(self._seeds[i]), product, gradient
        )

    def __iter__(self) -> Iterator[Task]:
        return (self[i] for i in range(len(self)))

    def keys(self) -> Iterator[str]:
        return (k.tobytes().hex() for k in self._keys)

    def missing(self, store: RunStore | None) -> "Tasks":
        """Those that the store does not hold, each once."""
        names = np.ascontiguousarray(self._keys).view(np.dtype((np.void, 32)))[:, 0]
        first = np.zeros(len(self), bool)
        first[np.unique(names, return_index=True)[1]] = True
        for start in range(0, len(self), _PART) if store else ():
            part = [k.tobytes().hex() for k in self._keys[start : start + _PART]]
            held = store.held(part)
            first[start : start + _PART] &= [k not in held for k in part]
        return self[first]


def missing(tasks: Iterable[Task], store: RunStore | None) -> Sequence[Task]:
    """Those that the store does not hold, each once."""
    if isinstance(tasks, Tasks):
        return tasks.missing(store)
    asked = {t.key: t for t in tasks}
    held = store.held(asked) if store else ()
    return [t for k, t in asked.items() if k not in held]
