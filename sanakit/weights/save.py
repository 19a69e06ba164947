"""Save modules: as a diffusers folder that diffusers' own pipeline opens, or as an official .pth.

Both are written under a temporary name and renamed when complete, so a crash or a full disk leaves no partial
result.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sanakit.dialect import USUAL
from sanakit.errors import OutputError, SettingsError
from sanakit.flow.guidance_kinds import PLAIN
from sanakit.models.dc_ae import DCAE
from sanakit.models.sana import Sana
from sanakit.models.streaming.sana_streaming import SanaStreaming
from sanakit.models.video.sana_video import SanaVideo
from sanakit.models.video.sana_video2 import SanaVideo2
from sanakit.models.world.sana_wm import SanaWM
from sanakit.quant.layer import Quantized
from sanakit.text.encoder import TextEncoder
from sanakit.text.known_things import FILE as KNOWN_THINGS
from sanakit.text.known_things import KnownThings
from sanakit.text.tokenizer import save_tokenizer
from sanakit.weights.find.resolve import INDEX, OURS
from sanakit.weights.known_things import load_known_things
from sanakit.weights.layouts import sana_video, sana_wm
from sanakit.weights.layouts.clips import sana_streaming, sana_video2
from sanakit.weights.layouts.diffusers import write_sana_config
from sanakit.weights.layouts.official import CONFIG_KEY
from sanakit.weights.layouts.parts import QUANTIZATION, diffusers_renames
from sanakit.weights.layouts.video_vae import VideoVAE
from sanakit.weights.precision import check_rule, dtype_name, parse_dtype
from sanakit.weights.read.header import write_safetensors
from sanakit.weights.settings import ModelSettings
from sanakit.whole import replaced

Transformer = Sana | SanaVideo | SanaVideo2 | SanaStreaming | SanaWM
DEFAULTS = ("steps", "guidance", "width", "height", "solver")  # what a folder says of itself
RARE = {"dialect": USUAL, "guidance_kind": str(PLAIN)}  # and, where it is another than this
WEIGHTS = "diffusion_pytorch_model.safetensors"
# As shipped in the published folders of SANA and SANA-1.5.
DPM_SCHEDULER = {
    "_class_name": "DPMSolverMultistepScheduler",
    "_diffusers_version": "0.32.0",
    "algorithm_type": "dpmsolver++",
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "beta_start": 0.0001,
    "dynamic_thresholding_ratio": 0.995,
    "euler_at_final": False,
    "final_sigmas_type": "zero",
    "lower_order_final": True,
    "num_train_timesteps": 1000,
    "prediction_type": "flow_prediction",
    "sample_max_value": 1.0,
    "solver_order": 2,
    "solver_type": "midpoint",
    "steps_offset": 0,
    "thresholding": False,
    "timestep_spacing": "linspace",
    "trained_betas": None,
    "use_flow_sigmas": True,
    "use_karras_sigmas": False,
    "use_lu_lambdas": False,
    "variance_type": None,
}
SCM_SCHEDULER = {
    "_class_name": "SCMScheduler",
    "_diffusers_version": "0.33.0",
    "num_train_timesteps": 1000,
    "prediction_type": "trigflow",
    "sigma_data": 0.5,
}


def kept_settings(settings: ModelSettings) -> dict[str, Any]:
    """Return the keyword arguments with which `save_diffusers` keeps a model's settings."""
    own = {name: getattr(settings, name) for name, usual in RARE.items() if getattr(settings, name) != usual}
    return {
        "flow_shift": settings.flow_shift,
        "defaults": {name: getattr(settings, name) for name in DEFAULTS} | own,
        "precision": settings.precision,
        "name": settings.name,
        "licence": settings.licence,
        "styles": settings.styles,
        "example_prompts": settings.example_prompts,
        "sizes": settings.sizes,
        "control_models": settings.control_models,
        "known_things": load_known_things(settings),
    }


