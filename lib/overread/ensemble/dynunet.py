"""MONAI's DynUNet as member: built from a plan, trained with losses at several resolutions, loaded to speak."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from monai.losses.dice import DiceCELoss
from monai.networks.nets.dynunet import DynUNet
from torch import nn
from torch.nn import functional as F

from overread.domain import BadInputError
from overread.domain.labels import IGNORE
from overread.ensemble.ensemble import Ensemble
from overread.ensemble.plan import Plan
from overread.ensemble.preparation import normalise_colours, prepare
from overread.ensemble.storage import KINDS, calibration_from_json, reference_of

# nnU-Net's smoothing of the Dice loss.
SMOOTH = 1e-5


def build_network(plan: Plan, *, for_training: bool) -> DynUNet:
    """A network with random weights; the heads for the coarser losses exist `for_training` only."""
    return DynUNet(
        spatial_dims=plan.axes,
        in_channels=len(plan.normalisation),
        out_channels=plan.classes,
        kernel_size=plan.kernels,
        strides=plan.strides,
        upsample_kernel_size=plan.strides[1:],
        filters=plan.features,
        norm_name=(plan.norm.upper(), {"affine": True}),
        act_name=("leakyrelu", {"inplace": True, "negative_slope": 0.01}),
        deep_supervision=for_training,
        deep_supr_num=plan.supervised - 1,
    )


def supervised_logits(network: DynUNet, windows: torch.Tensor) -> list[torch.Tensor]:
    """Logits at full, half, quarter … resolution, each on its own grid.

    DynUNet's own `forward` blows the coarse ones up to full size and stacks them, which costs more than the network's
    coarse half.
    """
    features = network.skip_layers(windows)
    return [network.output_block(features), *network.heads]


class SupervisedLoss(nn.Module):
    """Dice + cross-entropy at every resolution, weighted 1, 1/2, 1/4 … over their sum.

    Dice is taken over the whole batch, so that a patch without a class does not count as a failure. Voxels labelled
    `IGNORE` count in neither: the gradient there is zero.
    """

    def __init__(self) -> None:
        super().__init__()
        self.one = DiceCELoss(
            include_background=False,
            to_onehot_y=True,
            softmax=True,
            batch=True,
            smooth_nr=SMOOTH,
            smooth_dr=SMOOTH,
        )

    def forward(
        self, outputs: list[torch.Tensor], labels: torch.Tensor, is_partial: bool | None = None
    ) -> torch.Tensor:
        """Logits by resolution and labels `(batch, *patch)` to one number.

        Args:
            is_partial: whether a voxel is `IGNORE`; None looks, which waits for a GPU.
        """
        weights = [0.5**i for i in range(len(outputs))]
        if is_partial is None:
            is_partial = bool((labels == IGNORE).any())
        total = torch.zeros((), device=labels.device)
        for weight, logits in zip(weights, outputs, strict=True):
            target = labels[:, None].float()
            if target.shape[2:] != logits.shape[2:]:
                target = F.interpolate(target, size=logits.shape[2:], mode="nearest-exact")
            one = _where_labelled if is_partial else self.one
            total = total + weight / sum(weights) * one(logits.float(), target)
        return total


def _where_labelled(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The same loss over the labelled voxels; 0 where there are none. Nothing here waits for a GPU."""
    true = target[:, 0].long()
    labelled = true != IGNORE
    entropy = F.cross_entropy(logits, true, ignore_index=IGNORE, reduction="sum")
    said = torch.softmax(logits, dim=1) * labelled[:, None]
    is_class = F.one_hot(true.where(labelled, 0), logits.shape[1]).movedim(-1, 1) * labelled[:, None]
    over = [dim for dim in range(said.ndim) if dim != 1]
    both, all_said, all_true = ((said * is_class).sum(over), said.sum(over), is_class.sum(over))
    dice = (2 * both + SMOOTH) / (all_said + all_true + SMOOTH)
    return entropy / labelled.sum().clamp_min(1) + (1 - dice[1:]).mean()


def member_weights(network: DynUNet) -> dict[str, torch.Tensor]:
    """What is needed to speak: no heads of coarser losses, each weight once, on the CPU."""
    return {
        name: tensor.detach().cpu().clone()
        for name, tensor in network.state_dict().items()
        if not name.startswith(("skip_layers.", "deep_supervision_heads."))
    }


def load_member(plan: Plan, path: Path, device: torch.device) -> DynUNet:
    """A member ready to speak: windows `(batch, channel, *patch)` to logits `(batch, class, *patch)`."""
    network = build_network(plan, for_training=False)
    fill_network(network, path)
    return network.to(device).eval().requires_grad_(False)


def fill_network(network: DynUNet, path: Path) -> None:
    """Put stored weights (see `member_weights`) into a network without training heads.

    Raises:
        BadInputError: they are of another plan.
    """
    weights = torch.load(path, map_location="cpu", weights_only=True)
    try:
        missing, unexpected = network.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise BadInputError(f"{path} does not fit the plan: {str(error).splitlines()[-1].strip()}") from error
    # `skip_layers` names the same modules a second time.
    absent = [name for name in missing if not name.startswith("skip_layers.")]
    if absent or unexpected:
        raise BadInputError(
            f"{path} does not fit the plan: {len(absent)} weights absent, {len(unexpected)} unknown"
        )


@KINDS.register("dynunet")
def load_dynunet(folder: Path, description: dict[str, Any], device: torch.device) -> Ensemble:
    """Load what `training.train_ensemble` wrote."""
    plan = Plan.from_json(description["plan"])
    return Ensemble(
        name=description["name"],
        classes=tuple(description["classes"]),
        channels=tuple(description["channels"]),
        members=[load_member(plan, folder / name, device) for name in description["members"]],
        patch=plan.patch,
        prepare=partial(prepare, plan),
        calibration=calibration_from_json(description.get("calibration")),
        identity=description["identity"],
        folder=folder,
        metadata={"training": description["plan"].get("training", {})},
        um_per_px=plan.um_per_px,
        colours=partial(normalise_colours, plan.normalisation) if plan.um_per_px else None,
        reference=reference_of(description),
    )
