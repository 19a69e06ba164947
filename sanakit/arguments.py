"""Arguments of diffusers' pipelines, which many people know, and what they are called here."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

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


# The same for tasks that draw or edit clips, where ours differ from those of images.
OF_CLIPS = OURS | {
    "num_frames": "frames=17",
    "fps": "rate=16",
    "frame_rate": "rate=16",
    "num_videos_per_prompt": "num_clips=2",
    "num_images_per_prompt": "num_clips=2",
    "output_type": 'output="clip", "pt" or "latent"',
    "image": "TextToVideo or World, with image=...",
    "video": "TextToVideo, with clip=...",
    "callback_on_step_end": "a loop over pipe.steps(...), which yields every step",
    "return_dict": "nothing: the result has clips, seeds and metadata",
    **dict.fromkeys(
        ("control_image", "controlnet", "controlnet_conditioning_scale"), "nothing: clips take no ControlNet"
    ),
    **dict.fromkeys(("control_guidance_start", "control_guidance_end"), "nothing: clips take no ControlNet"),
    **dict.fromkeys(("cross_attention_kwargs", "attention_kwargs"), "nothing: clips take no adapter"),
    **dict.fromkeys(
        ("quantization_config", "load_in_8bit"), 'dtype="bfloat16", and memory="8GB" for a limit'
    ),
}
OF_WORLDS = OF_CLIPS | {
    "action": 'path="w-24,d-48"',
    "c2w": "path=poses, F 4 4 camera-to-world",
    "use_resolution_binning": "width=1280, height=704 for a size",
    **dict.fromkeys(("num_videos_per_prompt", "num_images_per_prompt"), "nothing: a call draws one clip"),
}
OF_EDITS = OF_CLIPS | {
    "video": "the clip behind the prompt: a VideoClip, or an open file",
    "fps": "nothing: the result has the clip's own rate",
    "frame_rate": "nothing: the result has the clip's own rate",
    "output_type": "nothing: the result is a VideoClip",
    "callback_on_step_end": "a loop over pipe.stream(...), which yields frames as they are finished",
    "return_dict": "nothing: the result is a VideoClip, with its settings and notes",
    "strength": "nothing: the model is guided by its prompt alone",
    "use_resolution_binning": "width=1280, height=704 for a size",
    **dict.fromkeys(("steps", "num_inference_steps"), "nothing: the model was distilled to its few steps"),
    **dict.fromkeys(("guidance", "guidance_scale", "cfg_scale"), "nothing: the model takes no guidance"),
    **dict.fromkeys(("negative", "negative_prompt"), "nothing: the model takes no negative prompt"),
    **dict.fromkeys(("solver", "sampler", "scheduler"), "nothing: the model was distilled to its few steps"),
    **dict.fromkeys(("num_videos_per_prompt", "num_images_per_prompt"), "nothing: a call edits one clip"),
}


def check_arguments(others: Iterable[str], known: Iterable[str] = (), ours: Mapping[str, str] = OURS) -> None:
    """Raise ArgumentError for the first of arguments that do not exist, naming ours.

    known: the arguments that do, of which the nearest is named. ours: what stands for those of diffusers.
    """
    for name in others:
        near = difflib.get_close_matches(name, list(known), n=1)
        remedy = f"use {ours[name]}." if name in ours else f"did you mean {near[0]}?" if near else ""
        raise ArgumentError(f"{name} is not an argument here{': ' if remedy else '.'}{remedy}")
