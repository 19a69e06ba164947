"""The tiny video model, one folder of it per test session, and the pipeline that draws with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from sanakit.pipelines.video.text_to_video import TextToVideo
from tests.pipelines.video.tiny import save_tiny


@pytest.fixture(scope="session")
def video_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny-video") / "model")


@pytest.fixture(scope="session")
def video_pipe(video_folder: Path) -> TextToVideo:
    return TextToVideo.from_pretrained(video_folder, device="cpu")
