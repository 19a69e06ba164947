"""API keys and their limits: requests per minute, images per day.

A token is `sk-sana-` and 256 random bits. It is shown once; the database holds its SHA-256. Slow hashes
(bcrypt, scrypt, Argon2) exist for passwords, which people choose from few: there each guess must cost time.
Nobody can search 2^256 tokens at any speed, so a fast hash leaks as little, needs no salt, and costs an
attacker's flood of wrong keys microseconds of ours each instead of a tenth of a second.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
import math
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from os import PathLike

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from sqlalchemy import ForeignKey, Index, delete, func, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, mapped_column

from sanakit.errors import SettingsError, StorageError
from sanakit.serve.jobs.columns import DAMAGED, damage, mended
from sanakit.serve.jobs.database import Database, now
from sanakit.serve.jobs.schema import Base
from sanakit.wording import counted

PREFIX = "sk-sana-"
WRONG_KEYS_A_MINUTE = 20  # from one address, before the answer is "wait"
MAX_NAME = 64  # characters
MAX_LIMIT = 10**9

log = logging.getLogger(__name__)

_REMEMBERED = 10_000  # addresses whose last minute is known


class Key(Base):
    """One key, without its token. Objects are copies: they do not change when the database does."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    digest: Mapped[str] = mapped_column(unique=True)  # SHA-256 of the token, hexadecimal
    hint: Mapped[str]  # the token's first characters, to tell keys apart
    per_minute: Mapped[int | None]  # requests; None: any number
    per_day: Mapped[int | None]  # images in a day of UTC; None: any number
    created: Mapped[datetime]
    revoked: Mapped[datetime | None] = mapped_column(default=None)

    # a name may be given again once its key is revoked
    __table_args__ = (
        Index(
            "one_valid_key_a_name",
            "name",
            unique=True,
            sqlite_where=revoked.is_(None),
            postgresql_where=revoked.is_(None),
        ),
    )


class KeyUsage(Base):
    """The number of images that a key got in a day."""

    __tablename__ = "usage"

    key_id: Mapped[str] = mapped_column(ForeignKey(Key.id), primary_key=True)
    day: Mapped[date] = mapped_column(primary_key=True)  # of UTC
    pictures: Mapped[int]


class KeyRequest(Base):
    """One request of a key within its last minute; all servers of the database count together."""

    __tablename__ = "key_requests"

    number: Mapped[int] = mapped_column(primary_key=True)
    key_id: Mapped[str] = mapped_column(ForeignKey(Key.id))
    moment: Mapped[float]  # seconds since 1970

    __table_args__ = (Index("of_a_key_in_order", "key_id", "moment"),)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request may not be served now, and when it may: HTTP's 429."""

    retry_after: int  # seconds, at least 1
    message: str


