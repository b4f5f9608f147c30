"""A label mosaic reads as the picture that was written, in the memory of what it holds."""

import numpy as np
import pytest

from overread.domain.errors import BadInputError
from overread.imaging.slides.mosaic import LabelMosaic


def test_reads_what_was_written_across_blocks() -> None:
    picture = np.random.default_rng(0).integers(0, 4, (70, 90), dtype=np.uint8)
    mosaic = LabelMosaic((120, 100), block=32)
    mosaic.write(20, 10, picture)
    whole = np.zeros((100, 120), dtype=np.uint8)
    whole[10:80, 20:110] = picture
    assert (mosaic.read(0, 0, 120, 100) == whole).all()
    assert (mosaic.read(33, 5, 41, 60) == whole[5:65, 33:74]).all()


def test_what_was_written_last_counts_also_when_it_is_zero() -> None:
    mosaic = LabelMosaic((10, 10), block=4)
    mosaic.write(0, 0, np.ones((10, 10), dtype=np.uint8))
    mosaic.write(2, 3, np.zeros((4, 5), dtype=np.uint8))
    assert mosaic.read(0, 0, 10, 10).sum() == 100 - 20


def test_yields_the_blocks_that_hold_a_label_row_by_row_and_smaller_ones_at_the_border() -> None:
    mosaic = LabelMosaic((10, 10), block=4)
    mosaic.write(9, 0, np.full((1, 1), 2, dtype=np.uint8))
    mosaic.write(0, 9, np.full((1, 1), 3, dtype=np.uint8))
    mosaic.write(4, 4, np.zeros((4, 4), dtype=np.uint8))
    found = [(x, y, block.shape, block.max()) for x, y, block in mosaic.blocks()]
    assert found == [(8, 0, (4, 2), 2), (0, 8, (2, 4), 3)]


def test_changing_a_block_that_was_yielded_changes_nothing() -> None:
    mosaic = LabelMosaic((4, 4))
    mosaic.write(1, 1, np.ones((1, 1), dtype=np.uint8))
    for _, _, block in mosaic.blocks():
        block[:] = 7
    assert mosaic.read(0, 0, 4, 4).sum() == 1


def test_a_slide_of_a_hundred_thousand_pixels_takes_only_what_its_labels_take() -> None:
    mosaic = LabelMosaic((100_000, 100_000), block=256)
    for place in range(0, 40_000, 1000):
        mosaic.write(place, place, np.ones((200, 200), dtype=np.uint8))
    # Sixteen blocks stay unpacked; a packed one takes hundreds of bytes.
    assert mosaic.nbytes < 16 * 256 * 256 + 160 * 1000
    assert mosaic.read(39_000, 39_000, 200, 200).all()


@pytest.mark.parametrize(("x", "y"), [(-1, 0), (0, -1), (8, 0), (0, 8)])
def test_refuses_a_piece_that_does_not_lie_inside(x: int, y: int) -> None:
    mosaic = LabelMosaic((10, 10))
    with pytest.raises(
        BadInputError, match=r"piece of 3 x 3 pixels at .* does not lie in the mosaic of 10 x 10"
    ):
        mosaic.write(x, y, np.ones((3, 3), dtype=np.uint8))
    with pytest.raises(BadInputError, match="does not lie in the mosaic"):
        mosaic.read(x, y, 3, 3)


def test_refuses_pictures_of_another_kind() -> None:
    with pytest.raises(BadInputError, match="uint8 pictures of rows and columns, not int64"):
        LabelMosaic((10, 10)).write(0, 0, np.ones((3, 3), dtype=np.int64))
    with pytest.raises(BadInputError, match=r"0 x 10 pixels in blocks of 1024 is empty"):
        LabelMosaic((0, 10))
