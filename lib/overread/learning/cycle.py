"""One turn of the loop: accepted labels, a challenger, the gate, and perhaps another champion.

    <work>/cycle.json      who is trained on what; stays until the next cycle begins
    <work>/retraining/     see `learning.retraining`; prepared cases are kept for the next cycle
    <work>/judged/         what champion and challenger said of each case

A cycle that was interrupted goes on where it was, with the labels that it began with; labels that came meanwhile wait
for the next one. It starts over where the champion, the options or a label's file is not what it was.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, Literal

from overread.domain import BadInputError
from overread.ensemble.calibrate import calibrate
from overread.ensemble.compute import choose_device
from overread.ensemble.slides.validation import calibrate_on_slides
from overread.ensemble.storage import calibration_from_json, read_description
from overread.ensemble.training import StoppedError, TrainingProgress
from overread.learning.central import read_central, sha256_of
from overread.learning.champions import HASH_LENGTH, ChampionStore
from overread.learning.durable import write_json_durably
from overread.learning.gate import Decision, GateOptions, judge, too_few
from overread.learning.options import RetrainingOptions
from overread.learning.reteaching import reteach
from overread.learning.retraining import retrain
from overread.learning.training_set import LocalCase, TrainingSet, ensure_retrainable, training_set
from overread.learning.versions import record_decision, settle
from overread.meduhip.storage import KIND as MEDUHIP
from overread.state.database import Database
from overread.state.decisions import decisions

if TYPE_CHECKING:
    from overread.learning.accepted import AcceptedLabels

log = logging.getLogger(__name__)

Stage = Literal["checking", "preparing", "training", "calibrating", "judging"]
Consensus = Literal["latest", "majority", "staple"]
# Where each stage begins and ends in the whole, in percent: a guess that lets one bar run from left to right.
SPANS: dict[Stage, tuple[int, int]] = {
    "checking": (0, 3),
    "preparing": (3, 10),
    "training": (10, 80),
    "calibrating": (80, 88),
    "judging": (88, 100),
}
FILE = "cycle.json"
RETRAINING, JUDGED = "retraining", "judged"


@dataclass(frozen=True)
class CycleProgress:
    """Where a cycle stands.

    Attributes:
        stage: what is being done.
        share: of the stage, 0 to 1.
        epoch, total_epochs: of the whole cycle: percent, and 100.
        training_dice: see `TrainingProgress`; None before it is known.
        seconds_left: of the training; None where it is not known.
        message: in words.
    """

    stage: Stage
    share: float
    epoch: int
    total_epochs: int
    training_dice: float | None
    seconds_left: float | None
    message: str


Report = Callable[[CycleProgress], None]


@dataclass(frozen=True)
class _Cycle:
    """What `cycle.json` says."""

    id: str
    request: str
    champion: str
    options: dict[str, Any]
    cases: tuple[LocalCase, ...]
    sha256: dict[str, str]


def run_cycle(
    recipe: str,
    store: ChampionStore,
    accepted: AcceptedLabels,
    database: Database,
    work: Path,
    retraining: RetrainingOptions,
    gate: GateOptions,
    image_of: Callable[[str], Path | None],
    consensus: Consensus = "latest",
    device: str = "cpu",
    progress: Report | None = None,
    stop: Event | None = None,
    *,
    request: str = "",
    centre_of: Callable[[str], str] = lambda _: "",
) -> Decision:
    """Train a challenger on what was accepted, let the gate decide, and promote it if it passed.

    Call it again after an interruption, with the same arguments, and it carries on. Not for two callers at once with
    one `work` folder.

    Args:
        work: keeps everything that an interruption must not cost.
        image_of: the image of a case, or None where it is gone.
        consensus: how several raters' labels of one case become one.
        centre_of: where a case, or a patient's cases, were made; empty where that is not known.
        request: who asks. A cycle that was decided for the same request is not run again: its decision is returned.

    Raises:
        BadInputError: there are too few cases; the recipe has no champion or no central data; data are broken.
        StoppedError: `stop` was set.
    """
    work, device = Path(work), str(choose_device(device))
    work.mkdir(parents=True, exist_ok=True)
    tell = _Teller(progress, stop)
    settle(database, store)
    kept = _read(work)
    if kept is not None and (decided := _decided(database, recipe, kept)) is not None:
        if request and kept.request == request:
            _clean(work)
            return decided
        kept = None
    champion = store.current(recipe)
    description = read_description(champion)
    ensure_retrainable(description)
    classes = description["classes"]

    tell("checking", 0.0, "checking the accepted labels")
    accepted.check(recipe, image_of, classes, time.time())
    local = [
        LocalCase(
            case.id,
            (case.image,),
            case.label,
            case.patient,
            case.protected,
            centre_of(case.id) or centre_of(case.patient),
            # Several opinions are what a MedUHIP model is there for; an ensemble learns from their consensus.
            case.ratings if description["kind"] == MEDUHIP else (),
        )
        for case in accepted.cases(recipe, image_of, consensus, classes)
    ]
    options = _options(retraining, gate, consensus)
    if kept is None or (why := _stale(kept, champion, options, local)):
        if kept is not None:
            log.info("The interrupted training of %s is given up: %s", recipe, why)
            _clean(work)
        kept = _begin(request, champion, options, local)
    else:
        log.info("The interrupted training of %s goes on", recipe)
    kept = replace(kept, request=request)

    cases = training_set(
        champion, read_central(store.recipe_folder(recipe)), kept.cases, gate.fewest_protected
    )
    if reason := too_few(cases, gate):
        raise BadInputError(f"{recipe} is not trained: {reason}")
    _write(kept, work)
    train = reteach if description["kind"] == MEDUHIP else retrain
    challenger = train(champion, cases, work / RETRAINING, retraining, tell.training, stop)
    _calibrate(challenger, cases, device, tell)
    tell("judging", 0.0, "comparing challenger and champion")
    decision = judge(
        champion,
        challenger,
        cases,
        gate,
        device,
        lambda share: tell("judging", share, "comparing challenger and champion"),
        work=work / JUDGED,
        stop=stop,
    )
    decision = _unless_replaced(decision, store.current(recipe))
    if decision.promoted:
        store.add(recipe, challenger)
    record_decision(database, recipe, challenger, decision, time.time(), kept.id)
    settle(database, store)
    _clean(work)
    log.info("%s: %s", recipe, decision.reason)
    return decision


class _Teller:
    """Turns what each stage says into one progress, and ends the work where somebody asked for it."""

    def __init__(self, progress: Report | None, stop: Event | None) -> None:
        self._progress, self._stop = progress, stop
        self._dice: float | None = None

    def __call__(self, stage: Stage, share: float, message: str, seconds_left: float | None = None) -> None:
        if self._stop is not None and self._stop.is_set():
            raise StoppedError("the training was stopped; the same call goes on from here")
        if self._progress is None:
            return
        share = min(max(share, 0.0), 1.0)
        low, high = SPANS[stage]
        percent = int(low + share * (high - low))
        self._progress(CycleProgress(stage, share, percent, 100, self._dice, seconds_left, message))

    def training(self, now: TrainingProgress) -> None:
        self._dice = now.training_dice if now.training_dice is not None else self._dice
        if now.stage != "training":
            stage: Stage = "checking" if now.stage == "checking" else "preparing"
            self(stage, now.share, "checking the cases" if stage == "checking" else "preparing cases")
            return
        words = f"training {now.members} members, step {now.iteration}"
        if self._dice is not None:
            words += f", Dice on their patches {self._dice:.3f}"
        self("training", now.share, words, now.seconds_left)


def _calibrate(challenger: Path, cases: TrainingSet, device: str, tell: _Teller) -> None:
    """Calibrate a challenger, unless an interrupted cycle had done it."""
    known = calibration_from_json(read_description(challenger).get("calibration"))
    if not known.bands:
        words = "calibrating the doubt"
        tell("calibrating", 0.0, words)
        calibrate(
            challenger, cases.dataset, device=device, progress=lambda share: tell("calibrating", share, words)
        )
    if cases.dataset.um_per_px is not None and known.cascade is None:
        found = calibrate_on_slides(
            challenger,
            cases.dataset,
            device=device,
            progress=lambda share: tell("calibrating", share, "setting the cascade"),
        )
        if found is not None:
            log.info("%s", found.words)


def _unless_replaced(decision: Decision, champion: Path) -> Decision:
    """A challenger was compared with one champion; it cannot take the place of another."""
    if not decision.promoted or champion.name == decision.champion:
        return decision
    reason = (
        f"not promoted because {champion.name} took the place of champion {decision.champion} meanwhile; "
        f"against that one it would have been {decision.reason}"
    )
    return replace(decision, promoted=False, reason=reason)


def _options(retraining: RetrainingOptions, gate: GateOptions, consensus: Consensus) -> dict[str, Any]:
    """What must stay the same for a cycle to go on."""
    chosen = asdict(retraining)
    for free in ("device", "precision", "threads", "checkpoint_every_s"):
        chosen.pop(free)
    return {"retraining": chosen, "gate": asdict(gate), "consensus": consensus}


def _begin(request: str, champion: Path, options: dict[str, Any], local: Sequence[LocalCase]) -> _Cycle:
    hashes = {case.id: _hash(case) for case in local}
    facts = [champion.name, options, hashes, time.time()]
    identifier = sha256(json.dumps(facts).encode()).hexdigest()[:HASH_LENGTH]
    return _Cycle(identifier, request, champion.name, options, tuple(local), hashes)


def _stale(kept: _Cycle, champion: Path, options: dict[str, Any], local: Sequence[LocalCase]) -> str:
    """Why an interrupted cycle cannot go on; empty where it can."""
    if kept.champion != champion.name:
        return f"{champion.name} is the champion now, not {kept.champion}"
    if kept.options != json.loads(json.dumps(options)):
        return "the options are others"
    accepted = {case.id: case for case in local}
    for case in kept.cases:
        now = accepted.get(case.id)
        if now is None:
            return f"the label of {case.id} is not accepted any more"
        if (now.protected, now.patient) != (case.protected, case.patient):
            return f"{case.id} is another patient's, or is protected now"
        is_there = case.ratings == now.ratings and all(path.exists() for path in (case.label, *case.ratings))
        if not is_there or _hash(case) != kept.sha256[case.id]:
            return f"the label of {case.id} changed"
    return ""


def _hash(case: LocalCase) -> str:
    """Of its label, and of each rater's where several gave one."""
    hashes = [sha256_of(path) for path in (case.label, *case.ratings)]
    return hashes[0] if len(hashes) == 1 else sha256(" ".join(hashes).encode()).hexdigest()


