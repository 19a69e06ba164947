"""Bad data sets and files of prompts: sound images with captions and one defect, read as training reads them.

Nothing may be lost in silence: each image is read, or is named with a reason; each text is one that was
written.
"""

from __future__ import annotations

import csv
import io
import json
import os
import random
import shutil
import tarfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bad_inputs.tiny import make_images, make_prompts
from bad_inputs.trial import WEIRD, Attempt, Wrong

TEXTS: tuple[bytes, ...] = (
    *(
        b"",
        b"\n\n",
        b"\xff\xfe",
        b"\xef\xbb\xbfan apple",
        "an\u2028apple".encode(),
        "a\x85b".encode(),
        b"a\0b",
    ),
    *(b"a " * 50_000, b"\xed\xa0\xbd", "an apple".encode("utf-16"), b"line\r\nother\rthird"),
)
COUNT = 6  # images


@dataclass(frozen=True)
class Ready:
    """Sound images with captions, a cache of them, and the model that prompts are checked for."""

    images: Path
    cache: Path
    model: Path


def prepare(folder: Path, model: Path) -> Ready:
    """Write the images and their cache."""
    from sanakit.data.cache.build import build_cache, plan_cache

    images, cache = make_images(folder / "images", COUNT), folder / "cache"
    build_cache(plan_cache(str(images), cache, model, 64, text=True), device="cpu")
    return Ready(images, cache, model)


def attempt(rng: random.Random, ready: Ready, place: Path) -> Attempt:
    """Make a data set with a defect, or a file of prompts with one."""
    kinds = (_caption, _table, _sidecar, _names, _tar, _tar, _place, _prompts, _prompts, _prompts, _cache)
    kind = rng.choice(kinds)
    if kind is _prompts or kind is _cache:
        return kind(rng, ready, place / "given")
    folder = Path(shutil.copytree(ready.images, place / "given" / "images"))
    what, where, invalid, expected = kind(rng, folder)
    return Attempt(what, lambda: _read(where, expected), invalid)


def _read(place: str, expected: int) -> list[str]:
    """Read all of a data set as training does; return what was named as lost or broken.

    expected: images that were put there: where there are fewer, something must be told.
    """
    from sanakit.data.read.decode import decode, image_size
    from sanakit.data.read.open import open_source
    from sanakit.errors import DataError

    source = open_source(place)
    source.fingerprint()
    told = [f"{name} {reason}" for name, reason in source.ignored.items()]
    keys: set[str] = set()
    for index in range(len(source)):
        keys.add(source.key(index))
        try:
            for caption in source.captions(index):
                if not caption.text.strip():
                    raise Wrong(f"a caption is {caption.text[:40]!r}")
            with source.open(index) as file:
                image_size(file)
            decode(source.read(index), 32, 32)
        except (DataError, OSError) as error:
            told.append(f"{source.key(index)} {error}")
    if len(keys) != len(source):
        raise Wrong(f"{len(source)} images have {len(keys)} names")
    if len(source) < expected and not told:
        raise Wrong(f"{len(source)} of {expected} images are there, and none is named")
    return told


def _caption(rng: random.Random, folder: Path) -> tuple[str, str, bool, int]:
    """Spoil a caption beside an image."""
    path = folder / f"{rng.randrange(COUNT):02d}.txt"
    if rng.random() < 0.5:
        text = rng.choice(TEXTS)
        path.write_bytes(text)
        return f"a caption {text[:30]!r}", str(folder), False, COUNT
    path = path.with_suffix(".json")
    text = rng.choice(
        (b"", b"{", b"[" * 100_000, b"nul", json.dumps(_strange(rng)).encode(), rng.choice(TEXTS))
    )
    path.write_bytes(text)
    return f"a caption's JSON {text[:60]!r}", str(folder), False, COUNT


def _strange(rng: random.Random) -> Any:
    """Return captions of a strange form, sound JSON."""
    value = rng.choice([one for one in WEIRD if not isinstance(one, int) or abs(one) < 10**300])
    key = rng.choice(("caption", "text", "captions", "score", "scores", "source", "file_name", "x"))
    return rng.choice(
        (value, {key: value}, [value], {"caption": "a fox", key: value}, {"text": ["a", "b"], key: value})
    )


