"""What isolation costs: latency and programs a second, against a plain subprocess and crun; and a leak test.

    python benchmarks/sandbox.py                        # about two minutes; writes benchmarks/sandbox.json
    python benchmarks/sandbox.py --leak-runs 20000      # the long leak test: about an hour on two cores

The contenders take turns, so that a busy minute falls on all of them. Beside the rate that was seen stands the
CPU time of one program with everything that isolation adds; two cores divided by it is the rate of an idle
machine, and the figure to compare where this one was not idle (`load` says). The kernel takes namespaces down
in threads of its own; their time is in no process's account, and not in that figure.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from k15.config.sandbox import SandboxConfig
from k15.errors import SandboxError
from k15.sandbox.base import CallTest, Job, Limits, Program, RunVerdict, StdinTest
from k15.sandbox.isolated import IsolatedSandbox
from k15.sandbox.languages import get_language

RESULT = Path(__file__).with_suffix(".json")
PAPER = {  # Kimi k1.5, section 2.6.4: 16 cores
    "docker": {"start_seconds": 0.12, "starts_per_core_second": 27 / 16},
    "their sandbox": {"start_seconds": 0.04, "starts_per_core_second": 120 / 16},
}
GOALS = {
    "added_p50_ms": 8.0,
    "cold_programs_per_second": 80.0,
    "warm_programs_per_second": 200.0,
    "leaks": 0,
}
BACKENDS: dict[str, dict[str, Any]] = {
    "bubblewrap": {"backend": "bubblewrap"},
    "bubblewrap, no control groups": {"backend": "bubblewrap", "cgroups": "none"},
    "bubblewrap, warm": {"backend": "bubblewrap", "warm": True},
    "crun": {"backend": "crun"},
}
PROGRAMS = {"python": "print(1)", "bash": "echo 1"}
LEAK_TESTED = ("bubblewrap", "bubblewrap, warm", "crun")
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass
class Contender:
    """Something that runs a program once, and whose CPU time can be read."""

    name: str
    run: Callable[[str], None]
    cpu_seconds: Callable[[], float]


def main() -> int:
    options = parse()
    sandboxes = start_all(options.slots)
    result: dict[str, Any] = {
        "hardware": hardware(),
        "commit": commit(),
        "load_before": os.getloadavg(),
        "goals": GOALS,
        "paper": PAPER,
    }
    contenders = [plain(), *(isolated(name, sandbox) for name, sandbox in sandboxes.items())]
    result["latency_ms"] = {
        language: latencies(contenders, language, options.runs) for language in PROGRAMS
    }
    result["rate"] = {c.name: rate(c, options.slots, options.seconds) for c in contenders}
    result["leaks"] = {
        name: leak_test(sandbox, options.leak_runs)
        for name, sandbox in sandboxes.items()
        if options.leak_runs and name in LEAK_TESTED
    }
    result["load_after"] = os.getloadavg()
    result["goals_met"] = goals_met(result)
    for sandbox in sandboxes.values():
        sandbox.close()
    if not options.dry_run:
        RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=100, help="runs of each contender and language")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of each rate measurement")
    parser.add_argument("--slots", type=int, default=2, help="programs at a time")
    parser.add_argument("--leak-runs", type=int, default=300, help="mixed runs of the leak test")
    parser.add_argument("--dry-run", action="store_true", help="do not write the result")
    return parser.parse_args()


def start_all(slots: int) -> dict[str, IsolatedSandbox]:
    """The back ends that this host has."""
    found = {}
    for name, settings in BACKENDS.items():
        # a prepared box is made while another one works: warm boxes want a slot more than there are cores
        sandbox = IsolatedSandbox(
            SandboxConfig(num_slots=2 * slots if "warm" in name else slots, **settings)
        )
        try:
            sandbox.client.start()
            found[name] = sandbox
        except SandboxError as error:
            print(f"left out: {name}: {error}", file=sys.stderr)
    return found


def plain() -> Contender:
    """A subprocess with the same command and environment, and nothing around it."""

    def run(language: str) -> None:
        words = {"python": ("python3", "-s", "-B", "-c"), "bash": ("bash", "-c")}[language]
        done = subprocess.run(
            [*words, PROGRAMS[language]],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=get_language(language).environment(),
            check=True,
        )
        assert done.stdout == b"1\n"

    def cpu_seconds() -> float:
        times = os.times()
        return times.user + times.system + times.children_user + times.children_system

    return Contender("subprocess", run, cpu_seconds)


def isolated(name: str, sandbox: IsolatedSandbox) -> Contender:
    def run(language: str) -> None:
        result = sandbox.run(Job(Program(language, PROGRAMS[language]), (StdinTest("", "1"),)))
        assert result.verdict is RunVerdict.OK, result

    def cpu_seconds() -> float:
        """This process, the supervisor with all that it has waited for, and what it has not."""
        times = os.times()
        supervisor = sandbox.client.process_id
        tree = [supervisor, *descendants(supervisor)] if supervisor else []
        return times.user + times.system + sum(process_cpu(process) for process in tree)

    return Contender(name, run, cpu_seconds)


def descendants(process: int) -> list[int]:
    found: list[int] = []
    for child in Path(f"/proc/{process}/task/{process}/children").read_text().split():
        found += [int(child), *descendants(int(child))]
    return found


def process_cpu(process: int) -> float:
    """CPU time of a process and of those that it has waited for, in seconds."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / _TICK


