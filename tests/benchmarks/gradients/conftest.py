"""Where the pictures of this folder go: EMULATE_PICTURES, else a temporary folder."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from matplotlib.figure import Figure


@pytest.fixture(scope="session")
def picture(tmp_path_factory) -> Callable[[str, Figure], Path]:
    """Writes a figure as a PNG and tells where."""
    chosen = os.environ.get("EMULATE_PICTURES")
    folder = Path(chosen).expanduser().resolve() if chosen else tmp_path_factory.mktemp("pictures")
    folder.mkdir(parents=True, exist_ok=True)

    def write(name: str, figure: Figure) -> Path:
        path = folder / f"{name}.png"
        figure.savefig(path, dpi=120)
        print(f"picture: {path}")
        return path

    return write
