"""Claim: a MONAI bundle or a TorchScript file becomes an ensemble of flips of one network, on the input's grid."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from overread.domain import BadInputError, Grid, NotFoundError
from overread.ensemble.bundle import import_bundle
from overread.ensemble.prediction import predict
from overread.ensemble.storage import load_ensemble, read_description
from overread.imaging.volumes import Volume

UNET = {
    "_target_": "UNet",
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 2,
    "channels": [4, 8],
    "strides": [2],
}
METADATA = {
    "name": "Toy organ",
    "network_data_format": {
        "inputs": {"image": {"channel_def": {"0": "CT"}, "spatial_shape": [96, 96, 96]}},
        "outputs": {"pred": {"channel_def": {"0": "background", "1": "organ"}}},
    },
}
INFERENCE: dict[str, Any] = {
    "voxel": [2.0, 2.0, 2.5],
    "network_def": UNET,
    "preprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "LoadImaged", "keys": "image"},
            {"_target_": "EnsureChannelFirstd", "keys": "image"},
            {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
            {"_target_": "Spacingd", "keys": "image", "pixdim": "@voxel", "mode": "bilinear"},
            {
                "_target_": "ScaleIntensityRanged",
                "keys": "image",
                "a_min": -100,
                "a_max": 300,
                "b_min": 0,
                "b_max": 1,
                "clip": True,
            },
            {"_target_": "EnsureTyped", "keys": "image"},
        ],
    },
    "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [16, 16, 16], "overlap": 0.5},
}


class Brightness(nn.Module):
    """Says what each voxel's own brightness says: the same for an image and its mirror image."""

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        return torch.cat([0.5 - windows, windows - 0.5], dim=1) * 8.0


class Gradient(nn.Module):
    """Class 1 where the first axis rises: a mirror image says the opposite."""

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        rise = windows.roll(-1, dims=2) - windows
        return torch.cat([-rise, rise], dim=1)


class Output(nn.Module):
    """Brightness, passed on as another kind of output."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        logits = torch.cat([0.5 - windows, windows - 0.5], dim=1) * 8.0
        if self.kind == "probabilities":
            return torch.softmax(logits, dim=1)
        one = (logits[:, 1] - logits[:, 0]).unsqueeze(1)
        return torch.sigmoid(one) if self.kind == "probability" else one


def write_bundle(
    folder: Path, config: dict[str, Any] | None = None, metadata: dict[str, Any] | None = None
) -> Path:
    """A bundle with untrained weights."""
    from monai.bundle import ConfigParser

    torch.manual_seed(1)
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    (folder / "configs" / "inference.json").write_text(json.dumps(config or INFERENCE))
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata or METADATA))
    network = ConfigParser({"network_def": UNET}).get_parsed_content("network_def")
    torch.save(network.state_dict(), folder / "models" / "model.pt")
    return folder


def write_script(path: Path, network: nn.Module) -> Path:
    torch.jit.script(network).save(str(path))
    return path


SCRIPT_ARGUMENTS: dict[str, Any] = {
    "classes": ["background", "bright"],
    "channels": ["MR"],
    "patch": [8, 8, 8],
    "spacing_mm": [1, 1, 1],
    "intensity": [],
}


def with_transform(transform: dict[str, Any]) -> dict[str, Any]:
    """The bundle's configuration with one more transform at the end."""
    preprocessing = {**INFERENCE["preprocessing"]}
    preprocessing["transforms"] = [*preprocessing["transforms"], transform]
    return {**INFERENCE, "preprocessing": preprocessing}


def test_a_bundle_says_itself_what_it_needs(tmp_path: Path) -> None:
    folder = import_bundle(write_bundle(tmp_path / "bundle"), "organ", tmp_path / "ensemble")
    ensemble = load_ensemble(folder)
    assert ensemble.classes == ("background", "organ")
    assert ensemble.channels == ("CT",)
    assert ensemble.patch == (16, 16, 16)
    assert ensemble.step == 0.5
    assert len(ensemble.members) == 4
    assert ensemble.metadata["source"] == "Toy organ"
    assert read_description(folder)["plan"]["spacing_mm"] == [2.0, 2.0, 2.5]
    assert read_description(folder)["plan"]["flips"] == [[], [0], [1], [2]]


