"""Two more designs of known things, for variety, and all designs at any size.

Google Noto Emoji v1 ("retro": blobs and bold shapes) and Firefox OS emoji ("two-tone"), both Apache-2.0, in a
data set of their own and in the form of pocket's (see `pocket`): the four main designs stay one whole. Their
icons have no code points: an icon stands for the concept that it spells or that a table gives. It is
left out where its colour is not the one in the thing's phrase, or where it shows something else.
"""

from __future__ import annotations

import glob
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from sanakit.errors import DataError
from sanakit.pocket.data import dataset as pocket
from sanakit.pocket.data import sources
from sanakit.pocket.words import captions as words
from sanakit.pocket.words.captions import Style
from sanakit.whole import sweep, written_whole

NOTO_V1 = sources.Package(
    name="@iconify-json/noto-v1",
    version="1.2.5",
    licence="Apache-2.0",
    origin="Google Noto Emoji, first version",
    sha512="/DsVMius69Q0fRS53z7QK1TROSuar606jiIx+laXtdsYGMXpf6LtHBx6CGfoo3UHHb/XpBsw+1L1x3eyPqMuVA==",
)
FXEMOJI = sources.Package(
    name="@iconify-json/fxemoji",
    version="1.2.2",
    licence="Apache-2.0",
    origin="Mozilla Firefox OS Emoji",
    sha512="UAasRaxzFUKfIGSmLwnoarsssA4LX0VLLuEmplIqM6ZNQqIQRtav8tZ4H1neTlBreXuMQyAifr5jP4kn78DpiQ==",
)
PACKAGES = {"noto-v1": NOTO_V1, "fxemoji": FXEMOJI}
MORE_STYLES = (
    Style(
        name="noto-v1",
        tag="retro emoji",
        long="a retro illustration",
        short="a retro drawing",
        suffix="retro",
    ),
    Style(
        name="fxemoji",
        tag="two-tone emoji",
        long="a two-tone illustration",
        short="a two-tone drawing",
        suffix="two-tone",
    ),
)

