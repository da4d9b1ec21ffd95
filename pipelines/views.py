"""Views that MLflow offers by name above the runs of a study: which columns its table shows, which pictures its charts."""

import json
from collections.abc import Iterable
from typing import Any

VERDICTS, PICTURES = "emulate", "emulate-pictures"  # their keys, part of a link
TAG = "mlflow.sharedViewState."  # before a key: the tag of an experiment that holds a view
_ROOM = 5000  # characters that every release of MLflow has for such a tag


def verdicts(metrics: Iterable[str], clock: int) -> str:
    """The table of runs with verdict, findings, emulator and these metrics as columns."""
    columns = [f"tags.`{tag}`" for tag in ("verdict", "findings", "emulator")]
    return _view("Verdicts", {"selectedColumns": columns + [f"metrics.`{name}`" for name in metrics]}, clock)


def pictures(keys: Iterable[str], clock: int) -> str:
    """Charts with a section of pictures for every stage, runs side by side.

    MLflow's own charts put every parameter of a run above its picture, for a study some hundred of them.
    Keys beyond the room of a tag are left to MLflow's default.

    >>> json.loads(json.loads(pictures(["check/corner"], 0))["state"])["compareRunSections"][0]["name"]
    'check'
    """
    shown: list[str] = []
    for key in dict.fromkeys(keys):
        if len(_view("Pictures", _charts([*shown, key]), clock)) <= _ROOM:
            shown.append(key)
    return _view("Pictures", _charts(shown), clock)


def pictured(view: str) -> list[str]:
    """The keys of a view of pictures; none where it cannot be read.

    >>> pictured(pictures(["train/a", "check/b"], 0)), pictured("")
    (['train/a', 'check/b'], [])
    """
    try:
        return [
            key for chart in json.loads(json.loads(view)["state"])["compareRunCharts"] for key in chart["imageKeys"]
        ]
    except (ValueError, KeyError, TypeError):
        return []


def _charts(keys: list[str]) -> dict[str, Any]:
    stages = list(dict.fromkeys(key.rpartition("/")[0] for key in keys))
    sections = [{"uuid": s, "name": s, "display": True, "isReordered": False, "deleted": False, "isGenerated": True}
                for s in stages]  # fmt: skip
    cards = [{"type": "IMAGE", "uuid": key, "metricSectionId": key.rpartition("/")[0], "imageKeys": [key], "step": 0,
              "showRunParams": False, "deleted": False, "isGenerated": True} for key in keys]  # fmt: skip
    return {"compareRunCharts": cards, "compareRunSections": sections, "isAccordionReordered": True}


def _view(name: str, state: dict[str, Any], clock: int) -> str:
    return json.dumps({"name": name, "createdAt": clock, "updatedAt": clock, "state": json.dumps(state)})
