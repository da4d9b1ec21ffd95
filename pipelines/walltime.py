"""When this job ends: a run that cannot finish before is not begun, for what it computed would be lost."""

import os
import re
import time
from collections.abc import Mapping

VARIABLE = "EMULATE_JOB_END"  # seconds since 1970, set in the scripts of jobs
_KNOWN = (VARIABLE, "SLURM_JOB_END_TIME")
_MARGIN = 30.0  # seconds to commit, to say so and to stop
_FORM = re.compile(r"(?:(?P<d>\d+)-)?(?P<h>\d+):(?P<m>\d+):(?P<s>\d+)")


def seconds(text: str) -> float | None:
    """Seconds of a time limit, days-hours:minutes:seconds; None for another form: 10:00 means either to some queue.

    >>> seconds("01:30:00"), seconds("2-00:00:00"), seconds("10:00"), seconds("soon")
    (5400.0, 172800.0, None, None)
    """
    met = _FORM.fullmatch(text.strip())
    if met is None:
        return None
    d, h, m, s = (int(met[x] or 0) for x in "dhms")
    return float(((d * 24 + h) * 60 + m) * 60 + s)


def end(environment: Mapping[str, str] = os.environ) -> float | None:
    """When the job of this process ends, seconds since 1970; None outside of jobs, and where the queue does not say."""
    for name in _KNOWN:
        try:
            return float(environment[name])
        except (KeyError, ValueError):
            continue
    return None


def enough(longest: float, ends: float | None) -> bool:
    """Whether a run as long as the longest so far, in seconds, can be made before the end."""
    return ends is None or time.time() + longest + _MARGIN < ends


def prologue(limit: str) -> list[str]:
    """Lines of a job's script that note when it ends, from the limit that the queue was asked for."""
    allowed = seconds(limit)
    return [] if allowed is None else [f"export {VARIABLE}=$(( $(date +%s) + {allowed:.0f} ))"]
