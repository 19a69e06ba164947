"""Furniture in Sweet Home 3D's library format: sizes, colours, and what is left out."""

from __future__ import annotations

import hashlib
import io
import lzma
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sanakit.errors import DataError
from sanakit.pocket.data.worlds import furniture
from sanakit.pocket.data.worlds.furniture import obtain_package, read_library, read_obj, read_package

OBJ = b"""mtllib Thing.mtl
v 0 0 0
v 2 0 0
v 2 4 0
v 0 4 0
vt 0.1 0.9
vt 0.9 0.9
vt 0.9 0.1
usemtl plain
f 1 2 3 4
usemtl woven
f 1/1 2/2 -2/3
usemtl glass
f 1 2 3
"""
MTL = b"""newmtl plain
Kd 1 0.5 0
newmtl woven
Kd 1 1 1
map_Kd woven.png
newmtl glass
d 0.1
"""


def woven() -> bytes:
    """Blue above, red below."""
    image = Image.new("RGB", (32, 32), (255, 0, 0))
    image.paste((0, 0, 255), (0, 0, 32, 16))
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


def library(**sizes: str) -> bytes:
    """One chair, a comb that is too small, and a model that is not OBJ."""
    told = {"height": "100", "width": "50"} | sizes
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        lines = ["id=Library", "name#1=Chair", "model#1=/a/chair/Thing.obj"]
        lines += [f"{name}#1={value}" for name, value in told.items()]
        lines += ["name#2=Comb", "model#2=/a/chair/Thing.obj", "height#2=3", "width#2=20"]
        lines += ["name#3=Sofa", "model#3=/a/sofa.dae", "height#3=100", "width#3=100"]
        file.writestr("PluginFurnitureCatalog.properties", "\n".join(lines))
        file.writestr("a/chair/Thing.obj", OBJ)
        file.writestr("a/chair/Thing.mtl", MTL)
        file.writestr("a/chair/woven.png", woven())
    return content.getvalue()


def package(path: Path, content: bytes) -> None:
    """Write a .deb as ar has it."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        member = tarfile.TarInfo(f"./usr/share/sweethome3d/furniture/{furniture.LIBRARY}")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    files = {"debian-binary": b"2.0\n\n", "data.tar.xz": lzma.compress(archive.getvalue())}
    out = b"!<arch>\n"
    for name, data in files.items():
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode()
        out += data + b"\n" * (len(data) % 2)
    path.write_bytes(out)


def test_faces_become_triangles_with_the_colours_of_their_materials() -> None:
    mesh = read_obj(OBJ, {"thing.mtl": MTL, "woven.png": woven()})
    assert len(mesh.corners) == 3  # a square is two; what is nearly clear is left out
    assert mesh.corners[0].tolist() == [[0, 0, 0], [2, 0, 0], [2, -4, 0]]  # y points down
    np.testing.assert_allclose(mesh.colours[:2], [[1, 0.5, 0]] * 2)
    np.testing.assert_allclose(mesh.colours[2], [0, 0, 1])  # of the texture's upper half


def test_a_library_gives_furniture_of_its_height_on_the_floor() -> None:
    (chair,) = read_library(library())
    assert (chair.name, chair.key) == ("chair", "a/chair/Thing.obj")
    least, most = chair.mesh.bounds
    np.testing.assert_allclose([least[1], most[1]], [-1.0, 0.0], atol=1e-6)
    np.testing.assert_allclose(least[[0, 2]] + most[[0, 2]], 0, atol=1e-6)
    assert chair.mesh.radius == pytest.approx(0.25)


def test_the_package_is_verified_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / furniture.FILE
    package(path, library())
    with pytest.raises(DataError, match="is not sweethome3d-furniture"):
        obtain_package(tmp_path)
    monkeypatch.setattr(furniture, "SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    assert [piece.name for piece in read_package(obtain_package(tmp_path))] == ["chair"]
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(DataError, match="damaged"):
        read_package(path)
    monkeypatch.setattr(furniture.shutil, "which", lambda name: None)
    with pytest.raises(DataError, match="apt-get"):
        obtain_package(tmp_path / "empty")
