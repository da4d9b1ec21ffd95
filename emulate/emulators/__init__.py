"""Emulators: how to fit a differentiable stand-in p(y | theta).

Contract: `emulate.contracts.Recipe`; `emulate/emulator.py` is what comes out.
Smallest entry to imitate: `polynomial.py`.
Tests: `tests/contracts/test_emulators.py` holds every entry of this folder to the room's laws.
"""
