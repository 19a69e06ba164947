"""A drawing session: a line in, an image or an answer out, with what was set and drawn so far.

A line that begins with / is a command, see `COMMANDS`; any other is a prompt. Images are numbered files,
001-a-red-apple.png and so on, and carry their settings.
"""

from __future__ import annotations

import difflib
import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from sanakit.errors import SettingsError
from sanakit.images.image import parse_size, save
from sanakit.pipelines.image_to_image import ImageToImage, chosen_strength
from sanakit.pipelines.prompt_file import slug
from sanakit.pipelines.request import MAX_SEED, check_request
from sanakit.pipelines.result import Result, Step
from sanakit.pipelines.source import checked_strength
from sanakit.pipelines.text_to_image import TextToImage
from sanakit.whole import claimed

_NUMBERED = re.compile(r"(\d{3,})-")
_OWN = "the model's own"


@dataclass(frozen=True, slots=True)
class DrawnImage:
    """An image of the session. settings: as in its file."""

    path: Path
    image: Image.Image
    settings: dict[str, Any]


@dataclass(slots=True)
class Session:
    """Settings and images of a session.

    folder: of the files. tell: takes an answer. watch: shows a drawing's steps.
    settings: as for `TextToImage.__call__`. seed: of the next image; None: a random one each time.
    images: those drawn, without those that were undone; `/edit` and `/again` begin with the last.
    """

    pipe: TextToImage
    folder: Path
    tell: Callable[[str], None]
    watch: Callable[[], AbstractContextManager[Callable[[Step], None]]]
    settings: dict[str, Any] = field(default_factory=dict)
    negative: str = ""
    seed: int | None = None
    strength: float | None = None
    images: list[DrawnImage] = field(default_factory=list)

    def answer(self, line: str) -> bool:
        """Do what a line says; return whether the session goes on. Raises SanaError; then nothing changed."""
        line = line.strip()
        if not line.startswith("/"):
            if line:
                self._draw(
                    line, self.pipe.stream(line, self.negative, seed=self._next_seed(), **self.settings)
                )
            return True
        name, _, rest = line[1:].partition(" ")
        if name in ("quit", "exit", "q"):
            return False
        if name not in COMMANDS:
            near = difflib.get_close_matches(name, COMMANDS, n=1)
            remedy = f"did you mean /{near[0]}?" if near else "/help lists them."
            raise SettingsError(f"/{name} is not a command: {remedy}")
        COMMANDS[name][1](self, rest.strip())
        return True

    def _draw(self, prompt: str, steps: Iterator[Step]) -> None:
        """Draw to the end, save, and tell the file; the image is then the last one."""
        result: Result | None = None
        with self.watch() as show:
            for step in steps:
                show(step)
                result = step.result
        assert result is not None  # the last step carries it
        (image,), (metadata,) = result.images, result.metadata
        assert isinstance(image, Image.Image)
        with claimed(self.folder / f"{self._number():03}{slug(prompt) or '-image'}.png", 1) as (path,):
            save(image, path, metadata)
        self.images.append(DrawnImage(path, image, dict(metadata)))
        for note in result.warnings:
            self.tell(f"Warning: {note}")
        self.tell(f"{path}  seed {metadata['seed']}")

    def _number(self) -> int:
        """Return the number after the highest in the folder."""
        found = (_NUMBERED.match(path.name) for path in self.folder.iterdir())
        return max((int(one[1]) for one in found if one), default=0) + 1

    def _next_seed(self) -> int:
        return secrets.randbelow(2**32) if self.seed is None else self.seed

    def _last(self) -> DrawnImage:
        if not self.images:
            raise SettingsError("Nothing has been drawn: type a prompt first.")
        return self.images[-1]

    def _again(self, rest: str) -> None:
        _no_more(rest, "/again")
        last = self._last()
        prompt, edited = str(last.settings["prompt"]), "strength" in last.settings
        if edited:
            raise SettingsError("The last image is an edit: /undo it, then /edit again.")
        if self.seed is not None:  # the same would be the same image
            self.seed = (int(last.settings["seed"]) + 1) % (MAX_SEED + 1)
        self._draw(prompt, self.pipe.stream(prompt, self.negative, seed=self._next_seed(), **self.settings))

    def _edit(self, prompt: str) -> None:
        if not prompt:
            raise SettingsError("/edit needs a prompt: /edit a green apple.")
        image, task = self._last().image, ImageToImage(self.pipe)
        words = {name: value for name, value in self.settings.items() if name not in ("width", "height")}
        words["strength"] = chosen_strength(self.pipe.spec, self._wanted_strength(), words.get("steps"))
        self._draw(prompt, task.stream(image, prompt, self.negative, seed=self._next_seed(), **words))

    def _wanted_strength(self) -> Any:
        return "auto" if self.strength is None else self.strength

    def _undo(self, rest: str) -> None:
        _no_more(rest, "/undo")
        gone = self._last()
        self.images.pop()
        back = f"the last image is {self.images[-1].path}" if self.images else "no image is left"
        self.tell(f"{gone.path} is undone, its file stays; {back}.")

    def _set_seed(self, rest: str) -> None:
        if rest in ("", "random"):
            self.seed = None
        else:
            self.seed = self._checked("seed", rest, int)
        self._told("seed", self.seed, "random")

    def _set_size(self, rest: str) -> None:
        width, height = parse_size(rest) if rest else (None, None)
        check_request(self.pipe.spec, "", width=width, height=height)
        self.settings |= {"width": width, "height": height}
        self._told("size", f"{width}x{height}" if rest else None, _OWN)

    def _set_steps(self, rest: str) -> None:
        self.settings["steps"] = self._checked("steps", rest, int) if rest else None
        self._told("steps", self.settings["steps"], _OWN)

    def _set_guidance(self, rest: str) -> None:
        self.settings["guidance"] = self._checked("guidance", rest, float) if rest else None
        self._told("guidance", self.settings["guidance"], _OWN)

    def _set_strength(self, rest: str) -> None:
        self.strength = checked_strength(_number("strength", rest, float)) if rest else None
        self._told("strength of /edit", self.strength, "0.6")

    def _set_negative(self, rest: str) -> None:
        check_request(self.pipe.spec, "", rest)
        self.negative = rest
        self._told("negative", rest or None, "none")

    def _checked(self, name: str, text: str, kind: type) -> Any:
        """Return a number that a drawing may have. Raises SettingsError."""
        value = _number(name, text, kind)
        check_request(self.pipe.spec, "", **{name: value})
        return value

    def _told(self, name: str, value: object, usual: str) -> None:
        self.tell(f"{name}: {usual if value is None else value}")

    def _help(self, rest: str) -> None:
        _no_more(rest, "/help")
        for name, (told, _) in COMMANDS.items():
            words, _, what = told.partition(": ")
            self.tell(f"  /{f'{name} {words}'.strip():<18} {what}")
        self.tell("  /quit              end; so does Ctrl-D")


