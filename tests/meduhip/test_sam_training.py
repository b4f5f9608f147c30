"""A recipe makes a model on SAM's weights: taught, kept and loaded it says the same, and needs their file no more."""

from __future__ import annotations

import re
import sys
from dataclasses import asdict
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
import torch

from meduhip.test_teach import rated, write_discs
from overread.domain import BadInputError, Grid, NotFoundError
from overread.ensemble.plan import Plan
from overread.ensemble.prediction import predict
from overread.ensemble.storage import load_ensemble, read_description, write_description
from overread.ensemble.training import StoppedError, TrainingProgress
from overread.imaging.volumes import Volume
from overread.meduhip.configuration import Configuration
from overread.meduhip.network import MedUHIP
from overread.meduhip.prompts import Click
from overread.meduhip.reader import OpenImage, Reader
from overread.meduhip.sam import FIRST_GAIN, FRESH_GAIN
from overread.meduhip.session import answer, begin, click
from overread.meduhip.storage import load_reader
from overread.meduhip.teach import SAM_BATCH, Wishes, configured, teach
from overread.meduhip.training import LEARNING_RATE, train_meduhip

pytest.importorskip("transformers")

from support.sam import trained_sam, write_sam

PLAN = {"patch": (32, 32), "batch": 2}
RECIPE: dict[str, Any] = {
    "backend": "sam",
    "image_size": 64,
    "intensities": "medsam",
    "components": 2,
    "dimension": 2,
    "samples": 4,
    "prompt_width": 4,
    "warm_share": 0.0,
    "click_share": 0.0,
    "episode": {"turns": 2, "samples": 2, "candidates": 2},
}


@pytest.fixture(scope="module")
def discs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_discs(tmp_path_factory.mktemp("discs"))


def wishes(weights: Path | None, iterations: int = 2, **changes: Any) -> Wishes:
    said = {**RECIPE, **changes, **({} if weights is None else {"weights": weights})}
    return Wishes.of(said, iterations=iterations, device="cpu", threads=1)


def clicked(model: MedUHIP, image: OpenImage) -> torch.Tensor:
    """What is shown after one click."""
    session = begin(model, "case0", "champion")
    session = click(model, image, session, answer(model, image, session), Click((10, 20), True))
    return answer(model, image, session).logits


@pytest.mark.parametrize(("layout", "fusion"), [("original", "late"), ("transformers", "early")])
def test_taught_and_loaded_without_the_file_it_says_what_it_said(
    discs: Path, tmp_path: Path, layout: str, fusion: str
) -> None:
    weights = write_sam(tmp_path / "sam", trained_sam(), layout)
    lessons, wanted = rated(discs), wishes(weights, fusion=fusion)
    folder = teach("disc", lessons, tmp_path / "work", wanted, plan_overrides=PLAN)
    # The same training once more, to have the model before it is kept.
    description = read_description(folder)
    plan, held_out = Plan.from_json(description["plan"]), description["plan"]["training"]["held_out"]
    cases = sorted(lessons.patients.keys() - set(held_out))
    (tmp_path / "again").mkdir()
    before = train_meduhip(
        tmp_path / "again",
        cases,
        plan,
        configured(plan, lessons, wanted.network),
        wanted.options,
        prepared=tmp_path / "work",
    )
    for file in [weights] if weights.is_file() else [*weights.iterdir()]:
        file.unlink()

    reader = load_reader(folder)
    before.mirrors = reader.model.mirrors
    assert reader.model.configuration == before.configuration
    volume, _ = lessons.read("case0")
    opened = reader.open(volume)
    with torch.no_grad():
        encoded = OpenImage(before, opened.prepared, before.encode(opened.prepared.voxels[None]))
    torch.testing.assert_close(clicked(reader.model, opened), clicked(before, encoded))
    assert predict(load_ensemble(folder), volume).labels.shape == (32, 32)
    made = description["plan"]["meduhip"]
    assert (made["backend"], made["size"], made["image_size"]) == ("sam", "small", 64)
    assert (made["fusion"], made["intensities"], made["freeze_encoder"]) == (fusion, "medsam", True)
    assert description["plan"]["training"]["weights"] == weights.name


