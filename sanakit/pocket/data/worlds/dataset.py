"""The data set that pocket-world learns from: clips along camera paths, with the exact pose of every frame.

A folder of five files, written whole or not at all:
frames.npy     uint8, all clips one after the other, N F S S 3, RGB
poses.npy      float64, N F 4 4, camera-to-world with OpenCV's axes, in metres
lenses.npy     float64, N 4: fx, fy, cx, cy in pixels
captions.jsonl one row (WorldRow) per clip
sources.json   format number, side, seed, scenes; package, version, licence, checksum and number of models
Things are held out, one in eight of them, and so is one family of paths (`trajectories.HELD_OUT`).
Nobody needs this to use pocket-world, only to train it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from sanakit.errors import DataError, SettingsError
from sanakit.pipelines.world.paths import CameraPath, pinhole
from sanakit.pocket.data.dataset import OnProgress, check_place, new_folder, opened, packages_of
from sanakit.pocket.data.worlds import furniture as package
from sanakit.pocket.data.worlds.furniture import Furniture, obtain_package, read_package
from sanakit.pocket.data.worlds.made import MADE, make_thing
from sanakit.pocket.data.worlds.meshes import Mesh
from sanakit.pocket.data.worlds.render import render
from sanakit.pocket.data.worlds.scenes import RoomScene, make_path, make_scene
from sanakit.pocket.data.worlds.trajectories import FAMILIES, HELD_OUT
from sanakit.reading import read_text, split_lines
from sanakit.seeds import numpy_generator

FORMAT = 1  # raised when the content changes for the same seed
FRAMES, POSES, LENSES, ROWS, SOURCES = (
    "frames.npy",
    "poses.npy",
    "lenses.npy",
    "captions.jsonl",
    "sources.json",
)
SIDES = (64, 96)  # px
LENGTH = 37  # frames of a clip: ten latents of four frames, as chunks of 4, 3 and 3
RATE = 16  # a second, as held keys count
SCENES = 480
PATHS = 4  # of each scene that is trained on
ANGLES = (50.0, 75.0)  # degrees across
MADE_SHARE = 0.25  # of the scenes whose main thing is made
HELD_OUT_ONE_IN = 8  # of the things
RANDOM = 9  # which random numbers decide on scenes

Split = Literal["train", "thing", "path"]


@dataclass(frozen=True, kw_only=True, slots=True)
class WorldRow:
    """One clip. scene: which clips show one room. thing: the main one, as its model is named.

    split: "train"; "thing": of a thing that is held out; "path": of a family that is held out.
    """

    scene: int
    thing: str
    family: str
    captions: list[str]
    split: Split


@dataclass(frozen=True, slots=True, eq=False)
class PocketWorlds:
    """An opened data set. frames: N F S S 3 uint8, memory-mapped. rows: N. sources: the manifest."""

    frames: np.ndarray
    poses: np.ndarray
    lenses: np.ndarray
    rows: list[WorldRow]
    sources: dict

    @property
    def side(self) -> int:
        """Pixels of a frame's side."""
        return self.frames.shape[2]

    @property
    def length(self) -> int:
        """Frames of a clip."""
        return self.frames.shape[1]

    @property
    def fingerprint(self) -> str:
        """Tell these clips from others, by rows, paths and the package's checksum."""
        told = repr((self.sources, self.rows)).encode() + self.poses.tobytes()
        return hashlib.sha256(told).hexdigest()

    @property
    def lengths(self) -> list[int]:
        """The frames of each clip until it begins again, there and back."""
        return [2 * self.length - 2] * len(self.rows)

    def take(self, number: int, start: int, step: int, count: int) -> np.ndarray:
        """Return `count` frames of a clip, every `step`-th from `start` on, there and back: T S S 3."""
        places = (start + step * np.arange(count)) % self.lengths[number]
        return self.frames[number][np.minimum(places, self.lengths[number] - places)]

    def path(self, number: int) -> CameraPath:
        """Return the camera of a clip."""
        lens = torch.from_numpy(self.lenses[number].copy()).expand(self.length, 4)
        return CameraPath(torch.from_numpy(self.poses[number].copy()), lens, self.side, self.side)


def thing_split(key: str) -> Literal["train", "thing"]:
    """Return "thing" for one in eight of the things, by the hash of its name; else "train"."""
    return "thing" if int(hashlib.sha1(key.encode()).hexdigest(), 16) % HELD_OUT_ONE_IN == 0 else "train"


def build_worlds(
    folder: str | Path,
    *,
    side: int = 64,
    scenes: int = SCENES,
    length: int = LENGTH,
    seed: int = 0,
    made: bool = False,
    cache: str | Path | None = None,
    progress: OnProgress | None = None,
) -> PocketWorlds:
    """Render the data set into a new folder and open it; a finished one is only opened.

    side: 64 or 96 px. scenes: rooms, each of which is seen along several paths. length: frames of a clip.
    seed: of all that is random. made: without the package of furniture, only with made things. cache: folder
    for the package, 120 MB, default FOLDER-packages. progress: see OnProgress.
    Raises DataError (package, folder in use, disk full, other settings in the folder) and SettingsError.
    """
    if side not in SIDES:
        raise SettingsError(
            f"The frames have {' or '.join(map(str, SIDES))} px, not {side}: choose one of them."
        )
    if scenes < 1 or length < 2:
        raise SettingsError(
            f"{scenes} scenes of {length} frames are too few: use at least 1 scene of 2 frames."
        )
    folder = Path(folder).absolute()
    cache = Path(cache).absolute() if cache is not None else packages_of(folder)
    asked = {"side": side, "scenes": scenes, "length": length, "seed": seed, "made": made}
    if (folder / SOURCES).exists():
        built = open_worlds(folder)
        if there := [f"{name} {built.sources[name]}" for name in asked if built.sources[name] != asked[name]]:
            raise DataError(f"{folder} was built with {', '.join(there)}: choose another folder.")
        return built
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} is in use: choose an empty or new folder for the data set.")
    check_place(folder)
    report = progress or (lambda what, done, total: None)
    pieces: list[Furniture] = []
    if not made:
        check_place(cache)
        report(f"fetching {package.FILE}", 0, 1)
        path = obtain_package(cache)
        report("reading furniture", 0, 1)
        pieces = read_package(path)
    return write_worlds(folder, asked, pieces, report)


