"""The command `emulate`. Thin: it parses, calls, prints; heavy imports wait until a command needs them."""

import _thread
import functools
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from pipelines.stores import commands

app = typer.Typer(
    help="Differentiable stand-ins for simulators, and the proof of how far they can be trusted.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

StudyFile = Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="The study file.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the study.")]
Force = Annotated[bool, typer.Option("--force", help="Run stages even when nothing changed.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan; run and write nothing.")]
Retry = Annotated[bool, typer.Option("--retry-failed", help="Run failed points again.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print findings and errors only.")]
STAGES = ("design", "simulate", "train", "validate", "infer", "check", "optimise", "report")


def guarded(command: Callable[..., int | None]) -> Callable[..., None]:
    """Exit codes: 0 passed, 1 a check failed, 2 the input is wrong, 3 the campaign fell short, 130 Ctrl-C."""

    @functools.wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        from emulate.errors import EmulateError

        try:
            code = command(*args, **kwargs) or 0
        except EmulateError as e:
            code = _fail(str(e), e.exit_code)
        except KeyboardInterrupt:
            code = _fail("interrupted. Every finished run is stored; the same command goes on from there.", 130)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = 0
        except OSError as e:
            from pipelines.files import advice

            code = _fail(str(advice(e, e.filename or "a file")), 2)
        raise typer.Exit(code)

    return wrapper


def _fail(sentence: str, code: int) -> int:
    from pipelines.terminal import Terminal

    Terminal().fail(sentence)
    return code


def _stages(wanted: Sequence[str], study: Path, changes: list[str], force: bool, dry_run: bool, quiet: bool) -> int:
    """Run stages of a study; all that it has where none is named."""
    from pipelines import engine
    from pipelines.config import load_study
    from pipelines.terminal import Terminal

    terminal = Terminal(quiet=quiet)
    with terminal.bar("reading the study"):
        loaded = load_study(study, changes)
    engine.need(loaded, wanted)
    wanted = wanted or loaded.stages
    if dry_run:
        rows = engine.plan(loaded, wanted, terminal, force=force)
        terminal.table(f"{loaded.name}: the plan", ("stage", "", "why", "what"), rows)
        from pipelines.study import JOBS

        if loaded.cluster.use in JOBS:
            from pipelines.cluster import job_script

            terminal.say(f"The script of each of its {loaded.cluster.workers} jobs:\n\n{job_script(loaded.cluster)}")
        return 0
    return 0 if engine.run(loaded, wanted, terminal, force=force) else 1


@app.command("run")
@guarded
def run(study: StudyFile, set_: Overrides = None, force: Force = False, dry_run: DryRun = False,
        retry_failed: Retry = False, quiet: Quiet = False) -> int:  # fmt: skip
    """Run every stage that is not done yet: from the parameter box to the verdict."""
    return _stages([], study, _with_retry(set_, retry_failed), force, dry_run, quiet)


def _with_retry(changes: list[str] | None, retry: bool) -> list[str]:
    return [*(changes or []), *(["simulate.retry_failed=true"] if retry else [])]


def _stage_command(stage: str, sentence: str) -> None:
    @app.command(stage, help=sentence)
    @guarded
    def command(study: StudyFile, set_: Overrides = None, force: Force = False, dry_run: DryRun = False,
                retry_failed: Retry = False, quiet: Quiet = False) -> int:  # fmt: skip
        return _stages([stage], study, _with_retry(set_, retry_failed), force or retry_failed, dry_run, quiet)


for _stage, _sentence in {
    "design": "Choose the points to run.",
    "train": "Fit the emulators to the finished runs.",
    "validate": "Hold the emulators against held-out runs and the simulator's gradient.",
    "infer": "Infer the parameters of the observation.",
    "check": "Hold the posterior against the true simulator's.",
    "report": "Write one HTML page of everything.",
}.items():
    _stage_command(_stage, _sentence)


