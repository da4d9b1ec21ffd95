"""The study itself: whether it reads, whether another command is at work in its folder, and what a killed one left there."""

from collections.abc import Iterator

from pipelines.doctor.notes import Note, Place


def study(place: Place) -> Iterator[Note]:
    """Stages that a process left half done, runs that are noted and made by nobody, files that were never finished."""
    if (met := place.study) is None:
        return
    from pipelines import engine

    if engine.locked(met.folder):
        yield Note("study", "fine", f"another `emulate` is at work in {met.folder}")
        return
    states = {s: engine.state(met, s).status for s in met.stages}
    counted = ", ".join(
        f"{n} {w}" for w in dict.fromkeys(states.values()) if (n := sum(v == w for v in states.values()))
    )
    yield Note("study", "fine", f"{met.name} in {met.folder}: of {len(states)} stages {counted}")
    for stage, status in states.items():
        if status in ("interrupted", "failed"):
            yield Note("study", "advice", f"{stage} was {status}" if status == "interrupted" else f"{stage} failed",
                       f"emulate run {met.file}")  # fmt: skip
    yield from _left(place)


def _left(place: Place) -> Iterator[Note]:
    """In the store, of workers that were killed."""
    from emulate.store import RunStore
    from pipelines import underway

    path = place.study.folder / "store"
    if not (path / "store.json").exists():
        return
    store = RunStore(path, create=False)
    notes = list((path / "under_way").glob("*")) if (path / "under_way").is_dir() else []
    stale = len(notes) - len(underway.listing(store))
    if stale > 0:
        yield Note("study", "advice", f"{stale} notes of runs that no process is making any more",
                   f"emulate simulate {place.study.file} sweeps them and makes those runs")  # fmt: skip
    half = list((path / "tmp").glob("*")) if (path / "tmp").is_dir() else []
    if half:
        yield Note("study", "advice", f"{len(half)} half-written runs of killed workers in {path / 'tmp'}",
                   f"emulate store prune {place.study.file} --yes")  # fmt: skip
