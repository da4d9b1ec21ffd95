"""What is installed: Python, packages against what emulate asks for, extras, and the copies of OpenMP in one process."""

import os
import platform
import site
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from pipelines.doctor.notes import Note, Place

SHOWN = ("torch", "gpytorch", "numpy", "scipy", "scikit-learn", "dask", "mlflow", "pydantic", "matplotlib", "xarray",
         "zuko", "safetensors", "rich", "typer")  # fmt: skip
_PAIRS = (("dask", "distributed"), ("mlflow", "mlflow-skinny"))  # released together


def versions() -> dict[str, str]:
    """Of Python, of emulate, and of the packages that a report names; those that are there."""
    found = {"python": platform.python_version()}
    for name in ("emulate", *SHOWN):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def python(place: Place) -> Iterator[Note]:
    """Which Python, and whether packages of the user's home get in before those of its own environment."""
    told = f"{platform.python_version()} of {sys.executable}, {platform.platform(terse=True)}"
    yield Note("python", "fine", told)
    home = Path(site.getusersitepackages()) if site.ENABLE_USER_SITE else None
    strayed = [n for n in SHOWN if home and (at := _where(n)) and home in at.parents]
    if strayed and sys.prefix != sys.base_prefix:
        yield Note("python", "advice", f"{', '.join(strayed)} come from {home} and not from this environment",
                   "export PYTHONNOUSERSITE=1")  # fmt: skip


def _where(name: str) -> Path | None:
    try:
        return Path(str(metadata.distribution(name).locate_file("")))
    except metadata.PackageNotFoundError:
        return None


def packages(place: Place) -> Iterator[Note]:
    """Every requirement of emulate against what is installed, and packages that must be of one release."""
    from packaging.requirements import Requirement

    found = versions()
    yield Note("packages", "fine", ", ".join(f"{n} {found[n]}" for n in ("emulate", *SHOWN) if n in found))
    for text in _required():
        r = Requirement(text)
        if r.marker and not r.marker.evaluate({"extra": ""}):
            continue
        met = _version(r.name)
        if met is None or not r.specifier.contains(met, prereleases=True):
            yield Note("packages", "wrong", f"{r.name} {met or 'is missing'}; emulate asks for {r.name}{r.specifier}",
                       f'pip install "{r.name}{r.specifier}"')  # fmt: skip
    for one, other in _PAIRS:
        if (a := _version(one)) and (b := _version(other)) and a != b:
            yield Note("packages", "wrong", f"{one} {a} beside {other} {b}, which are released together",
                       f'pip install --upgrade "{one}=={a}" "{other}=={a}"')  # fmt: skip


def extras(place: Place) -> Iterator[Note]:
    """Which extras are whole, and the command for each that is not."""
    from packaging.requirements import Requirement

    wanted: dict[str, list[str]] = {}
    for r in map(Requirement, _required()):
        for extra in _extras():
            if r.marker and r.marker.evaluate({"extra": extra}) and not r.marker.evaluate({"extra": ""}):
                wanted.setdefault(extra, []).append(r.name)
    missing = {e: m for e, names in sorted(wanted.items()) if (m := [n for n in names if _version(n) is None])}
    if whole := [e for e in sorted(wanted) if e not in missing]:
        yield Note("extras", "fine", f"{', '.join(whole)} installed")
    for extra, names in missing.items():
        yield Note("extras", "fine", f"{extra} without {', '.join(names)}", f'pip install "emulate[{extra}]"')


def _required() -> list[str]:
    try:
        return metadata.requires("emulate") or []
    except metadata.PackageNotFoundError:
        return []


def _extras() -> list[str]:
    try:
        return metadata.metadata("emulate").get_all("Provides-Extra") or []
    except metadata.PackageNotFoundError:
        return []


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def openmp(place: Place) -> Iterator[Note]:
    """The OpenMP runtimes that torch, numpy and scikit-learn bring into one process: Intel's beside LLVM's may hang or crash."""
    import numpy  # noqa: F401
    import sklearn.cluster  # noqa: F401
    import torch  # noqa: F401
    from threadpoolctl import threadpool_info

    loaded = {p["prefix"]: p["filepath"] for p in threadpool_info() if p["user_api"] == "openmp"}
    copies = [p["filepath"] for p in threadpool_info() if p["user_api"] == "openmp"]
    told = f"{len(copies)} of OpenMP: {', '.join(sorted(Path(c).name for c in copies)) or 'none'}"
    clash = {"libiomp", "libomp"} <= loaded.keys() or (len(loaded) > 1 and sys.platform == "darwin")
    if clash:
        yield Note("openmp", "wrong", f"{told}, of two makers, in one process; it may crash, hang or compute wrongly",
                   "install torch, numpy and scikit-learn from one source into a new environment: all by uv, or all by "
                   "conda-forge")  # fmt: skip
    else:
        yield Note("openmp", "fine", told)
    if place.environment.get("KMP_DUPLICATE_LIB_OK", "").upper() in ("TRUE", "1"):
        yield Note("openmp", "advice", "KMP_DUPLICATE_LIB_OK hides a clash of two copies of OpenMP",
                   "unset KMP_DUPLICATE_LIB_OK, and see whether it is still needed")  # fmt: skip


def pictures(place: Place) -> Iterator[Note]:
    """matplotlib's backend and its folder: a notebook's backend in the environment stops scripts, a home that cannot be
    written makes every start slow."""
    backend = place.environment.get("MPLBACKEND", "")
    if "inline" in backend or "nbagg" in backend:
        yield Note("matplotlib", "advice", f"MPLBACKEND={backend} is a notebook's; a simulator that draws may stop",
                   "unset MPLBACKEND")  # fmt: skip
    elif backend and backend.lower() not in ("agg", "svg", "pdf", "ps", "cairo") and not (
        place.environment.get("DISPLAY") or place.environment.get("WAYLAND_DISPLAY") or sys.platform == "darwin"):  # fmt: skip
        yield Note("matplotlib", "advice", f"MPLBACKEND={backend} wants a screen, and there is none",
                   "export MPLBACKEND=agg")  # fmt: skip
    else:
        yield Note("matplotlib", "fine", f"backend {backend or 'of its own choice; emulate opens no window'}")
    cache = Path(
        place.environment.get("MPLCONFIGDIR") or Path(place.environment.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    )
    above = next(p for p in (cache, *cache.parents) if p.exists())
    if not os.access(above, os.W_OK):
        yield Note("matplotlib", "advice", f"{cache} cannot be written, so fonts are looked for at every start",
                   "export MPLCONFIGDIR=FOLDER, one that you may write")  # fmt: skip
