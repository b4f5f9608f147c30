"""Which settings of an episode are worth it: variants of MedUHIP on validation cases.

    python -m overread.studies.meduhip.tune --data DIR --work DIR --device cuda --minutes 1 --variant "as in the study"
    … --variant "as in the study" --worth 0.1 --worth 0.2      # share of the missing Dice that makes picking worth it

Of the training cases of the study's first fold, a third is held out; what is learnt from the rest plays with these.
The study's other folds test on them, so that its figures are of cases that settings were chosen on.
Each variant and seed leaves a file, so that several processes share the work, and the table shows what is there.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from overread.ensemble.member_training import write_json
from overread.imaging.rated import AUTO, read_rated
from overread.meduhip.episode import NOTHING, EpisodeOptions
from overread.meduhip.training import clicking
from overread.studies.meduhip.arms import CLICK_SHARE, PLAIN, WARM_SHARE, Bench, Contest
from overread.studies.meduhip.clinicians import CLICKS, EITHER, WORTH_PICKING
from overread.studies.meduhip.players import MedUHIPPlayer
from overread.studies.meduhip.report import SHOWN_TURNS
from overread.studies.meduhip.study import FOLDS_SEED, Protocol, play_contest, prepare_study, some_of

HELD_OUT = 1 / 3
ONE_OPINION = clicking(EpisodeOptions())
MANY = replace(EpisodeOptions(), samples=8, pick_share=0.5)


@dataclass(frozen=True)
class Variant:
    """How a model is trained after its first masks.

    Attributes:
        episode: of its training.
        click_share: see `MedUHIPOptions`.
    """

    episode: EpisodeOptions
    click_share: float = 0.0


VARIANTS = {
    "as in the study": Variant(EpisodeOptions(), CLICK_SHARE),
    "styles at once": Variant(EpisodeOptions()),
    "eight samples, many picks": Variant(MANY, CLICK_SHARE),
    "eight samples, many picks, styles at once": Variant(MANY),
    "eight samples, styles at once": Variant(replace(EpisodeOptions(), samples=8)),
    "many picks, styles at once": Variant(replace(EpisodeOptions(), pick_share=0.5)),
    "less coverage": Variant(replace(EpisodeOptions(), coverage_weight=1.0), CLICK_SHARE),
    "five turns": Variant(replace(EpisodeOptions(), turns=5), CLICK_SHARE),
    "clicks, one sample": Variant(ONE_OPINION),
    "clicks, one sample, five turns": Variant(replace(ONE_OPINION, turns=5)),
    "plain": Variant(PLAIN),
}


def try_variant(
    data: Path,
    work: Path,
    name: str,
    seed: int,
    protocol: Protocol,
    worths: Sequence[float] = (WORTH_PICKING,),
) -> None:
    """Train one variant with one seed and play with the held-out cases; nothing where that was done.

    Args:
        worths: of clinicians, see `Clinician.worth_picking`.
    """
    done = work / f"{name}_{seed}.json"
    if done.exists():
        return
    dataset = some_of(read_rated(data, AUTO), protocol.cases)
    plan, configuration = prepare_study(dataset, work, protocol)
    cases = dataset.folds(protocol.folds, np.random.default_rng(FOLDS_SEED))[0].train
    held = round(HELD_OUT * len(cases))
    folder = work / name / str(seed)
    folder.mkdir(parents=True, exist_ok=True)
    ids = tuple(case.id for case in cases[:-held])
    bench = Bench(folder, ids, work / "data", plan, configuration, protocol.minutes, seed, protocol.device)
    variant = VARIANTS[name]
    model = bench.train("variant", variant.episode, 1 - WARM_SHARE, click_share=variant.click_share)
    one = variant.episode.samples == 1
    player = MedUHIPPlayer(model, sampler=NOTHING) if one else MedUHIPPlayer(model)
    clinicians = [CLICKS] if one else [replace(EITHER, name=f"worth {w:g}", worth_picking=w) for w in worths]
    contests = [Contest(clinician.name, player, clinician) for clinician in clinicians]
    rows = {c.name: play_contest(c, cases[-held:], work / "data", protocol, seed) for c in contests}
    episodes = json.loads((folder / ".variant" / "episodes.json").read_text())
    write_json({"contests": rows, **episodes}, done)


def table_of(work: Path) -> Table:
    """Mean Dice after some interactions of each variant."""
    table = Table(title="Dice on validation cases")
    for heading in ("variant", "clinician", "seeds", "episodes", *(f"t={turn}" for turn in SHOWN_TURNS)):
        table.add_column(heading)
    for name in VARIANTS:
        found = [json.loads(path.read_text()) for path in sorted(work.glob(f"{name}_*.json"))]
        if not found:
            continue
        episodes = np.mean([one["episodes"] for one in found])
        for clinician in dict.fromkeys(name for one in found for name in one["contests"]):
            played = [one["contests"][clinician]["sessions"] for one in found if clinician in one["contests"]]
            means = [
                np.mean([[s["dice"][turn] for turn in SHOWN_TURNS] for s in sessions], axis=0)
                for sessions in played
            ]
            spread = zip(np.mean(means, axis=0), np.std(means, axis=0), strict=True)
            cells = (f"{mean:.4f} ± {deviation:.4f}" for mean, deviation in spread)
            table.add_row(name, clinician, str(len(played)), f"{episodes:.0f}", *cells)
    return table


def main() -> None:
    """Try what was asked for, show what is there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument(
        "--variant", action="append", choices=list(VARIANTS), help="[default: none, show only]"
    )
    parser.add_argument("--seed", type=int, action="append", help="[default: 0]")
    parser.add_argument("--minutes", type=float, default=1.0, help="of a variant, of one core's time")
    parser.add_argument("--worth", type=float, action="append", help=f"[default: {WORTH_PICKING}]")
    parser.add_argument("--cases", type=int, help="at the most [default: all]")
    parser.add_argument("--ct", action="store_true", help="intensities are Hounsfield units")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    protocol = Protocol(
        minutes=arguments.minutes, device=arguments.device, cases=arguments.cases, ct=arguments.ct
    )
    for name in arguments.variant or ():
        for seed in arguments.seed or (0,):
            worths = arguments.worth or (WORTH_PICKING,)
            try_variant(arguments.data, arguments.work, name, seed, protocol, worths)
    Console(width=120).print(table_of(arguments.work))


if __name__ == "__main__":
    main()