# concept -> icon, where the icon does not spell the concept's name
NAMES: dict[str, dict[str, str]] = {
    "noto-v1": {
        "bullseye": "direct-hit",
        "face with crossed-out eyes": "dizzy-face",
        "smiling face with open hands": "hugging-face",
        "enraged face": "pouting-face",
        "red question mark": "question-mark",
        "red exclamation mark": "exclamation-mark",
    },
    "fxemoji": {
        **{"two hearts": "2hearts", "globe showing Americas": "americasglobe", "OK hand": "aok"},
        **{
            "globe showing Asia-Australia": "asiaaustraliaglobe",
            "globe showing Europe-Africa": "europeafricaglobe",
        },
        **{
            "face with crossed-out eyes": "astonished",
            "eggplant": "aubergine",
            "two-hump camel": "bactriancamel",
        },
        **{
            "dollar banknote": "banknotedollar",
            "euro banknote": "banknoteeuro",
            "pound banknote": "banknotepound",
        },
        **{
            "yen banknote": "banknoteyen",
            "person taking bath": "bath",
            "beach with umbrella": "beachumbrella",
        },
        **{
            "bell with slash": "bellcancellation",
            "person mountain biking": "bicyclist",
            "pool 8 ball": "billiards",
        },
        **{"club suit": "blackclubsuit", "diamond suit": "blackdiamondsuit", "heart suit": "blackheartsuit"},
        **{"spade suit": "blackspadesuit", "scissors": "blackscissors", "telephone": "blacktelephone"},
        **{
            "person: blond hair": "blonde",
            "high voltage": "bolt",
            "woman\u2019s boot": "boot",
            "ribbon": "bow",
        },
        **{
            "person bowing": "bowing",
            "person with veil": "bride",
            "megaphone": "bullhorn",
            "rabbit face": "bunny",
        },
        **{
            "people with bunny ears": "bunny-ears",
            "rabbit": "bunnyside",
            "cat face": "cat",
            "cat": "catside",
        },
        **{"mobile phone": "cellphone", "chart decreasing": "chartdownwardstrend"},
        **{"chart increasing": "chartupwardstrend", "chart increasing with yen": "chartupwardstrendyen"},
        **{
            "hot pepper": "chilipepper",
            "clapping hands": "clap",
            "closed mailbox with lowered flag": "closedmailboxlowered",
        },
        **{"closed mailbox with raised flag": "closedmailboxraised", "anxious face with sweat": "coldsweat"},
        **{"clamp": "compression", "confetti ball": "confetti", "confused face": "confused"},
        **{
            "construction worker": "construct",
            "bust in silhouette": "contact",
            "busts in silhouette": "contact2",
        },
        **{"control knobs": "controlknob", "police officer": "cop", "curry rice": "curryandrice"},
        **{"dagger": "daggerknife", "woman dancing": "dancer", "sunglasses": "darksunglasses"},
        **{"dashing away": "dash", "bullseye": "directhit", "disappointed face": "disappointed"},
        **{"sad but relieved face": "dissapointedrelief", "dog face": "dog", "dog": "dogside"},
        **{"dove": "doveofpeace", "backhand index pointing down": "down", "dragon face": "dragonhead"},
        **{"dragon": "dragonside", "camel": "dromedarycamel", "ear of corn": "earofmaize"},
        **{"sheaf of rice": "earofrice", "flashlight": "electrictorch", "castle": "europeancastle"},
        **{
            "post office": "europeanpostoffice",
            "evergreen tree": "evergreen",
            "expressionless face": "expressionless",
        },
        **{"fallen leaf": "fallingleaf", "Santa Claus": "fatherchristmas", "fearful face": "fearful"},
        **{
            "sparkler": "fireworksparkler",
            "fish cake with swirl": "fishcakeswirl",
            "fishing pole": "fishingpoleandfish",
        },
        **{"oncoming fist": "fistedhand", "flexed biceps": "flexbicep", "floppy disk": "floppydisk2"},
        **{
            "envelope with arrow": "flyingenvelope",
            "fork and knife with plate": "forkknife",
            "fox": "foxsmiling",
        },
        **{"framed picture": "framewithpicture", "front-facing baby chick": "frontfacingchick"},
        **{"person frowning": "frown", "frowning face with open mouth": "frownmouth"},
        **{"full moon face": "fullmoonwithface", "gem stone": "gem", "old woman": "gma", "old man": "gpa"},
        **{"person golfing": "golfer", "grimacing face": "grimacing", "grinning face": "grin"},
        **{"grinning face with smiling eyes": "grineyes", "grinning squinting face": "grinsquint"},
        **{"grinning face with sweat": "grinsweat", "face with tears of joy": "grintears"},
        **{"grinning face with big eyes": "grinwide", "beaming face with smiling eyes": "grinwideeyes"},
        **{"person with skullcap": "guapimao", "guard": "guardsman", "person getting haircut": "haircut"},
        **{"hamster": "hampster", "raised hand": "hand", "video camera": "handheldvideocamera"},
        **{"open hands": "hands", "person raising hand": "handup", "person getting massage": "headmassage"},
        **{
            "smiling face with heart-eyes": "hearteyes",
            "green heart": "heartgreen",
            "purple heart": "heartpurple",
        },
        **{"heart with ribbon": "heartribbon", "yellow heart": "heartyellow", "check mark": "heavycheckmark"},
        **{"high-heeled shoe": "heels", "raising hands": "high5", "bullet train": "highspeedtrainbulletnose"},
        **{"high-speed train": "highspeedtrain", "kitchen knife": "hocho", "hourglass done": "hourglass"},
        **{
            "hourglass not done": "hourglassflowingsand",
            "house": "housebuilding",
            "houses": "housebuildings",
        },
        **{"hushed face": "hushed", "index pointing up": "index", "red paper lantern": "izakayalantern"},
        **{"goblin": "japaneseangrymask", "jack-o-lantern": "jackolantern", "kissing face": "kiss"},
        **{"kissing face with closed eyes": "kissclosedeyes", "kissing face with smiling eyes": "kisseyes"},
        **{
            "face blowing a kiss": "kissing",
            "blue circle": "largebluecircle",
            "red circle": "largeredcircle",
        },
        **{"leaf fluttering in wind": "leaffluttering", "backhand index pointing left": "left"},
        **{"telephone receiver": "lefthandphone", "magnifying glass tilted left": "leftmagnifyingglass"},
        **{
            "writing hand": "leftwritinghand",
            "leopard": "leopardside",
            "linked paperclips": "linkedpaperclips",
        },
        **{
            "kiss mark": "lips",
            "locked": "lock",
            "locked with key": "lockandkey",
            "locked with pen": "lockwithinkpen",
        },
        **{"crayon": "lowerleftcrayon", "fountain pen": "lowerleftfountainpen", "pen": "lowerleftpen"},
        **{"paintbrush": "lowerleftpaintbrush", "pencil": "lowerleftpencil", "clutch bag": "makeupbag"},
        **{
            "person in suit levitating": "maninbusinesssuitlevitating",
            "mantelpiece clock": "manltepiececlock",
        },
        **{"t-shirt": "mansshirt", "face with medical mask": "medicalmask", "running shoe": "mensrunner"},
        **{
            "man\u2019s shoe": "mensshoe",
            "globe with meridians": "meridianglobe",
            "computer disk": "minidisc",
        },
        **{"hear-no-evil monkey": "monkeyhear", "see-no-evil monkey": "monkeysee", "mouse face": "mouse"},
        **{"speak-no-evil monkey": "monkeyspeak", "mouse": "mouseside", "moai": "moyai"},
        **{
            "musical notes": "multiplemusicalnotes",
            "neutral face": "neutral",
            "new moon face": "newmoonwithface",
        },
        **{
            "person gesturing NO": "nogesture",
            "face without mouth": "nomouth",
            "spiral notepad": "spiralnotepad",
        },
        **{"notebook with decorative cover": "notebookdecorativecover", "person gesturing OK": "okgesture"},
        **{
            "laptop": "oldpersonalcomputer",
            "unlocked": "openlock",
            "open mailbox with lowered flag": "openmailboxlowered",
        },
        **{"open mailbox with raised flag": "openmailboxraised", "face with open mouth": "openmouth"},
        **{
            "optical disk": "opticaldisc",
            "outbox tray": "outbox",
            "panda": "pandaface",
            "pensive face": "pensive",
        },
        **{"persevering face": "perservere", "desktop computer": "personalcomputer", "pig face": "pig"},
        **{
            "pig": "pigside",
            "pig nose": "pigsnout",
            "purse": "pinkwallet",
            "police car light": "policecarsrevolvinglight",
        },
        **{"pile of poo": "poo", "person pouting": "pout", "folded hands": "pray", "wrapped gift": "present"},
        **{"racing car": "racecar", "cloud with rain": "raincloud", "vulcan salute": "raisedhandpartfingers"},
        **{
            "hand with fingers splayed": "raisedhandsfingerssplayed",
            "sport utility vehicle": "recreationalvehicle",
        },
        **{
            "relieved face": "relieved",
            "reminder ribbon": "reminder",
            "backhand index pointing right": "right",
        },
        **{"magnifying glass tilted right": "rightmagnifyingglass", "person rowing boat": "rowboat"},
        **{"person running": "running", "sake": "sakebottleandcup", "woman\u2019s sandal": "sandals"},
        **{"backpack": "schoolsatchel", "sleeping face": "sleeping", "sleepy face": "sleepy"},
        **{
            "pizza": "sliceofpizza",
            "slightly frowning face": "smallfrown",
            "slightly smiling face": "smallsmile",
        },
        **{"face with tongue": "tongueout", "face savoring food": "smiletongue", "smirking face": "smirk"},
        **{
            "cloud with snow": "snowcloud",
            "snow-capped mountain": "snowmountains",
            "speaker high volume": "speaker3soundwaves",
        },
        **{
            "speaker low volume": "speaker",
            "muted speaker": "speakercancellation",
            "spiral calendar": "spiralcalendarpad",
        },
        **{"speaking head": "speakingheadinsilhouette", "spouting whale": "spurtingwhale"},
        **{
            "locomotive": "steamlocomotive",
            "cloud with lightning": "stormcloud",
            "studio microphone": "studiomic",
        },
        **{"sun behind rain cloud": "sunraincloud", "sun": "sunrays", "sunset": "sunsetoverbuildings"},
        **{"person surfing": "surfer", "downcast face with sweat": "sweat", "sweat droplets": "sweatsplash"},
        **{"person swimming": "swimming", "thought balloon": "thoughtbaloon", "necktie": "tie"},
        **{
            "tiger face": "tiger",
            "tiger": "tigerside",
            "tired face": "tired",
            "squinting face with tongue": "tongueoutwink2",
        },
        **{
            "winking face with tongue": "tongueoutwink",
            "Tokyo tower": "toykotower",
            "ticket": "admissiontickets",
        },
        **{
            "face with steam from nose": "triumph",
            "person wearing turban": "turban",
            "unamused face": "unamused",
        },
        **{"backhand index pointing up": "up", "red triangle pointed up": "uppointingredtriangle"},
        **{"videocassette": "videocasette", "person tipping hand": "waitress", "person walking": "walking"},
        **{"waning gibbous moon": "waningbibbousmoon", "water wave": "wave", "waving hand": "waving"},
        **{"weary face": "weary", "person lifting weights": "weightlifter", "winking face": "winking"},
        **{"keyboard": "wiredkeyboard", "wolf": "wolfface", "woman\u2019s clothes": "womansshirt"},
        **{
            "smiling face with sunglasses": "sunglasses",
            "closed umbrella": "umbrella",
            "musical keyboard": "musicalkeyboard",
        },
        **{"building construction": "construction", "bug": "bug", "mahjong red dragon": "mahjong"},
    },
}
# not what the concept's phrase says, or hardly to be seen
LEFT_OUT: dict[str, frozenset[str]] = {
    "noto-v1": frozenset(
        {
            *("red heart", "automobile", "smiling face with horns", "laptop", "rosette", "speech balloon"),
            *("left speech bubble", "right anger bubble", "new moon", "black circle", "white flower"),
        }
    ),
    "fxemoji": frozenset(
        {
            *("angry face", "crying face", "loudly crying face", "worried face", "flushed face", "window"),
            *("game die", "admission tickets", "tram car", "bird", "basketball", "fog", "blue heart"),
            *("smiling face with horns", "ram", "ewe", "left speech bubble"),
            *("right anger bubble", "pager", "new moon", "black large square", "identification card"),
            *("umbrella", "open file folder"),
        }
    ),
}


