"""Embed images and texts in CLIP's common space, and score how well they fit.

Source: transformers' CLIPImageProcessor (the fields of preprocessor_config.json) and CLIPTokenizer (lower
case, byte-pair encoding inside words, whose last token ends with "</w>").
Shapes: B images or texts, H W pixels, S side that the model looks at, L tokens, E width of the space.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from torch import Tensor

from sanakit.errors import SettingsError, WeightsError
from sanakit.images.image import HALF
from sanakit.models.clip import LEGACY_EOS, Clip

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"
PIECES = Regex(r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # OpenAI's
RESAMPLING = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers
_UNKNOWN_STEP = (
    "preprocessor_config.json asks for an unsupported step: images can be resized (bilinear "
    "or bicubic), cropped, scaled to [0, 1] and normalised."
)
AT_ONCE = 64  # images or texts in one pass of the model


@dataclass(frozen=True, kw_only=True, slots=True)
class Preprocessing:
    """The preprocessing of an image for the model."""

    size: tuple[int, int] | int  # height and width, or of the shorter side alone, in pixels
    crop: tuple[int, int] | None  # height and width of the middle that is kept
    resample: str = "bicubic"  # of RESAMPLING
    mean: tuple[float, ...] = MEAN
    deviation: tuple[float, ...] = DEVIATION

    @classmethod
    def from_transformers(cls, config: dict[str, Any]) -> Preprocessing:
        """Read the content of preprocessor_config.json; absent fields have CLIPImageProcessor's defaults.

        Raises WeightsError for a step that this code does not have.
        """
        size, crop = config.get("size", 224), config.get("crop_size", 224)
        if isinstance(size, dict):
            size = size.get("shortest_edge") or _sides(size)
        crop = _sides(crop) if isinstance(crop, dict) else _sides({"height": crop, "width": crop})
        resample = RESAMPLING.get(config.get("resample", 3))
        steps = all(config.get(f"do_{step}", True) for step in ("resize", "rescale", "normalize"))
        if not steps or resample is None or not (isinstance(size, tuple) or _is_side(size)):
            raise WeightsError(_UNKNOWN_STEP)
        return cls(
            size=size,
            crop=crop if config.get("do_center_crop", True) else None,
            resample=resample,
            mean=tuple(config.get("image_mean", MEAN)),
            deviation=tuple(config.get("image_std", DEVIATION)),
        )

    def to_transformers(self) -> dict[str, Any]:
        """Return the preprocessor_config.json from which transformers does the same."""
        number = next(number for number, name in RESAMPLING.items() if name == self.resample)
        if isinstance(self.size, int):
            size = {"shortest_edge": self.size}
        else:
            size = {"height": self.size[0], "width": self.size[1]}
        crop = self.crop and {"height": self.crop[0], "width": self.crop[1]}
        return {
            "image_processor_type": "CLIPImageProcessor",
            "do_resize": True,
            "size": size,
            "resample": number,
            "do_center_crop": crop is not None,
            **({"crop_size": crop} if crop else {}),
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(self.mean),
            "image_std": list(self.deviation),
            "do_convert_rgb": True,
        }

    def __call__(self, images: Tensor) -> Tensor:
        """Preprocess images, B 3 H W in [-1, 1], to the model's input, B 3 S S.

        They are rounded to 8 bits before and after resizing: so would be the files that others score.
        """
        pixels = _eight_bits(images.float().add(1).mul(HALF))
        height, width = pixels.shape[-2:]
        if isinstance(self.size, int):
            short = min(height, width)
            target = (int(self.size * height / short), int(self.size * width / short))
        else:
            target = self.size
        if target != (height, width):
            pixels = F.interpolate(pixels, target, mode=self.resample, antialias=True)
            pixels = _eight_bits(pixels)
        if self.crop is not None:
            top, left = ((have - want) // 2 for have, want in zip(target, self.crop, strict=True))
            if min(top, left) < 0:
                raise SettingsError(f"An image of {width}x{height} is too small to crop {self.crop} from it.")
            pixels = pixels[..., top : top + self.crop[0], left : left + self.crop[1]]
        mean, deviation = (
            torch.tensor(values, dtype=torch.float32, device=images.device)[:, None, None]
            for values in (self.mean, self.deviation)
        )
        return (pixels / 255 - mean) / deviation


class ClipScorer:
    """Vectors of images and texts, and how well they fit; `weights.load_clip` makes one.

    model: on the device and in the dtype to compute in. Raises WeightsError when the tokenizer does not end
    texts with the token at which the model reads them.
    """

    def __init__(self, model: Clip, tokenizer: Tokenizer, preprocessing: Preprocessing) -> None:
        self.model, self.tokenizer, self.preprocessing = model, tokenizer, preprocessing
        empty = tokenizer.encode("").ids
        highest = max(tokenizer.get_vocab(with_added_tokens=True).values())
        eos = highest if model.config.eos_token == LEGACY_EOS else model.config.eos_token
        if len(empty) != 2 or empty[-1] != eos or highest >= model.config.vocab_size:
            raise WeightsError(
                f"The tokenizer writes an empty text as {empty}; this CLIP expects a begin and the "
                f"end {eos}, of {model.config.vocab_size} tokens: use the tokenizer.json of the same folder."
            )

    def images(self, images: Tensor) -> Tensor:
        """Return vectors of length 1 of images B 3 H W in [-1, 1]: B E float32 on the model's device."""
        table = self.model.visual_projection.weight
        with torch.no_grad():
            rows = [
                self.model.images(self.preprocessing(part.to(table.device)).to(table.dtype))
                for part in images.split(AT_ONCE)
            ]
        return torch.cat(rows) if rows else table.new_zeros(0, len(table)).float()

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Return vectors of length 1 of texts: B E float32 on the model's device; longer texts are truncated.

        Raises SettingsError for a single text instead of a list.
        """
        if isinstance(texts, str):
            raise SettingsError("Texts must be a list: wrap a single text in [ ].")
        table = self.model.text_projection.weight
        with torch.no_grad():
            rows = [
                self.model.texts(self.tokenize(texts[start : start + AT_ONCE]).to(table.device))
                for start in range(0, len(texts), AT_ONCE)
            ]
        return torch.cat(rows) if rows else table.new_zeros(0, len(table)).float()

    def scores(self, images: Tensor, texts: Sequence[str]) -> Tensor:
        """Return the CLIPScore of each image with its text, B: 100 * max(cosine, 0).

        images: B 3 H W in [-1, 1]. texts: B. Source: Hessel et al. 2021 (arXiv:2104.08718), in the scale
        that image generation reports. Raises SettingsError for another number of texts than images.
        """
        if len(images) != len(texts):
            raise SettingsError(f"{len(texts)} texts came for {len(images)} images: pass one text per image.")
        return 100 * (self.images(images) * self.texts(texts)).sum(dim=1).clamp(min=0)

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Return token ids, B L: texts cut to the model's length, the end token repeated as padding."""
        return pad_tokens(self.tokenizer, texts, self.model.config.max_tokens)


