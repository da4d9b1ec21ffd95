"""Pythia 8 as a simulator, from the extra `pythia`: strings that it hadronises, and e+ e- -> Z -> hadrons."""

from emulate.simulators.pythia.simulator import Pythia

__all__ = ["Pythia"]
