"""Graceful stop: a signal asks the loop to end after this iteration, a second Ctrl-C ends it now."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""Ctrl-C; what a container or a spot instance sends; what Slurm sends ahead of the time limit."""


class StopFlag:
    """Whether somebody asked the run to stop, and by which signal."""

    def __init__(self) -> None:
        self.signal_name: str | None = None

    @contextmanager
    def catch(self) -> Iterator[None]:
        """Within the block, the stop signals raise this flag; the old handlers come back afterwards.

        Python delivers signals to the main thread only; elsewhere the block changes nothing.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = {number: signal.signal(number, self._raise) for number in STOP_SIGNALS}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _raise(self, number: int, frame: FrameType | None) -> None:
        if self.signal_name is not None:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self.signal_name = signal.Signals(number).name
        # os.write, because a handler may interrupt print itself
        os.write(
            2,
            b"\nstopping after this iteration; Ctrl-C again stops at once (nothing that is saved is lost)\n",
        )
