"""Signals while OpenVINO is loaded: a handler in Python runs on a stack that OpenVINO has put up."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sanakit.graphs import openvino

PROGRAM = """
import faulthandler, signal, sys
from pathlib import Path
from sanakit.graphs.openvino import load

faulthandler.enable()  # as pytest does, and many a server: the first stack for signals
first, second = load(Path(sys.argv[1])), load(Path(sys.argv[1]))
del first
del second
signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
signal.raise_signal(signal.SIGUSR1)
"""


@pytest.mark.thorough
def test_a_signal_after_two_graphs_were_closed_in_turn_is_handled(graphs) -> None:
    """With a runtime of its own for each graph it ended the process."""
    path: Path = graphs("openvino") / "transformer" / openvino.FILE
    command = [sys.executable, "-c", PROGRAM, str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr
