"""The command line from Python: what `emulate ...` gives back and prints, in a folder of its own."""

import os
from pathlib import Path

from typer.testing import CliRunner

from pipelines.cli import app


def emulate(folder: Path, *words: str, typed: str | None = None) -> tuple[int, str]:
    """The exit code, and all that was said, without frames of tables and with single spaces; a bug is raised."""
    code, said = printed(folder, *words, typed=typed)
    return code, " ".join(said.split())


def printed(folder: Path, *words: str, typed: str | None = None) -> tuple[int, str]:
    """The exit code, and all that was said, line by line; errors are in it where they came."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        result = CliRunner().invoke(app, list(words), input=typed)
    finally:
        os.chdir(before)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output.replace("│", " ")