@app.command("simulate")
@guarded
def simulate(
    study: StudyFile, set_: Overrides = None, force: Force = False, dry_run: DryRun = False, retry_failed: Retry = False,
    quiet: Quiet = False,
    only: Annotated[int | None, typer.Option("--only", metavar="I", help="Try training point I, from 0, here.")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="With --only: all that it prints, as it comes.")] = False,
    until: Annotated[int | None, typer.Option("--until", metavar="N", help="More points until N runs finished.")] = None,
) -> int:  # fmt: skip
    """Run the simulator at the points; what is stored is never run again."""
    changes = [*_with_retry(set_, retry_failed), *([] if until is None else [f"simulate.until={until}"])]
    from emulate.errors import InputError

    if verbose and only is None:
        raise InputError("--verbose must stand with --only I: it prints what one run says. Add --only, or take it out.")
    if only is not None and (until is not None or dry_run):
        raise InputError("--only must stand without --until and --dry-run: it makes one run. Take one of them out.")
    if only is None:
        return _stages(["simulate"], study, changes, force or retry_failed, dry_run, quiet)
    from pipelines import trial
    from pipelines.config import load_study
    from pipelines.terminal import Terminal

    return 0 if trial.run(load_study(study, changes), Terminal(quiet=quiet), only, verbose=verbose) else 3


@app.command("worker")
@guarded
def worker(
    study: StudyFile,
    shard: Annotated[str, typer.Option("--shard", metavar="I/N", help="The i-th of n shares, from 1.")] = "1/1",
    time_limit: Annotated[
        str, typer.Option("--time-limit", metavar="[D-]H:M:S", help="Of this job; the default is what the queue says.")
    ] = "",
    set_: Overrides = None,
    quiet: Quiet = False,
) -> int:
    """Make a share of the study's runs, one by one: for a plain array of jobs, without a scheduler."""
    from emulate.errors import InputError
    from pipelines import shard as shards
    from pipelines import walltime
    from pipelines.config import load_study
    from pipelines.terminal import Terminal

    share, limit = shards.read(shard), walltime.seconds(time_limit)
    if time_limit and not limit:
        raise InputError(f"--time-limit must be hours:minutes:seconds, 01:30:00, or days-hours:minutes:seconds. Got "
                         f"{time_limit!r}.")  # fmt: skip
    return shards.run(load_study(study, set_ or []), share, Terminal(quiet=quiet), limit)


@app.command("certificates")
@guarded
def certificates(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A new folder for the keys.")],
) -> int:
    """Make TLS keys for a Dask scheduler, its workers and `cluster.certificates`; whoever has them may run code there."""
    from pipelines.cluster import make_certificates
    from pipelines.terminal import Terminal

    ca, cert, key = make_certificates(folder)
    keys = f"--tls-ca-file {ca} --tls-cert {cert} --tls-key {key}"
    terminal = Terminal()
    terminal.say(f"Keys for a year, readable by you alone, in {folder}. Start the cluster with them:")
    terminal.say(f"  dask scheduler --protocol tls --dashboard-address 127.0.0.1:8787 {keys}")
    terminal.say(f"  dask worker tls://HOST:8786 --nthreads 1 --dashboard-address 127.0.0.1:0 {keys}")
    terminal.say(
        f"and name it in the study: cluster: {{use: address, address: 'tls://HOST:8786', certificates: {folder}}}"
    )
    return 0