class KeyStore:
    """The keys in a database. Every method may raise StorageError, after a bounded wait.

    url: as `Database` takes it, or a Database that is shared with the jobs.
    """

    def __init__(self, url: str | PathLike[str] | Database) -> None:
        self.database = url if isinstance(url, Database) else Database(url)

    def create(self, name: str, *, per_minute: int | None = None, per_day: int | None = None) -> str:
        """Make a key and return its token, which nothing can show again.

        name: for people, 1 to MAX_NAME printable characters, of no other valid key. per_minute: requests.
        per_day: images. Raises SettingsError.
        """
        if not 1 <= len(name) <= MAX_NAME or not name.isprintable() or name != name.strip():
            raise SettingsError(
                f"{name[:200]!r} cannot name a key: use 1 to {MAX_NAME} printable characters, without "
                "a space at either end."
            )
        for what, limit in (("per_minute", per_minute), ("per_day", per_day)):
            if limit is not None and not 1 <= limit <= MAX_LIMIT:
                raise SettingsError(f"{what} = {limit}, but it must be from 1 to {MAX_LIMIT}, or omitted.")
        token = PREFIX + secrets.token_urlsafe(32)
        key = Key(
            id=f"key_{secrets.token_hex(8)}",
            name=name,
            digest=_digest(token),
            hint=token[: len(PREFIX) + 4],
            per_minute=per_minute,
            per_day=per_day,
            created=now(),
        )
        with self.database.writing() as session:
            session.add(key)
            try:
                session.flush()
            except IntegrityError:
                raise SettingsError(
                    f"A key named {name!r} exists: revoke it first or choose another name."
                ) from None
        return token

    def verify(self, token: str) -> Key | None:
        """Return the valid key of a token, else None.

        Every token, malformed ones too, takes the same path: one hash, one look-up by it, one comparison in
        constant time. The look-up's own time could tell of the hash, which tells nothing of a token. Raises
        StorageError if its row is damaged: its limits are not known then.
        """
        digest = _digest(token)
        with self.database.reading() as session:
            key = session.scalar(select(Key).where(Key.digest == digest, Key.revoked.is_(None)))
        same = hmac.compare_digest(key.digest if key else "0" * len(digest), digest)
        if same and key is not None and (wrong := damage(key)):
            raise StorageError(_sentence(key, wrong))
        return key if same else None

    def revoke(self, name_or_id: str) -> Key:
        """Invalidate a key's token; return the key. Raises SettingsError."""
        named = or_(Key.name == name_or_id, Key.id == name_or_id)
        if name_or_id.isprintable():  # else no name, and perhaps no text that a database takes
            with self.database.writing() as session:
                revoking = update(Key).where(named, Key.revoked.is_(None)).values(revoked=now())
                if key := session.scalar(revoking.returning(Key)):
                    return mended(key)
        raise SettingsError(f"There is no valid key {name_or_id[:200]!r}: `sana keys list` shows all keys.")

    def list(self) -> list[Key]:
        """Return all keys, revoked ones too, oldest first; damaged ones as far as known, and logged."""
        with self.database.reading() as session:
            found = [*session.scalars(select(Key).order_by(Key.created, Key.id))]
        for key in found:
            if wrong := damage(key):
                log.warning("%s", _sentence(key, wrong))
        return [mended(key) for key in found]

    def any(self) -> bool:
        """Return whether a key was ever made."""
        with self.database.reading() as session:
            return session.scalar(select(Key.id).limit(1)) is not None

    def named(self, name: str) -> Key | None:
        """Return the valid key of a name. Raises StorageError if its row is damaged."""
        with self.database.reading() as session:
            key = session.scalar(select(Key).where(Key.name == name, Key.revoked.is_(None)))
        if key is not None and (wrong := damage(key)):
            raise StorageError(_sentence(key, wrong))
        return key

    def close(self) -> None:
        """Close all connections."""
        self.database.close()

    def spend(self, key: Key, num_images: int, time: datetime) -> Refusal | None:
        """Count a request for so many images, unless that would exceed a limit of its key."""
        day, moment = time.date(), time.timestamp()
        mine = KeyRequest.key_id == key.id
        with self.database.writing() as session:
            session.get(Key, key.id, with_for_update=True)  # in PostgreSQL, others wait here
            if key.per_minute is not None:
                # One far ahead was left by a clock that was wrong, or is not a number.
                over_now = or_(KeyRequest.moment <= moment - 60, KeyRequest.moment > moment + 3600)
                session.execute(delete(KeyRequest).where(mine, over_now))
                over = (session.scalar(select(func.count()).where(mine)) or 0) - key.per_minute
                if over >= 0:  # the one that has to leave the minute first
                    moments = select(KeyRequest.moment).where(mine).order_by(KeyRequest.moment)
                    free = (session.scalar(moments.offset(over).limit(1)) or moment) + 60
                    return _wait(free - moment, f"This key may send {key.per_minute} requests a minute")
            usage = session.get(KeyUsage, (key.id, day), with_for_update=True)
            usage = usage or KeyUsage(key_id=key.id, day=day, pictures=0)
            if wrong := damage(usage):
                raise StorageError(_sentence(key, f"on {day}, {wrong}"))
            if key.per_day is not None and usage.pictures + num_images > key.per_day:
                midnight = datetime.combine(day + timedelta(days=1), datetime.min.time(), UTC)
                sentence = (
                    f"This key may make {counted(key.per_day, 'image')} a day (UTC), and too few are left."
                )
                return Refusal(max(1, math.ceil((midnight - time).total_seconds())), sentence)
            usage.pictures += num_images
            session.add(usage)
            if key.per_minute is not None:
                session.add(KeyRequest(key_id=key.id, moment=moment))
        return None

    def refund(self, key: Key, num_images: int, day: date) -> None:
        """Take images from what a key made in a day."""
        with self.database.writing() as session:
            usage = session.get(KeyUsage, (key.id, day), with_for_update=True)
            if usage is not None and not damage(usage):
                usage.pictures = max(0, usage.pictures - num_images)

    def used(self, day: date) -> dict[str, int]:
        """Images that were counted in a day of UTC, by id of the key."""
        with self.database.reading() as session:
            found = session.execute(select(KeyUsage.key_id, KeyUsage.pictures).where(KeyUsage.day == day))
            return {key_id: count for key_id, count in found if count is not DAMAGED}


class Limiter:
    """Decides when a key, or an address that tries invalid keys, has to wait.

    Requests and images of keys are counted in the database, by all of its servers together; the addresses of
    the last minute are known to this process alone. clock: seconds since 1970, for tests.
    """

    def __init__(
        self,
        keys: KeyStore,
        *,
        wrong_per_minute: int = WRONG_KEYS_A_MINUTE,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._keys, self._clock = keys, clock
        self._wrong = RateLimitItemPerMinute(wrong_per_minute)
        self._strangers = MemoryStorage()

    def check(self, key: Key, num_images: int) -> Refusal | None:
        """Count one request for so many images: None if it may be served. May raise StorageError.

        Call it once a request, when all else about the request is right.
        """
        return self._keys.spend(key, num_images, datetime.fromtimestamp(self._clock(), UTC))

    def refund(self, key: Key, num_images: int) -> None:
        """Take back the images of a request that was then not served. The minute stays."""
        self._keys.refund(key, num_images, datetime.fromtimestamp(self._clock(), UTC).date())

    def wrong(self, address: str) -> Refusal | None:
        """Count a wrong or missing key from a client's address: None (answer 401) or a Refusal (429).

        Call it after `KeyStore.verify` gave None. Right keys are never asked: else whoever shares a proxy
        with a wrong client would be locked out with it. An IPv6 client counts by its network of 64 bits.
        """
        client = _network(address)
        if len(self._strangers.events) >= _REMEMBERED:  # a flood from many addresses must not fill the memory
            self._strangers = MemoryStorage()
        windows = MovingWindowRateLimiter(self._strangers)
        if windows.hit(self._wrong, client):
            return None
        reset = windows.get_window_stats(self._wrong, client).reset_time
        return _wait(reset - self._clock(), "Too many invalid keys came from this address")


def _sentence(key: Key, wrong: str) -> str:
    return (
        f"The server's database is damaged at the key {mended(key).id} ({wrong}): revoke it with "
        "`sana keys revoke` and its id, then make another one."
    )


def _wait(seconds: float, sentence: str) -> Refusal:
    whole = max(1, math.ceil(seconds))
    return Refusal(whole, f"{sentence}: try again in {whole} s.")


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def _network(address: str) -> str:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network(f"{found}/64", strict=False)) if found.version == 6 else address
