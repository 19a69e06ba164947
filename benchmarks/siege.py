"""A server under siege: a crowd that draws, edits, streams, leaves in the middle, and sends nonsense.

Starts `sana serve` with keys in an empty folder, as a process of its own, and lets the crowd of
`siege_deeds.py` and `siege_misuse.py` use it over HTTP on the loopback address. Every answer is held against
the statuses of /openapi.json and the codes of docs/serve.md, every image is opened, and every job that was
accepted must end once, as it was told. Then the server has to be idle, to stop cleanly, and to have a log
without tracebacks. Its memory may grow by MOST_GROWTH from the second third of the time to the last. Exit
code 1 if anything is wrong.

    python benchmarks/siege.py --clients 64 --minutes 5
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import side_by_side as side
import siege_deeds as deeds
import siege_misuse as misuse
from serve import server
from siege_crowd import JOBS, LATER, LONGEST, AcceptedJob, Client, Seen, Uploads, sides

PAGE = Path(__file__).resolve().parents[1] / "docs" / "serve.md"
MOST_GROWTH = 0.03  # of memory, median of the last third over that of the second
SETTLED = 180.0  # seconds: in a shorter siege the memory still fills what is kept, such as 256 prompts
ENDING = 900.0  # seconds for the jobs that wait when the crowd goes
LIMITS = ({"per_minute": 30}, {"per_day": 40})  # of the keys that have one
# How often each is done, beside the others.
DEEDS = {
    deeds.draws: 24,
    deeds.edits: 10,
    deeds.reads_a_stream: 9,
    deeds.leaves_a_stream: 7,
    deeds.hangs_up: 7,
    deeds.has_no_time: 3,
    deeds.adds_a_job: 8,
    deeds.cancels_a_job: 6,
    deeds.repeats_a_job: 4,
    deeds.does_not_hear_of_its_job: 4,
    misuse.sends_a_bad_body: 6,
    misuse.sends_a_bad_form: 4,
    misuse.sends_slowly: 2,
    misuse.never_ends_its_request: 1,
    misuse.reads_slowly: 1,
    misuse.sends_no_http: 1,
    misuse.asks_twice_at_once: 1,
    misuse.looks: 5,
    misuse.is_refused: 4,
    misuse.has_a_limit: 2,
}
# In a log: something went wrong that nobody handled.
TROUBLE = re.compile(r"Traceback|Exception ignored|never (retrieved|awaited)|destroyed but it is pending")


@dataclass(slots=True)
class Watched:
    """What was seen of the server's process, once a second."""

    memory: list[float] = field(default_factory=list)  # MB
    health: list[float] = field(default_factory=list)  # seconds until /health answers
    files: list[int] = field(default_factory=list)  # that are open
    threads: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Siege:
    """The outcome. faults: sentences, and how often each."""

    answers: dict[str, int]
    deeds: dict[str, int]
    images: int
    jobs: dict[str, int]
    memory: dict[str, float]
    health: dict[str, float]
    most: dict[str, int]
    faults: dict[str, int]


def documented(page: str) -> dict[int, set[str]]:
    """Return the codes of each status, from the table of the server's page."""
    table = page.split("## When it says no")[1].split("\n## ")[0]
    codes: dict[int, set[str]] = {}
    for status, cell in re.findall(r"^\| (\d{3}) \| ([^|]*) \|", table, re.MULTILINE):
        codes.setdefault(int(status), set()).update(re.findall(r"`(\w+)`", cell))
    return codes


def routes_of(schema: dict[str, Any]) -> dict[tuple[str, str], set[int]]:
    """Return the statuses of each method and path, from /openapi.json."""
    return {
        (method.upper(), path): {int(status) for status in operation["responses"]}
        for path, operations in schema["paths"].items()
        for method, operation in operations.items()
    } | {("GET", "/openapi.json"): {200}}


def growth(memory: list[float]) -> tuple[float, float]:
    """Return the medians of the second third of the time and of the last."""
    third = len(memory) // 3
    return statistics.median(memory[third : 2 * third]), statistics.median(memory[2 * third :])


def make_keys(folder: Path) -> list[str]:
    """Make a key without limits, and one for each of LIMITS, in the database of a server to come."""
    from sanakit.serve.jobs.database import Database
    from sanakit.serve.jobs.keys import KeyStore

    database = Database(folder / "data" / "jobs.sqlite")
    try:
        keys = KeyStore(database)
        return [keys.create("crowd"), *(keys.create(str(limit), **limit) for limit in LIMITS)]
    finally:
        database.close()