def _decided(database: Database, recipe: str, cycle: _Cycle) -> Decision | None:
    with database.reading() as c:
        found = [row for row in decisions(c, recipe) if row.report.get("cycle") == cycle.id]
    return Decision.from_json(found[-1].report) if found else None


def _read(work: Path) -> _Cycle | None:
    try:
        values = json.loads((work / FILE).read_text())
        cases = tuple(
            LocalCase(
                row["id"],
                tuple(Path(path) for path in row["channels"]),
                Path(row["label"]),
                row["patient"],
                row["protected"],
                row.get("centre", ""),
                tuple(Path(path) for path in row.get("ratings", ())),
            )
            for row in values["cases"]
        )
        return _Cycle(**{**values, "cases": cases})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("%s is damaged (%r); the training starts over", work / FILE, error)
        return None


def _write(cycle: _Cycle, work: Path) -> None:
    rows = [
        {
            "id": case.id,
            "channels": [str(path) for path in case.channels],
            "label": str(case.label),
            "patient": case.patient,
            "protected": case.protected,
            "centre": case.centre,
            "ratings": [str(path) for path in case.ratings],
        }
        for case in cycle.cases
    ]
    write_json_durably(work / FILE, {**vars(cycle), "cases": rows})


def _clean(work: Path) -> None:
    """Leave nothing but prepared cases and the memory of what the last cycle was."""
    shutil.rmtree(work / JUDGED, ignore_errors=True)
    for path in (work / RETRAINING).glob("*"):
        if path.is_dir() and path.name != "cases":
            shutil.rmtree(path, ignore_errors=True)
        elif path.is_file():
            path.unlink(missing_ok=True)
