"""Keys let in who holds them, as often as agreed, and tell nobody else anything."""

from __future__ import annotations

import hashlib
import hmac
import json
import sqlite3
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("sqlalchemy")
pytest.importorskip("limits")

import limits.storage.memory

from sanakit.cli import main
from sanakit.errors import SettingsError, StorageError
from sanakit.serve.jobs.jobs import JobStore
from sanakit.serve.jobs.keys import PREFIX, Key, KeyRequest, KeyStore, Limiter

NOON = datetime(2030, 1, 2, 12, tzinfo=UTC).timestamp()


class Clock:
    """A time that the test sets."""

    def __init__(self) -> None:
        self.seconds = NOON

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def keys(url: str) -> Iterator[KeyStore]:
    store = KeyStore(url)
    yield store
    store.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    time = Clock()
    monkeypatch.setattr(limits.storage.memory, "time", SimpleNamespace(time=time))
    return time


def made(keys: KeyStore, **allowed: int) -> Key:
    key = keys.verify(keys.create("someone", **allowed))
    assert key is not None
    return key


def test_a_token_is_long_random_and_only_its_hash_is_stored(tmp_path: Path) -> None:
    keys = KeyStore(tmp_path / "jobs.sqlite")
    token, other = keys.create("a"), keys.create("b")
    key = keys.verify(token)
    assert key is not None
    assert token.startswith(PREFIX)
    assert len(token) >= len(PREFIX) + 192 / 6  # of six bits a character
    assert token != other
    assert key.digest == hashlib.sha256(token.encode()).hexdigest()
    keys.close()
    secret = token.removeprefix(PREFIX).encode()
    for path in tmp_path.iterdir():
        assert secret not in path.read_bytes()
        assert secret[:8] not in path.read_bytes()


def test_a_token_opens_for_its_own_key_until_it_is_revoked(keys: KeyStore) -> None:
    tokens = {name: keys.create(name, per_minute=3) for name in ("alice", "bob")}
    for name, token in tokens.items():
        key = keys.verify(token)
        assert key is not None
        assert (key.name, key.per_minute, key.per_day) == (name, 3, None)
    revoked = keys.revoke("alice")
    assert revoked.revoked is not None
    assert keys.verify(tokens["alice"]) is None
    assert keys.verify(tokens["bob"])
    again = keys.create("alice")  # a name may be used again
    assert keys.verify(again)
    assert keys.verify(tokens["alice"]) is None
    assert [key.name for key in keys.list()] == ["alice", "bob", "alice"]
    assert keys.revoke(keys.list()[1].id).name == "bob"


WRONG = [
    "",
    "sk-sana-",
    "Bearer x",
    "sk-sana-" + "A" * 43,
    "\0",
    "ü",
    "\ud800",
    "x" * 1_000_000,
    "' OR 1=1 --",
]


@pytest.mark.parametrize("wrong", WRONG, ids=range(len(WRONG)))
def test_wrong_and_malformed_tokens_take_the_path_of_right_ones(
    keys: KeyStore, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = keys.create("a")
    compared: list[tuple[int, int]] = []

    def compare(one: str, other: str) -> bool:
        compared.append((len(one), len(other)))
        return one == other

    monkeypatch.setattr(hmac, "compare_digest", compare)
    assert keys.verify(token)
    assert keys.verify(wrong) is None
    assert keys.verify(token[:-1]) is None
    assert keys.verify(token + " ") is None
    assert compared == [(64, 64)] * 4


@pytest.mark.parametrize("odd", ["", " a", "a ", "a\n", "\0", "x" * 65, "\ud800", "\u202egnp"])
def test_a_name_that_would_confuse_people_is_refused(keys: KeyStore, odd: str) -> None:
    with pytest.raises(SettingsError, match="printable"):
        keys.create(odd)
    with pytest.raises(SettingsError, match="no valid key"):
        keys.revoke(odd)


def test_a_name_is_given_once(keys: KeyStore) -> None:
    keys.create("a")
    with pytest.raises(SettingsError, match="revoke"):
        keys.create("a")
    assert len(keys.list()) == 1
    for limit in (0, -1, 10**10):
        with pytest.raises(SettingsError, match="per_day"):
            keys.create("b", per_day=limit)


def test_the_minute_is_a_moving_window(keys: KeyStore, clock: Clock) -> None:
    limiter, key = Limiter(keys, clock=clock), made(keys, per_minute=2)
    assert limiter.check(key, 1) is None
    clock.seconds += 40
    assert limiter.check(key, 1) is None
    refused = limiter.check(key, 1)
    assert refused is not None
    assert 19 <= refused.retry_after <= 21
    assert "2 requests a minute" in refused.message
    clock.seconds += 21  # the first has left the window, the second has not
    assert limiter.check(key, 1) is None
    assert limiter.check(key, 1) is not None
    assert keys.used(datetime.fromtimestamp(NOON, UTC).date()) == {key.id: 3}  # refused ones cost nothing


def test_the_days_pictures_survive_a_restart_and_end_at_midnight(keys: KeyStore, clock: Clock) -> None:
    key = made(keys, per_day=10)
    assert Limiter(keys, clock=clock).check(key, 8) is None
    restarted = Limiter(keys, clock=clock)
    refused = restarted.check(key, 3)
    assert refused is not None
    assert refused.retry_after == 12 * 3600
    assert restarted.check(key, 2) is None
    assert restarted.check(key, 1) is not None
    restarted.refund(key, 2)
    assert restarted.check(key, 2) is None
    clock.seconds += 12 * 3600
    assert restarted.check(key, 10) is None


def test_keys_have_limits_of_their_own_or_none(keys: KeyStore, clock: Clock) -> None:
    limiter, limited = Limiter(keys, clock=clock), made(keys, per_minute=1, per_day=1)
    free = keys.verify(keys.create("free"))
    assert free is not None
    assert limiter.check(limited, 1) is None
    assert limiter.check(limited, 1) is not None
    assert [limiter.check(free, 1000) for _ in range(100)] == [None] * 100


def test_many_threads_can_not_spend_more_than_the_quota(keys: KeyStore) -> None:
    limiter, key = Limiter(keys), made(keys, per_day=15)
    answers: list[object] = []

    def ask() -> None:
        answers.extend(limiter.check(key, 1) for _ in range(5))

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(answers), answers.count(None)) == (30, 15)


