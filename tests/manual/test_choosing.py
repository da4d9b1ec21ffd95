"""The page that helps to choose leaves out no entry, and names none that there is not."""

import re

import pytest

from emulate import registry
from tests.pages import MANUAL

TEXT = (MANUAL / "choosing.md").read_text()


@pytest.mark.parametrize("room", registry.ROOMS)
def test_every_entry_is_in_the_tables_of_its_room(room):
    part = TEXT.lower().split(f"\n## {room}\n")[1].split("\n## ")[0]
    table = "".join(line for line in part.splitlines() if line.startswith("|"))
    assert [n for n in registry.names(room) if f"`{n}`" not in table] == []


def test_what_is_named_in_a_column_of_entries_exists():
    known = {n for room in registry.ROOMS for n in registry.names(room)} | {"auto", "npe", "nle"}
    rooms = re.split(r"^## ", TEXT, flags=re.M)
    for part in rooms:
        if part.split("\n", 1)[0].lower() in registry.ROOMS:
            rows = [r.split("|")[2] for r in part.splitlines() if r.startswith("| ")]
            named = {n for cell in rows[1:] for n in re.findall(r"`([a-z_0-9]+)`", cell)}
            assert named <= known | {"correction", "privacy"}, named - known


@pytest.mark.parametrize("page", ["checks", "emulators", "gradients", "inference"])
def test_the_page_of_a_room_has_every_entry_too(page):
    text = (MANUAL / f"{page}.md").read_text()
    for room in {"inference": ("samplers", "likelihoods")}.get(page, (page,)):
        assert [n for n in registry.names(room) if f"`{n}`" not in text] == []
