"""Train a DC-AE decoder to draw pictures from latents: L1 on pixels and on their gradients, coarse and fine.

The encoder stays as it is (its linear start, or published weights), so latents keep their meaning while the
decoder learns: a diffusion model can be trained on them at the same time.

Shapes: B batch, S crop side in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from sanakit.errors import SettingsError
from sanakit.eval.similarity import psnr, ssim
from sanakit.models.dc_ae import DCAE
from sanakit.train.sheets import contact_sheet


class AutoencoderObjective:
    """Reconstruct crops of images, on the model's device; see the module's text.

    model: both halves; its encoder is frozen. images: N H W 3 uint8. weights: N, how often each is drawn.
    held_out: indices to measure on, at least one. crop: side of the training crops in pixels, a multiple of
    the model's compression. whole_from: step from which batches hold whole images, a quarter as many.
    latent_noise: standard deviations of noise on the latents are drawn from [0, latent_noise], so that the
    decoder forgives what a diffusion model gets wrong. Raises SettingsError if the model lacks a half.
    """

    def __init__(
        self,
        model: DCAE,
        images: np.ndarray,
        weights: np.ndarray,
        held_out: Sequence[int],
        *,
        batch_size: int,
        crop: int = 128,
        whole_from: int = 10**9,
        latent_noise: float = 0.0,
    ) -> None:
        if model.encoder is None or model.decoder is None:
            raise SettingsError("An autoencoder is trained whole: build the DC-AE with part='both'.")
        self.autoencoder = model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        model.encoder.requires_grad_(False)
        self.model: nn.Module = model
        self.images, self.weights = images, torch.from_numpy(weights)
        self.batch_size, self.crop = batch_size, crop
        self.whole_from, self.latent_noise = whole_from, latent_noise
        self.device = next(model.parameters()).device
        self.reference = to_tensor(images[sorted(held_out)]).to(self.device)

    def loss(self, step: int, generator: torch.Generator) -> Tensor:
        """Reconstruction loss of a batch of crops."""
        whole = step >= self.whole_from
        count = max(1, self.batch_size // 4) if whole else self.batch_size
        pictures = self._crops(count, self.images.shape[1] if whole else self.crop, generator)
        with torch.no_grad():
            latents = self.autoencoder.encode(pictures)
        if self.latent_noise:
            strength = torch.rand(count, 1, 1, 1, generator=generator) * self.latent_noise
            noise = strength * torch.randn(latents.shape, generator=generator)
            latents = latents + noise.to(self.device)
        return reconstruction_loss(self.autoencoder.decode(latents).float(), pictures)

    @torch.no_grad()
    def evaluate(self, averaged: nn.Module) -> dict[str, float]:
        """PSNR in dB and SSIM on the held-out images."""
        drawn = self._reconstruct(averaged, self.reference)
        pairs = zip(
            drawn.split(1), self.reference.split(1), strict=True
        )  # one by one: SSIM takes much memory
        return {
            "psnr": psnr(drawn, self.reference).mean().item(),
            "ssim": torch.cat([ssim(*pair) for pair in pairs]).mean().item(),
        }

    @torch.no_grad()
    def sheet(self, averaged: nn.Module) -> Image.Image:
        """Held-out originals in up to three whole rows, each followed by its reconstructions."""
        columns = min(10, len(self.reference))
        originals = self.reference[:: max(1, len(self.reference) // 30)][:30]
        originals = originals[: len(originals) // columns * columns]
        drawn = self._reconstruct(averaged, originals)
        pairs = zip(originals.split(columns), drawn.split(columns), strict=True)
        return contact_sheet(torch.cat([row for pair in pairs for row in pair]), columns)

    def _crops(self, count: int, side: int, generator: torch.Generator) -> Tensor:
        chosen = torch.multinomial(self.weights, count, replacement=True, generator=generator).tolist()
        room = self.images.shape[1] - side + 1
        corners = torch.randint(room, (count, 2), generator=generator).tolist()
        crops = [
            self.images[i][y : y + side, x : x + side] for i, (y, x) in zip(chosen, corners, strict=True)
        ]
        pictures = to_tensor(np.stack(crops))
        mirrored = torch.rand(count, generator=generator) < 0.5
        pictures[mirrored] = pictures[mirrored].flip(-1)
        return pictures.to(self.device)

    @staticmethod
    def _reconstruct(averaged: nn.Module, pictures: Tensor) -> Tensor:
        assert isinstance(averaged, DCAE)
        return torch.cat([averaged.decode(averaged.encode(part)) for part in pictures.split(8)]).clamp(-1, 1)


def to_tensor(images: np.ndarray) -> Tensor:
    """B H W 3 uint8 -> B 3 H W float in [-1, 1], channels last in memory."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float().div(127.5).sub(1)


def reconstruction_loss(drawn: Tensor, wanted: Tensor) -> Tensor:
    """L1 on pixels, on 8x8 means (tone) and on differences of neighbours at two scales (edges)."""
    loss = F.l1_loss(drawn, wanted) + F.l1_loss(F.avg_pool2d(drawn, 8), F.avg_pool2d(wanted, 8))
    error = drawn - wanted
    for scale in (error, F.avg_pool2d(error, 2)):
        loss = loss + scale.diff(dim=-1).abs().mean() + scale.diff(dim=-2).abs().mean()
    return loss
