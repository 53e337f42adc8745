"""An engine for pools that costs nothing: its worker imports neither a model nor the pool."""

from collections.abc import Generator
from dataclasses import dataclass

from k15.engine.source import WorkSource
from k15.types import EngineStats, SamplingParams, Segment, Weights


class CountingEngine:
    """Says in its stats how often it slept, and ends every trajectory at once."""

    def __init__(self) -> None:
        self.num_asleep = 0

    @property
    def stats(self) -> EngineStats:
        return EngineStats(num_tokens=self.num_asleep)

    def load_weights(self, weights: Weights) -> None:
        self.weights = weights

    def sleep(self) -> None:
        self.num_asleep += 1

    def extend_in_batches(
        self, source: WorkSource, sampling: SamplingParams
    ) -> Generator[list[Segment], None, None]:
        while not source.is_exhausted:
            yield [
                Segment(w.ordinal, w.sample_index, len(w.token_ids), (), (), 0, "", None)
                for w in source.take(4)
            ]


@dataclass(frozen=True)
class Plan:
    num_slots: int = 2
    complaint: str = ""

    def build(self) -> CountingEngine:
        if self.complaint:
            raise RuntimeError(self.complaint)
        return CountingEngine()
