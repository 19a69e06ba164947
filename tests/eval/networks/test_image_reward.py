"""The network at a tiny size: the published names, the published head, and what moves a reward.

Parity was checked once by hand: a tiny network of the authors' own code, saved and loaded here, gives the
same rewards, bit for bit.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from sanakit.errors import WeightsError
from sanakit.eval.networks import image_reward
from sanakit.eval.networks.image_reward import (
    MEAN,
    SPREAD,
    TOKENS,
    ImageReward,
    RewardNetwork,
    load_image_reward,
    load_published,
    load_tokenizer,
)

transformers = pytest.importorskip("transformers")
BACK = (
    ("vision.embeddings.class_embedding", "blip.visual_encoder.cls_token"),
    ("vision.embeddings.position_embedding", "blip.visual_encoder.pos_embed"),
    ("vision.embeddings.patch_embedding", "blip.visual_encoder.patch_embed.proj"),
    ("vision.post_layernorm", "blip.visual_encoder.norm"),
    ("vision.encoder.layers", "blip.visual_encoder.blocks"),
    ("layer_norm", "norm"),
    ("self_attn.projection", "attn.proj"),
    ("self_attn", "attn"),
    ("text.", "blip.text_encoder."),
    ("head.", "mlp.layers."),
)


def published(name: str) -> str:
    for ours, theirs in BACK:
        name = name.replace(ours, theirs)
    return name


@pytest.fixture
def network() -> RewardNetwork:
    vision = transformers.BlipVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=16,
    )
    text = transformers.BlipTextConfig(
        vocab_size=40,
        hidden_size=16,
        encoder_hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=40,
        bos_token_id=1,
        sep_token_id=2,
        is_decoder=True,
    )
    network = RewardNetwork(vision, text).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return network


@pytest.fixture
def words(tmp_path: Path) -> Path:
    """A WordPiece tokenizer like BERT's, of a few words."""
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "red", "apple", "green", "pear"]
    content = {
        "version": "1.0",
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {word: index for index, word in enumerate(vocab)},
        },
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    return tmp_path / "tokenizer.json"


def save(network: RewardNetwork, path: Path, **more: torch.Tensor) -> Path:
    tensors = {published(name): tensor for name, tensor in network.state_dict().items()}
    torch.save({**tensors, **more}, path)
    return path


def test_published_names_load_and_the_unused_ones_are_left_out(
    network: RewardNetwork, tmp_path: Path
) -> None:
    path = save(
        network,
        tmp_path / "reward.pt",
        **{
            "blip.vision_proj.weight": torch.zeros(2, 2),
            "blip.text_encoder.embeddings.position_ids": torch.arange(40)[None],
        },
    )
    names = torch.load(path).keys()
    assert "blip.visual_encoder.blocks.1.attn.qkv.weight" in names
    assert "blip.text_encoder.encoder.layer.1.crossattention.self.key.weight" in names
    assert {name for name in names if name.startswith("mlp")} == {
        f"mlp.layers.{index}.{part}" for index in (0, 2, 4, 6, 7) for part in ("weight", "bias")
    }
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    for parameter in network.parameters():
        parameter.data.zero_()
    load_published(network, path)
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(tensor, before[name])


def test_a_missing_and_a_foreign_weight_are_named(network: RewardNetwork, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"blip\.extra"):
        load_published(network, save(network, tmp_path / "a.pt", **{"blip.extra": torch.zeros(1)}))
    with pytest.raises(WeightsError, match=r"mlp\.layers\.7\.bias is \(9,\)"):
        load_published(network, save(network, tmp_path / "b.pt", **{"mlp.layers.7.bias": torch.zeros(9)}))


def test_a_reward_depends_on_picture_and_prompt_but_not_on_the_batch(
    network: RewardNetwork, words: Path
) -> None:
    reward = ImageReward(network, load_tokenizer(words))
    red, green = (Image.new("RGB", (40, 32), colour) for colour in ("red", "green"))
    together = reward([red, red, green], ["a red apple", "a green pear", "a red apple"])
    assert len({round(value, 6) for value in together}) == 3
    alone = [reward([red], ["a red apple"])[0], reward([red], ["a green pear"])[0]]
    assert together[:2] == pytest.approx(alone, rel=1e-4)


def test_padding_of_a_prompt_does_not_count(network: RewardNetwork) -> None:
    pictures = torch.randn(1, 3, 32, 32)
    tokens, mask = torch.tensor([[2, 4, 5, 3]]), torch.ones(1, 4, dtype=torch.long)
    padded = torch.tensor([[2, 4, 5, 3, 9, 9]])
    with torch.no_grad():
        plain = network(pictures, tokens, mask)
        torch.testing.assert_close(
            network(pictures, padded, torch.tensor([[1, 1, 1, 1, 0, 0]])), plain, atol=1e-4, rtol=1e-4
        )
        assert (network(pictures, padded, torch.ones(1, 6, dtype=torch.long)) - plain).abs() > 1e-3


def test_rewards_are_scaled_to_the_authors_pictures(network: RewardNetwork) -> None:
    for parameter in network.head.parameters():
        parameter.data.zero_()
    bias = network.head[-1].bias
    assert isinstance(bias, torch.Tensor)
    bias.data.fill_(MEAN + SPREAD)
    one = torch.ones(1, 1, dtype=torch.long)
    with torch.no_grad():
        assert float(network(torch.randn(1, 3, 32, 32), one, one)) == pytest.approx(1)


def test_prompts_are_cut_and_filled_to_35_tokens(words: Path) -> None:
    tokenizer = load_tokenizer(words)
    for text in ("a red apple", "a " * 90):
        encoded = tokenizer.encode(text)
        assert len(encoded.ids) == TOKENS
        assert encoded.ids[0] == 2
    assert sum(tokenizer.encode("a red apple").attention_mask) == 5
    assert tokenizer.encode("a " * 90).ids[-1] == 3


def test_missing_files_are_named(tmp_path: Path, words: Path) -> None:
    with pytest.raises(WeightsError, match=r"ImageReward\.pt is missing"):
        load_image_reward(tmp_path, words)
    assert image_reward.REPO == "zai-org/ImageReward"