def test_the_first_member_is_the_network_as_it_is(tmp_path: Path) -> None:
    from monai.bundle import ConfigParser

    bundle = write_bundle(tmp_path / "bundle")
    ensemble = load_ensemble(import_bundle(bundle, "organ", tmp_path / "ensemble"))
    network = ConfigParser({"network_def": UNET}).get_parsed_content("network_def")
    network.load_state_dict(torch.load(bundle / "models" / "model.pt", weights_only=True))
    window = torch.rand(1, 1, 16, 16, 16)
    network.eval()
    assert torch.equal(ensemble.members[0](window), network(window))
    flipped = network(window.flip(2)).flip(2)
    assert torch.equal(ensemble.members[1](window), flipped)
    assert not torch.allclose(flipped, network(window), atol=1e-4)


def test_an_image_is_turned_resampled_and_scaled_as_the_bundle_says(tmp_path: Path) -> None:
    ensemble = load_ensemble(import_bundle(write_bundle(tmp_path / "bundle"), "organ", tmp_path / "ensemble"))
    # i runs to the left: against RAS. 20 mm, 24 mm and 25 mm of image.
    voxels = np.full((1, 20, 12, 10), 100, np.float32)
    voxels[0, 0] = 900
    prepared = ensemble.prepare(Volume(voxels, Grid((20, 12, 10), np.diag([-1.0, 2.0, 2.5, 1.0]))))
    assert prepared.flips == (True, False, False)
    assert tuple(prepared.voxels.shape) == (1, 10, 12, 10)
    # 100 lies in the middle of -100..300; 900 is clipped to 1 after resampling mixed it half and half with 100.
    assert torch.allclose(prepared.voxels[0, :-1], torch.tensor(0.5))
    assert torch.allclose(prepared.voxels[0, -1], torch.tensor(1.0))


def test_flips_are_undone_exactly(tmp_path: Path) -> None:
    script = write_script(tmp_path / "net.ts", Brightness())
    folder = import_bundle(script, "bright", tmp_path / "ensemble", **SCRIPT_ARGUMENTS, draws=8)
    members = load_ensemble(folder).members
    window = torch.rand(1, 1, 8, 8, 8)
    assert len(members) == 8
    assert all(torch.equal(member(window), members[0](window)) for member in members)


def test_members_disagree_where_the_network_tells_a_mirror_image_apart(tmp_path: Path) -> None:
    script = write_script(tmp_path / "net.ts", Gradient())
    folder = import_bundle(script, "rise", tmp_path / "ensemble", **SCRIPT_ARGUMENTS)
    members = load_ensemble(folder).members
    ramp = torch.arange(8.0).reshape(1, 1, 8, 1, 1).expand(1, 1, 8, 8, 8)
    inner = (slice(None), slice(None), slice(1, 7))
    assert torch.equal(members[0](ramp)[inner], -members[1](ramp)[inner])
    assert torch.equal(members[0](ramp)[inner], members[2](ramp)[inner])


@pytest.mark.parametrize(
    "affine",
    [
        np.diag([1.0, 1.0, 1.0, 1.0]),
        np.diag([-1.0, 1.0, -1.0, 1.0]),
        np.array([[0, 0, -1.0, 3], [1.0, 0, 0, -8], [0, -1.0, 0, 2], [0, 0, 0, 1]]),
    ],
    ids=["RAS", "flipped", "permuted and flipped"],
)
def test_the_label_lies_on_the_marked_voxels_whatever_the_affine(tmp_path: Path, affine: np.ndarray) -> None:
    script = write_script(tmp_path / "net.pt", Brightness())
    ensemble = load_ensemble(import_bundle(script, "bright", tmp_path / "ensemble", **SCRIPT_ARGUMENTS))
    voxels = np.zeros((1, 9, 12, 15), np.float32)
    voxels[0, 1:3, 2:6, 9:14] = 1
    prediction = predict(ensemble, Volume(voxels, Grid((9, 12, 15), affine)), precision="full")
    np.testing.assert_array_equal(prediction.labels, voxels[0])


