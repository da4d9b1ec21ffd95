"""Every entry of every room with its sentence and its keys, read from the schema of a study."""

from typing import Any

from emulate import registry
from pipelines.manual import markdown
from pipelines.manual.study import HEADER, keys
from pipelines.schema import DEFAULTS

WHERE = {
    "simulators": "`simulator:`",
    "designs": "`design:`",
    "emulators": "`emulators:`, by names of your choice",
    "gradients": "`validate.gradient`, `simulate.jacobians`; `emulate.gradients.estimate(..., method=...)`",
    "histograms": '`emulate.build("histograms", ...)`',
    "likelihoods": "`infer.likelihood`",
    "samplers": "`infer.sampler`",
    "checks": "`checks:`, by names of your choice",
}


def page(whole: dict[str, Any]) -> str:
    """The page `reference/rooms.md`, of the schema of a study."""
    parts = ["An entry is named in a study by `use: NAME`, with its keys beside, and in Python by `emulate.build(ROOM, {\"use\": "
             "NAME, ...})`. `\"package.module:Class\"` is an entry too: see [Extending](../extending.md). Which to take: "
             "[How to choose](../choosing.md)."]  # fmt: skip
    for room in registry.ROOMS:
        default = f" The default is `{DEFAULTS[room]}`." if room in DEFAULTS else ""
        parts += [f"## {room}", f"In a study: {WHERE[room]}.{default}"]
        for name in registry.names(room):
            entry = whole["$defs"][f"{room}.{name}"]
            rows = [row for row in keys(entry, whole) if row[0] != "`use`"]
            file = f"emulate/{room}/{name}"
            parts += [f"### {name}", f"{entry['description']} ([source](../../../{file}{_ending(file)}))"]
            parts += [markdown.table(HEADER, rows)] if rows else ["No keys."]
    return markdown.page("Rooms", "the classes in the folders of `emulate/`", *parts)


def _ending(file: str) -> str:
    from pipelines.manual.library import ROOT

    return ".py" if (ROOT.parent / f"{file}.py").exists() else ""
