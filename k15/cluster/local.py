"""One machine, one process (and its engine workers): inference and training take turns (section 2.6.3)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from k15.crashpoints import crashpoint
from k15.engine.base import Engine
from k15.models.load import Policy
from k15.train.trainer import Trainer
from k15.types import Weights
from k15.weights.load import load_tensors
from k15.weights.save import save_policy


class LocalCluster:
    """The devices of one machine, given to the engine or to the trainer, never to both.

    Args:
        policy: the model that the trainer changes, with its tokenizer.
        engine: holds weights of its own; gets the policy's by `inference`.
        trainer: changes the policy.
        num_threads: CPU threads of the training phase; 0 leaves torch's choice. The engine brings its own.
    """

    def __init__(
        self, policy: Policy, engine: Engine, trainer: Trainer, *, num_threads: int = 0
    ) -> None:
        self.policy = policy
        self._engine = engine
        self._trainer = trainer
        self._num_threads = num_threads
        self._handed_version: int | None = None

    @contextmanager
    def inference(self, weights: Weights) -> Iterator[Engine]:
        """The rollout phase: the engine, holding just these weights.

        Raises:
            StaleWeightsError: what the engine holds after the hand-off is not what was published.
        """
        if self._engine.fingerprint != weights.fingerprint or self._handed_version != weights.version:
            crashpoint("cluster.before_weight_push")
            self._engine.load_weights(weights)
            self._handed_version = weights.version
            crashpoint("cluster.after_weight_push")
        yield self._engine

    @contextmanager
    def training(self) -> Iterator[Trainer]:
        """The training phase: the trainer."""
        self._engine.sleep()
        if self._num_threads and torch.get_num_threads() != self._num_threads:
            torch.set_num_threads(self._num_threads)
        yield self._trainer

    def publish_weights(self, version: int) -> Weights:
        """The policy's present weights, as the reference of iteration `version`."""
        return self._trainer.publish_weights(version)

    def save_to(self, directory: Path) -> None:
        """Write the policy as a checkpoint that plain `from_pretrained` loads."""
        save_policy(self.policy, directory)

    def load_from(self, directory: Path) -> None:
        """Take over the weights that `save_to` wrote."""
        load_tensors(self.policy.model, directory)

    def close(self) -> None:
        self._engine.close()
