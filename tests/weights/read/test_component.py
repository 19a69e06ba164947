"""Of several checkpoints in one folder, the one that its library would open is taken."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sanakit.errors import WeightsError
from sanakit.weights import load_autoencoder, load_text_encoder, load_transformer
from sanakit.weights.read.component import (
    DIFFUSERS,
    TRANSFORMERS,
    Choice,
    choose_files,
    component_files,
    select_weights,
)


def shards(stem: str, count: int, variant: str = "") -> list[str]:
    return [f"{stem}{variant}-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)]


def fill(folder: Path, *names: str, listed: list[str] | None = None, index: str = "") -> Path:
    """Make empty files of these names, and an index that lists some."""
    for name in names:
        (folder / name).touch()
    if listed is not None:
        content = {"weight_map": {f"tensor{number}": name for number, name in enumerate(listed)}}
        (folder / index).write_text(json.dumps(content))
    return folder


INDEX = f"{DIFFUSERS}.safetensors.index.json"
WHOLE = f"{DIFFUSERS}.safetensors"


def test_the_index_decides_over_an_unsharded_file(tmp_path):
    two = shards(DIFFUSERS, 2)
    fill(tmp_path, WHOLE, *two, listed=two, index=INDEX)
    assert choose_files(tmp_path) == Choice(tuple(two), ((WHOLE,),))


@pytest.mark.parametrize(("right", "stale"), [(2, 3), (3, 2), (3, 1)])
def test_the_index_decides_between_two_splits(tmp_path, right, stale):
    listed, other = shards(DIFFUSERS, right), shards(DIFFUSERS, stale)
    fill(tmp_path, *listed, *other, listed=listed, index=INDEX)
    assert choose_files(tmp_path) == Choice(tuple(listed), (tuple(other),))


@pytest.mark.parametrize(
    ("variant", "index"),
    [
        (".fp16", f"{DIFFUSERS}.safetensors.index.fp16.json"),
        (".bf16", f"{DIFFUSERS}.bf16.safetensors.index.json"),
        (".ema", f"{DIFFUSERS}.safetensors.index.ema.json"),
    ],
)
def test_the_index_of_a_variant_decides_there(tmp_path, variant, index):
    two = shards(DIFFUSERS, 2, variant)
    fill(tmp_path, f"{DIFFUSERS}{variant}.safetensors", *two, listed=two, index=index)
    assert choose_files(tmp_path, variant[1:]).files == tuple(two)


def test_a_text_encoder_takes_the_unsharded_file_as_transformers_does(tmp_path):
    two = shards(TRANSFORMERS, 2)
    fill(tmp_path, "model.safetensors", *two, listed=two, index="model.safetensors.index.json")
    (tmp_path / "config.json").write_text('{"architectures": ["Gemma2Model"]}')
    assert choose_files(tmp_path) == Choice(("model.safetensors",), (tuple(two),))


def test_without_an_index_an_unsharded_file_is_taken(tmp_path):
    fill(tmp_path, WHOLE, *shards(DIFFUSERS, 2))
    assert choose_files(tmp_path).files == (WHOLE,)


def test_an_older_incomplete_split_does_not_count(tmp_path):
    three = shards(DIFFUSERS, 3)
    fill(tmp_path, *shards(DIFFUSERS, 2)[:1], *three)
    assert choose_files(tmp_path) == Choice(tuple(three))


def test_two_complete_splits_without_an_index_are_refused(tmp_path):
    fill(tmp_path, *shards(DIFFUSERS, 2), *shards(DIFFUSERS, 3))
    with pytest.raises(WeightsError, match="two complete checkpoints, and no index tells"):
        choose_files(tmp_path)


def test_a_shard_that_the_index_lists_and_is_not_there_is_named(tmp_path):
    two = shards(DIFFUSERS, 2)
    fill(tmp_path, two[0], WHOLE, listed=two, index=INDEX)
    with pytest.raises(
        WeightsError, match=f"{two[1]} is missing, 1 of the 2 shards that the index {INDEX} lists"
    ):
        choose_files(tmp_path)


def test_an_index_none_of_whose_shards_is_there_does_not_hide_an_unsharded_file(tmp_path):
    fill(tmp_path, WHOLE, listed=shards(DIFFUSERS, 2), index=INDEX)
    assert choose_files(tmp_path).files == (WHOLE,)


def test_an_index_may_name_its_shards_as_it_likes_but_never_leaves_the_folder(tmp_path):
    fill(tmp_path, "a.safetensors", "b.safetensors", listed=["b.safetensors", "a.safetensors"], index=INDEX)
    assert [path.name for path in component_files(tmp_path)] == ["a.safetensors", "b.safetensors"]
    fill(tmp_path, listed=["a.safetensors", "../a.safetensors"], index=INDEX)
    with pytest.raises(WeightsError, match=r"\.\./a\.safetensors is missing"):
        component_files(tmp_path)


@pytest.mark.parametrize("content", ["{}", '{"weight_map": {}}', '{"weight_map": ["a"]}'])
def test_an_index_without_a_map_is_damaged(tmp_path, content):
    fill(tmp_path, *shards(DIFFUSERS, 2))
    (tmp_path / INDEX).write_text(content)
    with pytest.raises(WeightsError, match="has no weight_map"):
        choose_files(tmp_path)


@pytest.mark.parametrize(
    ("config", "taken"),
    [
        ('{"_class_name": "AutoencoderDC"}', WHOLE),
        ('{"architectures": ["Gemma2Model"]}', "model.safetensors"),
        (None, WHOLE),
    ],
)
def test_of_the_files_of_two_libraries_those_of_its_own_are_taken(tmp_path, config, taken):
    fill(tmp_path, WHOLE, "model.safetensors")
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    assert choose_files(tmp_path) == Choice((taken,))


@pytest.mark.parametrize("name", ["model.fp32.safetensors", f"{DIFFUSERS}.non_ema.safetensors"])
def test_the_only_variant_is_taken_whatever_it_is_called(tmp_path, name):
    assert choose_files(fill(tmp_path, name)).files == (name,)


@pytest.mark.parametrize(
    "names",
    [
        ["weights.safetensors"],
        [f"{DIFFUSERS}.ema.safetensors", f"{DIFFUSERS}.non_ema.safetensors"],
        ["Sana.safetensors", "model.bin"],
    ],
)
def test_files_that_cannot_be_chosen_are_listed(tmp_path, names):
    with pytest.raises(WeightsError, match="nothing tells which of them to use") as caught:
        choose_files(fill(tmp_path, *names))
    assert names[0] in str(caught.value)
    assert WHOLE in str(caught.value)


def test_an_empty_folder_and_a_pickle_are_told_apart(tmp_path):
    with pytest.raises(WeightsError, match=r"holds no \.safetensors file"):
        choose_files(tmp_path)
    with pytest.raises(WeightsError, match="can run code when opened"):
        choose_files(fill(tmp_path, "model.bin"))
    with pytest.raises(WeightsError, match="missing or not readable"):
        choose_files(tmp_path / "nowhere")


def test_a_download_chooses_as_the_folder_will():
    two, three = shards(DIFFUSERS, 2), shards(DIFFUSERS, 3)
    assert select_weights([WHOLE, *two, INDEX]) == two
    assert select_weights([*two, *three, INDEX]) == sorted(two + three)  # the index itself will tell
    assert select_weights([WHOLE, INDEX]) == [WHOLE]
    text = shards(TRANSFORMERS, 2)
    both = ["model.safetensors", *text, "model.safetensors.index.json"]
    assert select_weights(both, stem=TRANSFORMERS) == ["model.safetensors"]
    assert select_weights([WHOLE, "model.safetensors"], stem=TRANSFORMERS) == ["model.safetensors"]
    assert select_weights([WHOLE, "model.safetensors"]) == [WHOLE]
    with pytest.raises(WeightsError, match="1 of the 2 shards"):
        select_weights(two[:1])


PARTS = [
    ("transformer", DIFFUSERS, load_transformer),
    ("vae", DIFFUSERS, load_autoencoder),
    ("text_encoder", TRANSFORMERS, lambda folder: load_text_encoder(folder).model),
]


def split(folder: Path, stem: str, count: int, *, zeros: bool, index: bool) -> None:
    """Write the folder's tensors, or zeros in their place, as shards beside the unsharded file."""
    state = load_file(folder / f"{stem}.safetensors")
    names, files = sorted(state), shards(stem, count)
    weight_map = {}
    for number, file in enumerate(files):
        own = names[number::count]
        save_file({name: state[name] * (not zeros) for name in own}, folder / file)
        weight_map |= dict.fromkeys(own, file)
    if index:
        content = {"metadata": {}, "weight_map": weight_map}
        (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(content))


