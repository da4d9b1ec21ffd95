"""`emulate doctor`: what of this machine, this installation and this study is in the way of a campaign, and what mends it.

A look is a function `(place) -> Iterator[Note]` in `installation.py`, `machine.py`, `disks.py`, `services.py` or
`studies.py`; `examination.py` calls all of them. Nothing is changed, nothing is sent but a greeting to the addresses that the
study names. Smallest look to imitate: `machine.py:clock`. Tests: `tests/pipelines/test_doctor.py`.
"""
