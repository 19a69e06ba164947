"""Furniture under CC0: the models of Blend Swap in Sweet Home 3D's library, as Debian packs them.

Source: Debian's sweethome3d-furniture, whose file BlendSwap-CC-0.sh3f is a ZIP archive of a catalogue
(PluginFurnitureCatalog.properties) and of OBJ models with materials. No other library of the package is
opened. A material's texture becomes one colour for each triangle.
Shapes: N triangles.
"""

from __future__ import annotations

import hashlib
import io
import lzma
import posixpath
import re
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from sanakit.errors import DataError
from sanakit.pocket.data.worlds.meshes import Mesh

PACKAGE = "sweethome3d-furniture"
VERSION = "1.8-1"
FILE = f"{PACKAGE}_{VERSION}_all.deb"
SHA256 = "3ccb90c63f9525e887a767b9cd5c8b6933b8b6b2973a615a5359ee68a2118668"
LIBRARY = "BlendSwap-CC-0.sh3f"
LICENCE = "CC0-1.0"
MOST_TRIANGLES = 25_000  # of a model: more take too long to draw
SMALLEST = 0.25  # metres: what is smaller is not furniture
_CATALOGUE = "PluginFurnitureCatalog.properties"
_GREY = (0.7, 0.7, 0.7)


@dataclass(frozen=True, slots=True, eq=False)
class Furniture:
    """A piece of the catalogue. name: in lower case. key: its model, unique. mesh: standing on the floor."""

    name: str
    key: str
    mesh: Mesh


def obtain_package(cache: Path) -> Path:
    """Return the package's verified file in a folder, fetched by `apt-get download` if missing.

    Raises DataError without apt-get, or for another file than that version's.
    """
    path = cache / FILE
    if not path.is_file():
        if shutil.which("apt-get") is None:
            raise DataError(
                f"{FILE} is needed, and there is no apt-get here: put Debian's package into {cache}, or "
                "render made furniture alone (--made)."
            )
        cache.mkdir(parents=True, exist_ok=True)
        command = ["apt-get", "download", f"{PACKAGE}={VERSION}"]
        done = subprocess.run(command, cwd=cache, capture_output=True, text=True, check=False)
        if done.returncode or not path.is_file():
            last = (done.stderr.strip().splitlines() or ["no file came"])[-1]
            raise DataError(
                f"{PACKAGE} {VERSION} cannot be fetched ({last}): run `apt-get update`, put the package into "
                f"{cache}, or render made furniture alone (--made)."
            )
    if hashlib.sha256(path.read_bytes()).hexdigest() != SHA256:
        raise DataError(f"{path} is not {PACKAGE} {VERSION} as Debian has it: delete it and build again.")
    return path


def read_package(path: Path) -> list[Furniture]:
    """Return the furniture of the package that is under CC0, by the models' names. Raises DataError."""
    try:
        data = lzma.decompress(_member(path.read_bytes(), "data.tar.xz"))
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            name = next(one for one in archive.getnames() if posixpath.basename(one) == LIBRARY)
            stream = archive.extractfile(name)
            assert stream is not None  # a regular file: the package's checksum was verified
            return read_library(stream.read())
    except (StopIteration, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile, KeyError) as error:
        raise DataError(f"{path} is damaged ({error}): delete it and build again.") from error


def read_library(content: bytes) -> list[Furniture]:
    """Return the furniture of a library file (.sh3f) that is large enough, and not too fine, to be drawn."""
    found: list[Furniture] = []
    with zipfile.ZipFile(io.BytesIO(content)) as library:
        by_lower = {name.lower(): name for name in library.namelist()}
        text = library.read(_CATALOGUE).decode("latin-1")
        fields: dict[int, dict[str, str]] = {}
        for match in re.finditer(r"^(\w+)#(\d+)=(.*)$", text, re.MULTILINE):
            fields.setdefault(int(match[2]), {})[match[1]] = match[3].strip()
        for piece in fields.values():
            model = piece["model"].lstrip("/")
            height = float(piece["height"]) / 100
            if not model.lower().endswith(".obj") or max(height, float(piece["width"]) / 100) < SMALLEST:
                continue
            folder = posixpath.dirname(model)
            files = {
                posixpath.relpath(lower, folder.lower()): name
                for lower, name in by_lower.items()
                if posixpath.dirname(lower) == folder.lower()
            }
            mesh = read_obj(
                library.read(by_lower[model.lower()]),
                {short: library.read(name) for short, name in files.items() if not short.endswith(".obj")},
            )
            if 0 < len(mesh.corners) <= MOST_TRIANGLES:
                scale = np.float32(height / np.ptp(mesh.bounds[:, 1]))
                found.append(
                    Furniture(
                        piece["name"].lower(), model, Mesh(mesh.corners * scale, mesh.colours).standing()
                    )
                )
    return sorted(found, key=lambda piece: piece.key)


