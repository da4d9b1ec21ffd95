"""`fit(recipe, runs, seed=...)` -> `Emulator`: the fitted stand-in p(y | theta), in physical units, with gradients."""

import hashlib
import json
import os
import platform
import re
import warnings
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from emulate import artefact, conformal, portrait
from emulate.contracts import Core, Finding, Made, Recipe, Simulator, rows_of
from emulate.distributions import Gaussian
from emulate.domain import Domain, Outside, Widened, checked
from emulate.errors import CampaignError, DoubtWarning, ExtrapolationWarning, InputError, nearest
from emulate.privacy import Ledger
from emulate.pushforward import Pushforward, moved
from emulate.runs import Outputs, Runs, places
from emulate.space import Space
from emulate.transforms import OutputTransform

if TYPE_CHECKING:
    import xarray

_ROWS = 4096  # that a recipe made, among those that find the components
_SOME = 200  # runs that choose between y and ln y
_EDGE = 1e-9  # box widths that a point may lie outside by rounding


def demand(recipe: Any, runs: Any, seed: Any) -> None:
    """Complain about what is no built recipe, no table of runs, or no seed."""
    if not isinstance(recipe, Recipe):
        raise InputError(
            f"a recipe must be built, such as GP() or emulate.build('emulators', {{'use': 'gp'}}). Got {recipe!r}."
        )
    if not isinstance(runs, Runs):
        raise InputError(f"runs must be a table of runs. Got {type(runs).__name__}; make one of arrays by Runs.of.")
    if not isinstance(seed, int | np.integer) or seed < 0:
        raise InputError(f"seed must be a whole number, at least 0. Got {seed!r}.")


@torch.inference_mode(False)  # tensors made in inference mode never carry a gradient again
def fit(recipe: Recipe, runs: Runs, *, seed: int, fidelities: Mapping[str, Runs] | None = None,
        simulator: Simulator | None = None) -> "Emulator":  # fmt: skip
    """Fit a recipe to the finished runs; same recipe, runs and seed, same bits.

    `fidelities` are runs of cheaper versions of the simulator by name, and `simulator` what made the runs, for recipes that
    read them. Failed runs are left
    out and counted in the provenance. With `calibrate: conformal` a fifth of the runs, drawn by the seed, is held out and
    scales the error bars; see `emulate.conformal`. A recipe with `privacy` gives an emulator that holds nothing of a single
    run; see `emulate.privacy`. Warns (`DoubtWarning`) of Jacobians that the values contradict. Raises
    `CampaignError` when too few runs finished, `InputError` when the recipe reads Jacobians or fidelities that are not
    there.

    >>> from emulate.emulators.polynomial import Polynomial
    >>> from emulate.runs import Field
    >>> from emulate.space import Parameter, Uniform
    >>> x = np.linspace(0, 1, 9)[:, None]
    >>> runs = Runs.of(Space((Parameter("a", Uniform(0, 1)),)), Outputs((Field("y"),)), x, 1000 + x**2)
    >>> fit(Polynomial(), runs, seed=0).predict({"a": 0.5}).mean
    tensor([1000.2500], dtype=torch.float64)
    """
    demand(recipe, runs, seed)
    if recipe.privacy is not None:
        return _private(recipe, runs, seed)
    finished = runs.finished()
    learnt, held_out = _split(recipe, finished, len(runs) - len(finished), seed)
    if said := recipe.doubt(learnt):
        warnings.warn(f"{recipe.entry_name()}: {said}", DoubtWarning, stacklevel=2)
    made = recipe.make(runs.space, runs.outputs, simulator, seed=seed) if "made" in recipe.takes else None
    transform, trained = _trained(recipe, learnt, _coarse(recipe, runs, fidelities or {}), made, seed=seed)
    state = {name: t.detach().clone(memory_format=torch.contiguous_format) for name, t in trained.state_dict().items()}
    core = recipe.rebuild(state)  # as `load` does: strides and alignment change the last bits of a product
    core.history = trained.history
    provenance = _provenance(recipe, runs, finished, seed)
    if held_out is not None:
        transform = transform.widened(_widening(recipe, core, transform, held_out))
        provenance["held_out"] = len(held_out)
    design = runs.space.scaled(torch.from_numpy(finished.theta))
    return Emulator(runs.space, runs.outputs, recipe, core, transform, provenance, design, _hashes(finished))