def build_more(
    folder: str | Path,
    *,
    cache: str | Path | None = None,
    workers: int | None = None,
    progress: pocket.OnProgress | None = None,
) -> pocket.PocketImages:
    """Build the data set of the two further designs in a new folder; a finished one is only opened.

    cache: folder for the npm tarballs, default FOLDER-packages.   workers, progress: as in build_pocket.
    Raises DataError and MissingExtraError as build_pocket does.
    """
    folder = Path(folder).absolute()
    cache = Path(cache) if cache is not None else folder.parent / f"{folder.name}-packages"
    report = progress or (lambda what, done, total: None)
    if (folder / pocket.SOURCES).exists():
        return pocket.open_pocket(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} is in use: name an empty or new folder for the data set.")
    sources.require_renderer()
    tarballs = {
        package: sources.obtain(package, cache) for package in (sources.EMOJIBASE, *PACKAGES.values())
    }
    rows, art = zip(*choose_more(tarballs), strict=True)
    sweep(folder.parent, glob.escape(folder.name))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(folder) as partial:
            partial.mkdir()
            pocket._write_images(art, partial, workers or os.cpu_count() or 1, report)
            (partial / pocket.ROWS).write_text(pocket._jsonl(rows), encoding="utf-8")
            manifest = json.dumps(_manifest(rows), indent=2)
            (partial / pocket.SOURCES).write_text(f"{manifest}\n", encoding="utf-8")
    except OSError as error:
        raise DataError(f"{folder} cannot be written ({error}): free some space or name another.") from error
    return pocket.open_pocket(folder)


