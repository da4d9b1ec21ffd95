"""An emulator as a theory of cobaya, and the likelihoods of a study as one of cobaya's (extra `cobaya`)."""

import os
from collections.abc import Iterable, Mapping
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor

from emulate import registry
from emulate.contracts import Likelihood as Contract
from emulate.domain import CHOICES, Outside
from emulate.errors import EmulateError, InputError, MissingPackage, nearest
from emulate.loading import load
from emulate.runs import Outputs

try:
    from cobaya.likelihood import Likelihood
    from cobaya.log import LoggedError
    from cobaya.theory import Provider, Theory
except ImportError as e:
    raise MissingPackage("emulate.adapters.cobaya", "cobaya", "cobaya") from e

PREDICTION = "prediction"  # the product that `EmulatorLikelihood` reads: p(y | theta) with its outputs
_EDGE = 1e-9  # box widths that a point may lie outside by rounding


class EmulatorTheory(Theory):
    """An emulator as a theory of cobaya: it needs its parameters by name, and gives its fields.

    ```yaml
    theory:
      emulate.adapters.cobaya.EmulatorTheory:
        path: runs/quickstart/emulators/gp   # a folder that `save` wrote, or models:/NAME@champion
        renames: {omega_m: Om, pk: pk_nl}    # names of the emulator: names in this file
        outside: reject
    ```

    Fields along a coordinate are products, arrays `[k]` that a likelihood of yours asks for by `get_requirements` and gets by
    `self.provider.get_result("pk_nl")`, with their coordinate beside, `pk_nl_k` for one along k. Fields that are numbers are
    derived parameters. `prediction` is the pair of p(y | theta), a torch Distribution with its covariance, and the `Outputs`.

    `outside` says what happens outside the box that the emulator was trained in: "reject", the likelihood is zero there, as
    a prior would have it; "refuse", the run stops, there and where its runs are thin; or another choice of
    `Emulator.predict`. Two emulators in one file have names of their own, each with
    `class: emulate.adapters.cobaya.EmulatorTheory`, and `renames` for `prediction`.

    >>> from cobaya.model import get_model
    >>> from emulate import Field, Parameter, Runs, Space, Uniform, fit
    >>> from emulate.emulators.polynomial import Polynomial
    >>> x = np.linspace(0, 1, 9)[:, None]
    >>> runs = Runs.of(Space((Parameter("a", Uniform(0, 1)),)), Outputs((Field("s8"),)), x, x)
    >>> theory = {"path": str(fit(Polynomial(), runs, seed=0).save("line"))}
    >>> likelihood = {"data": [0.5], "likelihood": {"use": "gaussian", "absolute_error": 0.1}}
    >>> model = get_model({
    ...     "theory": {"emulate.adapters.cobaya.EmulatorTheory": theory},
    ...     "likelihood": {"emulate.adapters.cobaya.EmulatorLikelihood": likelihood},
    ...     "params": {"a": {"prior": {"min": 0, "max": 2}}, "s8": None}})
    >>> float(model.loglike({"a": 0.5}, return_derived=False).round(4))
    1.3836
    >>> float(model.loglike({"a": 1.5}, return_derived=False))  # outside the box
    -inf
    """

    path: str
    renames: dict = {}
    outside: Literal["reject"] | Outside = "reject"
    stop_at_error: bool = True  # an error is told, and not taken for a likelihood of zero

    def initialize(self) -> None:
        """Load the emulator, and complain about settings that do not fit it."""
        try:
            self.emulator = load(self.path)
            self._check()
        except EmulateError as e:
            raise LoggedError(self.log, "%s", e) from e
        space, outputs = self.emulator.space, self.emulator.outputs
        self._inputs = {self._named(n): n for n in space.names}
        self._numbers = {self._named(f.name): outputs.slices[f.name] for f in outputs.fields if not f.at}
        self._arrays = {self._named(f.name): outputs.slices[f.name] for f in outputs.fields if f.at}
        self._coordinates = {f"{self._named(f.name)}_{f.coordinate}": np.array(f.at) for f in outputs.fields if f.at}

    def get_requirements(self) -> dict[str, Any]:
        """The parameters of the emulator, by their names in cobaya."""
        return dict.fromkeys(self._inputs)

    def get_can_provide(self) -> Iterable[str]:
        """Fields along a coordinate, their coordinates, and the prediction."""
        return [*self._arrays, *self._coordinates, self._named(PREDICTION)]

    def get_can_provide_params(self) -> Iterable[str]:
        """Fields that are numbers."""
        return [*self._numbers]

    def calculate(self, state: dict[str, Any], want_derived: bool = True, **params_values_dict: float) -> bool:
        """One prediction; False, a likelihood of zero, outside the box where `outside` is "reject"."""
        theta = torch.tensor([params_values_dict[n] for n in self._inputs], dtype=torch.float64)
        with torch.no_grad():
            if self.outside == "reject" and not float(self.emulator.domain(theta)) <= _EDGE:
                return False
            told = self.emulator.predict(theta, outside="ignore" if self.outside == "reject" else self.outside)
            y = told.mean.numpy()
        state |= {n: y[part] for n, part in self._arrays.items()} | self._coordinates
        state[self._named(PREDICTION)] = (told, self.emulator.outputs)
        if want_derived:
            state["derived"] = {n: float(y[part][0]) for n, part in self._numbers.items()}
        return True

    def get_version(self) -> dict[str, Any]:
        """Of `emulate`, and of what the emulator was trained on."""
        told = self.emulator.provenance
        return {"emulate": told.get("versions", {}).get("emulate"), "runs_sha256": told.get("runs_sha256")}

    def _named(self, name: str) -> str:
        return self.renames.get(name, name)

    def _check(self) -> None:
        choices = ("reject", *CHOICES)
        if self.outside not in choices:
            raise InputError(f"outside must be one of {', '.join(choices)}. Got {self.outside!r}"
                             f".{nearest(str(self.outside), choices)}")  # fmt: skip
        known = [*self.emulator.space.names, *(f.name for f in self.emulator.outputs.fields), PREDICTION]
        for name in self.renames:
            if name not in known:
                raise InputError(f"renames must name parameters and outputs of the emulator: {', '.join(known)}. Got "
                                 f"{name!r}.{nearest(str(name), known)}")  # fmt: skip
        made = [self._named(n) for n in known]
        twice = [n for n in made if made.count(n) > 1]
        if twice:
            raise InputError(f"parameters and outputs must have different names. Got {twice[0]!r} twice; rename one.")


