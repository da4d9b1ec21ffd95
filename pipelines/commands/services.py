"""What stands around a study: the questions of `init`, keys of a cluster, MLflow's log and its pages."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.commands import completion, frame
from pipelines.commands.frame import Overrides, StudyFile, command, read_study

if TYPE_CHECKING:
    from pipelines.terminal import Terminal


@command("init", panel=frame.SERVICES, json_=False)
def init(
    terminal: "Terminal",
    study: Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="The study to write.")] = Path("study.yaml"),
    command: Annotated[str, typer.Option("--command", help="The program as you would type it.")] = "",
    input_: Annotated[str | None, typer.Option("--input", metavar="FILE", help="The file it reads; '' for none.")] = None,
    table: Annotated[Path | None, typer.Option("--table", metavar="RUNS.csv", help="Or a table of runs, and no program.")] = None,
    parameter: Annotated[list[str] | None, typer.Option("--parameter", metavar="NAME=LOW:HIGH[:log]",
                                                        help="A parameter and its range; of a table a column.")] = None,
    output: Annotated[list[str] | None, typer.Option("--output", metavar="NAME=FILE[:PLACE][*VALUES]",
                                                     help="An output, its file, column or key, and length; of a table "
                                                          "a column, or none for all.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the study.")] = False,
) -> int:  # fmt: skip
    """Write a commented study for a program of your own, or of a table of runs; asks for what no option says."""
    from pipelines import init as writing

    if table is not None:
        from emulate.errors import InputError
        from pipelines import init_table

        if command or input_:
            raise InputError(
                "init must have a program or a table of runs. Got --table beside --command or --input; take one out."
            )
        terminal.say(init_table.write(study, table, parameter or [], output or [], typer.prompt, force=force))
        return 0
    answers = writing.asked(command, input_, parameter or [], output or [], typer.prompt)
    written = writing.write(study, answers, force=force)
    terminal.say(writing.advice(written, answers))
    return 0


@command("certificates", panel=frame.SERVICES)
def certificates(
    terminal: "Terminal",
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A new folder for the keys.")],
) -> int:
    """Make TLS keys for a Dask scheduler, its workers and `cluster.certificates`; whoever has them may run code there."""
    from pipelines.cluster import make_certificates

    ca, cert, key = make_certificates(folder)
    keys = f"--tls-ca-file {ca} --tls-cert {cert} --tls-key {key}"
    terminal.say(f"Keys for a year, readable by you alone, in {folder}. Start the cluster with them:")
    terminal.say(f"  dask scheduler --protocol tls --dashboard-address 127.0.0.1:8787 {keys}")
    terminal.say(f"  dask worker tls://HOST:8786 --nthreads 1 --dashboard-address 127.0.0.1:0 {keys}")
    terminal.say(
        f"and name it in the study: cluster: {{use: address, address: 'tls://HOST:8786', certificates: {folder}}}"
    )
    terminal.give(paths={"ca": str(ca), "certificate": str(cert), "key": str(key)})
    return 0


@command("sync", panel=frame.SERVICES)
def sync(terminal: "Terminal", study: StudyFile, set_: Overrides = None) -> int:
    """Log to MLflow what could not be logged before."""
    loaded = read_study(terminal, study, set_)
    from emulate.errors import InputError
    from pipelines import tracking

    if loaded.tracking.uri == "off":
        raise InputError("tracking.uri is off in this study. Give an address: --set tracking.uri=sqlite:///mlflow.db.")
    synced = tracking.sync(loaded.folder, loaded.tracking.uri)
    (terminal.warn if synced.pending else terminal.say)(synced.sentence + (f" {synced.link}" if synced.link else ""))
    terminal.give(study=loaded.name, logged=synced.logged, pending=synced.pending, link=synced.link or None)
    return 1 if synced.pending else 0


@command("doctor", panel=frame.SERVICES)
def doctor(
    terminal: "Terminal",
    study: Annotated[
        Path | None,
        typer.Argument(
            metavar="[STUDY.yaml]", help="Look at what this study needs too.", autocompletion=completion.studies
        ),
    ] = None,
    set_: Overrides = None,
) -> int:
    """Look for what is in the way: versions, threads, memory, GPU, disks, Dask, MLflow; say what mends it; 1 if any is wrong."""
    from pipelines.doctor import examination

    return examination.command(terminal, study, set_ or [])


@command("ui", panel=frame.SERVICES, json_=False)
def ui(
    terminal: "Terminal",
    uri: Annotated[str, typer.Option("--uri", help="Tracking store; the default is ./mlflow.db.")] = "",
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port on the loopback address.")] = 5000,
    study: Annotated[str, typer.Option("--study", metavar="NAME", help="Link to the runs of this study.")] = "",
) -> int:
    """Open the MLflow pages on this machine (loopback only)."""
    from pipelines import pages

    return pages.ui(uri, port, study=study)
