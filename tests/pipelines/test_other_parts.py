"""Parts that only keep the contracts of `models/contracts.py` draw like the published ones.

None of them is a `Sana`, a `DCAE` or a `TextEncoder`. The velocity of the transformer points to an image that
the prompt's features say. On the straight path of flow matching every solver then ends in that image; the
codec repeats each latent 8 times, so the pixels follow as well.
Shapes: B samples, C h w latents, L E text features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from sanakit.bench.speed import _work
from sanakit.dialect import Dialect
from sanakit.errors import MemoryLimitError, SettingsError
from sanakit.images.image import to_levels
from sanakit.models.contracts import Codec, LatentShape, TextModel, VelocityModel
from sanakit.models.layers import TextKeysValues
from sanakit.models.sana import TextContext
from sanakit.pipelines.batch import draw_group
from sanakit.pipelines.image_to_image import ImageToImage
from sanakit.pipelines.inpaint import Inpaint
from sanakit.pipelines.memory import Planner
from sanakit.pipelines.prompt_file import PromptImage
from sanakit.pipelines.request import check_request
from sanakit.pipelines.text_to_image import TextToImage

CHANNELS, SIDE = 3, 8  # of latents; pixels of a latent
SIZE = {"width": 96, "height": 64}


@dataclass(frozen=True)
class OtherConfig:
    """The sizes that drawing depends on, and no others."""

    latent_channels: int = CHANNELS
    sample_size: int = 8
    text_width: int = CHANNELS
    width: int = 4
    depth: int = 2
    mlp_ratio: float = 2.0
    guidance_embed: bool = False
    time_scale: float = 1000.0


class OtherTransformer(nn.Module):
    """Points to latents of the one colour that the last feature of the prompt says."""

    def __init__(self) -> None:
        super().__init__()
        self.config = OtherConfig()
        self.blocks = nn.ModuleList([nn.Linear(2, 2), nn.Linear(3, 3)])
        self.seen: list[nn.Module] = []

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    def prepare(
        self, features: Sequence[Tensor], counts: Sequence[int] | None = None, eps: float | None = None
    ) -> TextContext:
        prompts = zip(features, counts or [1] * len(features), strict=True)
        return TextContext([[TextKeysValues(count, key=text[None]) for text, count in prompts]])

    def velocity(
        self,
        latents: Tensor,
        t: float | Tensor,
        context: TextContext,
        guidance: float | Tensor | None = None,
        *,
        after_block: Callable[[nn.Module], object] | None = None,
    ) -> Tensor:
        for block in self.blocks if after_block else ():
            after_block(block)
        ends = [prompt.key[0, -1] for prompt in context.layers[0] for _ in range(prompt.count)]
        target = torch.stack(ends)[..., None, None]  # B C 1 1
        times = torch.as_tensor(t, dtype=torch.float32).reshape(-1, 1, 1, 1)  # one, or one for each sample
        towards = latents / times, (1 / times).expand(len(latents), 1, 1, 1)
        x, inverse = (part.repeat(len(ends) // len(latents), 1, 1, 1) for part in towards)
        return x - target * inverse


@dataclass(frozen=True)
class OtherCodecConfig:
    """Eight pixels a latent; a decode takes what an image takes."""

    compression: int = SIDE
    latent_channels: int = CHANNELS
    scaling_factor: float = 0.5

    def default_band(self, height: int, width: int, batch: int = 1) -> float:
        return height / SIDE

    def decode_bytes(self, height: int, width: int, band: float, batch: int = 1) -> int:
        return 12 * height * width * batch


class OtherCodec(nn.Module):
    """Means of squares, and back. It has no bands."""

    def __init__(self, encoder: nn.Module | None = None) -> None:
        super().__init__()
        self.config, self.encoder, self.scale = OtherCodecConfig(), encoder, nn.Parameter(torch.ones(5))

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    def encode(self, images: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(images, SIDE)

    def decode_rows(self, latents: Tensor, band: float | None = None) -> Iterator[Tensor]:
        yield nn.functional.interpolate(latents, scale_factor=SIDE)


class Words(nn.Module):
    """A colour of each word."""

    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens, self.layers = nn.Embedding(4, CHANNELS), nn.ModuleList([nn.Linear(7, 7)])


class OtherText:
    """As many features as words; the last has the numbers that the prompt ends with."""

    def __init__(self) -> None:
        self.model, self.after_layer = Words(), None

    def told(self, prompts: Sequence[str], dialect: Dialect | None = None) -> list[str]:
        return [f"{prompt} is long" for prompt in prompts if len(prompt) > 30]

    def encode(
        self, prompts: Sequence[str], notes: list[str] | None = None, dialect: Dialect | None = None
    ) -> list[Tensor]:
        if notes is not None:
            notes += self.told(prompts, dialect)
        return [torch.tensor([[0.0] * CHANNELS, colour_of(prompt)]) for prompt in prompts]

    def encode_negative(
        self, prompts: Sequence[str], notes: list[str] | None = None, dialect: Dialect | None = None
    ) -> list[Tensor]:
        return [torch.zeros(1, CHANNELS) for _ in prompts]


def colour_of(prompt: str) -> list[float]:
    return [float(number) for number in prompt.split()[-CHANNELS:]]


@pytest.fixture
def others(pipe: TextToImage) -> TextToImage:
    """The parts above, with the settings of the tiny model."""
    transformer: VelocityModel = OtherTransformer()
    autoencoder: Codec = OtherCodec(encoder=nn.Identity())
    text: TextModel = OtherText()
    return TextToImage(transformer, autoencoder, text, pipe.settings)


def levels(colour: list[float]) -> np.ndarray:
    """The pixel that a latent's colour becomes: the latents that are drawn are scaled by half."""
    return to_levels(torch.tensor(colour).reshape(1, 3, 1, 1) / 0.5)[0, 0, 0].numpy()