@pytest.mark.parametrize("freeze", [None, False])
def test_the_image_encoder_stays_as_it_was_unless_the_recipe_says_otherwise(
    discs: Path, tmp_path: Path, freeze: bool | None
) -> None:
    sam = trained_sam()
    weights = write_sam(tmp_path / "sam", sam, "original")
    wanted = wishes(weights, **({} if freeze is None else {"freeze_encoder": freeze}))
    folder = teach("disc", rated(discs), tmp_path / "work", wanted, plan_overrides=PLAN)
    learnt = load_reader(folder).model.backend.sam.state_dict()  # type: ignore[attr-defined]
    kept = {name: torch.equal(tensor, learnt[name]) for name, tensor in sam.state_dict().items()}
    encoder = [is_kept for name, is_kept in kept.items() if name.startswith("vision_encoder.")]
    assert all(encoder) == (freeze is None)
    assert not kept["mask_decoder.transformer.layers.0.self_attn.q_proj.weight"]
    assert not kept["mask_decoder.upscale_conv2.weight"]


def test_stopped_it_goes_on_without_the_file(discs: Path, tmp_path: Path) -> None:
    weights, stop = write_sam(tmp_path / "sam", trained_sam(), "original"), Event()

    def heard(now: TrainingProgress) -> None:
        if now.stage == "training":
            stop.set()

    work = tmp_path / "work"
    with pytest.raises(StoppedError):
        teach(
            "disc",
            rated(discs),
            work,
            wishes(weights, 3),
            plan_overrides=PLAN,
            progress=heard,
            stop=stop,
        )
    weights.unlink()
    folder = teach("disc", rated(discs), work, wishes(weights, 3), plan_overrides=PLAN)
    assert read_description(folder)["plan"]["training"]["iterations"] == 3


def test_weights_that_are_not_there_or_do_not_fit_are_told_before_anything_is_prepared(
    discs: Path, tmp_path: Path
) -> None:
    weights = write_sam(tmp_path / "sam", trained_sam(), "original")
    state = torch.load(weights)
    torch.save({**state, "mask_decoder.iou_token.weight": torch.zeros(1, 32)}, weights)
    absent = tmp_path / "medsam.pth"
    for path, size, expected, message in (
        (absent, "small", NotFoundError, f"no SAM weights are at {absent}"),
        (weights, "small", BadInputError, "iou_token.weight of another size, the first (1, 32)"),
        (weights, "vit_b", BadInputError, f"{weights} does not hold this SAM: missing"),
    ):
        with pytest.raises(expected, match=re.escape(message)):
            teach("disc", rated(discs), tmp_path / "work", wishes(path, size=size), restart=True)
        assert not (tmp_path / "work" / "plan.json").exists()


