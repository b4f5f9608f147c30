"""Images on their way to a MedUHIP model and back: grids, clicks, and windows of large images."""

from pathlib import Path

import numpy as np
import pytest
import torch

from overread.domain import BadInputError, Grid
from overread.ensemble.ensemble import Ensemble
from overread.ensemble.plan import Normalisation, Plan
from overread.ensemble.prediction import predict
from overread.ensemble.storage import load_ensemble, read_description
from overread.imaging.volumes import Volume
from overread.meduhip import reader as reader_module
from overread.meduhip.network import Configuration, MedUHIP
from overread.meduhip.prompts import Click, Prompts
from overread.meduhip.reader import Reader
from overread.meduhip.session import answer, begin
from overread.meduhip.storage import MEMBERS, load_reader, save_model

CLASSES = ("background", "organ", "lesion")


def plan_of(axes: int, spacing: float = 1.0) -> Plan:
    """A plan for images of so many axes."""
    one, two, three = (1,) * axes, (2,) * axes, (3,) * axes
    return Plan(
        (spacing,) * axes,
        (32,) * axes,
        2,
        (three,) * 3,
        (one, two, two),
        (8, 16, 16),
        (Normalisation("zscore"),),
        tuple(range(axes)),
        3,
    )


def saved(folder: Path, backend: str, spacing: float = 1.0, preferring: float = 0.0) -> Path:
    """An untrained model on disk, whose second structure's Weight Network prefers one component by so many nats."""
    model = MedUHIP(
        Configuration(backend=backend, width=4, structures=2, samples=6, components=3, dimension=4)
    )
    for decoder in model.backend.decoders:  # type: ignore[attr-defined]
        # As after some training: samples differ.
        torch.nn.init.normal_(decoder.last.weight)
    torch.nn.init.constant_(model.sampling(1).weights.layers[-1].bias[:1], preferring)
    axes = model.configuration.axes
    save_model(
        folder,
        model,
        plan_of(axes, spacing),
        name="recipe",
        classes=CLASSES,
        channels=("image",),
        training={"cases": 3},
    )
    return folder


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    return load_reader(saved(tmp_path_factory.mktemp("model") / "m", "unet3d", 2.0))


def volume(shape: tuple[int, ...], affine: np.ndarray) -> Volume:
    voxels = np.random.default_rng(0).random((1, *shape)).astype(np.float32) + 0.1
    return Volume(voxels, Grid(shape, affine))


OBLIQUE = np.array([[0, -1.4, 0.1, 5], [1.0, 0, 0.2, -3], [0.1, 0.1, 2.5, 8], [0, 0, 0, 1.0]])
FLIPPED = np.diag([-1.0, 1.5, -2.0, 1.0])


@pytest.mark.parametrize("affine", [np.eye(4), FLIPPED, OBLIQUE])
def test_a_click_goes_to_the_model_and_back_to_where_it_was(reader: Reader, affine: np.ndarray) -> None:
    opened = reader.open(volume((36, 40, 20), affine))
    for place in [(0, 0, 0), (35, 39, 19), (12, 30, 7)]:
        there = opened.click_from_input(place, True)
        assert all(0 <= n < size for n, size in zip(there.place, opened.cache.shape, strict=True))
        back = opened.input_place(there.place)
        # A model voxel of 2 mm holds up to two voxels an axis here.
        assert np.abs(np.array(back) - place).max() <= 2


def test_a_marked_voxel_of_the_model_returns_to_the_voxel_that_was_clicked(reader: Reader) -> None:
    opened = reader.open(volume((36, 40, 20), FLIPPED))
    click = opened.click_from_input((10, 25, 6), True)
    marked = torch.zeros(1, *opened.cache.shape)
    marked[(0, *click.place)] = 1
    field = opened.to_input(marked)[0]
    assert field.shape == (36, 40, 20)
    assert np.abs(np.array(np.unravel_index(int(field.argmax()), field.shape)) - (10, 25, 6)).max() <= 2


