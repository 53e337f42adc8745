"""Every error k15 raises on purpose.

    K15Error
    ├── ConfigError (ValueError)         a setting is wrong; nothing was started      exit code 2
    │   ├── ConfigDriftError             a run is resumed with settings that may not change
    ├── DataError (ValueError)           a file of prompts or examples is malformed    exit code 2
    ├── ModelError (ValueError)          a checkpoint lacks files, or does not fit     exit code 2
    ├── RunFolderError (RuntimeError)    a run folder cannot be used                   exit code 1
    │   ├── RunLockedError               another process owns it
    │   ├── NoCheckpointError            nothing valid to resume from
    │   └── CorruptCheckpointError       a digest, a size or a file is wrong
    ├── RolloutBufferError (RuntimeError)      a segment does not fit the rollout buffer
    ├── EngineError (RuntimeError)       inference failed
    │   ├── StaleWeightsError            the engine holds other weights than asked for
    │   └── WorkerDiedError              an engine process died too often
    ├── TrainingError (RuntimeError)     training cannot go on
    │   └── NonFiniteError               NaN or infinity in loss or gradient, too often
    ├── SandboxError (RuntimeError)      code cannot be run here: a program or a right is missing
    └── GraderFaultError (RuntimeError)  too many verdicts were our fault

A message says rule, value, cure. A failed rollout is data, not an error: it becomes a verdict
or a recorded event, and the others run on.
"""

from __future__ import annotations


class K15Error(Exception):
    """Root of the tree. `exit_code` is what the command line returns."""

    exit_code = 1


class ConfigError(K15Error, ValueError):
    """A setting is wrong; nothing was started."""

    exit_code = 2


class ConfigDriftError(ConfigError):
    """A run is resumed with settings that may not change."""


class DataError(K15Error, ValueError):
    """A file of prompts or examples is malformed; names file, line, field and cure."""

    exit_code = 2


class ModelError(K15Error, ValueError):
    """A checkpoint lacks files, or does not fit the run."""

    exit_code = 2


class RunFolderError(K15Error, RuntimeError):
    """A run folder cannot be used."""


class RunLockedError(RunFolderError):
    """Another process owns the run folder."""


class NoCheckpointError(RunFolderError):
    """Nothing valid to resume from; never a silent start from scratch."""


class CorruptCheckpointError(RunFolderError):
    """A digest, a size or a file of a checkpoint is wrong."""


class RolloutBufferError(K15Error, RuntimeError):
    """A segment does not fit the rollout buffer."""


class EngineError(K15Error, RuntimeError):
    """Inference failed."""


class StaleWeightsError(EngineError):
    """The engine holds other weights than it was asked to sample from."""


class WorkerDiedError(EngineError):
    """An engine process died more often than allowed."""


class TrainingError(K15Error, RuntimeError):
    """Training cannot go on."""


class NonFiniteError(TrainingError):
    """NaN or infinity in loss or gradient, more often than allowed."""


class SandboxError(K15Error, RuntimeError):
    """Code that nobody trusts cannot be run on this host; says which package or right is missing."""


class GraderFaultError(K15Error, RuntimeError):
    """Too many verdicts were our fault; training on the rest would be training on noise."""
