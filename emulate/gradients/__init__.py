"""Gradients: how to differentiate a simulator, an emulator or any function, with an error bar and a price.

Contract: `emulate.contracts.Gradient`. What it is given: `emulate.replication.lift`; its randomness: `emulate.noise`.
Smallest entries to imitate: `reverse.py` (exact), `common_random_numbers.py` (random).
Tests: `tests/contracts/test_gradients.py` holds every entry of this folder to the room's laws.
"""
