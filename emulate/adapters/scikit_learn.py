"""Emulators as regressors of scikit-learn: pipelines, cross-validation, grid search, inspection."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from emulate import registry
from emulate.contracts import Recipe
from emulate.domain import Outside, checked
from emulate.emulator import Emulator, fit
from emulate.errors import InputError
from emulate.runs import Field, Outputs, Runs
from emulate.space import Parameter, Space, Uniform

_NESTED = "recipe__"
_validated: Callable[..., Any] = validate_data  # untyped: X and y pass for words, as their defaults are


class EmulatorRegressor(MultiOutputMixin, RegressorMixin, BaseEstimator):
    """Any recipe as a regressor: X `[n, d]` are parameters, y `[n]` or `[n, m]` outputs; `predict` tells its error too.

    Parameters
    ----------
    recipe : str or Recipe
        A name of `emulate.names("emulators")` with its defaults, or a recipe such as `GP(kernel="rbf")`. Its settings are
        `recipe__NAME` in `set_params`, in grids and in pipelines.
    space : Space or None
        The parameters with their priors. None: uniform between the least and the largest value of each column of X.
    outputs : Outputs or None
        The fields of y, of which positive ones may be learnt as logarithms. None: `y`, or `y0`, `y1` ...
    stochastic : bool
        Whether y scatters at equal X. False is for simulators whose answer depends on X alone.
    outside : str or None
        That of `Emulator.predict`. None: "box", which warns outside the box of a `space` that was given; "ignore" without.
    random_state : int or numpy.random.RandomState
        The seed of the fit.

    Attributes
    ----------
    emulator_ : Emulator
        What was fitted, with all that it can do: `predict`, `jacobian`, `save`.
    n_features_in_, feature_names_in_
        As everywhere in scikit-learn.

    Notes
    -----
    X must be dense and finite, and have more rows than the recipe has trend to find: n_samples is refused otherwise.
    `score` is R^2. There is no `sample_weight`.

    >>> from sklearn.model_selection import GridSearchCV
    >>> from emulate.emulators.polynomial import Polynomial
    >>> X = np.random.default_rng(0).uniform(size=(40, 2))
    >>> search = GridSearchCV(EmulatorRegressor(Polynomial()), {"recipe__degree": [1, 2, 3]}, cv=4).fit(X, X[:, 0] ** 3)
    >>> search.best_params_
    {'recipe__degree': 3}
    >>> mean, sd = search.best_estimator_.predict(X[:2], return_std=True)
    >>> mean.shape, bool((sd < 1e-6).all())
    ((2,), True)
    """

    n_features_in_: int
    feature_names_in_: np.ndarray

    def __init__(self, recipe: str | Recipe = "gp", *, space: Space | None = None, outputs: Outputs | None = None,
                 stochastic: bool = False, outside: Outside | None = None, random_state: Any = 0):  # fmt: skip
        self.recipe = recipe
        self.space = space
        self.outputs = outputs
        self.stochastic = stochastic
        self.outside: Outside | None = outside
        self.random_state = random_state

    @classmethod
    def of(cls, emulator: Emulator) -> Self:
        """A fitted regressor of an emulator that was trained or loaded, for tools that only predict: partial dependence,
        permutation importance. `fit` trains its recipe anew.

        Columns of frames must have the names and the order of its parameters.
        """
        made = cls(emulator.recipe, space=emulator.space, outputs=emulator.outputs,
                   stochastic=bool(emulator.provenance.get("stochastic", False)))  # fmt: skip
        made.emulator_, made.n_features_in_ = emulator, emulator.space.d
        made.feature_names_in_ = np.array(emulator.space.names, dtype=object)
        made._flat = emulator.outputs.size == 1
        return made

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The settings by name, those of the recipe as `recipe__NAME`."""
        params = super().get_params(deep)
        if deep and isinstance(self.recipe, Recipe):
            params |= {f"{_NESTED}{f.name}": getattr(self.recipe, f.name) for f in fields(self.recipe) if f.init}
        return params

    def set_params(self, **params: Any) -> Self:
        """Change settings; `recipe__degree=3` that of the recipe, checked as a study's YAML is."""
        nested = {k.removeprefix(_NESTED): params.pop(k) for k in [*params] if k.startswith(_NESTED)}
        super().set_params(**params)
        if nested:
            recipe = self._recipe()
            held = {f.name: getattr(recipe, f.name) for f in fields(recipe) if f.init}
            self.recipe = registry.validate(type(recipe), held | nested, path="recipe")
        return self

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Fit the recipe to X `[n, d]` and y `[n]` or `[n, m]`."""
        names = getattr(X, "columns", None)
        theta, values = _validated(self, X, y, dtype=np.float64, multi_output=True, y_numeric=True)
        checked(self.outside or "ignore")
        recipe = self._recipe()
        if len(theta) < (least := recipe.least_runs(theta.shape[1])):
            raise InputError(f"{recipe.entry_name()} must have at least {least} samples for {theta.shape[1]} features. Got "
                             f"n_samples={len(theta)}; give more, or choose a recipe that needs fewer.")  # fmt: skip
        runs = Runs.of(self._space(theta, names), self._outputs(values), theta, values, stochastic=self.stochastic)
        self.emulator_ = fit(recipe, runs, seed=self._seed())
        self._flat = values.ndim == 1
        return self

    def predict(self, X: ArrayLike, return_std: bool = False) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """The mean of y at X `[n, d]`, shaped as y was; with `return_std` also the standard deviation of the prediction."""
        check_is_fitted(self)
        theta = torch.tensor(_validated(self, X, reset=False, dtype=np.float64))
        outside: Outside = self.outside or ("ignore" if self.space is None else "box")
        with torch.no_grad():
            told = self.emulator_.predict(theta, outside=outside)
            mean = self._shaped(told.mean)
            return (mean, self._shaped(told.variance.sqrt())) if return_std else mean

    def _shaped(self, y: Tensor) -> np.ndarray:
        return y.numpy()[:, 0] if self._flat else y.numpy()

    def _recipe(self) -> Recipe:
        if isinstance(self.recipe, Recipe):
            return self.recipe
        return registry.build("emulators", self.recipe, path="recipe")

    def _seed(self) -> int:
        if isinstance(self.random_state, np.random.RandomState):
            return int(self.random_state.randint(2**31 - 1))
        return self.random_state  # `fit` complains about what is no seed

    def _space(self, X: np.ndarray, names: Any) -> Space:
        d = X.shape[1]
        told = [] if names is None else [str(n) for n in names]
        if self.space is None:
            good = len(set(told)) == d and all(n.isidentifier() for n in told)
            low, high = X.min(0), X.max(0)
            flat = ~(high > low)  # a column with one value tells nothing, at any width
            low, high = (
                np.where(flat, low - 0.5 * (1 + abs(low)), low),
                np.where(flat, high + 0.5 * (1 + abs(high)), high),
            )
            return Space(tuple(Parameter(told[i] if good else f"x{i}", Uniform(float(low[i]), float(high[i])))
                               for i in range(d)))  # fmt: skip
        if self.space.d != d or (told and told != list(self.space.names)):
            raise InputError(f"X must have the columns of the space, in its order: {', '.join(self.space.names)}. Got "
                             f"{', '.join(told) or f'{d} columns'}; reorder them.")  # fmt: skip
        return self.space

    def _outputs(self, y: np.ndarray) -> Outputs:
        m = 1 if y.ndim == 1 else y.shape[1]
        if self.outputs is None:
            return Outputs(tuple(Field("y" if y.ndim == 1 else f"y{i}") for i in range(m)))
        if self.outputs.size != m:
            raise InputError(f"y must have the {self.outputs.size} columns of the outputs. Got {m}; mend the outputs, or leave "
                             "them out.")  # fmt: skip
        return self.outputs