def _private(recipe: Recipe, runs: Runs, seed: int) -> "Emulator":
    """The fit that sees runs through a ledger alone; no place, hash or number of the finished runs goes into the emulator."""
    if len(runs) < recipe.minimum_runs(runs.space.d):  # of all runs: whether one of them failed is nobody's business
        raise CampaignError(f"{recipe.entry_name()} must have at least {recipe.minimum_runs(runs.space.d)} runs for "
                            f"{runs.space.d} parameters. Got {len(runs)}; run more points.")  # fmt: skip
    finished, privacy = runs.finished(), recipe.privacy
    transform = privacy.transform(runs.outputs, log=bool(recipe.log))
    field_of = [i for i, f in enumerate(runs.outputs.fields) for _ in range(f.size)]
    ledger = Ledger(privacy, len(runs), torch.tensor(field_of), seed)
    u = runs.space.scaled(torch.from_numpy(finished.theta))
    z = transform.to_z(privacy.inside(runs.outputs, torch.from_numpy(finished.y)))
    with torch.enable_grad():
        trained = recipe.train(u, z, noisy=runs.stochastic, seed=seed, ledger=ledger)
    state = {name: t.detach().clone(memory_format=torch.contiguous_format) for name, t in trained.state_dict().items()}
    known = _provenance(recipe, runs, runs, seed)
    provenance = {k: v for k, v in known.items() if k not in ("failed", "runs_sha256")} | {
        "privacy": ledger.statement()
    }
    return Emulator(runs.space, runs.outputs, recipe, recipe.rebuild(state), transform, provenance)


def _split(recipe: Recipe, finished: Runs, failed: int, seed: int) -> tuple[Runs, Runs | None]:
    """The runs to learn from, and those held out for `calibrate: conformal`."""
    split = recipe.calibrate == "conformal"
    learnt, scored = conformal.held_out(finished.theta, seed) if split else (range(len(finished)), ())
    if len(finished) < recipe.least_runs(finished.space.d) or len(learnt) < recipe.minimum_runs(finished.space.d):
        apart = f", {conformal.FEWEST} of them held out at places of their own" if split else ""
        other = "calibrate: true, or a recipe that needs fewer" if split else "a recipe that needs fewer"
        raise CampaignError(f"{recipe.entry_name()} must have at least {recipe.least_runs(finished.space.d)} finished runs for "
                            f"{finished.space.d} parameters{apart}. Got {len(finished)} ({failed} failed); run more points, "
                            f"or choose {other}.")  # fmt: skip
    return (finished.select(learnt), finished.select(scored)) if split else (finished, None)


@torch.no_grad()
def _widening(recipe: Recipe, core: Core, transform: OutputTransform, held_out: Runs) -> Tensor:
    """By how much the runs held out say that error bars are to be multiplied, `[m]`."""
    prediction = transform.push(core(held_out.space.scaled(torch.from_numpy(held_out.theta))))
    if not isinstance(prediction, Gaussian):
        raise InputError(f"calibrate: conformal scales the error bars of a normal prediction. Got one of another shape from "
                         f"{recipe.entry_name()}; set calibrate: true, or choose another recipe.")  # fmt: skip
    return conformal.widening(prediction.standard(torch.from_numpy(held_out.y)))


def _trained(recipe: Recipe, finished: Runs, coarse: tuple[Runs, ...], made: Made | None = None, *,
             seed: int) -> tuple[OutputTransform, Core]:  # fmt: skip
    """The transform and what was trained on its z; of both transforms the one under which runs that were left out are
    the likelier, where the recipe asks for that and its training knows."""
    theta, y, slopes = torch.from_numpy(finished.theta), torch.from_numpy(finished.y), None
    if "slopes" in recipe.takes and finished.jacobian is not None:
        slopes = torch.from_numpy(finished.jacobian) / finished.space.stretch(theta)[:, None, :]
    elif recipe.needs_slopes:
        raise InputError(f"{recipe.entry_name()} must have runs that carry their Jacobians. Got runs without; set "
                         "simulate.jacobians (auto finds how), give `jacobian` to `Runs.of`, or another recipe.")  # fmt: skip
    u, found = finished.space.scaled(theta), []
    both = recipe.log == "auto" and bool(finished.outputs.positive.any())
    if both and (len(finished) > _SOME or recipe.quick() is not recipe):  # a quick look at some of the runs tells which
        some = finished.select(np.unique(np.linspace(0, len(finished) - 1, _SOME).astype(int)))
        transform, core = _trained(recipe.quick(), some, coarse, made, seed=seed)
        return _trained(
            replace(recipe, log=core.left_out is None or transform.logged), finished, coarse, made, seed=seed
        )
    for log in (True, False) if both else (bool(recipe.log),):
        known = _pooled(finished, (*coarse, *_some(made)), log)
        own = places(finished.theta)
        place = np.append(own, own.max() + 1 + np.arange(len(known) - len(own)))  # pooled runs come after the own
        transform = OutputTransform.fit(finished.outputs, known, log=log, truncation=recipe.truncation, place=place)
        given = {"slopes": None if slopes is None else transform.slopes(y, slopes),
                 "coarse": tuple(_components(recipe, finished, transform, cheap, log) for cheap in coarse),
                 "made": made and (*_components(recipe, finished, transform, made.runs, log), made)}  # fmt: skip
        with torch.enable_grad():
            core = recipe.train(u, transform.to_z(y), noisy=finished.stochastic, seed=seed,
                                **{name: given[name] for name in recipe.takes})  # fmt: skip
        if not both or core.left_out is None:
            return transform, core
        found.append((float(transform.push(core.left_out).log_prob(y).sum()), transform, core))
    return max(found, key=lambda f: f[0])[1:]


