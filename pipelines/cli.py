"""The command `emulate`: its commands stand in `pipelines/commands`, one file per subject."""

import _thread
import functools
import importlib
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from pipelines.commands.frame import app

for _subject in ("studies", "questions", "looking", "services", "storing"):  # in the order of `emulate --help`
    importlib.import_module(f"pipelines.commands.{_subject}")


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


if __name__ == "__main__":
    main()
