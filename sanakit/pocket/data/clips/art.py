"""Where pocket's clips come from: animated emoji in npm packages, and which of them are Microsoft's.

Sources: @lobehub/fluent-emoji-anim-1 to -4 (WebP of 256 px with transparency, named by code point, of 24
frames a second; still files among them are skipped), emojibase-data (CLDR names), and the names of the flat
design, which are those that Microsoft released under the MIT licence.
Shapes: T frames, S side in pixels.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from sanakit.errors import DataError
from sanakit.pocket.data import sources
from sanakit.pocket.data.sources import Package, normal_code
from sanakit.pocket.words.captions import is_kept

RATE = 24  # frames a second
DURATION = 42  # ms of a frame: the nearest to 1/24 s that a WebP file can hold
LEEWAY = 3  # ms

_CHECKSUMS = (
    "/4m31vAuZEQ4aUJ5pxcOU5PVkuJya55GRxUZL7+zgLlxZXpzzE8jPqpDyhZICE3n47nS/Y9M5/vLdizi8201QA==",
    "S6yzf0RZXrQbXdxCWuHA9BAoLdBRk2flX+ne4TPGEH/qApwisCAKHoAAGjKSlTY3OVeZ9b7t/NEbmpjawnQYJA==",
    "UzRSUDMjdfdt9vER5bhjHkPqgc3EEgfGtYs6ndvizOTvQOxYQ57ow2RTkWSDZxwW30X4EYBi2eWTS7CXDDoFsg==",
    "IIkl5ztSd1HrzvIDt/uGsFoC1WODXRdYq5uROrnkyqi9DbToEcJ1nlY86PnoUXeFS9nBCnHfiYk3ouSEGThFmA==",
)
ANIMATED = tuple(
    Package(
        name=f"@lobehub/fluent-emoji-anim-{number}",
        version="1.0.0",
        licence="MIT",
        origin="Microsoft Fluent Emoji, animated",
        sha512=sha512,
    )
    for number, sha512 in enumerate(_CHECKSUMS, start=1)
)
PACKAGES = (sources.EMOJIBASE, sources.FLUENT_FLAT, *ANIMATED)

# Microsoft's animated release has the right-pointing hand in all skin tones; the flat one names it otherwise.
RELEASED_BESIDES = "1f449"
# It has not the person at a computer, whose laptop bears a logo.
NOT_RELEASED = ("1f468", "1f9d1")  # man, person
COMPUTER = "1f4bb"


@dataclass(frozen=True, kw_only=True, slots=True)
class AnimatedEmoji:
    """One emoji that may be animated. tone: CLDR's words for its skin, "" for the yellow one."""

    code: str
    emoji: sources.Emoji  # without tone
    tone: str


def list_emojis(tarballs: Mapping[Package, Path]) -> dict[str, AnimatedEmoji]:
    """Return the emojis that belong to the data set, in every skin tone, by code point."""
    released = sources.read_codes(tarballs[sources.FLUENT_FLAT]).keys()
    tones = sources.read_tones(tarballs[sources.EMOJIBASE])
    found = {}
    for emoji in sources.read_emojis(tarballs[sources.EMOJIBASE]):
        if is_kept(emoji.concept, emoji.group, emoji.subgroup):
            for code, tone in (("", ""), *tones.get(emoji.code, {}).items()):
                code = code or emoji.code
                if is_released(code, released):
                    found[code] = AnimatedEmoji(code=code, emoji=emoji, tone=tone)
    return found


def is_released(code: str, released: Container[str]) -> bool:
    """Tell whether Microsoft released an animated emoji. released: the code points of the flat design."""
    parts = code.split("-")
    return (code in released or parts[0] == RELEASED_BESIDES) and not (
        parts[0] in NOT_RELEASED and parts[-1] == COMPUTER
    )


def read_animated(tarball: Path) -> Iterator[tuple[str, bytes]]:
    """Yield a package's files: code point and bytes."""
    with tarfile.open(tarball) as archive:
        for member in archive:
            if member.isfile() and member.name.endswith(".webp"):
                stream = archive.extractfile(member)
                assert stream is not None  # a regular file: the checksum of the tarball was verified
                yield normal_code(Path(member.name).stem), stream.read()


def draw_frames(file: bytes, side: int) -> np.ndarray | None:
    """Return an animation on white, T S S 3 uint8; None for a still image.

    Raises DataError when it cannot be read, or has another frame rate than the packages' 24.
    """
    try:
        image = Image.open(io.BytesIO(file))
        count = getattr(image, "n_frames", 1)
        frames = []
        for number in range(count if count > 1 else 0):
            image.seek(number)
            drawn = image.convert("RGBA")
            lasts = image.info["duration"]
            times = round(lasts / DURATION)  # equal frames may have become one that lasts longer
            if not times or abs(lasts - times * DURATION) > LEEWAY:
                raise DataError(
                    f"A frame of an animated emoji lasts {lasts} ms, which is not a multiple of {DURATION}: "
                    "use the packages of this version."
                )
            white = Image.new("RGBA", drawn.size, "white")
            white.alpha_composite(drawn)
            small = np.asarray(white.convert("RGB").resize((side, side), Image.Resampling.BOX))
            frames += [small] * times
    except (ValueError, KeyError, OSError) as error:
        raise DataError(f"An animated emoji cannot be drawn ({error}). Update Pillow.") from error
    return np.stack(frames) if frames else None
