"""`sana ui` as a person starts it, for tests that look at its page from another process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PATIENCE = 60  # seconds for it to end


@contextmanager
def served_page(folder: Path, *models: str | Path) -> Iterator[str]:
    """Serve the page, yield its address, and end it by Ctrl-C. folder: of its data."""
    words = ["ui", "--port", "0", "--no-open", "--device", "cpu", "--data", str(folder)]
    for model in models:
        words += ["--model", str(model)]
    process = subprocess.Popen(
        [sys.executable, "-c", "from sanakit.cli import main; main()", *words],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"GRADIO_TEMP_DIR": str(folder / "cache")},
    )
    assert process.stdout is not None
    address = process.stdout.readline().rpartition(" ")[2].strip()
    assert address.startswith("http://127.0.0.1:")
    yield address
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) == 130
    process.stdout.close()