@app.command("status")
@guarded
def status(study: StudyFile, set_: Overrides = None,
           failed: Annotated[bool, typer.Option("--failed", help="List the failed runs.")] = False,
           run: Annotated[str, typer.Option("--run", metavar="KEY", help="Print one run: its key's first digits.")] = "",
           ) -> int:  # fmt: skip
    """Say which stages are done, running, failed or stale, and how many runs are stored."""
    from pipelines import engine, failures, rounds
    from pipelines.config import load_study
    from pipelines.terminal import Terminal, duration

    loaded, terminal = load_study(study, set_ or []), Terminal()
    if run:
        failures.show_run(loaded, terminal, run)
        return 0
    states = [engine.state(loaded, s) for s in loaded.stages]
    rows = [(s.stage, s.status, duration(s.seconds) if s.seconds is not None else "", s.why) for s in states]
    terminal.table(f"{loaded.name} in {loaded.folder}", ("stage", "status", "took", ""), rows)
    terminal.say(engine.stored(loaded))
    if said := engine.planned(loaded):
        terminal.say(said)
    if said := rounds.status(loaded):
        terminal.say(said)
    failures.show_under_way(loaded, terminal)
    if failed:
        failures.show_failed(loaded, terminal)
    return 0


@app.command("init")
@guarded
def init(
    study: Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="The study to write.")] = Path("study.yaml"),
    command: Annotated[str, typer.Option("--command", help="The program as you would type it.")] = "",
    input_: Annotated[str | None, typer.Option("--input", metavar="FILE", help="The file it reads; '' for none.")] = None,
    parameter: Annotated[list[str] | None, typer.Option("--parameter", metavar="NAME=LOW:HIGH[:log]",
                                                        help="A parameter and its range.")] = None,
    output: Annotated[list[str] | None, typer.Option("--output", metavar="NAME=FILE[:PLACE][*VALUES]",
                                                     help="An output, its file, column or key, and length.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the study.")] = False,
) -> int:  # fmt: skip
    """Write a commented study for a program of your own; asks for what no option says."""
    from pipelines import init as writing
    from pipelines.terminal import Terminal

    answers = writing.asked(command, input_, parameter or [], output or [], typer.prompt)
    written = writing.write(study, answers, force=force)
    Terminal().say(writing.advice(written, answers))
    return 0


@app.command("list")
@guarded
def list_(room: Annotated[str | None, typer.Argument(help="One room: simulators, emulators, ...")] = None) -> int:
    """List the rooms and their entries, one sentence each."""
    from emulate import registry
    from pipelines.terminal import Terminal

    for r in (room,) if room else registry.ROOMS:
        Terminal().table(r, ("entry", "what it is"), [(n, registry.sentence(r, n)) for n in registry.names(r)])
    return 0


@app.command("predict")
@guarded
def predict(
    emulator: Annotated[str, typer.Argument(metavar="EMULATOR", help="A folder, or models:/NAME@ALIAS.")],
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="One parameter.")] = None,
    csv: Annotated[Path | None, typer.Option("--csv", help="Points, one column per parameter.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write a CSV instead of printing.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse points outside the design box.")] = False,
    outside: Annotated[str, typer.Option("--outside", metavar="CHOICE", help="Where no run is near: warn, refuse, inflate "
                                         "(the variance) or ignore; box: look at the box alone.")] = "warn",
) -> int:  # fmt: skip
    """Predict with an emulator: mean and standard deviation of every output."""
    from pipelines import prediction

    return prediction.run(emulator, set_ or [], csv, out, strict=strict, outside=outside)


@app.command("costs")
@guarded
def costs(study: StudyFile, set_: Overrides = None,
          pilot: Annotated[int, typer.Option("--pilot", min=0, metavar="N", help="Make N runs first; they are kept.")] = 0,
          ) -> int:  # fmt: skip
    """Say what the runs took, and core-hours and time of those that are still to do."""
    from pipelines import forecasts
    from pipelines.config import load_study
    from pipelines.terminal import Terminal

    return forecasts.command(load_study(study, set_ or []), Terminal(), pilot=pilot)


