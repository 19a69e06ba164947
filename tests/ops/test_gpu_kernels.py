"""Kernels for GPUs, in two processes: what Triton does with them is settled as it is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sanakit.ops import gpu

pytestmark = pytest.mark.thorough

CASES = Path(__file__).with_name("gpu_kernel_cases.py")


@pytest.mark.skipif(not gpu.TRITON, reason="needs Triton")
@pytest.mark.parametrize(("which", "interpret"), [("interpreter", "1"), ("registers or launched", "0")])
def test_in_a_process_of_its_own(which: str, interpret: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", which, str(CASES)]
    done = subprocess.run(
        command,
        env={**os.environ, "TRITON_INTERPRET": interpret},
        cwd=CASES.parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
