"""Train a DC-AE, whole or in part: the phases of the paper (arXiv:2410.10733, section 3.3) are settings here.

1. Low resolution, everything: `parts="whole"`, L1 and a perceptual term, which are enough for content.
2. High resolution, the latents adapt: `parts="middle"`, the same terms. Weights learnt at low resolution
stay; only the coarsest stages and the layers at the latents learn how large images differ. 3. Low resolution,
local refinement: `parts="head"`, an adversarial term besides. Texture is local, so the decoder's last layers
are enough for it. Latents stay unchanged, and the adversarial term, unstable and costly at high resolution,
is not needed there. `parts="decoder"` refines a decoder behind latents that a diffusion model knows already.

The adversarial term has a fixed weight. The usual adaptive one, the ratio of two gradients' norms at the last
layer (Esser et al. 2021, arXiv:2012.09841), is a property of a whole batch. Parts of a batch on several ranks
would each have their own, and their losses would not add up to the whole's.

Shapes: B images, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from sanakit.errors import SettingsError
from sanakit.eval.metrics.similarity import psnr, ssim
from sanakit.images.sheets import contact_sheet
from sanakit.models.dc_ae import DCAE, Decoder, Encoder
from sanakit.seeds import sample_generator
from sanakit.train.feeds.images import ImageFeed
from sanakit.train.losses.discriminator import PatchDiscriminator, decoder_loss, hinge_loss
from sanakit.train.losses.perceptual import PerceptualDistance
from sanakit.train.parts import Part
from sanakit.train.state.average import part_of

Parts = Literal["whole", "decoder", "middle", "head"]
AUTOENCODER, DISCRIMINATOR = "autoencoder", "discriminator"  # names of the two when both are trained


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """Weights of the loss's terms; 0 leaves a term out. Raises SettingsError below 0."""

    pixels: float = 1.0  # L1
    tone: float = 0.0  # L1 on means of 8x8 pixels
    edges: float = 0.0  # L1 on differences of neighbours, at two scales
    perceptual: float = 0.0  # EfficientNet's features (extra [eval])
    adversarial: float = 0.0  # the discriminator's judgement
    adversarial_from: int = 0  # step from which it counts; the discriminator learns from the first step on

    def __post_init__(self) -> None:
        weights = (self.pixels, self.tone, self.edges, self.perceptual, self.adversarial)
        if min(weights) < 0 or not any(weights[:4]):
            raise SettingsError(
                f"{self}: weights must not be negative, and one besides the adversarial term's above 0."
            )


@dataclass(frozen=True, slots=True)
class ReconstructionBatch:
    """A part of a global batch, drawn: what the loss is computed from."""

    images: Tensor  # B 3 H W
    noise: Tensor  # added to their latents
    shares: Tensor  # B, what each counts in the mean over the global batch
    adversarial: float  # weight of the discriminator's judgement at this step