@app.command("learning-curve")
@guarded
def learning_curve(
    study: StudyFile, set_: Overrides = None,
    target: Annotated[float, typer.Option("--target", help="Median error of a held-out run: 0.01 is 1 %.")] = 0.01,
    emulator: Annotated[str, typer.Option("--emulator", metavar="NAME", help="Empty: the one that is used.")] = "",
    fits: Annotated[int, typer.Option("--fits", min=1, max=100, help="Fits to parts of one size, at most.")] = 4,
    epsilon: Annotated[str, typer.Option("--epsilon", metavar="A,B,...", help="Budgets of privacy in place of sizes.")] = "",
) -> int:  # fmt: skip
    """Say how many more runs an emulator needs for an error: refits to parts of the runs, and a power law.

    With --epsilon the error against the budget of privacy: refits to all runs, as many for each budget.
    """
    from pipelines import learning, utility
    from pipelines.config import load_study
    from pipelines.terminal import Terminal

    if epsilon:
        return utility.command(load_study(study, set_ or []), Terminal(), budgets=epsilon, name=emulator, fits=fits)
    return learning.command(load_study(study, set_ or []), Terminal(), target=target, name=emulator, parts=fits)


@app.command("sensitivity")
@guarded
def sensitivity(
    study: StudyFile, set_: Overrides = None,
    emulator: Annotated[str, typer.Option("--emulator", metavar="NAME", help="Empty: the one that is used.")] = "",
    samples: Annotated[int, typer.Option("--samples", metavar="N", help="A power of 2: base points of the indices.")] = 4096,
    pairs: Annotated[bool, typer.Option("--pairs", help="Indices of every pair of parameters too.")] = False,
) -> int:  # fmt: skip
    """Say which parameters matter: shares of the variance, elementary effects, bounds from gradients."""
    from pipelines import sensitivity as indices
    from pipelines.config import load_study
    from pipelines.terminal import Terminal

    return indices.command(load_study(study, set_ or []), Terminal(), samples=samples, name=emulator, pairs=pairs)


@app.command("identifiability")
@guarded
def identifiability(
    study: StudyFile, set_: Overrides = None,
    points: Annotated[int, typer.Option("--points", min=1, max=1000, metavar="N", help="Points of the box at which derivatives "
                                        "are taken.")] = 3,
    emulator: Annotated[str, typer.Option("--emulator", metavar="NAME", help="Its derivatives; empty: the simulator's.")] = "",
) -> int:  # fmt: skip
    """Say which parameters the data tell, and which in combination only: Fisher matrix, collinearity, profiles."""
    from pipelines import identifiability as telling
    from pipelines.config import load_study
    from pipelines.terminal import Terminal

    return telling.command(load_study(study, set_ or []), Terminal(), points=points, name=emulator)


@app.command("optimise")
@guarded
def optimise(
    study: StudyFile, set_: Overrides = None, force: Force = False, quiet: Quiet = False,
    minimise: Annotated[str, typer.Option("--minimise", metavar="EXPR", help="Of outputs and parameters: mean(pk) + h.")] = "",
    maximise: Annotated[str, typer.Option("--maximise", metavar="EXPR", help="The same, for the greatest.")] = "",
    subject_to: Annotated[list[str] | None, typer.Option("--subject-to", metavar="EXPR", help="As 'pk[3] <= 2'; repeat.")] = None,
    by: Annotated[str, typer.Option("--by", metavar="CHOICE", help="Climb the emulator, or the simulator itself.")] = "",
    method: Annotated[str, typer.Option("--method", metavar="NAME", help="bfgs or adam; empty: what fits.")] = "",
    robust: Annotated[float | None, typer.Option("--robust", metavar="K", help="Mean + K sd over the emulator's error.")] = None,
    confirm: Annotated[int | None, typer.Option("--confirm", min=0, max=100_000, metavar="N",
                                                help="True runs at the optimum.")] = None,
    starts: Annotated[int | None, typer.Option("--starts", min=1, max=4096, metavar="N", help="Points to start from.")] = None,
    emulator: Annotated[str, typer.Option("--emulator", metavar="NAME", help="Empty: the one that is used.")] = "",
) -> int:  # fmt: skip
    """Find where the study's objective, or the one named here, is best; confirm it by true runs."""
    from emulate.errors import InputError
    from pipelines import optimisation
    from pipelines.config import load_study
    from pipelines.terminal import Terminal

    own = load_study(study, set_ or []).optimise is not None
    if (minimise and maximise) or not (minimise or maximise or own):
        raise InputError("optimise must be told one of --minimise and --maximise, such as --minimise \"mean(pk)\", or have a study "
                         f"with the section optimise. Got {'both' if minimise else 'none'}.")  # fmt: skip
    asked = {"minimise": minimise, "maximise": maximise, "subject_to": subject_to, "by": by, "method": method, "robust": robust,
             "confirm": confirm if own or confirm else 0, "starts": starts, "emulator": emulator}  # fmt: skip
    changes = [*(set_ or []), *optimisation.overrides(asked)]
    if own:
        return _stages(["optimise"], study, changes, force, False, quiet)
    return optimisation.command(load_study(study, changes), Terminal(quiet=quiet))


