"""`python -m sanakit` is `sana`."""

from __future__ import annotations

import subprocess
import sys


def test_the_package_runs_as_the_command() -> None:
    told = subprocess.run([sys.executable, "-m", "sanakit", "--version"], capture_output=True, text=True)
    assert (told.returncode, told.stdout.split()[0]) == (0, "sana")
