"""`overread study`: the experiments of the papers, on your own data."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from overread.cli.console import DeviceOption, JsonOption, answers, print_json, progress_bar, remarks
from overread.cli.rated import AUTO, LayoutOption, LayoutOptionsOption, rated_in

if TYPE_CHECKING:
    from overread.imaging.rated import RatedDataset

WORK = Path(".study")
# Options that name places on the machine, and what stands for them in a command that is published.
PLACES = {"--data": "FOLDER", "--work": "FOLDER", "--out": "FOLDER", "--also": "FILE"}

study = typer.Typer(no_args_is_help=True, help="Repeat the papers' experiments, on your own data.")


@study.command("meduhip")
def meduhip(
    data: Annotated[
        Path,
        typer.Option(
            exists=True,
            file_okay=False,
            help="Images that several people labelled; which layouts are read, an unrecognised folder tells.",
        ),
    ],
    layout: LayoutOption = AUTO,
    option: LayoutOptionsOption = None,
    arm: Annotated[
        list[str] | None,
        typer.Option(
            help="What to compare: unet, meduhip, ablations, clicks, collapsed, ensemble, probunet; may be given "
            "several times. [default: all]",
            show_default=False,
        ),
    ] = None,
    folds: Annotated[int, typer.Option(min=2, help="Of the cross-validation, by patient.")] = 5,
    train_subset: Annotated[
        list[str] | None,
        typer.Option(
            help="Published part of the data to learn from, in place of folds; may be given several times.",
            show_default=False,
        ),
    ] = None,
    test_subset: Annotated[
        list[str] | None,
        typer.Option(
            help="Published part of the data to be tested on; may be given several times.", show_default=False
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Repetitions of every training.")] = 3,
    minutes: Annotated[
        float, typer.Option(min=0.01, help="Training budget of an arm, of one core's time.")
    ] = 4.0,
    device: Annotated[
        str, typer.Option(help="To train on: cpu, cuda, cuda:N. Sessions are played on the CPU.")
    ] = "cpu",
    turns: Annotated[int, typer.Option(min=1, help="Most interactions of a session.")] = 6,
    repetitions: Annotated[
        int, typer.Option(min=1, help="Ground truths drawn per case and number of raters.")
    ] = 1,
    threshold: Annotated[
        list[float] | None,
        typer.Option(
            min=0,
            max=1,
            help="Dice whose interactions are counted; may be given several times. [default: 0.88 and 0.9]",
            show_default=False,
        ),
    ] = None,
    cases: Annotated[
        int | None,
        typer.Option(min=4, help="Take only so many, whole patients drawn by chance.", show_default=False),
    ] = None,
    crop: Annotated[
        int | None,
        typer.Option(
            help="Cut every case to a square or cube of so many voxels about what any rater marked.",
            show_default=False,
        ),
    ] = None,
    ct: Annotated[bool, typer.Option("--ct", help="The images are in Hounsfield units.")] = False,
    work: Annotated[
        Path | None,
        typer.Option(
            help="Keeps what was done; given again, the study goes on. [default: .study/meduhip-NAME]",
            show_default=False,
        ),
    ] = None,
    part: Annotated[
        str,
        typer.Option(
            metavar="I/N",
            help="Do one of N parts of seeds and folds, for processes that share --work; the first prepares the "
            "cases, so let it begin alone.",
        ),
    ] = "1/1",
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write meduhip.json, meduhip.md, meduhip.png and sessions.json.gz here.", show_default=False
        ),
    ] = None,
    report_only: Annotated[
        bool, typer.Option("--report", help="Do nothing more; tell what is there so far.")
    ] = False,
    also: Annotated[
        list[Path] | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="sessions.json.gz of the same study, done elsewhere or before: counts as done. May be given several "
            "times.",
            show_default=False,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """How soon does a clinician get the mask they want, with MedUHIP and without?

    Simulated clinicians, each with the fused opinion of 1 … n raters in mind, pick candidates and click on errors.
    All arms learn from the same cases within the same budget; Dice is that of cases kept from training. A study that
    was stopped goes on; more seeds or arms are added to what is there.

    Examples:

        overread study meduhip --data brain_growth --out docs/results/meduhip

        overread study meduhip --data QUBIQ/brain-growth --layout qubiq --option task=1 --seeds 1 --arm meduhip

        overread study meduhip --data REFUGE2 --train-subset Training --test-subset Test --out results
    """
    from overread.imaging.rated import ensure_rated_sound
    from overread.studies.meduhip.pieces import FILE, pack, unpack
    from overread.studies.meduhip.report import markdown, plot, read_sessions, summary, who_rated
    from overread.studies.meduhip.study import Protocol, part_studied, run_study

    dataset = rated_in(data, layout, option)
    folder = work or WORK / f"meduhip-{dataset.name}"
    for sessions in also or ():
        unpack(sessions, folder)
    if not report_only:
        protocol = Protocol(
            folds=1 if train_subset or test_subset else folds,
            seeds=seeds,
            minutes=minutes,
            turns=turns,
            repetitions=repetitions,
            arms=tuple(arm or ()),
            ct=ct,
            device=device,
            cases=cases,
            crop=crop,
            train_subsets=tuple(train_subset or ()),
            test_subsets=tuple(test_subset or ()),
        )
        with progress_bar() as bar:
            task = bar.add_task("checking", total=1)
            ensure_rated_sound(dataset, lambda done, total: bar.update(task, completed=done / total))
            bar.reset(task, total=1)

            def report(what: str, share: float) -> None:
                bar.update(task, description=what, completed=share)

            run_study(dataset, folder, protocol, report, _part(part))
    lines = summary(folder, threshold or (0.88, 0.9))
    done = json.loads((folder / "study.json").read_text())
    parts = [done["protocol"].get(name, ()) for name in ("train_subsets", "test_subsets")]
    raters = who_rated(part_studied(dataset, done["protocol"]["cases"], *parts), *parts)
    tables = markdown(lines, raters)
    told: dict[str, Any] = {
        "dataset": dataset.name,
        "raters": raters,
        "study": done,
        "command": _command(),
        "lines": [asdict(line) for line in lines],
    }
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "meduhip.json").write_text(json.dumps(told, indent=1) + "\n")
        (out / "meduhip.md").write_text(tables)
        plot(lines, out / "meduhip.png", read_sessions(folder))
        pack(folder, out / FILE)
        remarks.print(f"Written to {out}", markup=False)
    if as_json:
        print_json(told)
    else:
        answers.print(tables, markup=False, soft_wrap=True)


def _part(text: str) -> tuple[int, int]:
    from overread.domain import BadInputError

    number, _, of = text.partition("/")
    if not (number.isdecimal() and of.isdecimal()):
        raise BadInputError(f"--part {text!r} is not I/N, such as 2/5")
    return int(number), int(of)


@study.command("preference")
def preference(
    data: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="Images that the same people labelled, who then take the place of computed raters.",
            show_default=False,
        ),
    ] = None,
    layout: LayoutOption = AUTO,
    option: LayoutOptionsOption = None,
    seeds: Annotated[int, typer.Option(min=1, help="Models trained, each on other pictures.")] = 3,
    minutes: Annotated[float, typer.Option(min=0.01, help="Training of each, of one core's time.")] = 3.0,
    cases: Annotated[int, typer.Option(min=2, help="Cases that each computed rater works through.")] = 12,
    rows: Annotated[
        int, typer.Option(min=1, help="How often each computed rater does so for each model.")
    ] = 5,
    work: Annotated[Path, typer.Option(help="Keeps what was done; given again, the study goes on.")] = WORK
    / "preference",
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write preference.json, preference.md and preference.png here.", show_default=False
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Does a memory of a clinician's habits spare them interactions?

    On computed pictures, with raters who each draw the same way in every case: how many interactions until what is
    shown has a Dice of 0.9 with what they want, from case to case, with memory and without; also where one in five
    says something at random. With --data the raters are people: half of the patients teach a model, and each rater
    works through the other half.

    Examples:

        overread study preference --out docs/results/preference

        overread study preference --data brain_growth --minutes 4 --out docs/results/preference-people
    """
    from overread.studies.meduhip.habits import (
        HabitProtocol,
        habits_json,
        habits_markdown,
        plot_habits,
        run_habits,
        summarise_habits,
    )

    if data is not None:
        _preference_of_people(rated_in(data, layout, option), seeds, minutes, work, out, as_json)
        return
    protocol = HabitProtocol(seeds, minutes, cases, rows)
    with progress_bar() as bar:
        task = bar.add_task("computing pictures", total=1)

        def report(what: str, share: float) -> None:
            bar.update(task, description=what, completed=share)

        habits = summarise_habits(run_habits(work, protocol, report))
    told = habits_json(habits, protocol)
    tables = habits_markdown(habits)
    _tell_preference(told, tables, lambda path: plot_habits(habits, path), out, as_json)