def test_wrong_keys_are_slowed_by_address_and_networks_of_ipv6(keys: KeyStore, clock: Clock) -> None:
    limiter = Limiter(keys, wrong_per_minute=3, clock=clock)
    answers = [limiter.wrong("203.0.113.5") for _ in range(4)]
    assert answers[:3] == [None] * 3
    assert answers[3] is not None
    assert 1 <= answers[3].retry_after <= 61
    assert limiter.wrong("203.0.113.6") is None
    assert [limiter.wrong(f"2001:db8::{i}") is None for i in range(4)] == [True] * 3 + [False]
    assert limiter.wrong("2001:db8:0:1::1") is None
    assert limiter.wrong("no address") is None
    clock.seconds += 61
    assert limiter.wrong("203.0.113.5") is None


def test_a_flood_from_many_addresses_does_not_fill_the_memory(keys: KeyStore) -> None:
    limiter, key = Limiter(keys, wrong_per_minute=1), made(keys, per_minute=1)
    assert limiter.check(key, 1) is None
    for i in range(10_100):
        limiter.wrong(f"10.{i >> 16}.{i >> 8 & 255}.{i & 255}")
    assert len(limiter._strangers.events) <= 10_000
    assert limiter.check(key, 1) is not None  # nor are limits of keys forgotten


def test_keys_and_jobs_share_a_database_and_its_troubles(tmp_path: Path) -> None:
    jobs = JobStore(tmp_path / "data" / "jobs.sqlite")
    keys = KeyStore(jobs.database)
    key = made(keys)
    assert jobs.add("generation", {}, key.id, 1).key_id == key.id
    (tmp_path / "data").rename(tmp_path / "aside")
    for call in (lambda: keys.verify("x"), lambda: Limiter(keys).check(key, 1), keys.list):
        with pytest.raises(StorageError):
            call()
    jobs.close()