@pytest.mark.parametrize("kind", ["probabilities", "probability", "logit"])
def test_probabilities_and_single_outputs_are_recognised(tmp_path: Path, kind: str) -> None:
    plain = load_ensemble(
        import_bundle(
            write_script(tmp_path / "plain.ts", Brightness()), "a", tmp_path / "a", **SCRIPT_ARGUMENTS
        )
    )
    other = load_ensemble(
        import_bundle(
            write_script(tmp_path / "other.ts", Output(kind)), "b", tmp_path / "b", **SCRIPT_ARGUMENTS
        )
    )
    window = torch.rand(1, 1, 8, 8, 8)
    expected = torch.softmax(plain.members[1](window), dim=1)
    assert torch.allclose(torch.softmax(other.members[1](window), dim=1), expected, atol=1e-5)


def test_a_2d_network_reads_pictures(tmp_path: Path) -> None:
    arguments = {**SCRIPT_ARGUMENTS, "patch": [8, 8], "spacing_mm": [1, 1]}
    script = write_script(tmp_path / "net.ts", Brightness())
    ensemble = load_ensemble(import_bundle(script, "bright", tmp_path / "ensemble", **arguments))
    voxels = np.zeros((1, 20, 11), np.float32)
    voxels[0, 15:, :4] = 1
    prediction = predict(ensemble, Volume(voxels, Grid((20, 11), np.eye(4))), precision="full")
    np.testing.assert_array_equal(prediction.labels, voxels[0])
    with pytest.raises(BadInputError, match="reads 2D images, the image has 3 axes"):
        ensemble.prepare(Volume(np.zeros((1, 4, 4, 4), np.float32), Grid((4, 4, 4), np.eye(4))))


def test_a_torchscript_file_exported_by_monai_names_its_classes(tmp_path: Path) -> None:
    from monai.data.torchscript_utils import save_net_with_metadata

    save_net_with_metadata(torch.jit.script(Brightness()), str(tmp_path / "net"), meta_values=METADATA)
    folder = import_bundle(
        tmp_path / "net.ts",
        "organ",
        tmp_path / "ensemble",
        patch=[8, 8, 8],
        spacing_mm=[1, 1, 1],
        intensity=[],
    )
    assert read_description(folder)["classes"] == ["background", "organ"]
    assert read_description(folder)["channels"] == ["CT"]


