"""Derived randomness: a number that depends on its keys only, never on what was drawn before.

A run can then stop and go on anywhere, with any number of workers, and see the same numbers.
"""

import hashlib


def derived_uniform(seed: int, purpose: str, *keys: int) -> float:
    """A number in [0, 1) that depends on the seed, the purpose and the keys, and on nothing else.

    Numbers for different keys behave as independent draws: they are the leading 53 bits of a
    BLAKE2b digest.

    Args:
        seed: the run's seed.
        purpose: names the use, so that two uses with equal keys do not share numbers.
        keys: whole numbers such as a draw's ordinal and a sample's index.
    """
    text = "/".join((purpose, str(seed), *map(str, keys)))
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) * 2.0**-53


def derived_seed(seed: int, purpose: str, *keys: int) -> int:
    """A seed for a generator, in [0, 2^53), that depends on the seed, the purpose and the keys only."""
    return int(derived_uniform(seed, purpose, *keys) * 2**53)
