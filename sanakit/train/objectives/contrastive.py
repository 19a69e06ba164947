"""Train a CLIP on pairs of image and caption, each beside captions that are nearly right but wrong.

The loss is CLIP's symmetric cross-entropy (Radford et al. 2021) with two changes. An image also has to tell
its caption from its own wrong ones (left and right exchanged, another count, another colour), as in NegCLIP
(arXiv:2210.01936): nothing else makes small differences worth learning. And a caption that may be true is not
a negative: if all its things are in another image, it is left out of that image's choice. "a fox" fits a fox
in any style and beside any other thing. A pair is compared with the pairs of its own part of the batch:
unlike other objectives, this one learns a little differently on another number of ranks or micro-batches.

Shapes: B pairs, K wrong captions of each, E width of the common space, L tokens, S side of the images.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from sanakit.images.image import to_tensor
from sanakit.images.sheets import contact_sheet
from sanakit.models.clip import Clip
from sanakit.seeds import numpy_generator
from sanakit.text.clip import AT_ONCE, ClipScorer, pad_tokens
from sanakit.train.parts import Part

MAX_SCALE = 100.0  # of the cosines, as published: beyond, single pairs rule the gradient


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """An image and what is and is not true of it.

    image: H W 3 uint8. wrong: K captions, the most telling first; the same K in all pairs. things: what the
    caption names, and the image shows. kind: of image; results are told apart by it.
    """

    image: np.ndarray
    caption: str
    wrong: tuple[str, ...]
    things: frozenset[str]
    kind: str


DrawPair = Callable[[np.random.Generator], Pair]


@dataclass(frozen=True, slots=True)
class PairBatch:
    """A part of a global batch, drawn."""

    pixels: Tensor  # B 3 S S, as the model looks at them
    tokens: Tensor  # B * (1 + K) L: first all right captions, then the wrong ones of each pair in turn
    comparable: Tensor  # B B bool, images by captions
    weight: float  # share of the global batch


class ContrastiveObjective:
    """Pairs redrawn in every step, on the model's device; see the module's text.

    scorer: the model to train, its tokenizer and preprocessing. draw: gives a pair of a random state; every
    pair with as many wrong captions. held_out: pairs to measure on, at least one. seed: of all that is drawn.
    """

    def __init__(
        self, scorer: ClipScorer, draw: DrawPair, held_out: Sequence[Pair], *, seed: int = 0
    ) -> None:
        self.model: nn.Module = scorer.model
        self.scorer, self.draw, self.held_out, self.seed = scorer, draw, held_out, seed
        self.device = next(scorer.model.parameters()).device

    def begin(self, first: int, parts: Sequence[Part]) -> None:
        """Nothing to prepare: pairs are composed when they are requested."""

    def batch(self, step: int, part: Part) -> PairBatch:
        """Draw the pairs of a part of a step's batch."""
        pairs = [self.draw(numpy_generator(self.seed, step, i)) for i in range(part.start, part.stop)]
        images = torch.cat([self.scorer.preprocessing(to_tensor(pair.image[None])) for pair in pairs])
        texts = [pair.caption for pair in pairs] + [text for pair in pairs for text in pair.wrong]
        tokens = pad_tokens(self.scorer.tokenizer, texts, self.scorer.model.config.max_tokens)
        things = [pair.things for pair in pairs]
        return PairBatch(
            pixels=images.to(self.device),
            tokens=tokens.to(self.device),
            comparable=comparable(things).to(self.device),
            weight=part.weight,
        )

    def loss(self, batch: PairBatch) -> Tensor:
        """Contrastive loss of a part, times its share of the global batch."""
        model = cast(Clip, self.model)
        images, texts = model(batch.pixels, batch.tokens)
        count = len(images)
        wrong = texts[count:].view(count, -1, texts.shape[-1])  # B K E
        scale = model.logit_scale.float().exp().clamp(max=MAX_SCALE)
        return contrastive_loss(images, texts[:count], wrong, batch.comparable, scale) * batch.weight

    def evaluate(self, averaged: nn.Module) -> dict[str, float]:
        """Measure on the held-out pairs; see `measure`."""
        return measure(self._with(averaged), self.held_out)

    @torch.no_grad()
    def sheet(self, averaged: nn.Module) -> Image.Image:
        """Up to six held-out captions, a row each: its own image, then the five that the model prefers."""
        scorer = self._with(averaged)
        shown = range(0, len(self.held_out), max(1, len(self.held_out) // 6))[:6]
        texts = scorer.texts([self.held_out[i].caption for i in shown])
        nearest = (
            (texts @ _vectors(scorer, self.held_out).T).topk(min(5, len(self.held_out))).indices.tolist()
        )
        places = [i for own, row in zip(shown, nearest, strict=True) for i in (own, *row)]
        return contact_sheet(
            to_tensor(np.stack([self.held_out[i].image for i in places])), 1 + len(nearest[0])
        )

    def _with(self, averaged: nn.Module) -> ClipScorer:
        return ClipScorer(cast(Clip, averaged), self.scorer.tokenizer, self.scorer.preprocessing)


@torch.no_grad()
def measure(scorer: ClipScorer, pairs: Sequence[Pair]) -> dict[str, float]:
    """Measure a CLIP on pairs, in parts of 1.

    top1, top5: how often an image's own caption (or one of the same words) is among the nearest of all.
    right_KIND: how often its caption is nearer than its first wrong one, by kind of image.
    """
    images = _vectors(scorer, pairs)
    captions = [pair.caption for pair in pairs]
    different = list(dict.fromkeys(captions))
    nearest = (images @ scorer.texts(different).T).topk(min(5, len(different))).indices.tolist()
    found = [[different[i] for i in row] for row in nearest]
    measured = {
        f"top{k}": sum(c in row[:k] for c, row in zip(captions, found, strict=True)) / len(captions)
        for k in (1, 5)
    }
    right = (images * scorer.texts(captions)).sum(1)
    wrong = (images * scorer.texts([pair.wrong[0] for pair in pairs])).sum(1)
    by_kind: dict[str, list[bool]] = defaultdict(list)
    for pair, told in zip(pairs, (right > wrong).tolist(), strict=True):
        by_kind[pair.kind].append(told)
    return measured | {f"right_{kind}": sum(told) / len(told) for kind, told in sorted(by_kind.items())}


def contrastive_loss(
    images: Tensor, captions: Tensor, wrong: Tensor, comparable: Tensor, scale: Tensor | float
) -> Tensor:
    """Mean of two cross-entropies: each image's choice among captions, each caption's among images.

    images, captions: B E and wrong: B K E, of length 1; K may be 0. comparable: B B bool, images by
    captions; the diagonal is true. scale: > 0, what cosines are multiplied by.
    Source: Radford et al. 2021, figure 3; wrong captions as in Yuksekgonul et al. 2023 (arXiv:2210.01936).
    """
    logits = (scale * images @ captions.T).masked_fill(~comparable, -torch.inf)  # B B
    own = scale * torch.einsum("be,bke->bk", images, wrong)
    target = torch.arange(len(images), device=images.device)
    choose_caption = F.cross_entropy(torch.cat([logits, own], dim=1), target)
    return (choose_caption + F.cross_entropy(logits.T, target)) / 2


def comparable(things: Sequence[frozenset[str]]) -> Tensor:
    """B B bool: whether caption j (column) is certainly not true of image i (row), or is its own.

    things: what each pair's caption names. A caption all of whose things are in the image may be true.
    """
    rows = [
        [i == j or not named <= shown for j, named in enumerate(things)] for i, shown in enumerate(things)
    ]
    return torch.tensor(rows)


def _vectors(scorer: ClipScorer, pairs: Sequence[Pair]) -> Tensor:
    parts = [pairs[start : start + AT_ONCE] for start in range(0, len(pairs), AT_ONCE)]
    return torch.cat(
        [scorer.images(torch.cat([to_tensor(pair.image[None]) for pair in part])) for part in parts]
    )
