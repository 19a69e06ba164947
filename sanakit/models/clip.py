"""CLIP: images and texts as vectors in one space, near each other where they belong together.

Source: Radford et al. 2021 (arXiv:2103.00020); behaviour and state-dict keys equal transformers' CLIPModel.
Shapes: B images or texts, P patches, L tokens, D width of a tower, E width of the common space.
Two pre-norm transformers. The image's attends to a class token and all patches. The text's is causal and read
at the first end-of-text token, so later tokens never count and need no mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sanakit.errors import SettingsError, WeightsError

Activation = Literal["quick_gelu", "gelu"]
# The published folders say eos_token_id = 2, which no text ends with: they are read at the highest token id.
LEGACY_EOS = 2
LOGIT_SCALE = 2.6592  # ln(1 / 0.07), where training begins


@dataclass(frozen=True, kw_only=True, slots=True)
class TowerConfig:
    """Size of one of the two transformers."""

    width: int  # D
    depth: int
    heads: int
    mlp_width: int
    activation: Activation = "quick_gelu"
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        sizes = (self.width, self.depth, self.heads, self.mlp_width)
        if not all(isinstance(size, int) and size > 0 for size in sizes) or self.width % self.heads:
            raise SettingsError(
                f"CLIP: width {self.width}, depth {self.depth}, heads {self.heads} and MLP width "
                f"{self.mlp_width} must be above 0, and the width a multiple of the heads."
            )
        if self.activation not in ("quick_gelu", "gelu"):
            raise SettingsError(
                f"CLIP: the activation is {self.activation!r}; it must be quick_gelu or gelu."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipConfig:
    """Size of a CLIP."""

    vision: TowerConfig
    text: TowerConfig
    image_size: int  # pixels a side
    patch_size: int  # pixels a side
    vocab_size: int
    max_tokens: int  # L, with begin and end of text
    eos_token: int
    embed_width: int  # E

    def __post_init__(self) -> None:
        sizes = (self.image_size, self.patch_size, self.vocab_size, self.max_tokens, self.embed_width)
        if not all(isinstance(size, int) and size > 0 for size in sizes) or self.image_size < self.patch_size:
            raise SettingsError(
                "CLIP: image_size, patch_size, vocab_size, max_tokens and embed_width are "
                f"{', '.join(map(str, sizes))}; they must be above 0, and a patch no larger than the image."
            )

    @classmethod
    def from_transformers(cls, config: dict[str, Any]) -> ClipConfig:
        """Read the content of a CLIPModel's `config.json`; absent fields have transformers' defaults.

        Raises WeightsError when it describes another architecture or sizes that do not go together.
        """
        if config.get("model_type") != "clip":
            raise WeightsError(
                f"config.json describes a {config.get('model_type')!r}, not a CLIP: use the folder of a "
                "CLIPModel, such as openai/clip-vit-large-patch14."
            )
        # Old folders hold the sizes twice; transformers lets the second place win.
        text, vision = (
            {**(config.get(f"{name}_config") or {}), **(config.get(f"{name}_config_dict") or {})}
            for name in ("text", "vision")
        )
        if vision.get("num_channels", 3) != 3:
            raise WeightsError(f"This CLIP expects {vision['num_channels']} channels; images have 3.")
        try:
            return cls(
                vision=_read_tower(vision, width=768, heads=12),
                text=_read_tower(text, width=512, heads=8),
                image_size=vision.get("image_size", 224),
                patch_size=vision.get("patch_size", 32),
                vocab_size=text.get("vocab_size", 49408),
                max_tokens=text.get("max_position_embeddings", 77),
                eos_token=text.get("eos_token_id", 49407),
                embed_width=config.get("projection_dim", 512),
            )
        except SettingsError as error:
            raise WeightsError(f"config.json describes an unsupported CLIP ({error})") from None

    def to_transformers(self) -> dict[str, Any]:
        """Return the `config.json` content from which transformers builds the same CLIPModel."""
        return {
            "architectures": ["CLIPModel"],
            "model_type": "clip",
            "projection_dim": self.embed_width,
            "logit_scale_init_value": LOGIT_SCALE,
            "text_config": {
                "model_type": "clip_text_model",
                **_write_tower(self.text),
                "projection_dim": self.embed_width,
                "vocab_size": self.vocab_size,
                "max_position_embeddings": self.max_tokens,
                "bos_token_id": self.eos_token - 1 if self.eos_token != LEGACY_EOS else 0,
                "eos_token_id": self.eos_token,
                "pad_token_id": self.eos_token,
            },
            "vision_config": {
                "model_type": "clip_vision_model",
                **_write_tower(self.vision),
                "projection_dim": self.embed_width,
                "image_size": self.image_size,
                "patch_size": self.patch_size,
                "num_channels": 3,
            },
        }


class Clip(nn.Module):
    """Two towers with a common space; `logit_scale` is the logarithm of the factor on cosines."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.config = config
        self.text_model = TextTower(config)
        self.vision_model = VisionTower(config)
        self.visual_projection = nn.Linear(config.vision.width, config.embed_width, bias=False)
        self.text_projection = nn.Linear(config.text.width, config.embed_width, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(LOGIT_SCALE))

    def forward(self, pixels: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return vectors of images and of texts, each of length 1; see `images` and `texts`."""
        return self.images(pixels), self.texts(tokens)

    def images(self, pixels: Tensor) -> Tensor:
        """Embed normalised images, B 3 S S with S = image_size, as vectors of length 1, B E."""
        return F.normalize(self.visual_projection(self.vision_model(pixels)).float(), dim=-1)

    def texts(self, tokens: Tensor) -> Tensor:
        """Embed token ids, B L (any values after the end of text), as vectors of length 1, B E.

        L: at most max_tokens.
        """
        return F.normalize(self.text_projection(self.text_model(tokens)).float(), dim=-1)

    def init_weights(self) -> None:
        """Draw the first values for training from nothing, as transformers does (Radford et al. 2021)."""
        for tower, config in ((self.text_model, self.config.text), (self.vision_model, self.config.vision)):
            inner = config.width**-0.5 * (2 * config.depth) ** -0.5
            for layer in tower.encoder.layers:
                assert isinstance(layer, ClipLayer)
                attn = layer.self_attn
                for linear in (attn.q_proj, attn.k_proj, attn.v_proj, layer.mlp.fc2):
                    nn.init.normal_(linear.weight, std=inner)
                nn.init.normal_(attn.out_proj.weight, std=config.width**-0.5)
                nn.init.normal_(layer.mlp.fc1.weight, std=(2 * config.width) ** -0.5)
        for linear in (self.visual_projection, self.text_projection):
            nn.init.normal_(linear.weight, std=linear.in_features**-0.5)
        for name, parameter in self.named_parameters():
            if "embedding" in name:
                nn.init.normal_(parameter, std=0.02)
            elif name.endswith(("_proj.bias", "fc1.bias", "fc2.bias")):
                nn.init.zeros_(parameter)


class TextTower(nn.Module):
    """Tokens to the state at each text's end, B L to B D."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.eos_token = config.eos_token
        self.embeddings = TextEmbeddings(config)
        self.encoder = ClipEncoder(config.text)
        self.final_layer_norm = nn.LayerNorm(config.text.width, eps=config.text.norm_eps)

    def forward(self, tokens: Tensor) -> Tensor:
        """Read each row at the first end of text; in a legacy model at the first of its highest token."""
        x = self.encoder(self.embeddings(tokens), causal=True)
        ends = tokens if self.eos_token == LEGACY_EOS else (tokens == self.eos_token).int()
        rows = torch.arange(len(tokens), device=tokens.device)
        return self.final_layer_norm(x[rows, ends.argmax(dim=1)])  # of one token each: a norm sees no others


class VisionTower(nn.Module):
    """Images to the state of their class token, B 3 S S to B D."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.embeddings = VisionEmbeddings(config)
        self.pre_layrnorm = nn.LayerNorm(config.vision.width, eps=config.vision.norm_eps)  # sic: the key
        self.encoder = ClipEncoder(config.vision)
        self.post_layernorm = nn.LayerNorm(config.vision.width, eps=config.vision.norm_eps)

    def forward(self, pixels: Tensor) -> Tensor:
        """See the class."""
        x = self.encoder(self.pre_layrnorm(self.embeddings(pixels)), causal=False)
        return self.post_layernorm(x[:, 0])


class TextEmbeddings(nn.Module):
    """Token plus place, B L to B L D."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocab_size, config.text.width)
        self.position_embedding = nn.Embedding(config.max_tokens, config.text.width)

    def forward(self, tokens: Tensor) -> Tensor:
        """See the class."""
        return self.token_embedding(tokens) + self.position_embedding.weight[: tokens.shape[1]]


class VisionEmbeddings(nn.Module):
    """A class token and the patches, each plus its place: B 3 S S to B 1+P D."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        width, patch = config.vision.width, config.patch_size
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.patch_embedding = nn.Conv2d(3, width, patch, stride=patch, bias=False)
        self.position_embedding = nn.Embedding((config.image_size // patch) ** 2 + 1, width)

    def forward(self, pixels: Tensor) -> Tensor:
        """See the class."""
        patches = self.patch_embedding(pixels).flatten(2).transpose(1, 2)  # B P D
        first = self.class_embedding.to(patches.dtype).expand(len(pixels), 1, -1)
        return torch.cat([first, patches], dim=1) + self.position_embedding.weight


class ClipEncoder(nn.Module):
    """The layers of a tower, B L D to B L D."""

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList([ClipLayer(config) for _ in range(config.depth)])

    def forward(self, x: Tensor, *, causal: bool) -> Tensor:
        """causal: tokens see only those before them."""
        for layer in self.layers:
            x = layer(x, causal)
        return x


class ClipLayer(nn.Module):
    """Attention and MLP, each after its norm and added to its input."""

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        self.self_attn = ClipAttention(config)
        self.layer_norm1 = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.mlp = MLP(config)
        self.layer_norm2 = nn.LayerNorm(config.width, eps=config.norm_eps)

    def forward(self, x: Tensor, causal: bool) -> Tensor:
        """See the class."""
        x = x + self.self_attn(self.layer_norm1(x), causal)
        return x + self.mlp(self.layer_norm2(x))


class ClipAttention(nn.Module):
    """Softmax attention of several heads."""

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.k_proj, self.v_proj, self.q_proj, self.out_proj = (
            nn.Linear(config.width, config.width) for _ in range(4)
        )

    def forward(self, x: Tensor, causal: bool) -> Tensor:
        """See the class."""
        query, key, value = (
            linear(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # B h L d
            for linear in (self.q_proj, self.k_proj, self.v_proj)
        )
        y = F.scaled_dot_product_attention(query, key, value, is_causal=causal)
        return self.out_proj(y.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Two linear layers around the activation."""

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        self.activation = config.activation
        self.fc1 = nn.Linear(config.width, config.mlp_width)
        self.fc2 = nn.Linear(config.mlp_width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        x = self.fc1(x)
        return self.fc2(F.gelu(x) if self.activation == "gelu" else x * torch.sigmoid(1.702 * x))


def _read_tower(config: dict[str, Any], *, width: int, heads: int) -> TowerConfig:
    return TowerConfig(
        width=config.get("hidden_size", width),
        depth=config.get("num_hidden_layers", 12),
        heads=config.get("num_attention_heads", heads),
        mlp_width=config.get("intermediate_size", 4 * width),
        activation=config.get("hidden_act", "quick_gelu"),
        norm_eps=config.get("layer_norm_eps", 1e-5),
    )


def _write_tower(config: TowerConfig) -> dict[str, Any]:
    return {
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "intermediate_size": config.mlp_width,
        "hidden_act": config.activation,
        "layer_norm_eps": config.norm_eps,
    }