async def besiege(url: str, pid: int, tokens: list[str], asked: argparse.Namespace) -> tuple[Seen, Watched]:
    """Let the crowd come, go, and see what is left."""
    import httpx

    # uvicorn closes a connection that nobody used for 5 s; a client that just then uses it has no answer.
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=2)
    async with httpx.AsyncClient(base_url=url, timeout=LONGEST, limits=limits) as http:
        schema = (await http.get("/openapi.json")).json()
        seen, watched = Seen(routes_of(schema), documented(PAGE.read_text())), Watched()
        uploads = Uploads(asked.seed)
        clients = [
            Client(number, asked.seed, http, seen, uploads, tokens[0], tokens[1:])
            for number in range(asked.clients)
        ]
        watching = asyncio.create_task(_watch(http, pid, watched, seen))
        until = time.monotonic() + 60 * asked.minutes
        await asyncio.gather(*(client.run(until, DEEDS) for client in clients))
        if watching.done():  # which only happens where it failed
            seen.fault(f"/health or the process was lost sight of ({watching.exception()})")
        watching.cancel()
        print("The crowd is gone.", file=sys.stderr)
        await see_what_is_left(clients[0])
    return seen, watched


async def _watch(http, pid: int, watched: Watched, seen: Seen) -> None:
    page = os.sysconf("SC_PAGE_SIZE")
    while True:
        process = Path(f"/proc/{pid}")
        watched.memory.append(int((process / "statm").read_text().split()[1]) * page / 1e6)
        watched.files.append(len(list((process / "fd").iterdir())))
        watched.threads.append(len(list((process / "task").iterdir())))
        started = time.monotonic()
        if (await http.get("/health")).status_code != 200:
            seen.fault("/health does not say 200")
        watched.health.append(time.monotonic() - started)
        await asyncio.sleep(max(0, started + 1 - time.monotonic()))


async def see_what_is_left(client: Client) -> None:
    """Wait for all jobs, hold them against what was accepted, and see whether the server is idle."""
    seen = client.seen
    for key, body, heard in seen.unheard:
        again = {"json": body, "headers": {"Idempotency-Key": key}}
        while (answer := await client.ask("POST", JOBS, **again)).status in LATER:
            pass
        if client.expect(answer, 202):
            job = answer.json()["id"]
            seen.jobs[job] = AcceptedJob(body["n"], sides(body["size"]), "finished")
            if heard not in (None, job):
                seen.fault("a job was accepted twice under one Idempotency-Key")
    until = time.monotonic() + ENDING
    while (left := await _jobs_that_wait(client)) and time.monotonic() < until:
        await asyncio.sleep(1)
    if left:
        seen.fault(f"{left} jobs were not done after {ENDING:g} s")
    stored = await _listed(client)
    for job_id, accepted in seen.jobs.items():
        await judge_job(client, stored.get(job_id), accepted)
    for job_id in stored.keys() - seen.jobs.keys():
        seen.fault(f"a job is stored that was never accepted ({job_id})")
    await asyncio.sleep(2)
    figures = await _figures(client)
    busy = {name: figures.get(name, 0) for name in ("sana_engine_waiting", "sana_engine_running")}
    busy["sana_http_open_requests"] = figures["sana_http_open_requests"] - 1  # that for the figures
    seen.faults.update(
        {f"{name} is {value:g} when nobody is there": 1 for name, value in busy.items() if value}
    )
    for name in figures:  # answers that nobody waited for, too; 499: the client had left
        status = re.search(r"^sana_http_requests_total.*status=\"(\d+)\"", name)
        if status and int(status[1]) not in {200, 202, 499, *seen.errors.keys() - {500}}:
            seen.fault(f"{name} is {figures[name]:g}")
    if figures["sana_engine_failed_steps_total"]:
        seen.fault(f"{figures['sana_engine_failed_steps_total']:g} steps failed")


async def _jobs_that_wait(client: Client) -> int:
    figures = await _figures(client)
    return int(sum(figures.get(f'sana_jobs{{status="{status}"}}', 0) for status in ("queued", "running")))


async def _figures(client: Client) -> dict[str, float]:
    text = (await client.ask("GET", "/metrics")).body.decode()
    lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


async def _listed(client: Client) -> dict[str, dict[str, Any]]:
    """Return all stored jobs of the crowd's key."""
    found: dict[str, dict[str, Any]] = {}
    path, more = f"{JOBS}?limit=100", True
    while more:
        page = (await client.ask("GET", path)).json()
        found |= {job["id"]: job for job in page["data"]}
        more = page["has_more"]
        path = f"{JOBS}?limit=100&before={next(reversed(found), '')}"
    return found