def _coarse(recipe: Recipe, runs: Runs, fidelities: Mapping[str, Runs]) -> tuple[Runs, ...]:
    """The finished runs of the fidelities that the recipe reads."""
    made = []
    for name in getattr(recipe, "fidelities", ()) if "coarse" in recipe.takes else ():
        if name not in fidelities:
            raise InputError(f"{recipe.entry_name()}: fidelities must be among those at hand: "
                             f"{', '.join(fidelities) or 'none'}. Got {name!r}.{nearest(name, fidelities)}")  # fmt: skip
        if fidelities[name].space != runs.space:
            raise InputError(f"{recipe.entry_name()}: runs of the fidelity {name!r} must have the parameters of the others, "
                             f"{', '.join(runs.space.names)}, with their priors. Got another space.")  # fmt: skip
        cheap = fidelities[name].finished()
        if not len(cheap):
            raise CampaignError(f"the fidelity {name!r} must have finished runs. Got none of {len(fidelities[name])}; mend "
                                "its simulator, or take it out of the recipe.")  # fmt: skip
        made.append(cheap)
    return tuple(made)


def _components(
    recipe: Recipe, finished: Runs, transform: OutputTransform, cheap: Runs, log: bool
) -> tuple[Tensor, Tensor]:
    """u and z of cheaper runs: by the transform of the runs where the outputs are the same, else by one of their own."""
    if cheap.outputs != finished.outputs:
        transform = OutputTransform.fit(cheap.outputs, cheap.y, log=log, truncation=recipe.truncation)
    return cheap.space.scaled(torch.from_numpy(cheap.theta)), transform.to_z(torch.from_numpy(cheap.y))


def _some(made: Made | None) -> tuple[Runs, ...]:
    """As many of the rows that a recipe made as tell which components there are."""
    return () if made is None else (made.runs.select(slice(_ROWS)),)


def _pooled(finished: Runs, coarse: tuple[Runs, ...], log: bool) -> np.ndarray:
    """y of the runs, and of cheaper ones with the same outputs, brought to the mean and spread of the runs: a few runs
    span few components, and those of a cheaper simulator are much the same."""
    alike = [cheap.y for cheap in coarse if cheap.outputs == finished.outputs and len(cheap) > 1]
    if not alike:
        return finished.y
    logs = finished.outputs.positive & log & np.all([(y > 0).all(0) for y in (finished.y, *alike)], 0)
    own, *others = (np.where(logs, np.log(np.where(logs, y, 1.0)), y) for y in (finished.y, *alike))
    for i, w in enumerate(others):
        sd = w.std(0)
        others[i] = own.mean(0) + (w - w.mean(0)) * own.std(0) / np.where(sd > 0, sd, 1.0)
    w = np.concatenate([own, *others])
    return np.where(logs, np.exp(np.where(logs, w, 0.0)), w)


def _provenance(recipe: Recipe, runs: Runs, finished: Runs, seed: int) -> dict[str, Any]:
    """Where it was trained: enough to repeat the fit and to tell whether the runs are the same."""
    return {
        "recipe": json.loads(json.dumps({"use": recipe.entry_name(), **recipe.settings()})),  # as a file gives it back
        "seed": seed,
        "runs": len(finished),
        "failed": len(runs) - len(finished),
        "runs_sha256": hashlib.sha256("\n".join(sorted(_names(finished))).encode()).hexdigest(),
        "stochastic": runs.stochastic,
        "versions": {"python": platform.python_version()}
        | {p: _version(p) for p in ("emulate", "torch", "numpy", "gpytorch")},
    }


