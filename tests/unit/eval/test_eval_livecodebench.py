"""LiveCodeBench's packed tests: texts come out, anything else is refused without being run."""

import base64
import json
import pickle
import zlib

import pytest

from k15.eval.livecodebench import decode_tests, unpickle_text

TESTS = [{"input": "1\n2", "output": "3", "testtype": "stdin"}, {"input": "é\n", "output": "∑"}]


def pack(value, protocol=None):
    return base64.b64encode(zlib.compress(pickle.dumps(value, protocol))).decode()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("padding", [0, 300, 70_000])
def test_what_pickle_packs_comes_out(protocol, padding):
    tests = [*TESTS, {"input": "x" * padding, "output": "y"}]
    assert decode_tests(pack(json.dumps(tests, ensure_ascii=False), protocol)) == tests


def test_plain_json_is_read_too():
    assert decode_tests(json.dumps(TESTS)) == TESTS


class Attack:
    """Unpickled, it creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_calls_is_refused_and_not_run(tmp_path, protocol):
    target = tmp_path / "touched"
    with pytest.raises(ValueError, match="refused"):
        decode_tests(pack(Attack(target), protocol))
    assert not target.exists()
    pickle.loads(pickle.dumps(Attack(target), protocol)).close()
    assert target.exists(), "the attack works where it is unpickled"


@pytest.mark.parametrize("value", [1, None, b"x", ["x"], {"x": "y"}, ("x", "y"), True, 1.5])
def test_only_texts_are_admitted(value):
    with pytest.raises(ValueError):
        unpickle_text(pickle.dumps(value))


def test_two_texts_or_none_are_refused():
    with pytest.raises(ValueError, match="one text; got 2"):
        unpickle_text(b"\x80\x04\x8c\x01a\x8c\x01b.")
    with pytest.raises(ValueError):
        unpickle_text(b"")
    with pytest.raises(ValueError):
        unpickle_text(pickle.dumps("x")[:-1])


def test_a_bomb_is_refused():
    bomb = base64.b64encode(zlib.compress(b"\0" * 10_000_000)).decode()
    assert len(bomb) < 20_000
    with pytest.raises(ValueError, match="at most 1000000 bytes"):
        decode_tests(bomb, max_bytes=1_000_000)


@pytest.mark.parametrize(
    "broken",
    [
        "",
        "!!",
        "aGVsbG8=",
        pack("no json"),
        pack('{"input": "x"}'),
        pack('[{"input": 1, "output": "2"}]'),
    ],
)
def test_what_is_broken_says_so(broken):
    with pytest.raises(ValueError):
        decode_tests(broken)


def test_a_cut_stream_is_refused():
    whole = zlib.compress(pickle.dumps(json.dumps(TESTS)))
    with pytest.raises(ValueError):
        decode_tests(base64.b64encode(whole[:-8]).decode())