def latencies(contenders: list[Contender], language: str, runs: int) -> dict[str, Any]:
    """Time of one run from call to verdict, alone on the sandbox, contenders in turn."""
    times: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    for number in range(runs + 5):
        for contender in contenders:
            time.sleep(0.01)  # a prepared box is replaced meanwhile, as between the answers of a policy
            start = time.perf_counter()
            contender.run(language)
            if number >= 5:
                times[contender.name].append(1000 * (time.perf_counter() - start))
    found = {
        name: {
            "p50": round(statistics.median(values), 2),
            "p99": round(statistics.quantiles(values, n=100)[98], 2),
            "least": round(min(values), 2),
        }
        for name, values in times.items()
    }
    base = found["subprocess"]
    for values in found.values():
        values["added_p50"] = round(values["p50"] - base["p50"], 2)
        values["added_least"] = round(values["least"] - base["least"], 2)
    return found


def rate(contender: Contender, slots: int, seconds: float) -> dict[str, float]:
    """Programs a second, `slots` at a time, and the CPU time of one."""
    threads = 2 * slots if "warm" in contender.name else slots
    contender.run("python")
    cpu_before, start = contender.cpu_seconds(), time.perf_counter()
    end = start + seconds

    def work(_: int) -> int:
        count = 0
        while time.perf_counter() < end:
            contender.run("python")
            count += 1
        return count

    with ThreadPoolExecutor(threads) as pool:
        count = sum(pool.map(work, range(threads)))
    spent = time.perf_counter() - start
    cpu = (contender.cpu_seconds() - cpu_before) / count
    return {
        "programs_per_second": round(count / spent, 1),
        "cpu_ms_per_program": round(1000 * cpu, 2),
        "per_second_on_two_idle_cores": round(2 / cpu, 1),
    }


def leak_test(sandbox: IsolatedSandbox, runs: int) -> dict[str, Any]:
    """Mixed runs, good and bad, and whatever of them is still there afterwards."""
    chance = random.Random(0)
    list(sandbox.run_many(mixed_jobs(chance, 4 * sandbox.num_slots)))
    time.sleep(1.0)  # until every slot has its prepared box again
    before = traces(sandbox)
    start = time.perf_counter()
    verdicts: Counter[str] = Counter(
        result.verdict.value for result in sandbox.run_many(mixed_jobs(chance, runs))
    )
    seconds = time.perf_counter() - start
    deadline = time.monotonic() + 10
    while (after := traces(sandbox)) != before and time.monotonic() < deadline:
        time.sleep(0.1)
    leaked = {name: (before[name], after[name]) for name in before if after[name] > before[name]}
    return {"runs": runs, "seconds": round(seconds, 1), "verdicts": dict(verdicts), "leaked": leaked}


