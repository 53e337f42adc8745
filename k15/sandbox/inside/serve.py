"""Offers one function of the program in this box to a tester in another: requests on file descriptor 3,
replies on 4, one line each."""

# pyright: reportMissingImports=false

import os
import sys
import traceback

from k15_call import beside, find, load
from k15_values import MAX_BYTES, pack, unpack


def main():
    requests, replies = os.fdopen(3, "rb"), os.fdopen(4, "wb")
    entry_point = unpack(requests.readline(MAX_BYTES))
    sys.setrecursionlimit(10000)
    try:
        function = find(load(beside("main.py")), entry_point)
    except BaseException:
        traceback.print_exc(limit=-20)
        sys.stderr.flush()
        os._exit(1)
    while True:
        line = requests.readline(MAX_BYTES)
        if not line:
            break
        arguments, keywords = unpack(line)
        try:
            reply = pack(("value", function(*arguments, **keywords)))
        except BaseException as error:
            traceback.print_exc(limit=-20)
            reply = pack(("error", type(error).__name__))
        replies.write(reply)
        replies.flush()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