def pad_tokens(tokenizer: Tokenizer, texts: Sequence[str], max_tokens: int) -> Tensor:
    """Return token ids, B L, on the CPU; see `ClipScorer.tokenize`."""
    rows = [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]
    rows = [row if len(row) <= max_tokens else [*row[: max_tokens - 1], row[-1]] for row in rows]
    longest = max(map(len, rows))
    return torch.tensor([row + [row[-1]] * (longest - len(row)) for row in rows])


def train_clip_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Learn a vocabulary for CLIP from captions; the end of text is the highest id, the begin one below.

    vocab_size: at least 1024: 512 are bytes, inside a word or at its end; fewer tokens come out if the texts
    do not hold that many. Raises SettingsError if it is smaller.
    """
    if vocab_size < 1024:
        raise SettingsError(f"A vocabulary of {vocab_size} is too small: it must be at least 1024.")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    learner = _with_pipeline(Tokenizer(models.BPE(end_of_word_suffix=WORD_END)))
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(letters) - 2,
        initial_alphabet=letters,
        end_of_word_suffix=WORD_END,
        show_progress=False,
    )
    learner.train_from_iterator(texts, trainer)
    learned = json.loads(learner.to_str())["model"]
    every = [*letters, *(letter + WORD_END for letter in letters)]
    merged = [token for token in sorted(learned["vocab"], key=learned["vocab"].get) if token not in every]
    vocab = {token: index for index, token in enumerate([*every, *merged, BOS, EOS])}
    return clip_tokenizer(vocab, [tuple(pair) for pair in learned["merges"]])


def clip_tokenizer(vocab: dict[str, int], merges: list[tuple[str, str]]) -> Tokenizer:
    """Build CLIP's tokenizer from a vocabulary that holds BOS and EOS, and its merges."""
    model = models.BPE(vocab=vocab, merges=merges, end_of_word_suffix=WORD_END, unk_token=EOS, fuse_unk=False)
    tokenizer = _with_pipeline(Tokenizer(model))
    tokenizer.add_special_tokens([BOS, EOS])
    tokenizer.post_processor = processors.RobertaProcessing(
        (EOS, vocab[EOS]), (BOS, vocab[BOS]), trim_offsets=False, add_prefix_space=False
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _with_pipeline(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(PIECES, behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    return tokenizer


def _sides(config: dict[str, Any]) -> tuple[int, int]:
    height, width = config.get("height"), config.get("width")
    if not (_is_side(height) and _is_side(width)):
        raise WeightsError(_UNKNOWN_STEP)
    return height, width  # pyright: ignore[reportReturnType]


def _is_side(value: object) -> bool:
    return isinstance(value, int) and value > 0


def _eight_bits(pixels: Tensor) -> Tensor:
    return pixels.round().clamp(0, 255)
