"""Two more designs of known things, for variety.

Google Noto Emoji v1 ("retro": blobs and bold shapes) and Firefox OS emoji ("two-tone"), both Apache-2.0, in a
data set of their own and in the form of pocket's (see `pocket`): the four main designs stay one whole. Their
icons have no code points: an icon stands for the concept that it spells or that a table gives. It is
left out where its colour is not the one in the thing's phrase, or where it shows something else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from sanakit.pocket.data import dataset as pocket
from sanakit.pocket.data import sources
from sanakit.pocket.data.more_icons import LEFT_OUT, NAMES
from sanakit.pocket.words.captions import Style

NOTO_V1 = sources.Package(
    name="@iconify-json/noto-v1",
    version="1.2.5",
    licence="Apache-2.0",
    origin="Google Noto Emoji, first version",
    sha512="/DsVMius69Q0fRS53z7QK1TROSuar606jiIx+laXtdsYGMXpf6LtHBx6CGfoo3UHHb/XpBsw+1L1x3eyPqMuVA==",
)
FXEMOJI = sources.Package(
    name="@iconify-json/fxemoji",
    version="1.2.2",
    licence="Apache-2.0",
    origin="Mozilla Firefox OS Emoji",
    sha512="UAasRaxzFUKfIGSmLwnoarsssA4LX0VLLuEmplIqM6ZNQqIQRtav8tZ4H1neTlBreXuMQyAifr5jP4kn78DpiQ==",
)
PACKAGES = {"noto-v1": NOTO_V1, "fxemoji": FXEMOJI}
MORE_STYLES = (
    Style(
        name="noto-v1",
        tag="retro emoji",
        long="a retro illustration",
        short="a retro drawing",
        suffix="retro",
    ),
    Style(
        name="fxemoji",
        tag="two-tone emoji",
        long="a two-tone illustration",
        short="a two-tone drawing",
        suffix="two-tone",
    ),
)


def build_more(
    folder: str | Path,
    *,
    cache: str | Path | None = None,
    workers: int | None = None,
    progress: pocket.OnProgress | None = None,
) -> pocket.PocketImages:
    """Build the data set of the two further designs in a new folder; a finished one is only opened.

    cache: folder for the npm tarballs, default FOLDER-packages.   workers, progress: as in build_pocket.
    Raises DataError and MissingExtraError as build_pocket does.
    """
    packages = (sources.EMOJIBASE, *PACKAGES.values())
    return pocket.build(
        folder, packages, choose_more, "0.4 GB", cache=cache, workers=workers, progress=progress
    )


def choose_more(
    tarballs: Mapping[sources.Package, Path],
) -> Iterator[tuple[pocket.PocketRow, str | bytes]]:
    """Choose the icons that stand for concepts of the data set: their rows and their SVG documents."""
    emojis = pocket.kept_emojis(tarballs)
    for style in MORE_STYLES:
        package = PACKAGES[style.name]
        icons = sources.read_icons(tarballs[package])
        for emoji in emojis:
            icon = icon_of(emoji.concept, style.name, icons)
            if icon is not None:
                yield pocket.row_of(emoji, style, package), icons[icon]


def icon_of(concept: str, style: str, icons: dict[str, str]) -> str | None:
    """Find the icon that stands for a concept in a style: the table's, or the one that spells its name."""
    if concept in LEFT_OUT[style]:
        return None
    if concept in NAMES[style]:
        return NAMES[style][concept] if NAMES[style][concept] in icons else None
    slug = re.sub(r"[^a-z0-9]+", "-", concept.lower().replace("\u2019", "")).strip("-")
    taken = set(NAMES[style].values())
    spelled = [name for name in (slug, slug.replace("-", "")) if name in icons and name not in taken]
    return spelled[0] if spelled else None
