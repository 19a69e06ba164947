"""Arguments of diffusers' pipelines, which many people know, and what they are called here."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from sanakit.errors import ArgumentError

# Their name -> what to write here. Names of other programs are in `cli/other_names.py`.
OURS = {
    "num_inference_steps": "steps=20",
    "guidance_scale": "guidance=4.5",
    "num_images_per_prompt": "num_images=4",
    "num_videos_per_prompt": "TextToVideo, with num_clips=2",
    "generator": "seed=7, a whole number",
    "output_type": 'output="pil", "pt" or "latent"',
    "use_resolution_binning": "binned=False for the exact size",
    "sampler": 'solver="dpm" or "euler"',
    "scheduler": 'solver="dpm" or "euler"',
    "cfg_scale": "guidance=4.5",
    "negative": 'negative_prompt="..."',
    "control_image": "control=ControlImage(image)",
    "controlnet": 'control_model="..." of from_pretrained',
    "controlnet_conditioning_scale": "control=ControlImage(image, scale=0.8)",
    "control_guidance_start": "control=ControlImage(image, start=0.1)",
    "control_guidance_end": "control=ControlImage(image, end=0.9)",
    "image": "ImageToImage of sanakit.pipelines.image_to_image",
    "mask_image": "Inpaint of sanakit.pipelines.inpaint",
    "callback_on_step_end": "a loop over pipe.stream(...), which yields every step",
    "cross_attention_kwargs": "pipe.load_adapter(file, weight=0.8)",
    "attention_kwargs": "pipe.load_adapter(file, weight=0.8)",
    "clean_caption": "nothing: the dialect decides, see docs/dialects.md",
    "complex_human_instruction": "nothing: the instruction stands in the model's folder",
    "return_dict": "nothing: the result has images, seeds and metadata",
    "num_frames": "TextToVideo, with frames=17",
    "fps": "TextToVideo, with rate=16",
    "torch_dtype": 'dtype="bfloat16"',
    "device_map": 'device="cuda", and memory="8GB" for a limit',
    "quantization_config": 'plan="int8"',
    "load_in_8bit": 'plan="int8"',
    "variant": "nothing: the file that is right for dtype is taken",
    "use_safetensors": "nothing: safetensors are taken where there are any",
    "low_cpu_mem_usage": 'memory="8GB" for a limit',
}


def check_arguments(others: Iterable[str], known: Iterable[str] = ()) -> None:
    """Raise ArgumentError for the first of arguments that do not exist, naming ours.

    known: the arguments that do, of which the nearest is named.
    """
    for name in others:
        near = difflib.get_close_matches(name, list(known), n=1)
        remedy = f"use {OURS[name]}." if name in OURS else f"did you mean {near[0]}?" if near else ""
        raise ArgumentError(f"{name} is not an argument here{': ' if remedy else '.'}{remedy}")
