"""The command line from Python: what `emulate ...` gives back and prints, in a folder of its own."""

import os
from pathlib import Path

from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.commands.frame import BUG

LINE = """
name: line
seed: 5
parameters:
  a: {normal: [0, 1]}
  b: {normal: [0, 1]}
simulator: {use: linear_gaussian, outputs_count: 4}
design: {use: sobol, runs: 16, held_out: 20}
cluster: {use: serial}
emulators:
  quadratic: {use: polynomial}
train: {champion: quadratic, baseline: null}
validate: {gradient: {use: reverse}, gradient_points: 4}
infer:
  observation: {parameters: {a: 0.5, b: -0.5}, noise: false}
  likelihood: {use: gaussian, absolute_error: 0.2}
"""  # the head of a study of seconds, up to the sampler: a linear map, whose posterior is known in closed form


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
    assert result.exit_code != BUG, result.output
    return result.exit_code, result.output.replace("│", " ")
