"""LiveCodeBench's tests: JSON, or JSON inside a pickle inside zlib inside base64.

Unpickling a downloaded file runs whatever its author wrote. Here nothing is unpickled: the pickle's opcodes are
read, and only those that make up a single text are accepted.
"""

from __future__ import annotations

import base64
import binascii
import json
import pickletools
import zlib
from typing import Any

MAX_BYTES = 1 << 30  # a test set that unpacks to more is refused: zlib makes gigabytes out of a megabyte

_TEXT_OPCODES = frozenset({"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE"})
_OTHER_OPCODES = frozenset({"PROTO", "FRAME", "MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT", "STOP"})


def decode_tests(encoded: str, *, max_bytes: int = MAX_BYTES) -> list[dict[str, Any]]:
    """The tests that a `public_test_cases` or `private_test_cases` field holds: dicts with input, output, testtype.

    Raises:
        ValueError: it is neither JSON nor a packed text with JSON, or it unpacks to more than `max_bytes`.
    """
    tests = _json(encoded)
    if tests is None:
        tests = _json(unpickle_text(_unpack(encoded, max_bytes)))
    if not isinstance(tests, list) or not all(_is_test(test) for test in tests):
        raise ValueError('tests must be a JSON list of objects with the texts "input" and "output"')
    return tests


def unpickle_text(data: bytes) -> str:
    """The text that a pickle holds, if it holds one text and nothing else. Nothing is imported or called.

    Raises:
        ValueError: any other pickle, for instance one that would call a function.
    """
    texts: list[str] = []
    try:
        for opcode, argument, position in pickletools.genops(data):
            if opcode.name in _TEXT_OPCODES:
                texts.append(str(argument))
            elif opcode.name not in _OTHER_OPCODES:
                raise ValueError(
                    f"a pickle of tests may hold one text only; byte {position} has {opcode.name}"
                )
    except (ValueError, IndexError, UnicodeDecodeError) as error:
        raise ValueError(f"the pickle is refused: {error}") from None
    if len(texts) != 1:
        raise ValueError(f"a pickle of tests must hold one text; got {len(texts)}")
    return texts[0]


def _unpack(encoded: str, max_bytes: int) -> bytes:
    try:
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(base64.b64decode(encoded, validate=True), max_bytes)
    except (binascii.Error, zlib.error, ValueError) as error:
        raise ValueError(f"tests must be JSON, or base64 of zlib of a pickled text: {error}") from None
    if unpacker.unconsumed_tail or not unpacker.eof:
        raise ValueError(f"tests must be whole and unpack to at most {max_bytes} bytes")
    return data


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _is_test(test: Any) -> bool:
    return isinstance(test, dict) and all(isinstance(test.get(k), str) for k in ("input", "output"))
