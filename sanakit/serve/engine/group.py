"""Groups of images that can take steps together, and the order of their turns.

A group holds the images of one model with the same adapters and ControlNets, one latent size and one kind of
guidance:
waiting ones, running ones (one step of all of them at a time), and denoised ones that wait for the decoder.
Groups share the machine by used seconds: the group with the least goes next, so large images do not block
small ones.
Source: continuous batching (Orca, OSDI 2022); start-time fair queueing (Goyal et al., SIGCOMM 1996).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from sanakit.models.contracts import LatentShape, VelocityModel
from sanakit.models.controlnet import ControlledSana
from sanakit.pipelines.denoise import Batch, Sample
from sanakit.pipelines.request import Request
from sanakit.serve.engine.residence import Resident
from sanakit.serve.engine.steering import net_names
from sanakit.serve.engine.ticket import Ticket

CREDIT = 0.5  # seconds
# Latents in one step, all images together: more rows than this make a matrix product no faster.
STEP_TOKENS, STEP_TOKENS_ELSEWHERE = {"cpu": 1024}, 32768


class GroupKey(NamedTuple):
    """The settings that images must share to take steps together."""

    model: str
    cells: LatentShape
    guided: bool
    blocks: tuple[int, ...] = ()  # that are perturbed
    adapters: str = ""  # the record of those in use, see `adapters/attach.py`
    nets: tuple[str, ...] = ()  # names of the ControlNets of its control images, in turn

    @property
    def residents(self) -> set[Resident]:
        """The model and the ControlNets, all of which its steps need in memory."""
        return {self.model, *((self.model, net) for net in self.nets)}

    @classmethod
    def of(cls, request: Request) -> GroupKey:
        """Return the key of a request's images."""
        adapters = str(request.metadata[0].get("adapters", ""))
        nets = net_names(request.nets)
        return cls(request.model, request.cells, request.guided, request.kind.blocks, adapters, nets)

    def capacity(self, device: str, most: int) -> int:
        """Return how many images step together on a device of this type, `most` at the most."""
        tokens = STEP_TOKENS.get(device, STEP_TOKENS_ELSEWHERE)
        return max(1, min(most, tokens // self.cells.tokens))


@dataclass(slots=True, eq=False)
class RequestImage:
    """One image of a request."""

    ticket: Ticket
    number: int  # within its request
    sample: Sample | None = None  # once it has begun


@dataclass(slots=True, eq=False)
class Group:
    """Images of one key. capacity: how many step at a time. spent: seconds that the group has used."""

    key: GroupKey
    capacity: int
    spent: float = 0.0
    told: bool = False  # whether a step that failed was logged
    waiting: deque[RequestImage] = field(default_factory=deque)
    running: list[RequestImage] = field(default_factory=list)
    ready: deque[RequestImage] = field(default_factory=deque)
    batches: dict[tuple[RequestImage, ...], Batch] = field(default_factory=dict)  # of those that run

    @property
    def begun(self) -> bool:
        """Whether images of the group are being drawn."""
        return bool(self.running or self.ready)

    @property
    def empty(self) -> bool:
        """Whether the group has no work."""
        return not (self.waiting or self.running or self.ready)

    def run(self, image: RequestImage) -> None:
        """Have an image, which has its sample, take part from the next step on."""
        (self.ready if image.sample is None or image.sample.state.done else self.running).append(image)
        self.batches.clear()

    def batch(self, transformer: VelocityModel, images: Sequence[RequestImage]) -> Batch:
        """Return the batch of some of the running images; it is kept until other ones run."""
        key = tuple(images)
        if key not in self.batches:
            if steered := [image.ticket.steered for image in images if image.ticket.steered]:
                transformer = ControlledSana.join(steered)
            self.batches[key] = Batch(transformer, [p.sample for p in images if p.sample])
        return self.batches[key]

    def shrink(self, capacity: int) -> None:
        """Have fewer images step at a time, and let go of the larger batches."""
        self.capacity = capacity
        self.batches.clear()

    def settle(self) -> None:
        """Move the images that are denoised from those that run to those that are ready."""
        done = [image for image in self.running if image.sample and image.sample.state.done]
        if done:
            self.running = [image for image in self.running if image not in done]
            self.ready.extend(done)
            self.batches.clear()

    def drop(self, ticket: Ticket) -> None:
        """Forget the images of a request."""
        self.waiting = deque(image for image in self.waiting if image.ticket is not ticket)
        self.ready = deque(image for image in self.ready if image.ticket is not ticket)
        if any(image.ticket is ticket for image in self.running):
            self.running = [image for image in self.running if image.ticket is not ticket]
            self.batches.clear()

    def tickets(self) -> set[Ticket]:
        """Return the requests that have images in it."""
        return {image.ticket for image in (*self.waiting, *self.running, *self.ready)}


class Turns:
    """The groups and the order of their turns: start-time fair queueing with a credit. Its owner holds a
    lock.

    A group that begins after a pause has a credit, so that a small request finishes before turns are shared;
    a group's time before the pause still counts, so that pauses earn only the credit.
    """

    def __init__(self) -> None:
        self.groups: dict[GroupKey, Group] = {}
        self._limits: dict[GroupKey, int] = {}  # how many fit in the memory, where that was found out
        self._clock = 0.0  # seconds that the group whose turn it was last had had
        self._past: dict[
            GroupKey, float
        ] = {}  # of groups that pause, where it is more than the credit leaves them

    def add(self, key: GroupKey, capacity: int, images: Iterable[RequestImage]) -> None:
        """Have images wait in the group of their key."""
        if key not in self.groups:
            spent = max(self._past.pop(key, 0.0), self._clock - CREDIT)
            self.groups[key] = Group(key, min(capacity, self._limits.get(key, capacity)), spent)
        self.groups[key].waiting.extend(images)

    def limit(self, group: Group, capacity: int) -> None:
        """Let a group, and later ones of its key, have fewer images in a step from now on."""
        self._limits[group.key] = capacity
        group.shrink(capacity)

    def source_pixels(self) -> int:
        """Return the pixels of all images that requests keep."""
        tickets: set[Ticket] = set().union(*(group.tickets() for group in self.groups.values()))
        return sum(source_pixels(ticket.request) for ticket in tickets)

    def order(self) -> list[Group]:
        """Return the groups that have work, the one whose turn it is first."""
        for key in [key for key, group in self.groups.items() if group.empty]:
            self._past[key] = self.groups.pop(key).spent
        order = sorted(self.groups.values(), key=lambda group: group.spent)
        if order:
            self._clock = max(self._clock, order[0].spent)
        self._past = {key: spent for key, spent in self._past.items() if spent > self._clock - CREDIT}
        return order


def source_pixels(request: Request) -> int:
    """Return the pixels of the images that a request keeps, to start from and to be steered by."""
    conditions = request.conditions
    kept = (conditions.image is not None) + len(conditions.control)
    return kept * request.size[0] * request.size[1]