async def judge_job(client: Client, job: dict[str, Any] | None, accepted: AcceptedJob) -> None:
    """Hold a job against what was accepted, and open its images."""
    if job is None:
        client.seen.fault("a job is lost")
        return
    if job["status"] != accepted.end:
        message = (job["error"] or {}).get("message")
        client.seen.fault(f"a job is {job['status']} that should be {accepted.end} ({message})")
    addresses = {image["url"] for image in job["data"]}
    if len(addresses) != (accepted.pictures if job["status"] == "finished" else 0):
        client.seen.fault(f"a job of {accepted.pictures} images has {len(addresses)}")
    for url in addresses:
        await client.open_address(url, accepted.size, "png")


def judged(seen: Seen, watched: Watched, log: str, seconds: float) -> Siege:
    """Put together what was seen, with the faults of memory and log."""
    early, late = growth(watched.memory)
    faults = dict(seen.faults)
    if seconds >= SETTLED and late > (1 + MOST_GROWTH) * early:
        faults[f"memory grew by {late / early - 1:.1%} from the second third of the time to the last"] = 1
    for line in log.splitlines():
        if TROUBLE.search(line):
            faults[f"the log says {line[:80]!r}"] = faults.get(f"the log says {line[:80]!r}", 0) + 1
    ends = [job.end for job in seen.jobs.values()]
    return Siege(
        answers={
            f"{status} {code}".rstrip(): count for (status, code), count in sorted(seen.answers.items())
        },
        deeds=dict(seen.deeds.most_common()),
        images=seen.opened,
        jobs={end: ends.count(end) for end in ("finished", "cancelled")},
        memory={"second third": early, "last third": late, "most": max(watched.memory)},
        health={"median": statistics.median(watched.health), "most": max(watched.health)},
        most={"open files": max(watched.files), "threads": max(watched.threads)},
        faults=faults,
    )


def report(asked: argparse.Namespace, siege: Siege) -> list[str]:
    """Lay out the outcome."""
    memory, health = siege.memory, siege.health
    change = memory["last third"] / memory["second third"] - 1
    words = (
        f"--clients {asked.clients} --minutes {asked.minutes:g} --seed {asked.seed} --threads {asked.threads}"
    )
    lines = [
        f"# A server under siege, {date.today()}",
        "",
        f"{side.machine()}. Model: pocket. {asked.clients} clients for {asked.minutes:g} minutes on the "
        f"loopback address of the same machine; {asked.threads} thread(s) for the server.",
        f"Command: `python benchmarks/siege.py {words}`",
        "",
        *side.table(["deed of a client", "times"], [[*pair] for pair in siege.deeds.items()]),
        "",
        *side.table(["answer", "times"], [[*pair] for pair in siege.answers.items()]),
        "",
        f"- Images that were opened: **{siege.images}**.",
        f"- Jobs that were accepted: **{sum(siege.jobs.values())}**; {siege.jobs['finished']} to be "
        f"finished, {siege.jobs['cancelled']} cancelled.",
        f"- Memory of the server: median {memory['second third']:.0f} MB in the second third of the time, "
        f"{memory['last third']:.0f} MB in the last (**{change:+.1%}**), at most {memory['most']:.0f} MB.",
        f"- /health: median {1000 * health['median']:.0f} ms, at most {1000 * health['most']:.0f} ms. "
        f"Open files: at most {siege.most['open files']}. Threads: at most {siege.most['threads']}.",
        f"- Faults: **{sum(siege.faults.values())}**.",
    ]
    if siege.faults:
        lines += ["", *side.table(["fault", "times"], [[*pair] for pair in siege.faults.items()])]
    return lines


def main() -> None:
    """Besiege a server; exit with 1 if there is a fault."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=0, help="of the crowd")
    parser.add_argument("--threads", type=int, default=2, help="of the server")
    parser.add_argument("--json", action="store_true", help="print one object instead of tables")
    parser.add_argument("--log", type=Path, help="a file to keep the server's log in")
    parser.add_argument("--write", action="store_true", help="store the tables in benchmarks/results/")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, ended = Path(name), ""
        tokens = make_keys(folder)
        outcome = None
        try:
            with server(asked.threads, folder) as (url, pid):
                outcome = asyncio.run(besiege(url, pid, tokens, asked))
        except SystemExit as end:  # the server's own
            ended = str(end)
        if outcome is None:
            raise SystemExit(f"The server did not start or died: {ended}")
        seen, watched = outcome
        if ended:
            seen.fault(ended)
        log = (folder / "server.log").read_text()
    if asked.log:
        asked.log.write_text(log)
    siege = judged(seen, watched, log, 60 * asked.minutes)
    lines = report(asked, siege)
    print(json.dumps(asdict(siege), indent=1) if asked.json else "\n".join(lines))
    if asked.write:
        path = side.RESULTS / f"{date.today()}-{os.uname().machine}-{asked.threads}-threads-siege.md"
        path.write_text("\n".join(lines) + "\n")
    sys.exit(1 if siege.faults else 0)


if __name__ == "__main__":
    main()
