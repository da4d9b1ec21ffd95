"""The evidence by independent populations, with the error bar that their scatter gives."""

import math

import torch
from torch import Tensor


def evidence(each: Tensor) -> tuple[float, float]:
    """ln of the mean evidence of each group and its standard error, of all groups together; inf where one population is."""
    c = each.shape[1]
    mean = torch.logsumexp(each, 1) - math.log(c)
    share = (each - mean[:, None]).exp()
    error = share.std(1) / math.sqrt(c) if c > 1 else torch.full_like(mean, torch.inf)
    return float(mean.sum()), float(error.square().sum().sqrt())
