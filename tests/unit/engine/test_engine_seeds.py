"""Derived randomness: the numbers are Philox 4x64's, and depend on where a token stands only."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from k15.engine.seeds import token_uniforms

WORD = (1 << 64) - 1


def philox_4x64_10(counter: list[int], key: list[int]) -> list[int]:
    """The published algorithm in plain integers."""
    c, k = list(counter), list(key)
    for _ in range(10):
        first, second = 0xD2E7470EE14C6C93 * c[0], 0xCA5A826395121157 * c[2]
        c = [(second >> 64) ^ c[1] ^ k[0], second & WORD, (first >> 64) ^ c[3] ^ k[1], first & WORD]
        k = [(k[0] + 0x9E3779B97F4A7C15) & WORD, (k[1] + 0xBB67AE8584CAA73B) & WORD]
    return c


@given(st.integers(-5, 2**64), st.integers(0, 2**40), st.integers(0, 1000), st.integers(0, 5000))
def test_numbers_are_those_of_the_published_generator(
    seed: int, ordinal: int, sample: int, position: int
) -> None:
    # numpy steps the counter before the first block.
    block = philox_4x64_10([position // 4 + 1, sample, 0, 0], [seed & WORD, ordinal])
    expected = (block[position % 4] >> 11) * 2.0**-53
    assert token_uniforms(seed, ordinal, sample, position, 1)[0] == expected


@given(st.integers(0, 50), st.integers(0, 40), st.integers(0, 40))
def test_any_cut_gives_the_same_numbers(start: int, first: int, second: int) -> None:
    whole = token_uniforms(7, 3, 1, start, first + second)
    parts = [token_uniforms(7, 3, 1, start, first), token_uniforms(7, 3, 1, start + first, second)]
    assert np.array_equal(whole, np.concatenate(parts))


def test_every_key_matters() -> None:
    base = (1, 2, 3)
    numbers = {token_uniforms(*base, 4, 1)[0]}
    for keys in ((2, 2, 3, 4), (1, 3, 3, 4), (1, 2, 4, 4), (1, 2, 3, 5), (2, 1, 3, 4)):
        numbers.add(token_uniforms(*keys, 1)[0])
    assert len(numbers) == 6


def test_golden_numbers() -> None:
    expected = [0.2641240376854038, 0.11231124578858076, 0.6782593169586517]
    assert token_uniforms(seed=11, ordinal=5, sample_index=2, start=0, count=3).tolist() == expected


@pytest.mark.parametrize("axis", ["position", "sample", "ordinal"])
def test_numbers_are_uniform_and_uncorrelated_along_each_key(axis: str) -> None:
    n = 20000
    if axis == "position":
        u = token_uniforms(0, 0, 0, 0, n)
    elif axis == "sample":
        u = np.array([token_uniforms(0, 0, i, 9, 1)[0] for i in range(n)])
    else:
        u = np.array([token_uniforms(0, i, 0, 9, 1)[0] for i in range(n)])
    counts = np.histogram(u, bins=20, range=(0, 1))[0]
    chi_square = ((counts - n / 20) ** 2 / (n / 20)).sum()
    assert chi_square < 43.8  # 99.9 % of 19 degrees of freedom
    assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 4 / n**0.5
