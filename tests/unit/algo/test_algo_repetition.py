"""Repetition detection of section 2.6.2: against a naive search, planted loops, and honest text."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k15.algo.repetition import is_repeating, loop_tokens
from k15.types import RepetitionRule

RULE = RepetitionRule()
CHECK_EVERY = 8  # tokens between two looks, as the engine does it


def naive(token_ids: list[int], rule: RepetitionRule) -> bool:
    """The definition, word by word: some block, some number of repeats, at the very end."""
    for period in range(1, rule.max_period + 1):
        for repeats in range(rule.min_repeats, len(token_ids) // period + 1):
            block = token_ids[len(token_ids) - period :]
            if repeats * period >= rule.min_tokens and token_ids[-repeats * period :] == block * repeats:
                return True
    return False


rules = st.builds(
    RepetitionRule,
    max_period=st.integers(1, 6),
    min_repeats=st.integers(2, 4),
    min_tokens=st.integers(1, 14),
)
loops = st.builds(
    lambda prefix, block, repeats, cut: prefix + (block * repeats)[: len(block) * repeats - cut],
    st.lists(st.integers(0, 2), max_size=6),
    st.lists(st.integers(0, 2), min_size=1, max_size=7),
    st.integers(1, 8),
    st.integers(0, 3),
)


@given(st.one_of(st.lists(st.integers(0, 1), max_size=20), loops), rules)
@settings(derandomize=True, deadline=None, max_examples=600)
def test_equals_the_naive_search(token_ids, rule) -> None:
    assert is_repeating(token_ids, rule) == naive(token_ids, rule)
    assert is_repeating(tuple(token_ids), rule) == naive(token_ids, rule)


def countdown_trace(rng: random.Random, num_lines: int, spell: str) -> list[int]:
    """Trial and error in the style of Countdown, one token per character or per word."""
    text = ["Let me find a way. "]
    for _ in range(num_lines):
        a, b, c = (rng.randint(1, 25) for _ in range(3))
        sign, value = rng.choice([("+", a + b), ("-", a - b), ("*", a * b)])
        verdict = rng.choice(["no, too big", "no, too small", "close, but no", "not it"])
        text.append(f"try {a} {sign} {b} = {value} , {value} + {c} = {value + c} : {verdict} . ")
    joined = "".join(text)
    return [ord(c) for c in joined] if spell == "characters" else [hash_word(w) for w in joined.split()]


def hash_word(word: str) -> int:
    return sum(ord(c) * 31**i for i, c in enumerate(word)) % 50_000


def first_stop(token_ids: list[int]) -> int | None:
    """Where generation would have ended, looking at every CHECK_EVERY-th token."""
    return next(
        (
            n
            for n in range(CHECK_EVERY, len(token_ids) + 1, CHECK_EVERY)
            if is_repeating(token_ids[:n], RULE)
        ),
        None,
    )


@pytest.mark.parametrize("spell", ["characters", "words"])
def test_honest_text_is_hardly_ever_stopped(spell: str) -> None:
    traces = [countdown_trace(random.Random(seed), 12, spell) for seed in range(200)]
    assert sum(first_stop(trace) is not None for trace in traces) < 0.01 * len(traces)


def test_small_alphabets_and_regular_counting_are_not_loops() -> None:
    digits = [random.Random(seed).choices(range(2), k=400) for seed in range(50)]
    counting = [ord(c) for c in "".join(f"step {i}: carry {i % 2}. " for i in range(60))]
    assert sum(first_stop(trace) is not None for trace in digits) == 0
    assert first_stop(counting) is None


@pytest.mark.parametrize("period", [1, 2, 3, 5, 8, 16, 31, 48, 63, 64])
def test_a_planted_loop_is_stopped_within_its_bound(period: int) -> None:
    rng = random.Random(period)
    for _ in range(5):
        prefix = countdown_trace(rng, 4, "characters")[: rng.randint(0, 150)]
        block = [rng.randrange(1000, 50_000) for _ in range(period)]
        stop = first_stop(prefix + block * 400)
        assert stop is not None
        # Not before the loop is long enough, and at the first look after that.
        earliest = len(prefix) + loop_tokens(period, RULE)
        assert earliest <= stop < earliest + CHECK_EVERY


@pytest.mark.parametrize(("period", "tokens"), [(1, 48), (5, 50), (12, 48), (13, 52), (64, 256)])
def test_a_loop_needs_four_repeats_and_48_tokens(period: int, tokens: int) -> None:
    assert loop_tokens(period, RULE) == tokens
    loop = list(range(period)) * 100
    assert not is_repeating(loop[: tokens - 1], RULE)
    assert is_repeating(loop[:tokens], RULE)


def test_periods_beyond_the_limit_and_broken_loops_pass() -> None:
    assert not is_repeating(list(range(65)) * 20, RULE)
    assert not is_repeating([1, 2, 3] * 40 + [9], RULE)
    assert not is_repeating([], RULE)
