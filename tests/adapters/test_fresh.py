"""A new adapter: it changes nothing yet, it reaches what was asked for, and its file is read again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sanakit.adapters.attach import AdapterSet
from sanakit.adapters.fresh import PRESETS, AdapterSize, fresh_adapter
from sanakit.adapters.names import products
from sanakit.adapters.read import AdapterFile
from sanakit.adapters.save import save_adapter
from sanakit.errors import SettingsError
from sanakit.models.sana import Sana, SanaConfig

CONFIG = SanaConfig(depth=2, width=32, cross_heads=2, head_dim=8, text_width=24, latent_channels=4)


def fresh(**size):
    return fresh_adapter(CONFIG, AdapterSize(**size), torch.Generator().manual_seed(0))


def test_it_changes_nothing_yet() -> None:
    torch.manual_seed(0)
    model = Sana(CONFIG).eval()
    model.init_weights()
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape)
    latents, t = torch.randn(2, 4, 3, 5), torch.tensor([0.3, 0.9])
    text, mask = torch.randn(2, 6, 24), torch.ones(2, 6, dtype=torch.bool)
    before = model(latents, t, text, mask)
    AdapterSet(model).add(fresh(), "new")
    assert torch.equal(model(latents, t, text, mask), before)


def test_a_is_normal_by_the_rank_and_b_is_zero() -> None:
    for rank in (4, 16):
        downs = torch.cat([part.down.flatten() for part in fresh(rank=rank).parts])
        assert downs.std().item() == pytest.approx(1 / rank, rel=0.05)
    assert not any(part.up.any() for part in fresh().parts)


def test_presets_reach_what_they_say() -> None:
    rows = {name: {} for name in PRESETS}
    for name, reached in rows.items():
        for part in fresh(layers=name).parts:
            kind = part.place.module.split(".", 2)[2]
            reached[kind] = reached.get(kind, 0) + part.place.stop - part.place.start
    block = {
        name.split(".", 2)[2]: sizes[1] for name, sizes in products(CONFIG).items() if "blocks.0" in name
    }
    everything = {kind: 2 * outputs for kind, outputs in block.items()}
    attention = {kind: count for kind, count in everything.items() if "mlp" not in kind}
    assert rows["blocks"] == everything
    assert rows["attention"] == attention
    assert rows["published"] == {kind: count for kind, count in attention.items() if "proj" not in kind}


def test_queries_keys_and_values_learn_apart_unless_named_as_one() -> None:
    apart = [part.place for part in fresh(layers=["attn1.to_q", "attn1.to_k", "attn1.to_v"]).parts]
    assert [(place.start, place.stop) for place in apart[::2]] == [(0, 32), (32, 64), (64, 96)]
    whole = [part.place for part in fresh(layers=["attn.qkv"]).parts]
    assert [(place.start, place.stop) for place in whole] == [(0, 96), (0, 96)]


def test_ranks_and_alphas_of_single_layers() -> None:
    made = fresh(
        layers="attention", rank=4, alpha=2.0, ranks={"attn2.to_q": 6}, alphas={"attn1.to_out.0": 8.0}
    )
    seen = {}
    for part in made.parts:
        seen.setdefault(part.place.module.split(".", 2)[2], set()).add((part.rank, part.scale))
    assert seen["cross_attn.q_linear"] == {(6, 2.0 / 6)}
    assert seen["attn.proj"] == {(4, 2.0)}
    assert seen["attn.qkv"] == {(4, 0.5)}


def test_two_spellings_of_a_layer_are_one() -> None:
    assert len(fresh(layers=["attn1.to_out.0", "attn.proj"]).parts) == 2


@pytest.mark.parametrize(
    ("size", "sentence"),
    [
        ({"layers": "everything"}, "must be published, attention, blocks"),
        ({"layers": ["attn3.to_q"]}, "No product of this model is named 'attn3.to_q'"),
        ({"layers": ["attn1.to_q", "attn.qkv"]}, "in whole and in part"),
        ({"layers": []}, "at least one layer"),
        ({"rank": 0}, "rank = 0"),
        ({"rank": True}, "rank = True"),
        ({"alpha": float("nan")}, "alpha = nan"),
        ({"layers": "published", "ranks": {"ff.conv_point": 4}}, "none of the adapter's layers"),
    ],
)
def test_what_it_cannot_be_is_told(size, sentence) -> None:
    with pytest.raises(SettingsError, match=sentence.replace("(", r"\(")):
        fresh(**size)


def test_its_file_is_read_again(tmp_path: Path) -> None:
    made = fresh(rank=3, ranks={"attn2.to_q": 5}, alpha=6.0)
    for part in made.parts:
        torch.nn.init.normal_(part.up)
    path = save_adapter(tmp_path / "new.safetensors", made, CONFIG, dtype="float32")
    again = {part.place: part for part in AdapterFile(path).read(CONFIG).parts}
    assert again.keys() == {part.place for part in made.parts}
    for part in made.parts:
        other = again[part.place]
        assert torch.equal(part.down, other.down)
        assert torch.equal(part.up, other.up)
        assert part.scale == other.scale
