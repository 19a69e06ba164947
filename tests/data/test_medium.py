"""Which files are images, and which are clips."""

from __future__ import annotations

from pathlib import Path

import pytest

from sanakit.data.medium import CLIPS, IMAGES, Medium
from sanakit.data.read.open import open_source
from sanakit.errors import DataError
from tests.data.clip_files import counted


def test_every_written_clip_has_a_suffix_of_clips_and_tables_have_columns_of_both() -> None:
    from sanakit.clips.writing import SUFFIXES

    assert set(SUFFIXES) <= set(CLIPS.suffixes)
    assert (IMAGES.columns[0], CLIPS.columns[0]) == ("image", "video")
    assert (IMAGES.article, CLIPS.article) == ("an image", "a clip")


@pytest.mark.parametrize(("medium", "named"), [(IMAGES, "no images, but clips (a.mp4)"), (CLIPS, "no clips")])
def test_a_place_of_the_other_kind_says_so(medium: Medium, named: str, tmp_path: Path) -> None:
    if medium is IMAGES:
        counted(tmp_path / "a.mp4", 3)
    else:
        (tmp_path / "a.jpg").write_bytes(b"x")
    with pytest.raises(DataError, match=named.replace("(", r"\(").replace(")", r"\)")):
        open_source(tmp_path, medium)