def _tell_preference(
    told: dict[str, Any], tables: str, plot: Callable[[Path], None], out: Path | None, as_json: bool
) -> None:
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "preference.json").write_text(json.dumps(told, indent=1) + "\n")
        (out / "preference.md").write_text(tables)
        plot(out / "preference.png")
        remarks.print(f"Written to {out}", markup=False)
    if as_json:
        print_json(told)
    else:
        answers.print(tables, markup=False, soft_wrap=True)


def _preference_of_people(
    dataset: RatedDataset, seeds: int, minutes: float, work: Path, out: Path | None, as_json: bool
) -> None:
    from overread.imaging.rated import ensure_rated_sound
    from overread.studies.meduhip.rater_habits import (
        plot_raters,
        raters_markdown,
        run_raters,
        summarise_raters,
    )
    from overread.studies.meduhip.study import Protocol

    with progress_bar() as bar:
        task = bar.add_task("checking", total=1)
        ensure_rated_sound(dataset, lambda done, total: bar.update(task, completed=done / total))

        def report(what: str, share: float) -> None:
            bar.update(task, description=what, completed=share)

        folder = work / dataset.name
        habits = summarise_raters(run_raters(dataset, folder, Protocol(seeds=seeds, minutes=minutes), report))
    told = {
        "dataset": dataset.name,
        "seeds": seeds,
        "minutes": minutes,
        "conditions": list(map(asdict, habits)),
    }
    tables = raters_markdown(habits)
    _tell_preference(told, tables, lambda path: plot_raters(habits, path), out, as_json)


