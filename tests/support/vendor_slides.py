"""Files as three makers of scanners write them: Hamamatsu NDPI, Leica SCN and 3DHISTECH MIRAX.

They hold what OpenSlide asks for when it opens such files; what it does not ask for is left out. Levels are means of
blocks of level-0 pixels.
"""

from __future__ import annotations

import base64
import io
import struct
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np
import tifffile
from PIL import Image

from overread.domain.slides import PixelSize

QUALITY = 95
MACRO_PX = (320, 120)
UM_OF_CM = 10_000.0


def shrunk(pixels: np.ndarray, factor: int) -> np.ndarray:
    """Means of `factor` x `factor` pixels; what is left over at the right and below is dropped."""
    rows, columns = pixels.shape[0] // factor, pixels.shape[1] // factor
    whole = pixels[: rows * factor, : columns * factor].astype(np.float32)
    return whole.reshape(rows, factor, columns, factor, 3).mean(axis=(1, 3)).round().astype(np.uint8)


def macro(pixels: np.ndarray) -> np.ndarray:
    """A glass slide from afar."""
    return np.asarray(Image.fromarray(pixels).resize(MACRO_PX))


def jpeg(pixels: np.ndarray, **options: int) -> bytes:
    """A baseline JPEG with all its colours."""
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "JPEG", quality=QUALITY, subsampling=0, **options)
    return sink.getvalue()


# -- Hamamatsu NDPI ------------------------------------------------------------------------------------------------

ASCII, SHORT, LONG, RATIONAL, SLONG, FLOAT = 2, 3, 4, 5, 9, 11
CODES = {SHORT: "H", LONG: "I", RATIONAL: "I", SLONG: "i", FLOAT: "f"}
MCU_PX = 8
# JPEG has 16 bits for an edge, of which libjpeg takes this; NDPI writes 0 for longer ones.
LONGEST_JPEG_PX = 65_500
MACRO_LENS = -1.0
# Of each tag its type, and its numbers or text; numerator and denominator make one rational.
Tags = dict[int, tuple[int, Sequence[float] | str]]


def write_ndpi(
    path: Path,
    pixels: np.ndarray,
    um: PixelSize | None,
    *,
    lens: float = 20.0,
    factors: Sequence[int] = (1, 2, 4),
) -> None:
    """A classic TIFF with 64-bit offsets, each level one strip of JPEG.

    The last level is a plain JPEG; the others have restart markers, by which a part is read without what precedes it.

    Args:
        um: None for a file that tells the magnification only.
    """
    directories: list[Tags] = []
    strips: list[bytes] = []
    for factor in factors:
        level = shrunk(pixels, factor)
        tags = _ndpi_tags(level, lens / factor, None if um is None else PixelSize(um.um * factor))
        if factor == factors[-1]:
            strips.append(jpeg(level))
        else:
            strip, starts = _with_restarts(level)
            strips.append(strip)
            tags[65426] = (LONG, starts)
        directories.append(tags)
    view = macro(pixels)
    strips.append(jpeg(view))
    directories.append(_ndpi_tags(view, MACRO_LENS, None))
    with path.open("wb") as file:
        file.write(b"II*\0" + bytes(8))
        link = 4
        for tags, strip in zip(directories, strips, strict=True):
            tags[273] = (LONG, [_appended(file, strip)])
            tags[279] = (LONG, [len(strip)])
            link = _write_directory(file, tags, link)


def _ndpi_tags(level: np.ndarray, lens: float, um: PixelSize | None) -> Tags:
    rows, columns, _ = level.shape
    tags: Tags = {
        254: (LONG, [0]),
        256: (LONG, [columns]),
        257: (LONG, [rows]),
        258: (SHORT, [8, 8, 8]),
        259: (SHORT, [7]),
        262: (SHORT, [6]),
        271: (ASCII, "Hamamatsu"),
        272: (ASCII, "C12000"),
        277: (SHORT, [3]),
        278: (LONG, [rows]),
        284: (SHORT, [1]),
        65420: (LONG, [1]),
        65421: (FLOAT, [lens]),
        65422: (SLONG, [1_250_000]),
        65423: (SLONG, [-3_400_000]),
        65424: (SLONG, [0]),
        65427: (ASCII, "synthetic"),
        65449: (ASCII, "Product=NDP\r\nObjective.Lens.Magnificant=20\r\n"),
    }
    if um is not None:
        resolution = (RATIONAL, [round(UM_OF_CM / um.um * 1000), 1000])
        tags |= {282: resolution, 283: resolution, 296: (SHORT, [3])}
    return tags