def choose_more(tarballs: dict[sources.Package, Path]) -> Iterator[tuple[pocket.PocketRow, str | bytes]]:
    """Choose the icons that stand for concepts of the data set: their rows and their SVG documents."""
    emojis = [
        emoji
        for emoji in sources.read_emojis(tarballs[sources.EMOJIBASE])
        if words.is_kept(emoji.concept, emoji.group, emoji.subgroup)
    ]
    for style in MORE_STYLES:
        package = PACKAGES[style.name]
        icons = sources.read_icons(tarballs[package])
        for emoji in emojis:
            icon = icon_of(emoji.concept, style.name, icons)
            if icon is not None:
                yield pocket._row(emoji, style, package), icons[icon]


def icon_of(concept: str, style: str, icons: dict[str, str]) -> str | None:
    """Find the icon that stands for a concept in a style: the table's, or the one that spells its name."""
    if concept in LEFT_OUT[style]:
        return None
    if concept in NAMES[style]:
        return NAMES[style][concept] if NAMES[style][concept] in icons else None
    slug = re.sub(r"[^a-z0-9]+", "-", concept.lower().replace("\u2019", "")).strip("-")
    taken = set(NAMES[style].values())
    spelled = [name for name in (slug, slug.replace("-", "")) if name in icons and name not in taken]
    return spelled[0] if spelled else None


