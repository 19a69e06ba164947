"""sanakit: the SANA family of image and video models in one small package.

    from sanakit import TextToImage

    image = TextToImage.from_pretrained("pocket")("a red apple").images[0]

Public names are imported when they are first used (PEP 562), so that `import sanakit` loads no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sanakit.pipelines.best_of import BestOf
    from sanakit.pipelines.control import ControlImage
    from sanakit.pipelines.text_to_image import TextToImage
    from sanakit.pipelines.video.text_to_video import TextToVideo
    from sanakit.pipelines.world.world import World
    from sanakit.weights.find.catalog import list_models

__version__ = "0.1.0"
__all__ = ["BestOf", "ControlImage", "TextToImage", "TextToVideo", "World", "__version__", "list_models"]


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name == "BestOf":
        from sanakit.pipelines.best_of import BestOf

        return BestOf
    if name == "ControlImage":
        from sanakit.pipelines.control import ControlImage

        return ControlImage
    if name == "TextToImage":
        from sanakit.pipelines.text_to_image import TextToImage

        return TextToImage
    if name == "TextToVideo":
        from sanakit.pipelines.video.text_to_video import TextToVideo

        return TextToVideo
    if name == "World":
        from sanakit.pipelines.world.world import World

        return World
    if name == "list_models":
        from sanakit.weights.find.catalog import list_models

        return list_models
    raise AttributeError(f"module 'sanakit' has no attribute {name!r}; public names: {', '.join(__all__)}")


def __dir__() -> list[str]:
    """List the public names without importing them."""
    return sorted(__all__)