def test_a_click_outside_the_image_or_where_it_is_empty_is_named(reader: Reader) -> None:
    half = volume((36, 40, 20), np.eye(4))
    half.voxels[:, :18] = 0
    opened = reader.open(half)
    with pytest.raises(BadInputError, match="lies outside the image"):
        opened.click_from_input((36, 0, 0), True)
    with pytest.raises(BadInputError, match="where the image is empty"):
        opened.click_from_input((3, 5, 5), True)


def test_a_large_image_is_read_in_windows_with_the_same_samples(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = volume((72, 72, 36), np.eye(4))
    whole = reader.open(image)
    monkeypatch.setitem(reader_module.LARGEST_WHOLE, 3, 1000)
    monkeypatch.setitem(reader_module.WINDOW, 3, 24)
    parts = reader.open(image)
    assert len(parts.windows) > 1
    assert parts.cache.shape == whole.cache.shape
    session = begin(reader.model, "case", reader.identity)
    given = answer(reader.model, parts, session)
    assert given.logits.shape == whole.cache.shape
    assert torch.isfinite(given.logits).all()
    click = Click((20, 20, 5), True)
    told = Prompts.of_clicks([click], 3)
    samples = torch.zeros(1, 2, reader.model.configuration.dimension)
    with torch.no_grad():
        changed = parts.decode(samples, told, 0) - parts.decode(samples, Prompts.none(1, 3), 0)
    near = changed[0, 0, 16:24, 16:24, 2:8].abs().mean()
    far = changed[0, 0, :6, :6, -4:].abs().mean()
    assert near > far, "a click is felt in the windows that hold it"
    assert parts.bytes > 0


def test_where_the_weight_network_of_a_champion_hears_nothing_bayes_takes_its_place(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = saved(tmp_path / "m", "unet2d", preferring=90.0)
    read = load_reader(folder)
    posterior = torch.tensor([[0.2, 0.7, 0.1]])
    torch.testing.assert_close(read.model.sampling(1).weights(posterior).detach(), posterior)
    assert caplog.text.count("Bayes says the weights in its place") == 1


def test_as_an_ensemble_its_members_are_draws(reader: Reader) -> None:
    assert reader.folder is not None
    ensemble: Ensemble = load_ensemble(reader.folder)
    assert len(ensemble.members) == MEMBERS
    assert ensemble.differ_by_style
    assert ensemble.identity == reader.identity
    prediction = predict(ensemble, volume((36, 40, 20), np.eye(4)), measures=("mutual_information",))
    assert prediction.labels.shape == (36, 40, 20)
    assert float(prediction.maps["mutual_information"].values.max()) > 0, "the draws differ"
    windows = torch.randn(2, 1, 32, 32, 32)
    first = ensemble.members[0](windows)
    assert first.shape == (2, 3, 32, 32, 32)
    assert not torch.equal(first, ensemble.members[1](windows))
    # What a member says does not depend on what is shown beside a window.
    assert torch.allclose(ensemble.members[0](windows[:1].clone())[0], first[0], atol=1e-5)


def test_a_model_of_another_kind_takes_no_turns(tmp_path: Path, reader: Reader) -> None:
    assert reader.folder is not None
    description = read_description(reader.folder)
    assert description["kind"] == "meduhip"
    assert description["plan"]["held_out"] == [[]] * MEMBERS
    other = tmp_path / "other"
    other.mkdir()
    text = (reader.folder / "ensemble.json").read_text().replace('"kind": "meduhip"', '"kind": "dynunet"')
    (other / "ensemble.json").write_text(text)
    with pytest.raises(BadInputError, match="takes no turns"):
        load_reader(other)


def test_a_changed_file_is_noticed(tmp_path: Path) -> None:
    folder = saved(tmp_path / "m", "unet2d")
    with (folder / "member_0.pt").open("ab") as file:
        file.write(b"x")
    with pytest.raises(BadInputError, match="sha256 differs"):
        load_reader(folder)