def mixed_jobs(chance: random.Random, count: int):
    """Two thirds ordinary programs, one third that misbehave, each kind in its share."""
    limits = Limits(cpu_seconds=0.3, wall_seconds=1.5, memory_mb=64, processes=16, output_bytes=1 << 16)
    bad = [
        "import os\nwhile True: os.fork()",
        "kept = []\nwhile True: kept.append(bytes(1 << 20))",
        "while True: print('x' * 1000)",
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(60)",
        "import os\nopen('/tmp/x', 'wb').write(bytes(8 << 20)); open('/dev/shm/x', 'wb').write(bytes(8 << 20))",
        "import os, signal\nos.kill(0, signal.SIGKILL)",
        "raise ValueError",
        "import ctypes\nctypes.CDLL(None).ptrace(16, 1, 0, 0)",
        "while True: pass",
    ]
    for number in range(count):
        if chance.random() < 2 / 3:
            if chance.random() < 0.5:
                program = Program("python", f"print(int(input()) + {number})")
                yield Job(program, (StdinTest("1", str(number + 1)),), limits=limits)
            else:
                program = Program("python", "def f(x): return [x]")
                yield Job(program, (CallTest((number,), [number]),), entry_point="f", limits=limits)
        else:
            yield Job(Program("python", chance.choice(bad)), (StdinTest("", None),), limits=limits)


def traces(sandbox: IsolatedSandbox) -> dict[str, int]:
    """Numbers that must not grow: processes, file descriptors, mounts, shared memory, groups, files."""
    supervisor = sandbox.client.process_id
    assert supervisor is not None
    first_user, last_user = 64100, 64400
    temporary = [
        entry
        for folder in ("/tmp", "/dev/shm", "/var/tmp")
        for entry in os.scandir(folder)
        if first_user <= entry.stat(follow_symlinks=False).st_uid < last_user
    ]
    nursery = [
        p for p in descendants(supervisor) if b"warm.py" in Path(f"/proc/{p}/cmdline").read_bytes()
    ]
    return {
        "processes": len(descendants(supervisor)) - len(nursery),
        "file descriptors": len(os.listdir(f"/proc/{supervisor}/fd")),
        "own file descriptors": len(os.listdir("/proc/self/fd")),
        "mounts": len(Path(f"/proc/{supervisor}/mountinfo").read_text().splitlines()),
        "shared memory": len(Path("/proc/sysvipc/shm").read_text().splitlines()),
        "control groups": len(list(Path("/sys/fs/cgroup").glob(f"*/**/k15-{supervisor}-*"))),
        "files": len(temporary),
        "memory in MB": resident_mb(supervisor) // 8 * 8,
    }


def resident_mb(process: int) -> int:
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") >> 20


def goals_met(result: dict[str, Any]) -> dict[str, bool]:
    """Goal by goal; the rates are those of two idle cores."""
    rates, latency = result["rate"], result["latency_ms"]["python"]
    key = "per_second_on_two_idle_cores"
    cold, warm = rates.get("bubblewrap", {}), rates.get("bubblewrap, warm", {})
    return {
        "added_p50_ms": latency.get("bubblewrap", {}).get("added_p50", 1e9) <= GOALS["added_p50_ms"],
        "cold_programs_per_second": cold.get(key, 0) >= GOALS["cold_programs_per_second"],
        "warm_programs_per_second": warm.get(key, 0) >= GOALS["warm_programs_per_second"],
        "leaks": all(not test["leaked"] for test in result["leaks"].values()),
    }


def hardware() -> dict[str, Any]:
    model = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": sys.version.split()[0],
    }


def commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        cwd=RESULT.parent,
        check=False,
    )
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
