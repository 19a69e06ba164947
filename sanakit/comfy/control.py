"""Nodes that steer by an image: load a ControlNet, make a hint, apply it.

Names and ranges are those of ComfyUI's own ControlNet nodes: control_net, strength, start_percent,
end_percent; conditionings come in and go out. The type of a ControlNet is ours, as that of a model is: links
that cannot work cannot be drawn.
Shapes: B images, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageOps
from torch import Tensor

from sanakit.comfy import host
from sanakit.comfy.tensors import Conditioning, from_images, to_images
from sanakit.comfy.widgets import AUTO, CATEGORY, CONTROL, MODEL, side
from sanakit.errors import SettingsError
from sanakit.images.hints import HINT_KINDS, HintKind, make_hint
from sanakit.models.controlnet import ControlNet
from sanakit.models.sana import has_blocks
from sanakit.pipelines.control import SAME_SHAPE, ControlImage, size_like
from sanakit.pipelines.text_to_image import TextToImage
from sanakit.weights.control import hint_of, load_controlnets

OWN = "the model's own"
EXTRA = "sanakit_control"  # the key of a conditioning under which its controls travel


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LoadedControlNet:
    """A ControlNet between two nodes. hint: the kind that it says it was trained on; "": it says none."""

    net: ControlNet
    hint: str = ""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class AppliedControl:
    """One image that steers a drawing, and the ControlNet that it is for."""

    net: ControlNet
    image: ControlImage


class LoadControlNet:
    """Load a ControlNet for a model, and keep it as long as ComfyUI keeps this node's result."""

    CATEGORY = CATEGORY
    DESCRIPTION = "Loads a ControlNet for a SANA model, or takes the one that the model came with."
    RETURN_TYPES = ("SANAKIT_CONTROL_NET",)
    RETURN_NAMES = ("control_net",)
    OUTPUT_TOOLTIPS = ("The ControlNet, for SANA apply ControlNet, SANA control and SANA ControlNet hint.",)
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Declare the inputs; asked again whenever the page is loaded, so new files show up."""
        tip = "A file or folder of ComfyUI's models/controlnet that was trained on this SANA model."
        where = "A folder, a .pth file, or a Hub organisation/name; overrides control_net_name."
        names = [OWN, *host.controlnets()]
        return {
            "required": {"model": MODEL, "control_net_name": (names, {"default": OWN, "tooltip": tip})},
            "optional": {"path": ("STRING", {"default": "", "tooltip": where})},
        }

    def load(self, model: TextToImage, control_net_name: str, path: str = "") -> tuple[LoadedControlNet]:
        """Load it in the model's dtype.

        Raises SettingsError for one that does not fit the model, ModelNotFoundError or WeightsError.
        """
        file: Any = path.strip() or host.controlnets().get(control_net_name)
        if file is None and control_net_name != OWN:
            raise SettingsError(
                f"The ControlNet {control_net_name!r} left ComfyUI's models/controlnet: choose another one."
            )
        if file is None:
            if not model.controlnets:
                raise SettingsError(
                    f"{model.settings.name} has no ControlNet of its own: choose one, or a path."
                )
            return (LoadedControlNet(net=model.controlnets[0]),)
        dtype, on_cpu = str(model.transformer.dtype), model.device.type == "cpu"
        mapped = on_cpu and dtype == "torch.float32"
        where = {"device": model.device, "mapped": mapped, "home": "cpu", "plan": None}
        [net] = load_controlnets(file, file, model.transformer, **where)  # type: ignore[arg-type]
        return (LoadedControlNet(net=net, hint=hint_of(file)),)


class MakeHint:
    """An image to the hint that a ControlNet wants."""

    CATEGORY = CATEGORY
    DESCRIPTION = "Makes a hint of an image in the size that is drawn: edges, soft edges, blocks or a mask."
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("hint",)
    FUNCTION = "make"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Declare the inputs."""
        kinds = [AUTO, *HINT_KINDS]
        tip = "auto: the kind that the ControlNet says it was trained on, else as-is, the image itself."
        kind = (kinds, {"default": AUTO, "tooltip": tip})
        own = {"width": side("Width of the drawing"), "height": side("Height of the drawing")}
        net = ("SANAKIT_CONTROL_NET", {"tooltip": "Of the node Load SANA ControlNet; auto asks it."})
        return {
            "required": {"model": MODEL, "image": ("IMAGE",), "kind": kind, **own},
            "optional": {"control_net": net},
        }

    def make(
        self,
        model: TextToImage,
        image: Tensor,
        kind: str,
        width: int,
        height: int,
        control_net: LoadedControlNet | None = None,
    ) -> tuple[Tensor]:
        """Return the hints of width x height; 0: about the model's own size, in the image's shape.

        Raises SettingsError.
        """
        if kind == AUTO:
            kind = control_net.hint if control_net is not None and control_net.hint else "as-is"
        if bool(width) != bool(height):
            raise SettingsError("Only one of width and height is set: set both, or leave both at 0.")
        made: list[Image.Image] = []
        for picture in to_images(image):
            picture = picture.convert("RGB")
            size = (width, height)
            if not width:
                own = model.spec.settings
                size = size_like(picture, own.width, own.height, model.spec.compression)
            fitted = ImageOps.fit(picture, size, Image.Resampling.LANCZOS)
            made.append(make_hint(fitted, _hint_kind(kind)))
        return (from_images(made),)