def save_diffusers(
    folder: str | os.PathLike[str],
    *,
    transformer: Sana,
    autoencoder: DCAE,
    text_encoder: TextEncoder,
    flow_shift: float = 3.0,
    defaults: Mapping[str, Any] | None = None,
    dtype: torch.dtype | str = torch.float32,
    precision: str = "any",
    name: str = "",
    licence: str = "",
    styles: Mapping[str, str] | None = None,
    example_prompts: Sequence[str] = (),
    sizes: Sequence[tuple[int, int]] = (),
    control_models: Sequence[str] = (),
    known_things: KnownThings | None = None,
    plan: str | None = None,
) -> Path:
    """Write a model as a diffusers folder; a folder of that name is replaced when the new one is complete.

    flow_shift: > 0, the timestep shift it was trained and is sampled with. defaults: default steps, guidance,
    width, height, solver, dialect. dtype: to store in, float32, float16 or bfloat16. precision: the one
    16-bit dtype its transformer may compute in, "float32" for none, or "any".
    name, licence: as `sana inspect` shows them. styles (name -> what is added to a prompt), example_prompts,
    sizes (width, height in pixels), control_models (names of embedded ControlNets that steer it): the model's
    offers. known_things: what it draws; a prompt with none of them is told. plan: of the quantised
    transformer and text encoder; they are written unchanged, in our own names, which diffusers cannot read.
    Returns the folder.
    Raises OutputError when it cannot be written, PrecisionError when dtype contradicts precision,
    SettingsError for an invalid shift or default, for quantised layers without a plan, and for adapters.
    """
    _check_adapters(transformer)
    if not plan:
        check_floats(transformer, text_encoder.model)
    dtype = parse_dtype(dtype)
    check_rule(dtype, precision, "The model")
    check_model(autoencoder, flow_shift, defaults, (*DEFAULTS, *RARE))
    path = Path(folder).expanduser()
    check_replaced(path, INDEX, "model")
    sprint = transformer.config.guidance_embed
    ours = {
        "format": 1,
        "defaults": dict(defaults or {}),
        "precision": precision,
        "instruction": text_encoder.instruction,
        "max_tokens": text_encoder.max_tokens,
    }
    told = {"name": name, "licence": licence}
    told |= {"styles": dict(styles or {}), "example_prompts": list(example_prompts), "sizes": list(sizes)}
    told |= {"control_models": list(control_models)}
    ours |= {key: value for key, value in told.items() if value}
    scheduler = SCM_SCHEDULER if sprint else {**DPM_SCHEDULER, "flow_shift": flow_shift}
    config = write_sana_config(transformer.config)
    state = transformer.state_dict() if plan else diffusers_state(transformer)
    quantization = {QUANTIZATION: {"quant_method": "sanakit", "plan": plan}} if plan else {}
    config |= quantization
    with exported(path) as partial:
        write_beside(partial, _model_index(sprint), ours, known_things, text_encoder)
        write_json(partial / "scheduler" / "scheduler_config.json", scheduler)
        write_json(partial / "transformer" / "config.json", config)
        write_safetensors(partial / "transformer" / WEIGHTS, state, dtype, _buffers(transformer))
        save_autoencoder(partial / "vae", autoencoder, dtype=dtype)
        write_text_encoder(partial / "text_encoder", text_encoder, dtype, quantization)
    return path


def check_model(
    autoencoder: DCAE | VideoVAE, flow_shift: float, defaults: Mapping[str, Any] | None, known: Sequence[str]
) -> None:
    """Raise SettingsError for such a shift or default of a folder, OutputError for half an autoencoder.

    known: the defaults that it may have.
    """
    if not 0 < flow_shift < math.inf:
        raise SettingsError(f"flow_shift is {flow_shift}; it must be a finite number above 0, SANA uses 3.")
    if unknown := set(defaults or {}) - set(known):
        raise SettingsError(
            f"There are no defaults named {', '.join(sorted(unknown))}: use {', '.join(known)}."
        )
    if autoencoder.encoder is None or autoencoder.decoder is None:
        raise OutputError(
            "A model's folder needs the whole autoencoder: load it with part='both' before saving."
        )


def write_text_encoder(
    folder: Path, encoder: TextEncoder, dtype: torch.dtype, more: Mapping[str, Any] | None = None
) -> None:
    """Write a text encoder without its tokenizer. more: further keys of its config. Raises OSError."""
    config = {**encoder.model.config.to_transformers(), "torch_dtype": dtype_name(dtype), **(more or {})}
    write_json(folder / "config.json", config)
    state = encoder.model.state_dict()
    write_safetensors(folder / "model.safetensors", state, dtype, _buffers(encoder.model))


def save_autoencoder(
    folder: str | os.PathLike[str], autoencoder: DCAE | VideoVAE, *, dtype: torch.dtype | str = torch.float32
) -> Path:
    """Write an autoencoder as the `vae` folder of a diffusers model, which `load_autoencoder` reads, too.

    A folder of that name is replaced when the new one is complete. dtype: to store in. Returns the folder.
    Raises OutputError when it cannot be written.
    """
    path = Path(folder).expanduser()
    with exported(path) as partial:
        write_json(partial / "config.json", autoencoder.config.to_diffusers())
        write_safetensors(partial / WEIGHTS, autoencoder.state_dict(), parse_dtype(dtype))
    return path


def save_transformer(
    folder: str | os.PathLike[str],
    transformer: Transformer,
    *,
    dtype: torch.dtype | str = torch.float32,
) -> Path:
    """Write a transformer of images, clips, edits or worlds as the `transformer` folder of a diffusers model.

    A folder of that name is replaced when the new one is complete. dtype: to store in. Returns the folder.
    Raises OutputError when it cannot be written, SettingsError for quantised layers and for adapters.
    """
    check_floats(transformer)
    path, state = Path(folder).expanduser(), diffusers_state(transformer)
    if isinstance(transformer, SanaVideo):
        config = sana_video.write_config(transformer.config)
    elif isinstance(transformer, SanaStreaming):
        config = sana_streaming.write_config(transformer.config)
    elif isinstance(transformer, SanaVideo2):
        config = sana_video2.write_config(transformer.config)
    elif isinstance(transformer, SanaWM):
        config = sana_wm.write_config(transformer.config)
    else:
        config = write_sana_config(transformer.config)
    with exported(path) as partial:
        write_json(partial / "config.json", config)
        write_safetensors(partial / WEIGHTS, state, parse_dtype(dtype))
    return path


