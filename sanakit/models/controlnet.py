"""ControlNet for SANA: copies of the first blocks steer the model by an image (arXiv:2302.05543, 2410.10629).

A control image passes the autoencoder and the patch embedding, as k. The copies C compute their own tokens c
from it, and projections P, zero at the start of training, add them to the tokens h of the model's blocks B.
With E the embedding of the noisy latents and n copies:

    native      h = B0(E(x)), c = C0(h + P_in E(k)); then for i = 1 .. n: h = Bi(h + P(i-1) c), c = Ci(c)
    diffusers   c = C0(E'(x) + P_in E'(k)); then for i = 1 .. n: h = Bi(h) + P(i-1) c, c = Ci(c)

The published weights were trained in the native order, whose embedders are the model's own. diffusers' port
has embedders E' of its own for latents, time and caption. The orders differ in what the first copy sees, and
by one block in where its result goes; a model without copies is the same in both.
Names equal the official .pth: `controlnet.N.copied_block`, `.before_proj` (of the first), `.after_proj`.

Shapes: B samples, C latent channels, H W latent grid, N tokens, D width, L text tokens, E text width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast

import torch
from torch import Tensor, nn

from sanakit.errors import SettingsError
from sanakit.models.layers import Linear
from sanakit.models.sana import Behind, Embedders, Grid, Sana, SanaBlock, SanaConfig, TextContext

Order = Literal["native", "diffusers"]
COPIES = 7  # of all published ControlNets
ALWAYS = (1.0, 0.0)  # the times of a control that acts from noise to image
_ROUNDING = 1e-6  # of a time in float32
# Common to a ControlNet and the model that it steers.
_SHARED = ("width", "head_dim", "latent_channels", "text_width", "guidance_embed")

# A copy's number, its tokens, the modulation, the shown image for the first -> tokens behind it, its addend.
Run = Callable[[int, Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]


class ControlBlock(nn.Module):
    """A copy of a block with its projections: `before_proj` of what is shown, `after_proj` of the result."""

    def __init__(self, config: SanaConfig, *, first: bool) -> None:
        super().__init__()
        self.copied_block = SanaBlock(config)
        if first:
            self.before_proj = _silent(Linear(config.width, config.width))
        self.after_proj = _silent(Linear(config.width, config.width))

    def forward(
        self,
        x: Tensor,
        modulation: Tensor,
        caption: Tensor,
        mask: Tensor | None,
        grid: Grid,
        shown: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the tokens behind the copy and what they add, B N D each, for training.

        shown: 1 or B, N D, the control image's tokens; of the first copy. Others: as for `SanaBlock.forward`.
        """
        if shown is not None:
            x = x + self.before_proj(shown)
        x = self.copied_block(x, modulation, caption, mask, grid)
        return x, self.after_proj(x)


class ControlNet(nn.Module):
    """The copies and projections that one kind of control image was trained with.

    config: of the model that it steers, with as many blocks as there are copies. order: see the module's
    text; "diffusers" has embedders of its own. Projections are zero, so that it changes nothing yet.
    """

    def __init__(self, config: SanaConfig, order: Order = "native") -> None:
        super().__init__()
        self.config = config
        self.order: Order = order
        self.label = ""  # "name@hash" of the file that it was read from, which images record
        self.own = Embedders(config) if order == "diffusers" else None
        blocks = nn.ModuleList(ControlBlock(config, first=number == 0) for number in range(config.depth))
        self.controlnet = cast(Sequence[ControlBlock], blocks)

    @classmethod
    def of(cls, base: Sana, copies: int = COPIES, order: Order = "native") -> ControlNet:
        """Return one to train: copies of the model's first blocks, and projections of zeros.

        copies: from 1 to one less than the model has blocks. Raises SettingsError.
        """
        if base.config.depth < 2:
            raise SettingsError("A model of a single block cannot be steered: use one of two blocks or more.")
        if not 1 <= copies < base.config.depth:
            raise SettingsError(
                f"copies = {copies}, but a model of {base.config.depth} blocks can be steered by 1 to "
                f"{base.config.depth - 1} copies of them."
            )
        net = cls(replace(base.config, depth=copies), order).to(next(base.parameters()).device)
        for block, original in zip(net.controlnet, base.blocks[:copies], strict=True):
            block.copied_block.load_state_dict(original.state_dict())
        if net.own is not None:
            known = base.state_dict()
            net.own.load_state_dict({name: known[name] for name in net.own.state_dict()})
        return net

    def check_fits(self, base: SanaConfig) -> None:
        """Raise SettingsError for a model that it cannot steer."""
        check_sizes(self.config, base)


