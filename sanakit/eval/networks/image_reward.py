"""ImageReward v1.0: which image people would prefer for a prompt, as a number of mean 0 and spread 1.

Source: Xu et al. 2023 (arXiv:2304.05977). A BLIP (ViT-L/16 at 224 px, BERT base reading the image by
cross-attention), then five linear layers on the first token. Weights: ImageReward.pt of zai-org/ImageReward
(Apache-2.0, 1.8 GB). Their own package is pinned to libraries of 2022 (timm 0.6, fairscale, torchvision) and
does not load with today's. transformers has both towers, so only their names are translated here.
Shapes: B images, T tokens, E = 768.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from sanakit.errors import MissingExtraError, WeightsError
from sanakit.eval.folder import clip_pixels
from sanakit.weights.find.hub import fetch_files
from sanakit.weights.read.files import open_file

REPO, FILE = "zai-org/ImageReward", "ImageReward.pt"
TOKENIZER = "google-bert/bert-base-uncased"
MEAN, SPREAD = 0.16717362830052426, 1.0333394966054072  # of raw rewards over the authors' images
TOKENS = 35  # of a prompt; the rest is cut off
HIDDEN = (1024, 128, 64, 16, 1)  # linear layers; there is nothing between them but dropout
_DROPOUT_AFTER = (0, 1, 2)  # which decides the numbers in the names of the layers behind
_UNUSED = re.compile(r"blip\.(vision|text)_proj\.|.*\.position_ids$")  # of pretraining; a counter

# Names of the weight file -> of transformers' BLIP.
_RENAMED = (
    (r"^blip\.visual_encoder\.cls_token$", "vision.embeddings.class_embedding"),
    (r"^blip\.visual_encoder\.pos_embed$", "vision.embeddings.position_embedding"),
    (r"^blip\.visual_encoder\.patch_embed\.proj\.", "vision.embeddings.patch_embedding."),
    (r"^blip\.visual_encoder\.norm\.", "vision.post_layernorm."),
    (r"^blip\.visual_encoder\.blocks\.(\d+)\.norm(\d)\.", r"vision.encoder.layers.\1.layer_norm\2."),
    (r"^blip\.visual_encoder\.blocks\.(\d+)\.attn\.qkv\.", r"vision.encoder.layers.\1.self_attn.qkv."),
    (
        r"^blip\.visual_encoder\.blocks\.(\d+)\.attn\.proj\.",
        r"vision.encoder.layers.\1.self_attn.projection.",
    ),
    (r"^blip\.visual_encoder\.blocks\.(\d+)\.mlp\.", r"vision.encoder.layers.\1.mlp."),
    (r"^blip\.text_encoder\.", "text."),
    (r"^mlp\.layers\.", "head."),
)


class RewardNetwork(nn.Module):
    """The two towers and the head; sizes of the published weights unless configs say otherwise."""

    def __init__(self, vision: Any = None, text: Any = None) -> None:
        super().__init__()
        from transformers import BlipTextConfig, BlipVisionConfig
        from transformers.models.blip.modeling_blip import BlipVisionModel
        from transformers.models.blip.modeling_blip_text import BlipTextModel

        vision = vision or BlipVisionConfig(
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=24,
            num_attention_heads=16,
            image_size=224,
            patch_size=16,
            layer_norm_eps=1e-6,
        )
        text = text or BlipTextConfig(
            vocab_size=30524,
            hidden_size=768,
            encoder_hidden_size=1024,
            intermediate_size=3072,
            num_hidden_layers=12,
            num_attention_heads=12,
            max_position_embeddings=512,
            layer_norm_eps=1e-12,
            is_decoder=True,  # the only way to get cross-attention; it is not used as one
        )
        self.vision, self.text = BlipVisionModel(vision), BlipTextModel(text, add_pooling_layer=False)
        layers: list[nn.Module] = []
        width = text.hidden_size
        for index, outputs in enumerate(HIDDEN):
            layers.append(nn.Linear(width, outputs))
            if index in _DROPOUT_AFTER:
                layers.append(nn.Identity())
            width = outputs
        self.head = nn.Sequential(*layers)

    def forward(self, pixels: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """Return the rewards, B. pixels: B 3 224 224.   tokens, mask: B T."""
        seen = self.vision(pixel_values=pixels).last_hidden_state  # B N 1024
        read = self.text(
            input_ids=tokens,
            attention_mask=mask,
            encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(seen.shape[:2], dtype=torch.long, device=seen.device),
        ).last_hidden_state  # B T 768
        return (self.head(read[:, 0].float())[:, 0] - MEAN) / SPREAD


@dataclass(frozen=True, slots=True, eq=False)
class ImageReward:
    """The network and BERT's tokenizer."""

    network: RewardNetwork
    tokenizer: Any

    @torch.no_grad()
    def __call__(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[float]:
        """Reward each image by its own prompt; higher is better, mostly within -2.5 and 2."""
        device = next(self.network.parameters()).device
        encoded = self.tokenizer.encode_batch(list(prompts))
        tokens = torch.tensor([one.ids for one in encoded], device=device)
        mask = torch.tensor([one.attention_mask for one in encoded], device=device)
        side: int = self.network.vision.config.image_size  # pyright: ignore[reportAssignmentType]
        pixels = torch.stack([clip_pixels(image, side) for image in images]).to(device)
        return self.network(pixels, tokens, mask).tolist()


def load_image_reward(
    place: str | Path = REPO, tokenizer: str | Path = TOKENIZER, device: str | torch.device = "cpu"
) -> ImageReward:
    """Load the published weights.

    place: ImageReward.pt, its folder, or a Hub repository.   tokenizer: tokenizer.json of BERT base uncased,
    its folder, or a Hub repository. Raises MissingExtraError, ModelNotFoundError, WeightsError.
    """
    try:
        import transformers  # noqa: F401
    except ImportError:
        raise MissingExtraError("transformers", "eval") from None
    path = fetch_files(str(place), [FILE])
    path = path / FILE if path.is_dir() else path
    words = fetch_files(str(tokenizer), ["tokenizer.json"])
    words = words / "tokenizer.json" if words.is_dir() else words
    for needed in (path, words):
        if not needed.is_file():
            raise WeightsError(f"{needed} is missing: ImageReward needs {FILE} and BERT's tokenizer.json.")
    network = RewardNetwork()
    load_published(network, path)
    return ImageReward(network.eval().requires_grad_(False).to(device), load_tokenizer(words))


def load_published(network: RewardNetwork, path: Path) -> None:
    """Put the weights of ImageReward.pt into the network. Raises WeightsError, naming a key that is odd."""
    files = open_file(path)
    names = {translate(name): name for name in files.infos if not _UNUSED.match(name)}
    own = network.state_dict()
    if odd := sorted(own.keys() ^ names.keys()):
        raise WeightsError(
            f"{path} is not {FILE}: {len(odd)} weights are missing or unknown, such as "
            f"{names.get(odd[0], odd[0])}."
        )
    tensors = {name: files.read(stored).float() for name, stored in names.items()}
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape:
            raise WeightsError(
                f"{path} is not {FILE}: {names[name]} is {tuple(tensor.shape)}, not {tuple(own[name].shape)}."
            )
    network.load_state_dict(tensors, assign=True)


def translate(name: str) -> str:
    """Return transformers' name for one of the weight file.

    >>> translate("blip.visual_encoder.blocks.3.attn.proj.bias")
    'vision.encoder.layers.3.self_attn.projection.bias'
    """
    for pattern, ours in _RENAMED:
        name, count = re.subn(pattern, ours, name)
        if count:
            break
    return name


def load_tokenizer(path: Path) -> Any:
    """Load BERT's tokenizer, with texts truncated and padded to TOKENS. Raises WeightsError."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises plain Exception
        raise WeightsError(f"{path} is not a tokenizer ({error}): fetch it again.") from error
    tokenizer.enable_truncation(TOKENS)
    tokenizer.enable_padding(length=TOKENS, pad_id=tokenizer.token_to_id("[PAD]") or 0)
    return tokenizer
