"""`sana models`: the released models, and what one offers. `sana inspect`: what a place holds."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from sanakit.cli.terminal import AsJson, Debug, print_json, shown, size_in_bytes

if TYPE_CHECKING:
    from sanakit.adapters.describe import AdapterDescription
    from sanakit.clips.facts import ClipFacts
    from sanakit.images.recorded import ImageFacts
    from sanakit.weights.about.inspect import Description, PartDescription
    from sanakit.weights.about.offer import Offer
    from sanakit.weights.find.catalog import CatalogEntry

NAMED = 5  # missing or unknown tensors that are listed by name


def list_models(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", show_default=False, help="A model, or its folder.")
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """List the released models, or tell what one of them draws.

    Without NAME: sizes in pixels and parameters, the 16-bit dtype they are right in, downloads and licences.
    With NAME: its defaults, the sizes that it learned, styles, examples to copy, and how many things it
    knows.
    """
    from sanakit.weights import CATALOG
    from sanakit.weights.find.catalog import clip_models_here

    if name is not None:
        from sanakit.weights.about.offer import offer

        offered = offer(name)
        if as_json:
            print_json(offered)
        else:
            _print_offer(offered)
        return

    entries = list(CATALOG.values())
    if as_json:
        print_json([_public(entry) for entry in entries])
        return
    print(f"{'name':<26}{'pixels':<11}{'parameters':>10}  {'16-bit':<10}{'download':>9}  Hub repository")
    for entry in entries:
        print(_row(entry))
    if clips := clip_models_here():
        print(f"\nModels of clips, embedded: {', '.join(clips)}")
    _print_groups("Licences of the weights", {entry.name: entry.licence for entry in entries})
    reasons = {entry.name: entry.unsupported for entry in entries if entry.unsupported}
    _print_groups("Not drawn by this version", reasons)


def inspect(
    path: Annotated[
        str, typer.Argument(metavar="PATH", help="Folder, weight file, image, clip, or name of a model.")
    ],
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Tell what a model, adapter (LoRA), image or clip holds.

    Only headers of weights are read; nothing is loaded or downloaded. Of an image the settings are told that
    it was made with. Of a clip every frame is counted.
    """
    from sanakit.adapters.describe import describe_adapter
    from sanakit.clips.reading import describe_clip
    from sanakit.images.recorded import describe_image
    from sanakit.weights import describe

    if clip := describe_clip(path):
        _print_clip(clip, as_json)
        return
    if image := describe_image(path):
        _print_image(image, as_json)
        return
    if adapter := describe_adapter(path):
        if as_json:
            print_json(adapter)
        else:
            _print_adapter(adapter)
        return
    description = describe(path)
    if as_json:
        print_json(description)
    else:
        _print_description(description)


def _public(entry: CatalogEntry) -> dict[str, object]:
    names = "name repo parameters width height precision steps guidance solver languages licence unsupported"
    return {name: getattr(entry, name) for name in [*names.split(), "download_bytes"]}


def _row(entry: CatalogEntry) -> str:
    parameters = f"{entry.parameters / 1e6:,.0f} M"
    nothing = "-" if entry.repo else "embedded"
    download = size_in_bytes(entry.download_bytes) if entry.download_bytes else nothing
    pixels, repo = f"{entry.width}x{entry.height}", entry.repo or "-"
    return f"{entry.name:<26}{pixels:<11}{parameters:>10}  {entry.precision:<10}{download:>9}  {repo}"


def _print_groups(title: str, texts: dict[str, str]) -> None:
    """Print each distinct text once, with the names it belongs to."""
    if texts:
        print(f"\n{title}")
    for text in dict.fromkeys(texts.values()):
        print(f"  {', '.join(name for name, own in texts.items() if own == text)}:\n    {text}")


def _print_offer(offered: Offer) -> None:
    print(f"{offered.name}  {offered.path}")
    sizes = ", ".join(f"{width}x{height}" for width, height in offered.sizes)
    styles = ", ".join(f'"..., {words}"' for words in offered.styles.values())
    nets = ", ".join(offered.control_models)
    known = f"{offered.known_things:,} things by {offered.known_words:,} further words"
    animated = f" ({offered.animated_things:,} learned from animations)" if offered.animated_things else ""
    clip = f"{offered.frames} frames at {offered.fps} a second, " if offered.frames else ""
    facts = {
        "licence": offered.licence,
        "languages": offered.languages,
        "download": size_in_bytes(offered.download_bytes) if offered.download_bytes else "",
        "not drawn": offered.unsupported,
        "defaults": f"{clip}{offered.width}x{offered.height}, {offered.steps} steps, guidance "
        f"{offered.guidance:g}, solver {offered.solver}",
        "sizes": f"{sizes}; any other is drawn at the nearest of them and resized" if sizes else "",
        "styles": styles,
        "steered by": f"{nets}, with an image for --control" if nets else "",
        "knows": f"{known}{animated}: {', '.join(offered.some_things)}, ..." if offered.some_things else "",
    }
    for name, text in facts.items():
        if text:
            print(f"  {name:<11}{text}")
    if not offered.unsupported:
        print("", *offered.commands, sep="\n")


