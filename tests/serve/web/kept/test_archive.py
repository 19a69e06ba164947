"""Many images in one ZIP file: as they are stored, one at a time, within limits."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from PIL import Image

from sanakit.errors import SettingsError
from sanakit.serve.web.history import SHARED, History
from sanakit.serve.web.kept import archive
from sanakit.serve.web.kept.archive import write_archive
from tests.serve.web.drawing import METADATA


def kept(history: History, count: int) -> list[str]:
    return [history.add(SHARED, Image.new("RGB", (8, 8), (n, 0, 0)), METADATA) for n in range(count)]


def test_the_file_holds_the_images_byte_for_byte_and_only_one_is_in_memory(
    history: History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names, path = kept(history, 3), tmp_path / "a.zip"
    history.delete(SHARED, [names.pop()])
    assert write_archive(history, SHARED, [*names, f"{names[0][:18]}{'0' * 17}-00000000.png"], path) == 2
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None
        assert file.namelist() == names
        assert [file.read(name) for name in names] == [history.store.get(name) for name in names]
        assert {one.compress_type for one in file.infolist()} == {zipfile.ZIP_STORED}


def test_too_many_images_or_none_are_refused_and_leave_no_file(
    history: History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names, path = kept(history, 3), tmp_path / "a.zip"
    with pytest.raises(SettingsError, match="no images to download"):
        write_archive(history, SHARED, [], path)
    monkeypatch.setattr(archive, "MOST_IMAGES", 2)
    with pytest.raises(SettingsError, match="3 images are too many"):
        write_archive(history, SHARED, names, path)
    monkeypatch.setattr(archive, "MOST_BYTES", 100)
    with pytest.raises(SettingsError, match="choose fewer"):
        write_archive(history, SHARED, names[:2], path)
    with pytest.raises(SettingsError, match="no longer exists"):
        write_archive(history, "tab 2", names[:1], path)
    assert [file for file in tmp_path.iterdir() if file.is_file()] == []
