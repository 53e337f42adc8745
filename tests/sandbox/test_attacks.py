"""Every attack of the list against every back end, and what must hold after each.

I1 nothing is paid without a right answer; I2 the host is as it was; I3 the next runs are right; I4 the verdict
comes in time; I5 nothing is left; I6 no more output is kept than allowed; I8 the verdict is an expected one.
"""

import time
from dataclasses import replace

import pytest
from attack_list import ATTACKS, MLE, ORDINARY

from k15.sandbox.base import Job, Program, RunVerdict, StdinTest

_ROOM_SECONDS = (
    3.0  # beyond the wall limit; a busy test machine is slow to take a thousand processes down
)
_KEPT_STDERR = 1 << 16


@pytest.mark.parametrize("attack", ATTACKS, ids=[attack.name for attack in ATTACKS])
def test_attack(attacked, attack):
    paid_for = "an answer that no attack prints"
    program = Program(attack.language, attack.code)
    files_before, mounts_before = attacked.open_files(), attacked.mounts()
    start = time.monotonic()

    run = attacked.run(Job(program, (StdinTest("", None),), limits=attack.limits))
    seconds = time.monotonic() - start
    if run.verdict is RunVerdict.XX and "overloaded" in run.reason:
        pytest.skip(f"this machine is too busy to judge time: {run.reason}")

    allowed = attack.verdicts
    if (
        attacked.name == "bubblewrap-no-cgroups"
    ):  # the sum is only looked at every 20 ms: later limits may come first
        allowed = (*allowed, MLE, RunVerdict.TLE, RunVerdict.RE)
    assert run.verdict in allowed, (run.verdict, run.reason, run.tests and run.tests[0].stderr[-500:])
    if run.tests:
        [test] = run.tests
        said = test.stdout.split()
        assert "in" not in said, test.stdout[:2000]
        assert run.verdict is not RunVerdict.OK or all(word in said for word in attack.says), test
        assert (
            len(test.stdout) <= 4 * attack.limits.output_bytes
        )  # an escaped byte takes four characters
        assert len(test.stderr) <= 4 * _KEPT_STDERR
        assert seconds < 3 * (
            attack.limits.wall + _ROOM_SECONDS
        )  # an overloaded host is tried three times
        assert test.wall_seconds < attack.limits.wall + _ROOM_SECONDS
    assert attacked.leftovers() == []
    for _ in range(3):
        assert attacked.run(ORDINARY).verdict is RunVerdict.OK
    assert attacked.leftovers() == []
    assert attacked.mounts() == mounts_before
    assert attacked.open_files() <= files_before + 2  # a prepared box has one or two
    job = replace(ORDINARY, program=Program("python", "print('x')"))
    assert attacked.run(replace(job, tests=(StdinTest("", paid_for),))).verdict is RunVerdict.WA


def test_a_hundred_ordinary_runs_are_right_after_all_attacks(attacked):
    assert [result.verdict for result in attacked.sandbox.run_many([ORDINARY] * 100)] == [
        RunVerdict.OK
    ] * 100
    assert attacked.leftovers() == []