def _print_description(description: Description) -> None:
    print(description.path)
    facts = {
        "kind": description.kind,
        "release": description.release,
        "licence": description.licence,
        "trained for": f"{description.resolution} px" if description.resolution else "",
        "download": size_in_bytes(description.download_bytes) if description.download_bytes else "",
    }
    if settings := description.settings:
        facts["defaults"] = (
            f"{settings.width}x{settings.height}, {settings.steps} steps, guidance {settings.guidance:g}, "
            f"solver {settings.solver}, shift {settings.shift:g}"
        )
        facts["dialect"] = "native" if settings.dialect == "native" else ""
        facts["guidance kind"] = "" if settings.guidance_kind == "cfg" else settings.guidance_kind
        facts["16-bit dtype"] = settings.precision
    if description.known_things:
        facts["knows"] = f"{description.known_things:,} things by {description.known_words:,} further words"
    for name, text in facts.items():
        if text:
            print(f"  {name:<14}{text}")
    for part in description.parts:
        _print_part(part)
    for note in description.notes:
        print(f"  note: {note}")


def _print_adapter(adapter: AdapterDescription) -> None:
    print(adapter.path)
    targets = ", ".join(f"{name} ({count})" for name, count in sorted(adapter.targets.items()))
    facts = {
        "kind": adapter.kind,
        "layout": adapter.layout,
        "rank": ", ".join(map(str, adapter.ranks)),
        "alpha": ", ".join(f"{alpha:g}" for alpha in adapter.alphas),
        "scale": ", ".join(f"{scale:.4g}" for scale in adapter.scales),
        "changes": targets,
        "size": f"{adapter.parameters:,} parameters, {adapter.dtype}, {size_in_bytes(adapter.bytes)}",
        "fits": ", ".join(adapter.fits) or "no model that is known here",
        "fingerprint": adapter.fingerprint[:12],
    }
    for name, text in facts.items():
        if text:
            print(f"  {name:<14}{text}")
    for note in adapter.notes:
        print(f"  note: {note}")


def _print_clip(facts: ClipFacts, as_json: bool) -> None:
    """Print what is known of a clip's file: for people, or as one JSON object with an exact rate as text."""
    if as_json:
        exact = {"rate": str(facts.rate), "seconds": round(float(facts.seconds), 6)}
        print_json({"kind": "clip", **asdict(facts), **exact})
        return
    print(facts.path)
    mean = "" if facts.constant_rate else " on average, at changing intervals"
    exact = f" ({facts.rate})" if facts.rate.denominator > 1 else ""
    told = {
        "kind": "clip",
        "format": f"{facts.format}, {facts.codec}",
        "size": f"{facts.width}x{facts.height}",
        "frames": f"{facts.frames:,}",
        "rate": f"{float(facts.rate):.5g} frames a second{exact}{mean}",
        "seconds": f"{float(facts.seconds):.6g}",
    }
    known = {"width": facts.width, "height": facts.height, "frames": facts.frames}
    for name, text in facts.settings.items():
        if name in known:  # it is told above, unless the file was changed since
            told |= {} if known[name] == text else {f"drawn {name}": str(text)}
        else:
            told[name] = str(text)
    for name, text in told.items():
        print(f"  {shown(name):<16}{shown(text)}")
    for note in facts.notes:
        print(f"  note: {note}")


def _print_image(facts: ImageFacts, as_json: bool) -> None:
    """Print what an image's file says of how it was made. Raises SettingsError for a damaged record."""
    from sanakit.adapters.attach import recorded_uses

    settings: dict[str, object] = {**facts.settings}
    uses = recorded_uses(settings.pop("adapters", ""))
    if as_json:
        settings |= {"adapters": uses} if uses else {}
        print_json({"kind": "image", **asdict(facts), "settings": settings})
        return
    print(facts.path)
    for side in ("width", "height"):
        settings.pop(side, None)
    asked = (facts.settings.get("width"), facts.settings.get("height"))
    rows: list[tuple[str, object]] = [
        ("kind", "image"),
        ("format", facts.format),
        ("size", f"{facts.width}x{facts.height}"),
        ("settings of", facts.by),
        ("made at", "" if asked in ((None, None), (facts.width, facts.height)) else f"{asked[0]}x{asked[1]}"),
    ]
    rows += [(name.replace("_", " "), value) for name, value in settings.items() if name != "control"]
    rows += [("adapter", f"{use.file} at {use.weight:g}, fingerprint {use.fingerprint[:12]}") for use in uses]
    rows += [("control", one) for one in str(settings.get("control", "")).split("; ")]
    rows += [(name, value) for name, value in facts.others.items()]
    rows += [("graph", f"in the chunk {name}") for name in facts.chunks]
    for name, value in rows:
        if value != "":
            print(f"  {shown(name):<16}{shown(value)}")
    for note in facts.notes:
        print(f"  note: {note}")


def _print_part(part: PartDescription) -> None:
    shape = f", {part.depth} blocks of width {part.width}" if part.depth else ""
    size = f"{part.size}, " if part.size else ""
    layout = f"{part.layout} layout, " if part.layout else ""
    print(f"  {part.kind}: {size}{part.parameters:,} parameters{shape}")
    print(f"    {layout}{part.dtype}, {size_in_bytes(part.bytes)}")
    for what, names in (("missing", part.missing), ("unknown", part.unexpected)):
        if names:
            more = ", ..." if len(names) > NAMED else ""
            print(f"    {len(names)} tensors {what}: {', '.join(names[:NAMED])}{more}")
