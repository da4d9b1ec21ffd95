"""What there is: the state of a study, the rooms, an emulator's predictions, the keys of a study, the manual."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.commands import completion, frame
from pipelines.commands.frame import Overrides, StudyFile, command, read_study

if TYPE_CHECKING:
    from pipelines.terminal import Terminal


@command("status", panel=frame.LOOKING)
def status(terminal: "Terminal", study: StudyFile, set_: Overrides = None,
           failed: Annotated[bool, typer.Option("--failed", help="List the failed runs.")] = False,
           run: Annotated[str, typer.Option("--run", metavar="KEY", help="Print one run: its key's first digits.")] = "",
           ) -> int:  # fmt: skip
    """Say which stages are done, running, failed or stale, and how many runs are stored."""
    loaded = read_study(terminal, study, set_)
    from pipelines import engine, failures, rounds
    from pipelines.terminal import duration

    if run:
        failures.show_run(loaded, terminal, run)
        return 0
    states = [engine.state(loaded, s) for s in loaded.stages]
    rows = [(s.stage, s.status, duration(s.seconds) if s.seconds is not None else "", s.why) for s in states]
    terminal.table(f"{loaded.name} in {loaded.folder}", ("stage", "status", "took", ""), rows)
    runs = engine.stored(loaded)
    terminal.say(engine.stored_in_words(loaded, runs))
    terminal.give(study=loaded.name, at_work=engine.locked(loaded.folder), stages=[vars(s) for s in states], runs=runs,
                  champion=engine.champion(loaded), paths=engine.paths(loaded))  # fmt: skip
    if said := engine.planned(loaded):
        terminal.say(said)
    if said := rounds.status(loaded):
        terminal.say(said)
    failures.show_under_way(loaded, terminal)
    if failed:
        failures.show_failed(loaded, terminal)
    return 0


@command("list", panel=frame.LOOKING)
def list_(
    terminal: "Terminal",
    room: Annotated[str | None, typer.Argument(help="One room: simulators, emulators, ...; or an entry.",
                                               autocompletion=completion.rooms)] = None,
    entry: Annotated[str | None, typer.Argument(help="One entry of it: its keys.", autocompletion=completion.entries)] = None,
) -> int:  # fmt: skip
    """List the rooms and their entries, one sentence each; of one entry its keys, with their defaults."""
    with terminal.bar("reading the rooms"):
        from emulate import registry

        if room and not entry:
            room, entry = registry.place(room)
        if room and entry:
            from pipelines.schema import settings

            sentence, keys = registry.sentence(room, entry), settings(room, entry)
        else:
            rooms = {
                r: {n: registry.sentence(r, n) for n in registry.names(r)} for r in ([room] if room else registry.ROOMS)
            }
    if room and entry:
        import json

        terminal.say(sentence)
        rows = [
            (k, json.dumps(v["default"]) if "default" in v else "", v.get("description", "")) for k, v in keys.items()
        ]
        terminal.table(f"{room}: {{use: {entry}}}", ("key", "default", "what it is"), rows)
        terminal.give(room=room, entry=entry, sentence=sentence, keys=keys)
        return 0
    for r, entries in rooms.items():
        terminal.table(r, ("entry", "what it is"), list(entries.items()))
    terminal.give(rooms=rooms)
    return 0


@command("describe", panel=frame.LOOKING)
def describe(
    terminal: "Terminal",
    emulator: Annotated[str, typer.Argument(metavar="EMULATOR", help="A folder, or models:/NAME@ALIAS.",
                                            autocompletion=completion.emulators)],
) -> int:  # fmt: skip
    """Say what an emulator asks and answers, in which units and ranges, and what its checks found."""
    with terminal.bar("loading the emulator"):
        from pipelines import prediction

    return prediction.describe(terminal, emulator)


@command("predict", panel=frame.LOOKING)
def predict(
    terminal: "Terminal",
    emulator: Annotated[str, typer.Argument(metavar="EMULATOR", help="A folder, or models:/NAME@ALIAS.",
                                            autocompletion=completion.emulators)],
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="One parameter.")] = None,
    points: Annotated[Path | None, typer.Option("--points", "--csv", metavar="FILE", help="Points: .csv, .parquet, .nc, or - for a "
                                                "CSV from standard input.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write .csv, .parquet or .nc instead of printing.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse points outside the design box.")] = False,
    outside: Annotated[str, typer.Option("--outside", metavar="CHOICE", help="Where no run is near: warn, refuse, inflate "
                                         "(the variance) or ignore; box: look at the box alone.",
                                         autocompletion=completion.choices("warn", "refuse", "inflate", "ignore", "box"))] = "warn",
    jacobian: Annotated[bool, typer.Option("--jacobian", help="Give d mean / d theta too.")] = False,
    samples: Annotated[int, typer.Option("--samples", min=0, max=10_000, metavar="N", help="Give N draws of each point too.")] = 0,
    seed: Annotated[int, typer.Option("--seed", min=0, metavar="S", help="Of the draws.")] = 0,
    device: Annotated[str, typer.Option("--device", metavar="CHOICE", help="cpu, cuda, or auto: a GPU if there is one.")] = "cpu",
) -> int:  # fmt: skip
    """Predict with an emulator: mean and standard deviation of every output."""
    with terminal.bar("loading the emulator"):
        from pipelines import prediction

    asked = prediction.Asked(set_ or [], points, out, strict, outside, jacobian, samples, seed)
    return prediction.run(terminal, emulator, asked, device=device)


@command("export", panel=frame.LOOKING)
def export(
    terminal: "Terminal",
    emulator: Annotated[str, typer.Argument(metavar="EMULATOR", help="A folder, or models:/NAME@ALIAS.",
                                            autocompletion=completion.emulators)],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="OUT.pt2 for torch, or OUT.onnx for onnxruntime.")],
    jacobian: Annotated[bool, typer.Option("--jacobian", help="Give d mean / d theta too.")] = False,
) -> int:  # fmt: skip
    """Write an emulator as one graph for programs that know no emulate: torch's .pt2, or ONNX."""
    with terminal.bar("loading the emulator"):
        from pipelines import prediction

    return prediction.export(terminal, emulator, out, jacobian=jacobian)


