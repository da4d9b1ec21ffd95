"""The pages of the reference by name, made from the code."""

from pipelines.manual import commands, library, rooms, study


def made() -> dict[str, str]:
    """`{"commands": "# Commands ...", ...}`: the text of every page."""
    from pipelines.schema import schema

    whole = schema()
    return {
        "commands": commands.page(),
        "study": study.page(whole),
        "rooms": rooms.page(whole),
        "library": library.page(),
    }