def _with_restarts(level: np.ndarray) -> tuple[bytes, list[int]]:
    """The level as a JPEG that starts anew with each part of a row of blocks, and where each part begins.

    Parts do not depend on each other: they are coded one below the other, and what makes them a wide picture is the
    size in the header alone.
    """
    rows, columns, _ = level.shape
    part = next((edge for edge in range(256, 0, -MCU_PX) if columns % edge == 0), None)
    if part is None or rows % MCU_PX:
        raise ValueError(f"{columns} x {rows} pixels are no whole parts of {MCU_PX} x {MCU_PX} pixels")
    parts = level.reshape(rows // MCU_PX, MCU_PX, columns // part, part, 3).swapaxes(1, 2)
    coded = bytearray(jpeg(parts.reshape(-1, part, 3), restart_marker_blocks=part // MCU_PX))
    size, start = _markers(coded)
    coded[size : size + 4] = struct.pack(">HH", *(0 if n > LONGEST_JPEG_PX else n for n in (rows, columns)))
    starts = [start]
    while (at := coded.find(b"\xff", start)) >= 0:
        start = at + 2
        if 0xD0 <= coded[at + 1] <= 0xD7:
            starts.append(start)
    return bytes(coded), starts


def _markers(coded: bytes | bytearray) -> tuple[int, int]:
    """Where a JPEG has its height and width, and where its coefficients begin."""
    at, size = 2, 0
    while True:
        marker, length = coded[at + 1], int.from_bytes(coded[at + 2 : at + 4], "big")
        if marker == 0xC0:
            size = at + 5
        at += 2 + length
        if marker == 0xDA:
            return size, at


def _appended(file: io.BufferedWriter, content: bytes) -> int:
    place = file.seek(0, io.SEEK_END)
    file.write(content + bytes(len(content) % 2))
    return place


def _write_directory(file: io.BufferedWriter, tags: Tags, link: int) -> int:
    """Append a directory and point to it at `link`; where the next one's place is to be written.

    NDPI has 8 bytes for that place, and the upper halves of all values and offsets behind it.
    """
    lower, upper = [], []
    for tag, (kind, values) in sorted(tags.items()):
        if isinstance(values, str):
            count, coded = len(values) + 1, values.encode() + b"\0"
        else:
            count, coded = (
                len(values) // (2 if kind == RATIONAL else 1),
                struct.pack(f"<{len(values)}{CODES[kind]}", *values),
            )
        if len(coded) > 4 or kind == ASCII:
            coded = struct.pack("<Q", _appended(file, coded))
        lower.append(struct.pack("<HHI", tag, kind, count) + coded[:4].ljust(4, b"\0"))
        upper.append(coded[4:].ljust(4, b"\0"))
    place = _appended(file, struct.pack("<H", len(lower)) + b"".join(lower) + bytes(8) + b"".join(upper))
    file.seek(link)
    file.write(struct.pack("<Q", place))
    return place + 2 + 12 * len(lower)


# -- Leica SCN -----------------------------------------------------------------------------------------------------

LEICA = "http://www.leica-microsystems.com/scn/2010/10/01"
SCN_TILE = (256, 256)


def write_scn(
    path: Path,
    pixels: np.ndarray,
    um: PixelSize,
    *,
    at: tuple[int, int] = (400, 240),
    glass: tuple[int, int] | None = None,
    factors: Sequence[int] = (1, 4, 16),
) -> None:
    """A BigTIFF with the macro picture first; XML says where on the glass the scan lies.

    Args:
        at: the scan's upper left corner on the glass, in pixels.
        glass: (width, height) of the glass in pixels; the scan's and a third more if None.
    """
    levels = [shrunk(pixels, factor) for factor in factors]
    rows, columns, _ = pixels.shape
    width, height = glass or (columns * 4 // 3, rows * 4 // 3)
    view = macro(pixels)
    whole = _scn_image([view], 0, (width, height), (0, 0), um, 0.6)
    scan = _scn_image(levels, 1, (columns, rows), at, um, 20)
    xml = (
        f'<?xml version="1.0"?><scn xmlns={quoteattr(LEICA)}>'
        f'<collection name="synthetic" sizeX="{_nm(width, um)}" sizeY="{_nm(height, um)}">'
        f"<barcode>{base64.b64encode(b'S1').decode()}</barcode>{whole}{scan}</collection></scn>"
    )
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for number, (picture, edge) in enumerate(
            [(view, um.um * width / view.shape[1])]
            + [(level, um.um * factor) for level, factor in zip(levels, factors, strict=True)]
        ):
            tiff.write(
                picture,
                tile=SCN_TILE,
                photometric="rgb",
                compression="jpeg",
                compressionargs={"level": QUALITY},
                subsampling=(1, 1),
                resolution=(UM_OF_CM / edge, UM_OF_CM / edge),
                resolutionunit="CENTIMETER",
                description=xml if number == 0 else None,
                metadata=None,
            )


def _nm(pixels: int, um: PixelSize) -> int:
    return round(pixels * um.um * 1000)


def _scn_image(
    levels: Sequence[np.ndarray],
    first: int,
    size: tuple[int, int],
    at: tuple[int, int],
    um: PixelSize,
    objective: float,
) -> str:
    dimensions = "".join(
        f'<dimension sizeX="{level.shape[1]}" sizeY="{level.shape[0]}" r="{number}" ifd="{first + number}"/>'
        for number, level in enumerate(levels)
    )
    return (
        '<image><creationDate>2020-01-01T00:00:00Z</creationDate><device model="Leica SCN400" version="1.5"/>'
        f'<pixels sizeX="{levels[0].shape[1]}" sizeY="{levels[0].shape[0]}">{dimensions}</pixels>'
        f'<view sizeX="{_nm(size[0], um)}" sizeY="{_nm(size[1], um)}" offsetX="{_nm(at[0], um)}"'
        f' offsetY="{_nm(at[1], um)}"/><scanSettings><objectiveSettings><objective>{objective}</objective>'
        "</objectiveSettings><illuminationSettings><numericalAperture>0.4</numericalAperture>"
        "<illuminationSource>brightfield</illuminationSource></illuminationSettings></scanSettings></image>"
    )


# -- 3DHISTECH MIRAX -----------------------------------------------------------------------------------------------

TILE = 256
TILES_OF_PHOTO = 2
PHOTO = TILE * TILES_OF_PHOTO
OVERLAP = 32
ADVANCE = PHOTO - OVERLAP
# Rows and columns of places at the upper left where the camera found nothing to photograph.
EMPTY = 1
MIRAX_LEVELS = 4
MIRAX_ID = "0123456789ABCDEF0123456789ABCDEF"
WHITE_BGR = 0xFFFFFF
ENTRIES_OF_PAGE = 20


def mirax_size(pixels: np.ndarray) -> tuple[int, int]:
    """(width, height) of the photos that cover a picture."""
    columns, rows = _photos(pixels)
    return (columns - 1) * ADVANCE + PHOTO, (rows - 1) * ADVANCE + PHOTO


def write_mrxs(
    path: Path, pixels: np.ndarray, um: PixelSize, *, skipped: Collection[tuple[int, int]] = ()
) -> None:
    """`name.mrxs`, a JPEG of the slide, and the folder `name` with index, data and `Slidedat.ini`.

    The camera's photos overlap and lie some pixels from where they should; the pixels fit where they lie. Photos on
    the border are at their place.

    Args:
        skipped: (column, row) of photos that were not taken.
    """
    columns, rows = (n + EMPTY for n in _photos(pixels))
    width, height = mirax_size(pixels)
    padded = np.full((height, width, 3), 255, np.uint8)
    padded[: pixels.shape[0], : pixels.shape[1]] = pixels
    chance = np.random.default_rng(1)
    places = {}
    for row in range(rows):
        for column in range(columns):
            inside = EMPTY < column < columns - 1 and EMPTY < row < rows - 1
            shift = chance.integers(-5, 6, 2) if inside else (0, 0)
            places[column, row] = (column * ADVANCE + int(shift[0]), row * ADVANCE + int(shift[1]))
    origin = EMPTY * ADVANCE
    photos = {
        (column, row): padded[y - origin : y - origin + PHOTO, x - origin : x - origin + PHOTO]
        for (column, row), (x, y) in places.items()
        if column >= EMPTY and row >= EMPTY and (column - EMPTY, row - EMPTY) not in skipped
    }
    folder = path.with_suffix("")
    folder.mkdir()
    path.write_bytes(jpeg(macro(pixels)))
    data = _Data(folder)
    position = data.add(b"".join(struct.pack("<Bii", 1, x, y) for x, y in places.values()))
    view = data.add(jpeg(macro(pixels)))
    images = [
        [(number, data.add(jpeg(image))) for number, image in _images(photos, (columns, rows), 2**level)]
        for level in range(MIRAX_LEVELS)
    ]
    data.close()
    (folder / "Index.dat").write_bytes(_index(images, [view, position]))
    (folder / "Slidedat.ini").write_text(_slidedat((columns, rows), um), encoding="utf-8-sig", newline="\r\n")


def _photos(pixels: np.ndarray) -> tuple[int, int]:
    rows, columns, _ = pixels.shape
    across, down = (max(0, -((PHOTO - edge) // ADVANCE)) + 1 for edge in (columns, rows))
    return across, down


def _images(
    photos: dict[tuple[int, int], np.ndarray], size: tuple[int, int], concat: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Numbers and pixels of the images of a level: `concat` x `concat` tiles of level 0, each made smaller."""
    across, down = (n * TILES_OF_PHOTO for n in size)
    edge = TILE // concat
    for top in range(0, down, concat):
        for left in range(0, across, concat):
            image = np.full((TILE, TILE, 3), 255, np.uint8)
            is_empty = True
            for y in range(top, min(top + concat, down)):
                for x in range(left, min(left + concat, across)):
                    photo = photos.get((x // TILES_OF_PHOTO, y // TILES_OF_PHOTO))
                    if photo is None:
                        continue
                    is_empty = False
                    row, column = y % TILES_OF_PHOTO * TILE, x % TILES_OF_PHOTO * TILE
                    tile = shrunk(photo[row : row + TILE, column : column + TILE], concat)
                    row, column = (y - top) * edge, (x - left) * edge
                    image[row : row + edge, column : column + edge] = tile
            if not is_empty:
                yield top * across + left, image


@dataclass
class _Data:
    """`Data0000.dat` and its sequel, into which records go by turns."""

    folder: Path
    parts: tuple[bytearray, bytearray] = field(
        default_factory=lambda: (bytearray(b"data"), bytearray(b"data"))
    )
    turn: int = 0

    def add(self, record: bytes) -> tuple[int, int, int]:
        """Offset, size and number of the file."""
        self.turn = 1 - self.turn
        part = self.parts[self.turn]
        part += record
        return len(part) - len(record), len(record), self.turn

    def close(self) -> None:
        for number, part in enumerate(self.parts):
            (self.folder / f"Data{number:04}.dat").write_bytes(part)


Record = tuple[int, int, int]


def _index(images: Sequence[Sequence[tuple[int, Record]]], others: Sequence[Record]) -> bytes:
    """Version, identity and two roots; lists of pages, each of which names the next one."""
    coded = bytearray(f"01.02{MIRAX_ID}".encode())
    roots = len(coded)
    coded += bytes(8)

    def numbers(*values: int) -> int:
        place = len(coded)
        coded.extend(struct.pack(f"<{len(values)}i", *values))
        return place

    heads = []
    for level in images:
        first = len(coded)
        for start in range(0, len(level), ENTRIES_OF_PAGE):
            page = level[start : start + ENTRIES_OF_PAGE]
            entries = [value for number, record in page for value in (number, *record)]
            # A page, of length, next page and entries of four numbers, is followed by the one that it names.
            is_last = start + ENTRIES_OF_PAGE >= len(level)
            numbers(len(page), 0 if is_last else len(coded) + 4 * (2 + len(entries)), *entries)
        heads.append(numbers(0, first))
    hierarchy = numbers(*heads)
    heads = [numbers(0, numbers(1, 0, 0, 0, *record)) for record in others]
    rest = numbers(*heads)
    struct.pack_into("<ii", coded, roots, hierarchy, rest)
    return bytes(coded)


def _slidedat(size: tuple[int, int], um: PixelSize) -> str:
    sections: dict[str, dict[str, object]] = {
        "GENERAL": {
            "SLIDE_VERSION": "01.02",
            "SLIDE_ID": MIRAX_ID,
            "IMAGENUMBER_X": size[0] * TILES_OF_PHOTO,
            "IMAGENUMBER_Y": size[1] * TILES_OF_PHOTO,
            "OBJECTIVE_MAGNIFICATION": 20,
            "CameraImageDivisionsPerSide": TILES_OF_PHOTO,
        },
        "HIERARCHICAL": {
            "HIER_COUNT": 1,
            "NONHIER_COUNT": 2,
            "INDEXFILE": "Index.dat",
            "HIER_0_NAME": "Slide zoom level",
            "HIER_0_COUNT": MIRAX_LEVELS,
            **{f"HIER_0_VAL_{n}": f"ZoomLevel_{n}" for n in range(MIRAX_LEVELS)},
            **{f"HIER_0_VAL_{n}_SECTION": f"LAYER_0_LEVEL_{n}_SECTION" for n in range(MIRAX_LEVELS)},
            "NONHIER_0_NAME": "Scan data layer",
            "NONHIER_0_COUNT": 1,
            "NONHIER_0_VAL_0": "ScanDataLayer_SlideThumbnail",
            "NONHIER_0_VAL_0_SECTION": "NONHIERLAYER_0_LEVEL_0_SECTION",
            "NONHIER_1_NAME": "VIMSLIDE_POSITION_BUFFER",
            "NONHIER_1_COUNT": 1,
            "NONHIER_1_VAL_0": "default",
            "NONHIER_1_VAL_0_SECTION": "NONHIERLAYER_1_LEVEL_0_SECTION",
        },
        "DATAFILE": {"FILE_COUNT": 2, "FILE_0": "Data0000.dat", "FILE_1": "Data0001.dat"},
        "NONHIERLAYER_0_LEVEL_0_SECTION": {"THUMBNAIL_IMAGE_TYPE": "JPEG"},
    }
    for level in range(MIRAX_LEVELS):
        sections[f"LAYER_0_LEVEL_{level}_SECTION"] = {
            "OVERLAP_X": OVERLAP / 2**level,
            "OVERLAP_Y": OVERLAP / 2**level,
            "MICROMETER_PER_PIXEL_X": um.um * 2**level,
            "MICROMETER_PER_PIXEL_Y": um.um * 2**level,
            "IMAGE_FORMAT": "JPEG",
            "IMAGE_FILL_COLOR_BGR": WHITE_BGR,
            "DIGITIZER_WIDTH": TILE,
            "DIGITIZER_HEIGHT": TILE,
            "IMAGE_CONCAT_FACTOR": int(level > 0),
        }
    return "\n".join(
        f"[{name}]\n" + "".join(f"{key} = {value}\n" for key, value in keys.items())
        for name, keys in sections.items()
    )