@app.command("verify")
@guarded
def verify(
    study: StudyFile, set_: Overrides = None,
    points: Annotated[int, typer.Option("--points", min=1, max=1000, metavar="N", help="Points of the box, inner half.")] = 3,
    repeats: Annotated[int, typer.Option("--repeats", metavar="N", help="Of a stochastic simulator: seeds at a point.")] = 24,
    json_: Annotated[bool, typer.Option("--json", help="Print the findings as JSON, and nothing else.")] = False,
) -> int:  # fmt: skip
    """Test the simulator's derivatives at points of the box: remainders, transposes, error bars over seeds."""
    from pipelines import verification
    from pipelines.config import load_study
    from pipelines.terminal import Terminal

    loaded, terminal = load_study(study, set_ or []), Terminal(quiet=json_)
    return verification.command(loaded, terminal, points=points, repeats=repeats, as_json=json_)


@app.command("schema")
@guarded
def schema() -> int:
    """Print the JSON schema of a study, for editors that complete from it."""
    import json

    from pipelines.config import schema as study_schema

    print(json.dumps(study_schema(), indent=1))
    return 0


@app.command("sync")
@guarded
def sync(study: StudyFile, set_: Overrides = None) -> int:
    """Log to MLflow what could not be logged before."""
    from emulate.errors import InputError
    from pipelines import tracking
    from pipelines.config import load_study
    from pipelines.terminal import Terminal

    loaded, terminal = load_study(study, set_ or []), Terminal()
    if loaded.tracking.uri == "off":
        raise InputError("tracking.uri is off in this study. Give an address: --set tracking.uri=sqlite:///mlflow.db.")
    synced = tracking.sync(loaded.folder, loaded.tracking.uri)
    (terminal.warn if synced.pending else terminal.say)(synced.sentence + (f" {synced.link}" if synced.link else ""))
    return 1 if synced.pending else 0


@app.command("ui")
@guarded
def ui(
    uri: Annotated[str, typer.Option("--uri", help="Tracking store; the default is ./mlflow.db.")] = "",
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port on the loopback address.")] = 5000,
    study: Annotated[str, typer.Option("--study", metavar="NAME", help="Link to the runs of this study.")] = "",
) -> int:
    """Open the MLflow pages on this machine (loopback only)."""
    from pipelines import pages

    return pages.ui(uri, port, study=study)


app.add_typer(commands(guarded), name="store")


def main() -> None:
    for number in (signal.SIGTERM, signal.SIGHUP):  # what a queue sends, and a terminal that closes: as Ctrl-C
        signal.signal(number, signal.default_int_handler)
    sys.unraisablehook = functools.partial(_press_again, sys.unraisablehook)
    app()


def _press_again(report: Callable[[Any], None], lost: Any) -> None:
    """Ctrl-C that fell into a callback of the garbage collector, where Python drops every exception, comes again."""
    if issubclass(lost.exc_type, KeyboardInterrupt):
        threading.Timer(0.05, _thread.interrupt_main).start()
    else:
        report(lost)
