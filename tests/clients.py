"""The clients that people have, against a real server; and validators on every file that is written.

    python tests/clients.py                      all that this machine has, some minutes
    python tests/clients.py --only curl files    some
    python tests/clients.py --site FOLDER        also Python packages of `pip install --target FOLDER`

`sana serve` and `sana ui` run with the embedded model in a temporary folder, first without keys, then with
one; and `sana serve` with a tiny video model of random numbers. Names of absent clients are printed. openai,
gradio_client and schemathesis are in the extra dev; litellm and httpie are on PyPI; exiftool, pngcheck,
imagemagick, webp, jpeginfo and ffmpeg are packages of Debian. Exit code 1 if anything is wrong. pytest does
not collect this file.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

import numpy as np
from PIL import Image
from real_clients import calls
from real_clients.calls import Served
from real_clients.comfy import draw_workflows
from real_clients.files import validate, write_files
from real_clients.report import Client, Report
from real_clients.videos import use_docs, use_openai_videos, validate_videos


@contextmanager
def serving(command: str, folder: Path, *options: str) -> Iterator[str]:
    """Start `sana serve` or `sana ui` on a free port; yield its address."""
    words = [command, "--data", str(folder), "--port", "0", *options]
    start = [sys.executable, "-c", "from sanakit.cli import main; main()", *words]
    with open(f"{folder}.log", "w") as log:
        process = subprocess.Popen(start, stdout=subprocess.PIPE, stderr=log, text=True)
    assert process.stdout is not None
    try:
        addresses = (found for line in process.stdout for found in re.findall(r"http://[\w.:]+", line))
        address = next(addresses, None)
        assert address is not None, f"sana {command} did not start: {Path(f'{folder}.log').read_text()}"
        yield address
    finally:
        process.terminate()
        process.communicate(timeout=60)
    said = Path(f"{folder}.log").read_text()
    assert "Traceback" not in said, said


@dataclass(frozen=True, slots=True)
class Kind:
    """How a client is found, and what it does without keys and with one."""

    found: Callable[[Report], Client | None]
    plain: Callable[[Client, Served], None] | None
    keyed: Callable[[Client, Served, str], None] | None
    of_page: bool = False


KINDS = {
    "openai": Kind(lambda report: report.package("openai"), calls.use_openai, calls.use_openai_keys),
    "litellm": Kind(lambda report: report.package("litellm"), calls.use_litellm, calls.use_litellm_keys),
    "curl": Kind(lambda report: report.program("curl", "--version"), calls.use_curl, calls.use_curl_keys),
    "httpie": Kind(lambda report: report.package("httpie"), calls.use_httpie, calls.use_httpie_keys),
    "gradio_client": Kind(
        lambda report: report.package("gradio_client"),
        calls.use_gradio_client,
        calls.use_gradio_client_keys,
        True,
    ),
    "schemathesis": Kind(lambda report: report.package("schemathesis"), None, calls.use_schemathesis_keys),
}


def main() -> int:
    """Use the clients that were asked for; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    choices = [*KINDS, "videos", "comfyui", "files"]
    parser.add_argument("--only", nargs="+", choices=choices, default=choices, metavar="CLIENT")
    parser.add_argument("--site", type=Path, metavar="FOLDER", help="more packages; ours come first")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave everything in this new folder")
    asked = parser.parse_args()
    site = None if asked.site is None else str(asked.site.resolve())
    sys.path += [] if site is None else [site]
    report = Report()
    with tempfile.TemporaryDirectory(prefix="clients-") as place:
        folder = Path(asked.keep or place).resolve()
        folder.mkdir(parents=True, exist_ok=not asked.keep)
        try:
            if KINDS.keys() & {*asked.only}:
                _use_servers(report, folder, asked.only, site)
            if "videos" in asked.only:
                _use_videos(report, folder)
            if "comfyui" in asked.only:
                draw_workflows(report, folder / "comfyui")
            if "files" in asked.only:
                with serving("serve", folder / "files-data") as address:
                    files = write_files(folder / "files", address, folder / "ui-data")
                validate(report, files)
        finally:
            code = report.print()
    return code


def _use_servers(report: Report, folder: Path, names: list[str], site: str | None) -> None:
    """Start both servers, use all clients without keys, make a key, and use them with it."""
    from sanakit.serve.jobs.keys import KeyStore

    sent = *_pictures(folder), site
    limits = ("--max-steps", "10", "--max-side", "256")
    with (
        serving("serve", folder / "data", *limits) as api,
        serving("ui", folder / "ui-data", "--no-open") as page,
    ):
        servers = [Served(api, folder / "data", *sent), Served(page, folder / "ui-data", *sent)]
        chosen = [(kind, kind.found(report)) for name, kind in KINDS.items() if name in names]
        present = [(kind, client, servers[kind.of_page]) for kind, client in chosen if client is not None]
        for kind, client, served in present:
            if kind.plain is not None:
                kind.plain(client, served)
        keys = {}
        for served in servers:
            store = KeyStore(served.folder / "jobs.sqlite")
            keys[served.address] = store.create("ann")
            store.close()
        for kind, client, served in present:
            if kind.keyed is not None:
                kind.keyed(client, served, keys[served.address])


def _use_videos(report: Report, folder: Path) -> None:
    """Start a server that draws images and clips, and have the clients make some."""
    # of the tests, which are a package of the repository's root
    sys.path.append(str(Path(__file__).resolve().parents[1]))
    from tests.pipelines.video.tiny import save_tiny

    model = save_tiny(folder / "tiny-video")
    with serving("serve", folder / "videos", "--model", "pocket", "--model", str(model)) as address:
        served = Served(address, folder / "videos", *_pictures(folder), None)
        if (client := report.package("openai")) is not None:
            use_openai_videos(client, served)
        use_docs(report, served)
        validate_videos(report, served)


def _pictures(folder: Path) -> tuple[Path, Path]:
    """Write an image of noise and a mask of its left half; return both."""
    image, mask = folder / "image.png", folder / "mask.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (96, 128, 3), np.uint8)).save(image)
    left = Image.new("L", (128, 96))
    left.paste(255, (0, 0, 64, 96))
    left.save(mask)
    return image, mask


if __name__ == "__main__":
    sys.exit(main())
