"""Engines in processes of their own; dead ones are replaced, their work is done again."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from multiprocessing.reduction import send_handle

from transformers import PreTrainedModel

from k15.engine.base import Engine
from k15.engine.build import DecoderType
from k15.engine.embedded import EmbeddedEngine
from k15.engine.sharing import SharedWeights
from k15.engine.worker import (
    Abandon,
    Begin,
    Done,
    EmbeddedPlan,
    Failed,
    Gained,
    MoreWork,
    NoMoreWork,
    Ready,
    Sleep,
    TakeWeights,
    WorkerPlan,
    run_worker,
)
from k15.errors import EngineError, StaleWeightsError, WorkerDiedError
from k15.types import EngineStats, SamplingParams, Segment, Weights, Work

_QUEUE_SHARE = (
    8  # a worker's queue beyond its slots is this fraction of them: short, so that nobody idles
)
_LARGEST_BUNDLE = 16


def embedded_pool(
    model: PreTrainedModel,
    *,
    num_workers: int = 2,
    num_slots: int = 64,
    num_threads: int = 1,
    max_restarts: int = 3,
    decoder_type: DecoderType = "auto",
) -> EnginePool:
    """Several embedded engines. The tokens are those of a single one.

    Args:
        model: gives architecture, device and dtype; stays in this process.
        num_workers: processes.
        num_slots: trajectories at the same time in each of them.
        num_threads: CPU threads of each of them.
        max_restarts: as for `EnginePool`.
        decoder_type: as for `EmbeddedEngine`.

    Raises:
        ModelError: the model uses more than ordinary attention.
    """
    template = EmbeddedEngine(
        model, num_slots=num_slots, num_threads=num_threads, decoder_type=decoder_type
    )
    plan = EmbeddedPlan(template.decoder.recipe(), num_slots, num_threads, template.shapes)
    return EnginePool(
        plan, num_workers=num_workers, max_restarts=max_restarts, notices=template.take_notices()
    )


class EnginePool(Engine):
    """Hands work to processes as they ask for it.

    A worker that dies is started again, gets the weights and the work it had not finished; derived
    randomness makes the tokens the same. Workers end with the process that made the pool, however it ends.

    Args:
        plan: what each worker is made of.
        num_workers: processes.
        max_restarts: how often dead workers are started again between two `load_weights`.
        notices: what happened while the plan was made.
    """

    def __init__(
        self,
        plan: WorkerPlan,
        *,
        num_workers: int = 2,
        max_restarts: int = 3,
        notices: tuple[str, ...] = (),
    ) -> None:
        self._notices = list(notices)
        self._capacity = plan.num_slots + max(1, plan.num_slots // _QUEUE_SHARE)
        self._max_restarts = max_restarts
        self._num_restarts = 0
        self._shared: SharedWeights | None = None
        self._stats = EngineStats()
        self._number = 0
        self._is_running = False
        self._is_closed = False
        self._workers = [_Worker(i, plan) for i in range(num_workers)]
        for worker in self._workers:
            worker.start()

    @property
    def fingerprint(self) -> str | None:
        return self._shared.layout.fingerprint if self._shared else None

    @property
    def stats(self) -> EngineStats:
        return self._stats

    @property
    def worker_pids(self) -> tuple[int, ...]:
        """Process ids of the workers, in their order."""
        return tuple(worker.pid for worker in self._workers)

    def take_notices(self) -> tuple[str, ...]:
        notices, self._notices = tuple(self._notices), []
        return notices

    def load_weights(self, weights: Weights) -> None:
        self._require_idle()
        if self._shared is not None:
            self._shared.close()
            self._shared = None  # until proven, the workers hold nothing that may be sampled from
        self._num_restarts = 0
        self._number += 1
        shared = SharedWeights(weights)
        waiting = list(self._workers)
        try:
            for worker in waiting:
                worker.open = []
                worker.give_weights(self._number, shared)
            while waiting:
                for worker, message in self._listen():
                    if self._is_ready(worker, message):
                        waiting.remove(worker)
                for worker in self._dead():
                    self._revive(worker)
                    worker.give_weights(self._number, shared)
                    if worker not in waiting:
                        waiting.append(worker)
        except BaseException:
            shared.close()
            raise
        self._shared = shared

    def sleep(self) -> None:
        self._require_idle()
        self._number += 1
        for worker in self._workers:
            worker.send(Sleep(self._number))
        waiting = self._alive(self._workers)  # a dead one holds no memory; the next call starts it again
        while waiting:
            for worker, message in self._listen():
                if self._is_ready(worker, message):
                    waiting.remove(worker)
            waiting = self._alive(waiting)

    def extend(self, work: Iterable[Work], sampling: SamplingParams) -> Iterator[Segment]:
        if self._shared is None:
            raise StaleWeightsError(
                "An engine needs weights before it samples; none were loaded. Call load_weights."
            )
        return self._segments(_Bundles(work), sampling, self._shared)

    def close(self) -> None:
        self._is_closed = True
        for worker in self._workers:
            worker.kill()
        if self._shared is not None:
            self._shared.close()
            self._shared = None

    def _segments(
        self, bundles: _Bundles, sampling: SamplingParams, shared: SharedWeights
    ) -> Iterator[Segment]:
        self._require_idle()
        self._is_running = True
        self._number += 1
        begin = Begin(self._number, sampling)
        self._stats = EngineStats()
        running = list(self._workers)
        try:
            for worker in running:
                worker.open = []
                worker.send(begin)
            while running:
                self._hand_out(bundles)
                for worker, message in self._listen():
                    yield from self._take(worker, message, running)
                for worker in self._dead():
                    # One that died after its last word is needed again in the next call.
                    self._revive(worker)
                    worker.give_weights(self._number, shared)
                    if worker in running:
                        worker.send(begin)
                        worker.send(MoreWork(worker.open))
                        if bundles.is_exhausted:
                            worker.send(NoMoreWork())
        finally:
            self._is_running = False
            for worker in running:
                worker.send(Abandon())

    def _hand_out(self, bundles: _Bundles) -> None:
        """Give the next work to whoever has least, until all have enough or there is none."""
        while not bundles.is_exhausted:
            worker = min(self._workers, key=lambda w: len(w.open))
            if len(worker.open) >= self._capacity:
                return
            bundle = bundles.take()
            if bundle:
                worker.open += bundle
                worker.send(MoreWork(bundle))
            if bundles.is_exhausted:
                for each in self._workers:
                    each.send(NoMoreWork())

    def _take(self, worker: _Worker, message: object, running: list[_Worker]) -> Iterator[Segment]:
        """What a message of the present extension brings; those of an earlier one are dropped."""
        if isinstance(message, Gained) and message.number == self._number:
            for segment in message.segments:
                worker.finish(segment)
                yield segment
        elif isinstance(message, Done) and message.number == self._number:
            running.remove(worker)
            self._stats = _joined(self._stats, message.stats)
        elif isinstance(message, Failed) and message.number == self._number:
            running.remove(worker)
            raise _as_error(worker, message)

    def _listen(self) -> Iterator[tuple[_Worker, object]]:
        """Wait until a worker says something or dies, then give all that was said."""
        sources = [s for worker in self._workers for s in (worker.connection, worker.process.sentinel)]
        ready = wait(sources)
        for worker in self._workers:
            if worker.connection in ready or worker.process.sentinel in ready:
                for message in worker.receive():
                    yield worker, message

    def _is_ready(self, worker: _Worker, message: object) -> bool:
        """Whether a message says that the worker did what it was asked last; raises if it could not."""
        if isinstance(message, Failed) and message.number == self._number:
            raise _as_error(worker, message)
        return isinstance(message, Ready) and message.number == self._number

    def _alive(self, workers: list[_Worker]) -> list[_Worker]:
        return [worker for worker in workers if not worker.is_dead]

    def _dead(self) -> list[_Worker]:
        return [worker for worker in self._workers if worker.is_dead]

    def _revive(self, worker: _Worker) -> None:
        """Start a dead worker again.

        Raises:
            WorkerDiedError: workers died too often.
        """
        end = worker.describe_end()
        self._num_restarts += 1
        if self._num_restarts > self._max_restarts:
            raise WorkerDiedError(
                f"Engine workers may die {self._max_restarts} times in an iteration (engine.max_restarts); {end}. Is "
                "there enough memory for all of them? Lower engine.num_workers or engine.num_slots."
            )
        self._notices.append(
            f"{end}; it was started again and {len(worker.open)} trajectories were reissued"
        )
        worker.start()

    def _require_idle(self) -> None:
        if self._is_closed:
            raise EngineError("An engine that was closed cannot be used again. Build a new one.")
        if self._is_running:
            raise EngineError("An engine runs one extend at a time. Finish or close the first iterator.")


@dataclass(eq=False)
class _Worker:
    """One worker process as the pool sees it.

    Attributes:
        open: work it was given and has not finished.
        is_dead: nothing more will come from it.
    """

    index: int
    plan: WorkerPlan
    open: list[Work] = field(default_factory=list)
    is_dead: bool = False

    def start(self) -> None:
        """Start a process, in place of the one before."""
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process: SpawnProcess = context.Process(
            target=run_worker,
            args=(self.plan, theirs, os.getpid()),
            name=f"k15-engine-{self.index}",
            daemon=True,
        )
        # A blocked signal is inherited: Ctrl-C in a terminal reaches the pool's process alone. multiprocessing's
        # tracker unblocks it when it starts, so it must be there before.
        resource_tracker.ensure_running()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        self.is_dead = False

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def send(self, message: object) -> None:
        """Say something. A worker that is gone does not hear it; `receive` notices."""
        if not self.is_dead:
            try:
                self.connection.send(message)
            except OSError:
                self.is_dead = True

    def give_weights(self, number: int, shared: SharedWeights) -> None:
        """Send weights: first where the tensors lie, then the memory's descriptor."""
        self.send(TakeWeights(number, shared.layout))
        if not self.is_dead:
            try:
                send_handle(self.connection, shared.descriptor, self.pid)
            except OSError:
                self.is_dead = True

    def receive(self) -> list[object]:
        """All that it has said by now; a dead worker's last words included."""
        messages: list[object] = []
        has_ended = (
            not self.process.is_alive()
        )  # asked first: what it said before is then there to be read
        try:
            while self.connection.poll():
                messages.append(self.connection.recv())
        except (EOFError, OSError):
            has_ended = True
        self.is_dead |= has_ended
        return messages

    def finish(self, segment: Segment) -> None:
        """Strike the work off that this segment extends."""
        key = (segment.ordinal, segment.sample_index, segment.start)
        for place, work in enumerate(self.open):
            if (work.ordinal, work.sample_index, len(work.token_ids)) == key:
                del self.open[place]
                return
        raise EngineError(f"worker {self.index} extended a trajectory that it was not given: {key}")

    def kill(self) -> None:
        """End the process at once; it has nothing to save."""
        self.process.kill()
        self.process.join()
        self.connection.close()

    def describe_end(self) -> str:
        """How a dead process ended, as a sentence; frees what is left of it."""
        self.kill()
        code = self.process.exitcode
        assert code is not None
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return f"engine worker {self.index} (process {self.process.pid}) {how}"


