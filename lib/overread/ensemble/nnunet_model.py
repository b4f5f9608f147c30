"""What dataset.json, plans.json and the trainer of an nnU-Net v2 model say: its network, and how it sees an image."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from overread.domain import BadInputError
from overread.ensemble.ensemble import Prepared
from overread.ensemble.importing import axes_towards
from overread.imaging.volumes import Volume
from overread.imaging.windows import Interpolation

# Readers of nnunetv2 that turn the image to RAS before the network sees it, and those that take it as stored.
REORIENTING_READERS = ("NibabelIOWithReorient", "SimpleITKIOWithReorient")
READERS_AS_STORED = ("SimpleITKIO", "NibabelIO")
PICTURE_READER = "NaturalImage2DIO"
# nnunetv2 gives a picture this spacing along the axis it does not have.
PICTURE_SPACING = (999.0, 1.0, 1.0)


class NnunetModel:
    """What dataset.json, plans.json, the configuration and the trainer say about a trained model."""

    def __init__(
        self, dataset: dict[str, Any], plans: dict[str, Any], configuration: str, trainer: str
    ) -> None:
        from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

        self.dataset, self.trainer, self.configuration_name = dataset, trainer, configuration
        self.plans_manager = PlansManager(plans)
        if configuration not in self.plans_manager.available_configurations:
            raise BadInputError(
                f"the plans hold no configuration {configuration!r}, "
                f"only {', '.join(self.plans_manager.available_configurations)}"
            )
        settings = dict(self.plans_manager.get_configuration(configuration).configuration)
        # The mask of non-zero voxels is needed for normalisation only: nobody looks at it after resampling.
        settings["resampling_fn_seg"] = "no_resampling_hack"
        settings["resampling_fn_seg_kwargs"] = {}
        self.configuration = ConfigurationManager(settings)
        channels = dataset.get("channel_names", dataset.get("modality", {}))
        self.channels = tuple(str(channels[key]) for key in sorted(channels, key=int))
        labels = {name: value for name, value in dataset["labels"].items() if name != "ignore"}
        self.has_regions = any(isinstance(value, (list, tuple)) for value in labels.values())
        self.classes = () if self.has_regions else tuple(sorted(labels, key=lambda name: int(labels[name])))
        self.reader = plans["image_reader_writer"]
        self.is_picture = self.reader == PICTURE_READER
        size = tuple(int(n) for n in self.configuration.patch_size)
        # A 2D network reads a volume slice by slice: windows one voxel thick.
        self.is_slicewise = len(size) == 2 and not self.is_picture
        self.patch = (1, *size) if self.is_slicewise else size

    def check(self, culprit: str) -> None:
        """Raise BadInputError for what cannot become an ensemble."""
        if self.configuration.previous_stage_name is not None:
            raise BadInputError(
                f"{culprit} is a cascade: {self.configuration_name} reads the result of "
                f"{self.configuration.previous_stage_name}; import a configuration that reads images alone"
            )
        if self.has_regions:
            raise BadInputError(
                f"{culprit} was trained on overlapping regions (several label values in one region of dataset.json); "
                "opinions are over classes that exclude each other"
            )
        if self.reader not in (*READERS_AS_STORED, *REORIENTING_READERS, PICTURE_READER):
            known = ", ".join((*READERS_AS_STORED, *REORIENTING_READERS, PICTURE_READER))
            raise BadInputError(f"{culprit} reads images with {self.reader}; known are {known}")
        _way_back(self.configuration, (1.0, 1.0, 1.0), (1.0, 1.0, 1.0))

    def member(self, weights: dict[str, torch.Tensor]) -> nn.Module:
        """One fold's network with these weights, deep supervision off.

        Raises:
            BadInputError: the weights are of another network.
        """
        network = self._network()
        try:
            network.load_state_dict(weights, assign=True)
        except RuntimeError as error:
            raise BadInputError(
                f"the weights do not fit the network that {self.trainer} builds: {error}"
            ) from error
        network.eval().requires_grad_(False)
        return _Slicewise(network) if self.is_slicewise else network

    def _network(self) -> nn.Module:
        from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

        if self.trainer == "nnUNetTrainer":
            # Without memory and initial values, which the weights replace at once; importing the trainer takes seconds.
            with torch.device("meta"):
                return get_network_from_plans(
                    self.configuration.network_arch_class_name,
                    self.configuration.network_arch_init_kwargs,
                    self.configuration.network_arch_init_kwargs_req_import,
                    len(self.channels),
                    len(self.classes),
                    allow_init=False,
                    deep_supervision=False,
                )
        from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

        try:
            trainer = recursive_find_trainer_class_by_name(self.trainer)
        except RuntimeError as error:
            raise BadInputError(
                f"trainer {self.trainer} cannot be had from the installed nnunetv2; if it is somebody's own, "
                f"set nnUNet_extTrainer to the folder that holds it ({last_line(error)})"
            ) from error
        return trainer.build_network_architecture(
            self.plans_manager, self.configuration, len(self.channels), len(self.classes), False
        )

    def prepare(self, volume: Volume) -> Prepared:
        """Crop, normalise and resample as nnunetv2 does.

        Raises:
            BadInputError: a picture for a model of volumes, or the reverse.
        """
        if (len(volume.grid.shape) == 2) != self.is_picture:
            wanted = "2D pictures" if self.is_picture else "volumes"
            raise BadInputError(f"this model reads {wanted}, the image has {len(volume.grid.shape)} axes")
        axes, flips = self._reading_order(volume)
        voxels = np.transpose(volume.voxels, (0, *(1 + axis for axis in axes)))
        voxels = np.flip(voxels, [1 + axis for axis, flipped in enumerate(flips) if flipped])
        if self.is_picture:
            voxels, spacing = voxels[:, None], PICTURE_SPACING
        else:
            spacing = tuple(volume.grid.spacing_mm[axis] for axis in axes)
        preprocessor = self.configuration.preprocessor_class(verbose=False)
        array, _, properties = preprocessor.run_case_npy(
            voxels, None, {"spacing": list(spacing)}, self.plans_manager, self.configuration, self.dataset
        )
        forward = list(self.plans_manager.transpose_forward)
        box_spacing = tuple(spacing[axis] for axis in forward)
        model_spacing = tuple(self.configuration.spacing)
        if len(model_spacing) == 2:
            model_spacing = (box_spacing[0], *model_spacing)
        interpolation = _way_back(self.configuration, model_spacing, box_spacing)
        crop = tuple((int(start), int(stop)) for start, stop in properties["bbox_used_for_cropping"])
        if self.is_picture:
            # The axis that pictures do not have comes first; nnU-Net's plans leave it there.
            forward = [axis - 1 for axis in forward[1:]]
            array, crop, interpolation = array[:, 0], crop[1:], interpolation[1:]
        return Prepared(
            voxels=torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)),
            input_grid=volume.grid,
            axes=tuple(axes[axis] for axis in forward),
            flips=tuple(flips[axis] for axis in forward),
            crop=crop,
            interpolation=interpolation,
        )

    def _reading_order(self, volume: Volume) -> tuple[tuple[int, ...], tuple[bool, ...]]:
        """Axes and flips that give the array which nnunetv2's reader gives: last file axis first."""
        if self.reader in REORIENTING_READERS:
            axes, flips = axes_towards(volume.grid.affine, "RAS")
        else:
            axes = tuple(range(len(volume.grid.shape)))
            flips = (False,) * len(axes)
        return axes[::-1], flips[::-1]


