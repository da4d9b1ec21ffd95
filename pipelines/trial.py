"""One training point in the foreground, everything shown: so that a mistake in a study costs seconds."""

import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from emulate.errors import InputError
from emulate.store import RunStore
from pipelines.failures import SHORT, outputs_in_words, visible
from pipelines.limits import in_words
from pipelines.runner import Answer, Runner
from pipelines.stages import design
from pipelines.terminal import Terminal, count
from pipelines.workbench import Workbench, one_thread, warn_of_unread
from pipelines.worker import Task, commit, question

if TYPE_CHECKING:
    from pipelines.study import Study

_LINES = 20  # of what a run printed; all with `verbose`
_LOG_BYTES = 2**22


def run(study: "Study", terminal: Terminal, index: int, *, verbose: bool) -> bool:
    """Run training point `index` (from 0) here and now, once; True when it finished.

    A run that finished is committed to the store like any other, for it may have cost hours; one that failed is not,
    for the user is about to mend it, and a stored failure would not be run again. A run that the store holds already
    is made all the same, and compared with what is stored.
    """
    one_thread()
    if not 0 <= index < study.design.runs:
        raise InputError(f"--only must be the number of a training point, 0 to {study.design.runs - 1}. Got {index}.")
    limits = replace(study.simulate.limits, log_bytes=_LOG_BYTES)
    with Workbench(study, terminal) as bench, Runner(study.simulator_spec, limits=limits,
                                                     hear=_echo if verbose else None) as runner:  # fmt: skip
        theta = design.points(bench)["training"]
        task = bench.tasks({"training": theta[index : index + 1]})[0]
        _ask(study, terminal, index, task)
        warn_of_unread(study, terminal)
        record = question(task, runner)
        answer = runner.run(task.theta, task.seed, task.product, task.gradient)
        _tell(study, terminal, answer, verbose=verbose)
        if answer.failure is None:
            terminal.say(_keep(bench.store, task, record, answer))
        failed = answer.failure and {"kind": answer.failure.kind, "reason": answer.failure.reason}
        terminal.give(study=study.name, point=index, theta=dict(zip(study.space.names, task.theta, strict=True)), seed=task.seed,
                      key=task.key, seconds=answer.seconds, memory_mib=answer.memory_mib, failure=failed, log=visible(answer.log),
                      y=None if failed else list(map(float, answer.y)))  # fmt: skip
        return answer.failure is None


def _ask(study: "Study", terminal: Terminal, index: int, task: Task) -> None:
    limits, path = study.simulate.limits, study.folder / "store"
    first = f", the first of its {r} runs" if (r := study.replicates_of("training")) > 1 else ""
    point = f"training point {index} of {study.design.runs}{first}"
    terminal.say(f"{point}, seed {task.seed}, key {task.key[:SHORT]} in {path}")
    pairs = zip(study.space.parameters, task.theta, strict=True)
    terminal.table("", ("parameter", "value", "unit"), [(p.name, f"{x:.8g}", p.unit) for p, x in pairs])
    memory = f"{in_words(limits.memory)} of memory" if limits.memory else "no limit of memory"
    terminal.say(f"limits: {limits.timeout:g} s, {memory}, {count(limits.threads, 'core')}")


def _tell(study: "Study", terminal: Terminal, answer: Answer, *, verbose: bool) -> None:
    """What the run printed (with `verbose` it was shown as it came), its price, and what came of it."""
    lines = [line for line in visible(answer.log).splitlines() if line.strip()]
    if not lines:
        terminal.say("it said nothing")
    elif not verbose or answer.failure:
        shown = lines if verbose else lines[-_LINES:]
        more = "" if len(shown) == len(lines) else f", the last {_LINES} of {len(lines)} lines; --verbose shows all"
        terminal.say("\n".join([f"it said{more}:", *("  " + line for line in shown)]))
    terminal.say(f"it took {answer.seconds:.3g} s and {answer.memory_mib:g} MiB")
    if answer.failure:
        terminal.fail(visible(str(answer.failure)))
        terminal.say("The store keeps no trace of this try; mend the study and try again.")
    else:
        terminal.table("", ("output", "values"), outputs_in_words(study.simulator.outputs, answer.y))


def _keep(store: RunStore, task: Task, record: bytes, answer: Answer) -> str:
    """Commit a run that finished; a sentence on what the store holds now."""
    if not store.has(task.key):
        commit(store, record, answer, task)
        return "The run is stored; the campaign will not make it again."
    if store.failed(task.key):
        return "The store holds this run as failed; `emulate simulate --retry-failed` makes it again."
    if store.read(task.key).y.tobytes() == answer.y.tobytes():
        return "The store holds this run with the same numbers, bit for bit."
    return ("The store holds this run with other numbers, which are kept. A simulator must give the same answer for the "
            "same parameters and seed; mend it, and change its revision.")  # fmt: skip


def _echo(printed: bytes) -> None:
    """What the run prints, as it comes."""
    sys.stdout.write(visible(printed.decode(errors="replace")))
    sys.stdout.flush()
