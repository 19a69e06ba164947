"""Making a cache: what it will take is said before, what was made before a kill is kept."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sanakit.data.cache import build as cache_build
from sanakit.data.cache.build import build_cache, maker_of, plan_cache
from sanakit.data.cache.store import Cache, is_cache
from sanakit.data.read.captions import Caption
from sanakit.data.read.open import open_source
from sanakit.data.read.sidecar import SidecarWriter
from sanakit.data.read.source import data_fingerprint
from sanakit.errors import DataError, NumericsError, OutputError
from sanakit.weights import load_autoencoder, save_autoencoder

SHARD = 3000  # bytes: two images without text


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_build, "SHARD", SHARD)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}


def test_a_plan_tells_the_size_that_the_cache_will_have(
    folder: Path, tmp_path: Path, tiny_model: Path
) -> None:
    plan = plan_cache(folder, tmp_path / "cache", tiny_model, 256, text=True)
    assert not is_cache(tmp_path / "cache")
    assert len(plan.buckets) == 12
    built = build_cache(plan, batch=3)
    data = sum(len(Cache(built.folder)[n].text) for n in range(12))
    assert (plan.captions, data) == (23, 22)  # the truncated image's empty caption is not made
    text = sum(len(one) * 24 * 2 for n in range(12) for one in Cache(built.folder)[n].text)
    assert text < plan.text_bytes < 1.1 * text
    headers = 1200 * built.shards  # names, offsets, keys and captions
    assert plan.latent_bytes + text <= built.size <= plan.latent_bytes + text + headers


def test_the_resolution_is_the_models_unless_another_is_named(
    folder: Path, tmp_path: Path, tiny_model: Path
) -> None:
    assert plan_cache(folder, tmp_path / "cache", tiny_model).about.resolution == 128


def test_broken_pictures_are_named_and_left_out(folder: Path, tmp_path: Path, tiny_model: Path) -> None:
    built = build_cache(plan_cache(folder, tmp_path / "cache", tiny_model, 256))
    assert (built.pictures, built.kept) == (11, 0)
    assert list(built.broken) == ["empty.jpg", "foreign.png", "truncated.jpg"]
    assert built.broken["truncated.jpg"].startswith("is damaged (")
    assert list(Cache(built.folder).failed) == ["truncated.jpg"]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no such signal")
def test_a_run_that_was_killed_goes_on_and_makes_the_same_cache(
    folder: Path, tmp_path: Path, tiny_model: Path
) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    # when the fourth file, the third shard, is written but has not its name yet
    script = f"""
import os, signal
from sanakit.data.cache import build as cache_build
cache_build.SHARD = {SHARD}
plan = cache_build.plan_cache({str(folder)!r}, {str(killed)!r}, {str(tiny_model)!r}, 256)
calls, fsync = [], os.fsync
def die(handle):
    calls.append(handle)
    if len(calls) == 7:  # each file before, and the folder after it had its name
        os.kill(os.getpid(), signal.SIGKILL)
    fsync(handle)
os.fsync = die
cache_build.build_cache(plan)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    kept = contents(killed)
    times = {name: (killed / name).stat().st_mtime_ns for name in kept}
    assert sorted(kept) == ["00000.safetensors", "00001.safetensors"]
    with pytest.raises(DataError, match="is not finished"):
        Cache(killed)

    built = build_cache(plan_cache(folder, killed, tiny_model, 256))
    assert 0 < built.kept < 12
    assert times == {name: (killed / name).stat().st_mtime_ns for name in times}
    build_cache(plan_cache(folder, whole, tiny_model, 256))
    assert contents(killed) == contents(whole)
    assert not list(killed.glob(".*"))
    assert build_cache(plan_cache(folder, killed, tiny_model, 256)).kept == 12


def test_a_second_build_of_a_cache_at_once_is_refused_and_the_first_is_not_disturbed(
    folder: Path, tmp_path: Path, tiny_model: Path
) -> None:
    pytest.importorskip("fcntl")
    refused: list[str] = []

    def again(what: str, done: int, total: int) -> None:
        with pytest.raises(OutputError, match="Another process is writing") as caught:
            build_cache(plan_cache(folder, tmp_path / "both", tiny_model, 256))
        refused.append(str(caught.value))

    build_cache(plan_cache(folder, tmp_path / "both", tiny_model, 256), progress=again)
    build_cache(plan_cache(folder, tmp_path / "one", tiny_model, 256))
    assert refused
    assert contents(tmp_path / "both") == contents(tmp_path / "one")
    assert not list((tmp_path / "both").glob(".*"))


