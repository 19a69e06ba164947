"""The quality of a model like pocket: all figures in one run, offline, with the package's own data.

Autoencoder: PSNR and SSIM of images it was not trained on. Recognition: 200 common things are requested,
each with its own fixed seed, and looked up among real images (see `recognition`); so are the real images
themselves (ceilings) and random ones (floor).
Shapes: B images, H W pixels, C concepts.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import Tensor

from sanakit.errors import SettingsError
from sanakit.eval.metrics.similarity import psnr, ssim
from sanakit.eval.networks.efficientnet import EfficientNetLite0, image_features, load_efficientnet
from sanakit.models.dc_ae import DCAE
from sanakit.pipelines.text_to_image import TextToImage
from sanakit.pocket.evaluate.recognition import Gallery, Shares, ceiling, floor
from sanakit.pocket.evaluate.reference import load_reference
from sanakit.weights import CATALOG, load_image_autoencoder

BATCH = 20  # images drawn, encoded or looked at in one go

OnProgress = Callable[[str, int, int], None]
"""Called with (what is being done, how much is done, how much there is)."""
Draw = Callable[[list[str], int], Tensor]
"""Draws prompts, B 3 H W in [-1, 1]; the number is the seed of the first, the next has one more ..."""
Look = Callable[[str, Tensor], None]
"""Called with ("plain" or "styled", all drawn images, B 3 H W in [-1, 1]), to save a sheet of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PocketReport:
    """Figures of one model; shares in [0, 1]: top1 = recognised, top5 = among the five nearest."""

    model: str
    seed: int
    steps: int
    guidance: float
    autoencoder_psnr: float  # dB, mean over the held-out images
    autoencoder_ssim: float
    held_out_pictures: int
    prompts: int  # a concept each
    top1: float
    top5: float
    styled_top1: float  # the same concepts, each in a named style
    styled_top5: float
    ceiling_top1: float  # real images, looked up among the other designs
    ceiling_top5: float
    ceiling_other_artist_top1: float  # real images, looked up only among what another artist drew
    ceiling_other_artist_top5: float
    floor_top1: float  # random images
    floor_top5: float
    seconds_per_picture: float  # text and decoding included
    not_recognised: tuple[str, ...]  # prompts, of the plain ones


@dataclass(frozen=True, slots=True, eq=False)
class Recognition:
    """The results for B prompts. images: B 3 H W.   ranks: B, how many concepts were nearer."""

    images: Tensor
    ranks: Tensor
    seconds: float  # for drawing one image


def evaluate_pocket(
    model: str | os.PathLike[str] = "pocket",
    *,
    seed: int = 0,
    concepts: Sequence[str] | None = None,
    progress: OnProgress | None = None,
    look: Look | None = None,
) -> PocketReport:
    """Measure the embedded model, or one trained like it, at its own default steps and guidance.

    model: catalog name or diffusers folder, encoder included.
    seed: of the first concept; concept i is drawn from seed + i however many are requested.
    concepts: some of the 200, by name, for a quick look; None: all.   progress, look: see Progress and Look.
    Raises SettingsError for an unknown concept, MissingExtraError without EfficientNet, DataError for damaged
    reference images, and what loading a model raises.
    >>> evaluate_pocket().top1  # doctest: +SKIP
    """
    report = progress or (lambda what, done, total: None)
    show = look or (lambda part, images: None)
    if (release := CATALOG.get(os.fspath(model))) is not None and release.repo is not None:
        raise SettingsError(
            f"{release.name} draws photographs; this measure knows 200 drawn things: use pocket, or the "
            "folder of a model trained by its recipe."
        )
    network, reference = load_efficientnet(), load_reference()
    pipe = TextToImage.from_pretrained(model)
    gallery = reference.gallery
    chosen = _chosen(gallery.concepts, concepts)

    draw = drawing(pipe)
    found = {}
    for part, prompts in (("plain", reference.prompts), ("styled", reference.styled_prompts)):
        found[part] = recognise(draw, network, gallery, prompts, chosen, seed=seed, progress=report)
        show(part, found[part].images)
    fidelity = reconstruct(load_image_autoencoder(model), reference.held_out, report)
    plain, styled = (Shares.of(found[part].ranks) for part in ("plain", "styled"))
    highest, other_artist = ceiling(gallery, gallery.designs), ceiling(gallery, gallery.artists)
    strangers = gallery.project(image_features(network, reference.held_out))
    lowest = floor(gallery, strangers, torch.Generator().manual_seed(seed))
    return PocketReport(
        model=pipe.settings.name,
        seed=seed,
        steps=pipe.settings.steps,
        guidance=pipe.settings.guidance,
        autoencoder_psnr=fidelity[0],
        autoencoder_ssim=fidelity[1],
        held_out_pictures=len(reference.held_out),
        prompts=len(chosen),
        top1=plain.top1,
        top5=plain.top5,
        styled_top1=styled.top1,
        styled_top5=styled.top5,
        ceiling_top1=highest.top1,
        ceiling_top5=highest.top5,
        ceiling_other_artist_top1=other_artist.top1,
        ceiling_other_artist_top5=other_artist.top5,
        floor_top1=lowest.top1,
        floor_top5=lowest.top5,
        seconds_per_picture=found["plain"].seconds,
        not_recognised=tuple(
            reference.prompts[i]
            for i, rank in zip(chosen, found["plain"].ranks.tolist(), strict=True)
            if rank
        ),
    )


