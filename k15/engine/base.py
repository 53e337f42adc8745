"""What every inference engine does, whatever runs below it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self

from k15.types import EngineStats, SamplingParams, Segment, Weights, Work


class Engine(ABC):
    """Extends trajectories with the weights it was handed last, and with no others.

    An engine is used by one thread, one `extend` at a time. Weights, then work:

        with engine:
            engine.load_weights(weights)
            for segment in engine.extend(work, sampling):
                buffer.append(segment)

    What an implementation must keep:

    - Token ids come in and go out; an engine never tokenizes and never decodes text.
    - A resumed trajectory is read again from its prompt under the current weights (no keys or values of
      an older policy are kept), then gains one segment.
    - The token at a position depends on weights, tokens before it, and (seed, ordinal, sample index,
      position). Order of the work, slots, workers and restarts do not matter. On a CPU in fp32 that holds
      to the last bit, log-probabilities included; elsewhere up to rounding.
    - Banned ids are never sampled. A segment says which weights sampled it.
    """

    @abstractmethod
    def load_weights(self, weights: Weights) -> None:
        """Copy the weights in and prove it: the fingerprint of what the engine now holds is computed anew.

        Raises:
            EngineError: names, shapes or dtypes are not those of the engine's model.
            StaleWeightsError: the engine holds other bytes than `weights.fingerprint` promises.
        """

    @abstractmethod
    def extend(self, work: Iterable[Work], sampling: SamplingParams) -> Iterator[Segment]:
        """One segment for each piece of work, yielded as soon as it is finished, in no fixed order.

        Work is drawn from the iterable when a slot falls free, so it may be lazy. Closing the iterator
        early drops what is unfinished. A trajectory that is at its cap already gains an empty segment
        with stop `LENGTH`.

        Raises:
            StaleWeightsError: no weights were loaded.
            EngineError: the work cannot be run, logits are not finite, or a worker failed.
        """

    @property
    @abstractmethod
    def fingerprint(self) -> str | None:
        """Fingerprint of the weights it samples from; None before the first `load_weights`."""

    @property
    @abstractmethod
    def stats(self) -> EngineStats:
        """What the last `extend` cost; of a running one, its cost so far."""

    def take_notices(self) -> tuple[str, ...]:
        """What happened since the last call, as sentences for the run's events: a slower path was taken, a
        worker was started again."""
        return ()

    def sleep(self) -> None:  # noqa: B027 an engine may share its device with nobody
        """Give device memory back while others use the device; the next load or extension wakes it up."""

    def close(self) -> None:  # noqa: B027 an engine may have nothing to free
        """Free processes and memory. An engine that was closed cannot be used again."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