def _table(rng: random.Random, folder: Path) -> tuple[str, str, bool, int]:
    """Put a table with a defect beside the images."""
    rows: list[Any] = [{"file_name": f"{n:02d}.png", "text": f"an apple {n}"} for n in range(COUNT)]
    where = rng.randrange(COUNT)
    how = rng.choice(("row", "name", "text", "cut", "bytes", "extra"))
    if how == "row":
        rows[where] = _strange(rng)
    elif how == "name":
        rows[where]["file_name"] = rng.choice(
            (*WEIRD[:8], "../x.png", "/etc/passwd", "nowhere.png", "\0", "a" * 999)
        )
    elif how == "text":
        rows[where] |= {"text": rng.choice(WEIRD[:9]), "score": rng.choice(WEIRD[:9])}
    elif how == "extra":
        rows += [rows[0], {"file_name": "nowhere.png", "text": "x"}]
    if rng.random() < 0.3:
        file = io.StringIO()
        kept = [row if isinstance(row, dict) else {} for row in rows]
        writer = csv.DictWriter(file, ["file_name", "text"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(
            [{k: str(v).encode("utf-8", "replace").decode() for k, v in row.items()} for row in kept]
        )
        name, text = "metadata.csv", file.getvalue().encode()
    else:
        name, text = "metadata.jsonl", "\n".join(map(json.dumps, rows)).encode()
    if how == "cut":
        text = text[: rng.randrange(len(text))]
    elif how == "bytes":
        text = text.replace(b"apple 3", rng.choice((b"\xff", b"\x00", b'"', b"\r\n")))
    (folder / name).write_bytes(text)
    return f"{name}: {how} {str(rows[where])[:60]}", str(folder), False, COUNT


def _sidecar(rng: random.Random, folder: Path) -> tuple[str, str, bool, int]:
    """Put a damaged captions.jsonl into the folder."""
    rows: list[Any] = [
        {"key": f"{n:02d}.png", "captions": [{"text": f"an apple {n}", "source": "m", "score": 30.0}]}
        for n in range(COUNT)
    ]
    where = rng.randrange(COUNT)
    rows[where] = rng.choice(
        (
            _strange(rng),
            {**rows[where], "captions": _strange(rng)},
            {**rows[where], "key": rng.choice(WEIRD[:9])},
        )
    )
    text = "\n".join(map(json.dumps, rows)).encode()
    if rng.random() < 0.2:
        text = text[: rng.randrange(len(text))]
    (folder / "captions.jsonl").write_bytes(text)
    return f"captions.jsonl: {str(rows[where])[:80]}", str(folder), False, COUNT


def _names(rng: random.Random, folder: Path) -> tuple[str, str, bool, int]:
    """Give a file a strange name, or put something strange among the images."""
    image = folder / f"{rng.randrange(COUNT):02d}.png"
    how = rng.choice(
        ("newline", "bytes", "long", "case", "dots", "circle", "nowhere", "folder", "deep", "broken")
    )
    if how in ("newline", "bytes", "long", "case", "dots"):
        name = {"newline": "a\nb.png", "bytes": os.fsdecode(b"\xff\xfe.png"), "long": "a" * 250 + ".png"}.get(
            how
        )
        image.rename(folder / (name or {"case": "A.PNG", "dots": "2024.01.05.png"}[how]))
    elif how in ("circle", "nowhere"):
        image.unlink()
        image.symlink_to(image if how == "circle" else folder / "nowhere")
    elif how == "folder":
        image.unlink()
        image.mkdir()
        return "a folder that is called as an image", str(folder), False, COUNT - 1
    elif how == "deep":
        (folder / "/".join("abcdefgh") / ".hidden").mkdir(parents=True)
        (folder / "link").symlink_to(folder)
    else:
        image.write_bytes(rng.choice((b"", b"x", image.read_bytes()[:50])))
    return f"a name or file: {how}", str(folder), how in ("circle", "nowhere", "broken"), COUNT


def _tar(rng: random.Random, folder: Path) -> tuple[str, str, bool, int]:
    """Pack the images into a shard with a defect."""
    shard = folder.parent / "shard-0.tar"
    how = rng.choice(("cut", "header", "header", "twice", "names", "links", "sizes", "packed", "second"))
    with tarfile.open(shard, "w:gz" if how == "packed" else "w") as archive:
        for path in sorted(folder.iterdir()):
            name = path.name
            if how == "names":
                name = rng.choice(("../", "/", "./", "a.b/", "x\n", "é" * 90, "")) + name
            archive.add(path, name)
            if how == "twice" and path.suffix == ".png":
                archive.add(path, name)
            elif how == "second" and path.suffix == ".png":
                archive.add(path, f"{path.stem}.depth.png")
        if how == "links":
            for kind, target in (
                (tarfile.SYMTYPE, "/etc/passwd"),
                (tarfile.LNKTYPE, "00.png"),
                (tarfile.FIFOTYPE, ""),
            ):
                member = tarfile.TarInfo(f"link{target[-2:]}.png")
                member.type, member.linkname = kind, target
                archive.addfile(member)
    content = bytearray(shard.read_bytes())
    headers = [at for at in range(0, len(content) - 512, 512) if content[at + 257 : at + 262] == b"ustar"]
    if how == "cut":
        content = content[: rng.randrange(len(content))]
    elif how == "header":
        content[rng.choice(headers) + rng.randrange(512)] ^= 1 << rng.randrange(8)
    elif how == "sizes":
        at = rng.choice(headers) + 124
        content[at : at + 12] = rng.choice(
            (b"77777777777\0", b"\x80" + b"\xff" * 11, b"-1         \0", b"\xff" * 12)
        )
    shard.write_bytes(content)
    shutil.rmtree(folder)
    return f"a shard: {how}", str(shard), how == "packed", COUNT


def _place(rng: random.Random, folder: Path) -> tuple[str, str, bool, int]:
    """Name a place that is none."""
    text = rng.choice(
        (
            "",
            "nowhere",
            "\0",
            "hub:",
            "hub:../x",
            "hub:a/b/c",
            "{0..3}.tar",
            "{9..0}.tar",
            "*.tar",
            "[.tar",
            "{a,b",
        )
    )
    text = rng.choice(
        (text, text, str(folder / "00.png"), str(folder / "00.txt"), str(folder / "x.parquet"), "a" * 5000)
    )
    if text.endswith("x.parquet"):
        (folder / "x.parquet").write_bytes(rng.choice((b"", b"PAR1", b"PAR1" + bytes(99) + b"PAR1")))
    return f"the place {text[:40]!r}", text, True, 0


def _prompts(rng: random.Random, ready: Ready, folder: Path) -> Attempt:
    """Make a file of prompts with a defect in one row."""
    path = make_prompts(folder / "prompts.jsonl", 4)
    rows: list[Any] = [json.loads(line) for line in path.read_text().splitlines()]
    how, invalid = rng.choice(("value", "value", "row", "bytes", "name", "text")), False
    if how == "value":
        key = rng.choice(
            ("steps", "width", "height", "guidance", "seed", "num_images", "size", "solver", "x", "prompt")
        )
        rows[1][key] = value = rng.choice(("x", [], {}, -1, float("nan"), 10**30, 1e308, True))
        invalid = not (key == "prompt" and value == "x")
        how = f"{key} = {value!r}"
    elif how == "row":
        rows[1] = rng.choice((None, 1, "x", [], {}, [rows[0]]))
        invalid = True
    elif how == "name":
        rows[1]["name"] = value = rng.choice(
            ("../x", "/x", "", ".", "a/b", "\0", "con", "x" * 300, 7, [], "a\nb", " ")
        )
        how, invalid = f"name = {str(value)[:20]!r}", True
    text = "\n".join(map(json.dumps, rows)).encode()
    if how == "bytes":
        line = text.partition(b"\n")[0]
        text = rng.choice(
            (
                *(
                    b"",
                    b"\xff",
                    text[:-9],
                    b"[" * 100_000,
                    text.replace(b"\n", b"\r"),
                    b"\n\n",
                    text + b"\n{",
                ),
                *(b"\xef\xbb\xbf" + text, text.replace(b"\n", b"\r\n"), text.decode().encode("utf-16")),
                *(text.replace(b"a red", b"a\0red"), text.replace(b"a red", rb"a \u0000 red"), b"\0" * 999),
                *(text.replace(b"a red", rb"a \ud83d red"), text.replace(b"apple", b"a" * 10_000_000)),
                *(line[:-1] + b', "prompt": "twice"}', b'{"prompt":' * 50_000, line * 3, b"{}" + text),
                *(
                    text.replace(b"64x64", b"6" * 5000 + b"x64"),
                    line[:-1] + b', "seed": ' + b"9" * 5000 + b"}",
                ),
            )
        )
    elif how == "text":
        path = path.with_suffix(".txt")
        text = rng.choice(TEXTS)
    path.write_bytes(text)
    if rng.random() < 0.1:
        path.unlink()
        how, invalid = rng.choice(("a folder", "a pipe", "a link in a circle", "a device", "nothing")), True
        if how == "a folder":
            path.mkdir()
        elif how == "a pipe":
            os.mkfifo(path)
        elif how == "a link in a circle":
            path.symlink_to(path)
        elif how == "a device":
            path.symlink_to(rng.choice(("/dev/null", "/dev/zero")))
    return Attempt(f"{path.name}: {how} {text[:30]!r}", lambda: _check(ready.model, path), invalid)


def _cache(rng: random.Random, ready: Ready, folder: Path) -> Attempt:
    """Damage a cache of latents and text features, which is then read as training reads it."""
    place = Path(shutil.copytree(ready.cache, folder / "cache"))
    path = rng.choice(sorted(place.iterdir()))
    content = bytearray(path.read_bytes())
    how = rng.choice(("bit", "cut", "missing", "value", "another file"))
    if path.name == "cache.json" and how in ("bit", "value"):
        body = json.loads(content)
        holder = rng.choice((body, body["maker"], body["shards"][0]))
        key = rng.choice(list(holder))
        holder[key] = value = rng.choice(WEIRD)
        content, how = bytearray(json.dumps(body).encode()), f"{key} = {str(value)[:40]!r}"
    elif how in ("bit", "value"):
        at = rng.randrange(min(len(content), rng.choice((2000, 10**9))))
        content[at] ^= 1 << rng.randrange(8)
        how = f"another bit at {at}"
    elif how == "cut":
        content = content[: rng.randrange(len(content))]
    elif how == "another file":
        content = bytearray(rng.choice((b"", b"[]", b"{}", b"null", b"[" * 100_000, bytes(999))))
    path.write_bytes(content)
    if how == "missing":
        path.unlink()
    gone = how == "missing" and path.suffix != ".npz"  # an index of the images' headers, which is made again
    return Attempt(f"a cache, {path.name}: {how}", lambda: _read_cache(place), gone)


def _read_cache(place: Path) -> list[str]:
    from sanakit.data.cache.store import Cache

    cache = Cache(place)
    told = [f"{name}: {reason}" for name, reason in cache.failed.items()]
    for number in [number for members in cache.members for number in members.tolist()]:
        picture = cache[number]
        if picture.latents is not None and picture.latents.ndim != 3:
            raise Wrong(f"latents of shape {tuple(picture.latents.shape)}")
    return told


def _check(model: Path, path: Path) -> list[str]:
    from sanakit.pipelines.prompt_file import read_prompts
    from sanakit.pipelines.request import ModelSpec, check_request
    from sanakit.weights.settings import load_configs, load_settings

    spec = ModelSpec.of(load_settings(model), *load_configs(model))
    for image in read_prompts(path, partial(check_request, spec)):
        if os.sep in image.file or image.file.startswith(".") or "\0" in image.file:
            raise Wrong(f"an image would be called {image.file!r}")
    return []
