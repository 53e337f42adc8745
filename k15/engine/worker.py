"""The process behind one worker of an `EnginePool`: an engine that is told what to do over a pipe.

The main thread computes; a second one listens, so that the pool never waits for a busy worker, and ends the
process as soon as the pool's process is gone.
"""

from __future__ import annotations

import os
import queue
import signal
import traceback
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle
from threading import Thread
from typing import Protocol

import torch

from k15.engine.decoder import Decoder
from k15.engine.embedded import EmbeddedEngine
from k15.engine.shapes import PassShapes
from k15.engine.sharing import Layout, open_shared
from k15.engine.source import WorkSource
from k15.errors import EngineError, StaleWeightsError
from k15.types import EngineStats, SamplingParams, Segment, Weights, Work

_PARENT_CHECK_SECONDS = 1.0


# What the pool says. Requests are numbered; answers repeat the number, so that late ones can be told apart.


@dataclass(frozen=True)
class TakeWeights:
    """Load these weights; their descriptor follows. Answered by `Ready`, or `Failed`."""

    number: int
    layout: Layout


@dataclass(frozen=True)
class Sleep:
    """Give device memory back. Answered by `Ready`, or `Failed`."""

    number: int


@dataclass(frozen=True)
class Begin:
    """Extend the work that follows. Answered by `Gained`, then `Done`, or `Failed`."""

    number: int
    sampling: SamplingParams


@dataclass(frozen=True)
class MoreWork:
    work: list[Work]


@dataclass(frozen=True)
class NoMoreWork:
    pass


@dataclass(frozen=True)
class Abandon:
    """Drop what is unfinished; nobody waits for it."""


# What a worker says.


@dataclass(frozen=True)
class Ready:
    number: int


@dataclass(frozen=True)
class Gained:
    number: int
    segments: list[Segment]


@dataclass(frozen=True)
class Done:
    number: int
    stats: EngineStats


@dataclass(frozen=True)
class Failed:
    """An error, as text with its traceback; `is_stale` if it was a `StaleWeightsError`."""

    number: int
    message: str
    traceback: str
    is_stale: bool


class WorkerEngine(Protocol):
    """What a worker runs. The methods are those of `EmbeddedEngine`."""

    def load_weights(self, weights: Weights) -> None: ...

    def extend_in_batches(
        self, source: WorkSource, sampling: SamplingParams
    ) -> Generator[list[Segment], None, None]: ...

    def sleep(self) -> None: ...

    @property
    def stats(self) -> EngineStats: ...


class WorkerPlan(Protocol):
    """What a worker is made of; travels to its process."""

    @property
    def num_slots(self) -> int:
        """Trajectories at the same time."""
        ...

    def build(self) -> WorkerEngine:
        """The engine, without weights; called in the worker."""
        ...


@dataclass(frozen=True)
class EmbeddedPlan:
    """An embedded engine in each worker.

    Attributes:
        make_decoder: builds the decoder, without weights.
        num_slots: trajectories at the same time.
        num_threads: CPU threads.
        shapes: found out once, by whoever makes the pool.
    """

    make_decoder: Callable[[], Decoder]
    num_slots: int
    num_threads: int
    shapes: PassShapes

    def build(self) -> EmbeddedEngine:
        torch.set_num_threads(self.num_threads)
        return EmbeddedEngine(
            self.make_decoder(),
            num_slots=self.num_slots,
            num_threads=self.num_threads,
            shapes=self.shapes,
        )


@dataclass(frozen=True)
class _Received:
    """`TakeWeights` with the descriptor that followed it."""

    number: int
    layout: Layout
    descriptor: int


def run_worker(plan: WorkerPlan, connection: Connection, parent_pid: int) -> None:
    """Serve the pool until it kills this process or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the pool's process
    inbox: queue.SimpleQueue[object] = queue.SimpleQueue()
    Thread(target=_listen, args=(connection, inbox, parent_pid), daemon=True).start()
    try:
        engine: WorkerEngine | Exception = plan.build()
    except Exception as error:
        engine = error  # the answer to whatever is asked; ending here would only start the next worker
    while True:
        message = inbox.get()
        if not isinstance(message, _Received | Begin | Sleep):
            continue  # work for an extension that failed or was abandoned
        try:
            if isinstance(engine, Exception):
                raise engine
            if isinstance(message, _Received):
                engine.load_weights(open_shared(message.layout, message.descriptor))
                connection.send(Ready(message.number))
            elif isinstance(message, Sleep):
                engine.sleep()
                connection.send(Ready(message.number))
            else:
                _extend(engine, message, inbox, connection)
        except OSError:
            os._exit(1)  # the pool is gone
        except Exception as error:
            is_stale = isinstance(error, StaleWeightsError)
            connection.send(Failed(message.number, str(error), traceback.format_exc(), is_stale))


def _extend(
    engine: WorkerEngine, begin: Begin, inbox: queue.SimpleQueue[object], connection: Connection
) -> None:
    source = _InboxSource(inbox)
    with closing(engine.extend_in_batches(source, begin.sampling)) as batches:
        for batch in batches:
            source.listen()
            if source.is_abandoned:
                return
            if batch:
                connection.send(Gained(begin.number, batch))
    if not source.is_abandoned:
        connection.send(Done(begin.number, engine.stats))


class _InboxSource:
    """Work that the pool sends while the engine runs."""

    def __init__(self, inbox: queue.SimpleQueue[object]) -> None:
        self._inbox = inbox
        self._waiting: list[Work] = []
        self._is_complete = False
        self.is_abandoned = False

    @property
    def is_exhausted(self) -> bool:
        return self._is_complete and not self._waiting

    def listen(self) -> None:
        """Hear what the pool has said by now."""
        while not self.is_abandoned and not self._inbox.empty():
            self._note(self._inbox.get())

    def take(self, limit: int) -> list[Work]:
        self.listen()
        taken, self._waiting = self._waiting[:limit], self._waiting[limit:]
        return taken

    def wait(self) -> None:
        if not self._is_complete:
            self._note(self._inbox.get())

    def _note(self, message: object) -> None:
        if isinstance(message, MoreWork):
            self._waiting += message.work
        elif isinstance(message, NoMoreWork):
            self._is_complete = True
        elif isinstance(message, Abandon):
            self._is_complete = self.is_abandoned = True
            self._waiting = []
        else:
            raise EngineError(f"a worker that extends takes work only; got {type(message).__name__}")


def _listen(connection: Connection, inbox: queue.SimpleQueue[object], parent_pid: int) -> None:
    """Put what the pool says into the inbox; end the process when nobody is there to say anything."""
    try:
        while True:
            # A closed pipe shows that the pool is gone, unless a process that it forked holds the other end.
            while not connection.poll(_PARENT_CHECK_SECONDS):
                if os.getppid() != parent_pid:
                    os._exit(1)
            message = connection.recv()
            if isinstance(message, TakeWeights):
                inbox.put(_Received(message.number, message.layout, recv_handle(connection)))
            else:
                inbox.put(message)
    except (EOFError, OSError):
        os._exit(1)
