"""A server that is killed while it draws what a client asked for: part of `kill.py`.

Its own answers say when: a server is killed while it starts, while it accepts jobs, after the oldest job is
running, when an image has come into its store, or when a job has just ended. Sometimes a second server of the
same folder stands beside it, which has to take its jobs over. Every job that was accepted must end once, with
the images that an undisturbed server draws, and the next server must begin at once with what the last one
left. A job in whose drawing three servers died is given up with a sentence, which is counted apart. The
database must know in how many drawings of each job a server died.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import random
import sqlite3
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from functools import cached_property
from http.client import HTTPException
from pathlib import Path
from typing import Any

from bad_inputs.tiny import PROMPTS

FORK = multiprocessing.get_context("fork")
PATIENCE = 300  # seconds for work that nobody disturbs
RESUMED = 40  # seconds until a job that a server left is drawn again: less than a lease, which is 60
LEASE = 6.0  # seconds of a claim, of servers that stand beside each other
DIFFERENT = 24  # bodies of jobs; a client asks for each many times
STEPS = (2, 40)  # of jobs in turn: most of their time goes to storing, or to drawing
OPEN = 4  # jobs that have not ended, at most
MOMENTS = (
    *("starting", "accepting", "drawing", "drawing", "storing"),
    *("storing", "answering", "answering", "answering", "beside"),
)
ENDED = ("finished", "failed", "cancelled")
GIVEN_UP = "stopped 3 times"  # words of a job that was given up, after so many deaths
DEATHS = 3


@dataclass
class Outcome:
    """What a siege found."""

    kills: int = 0
    units: int = 0  # steps, images, entries, files or jobs that were compared
    faults: list[str] = field(default_factory=list)
    left: int = 0  # temporary files that are still there
    told: int = 0  # jobs that were given up with a sentence
    struck: int = 0  # jobs that were being drawn when their server was killed


@dataclass(frozen=True)
class Material:
    """What all work is made from."""

    model: Path
    images: Path
    prompts: Path


class StuckError(Exception):
    """Jobs that nobody draws: waiting for the next kill would take for ever."""


def besiege_server(material: Material, folder: Path, kills: int, rng: random.Random) -> Outcome:
    """Send jobs to a server that is killed again and again; compare with one that is not."""
    whole, killed = folder / "whole", folder / "killed"
    for place in (whole, killed):
        place.mkdir(parents=True)
    with Server(material, whole) as server:
        began = time.monotonic()
        address = server.address
        starting = time.monotonic() - began
        ids = [_accepted(address, n) for n in range(DIFFERENT)]
        began = time.monotonic()
        wanted = _images(address, ids)
        each = (time.monotonic() - began) / DIFFERENT
    siege = _Siege(material, killed, rng, starting, each)
    try:
        while siege.outcome.kills < kills:
            siege.strike(MOMENTS[siege.outcome.kills % len(MOMENTS)])
            siege.outcome.kills += 1
        siege.compare(wanted)
    except StuckError as error:
        siege.outcome.faults.append(str(error))
    siege.outcome.left = sum(1 for path in killed.rglob(".*.partial"))
    return siege.outcome


class _Siege:
    """A client, and what it knows of its jobs.

    starting, each: undisturbed seconds of a start and of a job.
    """

    def __init__(
        self, material: Material, folder: Path, rng: random.Random, starting: float, each: float
    ) -> None:
        self.outcome = Outcome()
        self._material, self._folder, self._rng = material, folder, rng
        self._starting, self._each = starting, each
        self._ids: dict[int, str] = {}  # number of a job -> its id, once that was answered
        self._ended: dict[str, tuple[str, str]] = {}  # id -> how and when
        self._deaths: Counter[str] = Counter()  # id -> servers that died while they drew it
        self._counted: dict[str, int] = {}  # id -> the attempt of the last death

    def strike(self, moment: str) -> None:
        """Kill one server at a moment, and look at what it left. Raises StuckError."""
        with ExitStack() as stack:
            lease = LEASE if moment == "beside" else None
            server = stack.enter_context(Server(self._material, self._folder, lease))
            if moment == "starting":
                time.sleep(self._rng.uniform(0, self._starting))
                server.kill()
                self._look()
                return
            address, other = server.address, ""
            if moment == "beside":
                other = stack.enter_context(Server(self._material, self._folder, lease)).address
            if moment == "accepting":
                timer = threading.Timer(self._rng.uniform(0, 0.3), server.kill)
                timer.start()
                self._send(address, many=True)
                timer.join()  # no thread may run when the next server is forked
                self._look()
                return
            self._send(address)
            self._wait(address, moment)
            server.kill()
            # the first server of a folder has its first place
            self._look((self._folder / "instance-0.lock").read_text() if other else None)
            if other:
                self._take_over(other)

    def compare(self, wanted: list[bytes | str]) -> None:
        """Let a last server finish; compare all images with those of the undisturbed one."""
        with Server(self._material, self._folder) as server:
            address = server.address
            for n in range(len(self._ids) + 1):  # a client whose answer was lost asks again; here for all
                again = _accepted(address, n)
                if self._ids.setdefault(n, again) != again:
                    self.outcome.faults.append(f"job {n} was accepted twice")
            found = _images(address, [self._ids[n] for n in sorted(self._ids)])
        self._look()
        self.outcome.units = len(self._ids)
        for n, image in enumerate(found):
            if isinstance(image, str) and GIVEN_UP in image:
                self.outcome.told += 1
            elif image != wanted[n % DIFFERENT]:
                said = image if isinstance(image, str) else "another image"
                self.outcome.faults.append(f"job {n}: {said}")
        kept = {job for job, *_ in self._rows()}
        if kept != {*self._ids.values()}:
            self.outcome.faults.append(f"{len(kept)} jobs are stored, {len(self._ids)} were accepted")
        names = {path.name.partition("-")[0] for path in (self._folder / "pictures").glob("job_*.png")}
        self.outcome.faults += [f"{name} is an image of no job" for name in names - kept]

    def _open(self) -> list[str]:
        """Return the jobs that have not ended, the oldest first."""
        return [self._ids[n] for n in sorted(self._ids) if self._ids[n] not in self._ended]

    def _send(self, address: str, *, many: bool = False) -> None:
        """Ask for jobs until some are open; many: until the server dies."""
        while many or len(self._open()) < OPEN:
            n = next(n for n in range(len(self._ids) + 1) if n not in self._ids)
            try:
                self._ids[n] = _accepted(address, n)
            except (OSError, HTTPException, ValueError):  # it is dead
                return
            time.sleep(self._rng.uniform(0, 0.1) if many else 0)

    def _wait(self, address: str, moment: str) -> None:
        """Wait for a moment of a server that has jobs. Raises StuckError where none is drawn."""
        oldest = self._open()[0]
        if not until(lambda: _job(address, oldest)["status"] in ("running", *ENDED)):
            raise StuckError(f"{oldest} was not begun again within {RESUMED} s after a start")
        if moment == "storing":
            before = self._stored()
            come = until(lambda: self._stored() - before, pause=0.0005)
            time.sleep(self._rng.uniform(0, 0.01))
        elif moment == "answering":
            come = until(lambda: _job(address, oldest)["status"] in ENDED, pause=0)
            time.sleep(self._rng.choice((0, 0, self._rng.uniform(0, 0.02))))
        else:
            come = True
            time.sleep(self._rng.uniform(0, 2 * self._each))
        if not come:
            raise StuckError(f"{oldest} was running, and did not end within {RESUMED} s")

    def _take_over(self, address: str) -> None:
        """Wait until a server beside a killed one has ended all jobs. Raises StuckError."""
        if not until(lambda: all(status in ENDED for _, status, *_ in self._rows())):
            raise StuckError(f"jobs of a killed server were not taken over within {RESUMED} s by {address}")
        self._look()

    def _stored(self) -> set[str]:
        try:
            return {name for name in os.listdir(self._folder / "pictures") if name.startswith("job_")}
        except FileNotFoundError:
            return set()

    def _rows(self) -> list[tuple[str, str, int, str | None, str, int]]:
        try:
            with closing(sqlite3.connect(self._folder / "jobs.sqlite", timeout=10)) as database:
                wanted = "id, status, attempts, owner, coalesce(error_message, ended), pictures"
                return database.execute(f"SELECT {wanted} FROM jobs").fetchall()
        except sqlite3.OperationalError:  # killed before there was a table
            return []

    def _look(self, struck: str | None = None) -> None:
        """After a kill, compare the database and the store with what was before.

        struck: name of the killed server; None: it has none beside it.
        """
        stored = self._stored()
        for job, status, attempts, owner, how, images in self._rows():
            given_up = status == "failed" and GIVEN_UP in how
            again = status == "running" and attempts == self._counted.get(job)  # nobody has begun it since
            begun = self._deaths[job] + (status != "queued" and not given_up and not again)
            if attempts != begun or attempts > DEATHS or (given_up and attempts < DEATHS):
                died = f"{self._deaths[job]} servers died with it"
                self.outcome.faults.append(f"{job} is {status} in its attempt {attempts}, and {died}")
            if self._ended.get(job, (status, how)) != (status, how):
                self.outcome.faults.append(f"{job} had ended, and was ended again")
            if status in ENDED:
                self._ended[job] = (status, how)
            if status == "finished" and {f"{job}-{n}.png" for n in range(images)} - stored:
                self.outcome.faults.append(f"{job} is finished without its images")
            if status == "running" and not again and struck in (None, owner):
                self._deaths[job] += 1
                self._counted[job] = attempts
                self.outcome.struck += 1


class Server:
    """A server in a process of its own, which is killed at the end. lease: seconds; None: its own."""

    def __init__(self, material: Material, folder: Path, lease: float | None = None) -> None:
        self._ours, theirs = FORK.Pipe()
        self._folder = folder
        self._process = FORK.Process(target=_serve, args=(material, folder, theirs, lease))
        self._process.start()
        theirs.close()

    @cached_property
    def address(self) -> str:
        """Wait until it listens. Raises StuckError."""
        try:
            if self._ours.poll(PATIENCE):
                return self._ours.recv()
        except EOFError:
            pass
        raise StuckError(f"a server did not start; see {self._folder}.txt")

    def kill(self) -> None:
        """Kill it, and wait until it is dead."""
        self._process.kill()
        self._process.join()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()
        self._ours.close()


def _serve(material: Material, folder: Path, pipe: Any, lease: float | None) -> None:
    from sanakit.serve.jobs.runner import JobRunner
    from sanakit.serve.server import ServerSettings, serve

    if lease is not None:
        assert JobRunner.__init__.__kwdefaults__ is not None
        JobRunner.__init__.__kwdefaults__["lease"] = lease
    with open(f"{folder}.txt", "a") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
        # One image at a time: in a batch images are the same to rounding, not to the bit.
        settings = ServerSettings(
            models=(str(material.model),), port=0, data=folder, device="cpu", max_batch=1
        )
        serve(settings, lambda address, *models: pipe.send(address))


def until(condition: Callable[[], object], pause: float = 0.01) -> bool:
    """Wait until a condition holds; return whether it did in time. An OSError means "not yet"."""
    until = time.monotonic() + RESUMED
    while time.monotonic() < until:
        with suppress(OSError):
            if condition():
                return True
        time.sleep(pause)
    return False


def _accepted(address: str, number: int) -> str:
    """Send a job under a key of its own and return its id. Raises OSError without an answer."""
    seed = number % DIFFERENT
    body = {"prompt": PROMPTS[seed % len(PROMPTS)], "size": "64x64", "steps": STEPS[seed % len(STEPS)]}
    body |= {"seed": seed, "n": 1 + (seed % 3 == 0)}
    headers = {"Content-Type": "application/json", "Idempotency-Key": f"job {number}"}
    asked = urllib.request.Request(f"{address}/v1/jobs", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(asked, timeout=PATIENCE) as answer:
        return json.load(answer)["id"]


def _job(address: str, job: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{address}/v1/jobs/{job}", timeout=PATIENCE) as answer:
        return json.load(answer)


def _images(address: str, ids: list[str]) -> list[bytes | str]:
    """Wait for the jobs; return each one's images, or what became of it in words."""
    found: list[bytes | str] = []
    until = time.monotonic() + PATIENCE
    for one in ids:
        try:
            while (job := _job(address, one))["status"] not in ENDED and time.monotonic() < until:
                time.sleep(0.02)
            if job["status"] == "finished":
                found.append(b"".join(_pixels(image["url"]) for image in job["data"]))
            else:
                found.append(f"{job['status']}: {(job['error'] or {}).get('message')}")
        except urllib.error.HTTPError as error:
            found.append(f"lost (status {error.code})")
    return found


def _pixels(url: str) -> bytes:
    """Fetch an image; return its pixels and settings."""
    from PIL import Image

    with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
        content = answer.read()
    with Image.open(io.BytesIO(content)) as image:
        image.load()
        return image.tobytes() + repr(sorted(getattr(image, "text", {}).items())).encode()
