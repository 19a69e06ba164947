"""`sana pull`, `sana list`, `sana rm`: models onto this disk, what is there, and off it again."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from sanakit.cli.terminal import AsJson, Debug, print_json, size_in_bytes
from sanakit.errors import SettingsError

Name = Annotated[str, typer.Argument(metavar="NAME", help="A name of `sana models`, or Hub org/repo.")]


def pull(name: Name, as_json: AsJson = False, debug: Debug = False) -> None:
    """Download a model, or continue a download.

    Licences hold before the first file: `sana models NAME` shows them. HF_HOME is the place for it,
    HF_TOKEN the account, HF_ENDPOINT the mirror.
    """
    from sanakit.weights.find.cached import find_here
    from sanakit.weights.find.catalog import CATALOG
    from sanakit.weights.find.resolve import resolve

    entry = CATALOG.get(name)
    if entry is not None and entry.download_bytes and not as_json:
        print(f"{name}: about {size_in_bytes(entry.download_bytes)}. {entry.licence}", file=sys.stderr)
    source = resolve(name)
    if entry is not None and entry.repo is None:
        told = find_here(name)
    else:
        told = {"name": name, "path": str(source.path)}
    if as_json:
        print_json(told)
    else:
        print(f"{name}  {source.path}")


def list_here(as_json: AsJson = False, debug: Debug = False) -> None:
    """List the models on this disk: size, last use, folder, licence."""
    from sanakit.weights.find.cached import models_here

    shelf = models_here()
    if as_json:
        print_json(shelf)
        return
    width = max((len(model.name) for model in shelf.models), default=0) + 2
    for model in shelf.models:
        used = model.last_used[:10] or model.kind
        print(f"{model.name:<{width}}{size_in_bytes(model.bytes):>9}  {used:<11} {model.path}")
        print(f"{'':<{width}}{'':>9}  {model.licence or 'licence: see the card on the Hub'}")
        if not model.whole:
            print(f"{'':<{width}}{'':>9}  in part: `sana pull {model.name}` completes it")
    if shelf.others:
        size = size_in_bytes(shelf.other_bytes)
        print(f"{shelf.others} other repositories in the Hub's cache, {size}: `hf cache ls` lists them.")


def remove(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Delete a downloaded model, after asking. Embedded models stay."""
    from sanakit.weights.find.cached import find_here, remove_model

    model = find_here(name)
    if model.kind != "embedded" and not yes:
        if sys.stdin is None or not sys.stdin.isatty():
            raise SettingsError(f"{name} is only deleted after asking, or with --yes: add it.")
        typer.confirm(f"Delete {model.path} ({size_in_bytes(model.bytes)})?", abort=True, err=True)
    freed = remove_model(model)
    if as_json:
        print_json({"name": name, "path": model.path, "freed": freed})
    else:
        print(f"{name}: {size_in_bytes(freed)} are free again.")
