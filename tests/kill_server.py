"""A server that is killed while a client sends it jobs: part of `kill.py`.

Every job that it accepted must be finished, once, with the image that an undisturbed server draws. A job in
whose drawing three servers died is given up with a sentence, which is counted apart.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import random
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from http.client import HTTPException
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from bad_inputs.tiny import PROMPTS

FORK = multiprocessing.get_context("fork")
PATIENCE = 300  # seconds for work that nobody disturbs
STEPS = 80  # of a job: part of a second, so that most servers die while they draw
JOBS_A_LIFE = 6  # that are sent to a server before it is killed, at most


@dataclass
class Outcome:
    """What a siege found."""

    kills: int = 0
    units: int = 0  # steps, images, entries, files or jobs that were compared
    faults: list[str] = field(default_factory=list)
    left: int = 0  # temporary files that are still there
    told: int = 0  # jobs that were given up with a sentence


@dataclass(frozen=True)
class Material:
    """What all work is made from."""

    model: Path
    images: Path
    prompts: Path


def besiege_server(material: Material, folder: Path, kills: int, rng: random.Random) -> Outcome:
    """Send jobs to a server that is killed again and again; compare with one that is not."""
    bodies = [
        {"prompt": PROMPTS[n % len(PROMPTS)], "size": "64x64", "steps": STEPS, "seed": n}
        for n in range(kills * JOBS_A_LIFE)
    ]
    outcome, (whole, killed) = Outcome(), (folder / "whole", folder / "killed")
    for place in (whole, killed):
        place.mkdir(parents=True)
    began = time.monotonic()
    with _served(material, whole) as (_, address):
        starting = time.monotonic() - began
        wanted = _images(address, [_accepted(address, n, body) for n, body in enumerate(bodies)])
    ids: dict[int, str] = {}  # number of a body -> its job, once that was accepted
    while outcome.kills < kills:
        with _served(material, killed, rng.uniform(0, starting + 3)) as (process, address):
            for n in [n for n in range(len(bodies)) if n not in ids][:JOBS_A_LIFE]:
                try:
                    ids[n] = _accepted(address, n, bodies[n])
                except (OSError, HTTPException, ValueError):  # it is dead
                    break
                time.sleep(rng.uniform(0, 0.1))
            process.join(PATIENCE)
        outcome.kills += 1
    with _served(material, killed) as (_, address):
        for n, body in enumerate(bodies):  # a client whose answer was lost asks again; here all do
            again = _accepted(address, n, body)
            if ids.setdefault(n, again) != again:
                outcome.faults.append(f"job {n} was accepted twice")
        found = _images(address, [ids[n] for n in range(len(bodies))])
    outcome.units = len(ids)
    for n, image in enumerate(found):
        if isinstance(image, str) and "stopped 3 times" in image:
            outcome.told += 1
        elif image != wanted[n]:
            outcome.faults.append(f"job {n}: {image if isinstance(image, str) else 'another image'}")
    outcome.faults += _stored(killed, ids)
    outcome.left = sum(1 for path in killed.rglob(".*.partial"))
    return outcome


def _stored(folder: Path, ids: dict[int, str]) -> list[str]:
    """Look into the database and the store for jobs and images that nobody asked for."""
    from sanakit.serve.jobs.jobs import JobStore

    faults = []
    with closing(JobStore(folder / "jobs.sqlite")) as jobs:
        kept = {job.id for job in jobs.list(None, limit=1000)}
    if kept != set(ids.values()):
        faults.append(f"{len(kept)} jobs are stored, {len(ids)} were accepted")
    names = Counter(path.name.partition("-")[0] for path in (folder / "pictures").glob("job_*.png"))
    faults += [f"{name} has {times} images" for name, times in names.items() if times > 1]
    return faults + [f"{name} is an image of no job" for name in names.keys() - kept]


class _served:
    """A server in a process of its own; killed at the end, or so many seconds after its start."""

    def __init__(self, material: Material, folder: Path, seconds: float | None = None) -> None:
        self._ours, theirs = FORK.Pipe()
        self.process = FORK.Process(target=_serve, args=(material, folder, theirs))
        self.process.start()
        theirs.close()
        self._timer = threading.Timer(seconds or PATIENCE * 10, self.process.kill)

    def __enter__(self) -> tuple[BaseProcess, str]:
        self._timer.start()
        try:
            address = self._ours.recv() if self._ours.poll(PATIENCE) else ""
        except EOFError:  # killed while it started
            address = "http://127.0.0.1:9"
        return self.process, address

    def __exit__(self, *error: object) -> None:
        self._timer.cancel()
        self.process.kill()
        self.process.join()
        self._timer.join()  # no thread may run when the next server is forked


def _serve(material: Material, folder: Path, pipe: Any) -> None:
    from sanakit.serve.server import ServerSettings, serve

    with open(f"{folder}.txt", "a") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
        # One image at a time: in a batch images are the same to rounding, not to the bit.
        settings = ServerSettings(
            models=(str(material.model),), port=0, data=folder, device="cpu", max_batch=1
        )
        serve(settings, lambda address, models: pipe.send(address))


def _accepted(address: str, number: int, body: dict[str, Any]) -> str:
    """Send a job under a key of its own and return its id. Raises OSError without an answer."""
    headers = {"Content-Type": "application/json", "Idempotency-Key": f"job {number}"}
    asked = urllib.request.Request(f"{address}/v1/jobs", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(asked, timeout=PATIENCE) as answer:
        return json.load(answer)["id"]


def _images(address: str, ids: list[str]) -> list[bytes | str]:
    """Wait for the jobs; return each one's image, or what became of it in words."""
    found: list[bytes | str] = []
    until = time.monotonic() + PATIENCE
    for one in ids:
        while True:
            try:
                with urllib.request.urlopen(f"{address}/v1/jobs/{one}", timeout=PATIENCE) as answer:
                    job = json.load(answer)
            except urllib.error.HTTPError as error:
                found.append(f"lost (status {error.code})")
                break
            if job["status"] == "finished":
                with urllib.request.urlopen(job["data"][0]["url"], timeout=PATIENCE) as answer:
                    found.append(_pixels(answer.read()))
                break
            if job["status"] in ("failed", "cancelled") or time.monotonic() > until:
                found.append(f"{job['status']}: {(job['error'] or {}).get('message')}")
                break
            time.sleep(0.05)
    return found


def _pixels(content: bytes) -> bytes:
    """Return an image's pixels and settings."""
    from PIL import Image

    with Image.open(io.BytesIO(content)) as image:
        image.load()
        return image.tobytes() + repr(sorted(getattr(image, "text", {}).items())).encode()
