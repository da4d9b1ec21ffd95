"""`load(path_or_uri)`: an emulator from its folder, or from any place that an installed package can fetch one from."""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from emulate import artefact, registry
from emulate.contracts import Finding, Recipe
from emulate.devices import chosen
from emulate.emulator import Emulator
from emulate.errors import InputError, StoreError
from emulate.runs import Outputs
from emulate.space import Space
from emulate.transforms import OutputTransform

_MISFIT = (KeyError, IndexError, RuntimeError, TypeError, ValueError, AttributeError, ArithmeticError)
LOADERS = "emulate.loaders"  # entry points: a scheme, and a function from a URI of that scheme to a local folder


@torch.inference_mode(False)  # tensors made in inference mode never carry a gradient again
def load(path_or_uri: str | os.PathLike, *, recipe: type[Recipe] | None = None, device: Any = "cpu") -> Emulator:
    """The emulator that `save` wrote, bit for bit; `models:/name/version` and the like are fetched first.

    The file holds data only. A recipe from outside the house is never imported because a file names it: import it
    yourself and pass its class as `recipe`. It knows no device either: `device` is where the emulator goes, "cpu", "cuda",
    "cuda:1" or "auto", a GPU where there is one; `Emulator.to` moves it again.

    Raises `InputError` when there is none, `StoreError` when the folder is damaged or not an emulator.

    >>> import emulate
    >>> x = torch.linspace(0, 1, 9, dtype=torch.float64)[:, None].numpy()
    >>> space = Space((emulate.Parameter("a", emulate.Uniform(0, 1)),))
    >>> runs = emulate.Runs.of(space, Outputs((emulate.Field("y"),)), x, 1000 + x**2)
    >>> made = emulate.fit(emulate.build("emulators", "polynomial"), runs, seed=0)
    >>> load(made.save("square")).predict({"a": 0.5}).mean
    tensor([1000.2500], dtype=torch.float64)
    """
    place = chosen(device)
    folder = _fetched(path_or_uri)
    body, tensors, told = artefact.read_whole(folder)
    findings, scores = _verdict(folder, told)
    try:
        use, settings = body["recipe"]["use"], body["recipe"]["settings"]
        space, outputs = Space.from_dict(body["space"]), Outputs.from_dict(body["outputs"])
        provenance, history = body["provenance"], tuple(body["history"])
        transform = OutputTransform(_part(tensors, "transform."))
    except _MISFIT as e:
        raise StoreError(f"{folder} is no whole emulator: {e!r} is missing or wrong. Train it again.") from e
    if not isinstance(settings, Mapping):
        raise StoreError(f"{folder} is no whole emulator: the settings of its recipe must be named. Got {settings!r:.60}. Train "
                         "it again.")  # fmt: skip
    settings = _without_simulators(_recipe(use, recipe), settings)
    _refuse_foreign(settings)
    built = registry.validate(_recipe(use, recipe), settings, path=f"{folder}: recipe")
    try:
        core = built.rebuild(_part(tensors, "core."))
        core.history = history
        made = Emulator(space, outputs, built, core, transform, provenance, *_runs(tensors, space.d))
        _try(made)
    except _MISFIT as e:
        raise StoreError(f"the weights in {folder} do not fit the recipe {use!r}: {e}. Train it again.") from e
    made.findings, made.scores = findings, scores
    return made if place.type == "cpu" else made.to(place)


def keep(path: str | os.PathLike, findings: Iterable[Finding], scores: Mapping[str, float]) -> None:
    """Write findings and scores into an emulator's folder, where `load(path).findings` gives them."""
    artefact.write_verdict(path, {"findings": [vars(f) for f in findings], "scores": dict(scores)})


