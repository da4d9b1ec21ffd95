"""`run`, each stage, `simulate` with its own options, and `worker`: what makes the results of a study."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.commands import frame
from pipelines.commands.frame import DryRun, Force, Overrides, Retry, StudyFile, command, read_study

if TYPE_CHECKING:
    from pipelines.terminal import Terminal

_SENTENCES = {
    "design": "Choose the points to run.",
    "train": "Fit the emulators to the finished runs.",
    "validate": "Hold the emulators against held-out runs and the simulator's gradient.",
    "infer": "Infer the parameters of the observation.",
    "check": "Hold the posterior against the true simulator's.",
    "report": "Write one HTML page of everything.",
}


def run_stages(terminal: "Terminal", wanted: Sequence[str], study: Path, changes: list[str], *, force: bool = False,
               dry_run: bool = False) -> int:  # fmt: skip
    """Run stages of a study; all that it has where none is named."""
    loaded = read_study(terminal, study, changes)
    from pipelines import engine

    engine.need(loaded, wanted)
    wanted = wanted or loaded.stages
    terminal.give(study=loaded.name)
    if not dry_run:
        try:
            return 0 if engine.run(loaded, wanted, terminal, force=force) else 1
        finally:
            if terminal.json:
                terminal.give(champion=engine.champion(loaded), paths=engine.paths(loaded))
    rows = engine.plan(loaded, wanted, terminal, force=force)
    terminal.table(f"{loaded.name}: the plan", ("stage", "", "why", "what"), rows)
    terminal.give(plan=[dict(zip(("stage", "action", "why", "what"), r, strict=True)) for r in rows])
    from pipelines.study import JOBS

    if loaded.cluster.use in JOBS:
        from pipelines.cluster import job_script

        terminal.say(f"The script of each of its {loaded.cluster.workers} jobs:\n\n{job_script(loaded.cluster)}")
    return 0


def _with_retry(changes: list[str] | None, retry: bool) -> list[str]:
    return [*(changes or []), *(["simulate.retry_failed=true"] if retry else [])]


@command("run", panel=frame.STAGES)
def run(terminal: "Terminal", study: StudyFile, set_: Overrides = None, force: Force = False, dry_run: DryRun = False,
        retry_failed: Retry = False) -> int:  # fmt: skip
    """Run every stage that is not done yet: from the parameter box to the verdict."""
    return run_stages(terminal, [], study, _with_retry(set_, retry_failed), force=force, dry_run=dry_run)


def _stage_command(stage: str, sentence: str) -> None:
    @command(stage, panel=frame.STAGES, help=sentence)
    def stage_(terminal: "Terminal", study: StudyFile, set_: Overrides = None, force: Force = False,
               dry_run: DryRun = False, retry_failed: Retry = False) -> int:  # fmt: skip
        changes = _with_retry(set_, retry_failed)
        return run_stages(terminal, [stage], study, changes, force=force or retry_failed, dry_run=dry_run)


_stage_command("design", _SENTENCES["design"])


@command("simulate", panel=frame.STAGES)
def simulate(
    terminal: "Terminal", study: StudyFile, set_: Overrides = None, force: Force = False, dry_run: DryRun = False,
    retry_failed: Retry = False,
    only: Annotated[int | None, typer.Option("--only", metavar="I", help="Try training point I, from 0, here; with -v all "
                                             "that it prints, as it comes.")] = None,
    until: Annotated[int | None, typer.Option("--until", metavar="N", help="More points until N runs finished.")] = None,
) -> int:  # fmt: skip
    """Run the simulator at the points; what is stored is never run again."""
    changes = [*_with_retry(set_, retry_failed), *([] if until is None else [f"simulate.until={until}"])]
    if only is None:
        force = force or retry_failed
        return run_stages(terminal, ["simulate"], study, changes, force=force, dry_run=dry_run)
    from emulate.errors import InputError

    if until is not None or dry_run:
        raise InputError("--only must stand without --until and --dry-run: it makes one run. Take one of them out.")
    loaded = read_study(terminal, study, changes)
    from pipelines import trial

    return 0 if trial.run(loaded, terminal, only, verbose=terminal.verbose) else 3


for _stage, _sentence in [*_SENTENCES.items()][1:]:
    _stage_command(_stage, _sentence)


@command("worker", panel=frame.STAGES)
def worker(
    terminal: "Terminal", study: StudyFile, set_: Overrides = None,
    shard: Annotated[str, typer.Option("--shard", metavar="I/N", help="The i-th of n shares, from 1.")] = "1/1",
    time_limit: Annotated[str, typer.Option("--time-limit", metavar="[D-]H:M:S",
                                            help="Of this job; the default is what the queue says.")] = "",
) -> int:  # fmt: skip
    """Make a share of the study's runs, one by one: for a plain array of jobs, without a scheduler."""
    from emulate.errors import InputError
    from pipelines import shard as shards
    from pipelines import walltime

    share, limit = shards.read(shard), walltime.seconds(time_limit)
    if time_limit and not limit:
        raise InputError(f"--time-limit must be hours:minutes:seconds, 01:30:00, or days-hours:minutes:seconds. Got "
                         f"{time_limit!r}.")  # fmt: skip
    return shards.run(read_study(terminal, study, set_), share, terminal, limit)
