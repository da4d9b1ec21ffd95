"""What a look at the machine says, and where it looks."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pipelines.study import Study

Verdict = Literal["fine", "advice", "wrong"]


@dataclass(frozen=True)
class Note:
    """`fine`; `advice`: works, but slower or less safely than it could; `wrong`: something of emulate will fail."""

    topic: str
    verdict: Verdict
    found: str
    mend: str = ""  # a command, or a sentence where none does it


@dataclass(frozen=True)
class Place:
    """Where is looked: the folder of results, the tracking address as the study says it, the study, if one was named, and
    the environment before any library changed it, as scikit-learn does when it is imported."""

    folder: Path
    tracking: str = ""
    study: "Study | None" = None
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))

    @property
    def there(self) -> Path:
        """The folder, or the nearest above it that exists."""
        return next(p for p in (self.folder.absolute(), *self.folder.absolute().parents) if p.is_dir())


def size(n: float) -> str:
    """Bytes in words.

    >>> size(512), size(3 * 2**30)
    ('512 B', '3.0 GiB')
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n < 1024:
            return f"{n:.0f} B" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1024
    return f"{n:.1f} TiB"
