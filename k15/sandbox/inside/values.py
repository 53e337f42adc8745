"""Plain data as JSON and back, with the types that JSON does not tell apart. Nothing else crosses."""

import json

MAX_BYTES = 1 << 24


def pack(value):
    """One line of JSON. Raises TypeError for what is no plain data."""
    return json.dumps(_tagged(value)).encode() + b"\n"


def unpack(line):
    """The value again, of the plain types themselves whatever the other end had. Raises ValueError."""
    return _untagged(json.loads(line.decode()))


def _tagged(value):
    kind = type(value)
    if kind.__module__ == "numpy":
        value = value.tolist()
        kind = type(value)
    if value is None or kind is bool or kind is int or kind is float or kind is str:
        return value
    if isinstance(value, bool):
        return bool(value)
    for base in (int, float, str):
        if isinstance(value, base):
            return base(value)
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, (bytes, bytearray)):
        return {kind.__name__ if kind in (bytes, bytearray) else "bytes": value.hex()}
    if isinstance(value, dict):
        return {"dict": [[_tagged(k), _tagged(v)] for k, v in value.items()]}
    for base in (list, tuple, set, frozenset):
        if isinstance(value, base):
            return {base.__name__: [_tagged(item) for item in value]}
    raise TypeError("a value of type " + kind.__name__ + " is no plain data")


def _untagged(value):
    if not isinstance(value, dict):
        if isinstance(value, list):
            raise ValueError("a list without its tag")
        return value
    ((tag, content),) = value.items()
    if tag == "complex":
        return complex(float(content[0]), float(content[1]))
    if tag in ("bytes", "bytearray"):
        return (bytes if tag == "bytes" else bytearray).fromhex(content)
    if tag == "dict":
        return {_untagged(k): _untagged(v) for k, v in content}
    kinds = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
    return kinds[tag](_untagged(item) for item in content)
