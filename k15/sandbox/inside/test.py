"""Runs test code with `candidate` bound to a function in another box. Exit codes: 0 passed, 1 the test
code raised, 3 the function raised or sent nonsense, 4 the other box has ended."""

# pyright: reportMissingImports=false

import os
import sys
import traceback

from k15_values import MAX_BYTES, pack, unpack


class Raised(BaseException):
    """The function raised; no `except Exception` of the test code may take this for its own."""


class Gone(BaseException):
    """The other box has ended."""


def main():
    replies, requests = os.fdopen(3, "rb"), os.fdopen(4, "wb")
    entry_point = sys.argv[1]

    def send(value):
        try:
            requests.write(pack(value))
            requests.flush()
        except BrokenPipeError:
            raise Gone from None

    def candidate(*arguments, **keywords):
        send((arguments, keywords))
        line = replies.readline(MAX_BYTES)
        if not line:
            raise Gone
        try:
            kind, value = unpack(line)
        except Exception:
            raise Raised("sent no plain data") from None
        if kind != "value":
            raise Raised(str(value)[:100])
        return value

    with open(os.path.join(sys.path[0], "test_code.py"), encoding="utf-8") as file:
        code = compile(file.read(), "test_code.py", "exec")
    sys.setrecursionlimit(10000)
    try:
        send(entry_point)
        names = {
            "__name__": "test_code",
            "candidate": candidate,
            entry_point.rpartition(".")[2]: candidate,
        }
        exec(code, names)
    except Raised:
        end(3)
    except Gone:
        end(4)
    except BaseException:
        traceback.print_exc()
        end(1)
    end(0)


def end(code):
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