def drawing(pipe: TextToImage) -> Draw:
    """Return the function that draws with a model at its own defaults."""

    def draw(prompts: list[str], first_seed: int) -> Tensor:
        return pipe(prompts, seed=first_seed, output="pt").images  # pyright: ignore[reportReturnType]

    return draw


@torch.no_grad()
def reconstruct(
    autoencoder: DCAE, images: Tensor, progress: OnProgress = lambda what, done, total: None
) -> tuple[float, float]:
    """Mean PSNR in dB and mean SSIM of images (B 3 H W in [-1, 1]) after encoding and decoding."""
    weight = next(autoencoder.parameters())
    closeness = []
    for part in images.split(BATCH):
        decoded = autoencoder.decode(autoencoder.encode(part.to(weight.device, weight.dtype)))
        decoded = decoded.float().cpu().clamp(-1, 1)
        closeness.append(torch.stack([psnr(decoded, part), ssim(decoded, part)]))  # 2 B
        progress("encoding and decoding", sum(figures.shape[1] for figures in closeness), len(images))
    mean_psnr, mean_ssim = torch.cat(closeness, dim=1).mean(1).tolist()
    return mean_psnr, mean_ssim


def recognise(
    draw: Draw,
    network: EfficientNetLite0,
    gallery: Gallery,
    prompts: Sequence[str],
    chosen: Sequence[int],
    *,
    seed: int = 0,
    progress: OnProgress = lambda what, done, total: None,
) -> Recognition:
    """Draw the chosen concepts and look the images up in the gallery.

    prompts: C, a concept each.   chosen: numbers of concepts, ascending.   Concept i is drawn from seed + i.
    """
    batches, ranks, seconds = [], [], 0.0
    for together in _runs(chosen):
        started = perf_counter()
        images = draw([prompts[i] for i in together], seed + together[0]).float().cpu()
        seconds += perf_counter() - started
        points = gallery.project(image_features(network, images))
        ranks.append(gallery.ranks(points, torch.tensor(together)))
        batches.append(images)
        progress("drawing and recognising", sum(map(len, batches)), len(chosen))
    return Recognition(torch.cat(batches), torch.cat(ranks), seconds / len(chosen))


def _runs(numbers: Sequence[int]) -> list[list[int]]:
    """Split ascending numbers into runs of consecutive ones, as a batch's seeds are, of at most BATCH."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] + 1 == number and len(runs[-1]) < BATCH:
            runs[-1].append(number)
        else:
            runs.append([number])
    return runs


def _chosen(known: Sequence[str], asked: Sequence[str] | None) -> list[int]:
    if asked is None:
        return list(range(len(known)))
    if not asked:
        raise SettingsError("The list of concepts is empty: name some, or omit it for all.")
    for name in asked:
        if name not in known:
            near = difflib.get_close_matches(name, known, cutoff=0.4) or known[:3]
            raise SettingsError(
                f"{name!r} is not one of the {len(known)} concepts. Nearest: {', '.join(near)}."
            )
    return sorted({known.index(name) for name in asked})
