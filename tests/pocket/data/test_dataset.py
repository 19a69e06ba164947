from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sanakit.alone import alone
from sanakit.errors import DataError, OutputError
from sanakit.pocket.data import dataset
from sanakit.pocket.data.dataset import build_pocket, open_pocket

pytest.importorskip("resvg_py")


@pytest.fixture
def built(packages: Path, tmp_path: Path) -> Path:
    build_pocket(tmp_path / "pocket", cache=packages, workers=1)
    return tmp_path / "pocket"


def test_pictures_and_captions_belong_together(built: Path):
    data = open_pocket(built)
    assert [(row.concept, row.style) for row in data.rows] == [
        ("red apple", "fluent-3d"),
        ("red apple", "fluent-color"),
        ("fox", "fluent-color"),
        ("red apple", "fluent-flat"),
        ("fox", "fluent-flat"),
        ("red apple", "noto"),
        ("fox", "noto"),
    ]
    assert data.images.shape == (7, 256, 256, 3)
    assert data.alpha.shape == (7, 256, 256)
    for row, image in zip(data.rows, data.images, strict=True):
        assert tuple(image[128, 64]) == ((255, 0, 0) if row.concept == "red apple" else (255, 128, 0))
    for row, alpha in zip(data.rows, data.alpha, strict=True):
        assert alpha[128, 64] == 255
        if row.style == "noto":  # a rectangle over the left half
            assert not alpha[:, 130:].any()


def test_rows_say_where_a_picture_comes_from(built: Path):
    row = open_pocket(built).rows[-1]
    assert (row.name, row.hex, row.group, row.split) == ("fox", "1f98a", "food & drink", "train")
    assert (row.licence, row.source) == ("Apache-2.0", "@iconify-json/noto@1.2.9 (Google Noto Emoji)")
    assert row.captions[0] == "a shaded cartoon illustration of a fox"


def test_the_manifest_counts_the_images_of_each_package(built: Path):
    manifest = open_pocket(built).sources
    counts = {entry["package"]: entry["images"] for entry in manifest["packages"]}
    assert counts == {
        "emojibase-data": 0,
        "@lobehub/fluent-emoji-3d": 1,
        "@iconify-json/fluent-emoji": 2,
        "@iconify-json/fluent-emoji-flat": 2,
        "@iconify-json/noto": 2,
    }
    assert manifest["images"] == 7


def test_figures_that_microsoft_did_not_release_are_left_out(packages: Path, tmp_path: Path, monkeypatch):
    # the couple passes every other rule, so only the flat package's list can keep it out
    monkeypatch.setattr(dataset.words, "is_kept", lambda concept, group, subgroup: True)
    data = build_pocket(tmp_path / "all", cache=packages, workers=1)
    assert {row.hex for row in data.rows if row.style == "fluent-3d"} == {"1f34e", "1f595"}


def test_a_finished_data_set_is_opened_and_not_built_again(built: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(dataset.sources, "obtain", lambda package, cache: pytest.fail("built again"))
    assert len(build_pocket(built).rows) == 7


def test_an_interrupted_build_leaves_no_data_set_and_the_next_one_succeeds(packages: Path, tmp_path: Path):
    def stop(what: str, done: int, total: int) -> None:
        if (what, done) == ("drawing", 3):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_pocket(tmp_path / "pocket", cache=packages, workers=1, progress=stop)
    assert not (tmp_path / "pocket").exists()
    assert len(build_pocket(tmp_path / "pocket", cache=packages, workers=1).rows) == 7
    assert not list(tmp_path.glob(".*"))


def test_a_second_build_at_once_is_refused_and_what_a_killed_one_left_is_removed(
    packages: Path, tmp_path: Path
):
    pytest.importorskip("fcntl")
    folder = tmp_path / "new" / "pocket"
    folder.parent.mkdir()
    (folder.parent / f".pocket.{'0' * 16}.partial").mkdir()  # of a killed process
    lock = folder.parent / ".pocket.lock"
    with alone(lock, folder), pytest.raises(OutputError, match="Another process is writing"):
        build_pocket(folder, cache=packages, workers=1)
    assert len(build_pocket(folder, cache=packages, workers=1).rows) == 7
    assert [path.name for path in folder.parent.iterdir()] == ["pocket"]


def test_two_processes_draw_what_one_draws(built: Path, packages: Path, tmp_path: Path):
    both = build_pocket(tmp_path / "both", cache=packages, workers=2)
    assert np.array_equal(both.images, open_pocket(built).images)


def test_a_folder_with_other_files_is_not_touched(packages: Path, tmp_path: Path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("keep me")
    with pytest.raises(DataError, match="new folder"):
        build_pocket(tmp_path / "mine", cache=packages)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["letter.txt"]


def test_an_empty_folder_may_be_built_into(packages: Path, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    assert len(build_pocket(tmp_path / "empty", cache=packages, workers=1).rows) == 7


def test_a_missing_data_set_is_an_error_with_a_remedy(tmp_path: Path):
    with pytest.raises(DataError, match=r"sources\.json.*sana data pocket"):
        open_pocket(tmp_path)


@pytest.mark.parametrize("name", [dataset.IMAGES, dataset.ALPHA, dataset.ROWS, dataset.SOURCES])
def test_a_truncated_file_is_an_error_with_a_remedy(built: Path, name: str):
    content = (built / name).read_bytes()
    (built / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="delete it and build it again"):
        open_pocket(built)


def test_a_lost_row_is_noticed(built: Path):
    lines = (built / dataset.ROWS).read_text().splitlines()
    (built / dataset.ROWS).write_text("\n".join(lines[:-1]))
    with pytest.raises(DataError, match="for 6 rows"):
        open_pocket(built)


def test_another_format_is_refused(built: Path):
    manifest = json.loads((built / dataset.SOURCES).read_text()) | {"format": 0}
    (built / dataset.SOURCES).write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="has format 0"):
        open_pocket(built)
