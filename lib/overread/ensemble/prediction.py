"""All members over one volume in a single pass of windows."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from overread.domain import BadInputError, Grid, OpinionSums, UncertaintyMap, first_choice
from overread.ensemble.compute import Precision, autocast_for
from overread.ensemble.ensemble import Ensemble, Member, Prepared
from overread.imaging.volumes import Volume
from overread.imaging.windows import (
    AxisInterpolation,
    gaussian_weight,
    half_weight,
    padding_to,
    window_starts,
)
from overread.uncertainty.agreement import SPECK_MM3, AgreementCounts
from overread.uncertainty.measures import MEASURES

# Called for each finished block: the members' logits `(member, class, *block)` before any temperature, valid until it
# returns, and a function that cuts the same block out of an array `(*space)` on the input grid.
Visitor = Callable[[torch.Tensor, Callable[[np.ndarray], np.ndarray]], None]
# A network is shown as many windows at a time as hold so many voxels together, and one at least: for one small volume
# PyTorch takes its slowest convolution on processors, by which a window took up to five times as long as one of a few.
VOXELS_SHOWN = 1 << 18


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the ensemble says about one volume, on the volume's own grid.

    Attributes:
        probabilities: mean over members `(class, *space)`, float32.
        labels: class index of the largest mean probability, `(*space)` uint8.
        maps: uncertainty maps by measure name.
        scores: whole-case scores by name: `pairwise_dice_disagreement`, in volumes without members' specks
            (`SPECK_MM3`).
        grid: the input's grid.
        timing_s: seconds by stage: `prepare`, `members`, `total`.
        members_spared: share of the members' window evaluations that the cascade left out (0 without).
    """

    probabilities: torch.Tensor
    labels: np.ndarray
    maps: dict[str, UncertaintyMap]
    scores: dict[str, float]
    grid: Grid
    timing_s: dict[str, float]
    members_spared: float


def predict(
    ensemble: Ensemble,
    volume: Volume,
    *,
    measures: Sequence[str] = ("predictive_entropy",),
    members: int | None = None,
    cascade: float | None = None,
    precision: Precision = "auto",
    half_sums: bool = False,
    device: torch.device | str = "cpu",
    visit: Visitor | None = None,
    progress: Callable[[float], None] | None = None,
) -> Prediction:
    """Let the members speak about a volume.

    The volume is prepared once; each window is cut out once and shown to every member. Windows run along one
    axis, and what no later window touches is interpolated to the input's voxels, turned into opinions, summed
    and forgotten: memory holds the members' logits for one window's depth, whatever the volume's length.

    Args:
        measures: names of uncertainty maps to make.
        members: use only the first so many.
        cascade: in windows where the first member's largest `1 - max p` is below this, the others are not asked;
            their logits are taken to be those of the first. None asks everybody everywhere.
        precision: `full` is float32; `reduced` is bfloat16 (CPU) or float16 (GPU); `auto` is reduced where the
            hardware has fast arithmetic for it.
        half_sums: add windows up in float16, as nnunetv2's own predictor does; less exact, for comparisons with it.
        device: where the members' weights are.
        visit: see `Visitor`.
        progress: told the share done, in (0, 1]; may raise to cancel.

    Raises:
        BadInputError: the volume's channels or axes are not those the members were trained on.
    """
    started = time.perf_counter()
    if volume.voxels.shape[0] != len(ensemble.channels):
        raise BadInputError(
            f"{ensemble.name} expects {len(ensemble.channels)} channels ({', '.join(ensemble.channels)}), "
            f"the image has {volume.voxels.shape[0]}"
        )
    if members is not None and not 1 <= members <= len(ensemble.members):
        raise BadInputError(f"{ensemble.name} has {len(ensemble.members)} members, {members} were asked for")
    asked = list(ensemble.members[:members])
    fields = [MEASURES[name] for name in measures]
    prepared = ensemble.prepare(volume)
    prepared_at = time.perf_counter()

    box_shape = tuple(stop - start for start, stop in prepared.crop)
    probabilities = torch.zeros(len(ensemble.classes), *box_shape)
    values = {field.name: torch.zeros(box_shape) for field in fields}
    counts = AgreementCounts(len(asked), len(ensemble.classes))
    windows = _MemberWindows(
        asked, ensemble.patch, ensemble.step, cascade, precision, half_sums, torch.device(device)
    )
    for where, logits in windows.blocks(prepared, progress):
        if visit is not None:
            visit(logits, lambda array, where=where: to_box(array, prepared)[where])
        sums = OpinionSums()
        votes = []
        for member_logits in logits:
            opinion = torch.softmax(member_logits / ensemble.calibration.temperature, dim=0)
            sums.add(opinion)
            votes.append(first_choice(opinion))
        counts.add(torch.stack(votes))
        probabilities[(slice(None), *where)] = sums.mean.cpu()
        for field in fields:
            values[field.name][where] = field(sums).values.cpu()
    finished = time.perf_counter()

    full_probabilities = to_input_grid(probabilities, prepared, background=True)
    labels = first_choice(full_probabilities).numpy()
    # A picture's pixels have no volume.
    speck = SPECK_MM3 / volume.grid.voxel_volume_mm3 if len(volume.grid.shape) == 3 else 0.0
    maps = {
        field.name: UncertaintyMap(
            to_input_grid(values[field.name][None], prepared, background=False)[0],
            field.unit,
            field.upper(len(asked), len(ensemble.classes)),
        )
        for field in fields
    }
    return Prediction(
        probabilities=full_probabilities,
        labels=labels,
        maps=maps,
        scores={"pairwise_dice_disagreement": counts.pairwise_dice_disagreement(speck)},
        grid=volume.grid,
        timing_s={
            "prepare": prepared_at - started,
            "members": finished - prepared_at,
            "total": time.perf_counter() - started,
        },
        members_spared=windows.spared / max(windows.evaluations, 1),
    )


