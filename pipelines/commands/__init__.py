"""The commands of `emulate`, one file per subject: each parses, calls, prints; heavy imports wait until a command needs
them.

A command is a function `(terminal, ...)` under `@command(NAME, panel=...)` of `frame.py`, which adds -q, -v and --json,
makes the terminal, and turns errors into sentences and exit codes. Smallest file to imitate: `services.py`. The files are
read in the order of `pipelines/cli.py`, which is that of `emulate --help`.
"""
