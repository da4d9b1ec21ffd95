"""What a store of runs holds, as bytes and as places: for tests that it is the same, or was left alone."""

from pathlib import Path

from emulate.store import RunStore


def where(store: RunStore) -> dict[str, int]:
    """Runs by key, with what tells one folder from another that took its place."""
    return {k: store.folder(k).stat().st_ino for k in store.keys()}  # noqa: SIM118


def content(folder: Path) -> dict[Path, bytes]:
    """The files of all runs but the one that says when and where they were made."""
    return {p.relative_to(folder): p.read_bytes() for p in sorted(folder.glob("runs/*/*/*")) if p.name != "about.json"}
