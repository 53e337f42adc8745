"""Merging two checkpoints, tensor by tensor (section 2.4): the plain average, and two kinds beside the paper.

All of them compute in float32 or better; the caller casts back.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def average(
    long: Float[Tensor, "*shape"], short: Float[Tensor, "*shape"], *, weight: float
) -> Float[Tensor, "*shape"]:
    """(1 - weight) * long + weight * short; with weight 0.5 the paper's average.

    Exactly `long` at 0 and `short` at 1.

    Args:
        weight: share of the short model.
    """
    return torch.lerp(_precise(long), _precise(short), weight)


def slerp(
    long: Float[Tensor, "*shape"], short: Float[Tensor, "*shape"], *, weight: float
) -> Float[Tensor, "*shape"]:
    """The point at `weight` of the way from long to short on the arc between them.

    [sin((1 - w) a) * long + sin(w a) * short] / sin(a), with a the angle between the two tensors, each
    seen as one vector. Where there is no arc (parallel or opposite vectors, or zeros) it is `average`.

    Args:
        weight: share of the arc, 0 = long, 1 = short.
    """
    first, second = _precise(long), _precise(short)
    norms = first.norm() * second.norm()
    cosine = float((first * second).sum() / norms) if norms > 0 else 1.0
    if abs(cosine) > 1.0 - 1e-6:
        return average(long, short, weight=weight)
    angle = torch.arccos(torch.tensor(cosine, dtype=torch.float64))
    ends = torch.sin((1.0 - weight) * angle), torch.sin(weight * angle)
    return float(ends[0] / torch.sin(angle)) * first + float(ends[1] / torch.sin(angle)) * second


def ties(
    long: Float[Tensor, "*shape"],
    short: Float[Tensor, "*shape"],
    base: Float[Tensor, "*shape"],
    *,
    weight: float,
    density: float,
) -> Float[Tensor, "*shape"]:
    """TIES merging (Yadav et al., arXiv 2306.01708): what both models added to a base, without their quarrels.

    Of each change from the base only the `density` share with the largest magnitudes is kept (trim). For
    every entry the sign of the weighted sum wins (elect), and the weighted mean of the changes with that
    sign is added to the base (disjoint merge). An entry without any change stays the base's.

    Args:
        weight: share of the short model.
        density: share of each change that is kept, at least one entry.
    """
    origin = _precise(base)
    changes = torch.stack([_trimmed(_precise(m) - origin, density) for m in (long, short)])
    weights = torch.tensor([1.0 - weight, weight], dtype=origin.dtype).reshape(2, *[1] * origin.ndim)
    weighted = weights * changes
    elected = weighted.sum(dim=0).sign()
    agrees = (changes.sign() == elected) & (changes != 0)
    total = torch.where(agrees, weights, 0.0).sum(dim=0)
    merged = torch.where(agrees, weighted, 0.0).sum(dim=0) / torch.where(total > 0, total, 1.0)
    return origin + merged


def _trimmed(change: Float[Tensor, "*shape"], density: float) -> Float[Tensor, "*shape"]:
    """The change with all but its largest entries set to zero; the earlier one of equals is kept."""
    keep = max(1, round(density * change.numel()))
    order = change.abs().flatten().argsort(descending=True, stable=True)
    mask = torch.zeros(change.numel(), dtype=torch.bool)
    mask[order[:keep]] = True
    return torch.where(mask.reshape(change.shape), change, 0.0)


def _precise(tensor: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
