"""What was drawn on the page, in a test's folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from sanakit.serve.jobs.storage import ImageStore
from sanakit.serve.web.history import History


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(ImageStore(tmp_path / "pictures"))
