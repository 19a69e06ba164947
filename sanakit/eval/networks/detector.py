"""Detect the things in an image: Mask2Former for COCO's 80 classes, through transformers.

Source: Cheng et al. 2022 (arXiv:2112.01527). GenEval's own detector is OpenMMLab's Mask2Former with the same
Swin-S backbone and test sizes, trained by other hands; its .pth does not load here: single verdicts differ.
Shapes: Q queries, K classes, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from sanakit.errors import MissingExtraError, WeightsError
from sanakit.eval.folder import pixels
from sanakit.weights.find.hub import fetch_files

REPO = "facebook/mask2former-swin-small-coco-instance"
FILES = ("config.json", "model.safetensors")
SHORT, LONG = 800, 1333  # pixels: the sides are scaled to be as near to this as the other allows
MULTIPLE = 32  # of the padded sides
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
LEAST = 0.05  # confidence of a detection that is given

# COCO's classes in the order of every network trained on them, as GenEval spells them.
# fmt: off
CLASSES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow",
    "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase",
    "frisbee", "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard",
    "surfboard", "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl",
    "banana", "apple", "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake",
    "chair", "couch", "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "computer mouse",
    "tv remote", "computer keyboard", "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator",
    "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)
# fmt: on


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """One detection. name: COCO class in GenEval's spelling.   mask: H W bool, or None for the box alone."""

    name: str
    score: float
    box: tuple[float, float, float, float]
    mask: Tensor | None = None


Detect = Callable[[Image.Image], list[Found]]
"""Finds things on an image, the surest first."""


def load_detector(place: str | Path = REPO, device: str | torch.device = "cpu") -> Detect:
    """Load a Mask2Former of transformers with COCO's 80 classes.

    place: folder or Hub repository. Raises MissingExtraError, ModelNotFoundError, WeightsError.
    """
    try:
        from transformers import Mask2FormerForUniversalSegmentation as Network
    except ImportError:
        raise MissingExtraError("transformers", "eval") from None

    folder = fetch_files(str(place), FILES)
    try:
        loaded: Any = Network.from_pretrained(folder, local_files_only=True, output_loading_info=True)
    except Exception as error:  # transformers raises whatever comes
        raise WeightsError(
            f"{folder} is not a Mask2Former of transformers ({error}): fetch it again."
        ) from error
    network, told = loaded
    if told["missing_keys"] or network.config.num_labels != len(CLASSES):
        missing = sorted(told["missing_keys"])
        what = (
            f"lacks weights such as {missing[0]}" if missing else f"knows {network.config.num_labels} classes"
        )
        raise WeightsError(f"{folder} {what}: GenEval needs one for COCO's {len(CLASSES)}, such as {REPO}.")
    network = network.eval().requires_grad_(False).to(device)
    return lambda image: detect(network, image)


@torch.no_grad()
def detect(network: Any, image: Image.Image) -> list[Found]:
    """Find things on an image, the surest first."""
    width, height = image.size
    values = (pixels(_scaled(image)) + 1) / 2
    mean, std = (torch.tensor(numbers, dtype=torch.float32).view(3, 1, 1) for numbers in (MEAN, STD))
    values = (values - mean) / std
    inner = values.shape[-2:]
    right, below = (-side % MULTIPLE for side in (inner[1], inner[0]))
    padded = F.pad(values, (0, right, 0, below))[None].to(network.device)
    mask = torch.zeros(1, *padded.shape[-2:], dtype=torch.long, device=network.device)
    mask[:, : inner[0], : inner[1]] = 1
    out = network(pixel_values=padded, pixel_mask=mask)
    logits = F.interpolate(
        out.masks_queries_logits.float(), padded.shape[-2:], mode="bilinear", align_corners=False
    )[..., : inner[0], : inner[1]]
    logits = F.interpolate(logits, (height, width), mode="bilinear", align_corners=False)[0]
    return instances(out.class_queries_logits[0].float().cpu(), logits.cpu())


def instances(class_logits: Tensor, mask_logits: Tensor) -> list[Found]:
    """Return the detections from Mask2Former's outputs, the most confident first.

    class_logits: Q K+1, the last for "nothing".   mask_logits: Q H W. A query may stand for several classes;
    a confidence is the class's chance times the mean of the mask's chances inside it. Overlaps are kept.
    """
    chances = class_logits.softmax(1)[:, :-1]  # Q K
    best, places = chances.flatten().topk(min(len(chances), chances.numel()))
    found = []
    for chance, place in zip(best.tolist(), places.tolist(), strict=True):
        query, label = divmod(place, chances.shape[1])
        inside = mask_logits[query] > 0
        if not inside.any():
            continue
        score = chance * float(mask_logits[query].sigmoid()[inside].mean())
        if score > LEAST:
            rows, columns = inside.any(1).nonzero().flatten(), inside.any(0).nonzero().flatten()
            box = (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
            found.append(Found(CLASSES[label], score, box, inside))
    return sorted(found, key=lambda one: -one.score)


def _scaled(image: Image.Image) -> Image.Image:
    scale = min(SHORT / min(image.size), LONG / max(image.size))
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BILINEAR)