@command("cite", panel=frame.LOOKING)
def cite(
    terminal: "Terminal",
    what: Annotated[str, typer.Argument(metavar="STUDY.yaml", help="The study file; or an emulator, as models:/NAME@ALIAS or its "
                                        "folder.", autocompletion=completion.folders)],
    set_: Overrides = None,
) -> int:  # fmt: skip
    """Print the BibTeX of the methods, libraries and works that a study or an emulator rests on, each with its reason."""
    from pipelines import citing

    if what.startswith("models:/") or Path(what).is_dir():
        with terminal.bar("loading the emulator"):
            from emulate.errors import InputError
            from pipelines import prediction

            if set_:
                raise InputError("--set changes a study. Got an emulator, which is what it is; take it out.")
            found = citing.of_emulator(prediction.load(what))
        return citing.command(found, "the emulator was made", terminal)
    if not what.endswith((".yaml", ".yml")):
        from emulate.errors import InputError

        raise InputError(f"cite must be told a study, STUDY.yaml, or the folder of an emulator. Got {what}, which is neither; "
                         "name one, such as runs/NAME/emulators/gp.")  # fmt: skip
    from pipelines.config import load_study

    return citing.command(citing.works(load_study(what, set_ or [])), "the study was run", terminal)


@command("schema", panel=frame.LOOKING, json_=False)
def schema(terminal: "Terminal") -> int:
    """Print the JSON schema of a study, for editors that complete from it."""
    import json

    from pipelines.config import schema as study_schema

    print(json.dumps(study_schema(), indent=1))
    return 0


@command("manual", panel=frame.LOOKING, json_=False)
def manual(
    terminal: "Terminal",
    page: Annotated[
        str, typer.Argument(metavar="PAGE", help="Empty: the list of pages.", autocompletion=completion.pages)
    ] = "",
) -> int:
    """Show a page of the manual: how to choose, how to extend, every key of a study."""
    from pipelines import manual as book

    return book.show(terminal, page)
