"""A pool of engines of another kind: sleep, and what their plans do wrong."""

import os
import signal

import pytest
from engine_plans import Plan

from k15.engine.pool import EnginePool
from k15.errors import EngineError
from k15.types import SamplingParams, Work

SAMPLING = SamplingParams(seed=0, max_tokens=4)
WORK = [Work(i, 0, (1,)) for i in range(9)]


def test_all_workers_sleep_and_wake_for_the_next_work(weights):
    with EnginePool(Plan(), num_workers=2) as pool:
        pool.load_weights(weights)
        pool.sleep()
        pool.sleep()
        assert len(list(pool.extend(WORK, SAMPLING))) == len(WORK)
        assert pool.stats.num_tokens == 2 * 2  # the engine counts how often it slept

        os.kill(pool.worker_pids[0], signal.SIGKILL)
        pool.sleep()  # a dead worker needs none, and is started again when there is work
        assert pool.take_notices() == ()
        assert len(list(pool.extend(WORK, SAMPLING))) == len(WORK)
        assert len(pool.take_notices()) == 1


def test_an_engine_that_cannot_start_says_why_and_is_not_started_again(weights):
    with EnginePool(Plan(complaint="no such device"), num_workers=1) as pool:
        with pytest.raises(EngineError, match="no such device"):
            pool.load_weights(weights)
        assert pool.take_notices() == ()
