"""Every released image checkpoint of the SANA family, by a short name: plain data, nothing is imported or
downloaded.

Source: the project's model zoo and the cards of the Hub repositories, read in 2026. The download sizes are
arithmetic, not measurements: parameters times two bytes, four for the autoencoder, whose published files hold
float32. `pocket` is the model that ships inside this package; ControlNets and models of clips that do have
tables of their own.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from pathlib import Path

from sanakit.errors import ModelNotFoundError

AUTOENCODER_PARAMETERS = 312_250_275  # DC-AE f32c32
TEXT_ENCODER_PARAMETERS = 2_614_341_888  # Gemma-2-2B without its language head

LICENCE_SANA = (
    "NVIDIA NSCL v2-custom: research and evaluation, not commercial; Gemma Terms of Use for the text encoder"
)
LICENCE_UNSETTLED = (
    "contradictory as published: the Hub's metadata say nvidia-open-model-license, the card says research "
    "only; Gemma Terms of Use for the text encoder"
)
LICENCE_SANA_1_5 = (
    "NVIDIA License (NSCL v2-custom family), not commercial; Gemma Terms of Use for the text encoder"
)
LICENCE_POCKET = "Apache-2.0"
_ASSETS = Path(__file__).parents[2] / "assets"


@dataclass(frozen=True, kw_only=True, slots=True)
class CatalogEntry:
    """One released checkpoint and how it wants to be run."""

    name: str
    repo: str | None  # Hub repository of the diffusers folder; None: embedded in this package
    parameters: int  # of the transformer
    width: int = 1024  # pixels; the size it was trained for
    height: int = 1024
    precision: str = (
        "any"  # the one 16-bit dtype the transformer may compute in, or "any"; float32 always may
    )
    variant: str | None = None  # tag in the names of the weight files: fp16, bf16, or none
    flow_shift: float = 3.0
    native_flow_shift: float | None = None  # in the official YAML, where it differs
    time_scale: float = 1000.0  # what t in [0, 1] is multiplied by before its sinusoid
    steps: int = 20
    guidance: float = 4.5
    solver: str = "dpm"
    languages: str = "English"
    licence: str = LICENCE_SANA
    unsupported: str = ""  # why its name cannot be drawn with; empty: it can
    parts_of: str = ""  # the release that its autoencoder and text encoder come from; empty: its own

    @property
    def download_bytes(self) -> int:
        """The approximate download size of the whole pipeline in bytes; 0 if nothing is downloaded."""
        if self.repo is None or self.unsupported:
            return 0
        return 2 * (self.parameters + TEXT_ENCODER_PARAMETERS) + 4 * AUTOENCODER_PARAMETERS

    @property
    def stem(self) -> str:
        """The name of the release, as official files carry it: `Sana_1600M_1024px_BF16`."""
        return self.repo.split("/")[1].removesuffix("_diffusers") if self.repo else self.name

    @property
    def folder(self) -> Path | None:
        """The folder of an embedded model; None for models of the Hub."""
        return _ASSETS / self.name if self.repo is None else None


_HUB = "Efficient-Large-Model/"
_MANY = "many, emoji"
_0_6B = CatalogEntry(
    name="sana-0.6b-1024",
    repo=_HUB + "Sana_600M_1024px_diffusers",
    parameters=591_747_872,
    precision="float16",
    variant="fp16",
    native_flow_shift=4.0,
    languages=_MANY,
)
_1_6B = replace(
    _0_6B,
    native_flow_shift=None,
    name="sana-1.6b-1024",
    repo=_HUB + "Sana_1600M_1024px_diffusers",
    parameters=1_604_462_752,
    languages="English",
    licence=LICENCE_UNSETTLED,
)
_1_6B_BF16 = replace(
    _1_6B,
    name="sana-1.6b-1024-bf16",
    repo=_HUB + "Sana_1600M_1024px_BF16_diffusers",
    precision="bfloat16",
    variant="bf16",
    languages=_MANY,
    licence=LICENCE_SANA,
)
_1_5 = replace(
    _1_6B_BF16,
    name="sana-1.5-1.6b",
    repo=_HUB + "SANA1.5_1.6B_1024px_diffusers",
    parameters=1_604_641_952,
    variant=None,
    licence=LICENCE_SANA_1_5,
)
_SPRINT = replace(
    _1_5,
    name="sana-sprint-1.6b",
    repo=_HUB + "Sana_Sprint_1.6B_1024px_diffusers",
    parameters=1_610_237_472,
    steps=2,
    solver="scm",
    time_scale=1.0,
    licence=LICENCE_UNSETTLED,
)
_TEACHER = replace(
    _1_5,
    name="sana-sprint-1.6b-teacher",
    repo=_HUB + "SANA_Sprint_1.6B_1024px_teacher",
    time_scale=1.0,
    licence=LICENCE_SANA,
    unsupported="the teacher of Sprint's distillation, published as .pth: download it and pass its path",
    parts_of="sana-sprint-1.6b",
)
_CONTROL = "a model with its ControlNet, published as .pth: download it and pass its path"

_ENTRIES = (
    CatalogEntry(
        name="pocket",
        repo=None,
        parameters=8_945_184,
        width=256,
        height=256,
        steps=10,
        guidance=2.5,
        licence=LICENCE_POCKET,
    ),
    replace(
        _0_6B,
        name="sana-0.6b-512",
        repo=_HUB + "Sana_600M_512px_diffusers",
        width=512,
        height=512,
        native_flow_shift=None,
        languages="English, Chinese, emoji",
    ),
    _0_6B,
    replace(
        _1_6B,
        name="sana-1.6b-512",
        repo=_HUB + "Sana_1600M_512px_diffusers",
        width=512,
        height=512,
        licence=LICENCE_SANA,
    ),
    replace(
        _1_6B,
        name="sana-1.6b-512-multiling",
        repo=_HUB + "Sana_1600M_512px_MultiLing_diffusers",
        width=512,
        height=512,
        languages="English, Chinese, emoji",
        licence=LICENCE_SANA,
    ),
    _1_6B,
    replace(
        _1_6B,
        name="sana-1.6b-1024-multiling",
        repo=_HUB + "Sana_1600M_1024px_MultiLing_diffusers",
        languages=_MANY,
        licence=LICENCE_SANA,
    ),
    _1_6B_BF16,
    replace(
        _1_6B_BF16, name="sana-1.6b-2k", repo=_HUB + "Sana_1600M_2Kpx_BF16_diffusers", width=2048, height=2048
    ),
    replace(
        _1_6B_BF16,
        name="sana-1.6b-4k",
        repo=_HUB + "Sana_1600M_4Kpx_BF16_diffusers",
        width=4096,
        height=4096,
        flow_shift=6.0,  # by the official YAML and conversion script; the folder's scheduler file wins
    ),
    _1_5,
    replace(
        _1_5, name="sana-1.5-4.8b", repo=_HUB + "SANA1.5_4.8B_1024px_diffusers", parameters=4_721_825_952
    ),
    replace(
        _SPRINT,
        name="sana-sprint-0.6b",
        repo=_HUB + "Sana_Sprint_0.6B_1024px_diffusers",
        parameters=593_501_216,
        licence=LICENCE_SANA,
    ),
    _SPRINT,
    _TEACHER,
    replace(
        _TEACHER,
        name="sana-sprint-0.6b-teacher",
        repo=_HUB + "Sana_Sprint_0.6B_1024px_teacher",
        parameters=591_876_896,
        parts_of="sana-sprint-0.6b",
    ),
    replace(
        _0_6B,
        name="sana-0.6b-controlnet-hed",
        repo=_HUB + "Sana_600M_1024px_ControlNet_HED",
        unsupported=_CONTROL,
        parts_of="sana-0.6b-1024",
    ),
    replace(
        _1_6B_BF16,
        name="sana-1.6b-controlnet-hed",
        repo=_HUB + "Sana_1600M_1024px_BF16_ControlNet_HED",
        unsupported=_CONTROL,
        parts_of="sana-1.6b-1024-bf16",
    ),
    replace(
        _1_6B_BF16,
        name="sana-1.6b-svdquant-int4",
        repo="mit-han-lab/svdq-int4-sana-1600m",
        variant=None,
        unsupported="packed for the Nunchaku engine (SVDQuant W4A4), which this package does not contain",
    ),
)
CATALOG: dict[str, CatalogEntry] = {entry.name: entry for entry in _ENTRIES}
# Embedded ControlNets by name; a model's sanakit.json offers those that steer it (`control_models`).
CONTROLNETS = {"pocket-lines": _ASSETS / "pocket_lines"}
# Embedded models of clips by name; what each of them is and knows stands in its folder.
CLIP_MODELS = {"pocket-video": _ASSETS / "pocket_video"}
# Embedded CLIPs by name, which score captions of images and draw nothing.
SCORERS = {"pocket-clip": _ASSETS / "pocket_clip"}


def find(name: str, makes: str = "") -> CatalogEntry:
    """Return the entry called `name`.

    makes: "clips" or "worlds": names of such models alone are told; "": those of all.
    Raises ModelNotFoundError for an unknown name: it lists the nearest ones and the other ways to name a
    model.
    >>> find("sana-1.6b-2k").width
    2048
    """
    if name in CATALOG:
        return CATALOG[name]
    of_kind = {"clips": [*CLIP_MODELS], "worlds": []}
    known = of_kind.get(makes, [*CATALOG, *CLIP_MODELS])
    near = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.4) or known[:3]
    nearest = f" Nearest names: {', '.join(near)}." if near else ""
    if makes:
        raise ModelNotFoundError(
            f"There is no model of {makes} named {name[:99]!r}.{nearest} A model can be a diffusers folder, "
            "or a Hub repository written as organisation/name."
        )
    raise ModelNotFoundError(
        f"There is no model named {name[:99]!r}.{nearest} A model can also be a diffusers folder, a "
        ".safetensors or .pth file, or a Hub repository written as organisation/name; `sana models` lists "
        "all names."
    )


def recognise(text: str) -> CatalogEntry | None:
    """Return the release whose official name is a part of `text` (a path or Hub name), or None.

    People keep the published names: `Sana_1600M_2Kpx_BF16.pth` tells the resolution and precision that its
    tensors do not. Of several that fit, the longest is meant (`..._1024px_BF16` over `..._1024px`).
    >>> recognise("downloads/Sana_1600M_2Kpx_BF16.pth").name
    'sana-1.6b-2k'
    """
    fitting = [entry for entry in CATALOG.values() if entry.repo and entry.stem.lower() in text.lower()]
    return max(fitting, key=lambda entry: len(entry.stem), default=None)


def clip_models_here() -> list[str]:
    """Return the names of the embedded models of clips that this installation has."""
    return [name for name, folder in CLIP_MODELS.items() if folder.is_dir()]


def list_models() -> list[str]:
    """Return the names of all models that this version draws images with, the embedded ones first.

    Each is what `from_pretrained` takes; `CATALOG` tells more of them.
    >>> list_models()[0]
    'pocket'
    """
    drawn = [entry for entry in CATALOG.values() if not entry.unsupported]
    return [entry.name for entry in sorted(drawn, key=lambda entry: entry.repo is not None)]
