"""Several processes draw one clip together: each has a part of its frames and rows (`models/video/split/`).

    pipe = TextToVideo.from_pretrained("./sana-video", device="cuda:0")  # every process its own device
    share_clips(pipe)                                                     # in a group of torch.distributed
    clip = pipe("a red fox runs", seed=7)                                 # the same call in all; all get it

All processes make the same calls with the same seeds, and have the same clips in the end. Previews, too, are
drawn by all of them or by none. Each encodes the text, and an image or a clip to start from.
"""

from __future__ import annotations

from sanakit.errors import SettingsError
from sanakit.models.video.sana_video import SanaVideo
from sanakit.models.video.split.decoder import SplitDecoder
from sanakit.models.video.split.exchange import Exchange, ProcessExchange
from sanakit.models.video.split.transformer import SplitVideo, divided
from sanakit.models.video.wan_vae import WanVAE
from sanakit.pipelines.video.request import ClipRequest
from sanakit.pipelines.video.text_to_video import TextToVideo


def share_clips(pipe: TextToVideo, exchange: Exchange | None = None) -> None:
    """Have a pipeline draw its part of clips.

    exchange: with the processes that draw the others; None: all of the group of torch.distributed that this
    process has joined. A decoder that cannot be cut decodes whole clips in every process, as that of LTX-2
    does. Raises SettingsError for a transformer that cannot be cut, a pipeline that is shared, or no group.
    """
    transformer, codec = pipe.transformer, pipe.autoencoder
    if isinstance(transformer, SplitVideo):
        raise SettingsError("This pipeline is shared by processes: call share_clips once.")
    if not isinstance(transformer, SanaVideo):
        raise SettingsError(
            f"{pipe.settings.shared.name} does not draw clips by linear attention alone, so that processes "
            "cannot share one: start one process."
        )
    exchange = ProcessExchange() if exchange is None else exchange
    pipe.transformer = SplitVideo(transformer, exchange)
    if isinstance(codec, WanVAE):
        pipe.autoencoder = SplitDecoder(codec, exchange)


def told_parts(pipe: TextToVideo, request: ClipRequest) -> str:
    """Return in a sentence how the processes of a shared pipeline share the clips of a request.

    Raises SizeError for a clip that so many cannot share.
    """
    transformer, codec = pipe.transformer, pipe.autoencoder
    assert isinstance(transformer, SplitVideo), "share_clips was called before"
    cells, config, world = request.sampling.cells, transformer.config, transformer.exchange.world
    rows, columns = cells.height // config.patch, cells.width // config.patch
    frames = cells.frames if request.chunks is None else min(cells.frames, request.chunks.length)
    division = divided(world, frames, rows, columns, causal=config.causal)
    decoded = isinstance(codec, SplitDecoder) and codec.shares(cells.height)
    return (
        f"{world} processes draw each clip, cut into {len(division.frames)} x {len(division.rows)} spans of "
        f"latent frames and of rows; each decodes {'its rows' if decoded else 'the whole clip'}."
    )
