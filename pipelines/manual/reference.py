"""The pages of the reference by name, made from the code."""

from pipelines.manual import commands, library, rooms, study


def made() -> dict[str, str]:
    """`{"commands": "# Commands ...", ...}`: the text of every page."""
    return {part.__name__.rsplit(".", 1)[-1]: part.page() for part in (commands, study, rooms, library)}
