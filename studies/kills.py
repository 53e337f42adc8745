"""Kill a run at many events and compare its end with the unbroken run's (REL-01).

    python studies/kills.py --count 100

Every life is a real process, killed by SIGKILL at a random event (a write, an fsync, a rename, a weight
push, an optimizer reset ...) and started again. The study fails if one end differs in a metric, a
completion or a bit of the weights, or if a kill did not happen.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import tempfile
from collections import Counter
from pathlib import Path

from k15.testing.lives import Lives
from k15.testing.tiny import outcome, rl_arguments, sft_arguments, trained_ordinals

PRELOAD = ["k15.stages.launch", "transformers.models.qwen3.modeling_qwen3"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=100, help="kill points")
    parser.add_argument("--seed", type=int, default=0, help="seed that chooses them")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="k15-kills-"))
    model, points = folder / "sft" / "model", folder / "points"
    with Lives("k15.cli:main", PRELOAD) as lives:
        assert lives.run(sft_arguments(folder, folder / "sft")) == 0
        assert lives.run(rl_arguments(folder, folder / "unbroken", model), count_file=str(points)) == 0
        names = points.read_text().split()
        expected, ordinals = outcome(folder / "unbroken"), trained_ordinals(folder / "unbroken")
        print(f"the unbroken run passes {len(names)} events at {len(set(names))} named points")
        killed: Counter[str] = Counter()
        count = min(options.count, len(names))
        for number in sorted(random.Random(options.seed).sample(range(1, len(names) + 1), count)):
            run = folder / f"run{number}"
            arguments = rl_arguments(folder, run, model)
            status = lives.run(arguments, crash=f"*:{number}")
            assert status == -signal.SIGKILL, f"event {number} did not kill: {status}"
            assert lives.run(arguments) == 0, f"no second life after event {number}"
            assert outcome(run) == expected, (
                f"another end after a kill at event {number}, {names[number - 1]}"
            )
            assert trained_ordinals(run) == ordinals
            killed[names[number - 1].split(".")[0]] += 1
            shutil.rmtree(run)
    shutil.rmtree(folder)
    print(f"{count} of {count} killed runs end with the unbroken run's weights, metrics and completions")
    print("kills by place: " + ", ".join(f"{place} {n}" for place, n in killed.most_common()))


if __name__ == "__main__":
    main()
