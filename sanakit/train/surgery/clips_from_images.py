"""Start a transformer of clips from one of images, as SANA-Video was started from SANA-1.5.

Every weight that fits is taken over. The convolution over time begins as zeros, so that frames are mixed by
attention alone; a wider Mix-FFN gets new channels that nothing reads yet: both change no velocity at first.
Two things change it: self-attention of clips rotates queries and keys by their places, which that of images
does not, and heads of another width group the same channels otherwise. With the same heads and without the
rotation, each of several equal frames has the image's velocity exactly.
Source: SANA-Video (arXiv:2509.24695), its released conversion: 70 heads of 32 became 20 of 112, a Mix-FFN of
5,600 channels one of 6,720, embedder and output were new. There the new channels are zeros throughout, which
learn nothing; here only their outputs are.
"""

from __future__ import annotations

from torch import Tensor

from sanakit.errors import SettingsError
from sanakit.models.sana import Sana, SanaConfig
from sanakit.models.video.sana_video import SanaVideo, SanaVideoConfig

SAME = ("depth", "width", "text_width", "qk_norm", "time_scale", "guidance_embed", "position_interpolation")
LATENTS = ("x_embedder.", "final_layer.linear.")  # the layers whose sizes follow from latents and patches
OVER_TIME = "t_conv.weight"


def start_from_images(image: Sana, config: SanaVideoConfig) -> tuple[SanaVideo, list[str]]:
    """Return a transformer of clips with the weights of one of images, and sentences on what is new in it.

    config: its sizes; depth, width, text width, qk norm and time are the image's, the Mix-FFN as wide or
    wider. New weights are drawn by torch's global generator. The two share no memory.
    Raises SettingsError for sizes that the weights do not fit.
    """
    _check(image.config, config)
    clips, notes = SanaVideo(config), list[str]()
    like = next(image.parameters())
    clips.init_weights()
    clips.to(like.device, like.dtype)
    fits = image.config.latent_channels == config.latent_channels and config.patch == 1
    state = {
        name: tensor for name, tensor in image.state_dict().items() if fits or not name.startswith(LATENTS)
    }
    if fits:
        embedder = "x_embedder.proj.weight"
        state[embedder] = state[embedder][:, :, None]  # of one frame
    else:
        notes.append("The embedder of latents and the output layer are new: the latents are others.")
    fresh = clips.state_dict()
    for name, tensor in state.items():
        state[name] = _widened(name, tensor, fresh[name])
    left, unknown = clips.load_state_dict(state, strict=False)
    assert not unknown
    assert all(name.endswith(OVER_TIME) or (not fits and name.startswith(LATENTS)) for name in left)
    heads = (image.config.head_dim, config.head_dim)
    if heads[0] != heads[1]:
        notes.append(f"Heads of {heads[0]} channels are grouped as heads of {heads[1]}.")
    if image.config.cross_heads != config.cross_heads:
        notes.append(
            f"Cross-attention's {image.config.cross_heads} heads are grouped as {config.cross_heads}."
        )
    return clips.train(image.training), notes


def _check(image: SanaConfig, clips: SanaVideoConfig) -> None:
    for name in SAME:
        here, there = getattr(image, name), getattr(clips, name)
        if here != there:
            raise SettingsError(
                f"The transformer of images has {name} = {here}, that of clips {there}: use the same."
            )
    here, there = (int(config.width * config.mlp_ratio) for config in (image, clips))
    if there < here:
        raise SettingsError(
            f"The Mix-FFN of images has {here} channels, that of clips {there}: use as many or more."
        )


def _widened(name: str, tensor: Tensor, fresh: Tensor) -> Tensor:
    """Return a tensor of the image's in the size that it has for clips.

    The channels of a Mix-FFN come in two halves, values and gates. New ones are those of `fresh`, and zero
    where they are read.
    """
    if tensor.shape == fresh.shape:
        return tensor
    wide = fresh.clone()
    if "point_conv" in name:
        wide[:, tensor.shape[1] :] = 0
        wide[:, : tensor.shape[1]] = tensor
        return wide
    for new, old in zip(wide.chunk(2), tensor.chunk(2), strict=True):
        new[: len(old)] = old
    return wide
