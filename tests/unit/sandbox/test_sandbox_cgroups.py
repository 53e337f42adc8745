"""Control groups of both versions, on folders that look like the kernel's."""

import os

import pytest

from k15.sandbox import places as found_places
from k15.sandbox.base import Limits
from k15.sandbox.cgroups import GroupV1, GroupV2
from k15.sandbox.launch import EXTRA_PROCESSES
from k15.sandbox.places import find_places, make_groups, sweep

LIMITS = Limits(memory_mb=100, processes=7)
MEMORY = (100 << 20) + (4 << 20)
V1_FILES = {
    "memory": {
        "memory.force_empty": "",
        "memory.limit_in_bytes": "9223372036854771712",
        "memory.memsw.limit_in_bytes": "9223372036854771712",
        "memory.max_usage_in_bytes": "5000",
        "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
    },
    "pids": {"pids.max": "max"},
    "cpuacct": {"cpuacct.usage": "2500000000"},
}
V2_FILES = {
    "memory.max": "max",
    "memory.swap.max": "max",
    "memory.events": "low 0\noom 1\noom_kill 2\n",
    "pids.max": "max",
    "cpu.stat": "usage_usec 1500000\nuser_usec 1\n",
    "cgroup.kill": "",
}


def write(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in {"cgroup.procs": "", **files}.items():
        (folder / name).write_text(text)


def text(path):
    return path.read_text().rstrip("\0")


@pytest.fixture
def v1(tmp_path):
    for controller, files in V1_FILES.items():
        write(tmp_path / controller / "g", files)
    return tmp_path, GroupV1({controller: tmp_path / controller / "g" for controller in V1_FILES})


@pytest.fixture
def v2(tmp_path):
    write(tmp_path / "g", V2_FILES)
    return tmp_path / "g", GroupV2(tmp_path / "g")


def test_version_1_sets_limits_once_and_counts_from_zero(v1):
    folder, group = v1
    for path in folder.rglob("*.*"):  # a file of the kernel is replaced whole, these are written into
        if path.name in (
            "pids.max",
            "memory.limit_in_bytes",
            "memory.memsw.limit_in_bytes",
            "cpuacct.usage",
        ):
            path.write_text("")
    group.configure(LIMITS)
    assert text(folder / "memory/g/memory.limit_in_bytes") == str(MEMORY)
    assert text(folder / "memory/g/memory.memsw.limit_in_bytes").endswith(str(MEMORY))
    assert text(folder / "pids/g/pids.max") == str(7 + EXTRA_PROCESSES)
    assert text(folder / "cpuacct/g/cpuacct.usage") == "0"
    assert group.num_oom_kills() == 0
    (folder / "memory/g/memory.oom_control").write_text("oom_kill 5\n")
    assert group.num_oom_kills() == 2
    (folder / "cpuacct/g/cpuacct.usage").write_text("1500000000")
    assert group.cpu_seconds() == 1.5
    (folder / "memory/g/memory.max_usage_in_bytes").write_text("77")
    assert group.memory_bytes() == 77


def test_version_1_reads_its_processes_anew_each_time(v1):
    folder, group = v1
    assert group.process_ids() == []
    (folder / "pids/g/cgroup.procs").write_text("12\n13\n")
    assert group.process_ids() == [12, 13]


def test_a_process_enters_version_1_by_writing_zero_everywhere(v1):
    folder, group = v1
    assert len(group.entrances) == 3
    for entrance in group.entrances:
        os.write(entrance, b"0")
    assert {text(path) for path in folder.rglob("cgroup.procs")} == {"0"}


def test_a_process_enters_version_2_by_writing_zero(v2):
    folder, group = v2
    [entrance] = group.entrances
    os.write(entrance, b"0")
    assert text(folder / "cgroup.procs") == "0"


def test_version_2_sets_limits_and_counts_from_where_it_was(v2):
    folder, group = v2
    group.configure(LIMITS)
    assert text(folder / "memory.max") == str(MEMORY)
    assert text(folder / "memory.swap.max") == "0"
    assert text(folder / "pids.max") == str(7 + EXTRA_PROCESSES)
    assert (group.cpu_seconds(), group.num_oom_kills(), group.memory_bytes()) == (0.0, 0, 0)
    (folder / "cpu.stat").write_text("usage_usec 1750000\n")
    (folder / "memory.events").write_text("oom_kill 3\noom_group_kill 1\n")
    assert (group.cpu_seconds(), group.num_oom_kills()) == (0.25, 1)
    group.configure(LIMITS)
    assert (group.cpu_seconds(), group.num_oom_kills()) == (0.0, 0)
    group.kill()
    assert text(folder / "cgroup.kill") == "1"


def test_an_empty_group_is_empty_at_once(v2):
    assert v2[1].empty()


def fake_host(monkeypatch, mounts, own):
    monkeypatch.setattr(found_places, "_mounts", lambda: mounts)
    monkeypatch.setattr(found_places, "_own_groups", lambda: own)


def test_version_2_is_taken_where_it_is_delegated(monkeypatch, tmp_path):
    write(
        tmp_path / "user",
        {"cgroup.controllers": "cpu memory pids", "cgroup.subtree_control": "memory pids"},
    )
    fake_host(monkeypatch, {"": tmp_path}, {"": "/user"})
    places = find_places()
    assert (places.version, places.folders["memory"]) == ("v2", tmp_path / "user")
    assert find_places("v1").version == "none"
    assert find_places("none").version == "none"


def test_version_2_without_controllers_says_which_are_missing(monkeypatch, tmp_path):
    write(tmp_path, {"cgroup.controllers": "hugetlb", "cgroup.subtree_control": ""})
    fake_host(monkeypatch, {"": tmp_path}, {"": "/"})
    places = find_places()
    assert places.version == "none"
    assert "does not have memory, pids" in places.reason
    assert "no memory controller is mounted" in places.reason


def test_version_2_whose_parent_holds_other_processes_says_what_to_do(monkeypatch, tmp_path):
    write(
        tmp_path,
        {
            "cgroup.controllers": "cpu memory pids",
            "cgroup.subtree_control": "",
            "cgroup.procs": "1\n99999\n",
        },
    )
    (tmp_path / "cgroup.subtree_control").unlink()
    (tmp_path / "cgroup.subtree_control").mkdir()  # cannot be written
    fake_host(monkeypatch, {"": tmp_path}, {"": "/"})
    assert "systemd-run --user --scope -p Delegate=yes" in find_places("v2").reason


def test_a_group_of_our_own_is_left_for_a_leaf(monkeypatch, tmp_path):
    write(
        tmp_path,
        {
            "cgroup.controllers": "cpu memory pids",
            "cgroup.subtree_control": "",
            "cgroup.procs": f"{os.getpid()}\n",
        },
    )
    fake_host(monkeypatch, {"": tmp_path}, {"": "/"})
    (tmp_path / "k15-main").mkdir()
    (tmp_path / "k15-main" / "cgroup.procs").write_text("")
    assert find_places("v2").version == "v2"
    assert text(tmp_path / "k15-main" / "cgroup.procs") == str(os.getpid())
    assert text(tmp_path / "cgroup.subtree_control") == "+memory +pids"


def test_version_1_in_a_container_uses_the_mount_where_the_path_is_the_hosts(monkeypatch, tmp_path):
    for controller in V1_FILES:
        write(tmp_path / controller, {})
    mounts = {controller: tmp_path / controller for controller in V1_FILES}
    fake_host(monkeypatch, mounts, dict.fromkeys(V1_FILES, "/docker/abc"))
    places = find_places()
    assert (places.version, places.folders["pids"]) == ("v1", tmp_path / "pids")


def test_groups_of_supervisors_that_are_gone_are_swept(monkeypatch, tmp_path):
    for controller in V1_FILES:
        write(tmp_path / controller, {})
        for owner in (2**22 + 5, os.getppid()):
            (tmp_path / controller / f"k15-{owner}-0").mkdir()
    fake_host(monkeypatch, {controller: tmp_path / controller for controller in V1_FILES}, {})
    sweep(find_places())
    assert {path.name for path in tmp_path.glob("*/k15-*")} == {f"k15-{os.getppid()}-0"}


def test_no_places_no_groups():
    assert make_groups(find_places("none"), 3) == []
