"""Nodes for ComfyUI, thin over the pipelines.

ComfyUI finds them through a folder in `custom_nodes` that imports these two names (`deploy/comfyui/sanakit`).
The keys stand in saved workflows: they are never renamed.
"""

from __future__ import annotations

from sanakit.comfy.clips import AnimateImage, DrawClip, LoadClipModel, RedrawClip
from sanakit.comfy.control import ApplyControlNet, LoadControlNet, MakeControl, MakeHint
from sanakit.comfy.guidance import ChooseGuidance
from sanakit.comfy.images import DrawText, ExpandImage, InpaintImage, RedrawImage
from sanakit.comfy.loader import LoadAdapter, LoadModel
from sanakit.comfy.stages import DecodeLatents, EncodeImage, EncodeText, SampleLatents

NODE_CLASS_MAPPINGS = {
    "SanakitLoadModel": LoadModel,
    "SanakitLoadAdapter": LoadAdapter,
    "SanakitTextEncode": EncodeText,
    "SanakitSampler": SampleLatents,
    "SanakitDecode": DecodeLatents,
    "SanakitEncode": EncodeImage,
    "SanakitTextToImage": DrawText,
    "SanakitImageToImage": RedrawImage,
    "SanakitInpaint": InpaintImage,
    "SanakitExpand": ExpandImage,
    "SanakitLoadControlNet": LoadControlNet,
    "SanakitHint": MakeHint,
    "SanakitApplyControlNet": ApplyControlNet,
    "SanakitControl": MakeControl,
    "SanakitGuidanceKind": ChooseGuidance,
    "SanakitLoadClipModel": LoadClipModel,
    "SanakitTextToVideo": DrawClip,
    "SanakitImageToVideo": AnimateImage,
    "SanakitVideoToVideo": RedrawClip,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "SanakitLoadModel": "Load SANA model",
    "SanakitLoadAdapter": "Load SANA adapter (LoRA)",
    "SanakitTextEncode": "SANA text encode",
    "SanakitSampler": "SANA sampler",
    "SanakitDecode": "SANA decode",
    "SanakitEncode": "SANA encode",
    "SanakitTextToImage": "SANA text to image",
    "SanakitImageToImage": "SANA image to image",
    "SanakitInpaint": "SANA inpaint",
    "SanakitExpand": "SANA expand image",
    "SanakitLoadControlNet": "Load SANA ControlNet",
    "SanakitHint": "SANA ControlNet hint",
    "SanakitApplyControlNet": "SANA apply ControlNet",
    "SanakitControl": "SANA control",
    "SanakitGuidanceKind": "SANA guidance kind",
    "SanakitLoadClipModel": "Load SANA video model",
    "SanakitTextToVideo": "SANA text to video",
    "SanakitImageToVideo": "SANA image to video",
    "SanakitVideoToVideo": "SANA video to video",
}

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