@study.command("uga")
def uga(
    data: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="Folder of a set's data, or of the folders of several sets; the set `slides` needs none.",
        ),
    ] = None,
    sets: Annotated[
        str,
        typer.Option(
            help="Which sets, with commas: dsb2018, monuseg, slides, hippocampus, lidc, camelyon, raw."
        ),
    ] = "slides",
    arms: Annotated[
        str,
        typer.Option(
            help="What to compare, with commas: all (labels), random, foreground_random, most_uncertain, clasp_pe, "
            "sure_and_unsure, uga, pairwise_dice, adaptive_box, hed (stain augmentation), adabn, pseudo (see "
            "`docs/results/hospitals.md`). Told are these, of the seeds that have them all. "
            "[default: all but adaptive_box, told is what is done]",
            show_default=False,
        ),
    ] = "",
    central: Annotated[
        str,
        typer.Option(
            help="Domain that the model is first trained on, instead of the set's own.", show_default=False
        ),
    ] = "",
    seeds: Annotated[
        str, typer.Option(help="Such as 0-4 or 0,2: each divides and trains otherwise.")
    ] = "0-4",
    preset: Annotated[str, typer.Option(help="`small` for two cores, `paper` for a GPU.")] = "small",
    change: Annotated[
        list[str] | None,
        typer.Option(
            help="Another value for a field of the protocol, such as replay_share=0.7, iterations=300 or "
            "budgets=5,10,20; may be given several times. What is changed is kept apart.",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes; several may also be started by hand.")] = 1,
    device: DeviceOption = "auto",
    work: Annotated[Path, typer.Option(help="Keeps what was done; given again, the study goes on.")] = WORK
    / "uga",
    out: Annotated[
        Path | None,
        typer.Option(
            help="Gets results.json of each set, report.html, results.md and plots.", show_default=False
        ),
    ] = None,
    report_only: Annotated[
        bool, typer.Option("--report", help="Do nothing more; tell what is there so far.")
    ] = False,
    also: Annotated[
        list[Path] | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="results.json (or .json.gz) of other pieces of the same study, done elsewhere or before: told "
            "together with what is done here. May be given several times.",
            show_default=False,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Does asking by doubt help where a model was not trained, and does it help more than chance?

    A model learns at one place and is applied at others. There a robot labels the patches that a strategy asks about,
    the model learns from them as at a clinic, and cases that nobody learnt from judge: by place, the first included.
    Patients are never divided. A study that was stopped goes on; several processes may share one work folder.

    Examples:

        overread study uga --data ../shared/data --sets dsb2018 --seeds 0-2 --workers 2 --out results

        overread study uga --sets slides --preset paper --device cuda --workers 8 --out results

        overread study uga --data CAMELYON --sets camelyon --preset paper --device cuda
    """
    from overread.studies.uga.protocol import ARMS, changed_protocol
    from overread.studies.uga.report import TABLES, write_report
    from overread.studies.uga.results import write_results
    from overread.studies.uga.study import Job
    from overread.studies.uga.workers import run_with

    if data is not None and out is not None and out.resolve().is_relative_to(data.resolve()):
        raise typer.BadParameter(
            f"--out {out} lies in --data {data}, where the results would count as data that changed; "
            "give a folder outside"
        )
    job = Job(
        work=work,
        data=data,
        sets=_listed(sets),
        arms=_listed(arms) or ARMS,
        seeds=_numbers(seeds),
        protocol=changed_protocol(preset, change or []),
        device=device,
        central=central,
    )
    if not report_only:
        with progress_bar() as bar:
            task = bar.add_task("starting", total=1)
            run_with(job, workers, lambda what, share: bar.update(task, description=what, completed=share))
    folder = out or work / "report"
    results = write_results(job, folder, _command(), also or (), _listed(arms))
    if not results:
        raise typer.BadParameter(f"nothing is done in {work} yet; give the same command without --report")
    write_report(results, folder)
    remarks.print(f"Written to {folder}", markup=False)
    if as_json:
        print_json(results)
    else:
        answers.print((folder / TABLES).read_text(), markup=False, soft_wrap=True)


@study.command("change")
def change(
    before: Annotated[
        Path,
        typer.Argument(
            exists=True, dir_okay=False, help="results.json (or .json.gz) of `overread study uga`."
        ),
    ],
    after: Annotated[
        Path,
        typer.Argument(exists=True, dir_okay=False, help="The same of the study with something changed."),
    ],
    as_json: JsonOption = False,
) -> None:
    """What does a change of the protocol gain? Two results of `overread study uga`, seed by seed and case by case.

    Both judged the same held-out cases after trainings of the same seeds, so that their differences are paired. Told is
    every arm that both have, at the budgets that both have.

    Examples:

        overread study change docs/results/uga-slides/plain.json.gz docs/results/uga-slides/stain-0.05.json.gz
    """
    from overread.studies.sheets import markdown
    from overread.studies.uga.changes import change_sheets, changes
    from overread.studies.uga.elsewhere import read_files

    found = changes(*read_files((before, after)))
    if as_json:
        print_json([asdict(one) for one in found])
    else:
        answers.print(markdown(change_sheets(found)), markup=False, soft_wrap=True)


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _numbers(text: str) -> tuple[int, ...]:
    """`0-2,5` as 0, 1, 2, 5."""
    found: list[int] = []
    for part in _listed(text):
        first, _, last = part.partition("-")
        if not (first.isdigit() and (last or first).isdigit()):
            raise typer.BadParameter(f"seeds are whole numbers such as 0-4 or 0,2; got {part!r}")
        found += range(int(first), int(last or first) + 1)
    if not found:
        raise typer.BadParameter("a study needs at least one seed, such as --seeds 0-4")
    return tuple(dict.fromkeys(found))


def _command() -> str:
    """As it was typed, without where files lie."""
    said, before = ["overread"], ""
    for word in sys.argv[1:]:
        name, sign, _ = word.partition("=")
        if before in PLACES:
            said.append(PLACES[before])
        else:
            said.append(f"{name}={PLACES[name]}" if sign and name in PLACES else word)
        before = word
    return shlex.join(said)
