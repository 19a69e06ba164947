"""`sana ui` stops with one line while pages are open, and leaves none of their files."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

pytest.importorskip("gradio")

pytestmark = pytest.mark.thorough


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_in_a_line_and_at_once_while_a_page_is_open(tmp_path: Path, number: int) -> None:
    words = ["ui", "--port", "0", "--no-open", "--device", "cpu", "--data", str(tmp_path / "data")]
    process = subprocess.Popen(
        [sys.executable, "-c", "from sanakit.cli import main; main()", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().rpartition(" ")[2].strip()
        alive, ended = threading.Event(), threading.Event()

        def hold_open() -> None:
            with httpx.stream("GET", f"{address}/gradio_api/heartbeat/tab-1", timeout=60) as answer:
                for _ in answer.iter_lines():
                    alive.set()
            ended.set()

        threading.Thread(target=hold_open, daemon=True).start()
        assert alive.wait(60)
        uploaded = httpx.post(f"{address}/gradio_api/upload", files={"files": ("a.png", b"x")}).json()[0]
        [folder] = (tmp_path / "data" / "page").iterdir()
        assert Path(uploaded).is_relative_to(folder)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        began = time.monotonic()
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert (process.returncode, err) == (130, "Starting; this takes some seconds.\nStopped.\n")
    assert ended.wait(10)
    assert time.monotonic() - began < 30
    assert list((tmp_path / "data" / "page").iterdir()) == []
