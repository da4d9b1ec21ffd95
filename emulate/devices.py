"""Where tensors lie: the choice of a CPU or a GPU, in one place for training and prediction."""

from typing import Any

import torch

from emulate.errors import InputError


def chosen(device: Any, what: str = "device") -> torch.device:
    """`cpu`, `cuda`, `cuda:1`, `auto` (a GPU where there is one) or a torch.device, if this machine has it.

    >>> chosen("cpu")
    device(type='cpu')
    """
    if isinstance(device, str) and device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        made = torch.device(device)
    except (RuntimeError, TypeError):
        raise InputError(f"{what} must be cpu, cuda, cuda:N for the N-th GPU, or auto. Got {device!r}.") from None
    if made.type == "cuda":
        there = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if not there:
            why = (
                "of torch is a build for CPUs"
                if torch.version.cuda is None
                else "sees no GPU; look at nvidia-smi and the driver"
            )
            raise InputError(f"{what} must be there. Got {made}, and this machine has no GPU that torch can use: this installation "
                             f"{why}; set device: auto, which takes one where it is, or cpu.")  # fmt: skip
        if (made.index or 0) >= there:
            raise InputError(f"{what} must be one of cuda:0 to cuda:{there - 1}. Got {made}; choose another.")
    return made
