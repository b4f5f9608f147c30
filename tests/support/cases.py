"""Cases with known scores, for strategies and the queue."""

from collections.abc import Sequence

import numpy as np

from overread.queue.cases import Cases

CLASSES = ("liver", "tumour")


def some_cases(
    count: int,
    *,
    prefix: str = "case",
    doubt: Sequence[float] | np.ndarray | None = None,
    class_doubt: np.ndarray | None = None,
    foreground_mm3: np.ndarray | None = None,
    features: np.ndarray | None = None,
    patients: Sequence[str] | None = None,
    quality: Sequence[float] | None = None,
) -> Cases:
    """`count` cases called `case0`, `case1`, …; what is not given is not known."""
    return Cases(
        ids=tuple(f"{prefix}{index}" for index in range(count)),
        patients=tuple(patients) if patients is not None else tuple(f"{prefix}{n}" for n in range(count)),
        classes=CLASSES,
        doubt=unknown(count) if doubt is None else np.array(doubt, dtype=float),
        quality=unknown(count) if quality is None else np.array(quality, dtype=float),
        class_doubt=unknown(count, 2) if class_doubt is None else np.array(class_doubt, dtype=float),
        foreground_mm3=unknown(count, 2) if foreground_mm3 is None else np.array(foreground_mm3, dtype=float),
        features=unknown(count, 0) if features is None else np.array(features, dtype=np.float32),
    )


def known_cases(count: int, seed: int = 0, prefix: str = "case") -> Cases:
    """Cases about which everything is known: random doubt, volumes and places far apart."""
    rng = np.random.default_rng(seed)
    return some_cases(
        count,
        prefix=prefix,
        doubt=rng.uniform(0.01, 1, count),
        quality=rng.uniform(0, 1, count),
        class_doubt=rng.uniform(0.01, 1, (count, 2)),
        foreground_mm3=rng.uniform(100, 1000, (count, 2)),
        features=rng.normal(0, 10, (count, 20)),
    )


def unknown(*shape: int) -> np.ndarray:
    """NaN throughout."""
    return np.full(shape, np.nan)