class EmulatorLikelihood(Likelihood):
    """A likelihood of `emulate` around the prediction of an `EmulatorTheory`, the emulator's own covariance counted.

    ```yaml
    likelihood:
      emulate.adapters.cobaya.EmulatorLikelihood:
        data: observed.csv                                  # m numbers in the order of the outputs, or a list of them
        likelihood: {use: gaussian, relative_error: 0.05}   # as `likelihood` in a study; paths start where cobaya runs
    ```

    `prediction` is the name of the product that is read; two emulators have two names.
    """

    data: str | list
    likelihood: str | dict
    prediction: str = PREDICTION
    stop_at_error: bool = True  # an error is told, and not taken for a likelihood of zero

    def initialize(self) -> None:
        """Read the data and build the likelihood."""
        try:
            self._data = _numbers(self.data)
            self._built: Contract = registry.build("likelihoods", self.likelihood, path="likelihood")
        except EmulateError as e:
            raise LoggedError(self.log, "%s", e) from e
        self._told: tuple[Outputs, Contract] | None = None

    def get_requirements(self) -> dict[str, Any]:
        """The prediction."""
        return {self.prediction: None}

    def logp(self, _derived: Mapping[str, float] | None = None, **params_values: float) -> float:
        """ln p(data | prediction), normalised."""
        told, outputs = cast(Provider, self.provider).get_result(self.prediction)
        if self._told is None or self._told[0] is not outputs:
            if len(self._data) != outputs.size:
                raise LoggedError(self.log, "data must have %d numbers, from %s to %s. Got %d.", outputs.size,
                                  outputs.labels[0], outputs.labels[-1], len(self._data))  # fmt: skip
            self._told = outputs, self._built.on(outputs)
        try:
            with torch.no_grad():
                return float(self._told[1].log_prob(told, self._data))
        except EmulateError as e:
            raise LoggedError(self.log, "%s", e) from e


def _numbers(data: Any) -> Tensor:
    """m finite numbers, from a list or a file of them, one in a line or parted by commas."""
    try:
        if isinstance(data, str | os.PathLike):
            with open(data) as f:
                data = f.read().replace(",", " ").split()
        values = np.array([float(x) for x in data])
    except (OSError, TypeError, ValueError) as e:
        raise InputError(
            f"data must be numbers, or a file of them, one for each output. Got {data!r:.60} ({e})."
        ) from None
    if not len(values) or not np.isfinite(values).all():
        raise InputError(f"data must be finite numbers, one for each output. Got {data!r:.60}.")
    return torch.from_numpy(values)
