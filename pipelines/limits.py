"""`Limits`: what one run of a simulator may take, and which failures are tried again. Imports nothing heavy."""

import re
from dataclasses import dataclass

from emulate.errors import InputError, shown

UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
         "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}  # fmt: skip
_SIZE = re.compile(rf"(\d{{1,15}}(?:\.\d{{1,9}})?) ?({'|'.join(UNITS)})")


@dataclass(frozen=True)
class Limits:
    """Every run is held to these; they are no part of its key, for they change no answer.

    `retries` holds pairs of a kind of failure and how often a run that failed so is made again: the kinds of
    `RunFailed`, and "lost" for a run whose worker is gone.

    >>> Limits(timeout=60.0, retries=(("crashed", 1),)).again("crashed"), Limits().again("lost"), Limits().again("error")
    (1, 1, 0)
    """

    timeout: float | None = None  # s of wall time
    memory: int | None = None  # bytes that the run and all it started may hold together
    threads: int = 1  # cores that a run owns
    log_bytes: int = 8192  # of what a run prints, the last are kept
    answer_bytes: int = 2**30  # of the arrays that a run gives back
    retries: tuple[tuple[str, int], ...] = ()

    def again(self, kind: str) -> int:
        """How often a run that failed in this way is made again; a lost one once where nothing else is said."""
        return dict(self.retries).get(kind, 1 if kind == "lost" else 0)


def size(value: object) -> int:
    """Bytes of a size as a study writes it: `4 GiB`, `500 MB`, or a number of bytes.

    >>> size("1.5 GiB"), size("500 MB"), size(4096)
    (1610612736, 500000000, 4096)
    """
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    met = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if met and float(met[1]) > 0:
        return int(float(met[1]) * UNITS[met[2]])
    raise InputError(f'must be a size such as "4 GiB" or "500 MB". Got {shown(value)}.')


def checked(value: int | str) -> int | str:
    """The size as it is written, where it is one."""
    size(value)
    return value


def in_words(count: float, above: float | None = None) -> str:
    """Bytes for a reader; with as many digits as show that they are more than `above`.

    >>> in_words(2**30), in_words(1.55e9), in_words(800), in_words(2**30 + 4096, above=2**30)
    ('1 GiB', '1.444 GiB', '800 B', '1.000004 GiB')
    """
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if count >= UNITS[unit]:
            size, bound = count / UNITS[unit], None if above is None else above / UNITS[unit]
            return next(f"{x} {unit}" for d in range(4, 18) if float(x := f"{size:.{d}g}") != bound)
    return f"{count:.0f} B"