class _Slicewise(nn.Module):
    """A 2D network on windows of one slice: `(batch, channel, 1, h, w)`."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        return self.network(windows.squeeze(2)).unsqueeze(2)


def _way_back(
    configuration: Any, model_spacing: tuple[float, ...], box_spacing: tuple[float, ...]
) -> tuple[Interpolation, ...]:
    """How logits return to the box's voxels, per axis, by the rules of the plans' resampling function."""
    from nnunetv2.preprocessing.resampling.default_resampling import determine_do_sep_z_and_axis

    function = configuration.configuration["resampling_fn_probabilities"]
    options = configuration.configuration["resampling_fn_probabilities_kwargs"]
    if function == "resample_data_or_seg_to_shape":
        within = {0: "nearest", 1: "linear"}.get(options.get("order", 3))
        across = {0: "nearest", 1: "linear"}.get(options.get("order_z", 0))
        force, modes = (
            options.get("force_separate_z", False),
            (options.get("order", 3), options.get("order_z", 0)),
        )
    elif function == "resample_torch_fornnunet":
        known = {"linear": "linear", "nearest": "nearest", "nearest-exact": "nearest"}
        modes = (options.get("mode", "linear"), options.get("aniso_axis_mode", "nearest-exact"))
        within, across = (known.get(mode) for mode in modes)
        force = options.get("force_separate_z")
    else:
        within, across, force, modes = None, None, None, ()
    if within is None or across is None:
        raise BadInputError(
            f"the plans return probabilities to the image with {function} {list(modes)}; "
            "known are linear and nearest interpolation of nnU-Net's own resampling functions"
        )
    threshold = {key: options[key] for key in ("separate_z_anisotropy_threshold",) if key in options}
    is_separate, thick = determine_do_sep_z_and_axis(
        force,  # type: ignore[arg-type]  # None means: decide by the spacing
        model_spacing,
        box_spacing,
        **threshold,
    )
    return tuple(across if is_separate and axis == thick else within for axis in range(3))  # type: ignore[return-value]


def last_line(error: Exception) -> str:
    """The last line of an error's message, which is where torch and nnunetv2 say what happened."""
    return next(
        (line.strip() for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__
    )
