"""One machine: who holds which weights, and when they are handed over."""

import pytest
import torch

from k15.cluster.local import LocalCluster
from k15.config.parts import TinyModelConfig
from k15.errors import StaleWeightsError
from k15.models.load import make_policy
from k15.models.tiny import build_tiny_model
from k15.models.tokenizer import build_tokenizer
from k15.testing.scripted import ScriptedEngine
from k15.train.trainer import OptimizerSettings, Trainer
from k15.types import SamplingParams, Work

TOKENIZER = build_tokenizer(["what is"])
SHAPE = TinyModelConfig(num_layers=1, width=32, num_heads=2, mlp_width=48, max_positions=64)
SAMPLING = SamplingParams(seed=0, max_tokens=4, stop_ids=(1,))


class CountingEngine(ScriptedEngine):
    def __init__(self):
        super().__init__(lambda work: [9, 1])
        self.loaded, self.is_closed = [], False

    def load_weights(self, weights):
        super().load_weights(weights)
        self.loaded.append(weights)

    def close(self):
        self.is_closed = True


@pytest.fixture
def cluster():
    policy = make_policy(build_tiny_model(SHAPE, TOKENIZER, seed=0), TOKENIZER)
    return LocalCluster(
        policy, CountingEngine(), Trainer(policy.model, OptimizerSettings(1e-3)), num_threads=1
    )


def nudge(cluster):
    with torch.no_grad():
        next(cluster.policy.model.parameters()).add_(0.5)


def test_the_engine_gets_the_weights_before_it_samples(cluster):
    weights = cluster.publish_weights(3)
    with cluster.inference(weights) as engine:
        [segment] = engine.extend([Work(0, 0, (5,))], SAMPLING)
    assert (segment.policy_version, segment.fingerprint) == (3, weights.fingerprint)


def test_weights_are_handed_over_once(cluster):
    first = cluster.publish_weights(0)
    for _ in range(3):
        with cluster.inference(first):
            pass
    assert [w.version for w in cluster._engine.loaded] == [0]
    nudge(cluster)
    with cluster.inference(cluster.publish_weights(1)):
        pass
    assert [w.version for w in cluster._engine.loaded] == [0, 1]


def test_the_same_weights_under_another_version_are_handed_over_again(cluster):
    """After an iteration that trained nothing, segments must still say which iteration they are of."""
    for version in (0, 1):
        with cluster.inference(cluster.publish_weights(version)) as engine:
            [segment] = engine.extend([Work(version, 0, (5,))], SAMPLING)
        assert segment.policy_version == version
    assert len({w.fingerprint for w in cluster._engine.loaded}) == 1


def test_training_does_not_reach_the_weights_that_were_published(cluster):
    weights = cluster.publish_weights(0)
    before = {name: tensor.clone() for name, tensor in weights.tensors.items()}
    with cluster.training() as trainer:
        assert trainer.model is cluster.policy.model
        nudge(cluster)
    assert all(torch.equal(before[name], tensor) for name, tensor in weights.tensors.items())
    assert cluster.publish_weights(1).fingerprint != weights.fingerprint


def test_an_engine_that_refuses_the_weights_samples_nothing(cluster, monkeypatch):
    def refuse(weights):
        raise StaleWeightsError("other bytes")

    monkeypatch.setattr(cluster._engine, "load_weights", refuse)
    with pytest.raises(StaleWeightsError), cluster.inference(cluster.publish_weights(0)):
        pytest.fail("the rollout phase must not begin")
    monkeypatch.undo()
    with cluster.inference(cluster.publish_weights(0)):  # a failed hand-off does not count as one
        pass
    assert len(cluster._engine.loaded) == 1


def test_the_trainer_has_its_number_of_threads(cluster):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with cluster.training():
            assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_zero_threads_leaves_torchs_choice():
    policy = make_policy(build_tiny_model(SHAPE, TOKENIZER, seed=0), TOKENIZER)
    cluster = LocalCluster(policy, CountingEngine(), Trainer(policy.model, OptimizerSettings(1e-3)))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with cluster.training():
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_what_is_saved_comes_back_bit_for_bit(cluster, tmp_path):
    expected = cluster.publish_weights(0).fingerprint
    cluster.save_to(tmp_path)
    nudge(cluster)
    assert cluster.publish_weights(0).fingerprint != expected
    cluster.load_from(tmp_path)
    assert cluster.publish_weights(0).fingerprint == expected


def test_closing_closes_the_engine(cluster):
    cluster.close()
    assert cluster._engine.is_closed
