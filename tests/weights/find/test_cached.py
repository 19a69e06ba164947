"""What lies on this disk: embedded models, downloads of the family, and others that are left alone."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from sanakit.errors import ModelNotFoundError, WeightsError
from sanakit.weights.find.cached import find_here, models_here, remove_model
from sanakit.weights.find.catalog import CLIP_MODELS


def repository(cache: Path, name: str, files: dict[str, str]) -> Path:
    """A download as the Hub's library lays it out."""
    folder = cache / f"models--{name.replace('/', '--')}"
    snapshot = folder / "snapshots" / hashlib.sha1(name.encode()).hexdigest()  # a commit
    (folder / "blobs").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(snapshot.name)
    for number, (path, text) in enumerate(files.items()):
        blob = folder / "blobs" / f"{name.replace('/', '')}{number}"
        blob.write_text(text)
        (snapshot / path).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / path).symlink_to(blob)
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The Hub's cache of this test alone: a release, somebody's fine-tune, and a stranger."""
    import huggingface_hub

    scan = huggingface_hub.scan_cache_dir
    monkeypatch.setattr(huggingface_hub, "scan_cache_dir", lambda: scan(tmp_path))
    index = json.dumps({"_class_name": "SanaPipeline"})
    repository(tmp_path, "Efficient-Large-Model/Sana_600M_1024px_diffusers", {"model_index.json": index})
    repository(tmp_path, "someone/mine", {"model_index.json": index, "vae/config.json": "x" * 100})
    repository(tmp_path, "stranger/flux", {"model_index.json": json.dumps({"_class_name": "FluxPipeline"})})
    return tmp_path


def test_models_are_told_by_name_with_their_bytes_and_others_are_counted(cache: Path, monkeypatch):
    monkeypatch.setitem(CLIP_MODELS, "pocket-video", cache / "absent")
    shelf = models_here()
    names = [model.name for model in shelf.models]
    assert names[:2] == ["pocket", "pocket-lines"]
    assert set(names[2:]) == {"sana-0.6b-1024", "someone/mine"}
    assert shelf.others == 1
    assert shelf.other_bytes == len(json.dumps({"_class_name": "FluxPipeline"}))
    mine = find_here("someone/mine")
    assert (mine.kind, mine.licence) == ("downloaded", "")
    assert mine.bytes == 100 + len(json.dumps({"_class_name": "SanaPipeline"}))
    assert find_here("sana-0.6b-1024") == find_here("Efficient-Large-Model/Sana_600M_1024px_diffusers")


WHOLE = {
    "model_index.json": json.dumps({"_class_name": "SanaPipeline"}),
    **{f"{part}/config.json": "{}" for part in ("transformer", "vae", "text_encoder")},
    **{f"{part}/diffusion_pytorch_model.safetensors": "x" for part in ("transformer", "vae")},
    "text_encoder/model.safetensors": "x",
    "tokenizer/tokenizer.json": "{}",
    "scheduler/scheduler_config.json": "{}",
}


def test_a_download_is_whole_once_all_its_parts_have_their_weights(tmp_path: Path, monkeypatch):
    import huggingface_hub

    scan = huggingface_hub.scan_cache_dir
    monkeypatch.setattr(huggingface_hub, "scan_cache_dir", lambda: scan(tmp_path))
    repository(tmp_path, "a/whole", WHOLE)
    for number, left_out in enumerate(("text_encoder/model.safetensors", "tokenizer/tokenizer.json")):
        files = {name: text for name, text in WHOLE.items() if name != left_out}
        files["tokenizer/tokenizer_config.json"] = "{}"
        repository(tmp_path, f"a/part{number}", files)
    shard = "transformer/diffusion_pytorch_model-00001-of-00002.safetensors"
    cut = WHOLE | {shard: "x"}
    del cut["transformer/diffusion_pytorch_model.safetensors"]
    repository(tmp_path, "a/shard", cut)
    repository(
        tmp_path, "a/fp16", {name.replace(".safe", ".fp16.safe"): text for name, text in WHOLE.items()}
    )
    official = "Efficient-Large-Model/SANA_Sprint_1.6B_1024px_teacher"
    repository(tmp_path, official, {"checkpoints/SANA_Sprint_1.6B_1024px_teacher.pth": "x"})
    found = {model.name: model.whole for model in models_here().models}
    assert found.pop(find_here(official).name) is True
    assert found == {
        **dict.fromkeys(("pocket", "pocket-lines", "a/whole", "a/fp16"), True),
        **dict.fromkeys(("a/part0", "a/part1", "a/shard"), False),
    }


def test_removing_frees_one_download_and_nothing_else(cache: Path):
    mine = find_here("someone/mine")
    assert remove_model(mine) == mine.bytes
    assert not Path(mine.path).exists()
    assert {folder.name for folder in cache.glob("models--*")} == {
        "models--Efficient-Large-Model--Sana_600M_1024px_diffusers",
        "models--stranger--flux",
    }
    with pytest.raises(ModelNotFoundError, match="not on this disk any more"):
        remove_model(mine)


def test_embedded_models_and_strangers_are_not_removed(cache: Path):
    with pytest.raises(WeightsError, match="part of this package"):
        remove_model(find_here("pocket"))
    with pytest.raises(WeightsError, match="part of this package"):
        remove_model(find_here("pocket-lines"))
    with pytest.raises(ModelNotFoundError, match="sana list"):
        find_here("stranger/flux")


def test_a_damaged_stranger_is_counted_and_nothing_more(cache: Path):
    for name, text in (("a/cut", "{"), ("a/list", "[1]")):
        repository(cache, name, {"model_index.json": text})
    assert models_here().others == 3


def test_without_a_cache_the_embedded_models_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import huggingface_hub

    scan = huggingface_hub.scan_cache_dir
    monkeypatch.setattr(huggingface_hub, "scan_cache_dir", lambda: scan(tmp_path / "none"))
    shelf = models_here()
    assert [(model.name, model.kind) for model in shelf.models] == [
        ("pocket", "embedded"),
        ("pocket-lines", "embedded"),
    ]
    assert shelf.models[1].licence == "Apache-2.0"
    assert shelf.models[0].bytes > 10**7


def test_an_embedded_model_of_clips_is_told_where_it_is_there(cache: Path, monkeypatch):
    folder = cache / "pocket_video"
    folder.mkdir()
    (folder / "sanakit.json").write_text('{"format": 1, "licence": "MIT"}')
    monkeypatch.setitem(CLIP_MODELS, "pocket-video", folder)
    found = find_here("pocket-video")
    assert (found.kind, found.licence, found.path) == ("embedded", "MIT", str(folder))
    assert found.bytes == len('{"format": 1, "licence": "MIT"}')
    with pytest.raises(WeightsError, match="part of this package"):
        remove_model(found)