@pytest.mark.parametrize("change", ["text", "table", "score", "removed", "added"])
def test_captions_that_changed_since_are_refused_not_left_as_they_were(
    folder: Path, tmp_path: Path, tiny_model: Path, change: str
) -> None:
    with SidecarWriter(folder / "captions.jsonl") as sidecar:
        sidecar.add("00.jpg", [Caption("picture 0", 30.0)])
    (folder / "metadata.csv").write_text("file_name,text\n03.jpg,one\n")
    place = tmp_path / "cache"
    build_cache(plan_cache(folder, place, tiny_model, 256))
    assert build_cache(plan_cache(folder, place, tiny_model, 256)).kept == 12
    if change == "text":
        (folder / "03.txt").write_text("picture 9\nanother 3\n")  # as long as before
    elif change == "table":
        (folder / "metadata.csv").write_text("file_name,text\n03.jpg,two\n")
    elif change == "score":
        with SidecarWriter(folder / "captions.jsonl") as sidecar:
            sidecar.add("00.jpg", [Caption("picture 0", 31.0)])
    elif change == "removed":
        (folder / "03.txt").unlink()
    else:
        (folder / "03.json").write_text('"one more"')
    with pytest.raises(DataError, match="is a cache of these images with other captions or scores"):
        plan_cache(folder, place, tiny_model, 256)


def test_a_cache_has_the_fingerprint_of_its_data_set(folder: Path, tmp_path: Path, tiny_model: Path) -> None:
    built = build_cache(plan_cache(folder, tmp_path / "cache", tiny_model, 256))
    assert data_fingerprint(Cache(built.folder)) == data_fingerprint(open_source(folder))


def test_what_is_not_used_is_in_the_result(folder: Path, tmp_path: Path, tiny_model: Path) -> None:
    (folder / "lost.txt").write_text("a caption")
    built = build_cache(plan_cache(folder, tmp_path / "cache", tiny_model, 256))
    assert built.ignored == {
        "lost.txt": "is a caption without an image",
        "notes.doc": "is not an image (.doc)",
    }


def test_another_model_is_told_from_this_one_and_a_copy_is_not(tiny_model: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_model, tmp_path / "copy"))
    assert maker_of(tiny_model, text=True).difference(maker_of(copy, text=True)) is None
    changed = load_autoencoder(copy)
    shutil.rmtree(copy / "vae")
    with torch.no_grad():
        next(changed.decoder.parameters()).add_(1)  # pyright: ignore[reportOptionalMemberAccess]
        save_autoencoder(copy / "vae", changed)
    assert maker_of(tiny_model).difference(maker_of(copy)) is None  # the decoder makes no latents
    shutil.rmtree(copy / "vae")
    with torch.no_grad():
        next(changed.encoder.parameters()).add_(1)  # pyright: ignore[reportOptionalMemberAccess]
        save_autoencoder(copy / "vae", changed)
    found = maker_of(tiny_model).difference(maker_of(copy))
    assert found is not None
    assert "the autoencoder's encoder" in found


def test_another_text_encoder_is_told_from_this_one_where_there_is_text(
    tiny_model: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(tiny_model, tmp_path / "copy"))
    file = copy / "text_encoder" / "model.safetensors"
    weights = {name: tensor.clone() for name, tensor in load_file(file).items()}
    weights["layers.0.mlp.down_proj.weight"] += 1
    save_file(weights, file)
    assert maker_of(tiny_model, text=False).difference(maker_of(copy, text=False)) is None
    found = maker_of(tiny_model, text=True).difference(maker_of(copy, text=True))
    assert found is not None
    assert "the text encoder" in found


def test_a_folder_of_other_files_is_refused(folder: Path, tiny_model: Path) -> None:
    with pytest.raises(DataError, match=r"holds other files, such as .*choose a new folder"):
        plan_cache(folder, folder, tiny_model, 256)


def test_too_little_room_is_told_before_anything_is_encoded(
    folder: Path, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(cache_build.shutil, "disk_usage", lambda place: usage)
    plan = plan_cache(folder, tmp_path / "cache", tiny_model, 256)
    with pytest.raises(
        OutputError, match=r"takes about .* GB more, and .* has 0\.0 GB free: free some space"
    ):
        build_cache(plan)


def test_latents_that_are_not_finite_are_no_cache(
    folder: Path, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_cache(folder, tmp_path / "cache", tiny_model, 256)
    broken = load_autoencoder(tiny_model, part="encoder")
    with torch.no_grad():
        next(broken.parameters()).fill_(torch.nan)
    monkeypatch.setattr(cache_build, "load_autoencoder", lambda *given, **settings: broken)
    with pytest.raises(NumericsError, match=r"latents of .*\.jpg are not finite.*--dtype float32"):
        build_cache(plan)


def test_captions_that_are_too_long_are_told(folder: Path, tmp_path: Path, tiny_model: Path) -> None:
    (folder / "00.txt").write_text("one picture and another picture " * 20, encoding="utf-8")
    built = build_cache(plan_cache(folder, tmp_path / "cache", tiny_model, 256, text=True))
    assert len(built.cut) == 1
    assert "too long" in built.cut[0]
    cache = Cache(built.folder)
    assert max(len(one) for n in range(len(cache)) for one in cache[n].text) == 20
