"""Stages: design -> simulate -> train -> validate -> infer -> check -> optimise -> report; files in, files out.

A stage is a module with SENTENCE (what it does), READS (the stages whose files it reads), WRITES (its files and
folders, relative to the study's) and `run(bench) -> str` (does it, returns what to tell). A study has those that its
answers need: `of` alone says which.
Smallest stage to imitate: `report.py`. Tests: `tests/pipelines/test_stages.py`.
"""

import importlib
from types import ModuleType

ORDER = ("design", "simulate", "train", "validate", "infer", "check", "optimise", "report")
FIND = ("validate", "check", "optimise")  # those that hold something against a bound
_EMULATOR, _POSTERIOR = ("design", "simulate", "train", "validate"), ("infer", "check")


def of(*, infers: bool, optimises: str) -> tuple[str, ...]:
    """The stages of a study that infers or does not, and that optimises by its emulator, by the simulator, or not at all.

    An emulator is made unless the optimum of the simulator itself is all that is asked for.

    >>> of(infers=False, optimises="simulator")
    ('optimise', 'report')
    """
    emulator = infers or optimises != "simulator"
    had = (*_EMULATOR * emulator, *_POSTERIOR * infers, *("optimise",) * bool(optimises), "report")
    return tuple(s for s in ORDER if s in had)


def load(name: str) -> ModuleType:
    return importlib.import_module(f"pipelines.stages.{name}")
