"""Clips from folders, shards and tables, and what is wrong with files of all kinds."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sanakit.data.medium import CLIPS
from sanakit.data.read.decode import decode_clip
from sanakit.data.read.index import Index, scan
from sanakit.data.read.open import open_source
from sanakit.data.read.source import Source
from sanakit.errors import DataError
from tests.clips.formats.test_read_video import save
from tests.clips.moving import flat
from tests.data.clip_files import counted, numbers_of

Tar = Callable[..., Path]
NAMES = ("a.mp4", "deep/b.webm", "c.webp", "d.gif")


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """Four clips of 9 to 12 frames with captions."""
    place = tmp_path / "clips"
    for number, name in enumerate(NAMES):
        counted(place / name, 9 + number, caption=f"clip {number}")
    return place


def by_name(source: Source) -> dict[str, tuple[list[str], list[int]]]:
    """Return captions and frames of every clip, by the last part of its key without a suffix."""
    found = {}
    for number in range(len(source)):
        with source.clip(number) as clip:
            pixels = decode_clip(clip, (clip.facts.frames, 32, 32), clip.facts.rate, 0)
        name = source.key(number).replace(":", "/").split("/")[-1].split(".")[0]
        found[name] = ([caption.text for caption in source.captions(number)], numbers_of(pixels))
    return found


def expected() -> dict[str, tuple[list[str], list[int]]]:
    return {Path(name).stem: ([f"clip {n}"], list(range(9 + n))) for n, name in enumerate(NAMES)}


def test_a_folder_and_its_shard_give_the_same_clips_and_captions(
    clips: Path, tmp_path: Path, tar: Tar
) -> None:
    files = sorted(path for path in clips.rglob("*") if path.is_file())
    shard = tar(
        tmp_path / "s.tar", [(path.relative_to(clips).as_posix(), path.read_bytes()) for path in files]
    )
    for place in (clips, shard):
        source = pickle.loads(pickle.dumps(open_source(place, CLIPS)))
        assert by_name(source) == expected()
        assert source.ignored == {}
    assert scan(open_source(shard, CLIPS)).seconds is not None


def test_a_table_of_captions_names_clips_and_columns(clips: Path) -> None:
    (clips / "metadata.csv").write_text("file_name,caption,scene\na.mp4,from a table,3\nlost.mp4,x,1\n")
    (clips / "captions.jsonl").write_text(
        '{"key": "c.webp", "captions": [{"text": "later"}]}\n{"key": "no.mp4", "captions": [{"text": "x"}]}\n'
    )
    source = open_source(clips, CLIPS)
    found = by_name(source)
    assert found["a"][0] == ["from a table", "clip 0"]
    assert found["c"][0] == ["clip 2", "later"]
    assert set(source.ignored) == {"lost.mp4", "metadata.csv: column scene", "captions.jsonl"}
    assert source.ignored["captions.jsonl"] == "has captions of clips that are not here: no.mp4"


def test_a_column_of_videos_is_read_and_another_table_refused(clips: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    if not hasattr(datasets, "Video"):
        pytest.skip("this version of datasets has no videos")
    rows = {
        "text": [f"clip {n}" for n in range(4)],
        "video": [{"bytes": (clips / name).read_bytes(), "path": None} for name in NAMES],
    }
    datasets.Dataset.from_dict(rows).to_parquet(str(tmp_path / "rows.parquet"))
    source = open_source(tmp_path / "rows.parquet", CLIPS)
    assert source.ignored == {}
    for number in range(4):
        assert source.captions(number)[0].text == f"clip {number}"
        with source.clip(number) as clip:
            assert clip.facts.frames == 9 + number
    datasets.Dataset.from_dict({"text": ["x"], "img": ["y"]}).to_parquet(str(tmp_path / "no.parquet"))
    with pytest.raises(DataError, match="no column of clips, only text, img: call the column 'video'"):
        open_source(tmp_path / "no.parquet", CLIPS)


def looked_at(place: Path) -> tuple[Source, Index]:
    source = open_source(place, CLIPS)
    return source, scan(source)


def test_broken_clips_are_named_with_their_defects(clips: Path) -> None:
    whole = (clips / "a.mp4").read_bytes()
    (clips / "cut.mp4").write_bytes(whole[:-200])
    (clips / "empty.webm").write_bytes(b"")
    (clips / "foreign.mov").write_bytes(b"no clip at all" * 9)
    Image.new("RGB", (32, 32)).save(clips / "still.webp")
    webp = (clips / "c.webp").read_bytes()
    (clips / "short.webp").write_bytes(webp[: len(webp) // 2])
    source, index = looked_at(clips)
    broken = {source.key(number): reason for number, reason in index.broken.items()}
    assert broken.keys() == {"cut.mp4", "empty.webm", "foreign.mov", "still.webp", "short.webp"}
    assert broken["cut.mp4"].startswith("is damaged or cut off (")
    assert broken["foreign.mov"].startswith("is not a clip that can be read: use MP4, ")
    assert broken["still.webp"] == "is a still image, not a clip: open it as an image."
    assert index.frames is not None
    assert (index.frames > 0).sum() == (index.heights > 0).sum() == 4


def test_rotation_odd_sides_changing_rates_and_what_is_lost_are_known_before_training(
    tmp_path: Path,
) -> None:
    frames = np.zeros((6, 48, 64, 3), np.uint8)
    save(
        tmp_path / "turned.mp4",
        frames,
        prepare=lambda _, stream: stream.set_display_rotation(90, False, False),
    )
    save(tmp_path / "uneven.mkv", flat(*((40 * n,) * 3 for n in range(6))), [0, 40, 80, 280, 320, 520])
    counted(tmp_path / "odd.webp", 3, side=33)
    save(tmp_path / "hdr.mp4", frames, prepare=lambda _, s: setattr(s.codec_context, "color_trc", 16))
    source, index = looked_at(tmp_path)
    number = {source.key(n).split(".")[0]: n for n in range(len(source))}
    assert (index.heights[number["turned"]], index.widths[number["turned"]]) == (64, 48)
    assert index.widths[number["odd"]] == 33
    assert index.notes == {number["hdr"]: "Its colours are HDR (PQ) and are not tone-mapped."}
    with source.clip(number["uneven"]) as clip:
        taken = decode_clip(clip, (8, 16, 16), Fraction(20), 0)
        grey = np.round(taken.float().mean(dim=(0, 2, 3)).numpy() / 40).astype(int).tolist()
        assert grey == clip.numbers(0, 8, 20)


def test_transparent_frames_are_scaled_and_cut_on_white(tmp_path: Path) -> None:
    frames = [Image.new("RGBA", (40, 20), (0, 0, 0, 0)) for _ in range(3)]
    for number, frame in enumerate(frames):
        frame.paste((255, 0, 0, 255), (10 + number, 0, 30, 20))
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], duration=100, lossless=True)
    source = open_source(tmp_path, CLIPS)
    with source.clip(0) as clip:
        pixels = decode_clip(clip, (3, 20, 20), Fraction(10), 0)
    assert pixels.shape == (3, 3, 20, 20)
    assert (pixels[:, :, :, 3:].reshape(3, -1).T.unique(dim=0).tolist()) == [[255, 0, 0]]
    assert (pixels[:, 2, :, 0] == 255).all()  # cut from the middle: the third frame begins white


def test_a_clip_that_changed_since_the_scan_is_a_sentence_and_an_index_is_kept_per_kind(
    clips: Path, tmp_path: Path
) -> None:
    source = open_source(clips, CLIPS)
    kept = tmp_path / "index.npz"
    first, again = scan(source, kept), scan(source, kept)
    assert first.seconds is not None
    assert again.seconds is not None
    assert first.seconds.tolist() == again.seconds.tolist()
    assert first.frames is not None
    assert again.frames is not None
    assert (first.frames == again.frames).all()
    images = open_source(clips)  # its WebP alone, as an image
    assert len(images) == 1
    assert scan(images, kept).frames is None


def test_shards_of_clips_name_what_is_cut(tmp_path: Path, tar: Tar) -> None:
    buffer = io.BytesIO(counted(tmp_path / "a.mp4", 9).read_bytes())
    shard = tar(
        tmp_path / "s.tar", [("a.mp4", buffer.getvalue()), ("b.mp4", buffer.getvalue()), ("c.jpg", b"x")]
    )
    content = shard.read_bytes()
    shard.write_bytes(content[: 512 + len(buffer.getvalue()) + 1200])
    source = open_source(shard, CLIPS)
    assert [source.key(n) for n in range(len(source))] == ["s.tar:a.mp4"]
    assert any("cut off" in reason or "ends early" in reason for reason in source.ignored.values())