@pytest.mark.parametrize("solver", ["dpm", "euler"])
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_they_draw_what_the_prompt_says(others: TextToImage, solver: str, guidance: float) -> None:
    """Guided, the target is u + w (c - u) with u = 0, the negative prompt's."""
    prompts = ["a 0.1 -0.2 0.3", "two of 0 0.1 -0.1"]
    drawn = others(prompts, seed=3, steps=4, guidance=guidance, solver=solver, **SIZE)
    for image, prompt in zip(drawn.images, prompts, strict=True):
        expected = levels([guidance * number for number in colour_of(prompt)])
        assert np.abs(np.asarray(image).astype(int) - expected).max() <= 1  # float32, rounded to 8 bits


def test_an_image_to_start_from_passes_through_the_codec(others: TextToImage) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)  # the model's own size
    image = Image.fromarray(colours.repeat(SIDE, 0).repeat(SIDE, 1))
    kept = ImageToImage(others)(image, "a 0 0 0", strength=0.0, seed=0).images[0]
    assert np.abs(np.asarray(kept).astype(int) - np.asarray(image)).max() <= 1


def test_a_mask_keeps_the_rest(others: TextToImage) -> None:
    image, mask = Image.new("RGB", (96, 64), "red"), Image.new("L", (96, 64))
    mask.paste(255, (48, 0, 96, 64))
    settings = {"seed": 0, "feather": 0, "guidance": 1.0}
    drawn = np.asarray(Inpaint(others)(image, mask, "a -0.3 0.1 0.2", **settings).images[0])
    assert (drawn[:, :48] == (255, 0, 0)).all()
    assert np.abs(drawn[:, 56:].astype(int) - levels([-0.3, 0.1, 0.2])).max() <= 1


def test_without_the_encoder_an_image_to_start_from_is_refused(others: TextToImage) -> None:
    drawing = TextToImage(others.transformer, OtherCodec(), others.text_encoder, others.settings)
    with pytest.raises(SettingsError, match="encoder=True"):
        ImageToImage(drawing)(Image.new("RGB", (96, 64)), "a 0 0 0", strength=0.5)


def test_notes_are_told_of_their_own_prompt(others: TextToImage) -> None:
    prompts = ["a 0 0 0", "a very long prompt, in many words 0.2 0.2 0.2"]
    request = check_request(others.spec, prompts, seed=0, **SIZE)
    group = [
        PromptImage(file=f"{line}.png", line=line, metadata=metadata)
        for line, metadata in enumerate(request.metadata, start=1)
    ]
    plain, long = draw_group(others, group)
    assert plain.warnings == []
    assert long.warnings == [f"{prompts[1]} is long"]


def test_the_plan_asks_codec_and_transformer(others: TextToImage) -> None:
    """By the formula of `Planner`: all weights, and the larger of the widest work of two stages."""
    planner = Planner(
        others.transformer,
        others.autoencoder,
        others.text_encoder.model,
        device=torch.device("cpu"),
        budget="all",
    )
    small, large = (planner.plan(LatentShape.image(CHANNELS, side, side), 0).peak for side in (1000, 2000))
    assert large - small == 12 * 64 * (2000**2 - 1000**2)  # bytes of a pixel, pixels of a latent
    with pytest.raises(MemoryLimitError, match="do not fit in 1 MB"):
        TextToImage(
            others.transformer, others.autoencoder, others.text_encoder, others.settings, memory="1MB"
        ).stream("a 0 0 0")


def test_bench_counts_no_work_that_it_does_not_know(others: TextToImage, pipe: TextToImage) -> None:
    assert _work(others, 96, 64) == {}
    assert _work(pipe, 96, 64)["decode"].flops > 0
