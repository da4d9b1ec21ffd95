"""Any program as a simulator: an argument list, input files from templates, outputs decoded from its files."""

from emulate.simulators.command.simulator import Command

__all__ = ["Command"]
