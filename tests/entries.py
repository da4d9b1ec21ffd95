"""Which entries the laws of a room are held to: those of its folder, or the classes that `pytest --entry` names."""

import importlib

from emulate import contracts, registry

NAMED: list[str] = []


def entries(room: str) -> tuple[str, ...]:
    """The names for a room; of those that `--entry` names, the ones that fulfil its contract."""
    if not NAMED:
        return registry.names(room)
    contract = getattr(contracts, registry.ROOMS[room])
    return tuple(name for name in NAMED if issubclass(_class(name), contract))


def _class(name: str) -> type:
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)
