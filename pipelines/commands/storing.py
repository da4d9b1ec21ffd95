"""`emulate store`: verify, merge, export and prune run stores."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.commands import completion, frame
from pipelines.commands.frame import app, command

if TYPE_CHECKING:
    from pipelines.terminal import Terminal

store = typer.Typer(help="Verify, merge, export and prune stored runs.", no_args_is_help=True)
app.add_typer(store, name="store", rich_help_panel=frame.SERVICES)

Where = Annotated[
    Path,
    typer.Argument(
        metavar="STORE", help="A study's YAML or its results' folder, or a store.", autocompletion=completion.folders
    ),
]


@command("verify", to=store)
def verify(
    terminal: "Terminal", where: Where,
    quarantine: Annotated[bool, typer.Option("--quarantine", help="Move damaged runs aside, to run again.")] = False,
) -> int:  # fmt: skip
    """Check every run's checksums; exit code 1 when one is not what was written."""
    from pipelines import stores

    return stores.verify(terminal, where, quarantine=quarantine)


@command("merge", to=store)
def merge(
    terminal: "Terminal", into: Where,
    sources: Annotated[list[Path], typer.Argument(metavar="FROM...", help="Stores or studies to copy runs from.")],
    limit: Annotated[int, typer.Option("--limit-mib", min=1, help="MiB that a run's result may have.")] = 1024,
) -> int:  # fmt: skip
    """Copy the runs of other stores; what is there stays, conflicts and odd files are told, exit code 1."""
    from pipelines import stores

    return stores.merge(terminal, into, sources, limit_mib=limit)


@command("export", to=store)
def export(
    terminal: "Terminal", where: Where,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A file ending in .nc, .parquet or .csv.")],
    simulator: Annotated[str, typer.Option("--simulator", help="Only runs of this simulator.")] = "",
    product: Annotated[str, typer.Option("--product", help="Only y, or only jacobian.")] = "",
    group: Annotated[str, typer.Option("--group", metavar="NAME", help="Of several kinds, this one.")] = "",
) -> int:  # fmt: skip
    """Write the runs so that they are readable without emulate: kinds are groups of a .nc, or files of their own."""
    from pipelines import stores

    return stores.export(terminal, where, out, simulator=simulator, product=product, group=group)


@command("prune", to=store)
def prune(
    terminal: "Terminal", where: Where,
    unused: Annotated[Path | None, typer.Option("--unused", metavar="STUDY.yaml", help="Also runs at points that this study "
                                                "does not ask for.", autocompletion=completion.studies)] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Remove; without it the list is only shown.")] = False,
) -> int:  # fmt: skip
    """Remove retried failures, second answers and half-written files."""
    from pipelines import stores

    return stores.prune(terminal, where, unused, yes=yes)
