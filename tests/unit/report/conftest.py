"""One simulated run and its page, made once for the tests that only look."""

from __future__ import annotations

from pathlib import Path

import pytest
from report_page import Node, read_page
from report_runs import Simulation, build_run

from k15.report.html import write_report


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    simulation = Simulation(num_iterations=36, groups=8, max_staleness=2, skill_gain=0.015)
    return build_run(tmp_path_factory.mktemp("runs") / "rl-trial", simulation)


@pytest.fixture(scope="session")
def page(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Node:
    return read_page(write_report(run_folder, tmp_path_factory.mktemp("pages") / "report.html"))