@pytest.mark.parametrize("missing", ["classes", "channels", "patch", "spacing_mm", "intensity"])
def test_asks_for_what_a_torchscript_file_does_not_say(tmp_path: Path, missing: str) -> None:
    script = write_script(tmp_path / "net.ts", Brightness())
    arguments = {key: value for key, value in SCRIPT_ARGUMENTS.items() if key != missing}
    with pytest.raises(BadInputError, match=f"give {missing}$"):
        import_bundle(script, "bright", tmp_path / "ensemble", **arguments)
    assert not (tmp_path / "ensemble").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"draws": 9}, "draws is 9; 3 axes can be flipped in 1 to 8 ways"),
        ({"spacing_mm": [1, 1]}, "need 2 or 3 axes, the same for both"),
        ({"channels": ["MR", "CT"]}, "expected"),
        ({"classes": ["a", "b", "c"]}, r"the network gives \(1, 2, 8, 8, 8\)"),
        ({"orientation": "RAX"}, "is not three letters such as RAS"),
        ({"intensity": [{"_target_": "RandFlip"}]}, "'RandFlip' is not one of the known transforms"),
    ],
)
def test_refuses_arguments_that_do_not_fit(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    script = write_script(tmp_path / "net.ts", Brightness())
    with pytest.raises(BadInputError, match=message):
        import_bundle(script, "bright", tmp_path / "ensemble", **{**SCRIPT_ARGUMENTS, **change})


def test_refuses_images_that_the_network_does_not_take(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    with pytest.raises(BadInputError, match=r"does not take 2 channels in windows of \(16, 16, 16\)"):
        import_bundle(bundle, "organ", tmp_path / "ensemble", channels=["CT", "PET"])


def test_a_bundle_with_torchscript_instead_of_weights_needs_no_network_definition(tmp_path: Path) -> None:
    bundle = write_bundle(
        tmp_path / "bundle", {key: INFERENCE[key] for key in ("voxel", "preprocessing", "inferer")}
    )
    (bundle / "models" / "model.pt").unlink()
    write_script(bundle / "models" / "model.ts", Brightness())
    ensemble = load_ensemble(import_bundle(bundle, "organ", tmp_path / "ensemble", draws=2))
    window = torch.rand(1, 1, 16, 16, 16)
    assert torch.equal(ensemble.members[0](window), Brightness()(window))


def test_a_transform_that_is_not_known_asks_for_the_intensity(tmp_path: Path) -> None:
    bundle = write_bundle(
        tmp_path / "bundle", with_transform({"_target_": "HistogramNormalized", "keys": "image"})
    )
    with pytest.raises(BadInputError, match=r"prepares images with HistogramNormalized.*give intensity"):
        import_bundle(bundle, "organ", tmp_path / "ensemble")
    scaling = {"_target_": "NormalizeIntensity", "nonzero": True}
    folder = import_bundle(bundle, "organ", tmp_path / "ensemble", intensity=[scaling])
    assert [step["name"] for step in read_description(folder)["plan"]["steps"]] == [
        "Spacing",
        "NormalizeIntensity",
    ]


def test_refuses_outputs_that_may_overlap(tmp_path: Path) -> None:
    metadata = json.loads(json.dumps(METADATA))
    metadata["network_data_format"]["outputs"]["pred"]["channel_def"] = {
        "0": "tumour core",
        "1": "whole tumour",
    }
    with pytest.raises(BadInputError, match="tumour core, whole tumour: no background comes first"):
        import_bundle(write_bundle(tmp_path / "bundle", None, metadata), "organ", tmp_path / "ensemble")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({key: value for key, value in INFERENCE.items() if key != "network_def"}, "defines no network_def"),
        (
            {**INFERENCE, "network_def": {"_target_": "scripts.net.Own"}},
            "network_def of the bundle cannot be built",
        ),
        ({**INFERENCE, "network_def": 5}, "network_def of the bundle is a int, expected a network"),
        (
            {**INFERENCE, "network_def": {**UNET, "channels": [4, 16]}},
            "does not hold the weights of network_def",
        ),
    ],
)
def test_refuses_bundles_whose_network_cannot_be_had(
    tmp_path: Path, config: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadInputError, match=message):
        import_bundle(write_bundle(tmp_path / "bundle", config), "organ", tmp_path / "ensemble")


def test_refuses_what_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="neither a bundle's folder nor a TorchScript file"):
        import_bundle(tmp_path / "absent", "organ", tmp_path / "ensemble")
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFoundError, match="is not a MONAI bundle"):
        import_bundle(tmp_path / "empty", "organ", tmp_path / "ensemble")
    torch.save({"a": torch.ones(1)}, tmp_path / "weights.pt")
    with pytest.raises(
        BadInputError, match=r"is not a TorchScript file.*plain weights need the bundle's folder"
    ):
        import_bundle(tmp_path / "weights.pt", "organ", tmp_path / "ensemble")
    bundle = write_bundle(tmp_path / "bundle")
    (bundle / "models" / "model.pt").unlink()
    with pytest.raises(NotFoundError, match=r"has no models/model\.pt"):
        import_bundle(bundle, "organ", tmp_path / "ensemble")
    (bundle / "models" / "model.pt").touch()
    (bundle / "configs" / "inference.json").write_text("{")
    with pytest.raises(BadInputError, match=r"inference\.json cannot be read"):
        import_bundle(bundle, "organ", tmp_path / "ensemble")
