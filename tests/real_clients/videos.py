"""Videos as clients make them, and what says that a clip's file is valid: part of `clients.py`."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from html import unescape
from pathlib import Path
from typing import Any

from real_clients.calls import Served, fetched, refuses
from real_clients.report import Client, Report, run

WORDS = {"prompt": "a red apple", "size": "96x64"}
SETTINGS = {"seed": 7, "steps": 2, "frames": 9}


def probed(path: Path) -> tuple[str, int, int, int]:
    """Return codec, width, height and number of frames of a video after all of it was decoded.

    ffprobe looks where it is there, else PyAV. AssertionError for a file that either complains of.
    """
    if shutil.which("ffprobe") is None:
        import av

        with av.open(str(path)) as file:
            stream = file.streams.video[0]
            frames = sum(1 for _ in file.decode(stream))
            return stream.codec_context.name, stream.width, stream.height, frames
    asked = ("-v", "warning", "-count_frames", "-select_streams", "v:0", "-of", "json", "-show_streams")
    said = run("ffprobe", *asked, str(path))
    assert not said.stderr, said.stderr
    [stream] = json.loads(said.stdout)["streams"]
    return stream["codec_name"], stream["width"], stream["height"], int(stream["nb_read_frames"])


def use_openai_videos(client: Client, served: Served) -> None:
    """OpenAI's client makes, polls, downloads, lists and deletes videos, as docs/serve.md shows it."""
    import openai

    api = openai.OpenAI(base_url=served.api, api_key="none", max_retries=0)
    make: Any = api.videos.create_and_poll
    with client.does("videos.create_and_poll, download_content"):
        video = make(**WORDS, poll_interval_ms=100, extra_body=SETTINGS)
        assert (video.status, video.error, video.size) == ("completed", None, "96x64"), video
        path = served.folder.parent / "openai.mp4"
        api.videos.download_content(video.id).write_to_file(path)
        assert probed(path) == ("h264", 96, 64, 9)
    with client.does("from an image, in seconds"), served.image.open("rb") as image:
        video = make(**WORDS, seconds="0.5", input_reference=image, extra_body={"steps": 1})
        assert (video.status, video.frames) == ("completed", 9), video
    with client.does("videos.list, retrieve, delete"):
        ids = [one.id for one in api.videos.list(limit=2)]
        assert video.id in ids
        assert api.videos.retrieve(video.id).status == "completed"
        assert api.videos.delete(video.id).deleted
        with refuses(openai.NotFoundError, "There is no such video"):
            api.videos.retrieve(video.id)
    with client.does("a video before it is there"):
        waiting = api.videos.create(**WORDS, extra_body=SETTINGS | {"steps": 200})  # pyright: ignore
        with refuses(openai.ConflictError, "ask for its state until it is completed"):
            api.videos.download_content(waiting.id)
        assert api.videos.delete(waiting.id).deleted
    with client.does("unknown field"), refuses(openai.BadRequestError, "did you mean 'frames'"):
        make(**WORDS, extra_body={"frame": 9})


def use_docs(report: Report, served: Served) -> None:
    """Type all commands of the server's page /docs into one shell, in their order."""
    if (client := report.program("bash", "--version")) is None:
        return
    page = fetched(f"{served.address}/docs").decode()
    commands = [unescape(one) for one in re.findall(r"<pre[^>]*><code>(.*?)</code></pre>", page, re.DOTALL)]
    with client.does(f"{len(commands)} blocks of /docs"), tempfile.TemporaryDirectory() as folder:
        # what a step leaves for later ones comes in their order; a job may end before it is cancelled
        ordered = sorted(commands, key=_place)
        said = run("bash", "-e", "-o", "pipefail", "-c", "\n".join(ordered), cwd=folder)
        refused = [line for line in said.stdout.splitlines() if '"error":{' in line.replace(" ", "")]
        assert all("already ended" in line or "has ended" in line for line in refused), refused
        assert probed(Path(folder) / "cat.mp4")[3] == 9
        assert {path.name for path in Path(folder).iterdir()} == {"apple.png", "green.png", "cat.mp4"}


def _place(text: str) -> int:
    """Return where a block of the page stands among the examples; what is typed first is -1."""
    from sanakit.serve.http.docs.examples import EXAMPLES

    known = [one.rstrip() for one in EXAMPLES.values()]
    return known.index(text) if text in known else -1


def validate_videos(report: Report, served: Served) -> None:
    """Have ffprobe look at every clip of a server's store."""
    client = report.program("ffprobe", "-version") or report.package("av")
    assert client is not None
    files = sorted((served.folder / "pictures").rglob("*.mp4"))
    with client.does(f"{len(files)} clips decoded whole"):
        assert files
        for path in files:
            assert probed(path)[0] == "h264", path
