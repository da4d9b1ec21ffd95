"""Gradients: how to differentiate a simulator or an emulator, with an error bar.

Contract: `emulate.contracts.Gradient`.
Smallest entry to imitate: `reverse.py`.
Tests: `tests/contracts/test_gradients.py` holds every entry of this folder to the room's laws.
"""
