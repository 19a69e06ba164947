"""`sana draw`: lines from a pipe and from a terminal, mistakes, Ctrl-C and Ctrl-D."""

from __future__ import annotations

import io
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sanakit.cli.drawing.draw import history_file
from sanakit.images.image import read_metadata


def piped(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))


def test_a_pipe_is_drawn_line_by_line(sana, tiny: Path, monkeypatch) -> None:
    piped(monkeypatch, "/steps 1\na fox\n\nan owl")
    outcome = sana("draw", "--model", tiny, "--seed", 4, "--size", 64)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out == "steps: 1\n001-a-fox.png  seed 4\n002-an-owl.png  seed 4\n"
    assert read_metadata("002-an-owl.png")["width"] == 64


def test_a_mistake_in_a_pipe_is_told_at_its_end_and_the_rest_is_drawn(sana, tiny: Path, monkeypatch) -> None:
    piped(monkeypatch, "/nonsense\na fox\n/quit\nan owl\n")
    outcome = sana("draw", "--model", tiny, "--steps", 1)
    assert outcome.code == 2
    assert outcome.err.startswith("Error: /nonsense is not a command")
    assert outcome.err.count("\n") == 1
    assert os.listdir() == ["001-a-fox.png"]


@pytest.mark.parametrize(
    ("words", "told"),
    [(("-o", "missing"), "does not exist"), (("--steps", 3, "--solver", "scm"), "supports only")],
)
def test_mistakes_of_the_command_line_end_it(sana, tiny: Path, monkeypatch, words, told: str) -> None:
    piped(monkeypatch, "a fox")
    outcome = sana("draw", "--model", tiny, *words)
    assert outcome.code == 2
    assert told in outcome.err


def test_the_history_is_where_the_system_keeps_such_files(tmp_path: Path) -> None:
    assert history_file({"XDG_STATE_HOME": str(tmp_path)}) == tmp_path / "sanakit" / "draw_history"
    assert history_file({}).parts[-4:] == (".local", "state", "sanakit", "draw_history")


class Person:
    """Somebody at a terminal."""

    def __init__(self, model: Path, here: Path) -> None:
        self.own, theirs = pty.openpty()
        command = [sys.executable, "-m", "sanakit", "draw", "--model", str(model), "--no-preview"]
        environment = os.environ | {"XDG_STATE_HOME": str(here / "state"), "TERM": "xterm", "COLUMNS": "500"}
        self.process = subprocess.Popen(
            command,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=here,
            env=environment,
            start_new_session=True,
            # Shells start what runs in the background with Ctrl-C ignored, which a child inherits.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        os.close(theirs)
        self.seen = ""

    def types(self, text: str) -> None:
        os.write(self.own, text.encode())

    def waits_for(self, text: str, seconds: float = 60) -> None:
        """Read until a text appears behind what was waited for before."""
        end = time.monotonic() + seconds  # far more than it takes
        while text not in self.seen:
            assert time.monotonic() < end, self.seen
            if select.select([self.own], [], [], 0.2)[0]:
                self.seen += os.read(self.own, 65536).decode("utf-8", "replace")
        self.seen = self.seen.partition(text)[2]


@pytest.mark.thorough
def test_ctrl_c_stops_a_drawing_and_ctrl_d_the_program(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "at").mkdir()
    person = Person(tiny, tmp_path / "at")
    try:
        person.waits_for("sana> ")
        person.types("/steps 1000\n")
        person.waits_for("steps: 1000")
        person.waits_for("sana> ")
        person.types("a fox\n")
        person.waits_for("drawing")
        os.kill(person.process.pid, signal.SIGINT)
        person.waits_for("Stopped. /quit ends.")
        person.waits_for("sana> ")
        person.types("/steps 1\nan owl\n")
        person.waits_for("001-an-owl.png  seed ")
        person.waits_for("sana> ")
        person.types("\x04")
        assert person.process.wait(30) == 0
    finally:
        person.process.kill()
        person.process.wait()
        os.close(person.own)
    assert [path.name for path in (tmp_path / "at").glob("*.png")] == ["001-an-owl.png"]
    history = tmp_path / "at" / "state" / "sanakit" / "draw_history"
    assert re.findall("an owl", history.read_text()) == ["an owl"]
    assert history.stat().st_mode & 0o077 == 0