def _number(name: str, text: str, kind: type) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise SettingsError(f"/{name} {text}: write a number, or nothing for the usual.") from None


def _no_more(rest: str, command: str) -> None:
    if rest:
        raise SettingsError(f"{command} takes nothing more: {rest[:40]!r} is left over.")


# Name -> what it takes and does, as /help tells it; what does it.
COMMANDS: dict[str, tuple[str, Callable[[Session, str], None]]] = {
    "again": (": draw the last prompt from another seed", Session._again),
    "edit": ("PROMPT: redraw the last image by a prompt", Session._edit),
    "undo": (": go back to the image before", Session._undo),
    "seed": ("N: draw from this seed; nothing: from random ones", Session._set_seed),
    "size": ("WxH: draw in this size; nothing: in the model's own", Session._set_size),
    "steps": ("N: take so many steps; nothing: as the model does", Session._set_steps),
    "guidance": ("X: follow the prompt so closely; nothing: as the model does", Session._set_guidance),
    "negative": ("TEXT: what not to draw; nothing: no such thing", Session._set_negative),
    "strength": ("S: how much /edit forgets, from 0 to 1; nothing: 0.6", Session._set_strength),
    "help": (": list the commands", Session._help),
}


def completions(text: str, names: Sequence[str] = (*COMMANDS, "quit")) -> list[str]:
    """Return the commands that begin with what was typed.

    >>> completions("/s")
    ['/seed ', '/size ', '/steps ', '/strength ']
    """
    return [f"/{name} " for name in names if f"/{name}".startswith(text)] if text.startswith("/") else []
