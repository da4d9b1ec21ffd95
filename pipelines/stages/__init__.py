"""Stages: design -> simulate -> train -> validate -> infer -> check -> report; files in, files out.

A stage is a module with SENTENCE (what it does), READS (the stages whose files it reads), WRITES (its files and
folders, relative to the study's) and `run(bench) -> str` (does it, returns what to tell).
Smallest stage to imitate: `report.py`. Tests: `tests/pipelines/test_stages.py`.
"""

import importlib
from types import ModuleType

ORDER = ("design", "simulate", "train", "validate", "infer", "check", "report")


def load(name: str) -> ModuleType:
    return importlib.import_module(f"pipelines.stages.{name}")
