"""CLIPScore: how well an image fits its prompt, by the cosine of CLIP's two vectors.

Source: Hessel et al. 2021 (arXiv:2104.08718), whose figure is 2.5 max(cos, 0). The papers on SANA and its kin
print the mean of 100 cos with OpenAI's ViT-L/14, over MJHQ-30K's prompts; so does this.
Shapes: B images, E width of the common space.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from sanakit.eval.folder import pixels
from sanakit.text.clip import ClipScorer

REPO = "openai/clip-vit-large-patch14"
SCALE = 100


@torch.no_grad()
def image_vectors(clip: ClipScorer, images: Sequence[Image.Image]) -> Tensor:
    """Return vectors of images of any size: B E, of length 1, on the CPU."""
    weight = clip.model.visual_projection.weight
    seen = torch.cat([clip.preprocessing(pixels(image)[None]) for image in images])
    return clip.model.images(seen.to(weight.device, weight.dtype)).cpu()


def clip_scores(clip: ClipScorer, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[float]:
    """Score each image by its own prompt: 100 cos; OpenAI's CLIPs give fitting ones 25 to 35.

    A prompt that is longer than the model's context is judged by its beginning. An image that comes several
    times, the same object, is looked at once, and so is a prompt that is asked of several images.
    """
    different = {id(image): image for image in images}
    rows = {one: row for row, one in enumerate(different)}
    vectors = image_vectors(clip, list(different.values()))[[rows[id(image)] for image in images]]
    numbers = {prompt: row for row, prompt in enumerate(dict.fromkeys(prompts))}
    texts = clip.texts(list(numbers)).cpu()[[numbers[prompt] for prompt in prompts]]
    return (SCALE * (vectors * texts).sum(1)).tolist()


def hessel_score(score: float) -> float:
    """Return CLIPScore as its authors define it, 2.5 max(cos, 0), from 100 cos."""
    return 2.5 * max(score, 0.0) / SCALE