class _Bundles:
    """Work in bundles: neighbours with the same prompt stay together, so that one worker reads it once."""

    def __init__(self, work: Iterable[Work]) -> None:
        self._work = iter(work)
        self._next: Work | None = None
        self.is_exhausted = False

    def take(self) -> list[Work]:
        """The next bundle; empty only when there is no more work."""
        bundle = [] if self._next is None else [self._next]
        self._next = None
        for work in self._work:
            if bundle and work.prompt_token_ids != bundle[0].prompt_token_ids:
                self._next = work
                return bundle
            bundle.append(work)
            if len(bundle) == _LARGEST_BUNDLE:
                return bundle
        self.is_exhausted = True
        return bundle


def _as_error(worker: _Worker, failed: Failed) -> EngineError:
    kind = StaleWeightsError if failed.is_stale else EngineError
    return kind(
        f"{failed.message}\n\nThis happened in engine worker {worker.index}:\n{failed.traceback}"
    )


def _joined(first: EngineStats, second: EngineStats) -> EngineStats:
    """Costs of two workers that ran at the same time."""
    return EngineStats(
        num_tokens=first.num_tokens + second.num_tokens,
        num_prefill_tokens=first.num_prefill_tokens + second.num_prefill_tokens,
        slot_steps=first.slot_steps + second.slot_steps,
        busy_slot_steps=first.busy_slot_steps + second.busy_slot_steps,
        seconds=max(first.seconds, second.seconds),
    )