class AutoencoderObjective:
    """Reconstruct images, on the model's device; see the module's text.

    model: both halves; it is changed to train `parts` only. images: what it learns from; their sides are
    multiples of the model's compression. reference: B 3 H W in [-1, 1], held-out images to measure on, at
    least one. seed: of the noise. latent_noise: its standard deviations are drawn from [0, latent_noise], so
    that the decoder forgives what a diffusion model gets wrong. distance: compares drawn and wanted images,
    both B 3 H W, and gives B; None: PerceptualDistance. discriminator: None: PatchDiscriminator.
    Raises SettingsError if the model lacks a half, MissingExtraError for a perceptual term without [eval].
    """

    def __init__(
        self,
        model: DCAE,
        images: ImageFeed,
        reference: Tensor,
        *,
        parts: Parts = "decoder",
        terms: Terms | None = None,
        seed: int = 0,
        latent_noise: float = 0.0,
        distance: nn.Module | None = None,
        discriminator: nn.Module | None = None,
    ) -> None:
        self.autoencoder = model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.device = next(model.parameters()).device
        self.images, self.reference = images, reference.to(self.device)
        self.terms, self.seed, self.latent_noise = terms or Terms(), seed, latent_noise
        encoder, _ = train_only(model, parts)
        self.encoder_moves = any(parameter.requires_grad for parameter in encoder.parameters())
        self.distance = None
        if self.terms.perceptual:
            compare = (distance or PerceptualDistance()).to(self.device)
            self.distance = compare.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.model: nn.Module = model
        if self.terms.adversarial:
            judge = discriminator or PatchDiscriminator()
            self.model = nn.ModuleDict({AUTOENCODER: model, DISCRIMINATOR: judge.to(self.device)})

    def begin(self, first: int, parts: Sequence[Part]) -> None:
        """Get the images ready."""
        self.images.begin(first, parts)

    def batch(self, step: int, part: Part) -> ReconstructionBatch:
        """Draw a part of a step's images, and noise for their latents."""
        drawn = self.images.batch(step, part)
        config = self.autoencoder.config
        height, width = (side // config.compression for side in drawn.images.shape[-2:])
        noise = torch.zeros((), dtype=torch.float32)
        if self.latent_noise:
            generators = [
                sample_generator(self.seed, step, i) for i in range(drawn.part.start, drawn.part.stop)
            ]
            shape = (config.latent_channels, height, width)
            noise = torch.stack(
                [
                    torch.rand((), generator=g, dtype=torch.float32)
                    * torch.randn(shape, generator=g, dtype=torch.float32)
                    for g in generators
                ]
            )
        return ReconstructionBatch(
            images=drawn.images.to(self.device),
            noise=(noise * self.latent_noise).to(self.device),
            shares=drawn.shares.to(self.device),
            adversarial=self.terms.adversarial if step >= self.terms.adversarial_from else 0.0,
        )

    def loss(self, batch: ReconstructionBatch) -> Tensor:
        """Return all loss terms of a part, with the discriminator's, times its share of the global batch."""
        with torch.set_grad_enabled(self.encoder_moves):
            latents = self.autoencoder.encode(batch.images)
        drawn = self.autoencoder.decode(latents + batch.noise).float()
        losses = reconstruction_loss(drawn, batch.images, self.terms)
        if self.distance is not None:
            losses = losses + self.terms.perceptual * self.distance(drawn, batch.images)
        if self.terms.adversarial:
            judge = cast(nn.ModuleDict, self.model)[DISCRIMINATOR]
            losses = losses + hinge_loss(judge, drawn, batch.images)
            if batch.adversarial:
                losses = losses + batch.adversarial * decoder_loss(judge, drawn)
        return (losses * batch.shares).sum()  # autocast would round a product of matrices

    def filled(self, batch: ReconstructionBatch) -> Tensor:
        """Return the share of the global batch that the part's images are."""
        return batch.shares.sum()

    @torch.no_grad()
    def evaluate(self, averaged: nn.Module) -> dict[str, float]:
        """PSNR in dB and SSIM on the held-out images; the perceptual distance; the discriminator's hinge
        loss, 2 where it knows nothing and 0 where it always knows."""
        drawn = self._reconstruct(averaged, self.reference)
        pairs = list(zip(drawn.split(1), self.reference.split(1), strict=True))  # SSIM takes much memory
        measured = {
            "psnr": psnr(drawn, self.reference).mean().item(),
            "ssim": torch.cat([ssim(*pair) for pair in pairs]).mean().item(),
        }
        if self.distance is not None:
            measured["perceptual"] = torch.cat([self.distance(*pair) for pair in pairs]).mean().item()
        if self.terms.adversarial:
            judge = cast(nn.ModuleDict, averaged)[DISCRIMINATOR]
            measured["hinge"] = torch.cat([hinge_loss(judge, *pair) for pair in pairs]).mean().item()
        return measured

    @torch.no_grad()
    def sheet(self, averaged: nn.Module) -> Image.Image:
        """Held-out originals in up to three whole rows, each followed by its reconstructions."""
        columns = min(10, len(self.reference))
        originals = self.reference[:: max(1, len(self.reference) // 30)][:30]
        originals = originals[: len(originals) // columns * columns]
        drawn = self._reconstruct(averaged, originals)
        pairs = zip(originals.split(columns), drawn.split(columns), strict=True)
        return contact_sheet(torch.cat([row for pair in pairs for row in pair]), columns)

    @staticmethod
    def _reconstruct(averaged: nn.Module, images: Tensor) -> Tensor:
        codec = autoencoder_of(averaged)
        return torch.cat([codec.decode(codec.encode(part)) for part in images.split(8)]).clamp(-1, 1)


def train_only(model: DCAE, parts: Parts) -> tuple[Encoder, Decoder]:
    """Let gradients reach these parts of the autoencoder and no others; return its halves.

    parts: "whole"; "decoder"; "middle": the coarsest stage of both halves with the layer at the latents;
    "head": the decoder's finest stage and the layers behind it. Batch norms keep their running statistics:
    they are part of what the other layers were trained with.
    Raises SettingsError for other parts, or if the model lacks a half.
    """
    encoder, decoder = model.encoder, model.decoder
    if encoder is None or decoder is None:
        raise SettingsError("An autoencoder is trained whole: build the DC-AE with part='both'.")
    finest = next(stage for stage in decoder.up_blocks if len(cast(nn.Sequential, stage)))
    chosen: dict[str, list[nn.Module]] = {
        "whole": [encoder, decoder],
        "decoder": [decoder],
        "middle": [encoder.down_blocks[-1], encoder.conv_out, decoder.conv_in, decoder.up_blocks[-1]],
        "head": [finest, decoder.norm_out, decoder.conv_out],
    }
    if parts not in chosen:
        raise SettingsError(f"parts is {parts!r}: it must be one of {', '.join(get_args(Parts))}.")
    model.requires_grad_(False)
    for module in chosen[parts]:
        module.requires_grad_(True)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return encoder, decoder


def autoencoder_of(trained: nn.Module) -> DCAE:
    """Return the autoencoder of a model that was trained with or without a discriminator."""
    found = trained[AUTOENCODER] if isinstance(trained, nn.ModuleDict) else trained
    return cast(DCAE, found)


def autoencoder_state(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the autoencoder's part of a checkpoint's weights, with or without a discriminator among them."""
    return part_of(weights, AUTOENCODER) or weights


def reconstruction_loss(drawn: Tensor, wanted: Tensor, terms: Terms) -> Tensor:
    """Return the terms that compare pixels, of each image, B, by their weights. drawn, wanted: B 3 H W."""
    error = drawn - wanted
    loss = terms.pixels * _mean(error.abs())
    if terms.tone:
        loss = loss + terms.tone * _mean(F.avg_pool2d(error, 8).abs())
    if terms.edges:
        for scale in (error, F.avg_pool2d(error, 2)):
            edges = _mean(scale.diff(dim=-1).abs()) + _mean(scale.diff(dim=-2).abs())
            loss = loss + terms.edges * edges
    return loss


def _mean(values: Tensor) -> Tensor:
    return values.flatten(1).mean(1)
