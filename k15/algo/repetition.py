"""Repetition detection (Kimi k1.5, section 2.6.2): does a completion end in a loop?"""

from collections.abc import Sequence

from k15.types import RepetitionRule


def is_repeating(token_ids: Sequence[int], rule: RepetitionRule) -> bool:
    """True if the completion ends in one block, written again and again.

    There is a period p of at most `max_period` tokens such that the last m blocks of p tokens are
    equal, with m >= `min_repeats` and m * p >= `min_tokens`. A loop of period p is therefore seen as
    soon as `loop_tokens(p, rule)` of its tokens are there.

    Args:
        token_ids: the completion so far, as a list or tuple: it is sliced.
        rule: what counts as a loop.
    """
    size = len(token_ids)
    if size < max(rule.min_repeats, rule.min_tokens):
        return False
    last = token_ids[-1]
    for period in range(1, min(rule.max_period, size // rule.min_repeats) + 1):
        # Most periods fail at the last token, and most others in the last block.
        if token_ids[-1 - period] != last or token_ids[-period:] != token_ids[-2 * period : -period]:
            continue
        start = size - loop_tokens(period, rule)
        if start >= 0 and token_ids[start : size - period] == token_ids[start + period :]:
            return True
    return False


def loop_tokens(period: int, rule: RepetitionRule) -> int:
    """Tokens of a loop of this period that must be there before it counts; a multiple of the period."""
    num_repeats = max(rule.min_repeats, -(-rule.min_tokens // period))
    return num_repeats * period
