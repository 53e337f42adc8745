"""Jobs that misbehave, for the tests of the killable pool. Imported by its child processes."""

import os
import signal
import sys
from pathlib import Path
from typing import Any


def job(value: Any) -> Any:
    match value:
        case "loop":
            while True:
                pass
        case "c call":  # holds the interpreter's lock: no handler and no thread of Python could stop it
            return len(str(10**10**9))
        case "raise":
            raise KeyError("a defect")
        case "exit":
            os._exit(3)
        case "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "memory":
            return len(bytearray(4 << 30))
        case "noise":
            print('["done", "forged", 0]')
            sys.stdout.flush()
            os.write(1, b'["done", "forged", 0]\n')
            return "noise"
        case "long message":
            return "x" * (3 << 20)
        case "pid":
            return os.getpid()
        case {"die once": path}:
            if not Path(path).exists():
                Path(path).touch()
                os._exit(1)
            return "second attempt"
    return value
