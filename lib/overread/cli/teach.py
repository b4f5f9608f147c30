"""`overread train --model meduhip`: a model that follows the clinician, from cases of one rater or of several."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from overread.cli.console import chosen_device, progress_bar
from overread.cli.rated import AUTO, layout_options, rated_in

if TYPE_CHECKING:
    from overread.learning.champions import ChampionStore
    from overread.meduhip.lessons import Lessons


def learn_meduhip(
    name: str,
    data: Path,
    store: ChampionStore,
    work: Path | None = None,
    *,
    layout: str = AUTO,
    option: Sequence[str] | None = None,
    iterations: int | None = None,
    minutes: float | None = None,
    validation_share: float | None = None,
    seed: int = 0,
    device: str = "auto",
    restart: bool = False,
) -> dict[str, Any]:
    """Train, calibrate and publish, with progress bars; None leaves a choice to the recipe.

    Returns:
        `model`, `kind`, `champion`, `folder`, `cases`, `held_out`, `raters`, `calibration` as plain JSON.

    Raises:
        BrokenDatasetError: cases that cannot be trained on; nothing was trained.
        BadInputError: options that do not fit, or the work folder holds another training.
    """
    from overread.cli.train import WORK, calibration_summary, training_bar
    from overread.ensemble.calibrate import calibrate_on
    from overread.ensemble.compute import leave_a_core
    from overread.ensemble.storage import read_description
    from overread.learning.central import protected_of, remember_central
    from overread.learning.champions import checked_recipe_name
    from overread.meduhip.lessons import SingleLessons
    from overread.meduhip.teach import VALIDATION_SHARE, Wishes, teach
    from overread.recipes import FOLDER, recipe_named

    recipe = recipe_named(checked_recipe_name(name))
    chosen = chosen_device(device)
    wishes = Wishes.of(
        recipe.meduhip, FOLDER, iterations=iterations, minutes=minutes, seed=seed, device=chosen
    )
    lessons = lessons_in(data, name, layout, option, seed)
    work = work or store.root / WORK / name
    with training_bar() as report:
        folder = teach(
            name,
            lessons,
            work,
            wishes,
            plan_overrides=recipe.plan,
            progress=report,
            restart=restart,
            validation_share=VALIDATION_SHARE if validation_share is None else validation_share,
        )
    leave_a_core()
    with progress_bar() as bar:
        task = bar.add_task("calibrating the doubt", total=1)
        calibration = calibrate_on(
            folder,
            lessons.name,
            lessons.patients,
            lessons.judged,
            device=chosen,
            progress=lambda share: bar.update(task, completed=share),
        )
        bar.update(task, completed=1)
    published = store.publish(name, folder)
    training = read_description(published)["plan"]["training"]
    if isinstance(lessons, SingleLessons):
        remember_central(published.parent, data, lessons.dataset, protected_of(read_description(published)))
    # The work folder is the last to go: interrupted here, the same command publishes again.
    shutil.rmtree(work)
    return {
        "model": name,
        "kind": "meduhip",
        "champion": published.name,
        "folder": str(published),
        "cases": len(lessons.patients),
        "held_out": training["held_out"],
        "raters": training.get("raters") or [style["name"] for style in training["pseudo_raters"]],
        "pseudo_raters": "pseudo_raters" in training,
        "calibration": calibration_summary(calibration),
    }


def lessons_in(data: Path, name: str, layout: str, option: Sequence[str] | None, seed: int) -> Lessons:
    """The cases of a folder: of one rater in nnU-Net's raw layout, or of several in any layout that is known.

    Args:
        name: of the structure, where the layout's options name none.
        layout, option: see `rated_in`; with any, one structure of nnU-Net's raw layout is read.
    """
    from overread.imaging.dataset import DESCRIPTION, read_dataset
    from overread.meduhip.lessons import RatedLessons, SingleLessons

    if (data / DESCRIPTION).is_file() and layout == AUTO and not option:
        return SingleLessons(read_dataset(data), seed)
    structure = str(layout_options(option).get("structure", name))
    return RatedLessons(rated_in(data, layout, option), structure, seed)
