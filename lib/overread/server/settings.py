"""This deployment's choices: what `--conf key value` may say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

from pydicom.datadict import tag_for_keyword

from overread.domain import BadInputError
from overread.imaging.slides.slide import ASSUMED
from overread.server.doubt import BANDS_INSIDE, DOUBT_MODES, DoubtMode

# MONAI Label and its sample apps put these beside ours.
FOREIGN_KEYS = frozenset({"server_mode", "zoo_source", "zoo_repo", "auth_token"})
GIB = 1 << 30
# A reader waits for a first look.
MOST_PATIENCE_S = 300.0
WEEK_MINUTES = 7 * 24 * 60
Consensus = Literal["latest", "majority", "staple"]
CONSENSUSES: tuple[Consensus, ...] = get_args(Consensus)
Start = Literal["champion", "scratch"]
STARTS: tuple[Start, ...] = get_args(Start)
AUTO: Literal["auto"] = "auto"
# No scan is coarser, and no microscope sees finer.
COARSEST_UM, FINEST_UM = 100.0, 0.01
# What is stored into a PACS is to be seen within a minute.
LONGEST_LOOK_S = 45.0


@dataclass(frozen=True)
class Settings:
    """What an administrator decides at start.

    Attributes:
        models: names of the recipes to serve; None serves every recipe that has a champion.
        measure: uncertainty map shown first; None takes the recipe's own.
        doubt: how doubt is shown unless the reader picks another way.
        members: how many members are asked; None asks all.
        device: `auto` (a GPU if there is one), `cpu`, `cuda` or `cuda:N`.
        precision: `auto`, `full` or `reduced`; see `overread.ensemble.prediction`.
        cascade: where the first member is this sure, the others are not asked. `auto` asks all about volumes, and about
            slides as the champion's own validation slides say; None asks all everywhere.
        keep_maps: whether float maps and probabilities are kept per case. The proposal always is: a label that
            is submitted with doubt left in it is completed from it.
        max_upload_bytes: the largest image that may be uploaded.
        threads: CPU threads for one inference, and for a child process; None leaves one core to light requests.
        database: URL of the database; None keeps an SQLite file in the app folder.
        queue_recipe: the model whose doubt orders the cases; None takes the first that is served.
        strategy: the one that is used unless the client picks another.
        control_share: share of the served cases that chance draws whatever the strategy.
        lease_s: how long a served case is kept for its reader.
        scoring: whether cases are scored in the background.
        consensus: which label of a case is learnt from where several readers gave one.
        train_after: accepted labels after which training starts by itself; None leaves it to people.
        train_minutes: training time of one challenger, all members together; None leaves it to the trainer.
        train_iterations: training steps of each member of a challenger; None leaves them to the time.
        train_start: whether a challenger begins from the champion's weights or from scratch.
        assumed_um_per_px: pixel size of slides that do not tell theirs.
        max_region_px: the model's pixels that one request about a slide may have computed.
        slide_batch: windows of a slide that a member sees at a time.
        slide_workers: threads that read a slide.
        first_look_s: how long a slide that nobody looked at yet is looked at before one of its patches is served.
        encoded_bytes: memory for images that MedUHIP models have encoded.
        mirrors: whether MedUHIP models look at mirror images, too, in a reader's turns.
        pacs_filter: which series of a PACS are served, as keywords and values of a QIDO-RS search; empty serves all.
        pacs_look_s: how often a PACS is asked for new series and labels.
        pacs_maps: whether probabilities and doubt go into the PACS with an accepted label.
        users: the file of users; None keeps it in the app folder.
        allow_anonymous: whether other machines may use a server that has no users.
        preference: whether a case begins in its reader's usual style, and teaches it, where they do not say.
        preference_mean: whether readers of whom little is known begin where the others do on average.
    """

    models: tuple[str, ...] | None = None
    measure: str | None = None
    doubt: DoubtMode = BANDS_INSIDE
    members: int | None = None
    device: str = "auto"
    precision: Any = "auto"
    cascade: float | Literal["auto"] | None = AUTO
    keep_maps: bool = True
    max_upload_bytes: int = 2 * GIB
    threads: int | None = None
    database: str | None = None
    queue_recipe: str | None = None
    strategy: str = "pairwise_dice"
    control_share: float = 0.2
    lease_s: float = 1800.0
    scoring: bool = True
    consensus: Consensus = "latest"
    train_after: int | None = None
    train_minutes: float | None = None
    train_iterations: int | None = None
    train_start: Start = "champion"
    assumed_um_per_px: float = ASSUMED.um
    max_region_px: int = 4096 * 4096
    slide_batch: int = 8
    slide_workers: int = 2
    # A first answer is due after 5 s; opening the slide, finding its tissue and choosing take the rest.
    first_look_s: float = 2.5
    encoded_bytes: int = GIB
    mirrors: bool = True
    pacs_filter: tuple[tuple[str, str], ...] = ()
    pacs_look_s: float = 15.0
    pacs_maps: bool = False
    users: str | None = None
    allow_anonymous: bool = False
    preference: bool = True
    preference_mean: bool = False

    @classmethod
    def from_conf(cls, conf: Mapping[str, str]) -> Settings:
        """Read `--conf` pairs.

        Raises:
            BadInputError: an unknown key (all known keys are listed), or a value that cannot be meant.
        """
        chosen: dict[str, Any] = {}
        for key, text in conf.items():
            if key in FOREIGN_KEYS:
                continue
            if key not in READERS:
                raise BadInputError(f"--conf {key} is not known; known keys are {', '.join(sorted(READERS))}")
            name, read = READERS[key]
            chosen[name] = read(key, str(text).strip())
        return cls(**chosen)


def _names(key: str, text: str) -> tuple[str, ...] | None:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise BadInputError(f"--conf {key} {text!r}: expected `all` or names separated by commas")
    return None if names == ("all",) else names


def _word(key: str, text: str) -> str:
    if not text:
        raise BadInputError(f"--conf {key} is empty")
    return text


def _count(key: str, text: str) -> int | None:
    if (key, text) in (("members", "all"), ("train_after", "off"), ("train_iterations", "auto")):
        return None
    if not text.isdigit() or int(text) < 1:
        raise BadInputError(f"--conf {key} {text!r}: expected a whole number from 1")
    return int(text)


def _share(key: str, text: str) -> float:
    return _number(key, text, 1.0)


def _cascade(key: str, text: str) -> float | Literal["auto"] | None:
    if text == AUTO:
        return AUTO
    return None if text == "off" else _share(key, text)


def _um(key: str, text: str) -> float:
    size = _number(key, text, COARSEST_UM)
    if size < FINEST_UM:
        raise BadInputError(f"--conf {key} {text!r}: expected µm per pixel, such as 0.25 for a 40x scan")
    return size


def _share_or_none(key: str, text: str) -> float:
    return 0.0 if text in ("0", "off") else _share(key, text)


def _minutes(key: str, text: str) -> float | None:
    return None if text == "auto" else _number(key, text, WEEK_MINUTES)


def _seconds(key: str, text: str) -> float:
    return 60 * _number(key, text, WEEK_MINUTES)


def _patience(key: str, text: str) -> float:
    return _number(key, text, MOST_PATIENCE_S)


def _database(key: str, text: str) -> str:
    try:
        has_password = bool(urlsplit(text).password)
    except ValueError:
        has_password, text = False, ""
    if "://" not in text:
        raise BadInputError(
            f"--conf {key} {text!r}: expected a URL such as postgresql+psycopg://user@host/overread or "
            "sqlite:////data/overread.db"
        )
    if has_password:
        raise BadInputError(
            f"--conf {key} holds a password, which everybody on this machine can read in the list of processes, and "
            "MONAI Label writes into its log: give the URL in the variable OVERREAD_DATABASE, or leave the password "
            "to ~/.pgpass"
        )
    return text


def _bytes(key: str, text: str) -> int:
    return int(_number(key, text, 1024.0) * GIB)


def _number(key: str, text: str, upper: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= upper:
        raise BadInputError(f"--conf {key} {text!r}: expected a number above 0 and up to {upper:g}")
    return value


def _flag(key: str, text: str) -> bool:
    return _one_of(key, text.lower(), {"true": True, "yes": True, "false": False, "no": False})


def _filter(key: str, text: str) -> tuple[tuple[str, str], ...]:
    pairs = [pair.partition("=") for pair in text.split(",")]
    for keyword, _, value in pairs:
        if tag_for_keyword(keyword) is None or not value:
            raise BadInputError(
                f"--conf {key} {text!r}: expected DICOM keywords with values, such as Modality=CT,BodyPartExamined=HEAD"
            )
    return tuple((keyword, value) for keyword, _, value in pairs)


def _look_s(key: str, text: str) -> float:
    return _number(key, text, LONGEST_LOOK_S)


def _consensus(key: str, text: str) -> Consensus:
    return _one_of(key, text, {name: name for name in CONSENSUSES})


def _start(key: str, text: str) -> Start:
    return _one_of(key, text, {name: name for name in STARTS})


def _doubt(key: str, text: str) -> DoubtMode:
    return _one_of(key, text, {"inside": DOUBT_MODES[0], "only": DOUBT_MODES[1], "off": DOUBT_MODES[2]})


def _precision(key: str, text: str) -> str:
    return _one_of(key, text, {name: name for name in ("auto", "full", "reduced")})


def _device(key: str, text: str) -> str:
    if text not in ("auto", "cpu", "cuda") and not (text.startswith("cuda:") and text[5:].isdigit()):
        raise BadInputError(f"--conf {key} {text!r}: expected auto, cpu, cuda or cuda:N")
    return text


def _one_of(key: str, text: str, known: Mapping[str, Any]) -> Any:
    if text not in known:
        raise BadInputError(f"--conf {key} {text!r}: expected one of {', '.join(known)}")
    return known[text]


# Key on the command line: the setting it fills, and how its text is read.
READERS: dict[str, tuple[str, Callable[[str, str], Any]]] = {
    "models": ("models", _names),
    "measure": ("measure", _word),
    "bands": ("doubt", _doubt),
    "members": ("members", _count),
    "device": ("device", _device),
    "precision": ("precision", _precision),
    "cascade": ("cascade", _cascade),
    "keep_maps": ("keep_maps", _flag),
    "max_upload_gib": ("max_upload_bytes", _bytes),
    "threads": ("threads", _count),
    "database": ("database", _database),
    "queue_recipe": ("queue_recipe", _word),
    "strategy": ("strategy", _word),
    "control_share": ("control_share", _share_or_none),
    "lease_minutes": ("lease_s", _seconds),
    "scoring": ("scoring", _flag),
    "consensus": ("consensus", _consensus),
    "train_after": ("train_after", _count),
    "train_minutes": ("train_minutes", _minutes),
    "train_iterations": ("train_iterations", _count),
    "train_start": ("train_start", _start),
    "assumed_um_per_px": ("assumed_um_per_px", _um),
    "max_region_px": ("max_region_px", _count),
    "slide_batch": ("slide_batch", _count),
    "slide_workers": ("slide_workers", _count),
    "first_look_seconds": ("first_look_s", _patience),
    "encoded_gib": ("encoded_bytes", _bytes),
    "mirrors": ("mirrors", _flag),
    "pacs_filter": ("pacs_filter", _filter),
    "pacs_seconds": ("pacs_look_s", _look_s),
    "pacs_maps": ("pacs_maps", _flag),
    "users": ("users", _word),
    "allow_anonymous": ("allow_anonymous", _flag),
    "preference": ("preference", _flag),
    "preference_mean": ("preference_mean", _flag),
}
assert {name for name, _ in READERS.values()} == {field.name for field in fields(Settings)}