def sana(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(["keys", *words])
    out, err = capsys.readouterr()
    return int(end.value.code or 0), out, err


def test_the_command_makes_lists_and_revokes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert sana(capsys, "list")[1].startswith("There are no keys")
    assert list(tmp_path.iterdir()) == []
    code, token, _ = sana(capsys, "create", "alice", "--per-minute", "60", "--per-day", "500")
    assert code == 0
    keys = KeyStore(tmp_path / "sana-data" / "jobs.sqlite")
    key = keys.verify(token.strip())
    keys.close()
    assert key is not None
    assert (key.name, key.per_minute, key.per_day) == ("alice", 60, 500)

    _, table, _ = sana(capsys, "list")
    assert "alice" in table
    assert "valid" in table
    assert token.strip() not in table
    (listed,) = json.loads(sana(capsys, "list", "--json")[1])
    assert (listed["name"], listed["per_day"], listed["pictures_today"]) == ("alice", 500, 0)
    assert "digest" not in listed

    assert "revoked" in sana(capsys, "revoke", "alice")[1]
    assert "revoked" in sana(capsys, "list")[1]
    code, out, err = sana(capsys, "revoke", "alice")
    assert (code, out) == (2, "")
    assert "no valid key 'alice'" in err
    made_json = json.loads(sana(capsys, "create", "bob", "--json", "--data", "elsewhere")[1])
    assert made_json["key"].startswith(PREFIX)
    assert (tmp_path / "elsewhere" / "jobs.sqlite").exists()


def test_servers_of_a_database_count_the_minute_together(keys: KeyStore, clock: Clock, url: str) -> None:
    other = KeyStore(url)
    here, there = Limiter(keys, clock=clock), Limiter(other, clock=clock)
    key = made(keys, per_minute=3)
    assert [limiter.check(key, 1) for limiter in (here, there, here)] == [None] * 3
    assert (here.check(key, 1) is None, there.check(key, 1) is None) == (False, False)
    assert Limiter(other, clock=clock).check(key, 1) is not None  # nor does a restart forget it
    clock.seconds += 61
    assert there.check(key, 1) is None
    with other.database.reading() as session:  # what is over is not kept
        assert len(session.query(KeyRequest).all()) == 1
    other.close()


def test_a_request_that_a_limit_refused_counts_for_none(keys: KeyStore, clock: Clock) -> None:
    limiter, key = Limiter(keys, clock=clock), made(keys, per_minute=2, per_day=5)
    assert limiter.check(key, 9) is not None  # too many for the day
    assert [limiter.check(key, 1) for _ in range(2)] == [None, None]
    assert limiter.check(key, 1) is not None  # too many for the minute
    assert keys.used(datetime.fromtimestamp(NOON, UTC).date()) == {key.id: 2}


def test_whether_there_are_keys_and_whose_a_name_is_takes_one_row(
    keys: KeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "list", lambda: pytest.fail("all keys are read"))
    assert (keys.any(), keys.named("a")) == (False, None)
    keys.create("a")
    found = keys.named("a")
    assert found is not None
    assert keys.revoke("a").id == found.id
    assert (keys.any(), keys.named("a")) == (True, None)


@pytest.mark.parametrize("words", [["list"], ["revoke", "me"]])
@pytest.mark.parametrize(
    "place", [["--data", "typo"], ["--database", "typo.sqlite"], ["--database", "sqlite:///typo"]]
)
def test_a_command_that_only_looks_makes_no_database(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list,
    place: list,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SANA_DATABASE", raising=False)
    with pytest.raises(SystemExit) as end:
        main(["keys", *words, *place])
    assert end.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "typo" in said.err
    assert "--data" in said.err
    assert list(tmp_path.iterdir()) == []
    for making in (["create", "me"], words):
        with pytest.raises(SystemExit) as end:
            main(["keys", *making, *place])
        assert not end.value.code


def spoil(keys: KeyStore, table: str, column: str, value: object) -> None:
    """Write into a table what sanakit never writes."""
    with sqlite3.connect(keys.database.name) as other:
        other.execute(f"UPDATE {table} SET {column} = ?", (value,))
    other.close()


@pytest.mark.parametrize(
    ("column", "value"),
    [("per_day", "x"), ("per_minute", 1.5), ("per_day", -1), ("created", ""), ("revoked", None)],
)
def test_a_key_with_a_damaged_row_lets_nobody_in_and_can_be_revoked(
    tmp_path: Path, column: str, value: object, caplog: pytest.LogCaptureFixture
) -> None:
    keys = KeyStore(tmp_path / "jobs.sqlite")
    token = keys.create("ann", per_day=9)
    spoil(keys, "api_keys", column, value)
    if column == "revoked":  # as it was: the sound row, to see that the rest of the test can fail
        assert keys.verify(token) is not None
        return
    with pytest.raises(StorageError, match=rf"damaged at the key key_\w+ \({column}"):
        keys.verify(token)
    with pytest.raises(StorageError, match="revoke it"):
        keys.named("ann")
    (shown,) = keys.list()
    assert shown.name == "ann"
    assert column in caplog.text
    assert keys.revoke(shown.id).name == "ann"
    assert keys.verify(token) is None
    assert keys.create("ann")
    keys.close()


def test_damaged_counts_are_told_or_forgotten(tmp_path: Path) -> None:
    keys = KeyStore(tmp_path / "jobs.sqlite")
    key = made(keys, per_minute=1, per_day=9)
    clock = Clock()
    limiter = Limiter(keys, clock=clock)
    assert limiter.check(key, 1) is None
    spoil(keys, "key_requests", "moment", "x")
    assert limiter.check(key, 1) is None  # a request at no time counts for no minute
    assert limiter.check(key, 1) is not None
    clock.seconds += 61
    spoil(keys, "usage", "pictures", "x")
    with pytest.raises(StorageError, match=rf"damaged at the key {key.id}"):
        limiter.check(key, 1)
    limiter.refund(key, 1)
    assert keys.used(datetime.fromtimestamp(NOON, UTC).date()) == {}
    keys.close()