class MoreDrawings:
    """All vector designs of all things, to be drawn at any size; the 3D design is images of 256 px.

    cache: folder of the npm tarballs, as build_pocket and build_more fill it. They are fetched when missing.

    >>> image, alpha = Drawings("packages").draw("dog", "noto", 512)  # doctest: +SKIP
    """

    def __init__(self, cache: str | Path) -> None:
        sources.require_renderer()
        packages = (sources.EMOJIBASE, *sources.ART_PACKAGES.values(), *PACKAGES.values())
        tarballs = {package: sources.obtain(package, Path(cache)) for package in packages}
        chosen = [*pocket._choose(tarballs), *choose_more(tarballs)]
        self._art = {(row.concept, row.style): art for row, art in chosen if isinstance(art, str)}
        self.rows = {(row.concept, row.style): row for row, art in chosen if isinstance(art, str)}
        """(concept, style) -> what pocket's data set says about the drawing."""

    def draw(self, concept: str, style: str, size: int = 512) -> tuple[np.ndarray, np.ndarray]:
        """Draw a thing: size size 3 uint8 on white, and size size uint8, how opaque.

        Raises DataError when no vector design of that style has the thing.
        """
        art = self._art.get((concept, style))
        if art is None:
            raise DataError(f"No vector drawing of {concept!r} in the style {style!r}: take another style.")
        picture = sources.draw(art, size)
        return picture[..., :3], picture[..., 3]


def _manifest(rows: tuple[pocket.PocketRow, ...]) -> dict:
    return {
        "format": pocket.FORMAT,
        "images": len(rows),
        "packages": [
            {
                "package": package.name,
                "version": package.version,
                "licence": package.licence,
                "origin": package.origin,
                "sha512": package.sha512,
                "images": sum(row.source.startswith(f"{package.spec} ") for row in rows),
            }
            for package in (sources.EMOJIBASE, *PACKAGES.values())
        ],
    }
