"""Does a memory of a clinician's habits spare them interactions? On computed pictures, with raters of known style.

A picture shows shells round a core, each a little darker than the one inside. Every rater draws up to one of them, or
generously beyond: that is a style, and it is the same in every picture. A model learns from pictures that all of them
drew. Then each rater, alone, works through a row of new cases, with memory and without, until what is shown has a Dice
of 0.9 with what they want. The memory sees what was shown in the end, not what was wanted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from overread.domain import BadInputError, Grid
from overread.ensemble.member_training import write_json
from overread.ensemble.plan import Normalisation
from overread.imaging.volumes import Volume
from overread.meduhip.choosers import Chooser
from overread.meduhip.episode import EpisodeOptions
from overread.meduhip.memory import Preference, learned, prior_state
from overread.meduhip.network import Configuration, MedUHIP
from overread.meduhip.prompts import Click
from overread.meduhip.rated_store import RatedStore
from overread.meduhip.session import answer, begin, click, pick
from overread.meduhip.training import MedUHIPOptions, train_meduhip
from overread.metrics.correlation import Interval, bootstrap_mean
from overread.studies.meduhip.clinicians import Clinician
from overread.studies.meduhip.players import MedUHIPPlayer, dice
from overread.studies.meduhip.study import BATCH, study_plan

SIZE = 64
# Semi-axes of the shells as shares of the outermost one's, and their grey values; noise of NOISE lies over them. The
# Dice of two neighbours is 0.78: whoever wants one is not served with the other.
SHELLS = (0.41, 0.512, 0.64, 0.8, 1.0)
GREYS = (150.0, 132.0, 114.0, 96.0, 78.0)
BODY, NOISE = 60.0, 6.0
# Where the generous rater draws, without any edge to see.
GENEROUS = 1.25
STYLES = ("core", "2 shells", "3 shells", "4 shells", "5 shells", "generous")
TRAINING_CASES = 60
# What is measured here is what styles are worth, so that they are learnt from the beginning.
STYLES_FIRST = EpisodeOptions(samples=8, pick_share=0.5)
ENOUGH_DICE = 0.9
MOST_INTERACTIONS = 8
MISCLICKS = 0.2
BOOTSTRAP_SEED = 1


@dataclass(frozen=True)
class HabitProtocol:
    """How the study is done.

    Attributes:
        seeds: models trained, each on other pictures.
        minutes: training of each, of one core's time.
        cases: that each rater works through.
        rows: how often each rater does so for each model, with other cases.
    """

    seeds: int = 3
    minutes: float = 3.0
    cases: int = 12
    rows: int = 5

    def __post_init__(self) -> None:
        if self.seeds < 1 or self.rows < 1 or self.cases < 2 or self.minutes <= 0:
            raise BadInputError("a study of habits needs a seed, a row, two cases and some minutes at least")


@dataclass(frozen=True)
class Condition:
    """With what a rater works.

    Attributes:
        name: in the table.
        remembers: whether the next case starts from what was accepted.
        misclicks: share of the interactions that say something at random.
    """

    name: str
    remembers: bool
    misclicks: float = 0.0


CONDITIONS = (
    Condition("no memory", remembers=False),
    Condition("memory", remembers=True),
    Condition("no memory, 20 % misclicks", remembers=False, misclicks=MISCLICKS),
    Condition("memory, 20 % misclicks", remembers=True, misclicks=MISCLICKS),
)


def picture(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """One case: image `(SIZE, SIZE)`, and what each of `STYLES` draws, boolean `(style, SIZE, SIZE)`."""
    centre = rng.uniform(0.4 * SIZE, 0.6 * SIZE, 2)
    axes = rng.uniform(0.24 * SIZE, 0.3 * SIZE, 2)
    angle = rng.uniform(0, np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    offsets = np.stack(np.meshgrid(*[np.arange(SIZE)] * 2, indexing="ij"), axis=-1) - centre
    distance = np.sqrt((((offsets @ turn) / axes) ** 2).sum(axis=-1))
    image = np.full((SIZE, SIZE), BODY)
    for share, grey in zip(reversed(SHELLS), reversed(GREYS), strict=True):
        image[distance <= share] = grey
    image = ndimage.gaussian_filter(image, 0.7) * rng.uniform(0.8, 1.2)
    drawn = np.stack([distance <= share for share in (*SHELLS, GENEROUS)])
    return (image + rng.normal(0, NOISE, image.shape)).astype(np.float32), drawn


def run_habits(
    work: Path, protocol: HabitProtocol, progress: Callable[[str, float], None] = lambda _what, _share: None
) -> list[dict[str, Any]]:
    """Train and play what was not trained and played yet. Returns all rows of cases: see `play_row`.

    Args:
        work: keeps models and what was played; given again, the study goes on.
        progress: hears what is being done, and the share that is done.
    """
    work.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for seed in range(protocol.seeds):
        path = work / f"seed_{seed}_{protocol.minutes:g}_{protocol.cases}_{protocol.rows}.json"
        if not path.exists():
            progress(f"training, seed {seed}", seed / protocol.seeds)
            model = trained(work / f"seed_{seed}_{protocol.minutes:g}", seed, protocol.minutes)
            progress(f"playing, seed {seed}", (seed + 0.5) / protocol.seeds)
            played = [
                {"seed": seed} | play_row(model, style, condition, protocol.cases, row, seed)
                for style in range(len(STYLES))
                for condition in CONDITIONS
                for row in range(protocol.rows)
            ]
            write_json({"rows": played}, path)
        rows += json.loads(path.read_text())["rows"]
    progress("done", 1.0)
    return rows


def trained(work: Path, seed: int, minutes: float) -> MedUHIP:
    """A model that learnt from `TRAINING_CASES` pictures of that seed; kept in `work`."""
    configuration = Configuration(backend="unet2d", width=12)
    finished = work / "model.pt"
    if finished.exists():
        model = MedUHIP(configuration)
        model.load_state_dict(torch.load(finished, weights_only=True))
        return model.eval()
    plan = study_plan((SIZE, SIZE), 1, (Normalisation("zscore"),), BATCH["cpu"][2])
    rng = np.random.default_rng([seed, 0])
    store = RatedStore(work / "cases")
    names = tuple(f"case{index}" for index in range(TRAINING_CASES))
    for name in names:
        image, masks = picture(rng)
        if not store.holds(name):
            volume = Volume(image[None], Grid(image.shape, np.eye(4)))
            store.add_rated(name, volume, masks.astype(np.uint8), plan, rng)
    options = MedUHIPOptions(
        minutes=minutes,
        seed=seed,
        device="cpu",
        threads=1,
        clock="processor",
        click_share=0.0,
        episode=STYLES_FIRST,
    )
    model = train_meduhip(work, names, plan, configuration, options)
    torch.save(model.state_dict(), finished)
    return model


def play_row(
    model: MedUHIP, style: int, condition: Condition, cases: int, row: int, seed: int
) -> dict[str, Any]:
    """One rater works through a row of cases.

    Returns:
        `style`, `condition`, `row`, and for each case `interactions` (the most where they gave up) and `first`, the
        Dice of what was shown before any.
    """
    pictures = np.random.default_rng([seed, 1, row])
    said = np.random.default_rng([seed, 2, row, style])
    clinician = Clinician("rater", Chooser(lapse=condition.misclicks))

    def drawn() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for _ in range(cases):
            voxels, masks = picture(pictures)
            image = torch.from_numpy((voxels - voxels.mean()) / voxels.std())[None]
            yield image, torch.from_numpy(masks[style])

    remember = all_of_it if condition.remembers else None
    counts, firsts = work_through(model, drawn(), clinician, said, row, remember)
    return {
        "style": STYLES[style],
        "condition": condition.name,
        "row": row,
        "interactions": counts,
        "first": firsts,
    }


def all_of_it(preference: Preference) -> Preference:
    """For `work_through`: the next case starts from all that is remembered."""
    return preference


def work_through(
    model: MedUHIP,
    cases: Iterable[tuple[torch.Tensor, torch.Tensor]],
    clinician: Clinician,
    said: np.random.Generator,
    seed: int,
    remember: Callable[[Preference], Preference] | None,
) -> tuple[list[int], list[float]]:
    """One clinician works through cases, one after the other, until each is good enough or given up.

    Args:
        cases: images `(channel, *space)`, each with the boolean mask `(*space)` that is wanted.
        said: of what the clinician says by chance.
        seed: of the model's draws.
        remember: what of the memory the next case starts from; None without memory.

    Returns:
        Interactions with each case, and the Dice of what was shown before any.
    """
    preference, player = Preference.none(model), MedUHIPPlayer(model)
    counts: list[int] = []
    firsts: list[float] = []
    for number, (image, wanted) in enumerate(cases):
        opened = player.opened(image)
        priors = None if remember is None else (prior_state(remember(preference), model),)
        session = begin(model, f"case {number}", "", seed=seed, priors=priors)
        for count in range(MOST_INTERACTIONS + 1):
            given = answer(model, opened, session)
            shown = given.logits > 0
            if count == 0:
                firsts.append(dice(shown, wanted))
            if dice(shown, wanted) >= ENOUGH_DICE or count == MOST_INTERACTIONS:
                counts.append(count)
                break
            offered = torch.stack([given.mask_of(index) for index in range(len(given.candidates))])
            reaction = clinician.reacts(shown, offered, wanted, said)
            if isinstance(reaction, Click):
                session = click(model, opened, session, given, reaction)
            elif reaction is not None:
                session = pick(model, opened, session, given, reaction)
        if remember is not None and bool(shown.any()):
            preference = learned(preference, model, opened, shown)
    return counts, firsts


@dataclass(frozen=True)
class Habit:
    """What was found for one condition.

    Attributes:
        condition: its name.
        interactions: to a Dice of 0.9, at each case, the mean over styles, models and rows.
        by_style: the same at the `told` case, by style.
        first: Dice at that case before any interaction.
        saved: how many fewer at that case than without memory and with as many misclicks; None without memory.
    """

    condition: str
    interactions: tuple[float, ...]
    by_style: dict[str, float]
    first: float
    saved: Interval | None


def summarise_habits(rows: Sequence[dict[str, Any]], told: int = 10) -> list[Habit]:
    """One `Habit` a condition; intervals by bootstrap over rows of cases, each of one model.

    Args:
        told: the case, counted from 1, at which conditions are compared; the last one where there are fewer.
    """
    at = min(told, len(rows[0]["interactions"])) - 1
    found = []
    for condition in CONDITIONS:
        own = _of(rows, condition.name)
        baseline = next(c for c in CONDITIONS if not c.remembers and c.misclicks == condition.misclicks)
        saved = None
        if condition.remembers:
            usual = _of(rows, baseline.name)
            fewer = np.array([usual[key]["interactions"][at] - own[key]["interactions"][at] for key in own])
            groups = np.array([f"{seed} {row}" for seed, _, row in own])
            saved = bootstrap_mean(
                fewer.astype(float),
                generator=np.random.default_rng(BOOTSTRAP_SEED),
                groups=groups,
            )
        counts = np.array([row["interactions"] for row in own.values()], dtype=float)
        by_style = {
            style: float(np.mean([row["interactions"][at] for row in own.values() if row["style"] == style]))
            for style in STYLES
        }
        found.append(
            Habit(
                condition.name,
                tuple(counts.mean(axis=0).tolist()),
                by_style,
                float(np.mean([row["first"][at] for row in own.values()])),
                saved,
            )
        )
    return found


def _of(rows: Sequence[dict[str, Any]], condition: str) -> dict[tuple[Any, ...], dict[str, Any]]:
    return {(row["seed"], row["style"], row["row"]): row for row in rows if row["condition"] == condition}


def habits_json(habits: Sequence[Habit], protocol: HabitProtocol) -> dict[str, Any]:
    """All of it as plain JSON."""
    return {"protocol": asdict(protocol), "conditions": [asdict(habit) for habit in habits]}


def habits_markdown(habits: Sequence[Habit], told: int = 10) -> str:
    """The table as Markdown."""
    count = len(habits[0].interactions)
    at = min(told, count)
    shown = sorted({1, 2, 5, at})
    heads = [f"case {case}" for case in shown if case <= count]
    lines = [
        f"| interactions to {ENOUGH_DICE:g} Dice | {' | '.join(heads)} | saved at case {at} | "
        f"{' | '.join(f'{style}, case {at}' for style in STYLES)} | Dice at first, case {at} |",
        "|" + "---|" * (len(heads) + len(STYLES) + 3),
    ]
    for habit in habits:
        cells = [f"{habit.interactions[case - 1]:.2f}" for case in shown if case <= count]
        cells.append("" if habit.saved is None else str(habit.saved))
        cells += [f"{value:.2f}" for value in habit.by_style.values()]
        lines.append(f"| {habit.condition} | {' | '.join(cells)} | {habit.first:.3f} |")
    return "\n".join(lines) + "\n"


def plot_habits(habits: Sequence[Habit], path: Path) -> None:
    """Interactions from case to case, one curve a condition."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    axes = figure.subplots()
    for habit in habits:
        misses = "misclicks" in habit.condition
        remembers = habit.saved is not None
        axes.plot(
            range(1, len(habit.interactions) + 1),
            habit.interactions,
            marker="o",
            label=habit.condition,
            color="tab:blue" if remembers else "tab:grey",
            linestyle="--" if misses else "-",
        )
    axes.set_xlabel("case of a rater")
    axes.set_ylabel(f"interactions to {ENOUGH_DICE:g} Dice")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
