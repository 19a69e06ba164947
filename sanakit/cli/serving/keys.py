"""`sana keys`: the keys of the server and their limits."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sanakit.cli.terminal import AsJson, Debug, print_json
from sanakit.errors import MissingExtraError, SettingsError

if TYPE_CHECKING:
    from sanakit.serve.jobs.keys import Key, KeyStore

DATA, DATABASE = Path("sana-data"), "jobs.sqlite"  # the server's folder, if not told; the file in it

Data = Annotated[Path, typer.Option(metavar="DIR", help="The server's folder: jobs, keys, images.")]
DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        metavar="URL", envvar="SANA_DATABASE", show_default=f"DIR/{DATABASE}", help="postgresql://..."
    ),
]


def commands() -> typer.Typer:
    """Return the group `sana keys`."""
    group = typer.Typer(rich_markup_mode=None)
    group.callback()(_group)
    group.command()(create)
    group.command("list")(list_keys)
    group.command()(revoke)
    return group


def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the key, up to 64 characters.")],
    per_minute: Annotated[
        int | None, typer.Option(metavar="N", show_default="any number", help="Requests a minute.")
    ] = None,
    per_day: Annotated[
        int | None, typer.Option(metavar="N", show_default="any number", help="Images a day of UTC.")
    ] = None,
    data: Data = DATA,
    database: DatabaseUrl = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Make a key and print it.

    Keep it: only its hash is stored, so it cannot be shown again.
    """
    with closing(_open(data, database)) as keys:
        token = keys.create(name, per_minute=per_minute, per_day=per_day)
    if as_json:
        print_json({"name": name, "key": token, "per_minute": per_minute, "per_day": per_day})
    else:
        print(token)


def list_keys(
    data: Data = DATA,
    database: DatabaseUrl = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """List the keys, with what they may use and what they made today (UTC)."""
    _key_store()  # tells first if it is missing
    found = []
    if database is not None or data != DATA or data.exists():  # the usual folder comes with its first key
        with closing(_open(data, database, there=True)) as keys:
            from sanakit.serve.jobs.database import now

            used = keys.used(now().date())
            found = [_public(key, used.get(key.id, 0)) for key in keys.list()]
    if as_json:
        print_json(found)
    elif found:
        print(f"{'NAME':<24}{'KEY':<16}{'A MINUTE':>9}{'TODAY':>8}{'A DAY':>8}  STATE")
        for key in found:
            print(_row(key))
    else:
        print("There are no keys: `sana keys create NAME` makes one.")


def revoke(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name or id of the key.")],
    data: Data = DATA,
    database: DatabaseUrl = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Make a key worthless, at once and for good."""
    with closing(_open(data, database, there=True)) as keys:
        key = keys.revoke(name)
    if as_json:
        print_json(_public(key, None))
    else:
        print(f"{key.name}  {key.hint}...  revoked")


def _group() -> None:
    """Make, list and revoke the keys of the server."""


def _open(data: Path, database: str | None, *, there: bool = False) -> KeyStore:
    """Open the keys, which are made where there are none. there: refuse that. Raises SettingsError."""
    store = _key_store()
    file = str(data / DATABASE) if database is None else database.removeprefix("sqlite:///")
    if there and "://" not in file and not os.path.isfile(file):
        raise SettingsError(
            f"There is no {file}, so there are no keys: name the server's folder with --data, or make a key "
            "with `sana keys create NAME`."
        )
    return store(database or data / DATABASE)


def _key_store() -> type[KeyStore]:
    """Import what holds the keys. Raises MissingExtraError."""
    try:
        from sanakit.serve.jobs.keys import KeyStore
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "sqlalchemy", "serve") from None
    return KeyStore


def _public(key: Key, used: int | None) -> dict[str, Any]:
    fields: dict[str, Any] = {"id": key.id, "name": key.name, "hint": key.hint}
    fields |= {"per_minute": key.per_minute, "per_day": key.per_day, "created": key.created.isoformat()}
    fields["revoked"] = key.revoked.isoformat() if key.revoked else None
    return fields if used is None else fields | {"pictures_today": used}


def _row(key: dict[str, Any]) -> str:
    limits = [key["per_minute"] or "any", key["pictures_today"], key["per_day"] or "any"]
    state = f"revoked {key['revoked'][:10]}" if key["revoked"] else "valid"
    numbers = f"{limits[0]:>9}{limits[1]:>8}{limits[2]:>8}"
    return f"{key['name']:<24}{key['hint'] + '...':<16}{numbers}  {state}"
