"""What likelihoods of counts share: whole numbers around expected counts that are above 0."""

import torch
from torch import Tensor

from emulate.errors import InputError


def whole(data: Tensor) -> Tensor:
    """The data, if they are counts."""
    if ((data < 0) | (data != data.round())).any():
        bad = data[(data < 0) | (data != data.round())].flatten()[0]
        raise InputError(f"counts must be whole numbers of at least 0. Got {float(bad):g}; weighted or scaled counts have "
                         "errors of their own: use gaussian.")  # fmt: skip
    return data


def expected(truth: Tensor) -> Tensor:
    """The truth, if it can be an expected count."""
    bad = (~(truth > 0)).nonzero().flatten().tolist()
    if bad:
        raise InputError(f"expected counts must be above 0. Got {float(truth[bad[0]]):g} in output {bad[0]} of "
                         f"{len(truth)}; leave the output out, or merge bins.")  # fmt: skip
    return truth


def standing(data: Tensor) -> Tensor:
    """The expected counts as far as the data alone tell: themselves, and 1 where nothing was counted."""
    return torch.where(data > 0, data, 1.0)