def _verdict(folder: Path, told: dict[str, Any]) -> tuple[tuple[Finding, ...], dict[str, float]]:
    try:
        return tuple(Finding(**f) for f in told.get("findings", ())), dict(told.get("scores", {}))
    except _MISFIT as e:
        raise StoreError(f"{folder / artefact.FINDINGS} holds no findings: {e}. Run `emulate validate --force`.") from e


def _runs(tensors: dict[str, Tensor], d: int) -> tuple[Tensor | None, Tensor | None]:
    """The places and the hashes of the runs; emulators that were saved before these were kept hold none."""
    design, taught = tensors.get("design"), tensors.get("taught")
    if design is not None and (
        design.ndim != 2 or design.shape[1] != d or not len(design) or not design.is_floating_point()
    ):
        raise ValueError(f"design has the shape {tuple(design.shape)} for {d} parameters")
    if taught is not None and (taught.dtype != torch.uint8 or taught.ndim != 2 or taught.shape[1] != 32):
        raise ValueError(f"taught has the shape {tuple(taught.shape)} and must be [runs, 32]")
    return design, taught


def _try(emulator: Emulator) -> None:
    """Predictions of a point and of a batch: tensors of wrong shapes show themselves here and not in an analysis."""
    middle = emulator.space.from_unit(torch.full((emulator.space.d,), 0.5, dtype=torch.float64))
    for batch in ((), (5, 3)):
        with torch.no_grad():
            mean, variance = emulator.moments(middle.expand(*batch, -1))
        if mean.shape != (*batch, emulator.outputs.size) or variance.shape != mean.shape:
            raise ValueError(f"a prediction of {list(batch)} points has the shape {list(mean.shape)} and the outputs have "
                             f"{emulator.outputs.size}")  # fmt: skip
        if mean.isnan().any() or not (variance >= 0).all():
            raise ValueError("a prediction in the middle of the box has a mean that is no number, or a variance that is none or "
                             "below 0")  # fmt: skip


def _fetched(path_or_uri: str | os.PathLike) -> Path:
    if not isinstance(path_or_uri, str | os.PathLike):
        raise InputError(
            f"load must be given a folder or a URI. Got {path_or_uri!r:.60}; give the path that `save` returned."
        )
    match = re.match(r"([a-z][a-z0-9+.-]+):", str(path_or_uri))  # two letters at least: C: is a drive
    if not match or Path(path_or_uri).exists():
        return Path(path_or_uri)
    scheme = match[1]
    found = {e.name: e for e in entry_points(group=LOADERS)}
    if scheme not in found:
        known = ", ".join(sorted(found)) or "none"
        raise InputError(f"nothing installed can load {path_or_uri}: schemes must be one of {known}. Got {scheme!r}; "
                         "give a folder, or install the package that fetches it.")  # fmt: skip
    return Path(found[scheme].load()(str(path_or_uri)))


def _recipe(use: Any, given: type[Recipe] | None) -> type[Recipe]:
    if given is not None:
        if given.entry_name() != use:
            raise InputError(
                f"this emulator was trained by {use!r}. Got recipe = {given.entry_name()!r}; pass the right one."
            )
        return given
    if not isinstance(use, str) or ":" in use:
        raise InputError(f"this emulator was trained by {use!r}, which is not part of emulate, and a file must not choose "
                         "what is imported. Import that class and pass it: load(path, recipe=...).")  # fmt: skip
    return registry.find("emulators", use)


def _without_simulators(cls: type[Recipe], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without the simulator that a recipe learnt from: a prediction needs none, and a file must not build one."""
    simulators = {f.name for f in fields(cls) if registry.room_of(f.type) == "simulators"}
    return {k: None if k in simulators else v for k, v in settings.items()}


def _refuse_foreign(settings: Mapping[str, Any]) -> None:
    """A recipe within a recipe is of the house, too: what `_recipe` refuses may not come in by a setting."""
    for value in settings.values():
        if isinstance(value, Mapping):
            if "use" in value:
                _recipe(value["use"], None)
            _refuse_foreign(value)


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
