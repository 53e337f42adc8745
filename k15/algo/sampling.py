"""Which prompts are drawn (Kimi k1.5, section 2.3.4): weights, success rates, and the draw itself."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float


def prioritized_weights(
    success_rates: Float[np.ndarray, "prompts"], floor: float
) -> Float[np.ndarray, "prompts"]:
    """1 - s_i for each prompt, at least `floor`, so that a solved prompt can come back."""
    return np.maximum(1.0 - success_rates, floor)


def hard_prompts(
    difficulties: Float[np.ndarray, "prompts"],
    success_rates: Float[np.ndarray, "prompts"],
    *,
    hard_difficulty: float | None,
    hard_success_rate: float,
) -> Bool[np.ndarray, "prompts"]:
    """True for the prompts that the curriculum keeps after its switch.

    With `hard_difficulty`: those labelled at least that difficult. Without: those whose success rate
    is below `hard_success_rate`.

    Args:
        difficulties: label of each prompt, NaN where there is none; such a prompt is not hard by label.
        success_rates: s_i of each prompt.
    """
    if hard_difficulty is None:
        return success_rates < hard_success_rate
    return difficulties >= hard_difficulty


def updated_success_rate(previous: float | None, observed: float, decay: float) -> float:
    """s_i after a visit: decay * s_i + (1 - decay) * observed; the observed rate at the first visit.

    Args:
        previous: s_i so far, or None if the prompt was never visited: a guess does not blend in.
        observed: share of right answers in the group that was just graded.
        decay: weight of the past; 0 keeps only the last visit.
    """
    return observed if previous is None else decay * previous + (1.0 - decay) * observed


def draw_without_replacement(
    weights: Float[np.ndarray, "prompts"], uniforms: Sequence[float]
) -> list[int]:
    """One index per uniform number in [0, 1), each in proportion to the weights not yet drawn.

    Ends early when nothing with a positive weight is left. The j-th index depends on the first j
    numbers only.
    """
    weights = weights.copy()
    drawn: list[int] = []
    for uniform in uniforms:
        edges = np.cumsum(weights)
        if edges[-1] <= 0.0:
            break
        # The first edge above the point, so a prompt of weight 0 is never hit. The product of a double
        # below 1 and the total does not round up to the total, so there always is such an edge.
        index = int(np.searchsorted(edges, uniform * edges[-1], side="right"))
        drawn.append(index)
        weights[index] = 0.0
    return drawn
