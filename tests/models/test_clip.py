"""CLIP against transformers' CLIPModel, from the same random weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers

from sanakit.errors import SettingsError, WeightsError
from sanakit.models.clip import LEGACY_EOS, Clip, ClipConfig, TowerConfig

END = 95  # the highest token, as in published vocabularies
TINY = ClipConfig(
    vision=TowerConfig(width=32, depth=3, heads=4, mlp_width=48),
    text=TowerConfig(width=24, depth=2, heads=3, mlp_width=40),
    image_size=24,
    patch_size=8,
    vocab_size=96,
    max_tokens=11,
    eos_token=END,
    embed_width=16,
)
TOLERANCE = 1e-5  # of values between -1 and 1; measured: 0 to 1e-7


def pair(config: ClipConfig) -> tuple[Clip, Any]:
    torch.manual_seed(0)
    theirs = transformers.CLIPModel(transformers.CLIPConfig(**config.to_transformers())).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    ours = Clip(config)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs


def tokens() -> torch.Tensor:
    """Three texts of different lengths; two have something behind their end."""
    ids = torch.randint(3, END, (3, 11), generator=torch.Generator().manual_seed(1))
    ids[0, 4] = ids[1, 7] = ids[2, 10] = END
    ids[0, 6:] = END
    return ids


def with_activation(config: ClipConfig, name) -> ClipConfig:
    vision, text = replace(config.vision, activation=name), replace(config.text, activation=name)
    return replace(config, vision=vision, text=text)


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("eos_token", [END, LEGACY_EOS])
def test_both_vectors_equal_transformers(activation, eos_token):
    ours, theirs = pair(with_activation(replace(TINY, eos_token=eos_token), activation))
    images = torch.randn(2, 3, 24, 24, generator=torch.Generator().manual_seed(2))
    texts = theirs.get_text_features(tokens()).pooler_output
    pictures = theirs.get_image_features(images).pooler_output
    assert (ours.texts(tokens()) - F.normalize(texts)).abs().max() < TOLERANCE
    assert (ours.images(images) - F.normalize(pictures)).abs().max() < TOLERANCE
    assert texts.std(0).max() > 0.1  # the texts differ: equality is not that of constants


def test_the_two_ways_to_find_the_end_differ_where_the_end_is_not_the_highest_token():
    legacy, _ = pair(replace(TINY, eos_token=LEGACY_EOS))
    proper, theirs = pair(replace(TINY, eos_token=50))
    ids = torch.tensor([[3, 60, 50, 9, 70], [3, 50, 50, 50, 50]])
    reference = F.normalize(theirs.get_text_features(ids).pooler_output)
    assert (proper.texts(ids) - reference).abs().max() < TOLERANCE
    assert (legacy.texts(ids)[0] - reference[0]).abs().max() > 0.05


def test_gradients_equal_transformers():
    ours, theirs = pair(TINY)
    images = torch.randn(3, 3, 24, 24, generator=torch.Generator().manual_seed(2))
    a, b = ours(images, tokens())
    (a @ b.T).diagonal().sum().mul(ours.logit_scale).backward()
    out = theirs(input_ids=tokens(), pixel_values=images)
    (out.image_embeds @ out.text_embeds.T).diagonal().sum().mul(theirs.logit_scale).backward()
    reference = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        expected = reference[name].grad
        assert parameter.grad is not None
        assert expected is not None
        assert (parameter.grad - expected).abs().max() <= 1e-4 * expected.abs().max() + 1e-6, name


def test_what_stands_behind_the_end_of_a_text_does_not_count():
    ours, _ = pair(TINY)
    ids = tokens()
    changed = ids.clone()
    changed[0, 5:] = 7
    changed[1, 8:] = END
    assert torch.equal(ours.texts(ids), ours.texts(changed))


def test_first_values_have_the_scale_that_transformers_draws():
    config = replace(TINY, vision=TowerConfig(width=256, depth=2, heads=4, mlp_width=1024))
    ours = Clip(config)
    ours.init_weights()
    theirs = dict(
        transformers.CLIPModel(transformers.CLIPConfig(**config.to_transformers())).named_parameters()
    )
    for name, parameter in ours.named_parameters():
        if parameter.numel() > 2000 and "class_embedding" not in name:
            assert parameter.std().item() == pytest.approx(theirs[name].std().item(), rel=0.1), name
        if name.endswith("bias"):
            assert torch.equal(parameter, torch.zeros_like(parameter)), name


def test_config_comes_back_from_transformers_spelling():
    assert ClipConfig.from_transformers(TINY.to_transformers()) == TINY


def test_the_published_large_model_has_its_published_size():
    """The sizes as openai/clip-vit-large-patch14 states them, twice."""
    text = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12}
    vision = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16}
    vision |= {"num_hidden_layers": 24, "patch_size": 14}
    config = ClipConfig.from_transformers(
        {
            "model_type": "clip",
            "projection_dim": 768,
            "text_config": {**text, "eos_token_id": 2, "hidden_act": "quick_gelu"},
            "text_config_dict": text,
            "vision_config": {"image_size": 224},
            "vision_config_dict": vision,
        }
    )
    assert config.eos_token == LEGACY_EOS
    with torch.device("meta"):
        model = Clip(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == 427_616_513


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "siglip"}, "siglip"),
        ({"vision_config": {"num_channels": 4}}, "4 channels"),
        ({"text_config": {"hidden_act": "relu"}}, "relu"),
        ({"text_config": {"num_attention_heads": 7}}, "multiple of the heads"),
        ({"text_config": {"hidden_size": "wide"}}, "wide"),
        ({"projection_dim": 0}, "above 0"),
    ],
)
def test_a_config_of_something_else_is_refused_by_what_is_wrong(change, words):
    with pytest.raises(WeightsError, match=words):
        ClipConfig.from_transformers({"model_type": "clip", **change})


def test_a_picture_holds_at_least_one_patch():
    with pytest.raises(SettingsError, match="patch"):
        replace(TINY, image_size=4)
