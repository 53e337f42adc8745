"""Weights in shared memory: exact, private to each reader, and gone with the last of them."""

import os
import subprocess
import sys

import torch

from k15.engine.sharing import SharedWeights, open_shared
from k15.types import Weights
from k15.weights.fingerprint import fingerprint


def some_weights() -> Weights:
    tensors = {
        "a": torch.randn(3, 5),
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        "half": torch.randn(7).to(torch.bfloat16),
        "empty": torch.zeros(0, 4),
        "ids": torch.arange(5),
        "transposed": torch.randn(4, 6).t(),
    }
    return Weights(version=9, fingerprint=fingerprint(tensors), tensors=tensors)


def test_a_reader_gets_every_tensor_exactly() -> None:
    weights = some_weights()
    shared = SharedWeights(weights)
    read = open_shared(shared.layout, os.dup(shared.descriptor))
    assert (read.version, read.fingerprint) == (9, weights.fingerprint)
    assert fingerprint(read.tensors) == weights.fingerprint
    shared.close()
    shared.close()  # twice does no harm
    assert fingerprint(read.tensors) == weights.fingerprint  # as long as a reader has it, it is there


def test_a_reader_cannot_change_what_others_read() -> None:
    shared = SharedWeights(some_weights())
    first, second = (open_shared(shared.layout, os.dup(shared.descriptor)) for _ in range(2))
    first.tensors["a"].zero_()
    assert fingerprint(second.tensors) == second.fingerprint
    assert fingerprint(first.tensors) != first.fingerprint
    shared.close()


def test_no_descriptor_is_left_open() -> None:
    before = set(os.listdir("/proc/self/fd"))
    for _ in range(3):
        shared = SharedWeights(some_weights())
        read = open_shared(shared.layout, os.dup(shared.descriptor))
        del read
        shared.close()
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_worker_of_the_fused_forward_starts_without_transformers() -> None:
    code = "import sys, k15.engine.worker, k15.engine.fused; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
