"""Every exception that sanakit raises on purpose.

A message is for the person who ran the command. It says what is wrong, what is allowed and what to do.
The command line prints it and exits with code 2; anything else that escapes is our own mistake.

SanaError
├── SettingsError        a setting out of range: steps, guidance, seed, solver, number of images, prompt
│   ├── SizeError        a width or height that the model cannot draw
│   └── ArgumentError    an argument that does not exist; also TypeError
├── ModelNotFoundError   a name that is not a catalog entry, folder, file or Hub repository
├── WeightsError         a file or folder whose content does not fit: empty, truncated, foreign, keys missing
├── PrecisionError       a dtype that this model or device must not compute in
├── NumericsError        NaN or infinity in latents or image
├── MemoryLimitError     the work does not fit in the memory that is there or was allowed
├── OutputError          the result cannot be written where it was requested
├── StorageError         the server's database or image store does not answer, or is damaged
├── DataError            a data set that cannot be read or built
├── BusyError            a server's queue is full
├── ClosedError          a server is stopping and takes no more work
├── DeadlineError        the work was not done by the time it was wanted
├── PeerError            another process of the same work ended or does not answer
├── StoppedError         the work was cancelled by the one who wanted it
├── RefusedError         a safety filter said no to a prompt or an image
└── MissingExtraError    an optional dependency is not installed
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class SanaError(Exception):
    """Base of all errors that a user can cause and fix."""


class SettingsError(SanaError, ValueError):
    """A setting lies outside its range.

    setting: the argument's name, such as "steps", where one argument alone is wrong; else "".
    """

    def __init__(self, message: str = "", *, setting: str = "") -> None:
        super().__init__(message)
        self.setting = setting


@contextmanager
def of_setting(name: str) -> Iterator[None]:
    """Have the SettingsErrors of a block, or of a function that it decorates, name this argument.

    The outermost block has the last word: its caller knows from where the value came.
    """
    try:
        yield
    except SettingsError as error:
        error.setting = name
        raise


class SizeError(SettingsError):
    """This model cannot draw the requested width or height."""


class ArgumentError(SettingsError, TypeError):
    """An argument that does not exist; the message names ours where it is another library's."""


class ModelNotFoundError(SanaError, LookupError):
    """A model name matches nothing in the catalog, the file system or the Hub."""


class WeightsError(SanaError):
    """A checkpoint is empty, truncated, foreign, or its keys do not fit the model."""


class PrecisionError(SanaError):
    """The requested dtype gives wrong images with this model or on this device."""


class NumericsError(SanaError, ArithmeticError):
    """NaN or infinity appeared in latents or image."""


class MemoryLimitError(SanaError, MemoryError):
    """The work does not fit in the available or allowed memory.

    latents: the denoised latents if decoding failed (a tensor B C h w), else None.
    """

    def __init__(self, message: str, latents: Any = None) -> None:
        super().__init__(message)
        self.latents = latents


class OutputError(SanaError, OSError):
    """The result cannot be written to the requested place."""


class StorageError(SanaError):
    """The server's database or image store does not answer, or is damaged."""


class DataError(SanaError):
    """A data set cannot be read or built."""


class BusyError(SanaError):
    """A server's queue is full; try again later."""


class ClosedError(SanaError):
    """A server is stopping and accepts no more work."""


class DeadlineError(SanaError, TimeoutError):
    """The work was not finished before its deadline."""


class PeerError(SanaError):
    """Another process of the same work ended or does not answer."""


class StoppedError(SanaError):
    """The caller cancelled the work."""


class RefusedError(SanaError):
    """A safety filter refused a prompt or an image; `category` is the reason."""

    def __init__(self, message: str, category: str = "") -> None:
        super().__init__(message)
        self.category = category


class MissingExtraError(SanaError, ImportError):
    """An optional dependency is missing; the message names the extra that brings it.

    without: a sentence on what works without it.
    """

    def __init__(self, package: str, extra: str, without: str = "") -> None:
        super().__init__(
            f"This needs the package {package!r}: pip install 'sanakit[{extra}]'. {without}".strip()
        )
        self.package, self.extra, self.without = package, extra, without

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle what it was made of: exceptions travel between processes, and the message is not one."""
        return type(self), (self.package, self.extra, self.without)
