"""A model is called as its user calls it, and opened for what it is or told."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from sanakit.errors import ModelNotFoundError, WeightsError
from sanakit.weights import describe, load_settings, load_text_encoder, load_transformer
from sanakit.weights.find import hub
from sanakit.weights.find.catalog import CATALOG, CLIP_MODELS, CONTROLNETS
from sanakit.weights.find.resolve import FORMAT, PLAIN, ModelSource, resolve

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def nameless(folder: Path) -> None:
    """Take the name out of a folder's sanakit.json."""
    path = folder / "sanakit.json"
    content = json.loads(path.read_text())
    content.pop("name", None)
    path.write_text(json.dumps(content))


@pytest.fixture
def snapshot(tiny, tmp_path) -> Path:
    """A repository in the Hub's cache, where the folder of its files is called by the commit."""
    nameless(tiny.folder)
    folder = tmp_path / "hub" / "models--some-one--my-sana" / "snapshots" / COMMIT
    shutil.copytree(tiny.folder, folder)
    return folder


def test_a_repository_is_called_by_its_name(snapshot, monkeypatch):
    monkeypatch.setattr(hub, "fetch", lambda repo, parts, variant: snapshot)
    assert load_settings("some-one/my-sana").name == "some-one/my-sana"
    assert load_settings(snapshot).name == "some-one/my-sana"
    assert describe(snapshot).settings.name == "some-one/my-sana"


@pytest.mark.parametrize("text", [".", "./", "../model", "transformer/..", "./."])
def test_a_folder_named_by_dots_is_called_by_its_name(tiny, monkeypatch, text):
    nameless(tiny.folder)
    monkeypatch.chdir(tiny.folder)
    assert load_settings(text).name == "model"
    assert load_settings(Path(text)).name == "model"


def test_a_link_is_called_as_it_is_named(tiny, tmp_path):
    nameless(tiny.folder)
    (tmp_path / "mine").symlink_to(tiny.folder)
    assert load_settings(tmp_path / "mine").name == "mine"


def test_an_embedded_controlnet_is_found_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pocket-lines").mkdir()  # the name takes precedence, as for models
    assert resolve("pocket-lines").path == CONTROLNETS["pocket-lines"]
    assert describe("pocket-lines").kind == "controlnet"


def test_an_empty_name_is_as_good_as_none(tiny):
    path = tiny.folder / "sanakit.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"name": ""}))
    assert load_settings(tiny.folder).name == "model"


@pytest.mark.parametrize("name", ["", "  "])
def test_an_empty_name_is_not_the_current_folder(name: str) -> None:
    with pytest.raises(ModelNotFoundError, match="name is empty: use a catalog name"):
        resolve(name)


def test_a_folder_of_snapshots_that_is_not_the_hubs_is_a_folder(tiny, tmp_path):
    nameless(tiny.folder)
    folder = tmp_path / "work" / "snapshots" / "tuesday"
    shutil.copytree(tiny.folder, folder)
    assert load_settings(folder).name == "tuesday"
    assert ModelSource(path=Path("x.pth")).name == "x.pth"
    assert ModelSource(path=Path(os.fsdecode(b"mod\xe9le.pth"))).name == "mod?le.pth"  # Latin-1


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("SanaPAGPipeline", "its perturbed attention guidance is not used"),
        ("SanaOfTomorrowPipeline", "what is particular to it is not done"),
    ],
)
def test_a_pipeline_that_does_more_is_told_wherever_it_is_opened(tiny, kind, said):
    index = tiny.folder / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"_class_name": kind}))
    with pytest.warns(UserWarning, match=f"is a {kind}.*{said}"):
        load_transformer(tiny.folder)
    assert said in load_settings(tiny.folder).notes[0]
    assert said in describe(tiny.folder).notes[0]


def test_a_plain_pipeline_is_opened_without_a_word(tiny, recwarn):
    index = tiny.folder / "model_index.json"
    for kind in PLAIN[:4]:
        index.write_text(json.dumps(json.loads(index.read_text()) | {"_class_name": kind}))
        load_transformer(tiny.folder)
        assert load_settings(tiny.folder).notes == ()
    assert not [one for one in recwarn if issubclass(one.category, UserWarning)]


@pytest.mark.parametrize("value", [99, FORMAT + 1, 0, "1", 1.0, True, None, [1]])
def test_another_format_of_our_settings_is_refused(tiny, value):
    path = tiny.folder / "sanakit.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": value}))
    for read in (load_settings, describe, load_text_encoder):
        with pytest.raises(WeightsError, match=r"sanakit\.json has the format .*this version reads 1"):
            read(tiny.folder)


def test_settings_without_a_format_are_read(tiny):
    path = tiny.folder / "sanakit.json"
    content = json.loads(path.read_text())
    del content["format"]
    path.write_text(json.dumps(content))
    assert load_settings(tiny.folder).name == "tiny"


@pytest.mark.parametrize("name", ["checkpoint-0000500", "checkpoint-0000500.part"])
def test_a_checkpoint_of_a_training_is_told_for_what_it_is(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "shard-00001-model-00001-of-00001.safetensors").write_bytes(b"half")
    with pytest.raises(WeightsError, match=f"is a checkpoint of a training, .*writes {tmp_path / 'model'}"):
        resolve(tmp_path / name)


def test_an_embedded_model_of_clips_is_found_by_its_name_or_told_to_be_absent(tiny, monkeypatch):
    monkeypatch.setitem(CLIP_MODELS, "pocket-video", tiny.folder)
    assert resolve("pocket-video").path == tiny.folder
    monkeypatch.setitem(CLIP_MODELS, "pocket-video", tiny.folder / "nothing")
    with pytest.raises(ModelNotFoundError, match="pocket-video' is not in this installation: name another"):
        resolve("pocket-video")


def share_text(folder: Path, owner: object) -> ModelSource:
    """Name the owner of the text encoder in a folder's sanakit.json."""
    path = folder / "sanakit.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"text_encoder_of": owner}))
    return resolve(folder)


def test_a_text_encoder_is_shared_where_a_folder_has_none_of_its_own(tiny):
    pocket = CATALOG["pocket"].folder
    source = share_text(tiny.folder, "pocket")
    own = {"text_encoder", "tokenizer", "vae", "transformer"}
    assert {name: source.folder(name) for name in own} == {name: tiny.folder / name for name in own}
    for name in own:
        shutil.rmtree(tiny.folder / name)
    assert source.folder("text_encoder") == pocket / "text_encoder"
    assert source.folder("tokenizer") == pocket / "tokenizer"
    assert source.folder("vae") == tiny.folder / "vae"  # nothing else is shared


def test_a_shared_text_encoder_reads_prompts_as_its_owner_does_behind_the_folders_instruction(tiny):
    for name in ("text_encoder", "tokenizer"):
        shutil.rmtree(tiny.folder / name)
    share_text(tiny.folder, "pocket")
    ours, owners = load_text_encoder(tiny.folder), load_text_encoder("pocket")
    assert ours.instruction != owners.instruction
    [one], [other] = (encoder.encode_negative(["a fox"], []) for encoder in (ours, owners))
    assert one.equal(other)


@pytest.mark.parametrize("owner", ["sana-0.6b-1024", "../pocket", "", 7, ["pocket"]])
def test_a_text_encoder_is_shared_with_embedded_models_alone(tiny, owner):
    shutil.rmtree(tiny.folder / "text_encoder")
    source = share_text(tiny.folder, owner)
    with pytest.raises(WeightsError, match=r"text_encoder_of = .*; it must be the name of an embedded model"):
        source.folder("text_encoder")