def write_worlds(
    folder: Path, asked: dict[str, int], pieces: Sequence[Furniture], report: OnProgress
) -> PocketWorlds:
    """Render a data set by the settings of `build_worlds` and open it. Raises DataError."""
    side, length = asked["side"], asked["length"]
    scenes: list[tuple[RoomScene, list[WorldRow]]] = []
    poses, lenses = list[np.ndarray](), list[np.ndarray]()
    for number in range(asked["scenes"]):
        report("making scenes", number, asked["scenes"])
        random = numpy_generator(asked["seed"], RANDOM, number)
        key, name, mesh = _main_thing(random, pieces)
        made, rows = make_scene(random, name, mesh), list[WorldRow]()
        for family in _families(random, key):
            path = make_path(made, family, length, random)
            if path is None:
                continue  # the room is too full for it
            poses.append(path)
            lenses.append(pinhole(side, side, float(random.uniform(*ANGLES))).numpy())
            split = "path" if family == HELD_OUT else thing_split(key)
            captions = made.captions()
            rows.append(WorldRow(scene=number, thing=key, family=family, captions=captions, split=split))
        scenes.append((made, rows))
    rows = [row for _, own in scenes for row in own]
    if not rows:
        raise DataError("No path fits into the few scenes that were asked for: raise their number.")
    manifest = {"format": FORMAT, **asked, "clips": len(rows), "packages": _packages(pieces)}
    shape = (len(rows), length, side, side, 3)
    with new_folder(folder, f"{math.prod(shape) / 1e9:.1f} GB") as partial:
        frames = np.lib.format.open_memmap(partial / FRAMES, mode="w+", dtype=np.uint8, shape=shape)
        done = 0
        for made, own in scenes:
            for _ in own:
                report("rendering clips", done, len(rows))
                frames[done] = render(made.room, made.mesh, poses[done], lenses[done], side)
                done += 1
        frames.flush()
        np.save(partial / POSES, np.stack(poses))
        np.save(partial / LENSES, np.stack(lenses))
        lines = "".join(json.dumps(asdict(row)) + "\n" for row in rows)
        (partial / ROWS).write_text(lines, encoding="utf-8")
        (partial / SOURCES).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return open_worlds(folder)


def open_worlds(folder: str | Path) -> PocketWorlds:
    """Open a data set that build_worlds wrote.

    Raises DataError when it is missing, incomplete, damaged or of another format.
    """
    folder = Path(folder)
    kind = {"what": "a data set of camera paths", "command": "sana data pocket-worlds"}
    with opened(folder, FORMAT, **kind, key="scenes", other="no camera paths") as manifest:
        rows = [WorldRow(**json.loads(line)) for line in split_lines(read_text(folder / ROWS))]
        frames = np.load(folder / FRAMES, mmap_mode="r")
        poses, lenses = np.load(folder / POSES), np.load(folder / LENSES)
        count, side, length = len(rows), manifest["side"], manifest["length"]
        wanted = ((count, length, side, side, 3), (count, length, 4, 4), (count, 4))
        if (frames.shape, poses.shape, lenses.shape) != wanted or count != manifest["clips"]:
            raise ValueError("its files are of different numbers of clips")
    return PocketWorlds(frames, poses, lenses, rows, manifest)


def _main_thing(random: np.random.Generator, pieces: Sequence[Furniture]) -> tuple[str, str, Mesh]:
    """Return the key, name and triangles of a scene's main thing."""
    if pieces and random.random() >= MADE_SHARE:
        piece = pieces[int(random.integers(len(pieces)))]
        return piece.key, piece.name, piece.mesh
    kind = list(MADE)[int(random.integers(len(MADE)))]
    return f"made {kind}", *make_thing(random, kind)


def _families(random: np.random.Generator, key: str) -> list[str]:
    """Return the families of a scene's paths: some that are trained on, and at times the held-out one.

    A held-out thing is seen along known families alone.
    """
    known = [family for family in FAMILIES if family != HELD_OUT]
    drawn = [str(one) for one in random.choice(known, PATHS, replace=False)]
    also = random.random() < 1 / HELD_OUT_ONE_IN
    return [*drawn, HELD_OUT] if also and thing_split(key) == "train" else drawn


def _packages(pieces: Sequence[Furniture]) -> list[dict]:
    if not pieces:
        return []
    told = {"name": package.PACKAGE, "version": package.VERSION, "licence": package.LICENCE}
    return [told | {"library": package.LIBRARY, "sha256": package.SHA256, "models": len(pieces)}]
