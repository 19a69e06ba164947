"""A server that is killed while it draws clips: part of `kill.py`.

A client asks for clips all the time, each under an Idempotency-Key of its own. The server is killed at a
random moment: while it starts, accepts, draws, encodes, stores or answers. Each clip that was accepted must
be there in the end, once, valid, and the one that an undisturbed server draws: its frames within LEVELS, as
codecs may round otherwise, and its settings to the letter. A clip in whose drawing three servers died is
given up with a sentence, which is counted apart.
"""

from __future__ import annotations

import json
import random
import sys
import time
import urllib.error
import urllib.request
from dataclasses import replace
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
from kill_server import GIVEN_UP, PATIENCE, Material, Outcome, Server
from real_clients.videos import probed

DIFFERENT = 6  # bodies; a client asks for each many times
STEPS = (2, 12)  # of clips in turn: most of their time goes to encoding and storing, or to drawing
EARLY = 0.15  # share of the kills while it starts
OPEN = 3  # clips that have not ended, at most
FRAMES, WIDTH, HEIGHT = 9, 96, 64
LEVELS = 2.0  # of 255, on the mean: what a codec may round otherwise; other seeds differ by tens
ENDED = ("completed", "failed")


def besiege_videos(material: Material, folder: Path, kills: int, rng: random.Random) -> Outcome:
    """Send requests for clips to a server that is killed again and again; compare with one that is not."""
    sys.path.append(str(Path(__file__).resolve().parents[1]))  # of the package `tests`
    from tests.pipelines.video.tiny import save_tiny

    outcome = Outcome()
    whole, killed = folder / "whole", folder / "killed"
    for place in (whole, killed):
        place.mkdir(parents=True)
    model = replace(material, model=save_tiny(folder / "tiny-video"))
    with Server(model, whole) as server:
        began = time.monotonic()
        address = server.address
        starting = time.monotonic() - began
        ids = {n: _accepted(address, n) for n in range(DIFFERENT)}
        wanted = {n: _ended(address, one, whole) for n, one in ids.items()}
        took = time.monotonic() - began
    if told := [said for said in wanted.values() if isinstance(said, str)]:
        outcome.faults.append(f"an undisturbed server says: {told[0]}")
        return outcome
    asked: dict[int, str] = {}
    while outcome.kills < kills:
        with Server(model, killed) as server:
            if rng.random() < EARLY:
                time.sleep(rng.uniform(0, starting))
            else:
                _ask(server.address, asked, rng.uniform(0, took), outcome)
        outcome.kills += 1
    with Server(model, killed) as server:
        address = server.address
        for n in range(len(asked) + 1):  # a client whose answer was lost asks again; here for all
            if asked.setdefault(n, again := _accepted(address, n)) != again:
                outcome.faults.append(f"clip {n} was accepted twice")
        for n, one in asked.items():
            found = _ended(address, one, killed)
            if isinstance(found, str) and GIVEN_UP in found:
                outcome.told += 1
            elif fault := _differs(found, wanted[n % DIFFERENT]):
                outcome.faults.append(f"clip {n}: {fault}")
        listed = _all(address)
    outcome.units = len(asked)
    if sorted(listed) != sorted(asked.values()):
        outcome.faults.append(f"{len(listed)} clips are listed, {len(asked)} were accepted")
    stored = {path.name.partition("-")[0].partition(".")[0] for path in (killed / "pictures").rglob("*.mp4")}
    known = {one.partition("_")[2] for one in asked.values()}
    outcome.faults += [
        f"{name} is a file of no clip" for name in stored if name.partition("_")[2] not in known
    ]
    outcome.left = sum(1 for path in killed.rglob(".*.partial"))
    return outcome


def _ask(address: str, asked: dict[int, str], seconds: float, outcome: Outcome) -> None:
    """Keep a few clips open for a time; count those that are then being drawn."""
    began: list[str] = []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            statuses = {one: _video(address, one)["status"] for one in list(asked.values())[-OPEN - 1 :]}
            began = [one for one, status in statuses.items() if status == "in_progress"]
            if sum(status not in ENDED for status in statuses.values()) < OPEN:
                n = len(asked)
                asked[n] = _accepted(address, n)
        except (OSError, HTTPException, ValueError) as error:
            outcome.faults.append(f"a living server did not answer: {error}")
            return
        time.sleep(0.02)
    outcome.struck += len(began)


def _accepted(address: str, number: int) -> str:
    """Ask for a clip under a key of its own and return its id."""
    seed = number % DIFFERENT
    body = {"prompt": "a red apple", "size": f"{WIDTH}x{HEIGHT}", "frames": FRAMES, "seed": seed}
    body |= {"steps": STEPS[seed % len(STEPS)]}
    headers = {"Content-Type": "application/json", "Idempotency-Key": f"clip {number}"}
    asked = urllib.request.Request(f"{address}/v1/videos", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(asked, timeout=PATIENCE) as answer:
        return json.load(answer)["id"]


def _video(address: str, one: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{address}/v1/videos/{one}", timeout=PATIENCE) as answer:
        return json.load(answer)


def _all(address: str) -> list[str]:
    """Return the ids of all clips that the server lists."""
    found: list[str] = []
    after = ""
    while True:
        with urllib.request.urlopen(f"{address}/v1/videos?limit=100{after}", timeout=PATIENCE) as answer:
            page = json.load(answer)
        found += [one["id"] for one in page["data"]]
        if not page["has_more"]:
            return found
        after = f"&after={found[-1]}"


def _ended(address: str, one: str, folder: Path) -> Path | str:
    """Wait for a clip and return its file, or what became of it in words."""
    until = time.monotonic() + PATIENCE
    try:
        while (video := _video(address, one))["status"] not in ENDED:
            if time.monotonic() > until:
                return f"it is {video['status']} after {PATIENCE} s"
            time.sleep(0.05)
        if video["status"] == "failed":
            return f"failed: {(video['error'] or {}).get('message')}"
        with urllib.request.urlopen(f"{address}/v1/videos/{one}/content", timeout=PATIENCE) as answer:
            path = folder / f"{one}.mp4"
            path.write_bytes(answer.read())
            return path
    except urllib.error.HTTPError as error:
        return f"lost (status {error.code})"


def _differs(found: Path | str, wanted: Path | str) -> str:
    """Return how a clip differs from the wanted one; "" where it does not."""
    from sanakit.clips.reading import open_clip

    if isinstance(found, str):
        return found
    try:
        told = probed(found)
    except AssertionError as error:
        return f"its file is not valid: {error}"
    if told != ("h264", WIDTH, HEIGHT, FRAMES):
        return f"its file is {told}"
    with open_clip(found) as one, open_clip(wanted) as other:
        if one.facts.settings != other.facts.settings:
            return "its settings are another's"
        frames = (one.read().frames.astype(float), other.read().frames.astype(float))
    apart = float(np.abs(frames[0] - frames[1]).mean())
    return "" if apart <= LEVELS else f"its frames are {apart:.1f} levels off"
