"""Commands beside the stages, which read what stages made and log what they find into the study's run."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from emulate.errors import InputError
from pipelines.engine import locked
from pipelines.workbench import Workbench, one_thread

if TYPE_CHECKING:
    from pipelines.study import Study
    from pipelines.terminal import Terminal


@contextmanager
def beside(study: "Study", terminal: "Terminal") -> Iterator[Workbench]:
    """The study's workbench, while no other command is at work in its folder."""
    if locked(study.folder):
        raise InputError(f"another `emulate` is at work in {study.folder}. Wait for it, or stop it.")
    one_thread()
    with Workbench(study, terminal) as bench:
        yield bench


@contextmanager
def noted(bench: Workbench, scope: str) -> Iterator[None]:
    """What is logged within belongs to `scope`, in the run of MLflow that the study has, or in one begun for it."""
    begun = not any(e["event"] == "run_start" for _, e in bench.journal.read())
    if begun:
        study = bench.study
        bench.journal.append("run_start", run=uuid.uuid4().hex[:8], study=study.name, config=study.to_dict())
    bench.journal.append("scope_start", scope)
    status = "failed"
    try:
        yield
        status = "done"
    finally:
        bench.journal.append("scope_end", scope, status=status)
        if begun:
            bench.journal.append("run_end", status=status)