class _MemberWindows:
    """The pass over the windows: members' logits, block by block along one axis."""

    def __init__(
        self,
        members: list[Member],
        patch: tuple[int, ...],
        step: float,
        cascade: float | None,
        precision: Precision,
        half_sums: bool,
        device: torch.device,
    ) -> None:
        self.members, self.patch, self.step, self.cascade = members, patch, step, cascade
        self.precision: Precision = precision
        self.sums = torch.float16 if half_sums else torch.float32
        self.device = device
        # nnunetv2's predictor shows its networks one window at a time.
        self.at_once = 1 if half_sums else max(1, VOXELS_SHOWN // math.prod(patch))
        self.evaluations = 0
        self.spared = 0

    def blocks(
        self, prepared: Prepared, progress: Callable[[float], None] | None
    ) -> Iterator[tuple[tuple[slice, ...], torch.Tensor]]:
        """Yield `(where in the box, logits (member, class, *block))`; together the blocks fill the box."""
        shape = tuple(prepared.voxels.shape[1:])
        box = tuple(stop - start for start, stop in prepared.crop)
        # The axis with the most windows, so that a block is a small part of the volume.
        along = max(range(len(shape)), key=lambda axis: shape[axis] / self.patch[axis])
        if self.sums == torch.float16:
            # nnunetv2's order of windows: each sum is rounded.
            along = 0
        paths = [AxisInterpolation(*sizes) for sizes in zip(shape, box, prepared.interpolation, strict=True)]
        ready: torch.Tensor | None = None
        first, done = 0, 0
        received = 0
        for slices in self._slabs(prepared.voxels, along, progress):
            received += slices.shape[2 + along]
            for axis, path in enumerate(paths):
                if axis != along:
                    slices = path(slices, 2 + axis)
            if paths[along].is_identity:
                where = slice(done, received)
                yield tuple(where if axis == along else slice(None) for axis in range(len(box))), slices
                done = received
                continue
            # What is kept for the next block must not be a view of the buffer.
            ready = slices.clone() if ready is None else torch.cat([ready, slices], dim=2 + along)
            upto = paths[along].outputs_from(received)
            if upto == done:
                continue
            outputs = slice(done, upto)
            yield (
                tuple(outputs if axis == along else slice(None) for axis in range(len(box))),
                paths[along](ready, 2 + along, outputs, first).to(self.sums).float(),
            )
            done = upto
            if done < box[along]:
                # The next output may lie beyond what has come so far (when there are fewer outputs than inputs).
                keep_from = min(int(paths[along].low[done]), received)
                ready = ready.narrow(2 + along, keep_from - first, received - keep_from).clone()
                first = keep_from

    def _slabs(
        self, image: torch.Tensor, along: int, progress: Callable[[float], None] | None
    ) -> Iterator[torch.Tensor]:
        """Yield blended logits `(member, class, *slab)`; the slabs joined along `along` are the image's."""
        padding = padding_to(tuple(image.shape[1:]), self.patch)
        flat = [n for pair in reversed(padding) for n in pair]
        image = torch.nn.functional.pad(image, flat) if any(flat) else image
        size = tuple(image.shape[1:])
        starts = [window_starts(n, p, self.step) for n, p in zip(size, self.patch, strict=True)]
        weight = (half_weight if self.sums == torch.float16 else gaussian_weight)(self.patch).to(self.device)
        depth = self.patch[along]
        buffer_shape = tuple(depth if axis == along else n for axis, n in enumerate(size))
        total_weight = torch.zeros(buffer_shape, dtype=self.sums, device=self.device)
        buffer: torch.Tensor | None = None
        rows = starts[along]
        others = [[0] if axis == along else starts[axis] for axis in range(len(size))]
        corners = [
            tuple(int(n) for n in corner)
            for corner in np.array(np.meshgrid(*others)).reshape(len(size), -1).T
        ]
        inside = tuple(slice(low, n - high) for n, (low, high) in zip(size, padding, strict=True))
        places = [
            tuple(slice(c, c + p) for c, p in zip(corner, self.patch, strict=True)) for corner in corners
        ]
        done = 0
        for row, start in enumerate(rows):
            slab = image.narrow(1 + along, start, depth)
            for index in range(0, len(places), self.at_once):
                some = places[index : index + self.at_once]
                windows = torch.stack([slab[(slice(None), *place)] for place in some])
                for place, logits in zip(some, self._opinions(windows), strict=True):
                    if buffer is None:
                        size_of_sums = (*logits.shape[:2], *buffer_shape)
                        buffer = torch.zeros(size_of_sums, dtype=self.sums, device=self.device)
                    if self.sums == logits.dtype:
                        buffer[(..., *place)].addcmul_(logits, weight)
                    else:
                        buffer[(..., *place)] += logits * weight
                    total_weight[place] += weight
                done += len(some)
                if progress is not None:
                    progress(done / (len(rows) * len(places)))
            assert buffer is not None
            following = rows[row + 1] if row + 1 < len(rows) else start + depth
            complete = following - start
            # In place: these voxels are handed on and then forgotten.
            finished = buffer.narrow(2 + along, 0, complete)
            finished /= total_weight.narrow(along, 0, complete)
            # Cut the padding off again; along the pass it lies at the very first and very last slices.
            keep = [slice(None), slice(None), *inside]
            low, high = padding[along]
            keep[2 + along] = slice(max(low - start, 0), min(complete, size[along] - high - start))
            yield finished[tuple(keep)].float()
            _move_down(buffer, 2 + along, complete)
            _move_down(total_weight, along, complete)

    @torch.inference_mode()
    def _opinions(self, windows: torch.Tensor) -> torch.Tensor:
        """Logits `(window, member, class, *patch)` of all members, float32, for windows `(window, channel, *patch)`."""
        batch = windows.to(self.device)
        if batch.ndim == 5:
            batch = batch.contiguous(memory_format=torch.channels_last_3d)
        others = self.members[1:]
        self.evaluations += len(windows) * len(self.members)
        with autocast_for(self.device, self.precision):
            first = self.members[0](batch).float()
            if self.cascade is None or not others:
                return torch.stack([first, *(member(batch).float() for member in others)], dim=1)
            doubt = (1 - torch.softmax(first, dim=1).amax(dim=1)).flatten(1).amax(dim=1)
            # Not `>=`: where the first has no answer (NaN) the others are asked.
            asked = (~(doubt < self.cascade)).nonzero().flatten()
            self.spared += (len(windows) - len(asked)) * len(others)
            logits = torch.stack([first] * len(self.members), dim=1)
            if len(asked):
                for index, member in enumerate(others, start=1):
                    logits[asked, index] = member(batch[asked]).float()
        return logits


def _move_down(field: torch.Tensor, axis: int, by: int) -> None:
    """Move `field` towards index 0 along `axis` and fill up with zeros, slice by slice without a copy of it."""
    size = field.shape[axis]
    for index in range(size - by):
        field.select(axis, index).copy_(field.select(axis, index + by))
    field.narrow(axis, size - by, by).zero_()


def to_box(array: np.ndarray, prepared: Prepared) -> np.ndarray:
    """An array `(*space)` of the input grid, in model axis order, cut to the box."""
    turned = np.transpose(array, prepared.axes)
    turned = np.flip(turned, [axis for axis, flipped in enumerate(prepared.flips) if flipped])
    return turned[tuple(slice(*bounds) for bounds in prepared.crop)]


def to_input_grid(fields: torch.Tensor, prepared: Prepared, *, background: bool) -> torch.Tensor:
    """Fields `(field, *box)` back on the input grid; outside the box 0, or 1 in field 0 if `background`."""
    turned_shape = tuple(prepared.input_grid.shape[axis] for axis in prepared.axes)
    if tuple(fields.shape[1:]) != turned_shape:
        whole = torch.zeros(fields.shape[0], *turned_shape)
        if background:
            whole[0] = 1
        whole[(slice(None), *(slice(*bounds) for bounds in prepared.crop))] = fields
        fields = whole
    flipped = [1 + axis for axis, is_flipped in enumerate(prepared.flips) if is_flipped]
    fields = torch.flip(fields, flipped) if flipped else fields
    back = np.argsort(prepared.axes)
    return fields.permute(0, *(1 + int(axis) for axis in back)).contiguous()