class ApplyControlNet:
    """Conditionings to conditionings that carry a control image, for the sampler."""

    CATEGORY = CATEGORY
    DESCRIPTION = "Steers the SANA sampler by a hint. Several of these nodes in a row are summed."
    RETURN_TYPES = ("CONDITIONING", "CONDITIONING")
    RETURN_NAMES = ("positive", "negative")
    FUNCTION = "apply"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Declare the inputs."""
        texts = {"positive": ("CONDITIONING",), "negative": ("CONDITIONING",)}
        return {"required": {**texts, **_STEERING}}

    def apply(
        self,
        positive: Conditioning,
        negative: Conditioning,
        control_net: LoadedControlNet,
        image: Tensor,
        strength: float,
        start_percent: float,
        end_percent: float,
    ) -> tuple[Conditioning, Conditioning]:
        """Return both conditionings with the control behind those that they carry. Raises SettingsError."""
        one = _applied(control_net, image, strength, start_percent, end_percent)
        with_it = [
            [[text, {**extras, EXTRA: (*extras.get(EXTRA, ()), one)}] for text, extras in conditioning]
            for conditioning in (positive, negative)
        ]
        return with_it[0], with_it[1]


class MakeControl:
    """A control image for the nodes that do a whole task."""

    CATEGORY = CATEGORY
    DESCRIPTION = "Steers text to image, image to image or inpaint by a hint. Several in a row are summed."
    RETURN_TYPES = ("SANAKIT_CONTROL",)
    RETURN_NAMES = ("control",)
    FUNCTION = "make"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Declare the inputs."""
        return {"required": dict(_STEERING), "optional": {"control": CONTROL}}

    def make(
        self,
        control_net: LoadedControlNet,
        image: Tensor,
        strength: float,
        start_percent: float,
        end_percent: float,
        control: tuple[AppliedControl, ...] = (),
    ) -> tuple[tuple[AppliedControl, ...]]:
        """Return the controls so far and this one. Raises SettingsError."""
        return ((*control, _applied(control_net, image, strength, start_percent, end_percent)),)


def controls_of(positive: Conditioning, negative: Conditioning, guided: bool) -> tuple[AppliedControl, ...]:
    """Return the controls that both conditionings carry; the negative one counts where it is used.

    Raises SettingsError where they differ: what steers, steers with and without the prompt.
    """
    found = [
        conditioning[0][1].get(EXTRA, ()) if conditioning else () for conditioning in (positive, negative)
    ]
    if guided and found[0] != found[1]:
        raise SettingsError(
            "positive and negative carry different controls: connect both through SANA apply ControlNet."
        )
    return found[0]


def without_controls(conditioning: Conditioning) -> Conditioning:
    """Return a conditioning without the controls that it carries."""
    return [
        [text, {name: value for name, value in extras.items() if name != EXTRA}]
        for text, extras in conditioning
    ]


def steered(
    model: TextToImage, controls: Sequence[AppliedControl]
) -> tuple[TextToImage, list[ControlImage] | None]:
    """Return the pipeline with the ControlNets of the controls, and their images for it; None: without any.

    Raises SettingsError for a ControlNet of another model.
    """
    if not controls:
        return model, None
    if not has_blocks(model.transformer):
        raise SettingsError("A ControlNet cannot steer graphs: use the original model.")
    for one in controls:
        one.net.check_fits(model.transformer.config)
    nets = [one.net for one in controls]
    return model.beside(nets), [one.image for one in controls]


def check_shapes(controls: Sequence[AppliedControl], drawn: tuple[int, int], multiple: int) -> None:
    """Raise SettingsError for a hint of another shape than what is drawn, which would be cut.

    drawn: height and width in pixels. multiple: of the drawn sides, whose rounding is not counted.
    """
    for one in controls:
        wide, high = one.image.image.size
        ratio, (height, width) = wide / high, drawn
        near = abs(width / height / ratio - 1) <= SAME_SHAPE
        rounded = min(abs(width - height * ratio), abs(height - width / ratio)) <= multiple / 2
        if not (near or rounded):
            raise SettingsError(
                f"The hint is {wide}x{high} px, but {width}x{height} px are drawn, another shape: make the "
                "hint in that size, with SANA ControlNet hint."
            )


def _applied(
    control_net: LoadedControlNet, image: Tensor, strength: float, start: float, end: float
) -> AppliedControl:
    """Return one control of a node's inputs. Raises SettingsError."""
    if not isinstance(control_net, LoadedControlNet):
        came = type(control_net).__name__
        raise SettingsError(f"The ControlNet came as {came}: load it with Load SANA ControlNet.")
    images = to_images(image)
    if len(images) != 1:
        raise SettingsError(f"{len(images)} control images came, but one steers all images: connect one.")
    return AppliedControl(
        net=control_net.net, image=ControlImage(images[0], scale=strength, start=start, end=end)
    )


def _hint_kind(kind: str) -> HintKind:
    """Return the kind called so. Raises SettingsError."""
    for known in HINT_KINDS:
        if kind == known:
            return known
    raise SettingsError(f"control kind = {kind!r}, but it must be {', '.join(HINT_KINDS)}.")


def _share(default: float, tooltip: str) -> tuple[str, dict[str, Any]]:
    return ("FLOAT", {"default": default, "min": 0.0, "max": 1.0, "step": 0.001, "tooltip": tooltip})


_STEERING: dict[str, Any] = {
    "control_net": ("SANAKIT_CONTROL_NET", {"tooltip": "Of the node Load SANA ControlNet."}),
    "image": ("IMAGE", {"tooltip": "The hint, as SANA ControlNet hint makes it, of the drawing's shape."}),
    "strength": (
        "FLOAT",
        {"default": 1.0, "min": 0.0, "max": 10.0, "step": 0.01, "tooltip": "1: as trained; 0: not at all."},
    ),
    "start_percent": _share(0.0, "The share of the steps from which it steers."),
    "end_percent": _share(1.0, "The share of the steps until which it steers."),
}