def read_obj(content: bytes, beside: Mapping[str, bytes]) -> Mesh:
    """Return the triangles of an OBJ file, whose y axis points up. beside: files by name, in lower case."""
    points: list[tuple[float, ...]] = []
    textures: list[tuple[float, ...]] = []
    faces: list[list[tuple[int, int]]] = []
    materials: list[str] = []
    known: dict[str, _Material] = {}
    material = ""
    for line in content.decode("latin-1").splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "v":
            points.append(tuple(map(float, rest.split()[:3])))
        elif word == "vt":
            textures.append(tuple(map(float, rest.split()[:2])))
        elif word == "f":
            places = [_place(part, len(points), len(textures)) for part in rest.split()]
            fan = [[places[0], one, two] for one, two in pairwise(places[1:])]
            faces += fan
            materials += [material] * len(fan)
        elif word == "usemtl":
            material = rest.strip()
        elif word == "mtllib":
            known |= _read_materials(beside.get(rest.strip().lower(), b""), beside)
    if not faces:
        return Mesh(np.zeros((0, 3, 3), np.float32), np.zeros((0, 3), np.float32))
    index = np.array(faces)  # N 3 2
    corners = np.array(points, np.float32)[index[..., 0]] * np.array([1, -1, -1], np.float32)
    mapped = np.array([*textures, (0.0, 0.0)])[index[..., 1]].mean(1)  # where no texture is, the last one
    colours = np.tile(np.array(_GREY, np.float32), (len(faces), 1))
    names = np.array(materials)
    for name, found in known.items():
        own = names == name
        colours[own] = found.colours(mapped[own])
    seen = np.array([known[name].opacity > 0.3 if name in known else True for name in materials])
    return Mesh(corners[seen], colours[seen])


@dataclass(frozen=True, slots=True, eq=False)
class _Material:
    """The colour of a surface, and its texture H W 3 in [0, 1], if it has one."""

    colour: np.ndarray
    opacity: float
    texture: np.ndarray | None

    def colours(self, mapped: np.ndarray) -> np.ndarray:
        """Return the colour at places of the texture, N 3. mapped: N 2, the texture's lower left is 0, 0."""
        if self.texture is None:
            return np.tile(self.colour, (len(mapped), 1))
        high, wide = self.texture.shape[:2]
        columns = np.floor(mapped[:, 0] % 1 * wide).astype(np.int64).clip(0, wide - 1)
        rows = np.floor((-mapped[:, 1]) % 1 * high).astype(np.int64).clip(0, high - 1)
        return self.texture[rows, columns]


def _read_materials(content: bytes, beside: Mapping[str, bytes]) -> dict[str, _Material]:
    found: dict[str, _Material] = {}
    name = ""
    for line in content.decode("latin-1").splitlines():
        word, _, rest = line.strip().partition(" ")
        rest = rest.strip()
        if word == "newmtl":
            name = rest
            found[name] = _Material(np.array(_GREY, np.float32), 1.0, None)
        elif name and word == "Kd":
            colour = np.array(rest.split()[:3], np.float32)
            found[name] = _Material(colour, found[name].opacity, found[name].texture)
        elif name and word == "d":
            found[name] = _Material(found[name].colour, float(rest.split()[-1]), found[name].texture)
        elif name and word == "map_Kd":
            image = beside.get(posixpath.basename(rest.replace("\\", "/")).lower())
            if image is not None:
                small = Image.open(io.BytesIO(image)).convert("RGB").resize((16, 16), Image.Resampling.BOX)
                texture = np.asarray(small, np.float32) / 255
                found[name] = _Material(found[name].colour, found[name].opacity, texture)
    return found


def _place(part: str, points: int, textures: int) -> tuple[int, int]:
    """Return the numbers of a corner's point and texture, from 0; -1: it has no texture."""
    numbers = [*part.split("/"), ""]
    point, texture = int(numbers[0]), int(numbers[1]) if numbers[1] else 0
    return (
        point - 1 if point > 0 else points + point,
        texture - 1 if texture > 0 else textures + texture if texture < 0 else -1,
    )


def _member(content: bytes, name: str) -> bytes:
    """Return a member of an ar archive, as .deb files are. Raises KeyError."""
    start = 8
    while start + 60 <= len(content):
        header = content[start : start + 60]
        size = int(header[48:58])
        if header[:16].decode("ascii").strip().rstrip("/") == name:
            return content[start + 60 : start + 60 + size]
        start += 60 + size + size % 2
    raise KeyError(name)