def test_relative_paths_lead_from_the_recipe() -> None:
    said = {**RECIPE, "weights": "sam.pth"}
    assert Wishes.of(said, Path("/recipes")).options.weights == "/recipes/sam.pth"
    assert (
        Wishes.of({**said, "weights": "/data/sam.pth"}, Path("/recipes")).options.weights == "/data/sam.pth"
    )


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"backend": "unet2d", "weights": "/sam.pth"}, "weights are /sam.pth, which only the backend sam"),
        ({"freeze_encoder": True}, "freeze_encoder without weights would keep an image encoder that knows"),
        ({"size": "vit_h"}, "size of SAM is 'vit_h', expected 'small' or 'vit_b'"),
        ({"fusion": "middle"}, "fusion of SAM is 'middle', expected 'early' or 'late'"),
        ({"intensities": "hounsfield"}, "intensities of SAM is 'hounsfield', expected 'medsam' or 'sam'"),
        ({"image_size": 60}, "image_size of SAM is 60, expected a multiple of its 8 pixel cells"),
        ({"size": "vit_b", "image_size": 72}, "is 72, expected a multiple of its 16 pixel cells"),
        ({"freeze_encoder": "yes"}, "freeze_encoder is 'yes', expected True or False"),
    ],
)
def test_wishes_that_sam_cannot_fulfil_are_refused(said: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        Wishes.of({"backend": "sam", **said})


@pytest.mark.parametrize(
    ("name", "value"), [("size", "vit_b"), ("image_size", 512), ("fusion", "late"), ("freeze_encoder", True)]
)
def test_what_only_sam_has_is_refused_elsewhere(name: str, value: Any) -> None:
    with pytest.raises(BadInputError, match=f"{name} is {value!r}, which only the backend sam has"):
        Configuration(**{name: value})


def test_published_weights_are_learnt_from_carefully() -> None:
    def rate(**said: Any) -> float:
        return Wishes.of(said).options.learning_rate

    assert rate() == rate(backend="unet3d") == LEARNING_RATE
    assert rate(backend="sam", size="vit_b") == 1e-4
    assert rate(backend="sam", size="vit_b", learning_rate=0.5) == 0.5


def test_samples_say_little_where_weights_were_read(tmp_path: Path) -> None:
    model = MedUHIP(Configuration(backend="sam", image_size=64))
    backend: Any = model.backend
    assert (backend.fusions[0].gain == FRESH_GAIN).all()
    backend.begin_with(write_sam(tmp_path / "sam", trained_sam(128), "original"))
    assert (backend.fusions[0].gain == FIRST_GAIN).all()
    assert (backend.films[0].gain == FIRST_GAIN).all()


def test_patches_are_as_large_as_what_sam_sees(tmp_path: Path) -> None:
    images = write_discs(tmp_path / "data", cases=3)
    folder = teach("disc", rated(images), tmp_path / "work", wishes(None, 1, image_size=16))
    plan = Plan.from_json(read_description(folder)["plan"])
    assert plan.patch == (16, 16)
    assert plan.batch <= SAM_BATCH


def opened_in_windows(reader: Reader) -> OpenImage:
    voxels = np.random.default_rng(0).random((1, 80, 40)).astype(np.float32)
    return reader.open(Volume(voxels, Grid((80, 40), np.eye(4))))


def test_turns_encode_once_and_a_large_picture_in_windows_of_what_was_learnt(
    discs: Path, tmp_path: Path
) -> None:
    folder = teach("disc", rated(discs), tmp_path / "work", wishes(None, 1), plan_overrides=PLAN)
    reader, seen = load_reader(folder), []
    encoder = reader.model.backend.sam.vision_encoder  # type: ignore[attr-defined]
    encoder.register_forward_hook(lambda _module, given, _answer: seen.append(len(given[0])))
    volume, _ = rated(discs).read("case0")
    image = reader.open(volume)
    # The picture and its mirror images.
    assert (seen, image.windows) == ([4], ())
    assert clicked(reader.model, image).shape == (32, 32)
    assert seen == [4]
    large = opened_in_windows(reader)
    assert {window.cache.shape for window in large.windows} == {(32, 32)}
    count = len(seen)
    assert clicked(reader.model, large).shape == (80, 40)
    assert len(seen) == count


def test_models_that_were_kept_before_there_were_sizes_are_loaded(discs: Path, tmp_path: Path) -> None:
    said = {name: value for name, value in RECIPE.items() if name not in ("image_size", "intensities")}
    wanted = Wishes.of(said, iterations=1, device="cpu", threads=1)
    folder = teach("disc", rated(discs), tmp_path, wanted, plan_overrides=PLAN)
    description = read_description(folder)
    kept = description["plan"]["meduhip"]
    for name in asdict(Configuration()).keys() - {
        *("backend", "channels", "structures", "width", "components"),
        *("dimension", "samples", "candidates", "prompt_width"),
    }:
        del kept[name]
    write_description(folder, description)
    made = load_reader(folder).model.configuration
    assert (made.size, made.image_size, made.fusion, made.intensities) == ("small", 128, "late", "sam")


def test_without_transformers_it_is_told_before_anything_is_prepared(
    discs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = teach("disc", rated(discs), tmp_path / "work", wishes(None, 1), plan_overrides=PLAN)
    monkeypatch.setitem(sys.modules, "transformers", None)
    message = (
        r"backend 'sam' needs the package transformers .*pip install -c constraints\.txt -e '\.\[sam\]' "
    )
    with pytest.raises(BadInputError, match=message):
        teach("disc", rated(discs), tmp_path / "other", wishes(None, size="vit_b"), plan_overrides=PLAN)
    assert not (tmp_path / "other" / "plan.json").exists()
    with pytest.raises(BadInputError, match=message):
        load_reader(folder)
