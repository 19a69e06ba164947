from __future__ import annotations

import io
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sanakit.errors import DataError, MissingExtraError
from sanakit.pocket.data import sources


def test_package_names_are_spelled_as_npm_spells_its_tarballs():
    assert sources.FLUENT_FLAT.file_name == "iconify-json-fluent-emoji-flat-1.2.6.tgz"
    assert sources.FLUENT_FLAT.spec == "@iconify-json/fluent-emoji-flat@1.2.6"


def test_only_mit_and_apache_art_is_used():
    assert {package.licence for package in sources.ART_PACKAGES.values()} == {"MIT", "Apache-2.0"}


def test_a_cached_package_is_used_without_npm(packages: Path):
    assert sources.obtain(sources.NOTO, packages) == packages / "iconify-json-noto-1.2.9.tgz"


def test_a_changed_package_is_refused(packages: Path):
    path = packages / sources.NOTO.file_name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"noto@1\.2\.9 as published.*Delete it"):
        sources.obtain(sources.NOTO, packages)


def test_a_missing_npm_is_an_error_that_names_the_file_to_fetch(packages: Path, tmp_path: Path):
    with pytest.raises(DataError, match=r"install Node\.js, or put iconify-json-noto-1\.2\.9\.tgz"):
        sources.obtain(sources.NOTO, tmp_path / "empty")


def test_a_failed_download_leaves_nothing_that_looks_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def half_a_download(command: list[str], **_: object) -> subprocess.CompletedProcess:
        (Path(command[command.index("--pack-destination") + 1]) / sources.NOTO.file_name).write_bytes(b"half")
        return subprocess.CompletedProcess(command, 1, "", "network down")

    monkeypatch.setattr(sources.shutil, "which", lambda name: "/bin/npm")
    monkeypatch.setattr(sources.subprocess, "run", half_a_download)
    with pytest.raises(DataError, match="network down"):
        sources.obtain(sources.NOTO, tmp_path)
    assert not (tmp_path / sources.NOTO.file_name).exists()


def test_a_download_asks_npm_for_the_exact_version(
    tmp_path: Path, packages: Path, monkeypatch: pytest.MonkeyPatch
):
    tarball = (packages / sources.NOTO.file_name).read_bytes()
    asked = []

    def npm_pack(command: list[str], **_: object) -> subprocess.CompletedProcess:
        asked.append(command[2])
        (Path(command[command.index("--pack-destination") + 1]) / sources.NOTO.file_name).write_bytes(tarball)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(sources.shutil, "which", lambda name: "/bin/npm")
    monkeypatch.setattr(sources.subprocess, "run", npm_pack)
    cache = tmp_path / "fresh"
    for _ in range(2):  # the second time it is there
        assert sources.obtain(sources.NOTO, cache).read_bytes() == tarball
    assert asked == ["@iconify-json/noto@1.2.9"]
    assert [path.name for path in cache.iterdir()] == [sources.NOTO.file_name]


def test_emojis_come_in_unicode_order_with_their_groups(packages: Path):
    emojis = sources.read_emojis(packages / sources.EMOJIBASE.file_name)
    labels = [emoji.concept for emoji in emojis]
    assert labels == ["regional indicator A", "red apple", "fox", "middle finger", "flag: France"]
    assert (emojis[1].code, emojis[1].group, emojis[1].subgroup) == ("1f34e", "food & drink", "fruit")
    assert emojis[0].group == ""


def test_codes_agree_whatever_way_a_package_writes_them(packages: Path):
    assert sources.read_codes(packages / sources.NOTO.file_name)["1f98a"] == "fox"


def test_vector_art_is_drawn_on_white(packages: Path):
    pytest.importorskip("resvg_py")
    icons = sources.read_icons(packages / sources.NOTO.file_name)
    image = sources.draw(icons["fox"])
    assert (image.shape, image.dtype) == ((256, 256, 4), np.uint8)
    assert np.all(image[:, :127] == (255, 128, 0, 255))
    assert np.all(image[:, 129:] == (255, 255, 255, 0))


def test_oblong_icons_are_centred_and_not_stretched(
    tmp_path: Path, write_tarball: Callable[[Path, dict[str, bytes]], None]
):
    pytest.importorskip("resvg_py")
    wide = b'{"icons": {"bar": {"body": "<path d=\\"M0 0h32v16H0z\\"/>", "width": 32}}, "height": 16}'
    write_tarball(tmp_path / "wide.tgz", {"icons.json": wide})
    image = sources.draw(sources.read_icons(tmp_path / "wide.tgz")["bar"])
    assert np.all(image[66:190] == (0, 0, 0, 255))
    assert np.all(image[:62] == (255, 255, 255, 0))
    assert np.all(image[194:] == (255, 255, 255, 0))


def test_half_transparent_pictures_are_blended_with_white():
    buffer = io.BytesIO()
    Image.new("RGBA", (128, 128), (255, 0, 0, 128)).save(buffer, "WEBP", lossless=True)
    image = sources.draw(buffer.getvalue())
    assert image.shape == (256, 256, 4)
    assert np.abs(image.astype(int) - (255, 127, 127, 128)).max() <= 1


def test_unreadable_art_is_a_data_error():
    with pytest.raises(DataError, match="cannot be drawn"):
        sources.draw(b"no picture")


def test_without_the_renderer_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sources.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"sanakit\[train\]"):
        sources.require_renderer()


def test_the_checksum_is_of_the_whole_tarball(packages: Path):
    wrong = replace(sources.NOTO, sha512=sources.FLUENT_FLAT.sha512)
    with pytest.raises(DataError, match="sha512"):
        sources.obtain(wrong, packages)