_version = cache(version)  # reading the metadata of packages takes as long as some steps of a small fit


def _names(runs: Runs) -> tuple[str, ...]:
    """The key of every run in its store; its numbers where it has none."""
    return runs.key or tuple(np.concatenate([t, y]).tobytes().hex() for t, y in zip(runs.theta, runs.y))


def _hashes(runs: Runs) -> Tensor:
    """uint8 `[n, 32]`: the key of every run, which is a sha256, or the sha256 of another name."""
    keys = [
        bytes.fromhex(n) if re.fullmatch("[0-9a-f]{64}", n) else hashlib.sha256(n.encode()).digest()
        for n in _names(runs)
    ]
    return torch.from_numpy(np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 32).copy())


def _renewed(emulator: "Emulator", _: Any) -> None:
    """What is kept beside the weights, made anew after others were loaded: factors, products, distances of the runs."""
    state = {n: t.detach().clone(memory_format=torch.contiguous_format) for n, t in emulator.core.state_dict().items()}
    history, emulator.core = emulator.core.history, emulator.recipe.rebuild(state)
    emulator.core.history = history
    emulator.transform = OutputTransform(dict(emulator.transform.state_dict()))
    emulator._guard = None
    emulator.requires_grad_(False)
    emulator.eval()


class Emulator(torch.nn.Module):
    """p(y | theta) with its parameter space, its outputs and where it was trained; carries gradients to theta.

    `fit` and `emulate.load` make it.

    >>> from emulate.emulators.polynomial import Polynomial
    >>> from emulate.runs import Field
    >>> from emulate.space import Parameter, Uniform
    >>> x = np.linspace(0, 1, 9)[:, None]
    >>> e = fit(Polynomial(), Runs.of(Space((Parameter("a", Uniform(0, 1)),)), Outputs((Field("y"),)), x, x**2), seed=0)
    >>> e.jacobian({"a": 0.5}), e.domain({"a": 1.5})
    (tensor([[1.0000]], dtype=torch.float64), tensor(0.5000, dtype=torch.float64))
    """

    findings: tuple[Finding, ...] = ()  # what the checks of a study said of it, kept in its folder
    scores: Mapping[str, float] = MappingProxyType({})  # its errors on held-out runs, by name

    design: Tensor | None
    taught: Tensor | None

    def __init__(self, space: Space, outputs: Outputs, recipe: Recipe, core: Core, transform: OutputTransform,
                 provenance: dict[str, Any], design: Tensor | None = None, taught: Tensor | None = None):  # fmt: skip
        super().__init__()
        self.space, self.outputs, self.recipe, self.provenance = space, outputs, recipe, provenance
        self.core, self.transform = core, transform
        self.register_buffer("design", design)  # of the runs, [n, d] in scaled coordinates; None in old files
        self.register_buffer("taught", taught)  # their hashes, uint8 [n, 32], in the same order
        self._guard: Domain | None = None
        self.requires_grad_(False)
        self.eval()
        self.register_load_state_dict_post_hook(_renewed)

    def extra_repr(self) -> str:
        """What `print` shows: parameters, outputs, units and findings, as `emulate describe` does."""
        return "\n".join(portrait.lines(self.recipe, self.space, self.outputs, self.provenance, self.findings))

    def _apply(self, fn: Any, recurse: bool = True) -> "Emulator":
        if (kind := fn(torch.zeros((), dtype=torch.float64)).dtype) != torch.float64:
            raise InputError(f"an emulator must stay in float64, for a variance is a small difference of large numbers. Got "
                             f"{kind}; turn its answers into {kind} instead.")  # fmt: skip
        super()._apply(fn, recurse)
        for module in self.modules():  # what cores derive of their buffers, and keep beside them
            for name, value in list(vars(module).items()):
                if isinstance(value, Tensor):
                    setattr(module, name, fn(value))
        return self

    @property
    def device(self) -> torch.device:
        """Where it computes; theta may lie elsewhere, and the answers lie where theta does."""
        return self.transform.centre.device

    @property
    def history(self) -> tuple[dict[str, float], ...]:
        """One dict per epoch of the training; empty where there are no epochs."""
        return self.core.history

    def predict(self, theta: Any, *, outside: Outside = "box", strict: bool = False) -> Distribution:
        """p(y | theta) with batch shape `[...]` and event shape `(m,)`; theta `[..., d]`, a dict, or a frame.

        `outside` says what happens where the emulator was not taught:

        - "box": it warns (`ExtrapolationWarning`) outside the box of the parameter space; the quickest look.
        - "warn": also where the design is thin, which is where runs are more than twice as far as from each other.
        - "refuse": it raises `InputError` in both.
        - "inflate": the variance grows continuously with the distance, by `Domain.inflation`.
        - "ignore": nothing.

        `strict` raises `InputError` outside the box and looks no further.
        """
        theta = self.space.pack(theta)
        self.look(theta, outside, strict=strict)
        prediction = moved(self._prediction(theta), self.device, theta.device)
        return Widened(prediction, self.guard.inflation(theta)) if outside == "inflate" else prediction

    forward = predict

    def _prediction(self, theta: Tensor) -> Gaussian | Pushforward:
        return self.transform.push(self.core(self.scaled(_at(theta, self.device))))

    def scaled(self, theta: Tensor) -> Tensor:
        """theta `[..., d]` -> u `[..., d]`, the coordinates that its core reads: those of `space.scaled`, to its own bits."""
        return self.space.scaled(theta, self.core.log)

    def look(self, theta: Tensor, outside: Outside = "box", *, strict: bool = False) -> None:
        """What `predict` says of theta `[..., d]` before it predicts: warnings, or `InputError`."""
        checked(outside)
        if strict or outside != "ignore":
            self._watch(theta.detach(), "refuse" if strict else outside)
        if outside in ("warn", "refuse"):
            self._watch_design(theta.detach(), outside)

    def moments(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance `[..., m]` at theta `[..., d]`, a function of tensors that looks at no value.

        The bits of `predict`, without its guard: what `torch.func` transforms, and what `emulate.program` exports.

        >>> from emulate.emulators.polynomial import Polynomial
        >>> from emulate.runs import Field
        >>> from emulate.space import Parameter, Uniform
        >>> x = np.linspace(0, 1, 9)[:, None]
        >>> runs = Runs.of(Space((Parameter("a", Uniform(0, 1)),)), Outputs((Field("y"),)), x, 1000 + x**2)
        >>> emulator = fit(Polynomial(), runs, seed=0)
        >>> mean = lambda t: emulator.moments(t)[0]
        >>> torch.func.vmap(torch.func.jacrev(mean))(torch.tensor([[0.5], [1.0]], dtype=torch.float64)).ravel().round(decimals=6)
        tensor([1., 2.], dtype=torch.float64)
        """
        theta = self.space.pack(theta)
        prediction = self._prediction(theta)
        return _at(prediction.mean, theta.device), _at(prediction.variance, theta.device)

    @property
    def guard(self) -> Domain:
        """The box and the runs in it: how remote a point is, and in which parameters."""
        if self._guard is None or self._guard.design is not self.design:
            why = ("is private and does not say it; ask",) if "privacy" in self.provenance else ()
            self._guard = Domain(self.space, self.design, *why)
        return self._guard

    def domain(self, theta: Any) -> Tensor:
        """How far theta `[..., d]` lies outside the box, in box widths; 0 inside. Shape `[...]`."""
        return self.guard.beyond(self.space.pack(theta))

    def remoteness(self, theta: Any) -> Tensor:
        """How many times farther theta `[..., d]` lies from its nearest runs than runs lie from each other; see `Domain`.

        Up to 2 where the design is as dense as a design is. Shape `[...]`.
        """
        return self.guard.remoteness(self.space.pack(theta))

    def taught_by(self, runs: Runs) -> np.ndarray:
        """bool `[n]`: which runs of a table it was trained on, so that none of them passes for a test of it."""
        if self.taught is None:
            private = "privacy" in self.provenance
            why = "is private and holds none" if private else "was saved before they were kept; train it again"
            raise InputError(f"this emulator must know its runs. Got one that {why}.")
        known = {row.tobytes() for row in self.taught.cpu().numpy()}
        return np.array([row.tobytes() in known for row in _hashes(runs).numpy()], dtype=bool)

    @torch.inference_mode(False)
    def jacobian(self, theta: Any) -> Tensor:
        """d mean_j / d theta_i, exact, shape `[..., m, d]`."""
        theta = self.space.pack(theta).detach()
        theta = theta.clone() if theta.is_inference() else theta
        self.look(theta)
        flat = theta.reshape(-1, self.space.d).to(self.device)
        u = self.scaled(flat)
        prediction, slopes = self.core.tangent(u)
        if slopes is None:
            block = 8 if hasattr(type(prediction), "nodes") else 512  # a mean over nodes holds 30 MiB for each point
            rows = [
                rows_of(lambda t: self.transform.push(self.core(self.scaled(t))).mean, t) for t in flat.split(block)
            ]
            return torch.cat(rows).reshape(*theta.shape[:-1], self.outputs.size, self.space.d).to(theta.device)
        stretch = self.space.stretch(flat)[:, None, :]
        pushed = self.transform.push_slopes(prediction, *(slope * stretch for slope in slopes))
        return pushed.reshape(*theta.shape[:-1], self.outputs.size, self.space.d).to(theta.device)

    def to_xarray(self, theta: Any, *, outside: Outside = "box", jacobian: bool = False, samples: int = 0,
                  seed: int = 0) -> "xarray.Dataset":  # fmt: skip
        """Mean and standard deviation of every field as an xarray Dataset, with units, over the dimensions of theta.

        theta is what `predict` takes; the dimensions and coordinates of an xarray Dataset or DataArray stay, so that a grid
        gives a grid, and others are called `point`, `point_1`, ... A field `pk` gives `pk` and `pk_sd`, along its own
        coordinate `pk_k`. With `jacobian`, `jacobian` is d mean / d theta along `output` and `parameter`; with `samples`,
        `pk_draw` are so many draws along `draw`, which `seed` repeats.

        >>> import xarray
        >>> from emulate.emulators.polynomial import Polynomial
        >>> from emulate.runs import Field
        >>> from emulate.space import Parameter, Uniform
        >>> x = np.linspace(0, 1, 9)[:, None]
        >>> runs = Runs.of(Space((Parameter("a", Uniform(0, 1)),)), Outputs((Field("y"),)), x, 1000 + x**2)
        >>> made = fit(Polynomial(), runs, seed=0).to_xarray(xarray.Dataset(coords={"a": [0.0, 0.5]}))
        >>> made.y.dims, made.y.sel(a=0.5).item()
        (('a',), 1000.25)
        """
        from emulate.predictions import dataset

        return dataset(self, theta, outside=outside, jacobian=jacobian, samples=samples, seed=seed)

    def save(self, path: str | os.PathLike) -> Path:
        """Write the folder that `emulate.load` reads: JSON and safetensors, no code."""
        body = {
            "recipe": {"use": self.recipe.entry_name(), "settings": self.recipe.settings()},
            "space": self.space.to_dict(),
            "outputs": self.outputs.to_dict(),
            "provenance": self.provenance,
            "history": list(self.history),
        }
        verdict = {"findings": [vars(f) for f in self.findings], "scores": dict(self.scores)}
        return artefact.write(path, body, self.state_dict(), verdict=verdict if self.findings or self.scores else None)

    def _watch(self, theta: Tensor, outside: str) -> None:
        u = self.space.to_unit(theta)
        beyond = torch.maximum(-u, u - 1)
        if bool(((beyond <= _EDGE) & theta.isfinite()).all()):
            return
        if not torch.isfinite(theta).all():
            raise InputError("theta must be finite. Got NaN or infinity; look where it was computed.")
        worst = beyond.reshape(-1, self.space.d).amax(0)
        said = ", ".join(f"{p} by {float(w):.3g} of its range" for p, w in zip(self.space.names, worst) if w > _EDGE)
        share = float((beyond > _EDGE).any(-1).double().mean())
        sentence = f"theta must lie in the box that the emulator was trained in. Got {said} outside"
        sentence += f", in {share:.0%} of the points" if u.ndim > 1 else ""
        if outside == "refuse":
            raise InputError(f"{sentence}; stay inside, or train on a wider prior.")
        if outside != "inflate":
            warnings.warn(f"{sentence}; the prediction is an extrapolation.", ExtrapolationWarning, stacklevel=4)

    def _watch_design(self, theta: Tensor, outside: str) -> None:
        said = self.guard.sentence(theta)
        if not said:
            return
        sentence = f"theta must lie where the design is dense. Got points that lie {said}"
        if outside == "refuse":
            raise InputError(f"{sentence}; run the simulator there, or stay where it ran.")
        warnings.warn(f"{sentence}; no run has taught the emulator there.", ExtrapolationWarning, stacklevel=4)


def _at(x: Tensor, device: torch.device) -> Tensor:
    """`to`, and nothing at all in an exported graph where both are one."""
    return x if x.device == device else x.to(device)