def check_sizes(net: SanaConfig, base: SanaConfig) -> None:
    """Raise SettingsError if a ControlNet of the one config cannot steer a model of the other."""
    for name in _SHARED:
        mine, its = getattr(net, name), getattr(base, name)
        if mine != its:
            raise SettingsError(
                f"The ControlNet was made for a model with {name} {mine}, this one has {its}: use the "
                "ControlNet with the model it was trained on."
            )
    if net.depth >= base.depth:
        raise SettingsError(
            f"The ControlNet has {net.depth} copies, too many for a model of {base.depth} blocks: use the "
            "ControlNet with the model it was trained on."
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Control:
    """One control image of a request, with the ControlNet that it is for; or one image for each sample.

    latents: 1 or B, C H W: the encoded image, times the autoencoder's scaling factor. scale: finite, of all
    that is added; 0 leaves the model as it is. times: first and last t, in [0, 1], between which it acts.
    """

    net: ControlNet
    latents: Tensor
    scale: float = 1.0
    times: tuple[float, float] = ALWAYS
    each: tuple[Control, ...] = ()  # of a batch: those of its samples, whose own scales and times hold

    @classmethod
    def join(cls, controls: Sequence[Control]) -> Control:
        """Return the control of a batch. controls: one of each sample, all for the same ControlNet."""
        latents = torch.cat([control.latents for control in controls])
        return cls(net=controls[0].net, latents=latents, each=tuple(controls))

    def weight(self, t: float | Tensor) -> float | Tensor:
        """Return its scale where it acts at t, else 0: one number, or B of them if they differ."""
        if self.each:
            times = torch.as_tensor(t, dtype=torch.float32).reshape(-1).expand(len(self.each)).tolist()
            own = [float(one.weight(time)) for one, time in zip(self.each, times, strict=True)]
            return own[0] if min(own) == max(own) else torch.tensor(own, dtype=torch.float32)
        first, last = self.times
        if (first, last) == ALWAYS:
            return self.scale
        times = torch.as_tensor(t, dtype=torch.float32).reshape(-1)
        acts = (times <= first + _ROUNDING) & (times >= last - _ROUNDING)
        if bool(acts.all()) or not bool(acts.any()):
            return self.scale if bool(acts[0]) else 0.0
        return acts.float() * self.scale


class ControlledSana(nn.Module):
    """A model steered by control images: a `VelocityModel`, which can be trained as well.

    base: stays as it is. controls: whose additions are summed; where all have scale 0, the result is the
    base's, bit for bit. Raises SettingsError for a ControlNet that does not fit the base.
    """

    def __init__(self, base: Sana, controls: Sequence[Control]) -> None:
        super().__init__()
        self.base, self.config, self.controls = base, base.config, tuple(controls)
        nets = {id(control.net): control.net for control in controls}  # several images may share one
        self.nets = cast(Sequence[ControlNet], nn.ModuleList(nets.values()))
        for net in self.nets:
            net.check_fits(base.config)
        self._signals: list[Tensor] = []  # of the controls, as they enter the first copy: 1 or B, N D

    @classmethod
    def join(cls, models: Sequence[ControlledSana]) -> ControlledSana:
        """Return the model of a batch. models: of each sample, of one base, for the same ControlNets in turn.

        Contexts that any of them has prepared are contexts of the result.
        """
        if all(model is models[0] for model in models):
            return models[0]
        each = zip(*(model.controls for model in models), strict=True)
        return cls(models[0].base, [Control.join(controls) for controls in each])

    @property
    def blocks(self) -> Sequence[SanaBlock]:
        """The blocks of the base."""
        return self.base.blocks

    @property
    def dtype(self) -> torch.dtype:
        """The dtype it computes in."""
        return self.base.dtype

    @torch.no_grad()
    def prepare(
        self, features: Sequence[Tensor], counts: Sequence[int] | None = None, eps: float | None = None
    ) -> TextContext:
        """Return the base's context; behind its layers are those of the copies, net after net."""
        layers = self.base.prepare(features, counts, eps).layers
        counts = [1] * len(features) if counts is None else counts
        for net in self.nets:
            eps_of_net = eps if net.config.qk_norm else None
            captions = [self._embedders(net).caption(text[None]) for text in features]
            for block in net.controlnet:
                attention = block.copied_block.cross_attn
                each = zip(captions, counts, strict=True)
                layers.append([attention.prepare(caption, count, eps_of_net) for caption, count in each])
        return TextContext(layers)

    @torch.no_grad()
    def velocity(
        self,
        latents: Tensor,
        t: float | Tensor,
        context: TextContext,
        guidance: float | Tensor | None = None,
        *,
        after_block: Callable[[nn.Module], object] | None = None,
    ) -> Tensor:
        """Return the velocity for sampling; all as for `Sana.velocity`, the context from `prepare`."""
        depth = self.config.depth
        own, others, start = TextContext(context.layers[:depth]), {}, depth
        for net in self.nets:
            others[id(net)] = context.layers[start : start + net.config.depth]
            start += net.config.depth
        grid = (latents.shape[-2], latents.shape[-1])
        if not self._signals:
            self._signals = [
                control.net.controlnet[0].before_proj(self._shown(control)) for control in self.controls
            ]
        branches: list[_Branch] = []
        for control, signal in zip(self.controls, self._signals, strict=True):
            weight = control.weight(t)
            if not isinstance(weight, Tensor) and weight == 0:
                continue
            layers = others[id(control.net)]

            def run(number, x, modulation, shown, blocks=control.net.controlnet, layers=layers):
                block = blocks[number]
                x = x if shown is None else x + shown  # projected already: it is the same in every step
                x = block.copied_block.sample(x, modulation, layers[number], grid)
                added = block.after_proj(x)
                if after_block is not None:
                    after_block(block)
                return x, added

            first = self._first(control.net, latents, t, guidance)
            branches.append(_Branch(control.net, signal, weight, run, first))
        if not branches:
            return self.base.velocity(latents, t, own, guidance, after_block=after_block)
        # Of the class: a recorded graph of the whole step (`models/compiled.py`) knows no branches.
        return Sana.velocity(
            self.base, latents, t, own, guidance, after_block=after_block, behind=_together(branches)
        )

    def forward(
        self,
        latents: Tensor,
        t: Tensor,
        text: Tensor,
        mask: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> Tensor:
        """Return the velocity for training, with gradients; all as for `Sana.forward`."""
        grid = (latents.shape[-2], latents.shape[-1])
        branches: list[_Branch] = []
        for control in self.controls:
            weight = control.weight(t)
            if not isinstance(weight, Tensor) and weight == 0:
                continue
            caption = self._embedders(control.net).caption(text)

            def run(number, x, modulation, shown, blocks=control.net.controlnet, caption=caption):
                return blocks[number](x, modulation, caption, mask, grid, shown)

            first = self._first(control.net, latents, t, guidance)
            branches.append(_Branch(control.net, self._shown(control), weight, run, first))
        return self.base(latents, t, text, mask, guidance, behind=_together(branches))

    def _embedders(self, net: ControlNet) -> Embedders:
        """Return what a net embeds with: its own, or the base's."""
        return self.base if net.own is None else net.own

    def _shown(self, control: Control) -> Tensor:
        """Return a control image as tokens: 1 or B, N D. Those of the native order have no positions."""
        net, device = control.net, next(self.base.x_embedder.parameters()).device
        latents = control.latents.to(device)
        return self.base.x_embedder(latents) if net.own is None else net.own.tokens(latents)

    def _first(
        self, net: ControlNet, latents: Tensor, t: float | Tensor, guidance: float | Tensor | None
    ) -> tuple[Tensor, Tensor] | None:
        """Return the tokens for the first copy and the modulation of all; None: both are the base's."""
        if net.own is None:
            return None
        times = torch.as_tensor(t, device=latents.device, dtype=torch.float32).reshape(-1)
        scales = None if guidance is None else torch.as_tensor(guidance).to(times).reshape(-1)
        x, _, modulation = net.own.embed(latents, times, scales)
        return x, modulation


class _Branch:
    """One ControlNet's way along the blocks of one step.

    shown: its image, for the first copy, as `run` takes it. first: as `ControlledSana._first` returns it.
    """

    def __init__(
        self,
        net: ControlNet,
        shown: Tensor,
        weight: float | Tensor,
        run: Run,
        first: tuple[Tensor, Tensor] | None,
    ) -> None:
        self._copies, self._shown, self._weight, self._run = net.config.depth, shown, weight, run
        self._first = first
        self._tokens = shown  # those behind the last copy that has run

    def __call__(self, number: int, x: Tensor, modulation: Tensor) -> Tensor | None:
        """Return what is added to the tokens behind a block (n B N D); None: nothing."""
        copy = number if self._first is None else number - 1
        if not 0 <= copy < self._copies:
            return None
        start = x
        if self._first is not None:
            start, modulation = self._first
            modulation = _repeated(modulation, x)
        shown = _repeated(self._shown, start) if copy == 0 else None
        tokens = start if copy == 0 else self._tokens
        self._tokens, added = self._run(copy, tokens, modulation, shown)
        if isinstance(self._weight, Tensor):
            return _repeated(self._weight.to(x).reshape(-1, 1, 1), x) * added
        return self._weight * added


def _together(branches: Sequence[_Branch]) -> Behind:
    """Return the function that adds what all branches add. All see the model's own tokens, not each other."""

    def behind(number: int, x: Tensor, modulation: Tensor) -> Tensor:
        added = [branch(number, x, modulation) for branch in branches]
        return sum((one for one in added if one is not None), x)

    return behind


def _repeated(values: Tensor, x: Tensor) -> Tensor:
    """Repeat a row for each sample, as often as x stands for them: for itself and its prompts."""
    return values if len(values) == 1 else values.repeat(len(x) // len(values), *[1] * (values.ndim - 1))


def _silent(layer: Linear) -> Linear:
    """Return the layer with weights and biases of zero."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