@torch.no_grad()
@pytest.mark.parametrize(("part", "stem", "load"), PARTS, ids=[part for part, _, _ in PARTS])
def test_stale_weights_beside_the_right_ones_are_not_loaded_and_told(tiny, part, stem, load):
    """The right ones are in shards with an index for diffusers, in one file for transformers."""
    folder, right = tiny.folder / part, load(tiny.folder).state_dict()
    split(folder, stem, 2, zeros=stem == TRANSFORMERS, index=True)
    if stem == DIFFUSERS:
        whole = folder / f"{stem}.safetensors"
        save_file({name: tensor * 0 for name, tensor in load_file(whole).items()}, whole)
    with pytest.warns(UserWarning, match=f"{part} holds two checkpoints with different weights"):
        loaded = load(tiny.folder).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in right.items())


@torch.no_grad()
@pytest.mark.parametrize(("part", "stem", "load"), PARTS, ids=[part for part, _, _ in PARTS])
def test_the_same_weights_twice_are_loaded_without_a_word(tiny, part, stem, load, recwarn):
    split(tiny.folder / part, stem, 2, zeros=False, index=True)
    load(tiny.folder)
    assert not [one for one in recwarn if "checkpoints" in str(one.message)]


@torch.no_grad()
def test_diffusers_and_transformers_choose_the_same(tiny):
    from diffusers import AutoencoderDC, SanaTransformer2DModel
    from transformers import Gemma2Model

    for part, stem, _ in PARTS:
        folder = tiny.folder / part
        split(folder, stem, 2, zeros=True, index=True)
        kinds = {"transformer": SanaTransformer2DModel, "vae": AutoencoderDC, "text_encoder": Gemma2Model}
        theirs = kinds[part].from_pretrained(folder)
        zeroed = all(not parameter.any() for parameter in theirs.parameters())
        chosen = choose_files(folder).files
        assert zeroed == (chosen == tuple(shards(stem, 2))), part