def save_official(
    path: str | os.PathLike[str],
    transformer: Transformer,
    *,
    dtype: torch.dtype | str | None = None,
) -> Path:
    """Write a transformer as the official .pth: `{"state_dict": ...}` in the official names.

    dtype: to store in; None keeps the tensors' own. The config lies beside the state_dict, where the official
    code does not look; sizes that were never released could not be read back without it. Raises OutputError,
    and SettingsError for quantised layers and for adapters.
    """
    _check_adapters(transformer)
    check_floats(transformer)
    path = Path(path).expanduser()
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in transformer.state_dict().items()}
    if dtype is not None:
        state = {name: tensor.to(parse_dtype(dtype)) for name, tensor in state.items()}
    with exported(path) as partial:
        torch.save({"state_dict": state, CONFIG_KEY: asdict(transformer.config)}, partial)
    return path


def diffusers_state(transformer: Transformer) -> dict[str, Tensor]:
    """Return a transformer's tensors in diffusers' names; fused tensors are split without copying.

    Raises SettingsError for adapters.
    """
    _check_adapters(transformer)
    state = transformer.state_dict()
    renamed: dict[str, Tensor] = {}
    for (ours,), theirs in diffusers_renames(state, transformer.config):
        renamed |= zip(theirs, state[ours].chunk(len(theirs)), strict=True)
    return renamed


def _check_adapters(transformer: nn.Module) -> None:
    """Raise SettingsError for layers with adapters, which no layout of a model has a place for."""
    if any(".adapters." in name for name, _ in transformer.named_parameters()):
        raise SettingsError(
            "The transformer has adapters: merge them (pipe.merge_adapters()) or unload them, then save it. "
            "The adapters have files of their own (sanakit.adapters.save)."
        )


def check_floats(*modules: nn.Module) -> None:
    """Raise SettingsError for quantised layers: their codes would be read as weights."""
    if any(isinstance(layer, Quantized) for module in modules for layer in module.modules()):
        raise SettingsError(
            "Quantised layers have no place in this layout: save the original model, or convert the "
            "quantised folder, which widens its weights (sanakit.weights.convert)."
        )


def _buffers(module: nn.Module) -> list[str]:
    """Return the tensors of quantised layers: 16-bit scales are not rounded again, integers not at all."""
    return [name for name, _ in module.named_buffers()]


def _model_index(sprint: bool) -> dict[str, Any]:
    return {
        "_class_name": "SanaSprintPipeline" if sprint else "SanaPipeline",
        "_diffusers_version": "0.33.0" if sprint else "0.32.0",
        "scheduler": ["diffusers", "SCMScheduler" if sprint else "DPMSolverMultistepScheduler"],
        "text_encoder": ["transformers", "Gemma2Model"],
        "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
        "transformer": ["diffusers", "SanaTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderDC"],
    }


def check_replaced(path: Path, marker: str, what: str) -> None:
    """Raise OutputError for a place that holds something else than an older folder with the marker file."""
    taken = path.exists() and any(path.iterdir() if path.is_dir() else [path])
    if taken and not (path / marker).is_file():
        raise OutputError(
            f"{path} exists and is not a {what} folder: choose another path, or remove it first."
        )


def write_beside(
    folder: Path,
    index: dict[str, Any],
    ours: dict[str, Any],
    known_things: KnownThings | None,
    text_encoder: TextEncoder,
) -> None:
    """Write what a model's folder has beside its parts: index, sanakit.json, known things, tokenizer."""
    write_json(folder / INDEX, index)
    write_json(folder / OURS, ours)
    if known_things is not None:
        (folder / KNOWN_THINGS).write_text(known_things.text(), encoding="utf-8")
    save_tokenizer(text_encoder.tokenizer, folder / "tokenizer")


@contextmanager
def exported(path: Path) -> Iterator[Path]:
    """`replaced`, with the folders on the way, for which OutputError tells why it cannot be done."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced(path) as partial:
            yield partial
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as RuntimeError
        if isinstance(error, OutputError):
            raise
        reason = getattr(error, "strerror", None) or error
        if getattr(error, "errno", None) == 28:
            reason = "the disk is full"
        elif "inline_container" in str(error):  # a line of torch's own source
            reason = "not all of it could be stored"
        raise OutputError(
            f"{path} cannot be written ({reason}): check the path, its permissions and the free space."
        ) from None


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write an object as JSON; folders on the way are made. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
