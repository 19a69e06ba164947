"""Whose images the same weights draw: diffusers', which is the default, or those of NVIDIA's own scripts.

Both run the published weights, and differ in what is around them. "native" follows NVlabs/Sana:

1 null prompt: padded, and read under the prompt's mask     `text/native.py`, `pipelines/denoise.py`
2 prompts: capitals stay, flags such as --ar are cut off    `text/native.py`
3 flow shift: 4 for the 0.6B model of 1024 px               `weights/settings.py`
4 instruction: "Enhanced prompt" in double quotes           `text/native.py`
5 norm of cross-attention's queries and keys: 1e-6          `CROSS_NORM_EPS`
6 sizes: 33 of the 40 bins at 2048 px                       `images/image.py`
7 model times: whole, or none is, by the model              `ModelSpec.whole_times` in `pipelines/request.py`
8 clips: instruction, motion score, flow shift at 480p      `text/native.py`, `weights/video/settings.py`

`docs/dialects.md` tells how much each of them changes an image.
"""

from __future__ import annotations

from typing import Literal, get_args

from sanakit.errors import SettingsError

Dialect = Literal["diffusers", "native"]

DIALECTS: tuple[Dialect, ...] = get_args(Dialect)
USUAL: Dialect = "diffusers"
CROSS_NORM_EPS: dict[Dialect, float | None] = {"diffusers": None, "native": 1e-6}  # None: the norm's own


def check_dialect(dialect: object) -> Dialect:
    """Return a dialect as such. Raises SettingsError for anything else."""
    for known in DIALECTS:
        if dialect == known:
            return known
    raise SettingsError(
        f'dialect = {dialect!r}, but it must be "diffusers" (usual) or "native" (as NVIDIA\'s scripts).'
    )
