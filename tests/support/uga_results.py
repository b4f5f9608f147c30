"""Results of a study as it writes them, computed from what each arm is meant to be worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

CENTRAL = "violet"
# Dice without a label and with all, by domain.
LEVELS = {"violet": (0.9, 0.9), "grey": (0.3, 0.7), "pink": (0.5, 0.7)}
# Share of the gap that an arm closes at each budget.
SHARES = {
    "uga": (0.2, 0.4),
    "clasp_pe": (0.6, 0.8),
    "foreground_random": (0.4, 0.6),
    "random": (0.3, 0.5),
}
FREE = {"none": 0.0, "all": 1.0, "hed": 0.1, "adabn": -0.1}


def study_of(
    *,
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    budgets: Sequence[int] = (0, 5, 10),
    levels: Mapping[str, tuple[float, float]] = LEVELS,
    shares: Mapping[str, Sequence[float]] = SHARES,
    forgetting: Mapping[str, float] | None = None,
    cases: int = 8,
    noise: float = 0.01,
    patches: int = 40,
    name: str = "three stains",
) -> dict[str, Any]:
    """A study in which every arm is worth what `shares` says, with the given noise on each case.

    Args:
        forgetting: Dice that an arm loses on the central domain.
        noise: deviation of a case's Dice that each training has of its own; hard and easy cases differ by ten times
            that in all arms alike.
    """
    rng = np.random.default_rng(0)
    arms = [*shares, *FREE]
    rows: list[dict[str, Any]] = []
    picks: list[dict[str, Any]] = []
    ease = {(domain, case): rng.normal(0, 10 * noise) for domain in levels for case in range(cases)}
    for seed in seeds:
        for arm in arms:
            curve = _curve(arm, budgets, shares)
            for budget, share in curve.items():
                for domain, (floor, ceiling) in levels.items():
                    if domain == CENTRAL and arm == "adabn":
                        continue
                    lost = (forgetting or {}).get(arm, 0.0) if domain == CENTRAL else 0.0
                    for case in range(cases):
                        is_negative = case == 0 and domain == "grey"
                        dice = floor + share * (ceiling - floor) - lost
                        dice += ease[domain, case] + rng.normal(0, noise)
                        rows.append(
                            {
                                "seed": seed,
                                "arm": arm,
                                "budget": budget,
                                "domain": domain,
                                "case": f"{domain}_{case}",
                                "patient": f"{domain}_{case // 2}",
                                "kind": "negative" if is_negative else ("micro", "macro")[case % 2],
                                "dice": None if is_negative else float(np.clip(dice, 0, 1)),
                                "dice_per_class": {"Nucleus": None if is_negative else dice},
                                "false_mm2": 0.5 if is_negative else 0.125,
                            }
                        )
                    if arm in shares and domain != CENTRAL:
                        picks += _asked(seed, arm, budget, domain, rng)
    return {
        "study": {
            "set": name,
            "preset": "small",
            "budgets": list(budgets),
            "arms": arms,
            "seeds": list(seeds),
            "central": CENTRAL,
            "domains": list(levels),
            "patch_px": 128,
            "um_per_px": 0.5,
            "command": "overread study uga --data DIR",
            "seconds": 5400.0,
        },
        "rows": rows,
        "picks": picks,
        "patches": _patches(seeds, levels, patches, rng),
        "doubt": _doubt(seeds, arms, levels),
        "gate": [
            {"seed": seed, "arm": arm, "budget": 10, "promoted": seed > 0, "reason": "computed"}
            for seed in seeds
            for arm in shares
        ],
    }


def _curve(arm: str, budgets: Sequence[int], shares: Mapping[str, Sequence[float]]) -> dict[int, float]:
    if arm in shares:
        return dict(zip(budgets[1:], shares[arm], strict=True))
    return {max(budgets) if arm == "all" else 0: FREE[arm]}


def _asked(seed: int, arm: str, budget: int, domain: str, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Five patches a round, each 0.004 mm² and a hundredth of the tissue."""
    return [
        {
            "seed": seed,
            "arm": arm,
            "budget": budget,
            "domain": domain,
            "case": f"{domain}_train_{number}",
            "box": [128 * number, budget, 128, 128],
            "score": float(rng.random()),
            "mm2": 0.004,
            "tissue_share": 0.01,
            "foreground_share": 0.25,
        }
        for number in range(5)
    ]


def _patches(
    seeds: Sequence[int], levels: Mapping[str, tuple[float, float]], count: int, rng: np.random.Generator
) -> list[dict[str, Any]]:
    """Doubt that goes against Dice under `pairwise_dice`, and with nothing under `uga`."""
    found = []
    for seed in seeds:
        for domain in levels:
            for number in range(count):
                dice = float(rng.uniform(0.1, 0.95))
                for measure in ("pairwise_dice", "uga"):
                    doubt = 1 - dice if measure == "pairwise_dice" else float(rng.random())
                    found.append(
                        {
                            "seed": seed,
                            "domain": domain,
                            "case": f"{domain}_{number % 10}",
                            "box": [number, 0, 128, 128],
                            "measure": measure,
                            "uncertainty": doubt + float(rng.normal(0, 0.08)),
                            "dice": dice if number else None,
                        }
                    )
    return found


def _doubt(
    seeds: Sequence[int], arms: Sequence[str], levels: Mapping[str, tuple[float, float]]
) -> list[dict[str, Any]]:
    return [
        {
            "seed": seed,
            "arm": arm,
            "budget": 0,
            "domain": domain,
            "aurc": 0.02,
            "augrc": 0.01,
            "ece_before": 0.08,
            "ece_after": 0.02 + 0.001 * seed,
            "temperature": 1.4,
            "error_share": 0.05,
            "errors_in_high": 0.6,
            "shown_in_high": 0.04,
            "errors_in_moderate": None,
            "shown_in_moderate": None,
        }
        for seed in seeds
        for arm in arms[:1]
        for domain in levels
    ]
