"""How the plots of all studies look."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Okabe and Ito's colours, which the colour-blind can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255")
MARKERS = "osD^vPX"
DPI = 130


@contextmanager
def picture(path: Path, size: tuple[float, float]) -> Iterator[Figure]:
    """A figure of so many inches to draw into, written to the file when the block ends.

    Other libraries (nnunetv2 among them) change matplotlib's defaults for the whole process; here they do not count.
    """
    with matplotlib.rc_context(matplotlib.rcParamsDefault):
        # Not pyplot: it keeps figures alive and wants the main thread.
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        figure.savefig(path, dpi=DPI)


def tidy(axes: Axes) -> None:
    """A light grid, no frame above and on the right."""
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
