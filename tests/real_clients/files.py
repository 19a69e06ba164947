"""Every kind of image file that the program writes, and what validators say of each: part of `clients.py`."""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

from real_clients.report import Client, Report, run

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "contract"))

from strict_png import faults_of

PROMPT = "a red apple, “naïve” 狐 🦊"
COMMANDS = """
import sys
from sanakit.cli import main
for words in {words!r}:
    try:
        main(words)
    except SystemExit as end:
        if end.code:
            sys.exit(f"sana {{words}} ended with {{end.code}}")
"""


def write_files(folder: Path, address: str, page: str) -> list[Path]:
    """Have commands, server and page write what they can; return the files."""
    folder.mkdir()
    _by_command(folder)
    _by_server(folder, address)
    _by_library(folder)
    history = Path(page)
    for path in sorted(path for path in history.rglob("*") if path.suffix in (".png", ".jpg")):
        (folder / f"page-{path.name}").write_bytes(path.read_bytes())
    return sorted(path for path in folder.rglob("*") if path.suffix in (".png", ".jpg", ".jpeg", ".webp"))


def _by_command(folder: Path) -> None:
    quick = ["--steps", "2", "--seed", "7"]
    mask = Image.new("L", (256, 256))
    mask.paste(255, (64, 64, 160, 160))
    mask.save(folder / "mask.png")
    (folder / "prompts.txt").write_text(f"{PROMPT}\nan owl\n", encoding="utf-8")
    words = [
        *(["generate", PROMPT, *quick, "-o", f"drawn.{kind}"] for kind in ("png", "jpg", "jpeg", "webp")),
        [
            "generate",
            PROMPT,
            *quick,
            "--negative",
            "grün",
            "--size",
            "320x200",
            "--json",
            "-o",
            "resized.png",
        ],
        ["generate", "--prompts", "prompts.txt", "--steps", "2", "-o", "of-a-file"],
        ["edit", "drawn.png", PROMPT, *quick, "-o", "edited.png"],
        ["edit", "drawn.jpg", PROMPT, *quick, "--mask", "mask.png", "-o", "masked.webp"],
        ["edit", "drawn.webp", PROMPT, *quick, "--expand", "32", "-o", "expanded.jpg"],
        ["best-of", PROMPT, *quick, "--count", "3", "--keep", "2", "-o", "best.png"],
    ]
    run(sys.executable, "-c", COMMANDS.format(words=words), cwd=folder)


def _by_server(folder: Path, address: str) -> None:
    body: dict[str, Any] = {"prompt": PROMPT, "steps": 3, "size": "128x96"}
    for kind in ("png", "jpeg", "webp"):
        for quality in (None,) if kind == "png" else (0, 95, 100):
            asked = body | {"output_format": kind, "output_compression": quality}
            reply = httpx.post(f"{address}/v1/images/generations", json=asked, timeout=120).raise_for_status()
            data = base64.b64decode(reply.json()["data"][0]["b64_json"])
            (folder / f"served-{quality}.{kind}").write_bytes(data)
        asked = body | {"output_format": kind, "stream": True, "partial_images": 2}
        stream = httpx.post(f"{address}/v1/images/generations", json=asked, timeout=120).raise_for_status()
        for number, line in enumerate(one for one in stream.text.splitlines() if one.startswith("data: ")):
            data = base64.b64decode(json.loads(line.removeprefix("data: "))["b64_json"])
            (folder / f"streamed-{number}.{kind}").write_bytes(data)
    job = httpx.post(f"{address}/v1/jobs", json=body).raise_for_status().json()
    while job["status"] in ("queued", "running"):
        job = httpx.get(f"{address}/v1/jobs/{job['id']}").raise_for_status().json()
    (folder / "job.png").write_bytes(httpx.get(job["data"][0]["url"]).raise_for_status().content)


def _by_library(folder: Path) -> None:
    """A contact sheet of a training, and a preview as the page shows it."""
    import torch

    from sanakit.images.image import save
    from sanakit.images.sheets import contact_sheet
    from sanakit.serve.web.studio import View
    from sanakit.serve.web.view import preview_html

    images = torch.rand(6, 3, 40, 60) * 2 - 1
    save(contact_sheet(images, 3), folder / "sheet.png")
    html = preview_html(View(state="drawing", message="", previews=[Image.open(folder / "drawn.png")]))
    data = html.partition("data:image/webp;base64,")[2].partition('"')[0]
    (folder / "preview.webp").write_bytes(base64.b64decode(data))


def validate(report: Report, files: list[Path]) -> None:
    """Have every validator look at the files that it knows."""
    pngs, jpegs, webps = (
        [path for path in files if path.suffix in kind] for kind in ((".png",), (".jpg", ".jpeg"), (".webp",))
    )
    pillow = report.package("pillow")
    assert pillow is not None
    with pillow.does(f"{len(files)} files verified and decoded"):
        for path in files:
            with Image.open(path) as image:
                image.verify()
            with Image.open(path) as image:
                image.load()
                assert image.mode == "RGB" or path.name == "mask.png", f"{path.name} is {image.mode}"
    ours = report.ours("strict reader of PNG", "of the tests")
    with ours.does(f"{len(pngs)} PNG files"):
        found = {path.name: faults for path in pngs if (faults := faults_of(path.read_bytes()))}
        assert not found, found
    if client := report.program("exiftool", "-ver"):
        _exiftool(client, files)
    for name, asking, options, its in (
        ("pngcheck", ("-h",), ("-q",), pngs),
        ("identify", ("-version",), ("-verbose", "-regard-warnings"), files),
        ("webpinfo", ("-version",), ("-quiet",), webps),
        ("jpeginfo", ("--version",), ("--check",), jpegs),
    ):
        if client := report.program(name, *asking):
            with client.does(f"{len(its)} files"):
                for path in its:
                    said = run(name, *options, str(path))
                    assert not said.stderr, said.stderr


def _exiftool(client: Client, files: list[Path]) -> None:
    with client.does(f"{len(files)} files without a warning, settings read from those that carry them"):
        said = run("exiftool", "-validate", "-warning", "-error", "-prompt", "-a", "-json", *map(str, files))
        for one in json.loads(said.stdout):
            odd = one.get("Validate", "OK") != "OK" or "Warning" in one or "Error" in one
            assert not odd, one
        told = {Path(one["SourceFile"]).name: one.get("Prompt") for one in json.loads(said.stdout)}
        for name in ("drawn.png", "edited.png", "best-1.png", "served-None.png", "job.png"):
            assert told[name] == PROMPT, (name, told[name])
