"""What a study must leave alone where an emulator is trained under differential privacy, or its promise would not hold."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from emulate.errors import InputError
from emulate.privacy import missing

if TYPE_CHECKING:
    from pipelines.study import Study


def private(s: "Study") -> dict[str, Any]:
    """The private recipes of a study by name."""
    return {name: recipe for name, recipe in s.emulators.items() if recipe is not None and recipe.privacy is not None}


def broken(s: "Study") -> Iterator[str]:
    """The sentences of all rules that a study with a private emulator breaks."""
    if private(s) and (said := missing()):
        yield said
    for name, recipe in private(s).items():
        try:
            recipe.privacy.transform(s.simulator.outputs, log=bool(recipe.log))
        except InputError as e:
            yield f"emulators.{name}.{e}"
        if len(s.emulators) > 1:
            yield (f"emulators.{name}: must stand alone in its study where it has privacy, for a choice among emulators looks at "
                   f"the runs, and so does what is said of it beside another. Got {', '.join(s.emulators)}; take the others "
                   "out, or give them a study of their own.")  # fmt: skip
        if s.train.folds:
            yield (f"train.folds: must be 0 where {name} has privacy, for each fold would spend a budget of its own. Got "
                   f"{s.train.folds}; set it to 0.")  # fmt: skip
        if hasattr(s.design.entry, "look"):
            yield (f"design.use: must be a design that looks at no run where {name} has privacy, for a run may not decide where "
                   f"others are made. Got {s.design.entry.entry_name()}; choose sobol.")  # fmt: skip
        if s.simulate.until is not None:
            yield (f"simulate.until: must be empty where {name} has privacy, for a run that fails may not decide how many others "
                   f"are made. Got {s.simulate.until}; take it out, and raise design.runs.")  # fmt: skip
        if s.design.replicates > 1:
            yield (f"design.replicates: must be 1 where {name} has privacy, for several runs at the same parameters tell of one "
                   f"thing and what is protected is a single run. Got {s.design.replicates}; raise design.runs "
                   "instead.")  # fmt: skip
        if s.infer is not None and s.infer.outside != "ignore":
            yield (f"infer.outside: must be ignore where {name} has privacy, for its file does not say where the runs lie. Got "
                   f"{s.infer.outside}; set it to ignore.")  # fmt: skip
