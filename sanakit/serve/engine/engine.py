"""The engine of a server: a bounded queue, and one thread that computes step by step for all requests.

Requests join a running batch between two steps and leave it when they are done (`group.py`). An image drawn
in a batch equals the image drawn alone, up to rounding. Callers receive events and futures; there is no HTTP
here. A request that makes the model fail, or gives NaN, fails alone.

    engine = Engine(["pocket"])
    engine.start()
    ticket = engine.submit(engine.check(None, "a red apple"))
    ticket.result().images[0]
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Unpack

from PIL.Image import Image

from sanakit.adapters.pipeline import StrPath
from sanakit.errors import (
    BusyError,
    ClosedError,
    DeadlineError,
    MemoryLimitError,
    SettingsError,
    StoppedError,
)
from sanakit.models.controlnet import ControlledSana
from sanakit.pipelines.denoise import Sample, begin
from sanakit.pipelines.image_to_image import chosen_strength
from sanakit.pipelines.request import ModelSpec, Request, SampleSettings, check_request
from sanakit.pipelines.source import make_source
from sanakit.pipelines.text_to_image import TextToImage
from sanakit.serve.engine.decoding import DecodingTurns
from sanakit.serve.engine.features import PromptFeatures
from sanakit.serve.engine.group import Group, GroupKey, RequestImage, Turns, source_pixels
from sanakit.serve.engine.residence import CurrentPart, ModelPool, Resident
from sanakit.serve.engine.steering import NamedControl, chosen, prepared
from sanakit.serve.engine.ticket import Event, Failed, Finished, Stepped, Ticket
from sanakit.serve.engine.worker import Worker
from sanakit.text.prompt_weights import weigh
from sanakit.wording import counted

log = logging.getLogger(__name__)

SOURCE_PIXELS = 2**27  # of all images that requests start from or are steered by: half a gigabyte
_STOPPED = "The server stopped before the image was finished: send the request again."


class Engine(Worker):
    """Draws the images of many requests at once.

    models: the models it may use, see `ModelPool`; the first is the default, loaded at the start.
    max_batch: images that take a step together. max_waiting: images that may wait. adapters, controls: LoRA
    files and ControlNets by name, of which a request chooses.
    prompt_filter, image_filter: called with prompts or images, and the ticket's id; raise RefusedError.
    Raises the errors of a model's settings.
    """

    def __init__(
        self,
        models: Sequence[str],
        *,
        device: str = "auto",
        dtype: str = "auto",
        memory: str | int = "auto",
        max_batch: int = 16,
        max_waiting: int = 64,
        threads: int | None = None,
        adapters: Mapping[str, StrPath] | None = None,
        controls: Mapping[str, StrPath] | None = None,
        prompt_filter: Callable[[list[str], str], object] | None = None,
        image_filter: Callable[[list[Image], str], object] | None = None,
    ) -> None:
        super().__init__("sanakit-engine", threads)
        offered = {"adapters": adapters, "controls": controls}
        self.residence = ModelPool(models, device=device, dtype=dtype, memory=memory, **offered)
        self.max_batch, self.max_waiting = max_batch, max_waiting
        self.prompt_filter, self.image_filter = prompt_filter, image_filter
        self.decoding = DecodingTurns()  # of images that callers send; whoever decodes one takes a turn
        self._turns = Turns()
        self._features = PromptFeatures()
        self._counts: Counter[str] = Counter()
        self._current = CurrentPart()

    @property
    def specs(self) -> dict[str, ModelSpec]:
        """The facts about each model, by name."""
        return self.residence.specs

    def start(self) -> None:
        """Load the default model and start to compute. MemoryLimitError: one image is too much already."""
        first = [self.residence.get(name).plan(self.check(name, "an image")) for name in [*self.specs][:1]]
        if self.residence.limit is not None and self.residence.device.type == "cpu":
            self.decoding.limit = max(0, self.residence.limit - sum(plan.peak for plan in first))
        self._thread.start()

    def check(
        self,
        model: str | None,
        prompt: str,
        negative_prompt: str = "",
        *,
        image: Image | None = None,
        mask: Image | None = None,
        strength: float | None = None,
        width: int | None = None,
        height: int | None = None,
        adapters: Mapping[str, float] | None = None,
        control: Sequence[NamedControl] | None = None,
        **settings: Unpack[SampleSettings],
    ) -> Request:
        """Check a request, in the caller's thread. image, mask, strength: as for the tasks in `pipelines/`.

        adapters: name -> weight, of the engine's; the others are off. control: what steers it. Raises
        ModelNotFoundError, SettingsError or SizeError.
        """
        spec = self.residence.adapted(model, adapters or {})
        steering, spec = chosen(spec, self.residence.controls[spec.settings.name], control or ())
        if image is None:
            if mask is not None or strength is not None:
                raise SettingsError("A mask or a strength needs an image to draw from.")
            request = check_request(
                spec, prompt, negative_prompt, width=width, height=height, control=steering, **settings
            )
            return prepared(request)
        if strength is None:
            strength = chosen_strength(spec, steps=settings.get("steps")) if mask is None else 1.0
        source = make_source(spec, image, strength, mask=mask, width=width, height=height)
        request = check_request(spec, prompt, negative_prompt, source=source, control=steering, **settings)
        return prepared(request)

    def submit(
        self,
        request: Request,
        on_event: Callable[[Event], None] | None = None,
        *,
        previews: bool = False,
        deadline: float | None = None,
        name: str | None = None,
        whole: bool = True,
    ) -> Ticket:
        """Accept a request. on_event: called in the computing thread; must be quick.

        previews: with every step. deadline: seconds from now, after which it fails with DeadlineError. name:
        the ticket's id. whole: whether the prompt is; else no note tells what the model does not know. Raises
        BusyError if the queue is full, ClosedError if the engine is stopping.
        """
        ticket = Ticket(request, self.wake, on_event, previews, deadline, name, whole)
        key = GroupKey.of(request)
        with self._condition:
            self._check_open()
            waiting = sum(len(group.waiting) for group in self._turns.groups.values())
            if waiting and waiting + request.num_images > self.max_waiting:
                self._counts["refused"] += 1
                raise BusyError(
                    f"{counted(waiting, 'image is', 'images are')} already waiting: try again later."
                )
            pixels = source_pixels(request)
            if pixels and waiting and pixels + self._turns.source_pixels() > SOURCE_PIXELS:
                self._counts["refused"] += 1
                raise BusyError("Too many large images wait to be edited or to steer: try again later.")
            images = (RequestImage(ticket, number) for number in range(request.num_images))
            self._turns.add(key, key.capacity(self.residence.device.type, self.max_batch), images)
            self._condition.notify()
        return ticket

    def stats(self) -> dict[str, Any]:
        """Return its state: waiting, running (images), loaded (models), and counts since the start.

        Counts: steps (of batches), samples (images in those steps), `pictures` (finished images), failed,
        stopped, refused, failed_steps (of several images, each of which then took it alone).
        """
        with self._condition:
            groups = list(self._turns.groups.values())
            waiting = sum(len(group.waiting) for group in groups)
            running = sum(len(group.running) + len(group.ready) for group in groups)
            names = ("steps", "samples", "pictures", "failed", "stopped", "refused", "failed_steps")
            counts = {name: self._counts[name] for name in names}
        return {"waiting": waiting, "running": running, "loaded": self.residence.loaded, **counts}

    # The methods below run in the computing thread.

    def _run(self) -> None:
        try:
            while order := self._wait():
                self._work(order)
        except Exception:
            log.exception("the engine failed and draws nothing any more")
        with self._condition:  # however it ended, nobody waits for a thread that is gone
            self._closing = self._abandoning = True
            left = self._tickets()
        for ticket in left:
            self._fail(ticket, ClosedError(_STOPPED))
        self._current.leave()

    def _wait(self) -> list[Group]:
        """Return the groups that have work, in the order of their turns; none when the engine is to end."""
        while True:
            with self._condition:
                gone = [(ticket, error) for ticket in self._tickets() if (error := self._gone(ticket))]
                if not gone:
                    order = self._turns.order()
                    if order or self._closing:
                        return order
                    self._condition.wait()
            for ticket, error in gone:  # without the lock: listeners are told
                self._fail(ticket, error)

    def _work(self, order: list[Group]) -> None:
        """Advance the group whose turn it is."""
        busy = set[Resident]().union(*(group.key.residents for group in order if group.begun))
        group, admit = order[0], True
        if not self.residence.fits(group.key.residents, busy):
            # Its model has to wait until those that are drawing are done: they begin nothing new.
            group, admit = next(group for group in order if group.begun), False
        started = time.perf_counter()
        try:
            self._turn(group, admit, busy)
        except Exception as error:  # loading a model, say; whatever it is, the others go on
            log.exception("the work on %s failed", group.key)
            with self._condition:
                tickets = group.tickets()
            for ticket in tickets:
                self._fail(ticket, error)
        group.spent += time.perf_counter() - started

    def _tickets(self) -> set[Ticket]:
        return set().union(*(group.tickets() for group in self._turns.groups.values()))

    def _gone(self, ticket: Ticket) -> Exception | None:
        if self._abandoning:
            return ClosedError(_STOPPED)
        if ticket.stopped:
            return StoppedError("The request was cancelled.")
        if ticket.expires is not None and time.monotonic() > ticket.expires:
            return DeadlineError("The image was not finished before its deadline.")
        return None

    def _turn(self, group: Group, admit: bool, busy: set[Resident]) -> None:
        """Decode one image that is ready; otherwise let waiting ones join, if admitted, and take one step.

        busy: models and ControlNets that are drawing.
        """
        if not self.residence.holds(group.key.residents):
            self._current.leave()  # to stay would hold a part of a model that has to make room
        pipe = self.residence.get(group.key.model, busy, group.key.adapters, group.key.nets)
        if group.ready and (self.residence.stays(group.key.model) or not group.running):
            self._finish(pipe, group, group.ready.popleft())
            return
        while admit and group.waiting and len(group.running) < group.capacity:
            self._begin(pipe, group)
        if group.running:
            self._step(pipe, group)

    def _begin(self, pipe: TextToImage, group: Group) -> None:
        """Let the image that has waited longest join; with the first of a request comes its text."""
        with self._condition:
            image = group.waiting.popleft()
        ticket = image.ticket
        try:
            if not ticket.samples:
                ticket.begun = time.monotonic()
                if self.prompt_filter is not None:
                    self.prompt_filter(ticket.request.prompts, ticket.id)
                ticket.samples = self._samples(pipe, ticket)
        except Exception as error:
            self._fail(ticket, error)
            return
        image.sample = ticket.samples[image.number]
        with self._condition:
            group.run(image)

    def _samples(self, pipe: TextToImage, ticket: Ticket) -> list[Sample]:
        request = ticket.request
        plan = pipe.plan(request, samples=1)
        enter = partial(self._current.enter, pipe, plan, pipe.text_encoder.model)
        features, told = self._features.of(pipe, request, plan, enter, whole=ticket.whole)
        ticket.notes += told
        weights = weigh(pipe.text_encoder, request.texts, request.nulls, ticket.notes, request.dialect)
        known, model = None, pipe.transformer
        if request.conditions.encoded:
            self._current.enter(pipe, plan, pipe.autoencoder)
            known, model = pipe.encode_source(request.conditions), pipe.steered(request.conditions)
        ticket.steered = model if isinstance(model, ControlledSana) else None
        self._current.enter(pipe, plan, pipe.transformer, *pipe.controlnets)
        return begin(model, request, features, known, weights=weights)

    def _step(self, pipe: TextToImage, group: Group) -> None:
        """Take one step of all images that run, as many at a time as fit in the memory."""
        left = deque(group.running)
        while left:
            images = [left.popleft() for _ in range(min(len(left), group.capacity))]
            images = [image for image in images if not image.ticket.done]
            try:
                self._step_together(pipe, group, images)
            except Exception as error:
                if len(images) == 1:
                    self._fail(images[0].ticket, error)
                elif isinstance(error, MemoryLimitError):
                    with self._condition:
                        self._turns.limit(group, len(images) // 2)
                    log.warning("%s From now on at most %d at once.", error, group.capacity)
                    left.extendleft(reversed(images))
                else:
                    self._step_each(pipe, group, images)
        for image in list(group.running):
            state = image.sample.state  # pyright: ignore[reportOptionalMemberAccess] - it runs
            try:
                pipe.check_finite(
                    state.sample, f"Step {state.index} of {state.total}", pipe.transformer.dtype
                )
            except Exception as error:
                self._fail(image.ticket, error)
                continue
            self._progress(pipe, image)
        with self._condition:
            group.settle()

    def _step_together(self, pipe: TextToImage, group: Group, images: list[RequestImage]) -> None:
        if images:
            plan = pipe.plan(images[0].ticket.request, samples=len(images))
            self._current.enter(pipe, plan, pipe.transformer, *pipe.controlnets)
            group.batch(pipe.transformer, images).step(plan.after_block)
            self._counts.update(steps=1, samples=len(images))

    def _step_each(self, pipe: TextToImage, group: Group, images: list[RequestImage]) -> None:
        """After a step that failed: each alone, so that only those fail that cannot be helped."""
        self._counts["failed_steps"] += 1
        if not group.told:
            log.exception("a step of %d images failed; each of them takes it alone", len(images))
        group.told, failed = True, False
        for image in images:
            try:
                self._step_together(pipe, group, [image] * (not image.ticket.done))
            except Exception as error:
                failed = True
                self._fail(image.ticket, error)
        if not failed:  # it is the crowd that fails, and would at every step
            group.shrink(max(1, len(images) // 2))

    def _progress(self, pipe: TextToImage, image: RequestImage) -> None:
        ticket, sample = image.ticket, image.sample
        assert sample is not None
        preview = pipe.preview(sample.clean[0]) if ticket.previews and not sample.state.done else None
        ticket.tell(Stepped(ticket, image.number, sample.state.index, sample.state.total, preview))

    def _finish(self, pipe: TextToImage, group: Group, image: RequestImage) -> None:
        ticket, sample = image.ticket, image.sample
        assert sample is not None
        try:
            self._current.enter(pipe, pipe.plan(ticket.request, samples=1), pipe.autoencoder)
            images: Any = pipe.images(sample.state.sample, ticket.request)
            if self.image_filter is not None:
                self.image_filter(images, ticket.id)
        except Exception as error:
            self._fail(ticket, error)
            return
        self._counts["pictures"] += 1
        if result := ticket.add(image.number, images[0]):
            ticket.tell(Finished(ticket, result))

    def _fail(self, ticket: Ticket, error: Exception) -> None:
        with self._condition:
            for group in self._turns.groups.values():
                group.drop(ticket)
        if not ticket.done:
            self._counts["stopped" if isinstance(error, StoppedError) else "failed"] += 1
            ticket.tell(Failed(ticket, error))
