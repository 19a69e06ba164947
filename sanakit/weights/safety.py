"""ShieldGemma's folder into the prompt filter of `text/safety.py`.

Its files are those of transformers' Gemma2ForCausalLM; of the language head, which is the embedding table,
two rows are needed."""

from __future__ import annotations

from functools import partial

import torch

from sanakit.errors import WeightsError
from sanakit.models.gemma2 import Gemma2
from sanakit.text.safety import FINAL_SOFTCAP, PromptFilter
from sanakit.text.tokenizer import load_tokenizer
from sanakit.weights.find.resolve import resolve
from sanakit.weights.layouts.fill import fill
from sanakit.weights.layouts.parts import TEXT_SKIPPED, empty, open_text_encoder, text_encoder_pairs
from sanakit.weights.load import StrPath
from sanakit.weights.precision import choose_dtype
from sanakit.weights.read.disk import read_json


def load_prompt_filter(
    path: StrPath,
    *,
    threshold: float = 0.5,
    log_prompts: bool = False,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | str | None = None,
) -> PromptFilter:
    """Load a prompt filter: ShieldGemma, with its tokenizer.

    path: folder of google/shieldgemma-2b (config.json, tokenizer.json and the safetensors), or that name of
    the Hub. threshold, log_prompts: of the filter. dtype: None chooses; never float16. On a CPU in float32
    the weights stay in their file, in 16 bits.
    Raises WeightsError when the folder holds something else, and as `load.load_text_encoder` does.
    """
    source = resolve(path, ("text_encoder", "tokenizer"))
    whole = not (source.is_file or source.is_pipeline)
    content = read_json(source.path / "config.json") if whole else {}
    # A bare Gemma2Model, such as SANA's text encoder, was never asked for an answer.
    if "Gemma2ForCausalLM" not in str(content.get("architectures")):
        raise WeightsError(
            f"{source.path} is not a ShieldGemma: use the folder of google/shieldgemma-2b, with its "
            "config.json, tokenizer.json and safetensors files."
        )
    if content.get("tie_word_embeddings") is False:
        raise WeightsError(f"{source.path} has its own language head, unlike every published Gemma 2.")
    files, config = open_text_encoder(source)
    dtype = choose_dtype(device, files.dtype, dtype or "auto", rule="bfloat16", what="ShieldGemma")
    mapped = torch.device(device).type == "cpu" and dtype == torch.float32
    module = empty(partial(Gemma2, config), source)
    pairs = text_encoder_pairs(files)
    module = fill(module, files, pairs, skipped=TEXT_SKIPPED, device=device, dtype=dtype, mapped=mapped)
    return PromptFilter(
        module,
        load_tokenizer(source.path),
        softcap=content.get("final_logit_softcapping") or FINAL_SOFTCAP,
        threshold=threshold,
        log_prompts=log_prompts,
    )
