"""Pictures look as in a viewer: their own tags decide, and odd metadata never costs a picture.

The files are written by hand, with the values that the tests expect.
"""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from daso_tf import data
from daso_tf.data import decode
from daso_tf.data.decode import EncodedImage

RGB = np.random.default_rng(0).integers(0, 256, (12, 9, 3), np.uint8)
TURNED = {
    1: RGB,
    2: RGB[:, ::-1],
    3: RGB[::-1, ::-1],
    4: RGB[::-1],
    5: RGB.transpose(1, 0, 2),
    6: np.rot90(RGB, -1),
    7: np.rot90(RGB, 2).transpose(1, 0, 2),
    8: np.rot90(RGB),
}
SHORT, LONG, ASCII, RATIONAL, UNDEFINED = 3, 4, 2, 5, 7


def ifd(entries, start, order="<"):
    """The directory of a TIFF file, which begins at byte `start`; (tag, type, count, content)."""
    values = start + 2 + 12 * len(entries) + 4
    directory, rest = struct.pack(order + "H", len(entries)), b""
    for tag, kind, count, content in sorted(entries):
        place = content.ljust(4, b"\0")
        if len(content) > 4:
            place = struct.pack(order + "I", values + len(rest))
            rest += content + b"\0" * (len(content) % 2)
        directory += struct.pack(order + "HHI", tag, kind, count) + place
    return directory + struct.pack(order + "I", 0) + rest


def tiff(levels, tags=(), order="<", bits=16, photometric=1, packed=None, compression=1):
    """A TIFF file with one strip; `levels` has shape (height, width) or (height, width, 3)."""
    height, width = levels.shape[:2]
    channels = 1 if levels.ndim == 2 else levels.shape[2]
    pixels = packed or levels.astype(f"{order}u{bits // 8}").tobytes()
    pixels = zlib.compress(pixels) if compression == 8 else pixels

    def short(*numbers):
        return SHORT, len(numbers), struct.pack(f"{order}{len(numbers)}H", *numbers)

    entries = {
        256: short(width),
        257: short(height),
        258: short(*[bits] * channels),
        259: short(compression),
        262: short(photometric),
        273: (LONG, 1, struct.pack(order + "I", 8)),
        277: short(channels),
        278: short(height),
        279: (LONG, 1, struct.pack(order + "I", len(pixels))),
    }
    entries |= {tag: value if isinstance(value, tuple) else short(value) for tag, value in tags}
    entries = [(tag, *value) for tag, value in entries.items() if value]
    pixels += b"\0" * (len(pixels) % 2)
    start = 8 + len(pixels)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", start)
    return head + pixels + ifd(entries, start, order)


def png(levels, bits=16, color=None, before=(), after=(), packed=None):
    """A PNG file with chunks before and after the pixels."""

    def chunk(kind, content, checksum=None):
        checksum = zlib.crc32(kind + content) if checksum is None else checksum
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    height, width = levels.shape[:2]
    channels = 1 if levels.ndim == 2 else levels.shape[2]
    color = {1: 0, 2: 4, 3: 2, 4: 6}[channels] if color is None else color
    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    rows = packed or [row.astype(f">u{bits // 8}").tobytes() for row in levels]
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + b"".join(chunk(*parts) for parts in before)
        + chunk(b"IDAT", pixels)
        + b"".join(chunk(*parts) for parts in after)
        + chunk(b"IEND", b"")
    )


def exif(orientation, *more, order="<"):
    """EXIF data with an orientation; None leaves it out."""
    entries = [*more]
    if orientation is not None:
        entries.append((0x0112, SHORT, 1, struct.pack(order + "H", orientation)))
    return (b"II*\0\x08\0\0\0" if order == "<" else b"MM\0*\0\0\0\x08") + ifd(entries, 8, order)


def jpeg(*segments):
    """A JPEG file of `RGB` with segments (marker, content) after its first bytes."""
    file = io.BytesIO()
    Image.fromarray(RGB).save(file, "JPEG", quality=100, subsampling=0)
    content = file.getvalue()
    inserted = b"".join(
        struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body for marker, body in segments
    )
    return content[:2] + inserted + content[2:]


def read(content):
    return data.read_image(EncodedImage("picture", content))


def check(content, expected, atol=0):
    """The file shows `expected`, gray or RGB, and its header has its size."""
    expected = np.asarray(expected)
    if expected.ndim == 2:
        expected = np.repeat(expected[..., np.newaxis], 3, axis=-1)
    image = read(content)
    assert image.shape == expected.shape
    np.testing.assert_allclose(image.astype(int), expected, atol=atol, rtol=0)
    sizes = decode.image_sizes([EncodedImage("picture", content)])
    assert sizes == ({expected.shape[:2]}, {})


# Orientation and other metadata -----------------------------------------------------------------

TEXT = (0x011A, ASCII, 3, b"no\0")  # a resolution that is text
ODD_EXIF = {
    "resolution is text": exif(6, TEXT),
    "resolution is divided by 0": exif(6, (0x011A, RATIONAL, 1, bytes(8))),
    "big endian": exif(6, order=">"),
    "directory that is not there": exif(6, (0x8769, LONG, 1, struct.pack("<I", 10**6))),
    "tag beyond the end": exif(6, (0x010F, ASCII, 10**6, struct.pack("<I", 10**6))),
    "unknown type": exif(6, (0x0110, 99, 1, b"")),
}
BROKEN_EXIF = {
    "no EXIF": b"rubbish",
    "nothing": b"",
    "cut off": exif(6)[:9],
    "orientation 0": exif(0),
    "orientation 9": exif(9),
    "orientation is text": exif(None, (0x0112, ASCII, 2, b"6\0")),
    "orientation is a fraction": exif(None, (0x0112, RATIONAL, 1, struct.pack("<II", 6, 0))),
}
ODD_SEGMENTS = {
    "short JFIF": (0xE0, b"JFIF\0"),
    "short Adobe": (0xEE, b"Adobe"),
    "cut off Photoshop": (0xED, b"Photoshop 3.0\x008BIM\x04"),
    "Photoshop resolution": (0xED, b"Photoshop 3.0\x008BIM\x03\xed\0\0\0\0\0\x02\0\0"),
    "cut off profile": (0xE2, b"ICC_PROFILE\0"),
    "rubbish pictures": (0xE2, b"MPF\0rubbish"),
    "comment": (0xFE, b"\xff\xfe\xff"),
}
ODD_CHUNKS = {
    "profile": (b"iCCP", b"name\0\x07rubbish"),
    "short resolution": (b"pHYs", b"\0"),
    "short gamma": (b"gAMA", b""),
    "short colors": (b"cHRM", b"\0\0"),
    "short intent": (b"sRGB", b""),
    "compressed text": (b"zTXt", b"Comment\0\x05rubbish"),
    "2 MB of text": (b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2**21))),
    "wrong checksum": (b"tEXt", b"Comment\0text", 1),
    "short animation": (b"acTL", b""),
}


@pytest.mark.parametrize("orientation", [6, *BROKEN_EXIF])
@pytest.mark.parametrize("kind", ["jpeg", "png", "png after pixels", "webp"])
def test_broken_orientation_means_not_rotated(kind, orientation):
    content = BROKEN_EXIF.get(orientation) if orientation != 6 else exif(6)
    expected = RGB if orientation != 6 else TURNED[6]
    if kind == "jpeg":
        check(jpeg((0xE1, b"Exif\0\0" + content)), expected, atol=4)
    elif kind == "webp":
        file = io.BytesIO()
        Image.fromarray(RGB).save(file, "WEBP", lossless=True, exif=b"Exif\0\0" + content)
        check(file.getvalue(), expected)
    else:
        chunk = [(b"eXIf", content)]
        place = {"before": chunk} if kind == "png" else {"after": chunk}
        check(png(RGB, 8, **place), expected)


@pytest.mark.parametrize("odd", ODD_EXIF.values(), ids=ODD_EXIF)
def test_only_the_orientation_is_read_of_exif(odd):
    check(jpeg((0xE1, b"Exif\0\0" + odd)), TURNED[6], atol=4)
    check(png(RGB, 8, before=[(b"eXIf", odd)]), TURNED[6])


@pytest.mark.parametrize("segment", ODD_SEGMENTS.values(), ids=ODD_SEGMENTS)
def test_odd_segments_of_a_jpeg_do_not_matter(segment):
    check(jpeg(segment, (0xE1, b"Exif\0\0" + exif(8))), TURNED[8], atol=4)


@pytest.mark.parametrize("chunk", ODD_CHUNKS.values(), ids=ODD_CHUNKS)
@pytest.mark.parametrize("place", ["before", "after"])
def test_odd_chunks_of_a_png_do_not_matter(chunk, place):
    check(png(RGB, 8, **{place: [chunk, (b"eXIf", exif(8))]}), TURNED[8])


def test_orientation_in_xmp_and_raw_profiles():
    xmp = b'<x tiff:Orientation="6"/>'
    check(jpeg((0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp)), TURNED[6], atol=4)
    check(png(RGB, 8, before=[(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)]), TURNED[6])
    profile = f"\nexif\n{len(exif(6)):8}\n{exif(6).hex()}\n".encode()
    key = b"Raw profile type exif\0"
    check(png(RGB, 8, before=[(b"tEXt", key + profile)]), TURNED[6])
    check(png(RGB, 8, after=[(b"zTXt", key + b"\0" + zlib.compress(profile))]), TURNED[6])
    check(png(RGB, 8, after=[(b"zTXt", key + b"\0rubbish")]), RGB)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("compression", [1, 8])
def test_a_tiff_is_rotated_once(tmp_path, orientation, compression):
    tags = [(0x0112, orientation)]
    content = tiff(RGB, tags, bits=8, photometric=2, compression=compression)
    check(content, TURNED[orientation])
    path = tmp_path / "a.tif"  # the decoder of compressed files reads a file itself
    path.write_bytes(content)
    np.testing.assert_array_equal(data.read_image(path), TURNED[orientation])
    gray = RGB[..., 0].astype(int) * 257
    check(
        tiff(gray, tags, compression=compression),
        TURNED[orientation][..., 0],
    )


@pytest.mark.parametrize(
    "tags",
    [
        [(0x011A, (ASCII, 3, b"no\0")), (0x011B, (ASCII, 3, b"no\0")), (0x0128, 3)],
        [(0x8769, (LONG, 1, struct.pack("<I", 10**6)))],
        [(0x0112, 77)],
        [(0x0112, (ASCII, 2, b"6\0"))],
    ],
)
@pytest.mark.parametrize("compression", [1, 8])
def test_odd_tags_of_a_tiff_do_not_matter(tags, compression):
    check(tiff(RGB, tags, bits=8, photometric=2, compression=compression), RGB)


# Brightness -------------------------------------------------------------------------------------

LEVELS = np.array([[0, 1, 2000, 4095], [257, 2048, 3000, 17]])
SHOWN = {b: np.rint(LEVELS / (2**b - 1) * 255) for b in (12, 16)}


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("compression", [1, 8])
def test_white_is_zero(order, compression):
    options = {"order": order, "compression": compression, "photometric": 0}
    levels = LEVELS * 16
    check(tiff(levels, **options), 255 - np.rint(levels / 257))
    check(tiff(LEVELS % 256, bits=8, **options), 255 - LEVELS % 256)
    check(tiff(LEVELS, [(281, 4095)], **options), 255 - SHOWN[12])


def test_a_missing_photometric_tag_means_black_is_zero():
    missing = [(262, ())]
    check(tiff(LEVELS % 256, missing, bits=8), LEVELS % 256)
    check(tiff(LEVELS * 16, missing), np.rint(LEVELS * 16 / 257))
    check(tiff(RGB, missing, bits=8), RGB)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("compression", [1, 8])
def test_significant_bits_of_a_tiff(order, compression):
    options = {"order": order, "compression": compression}
    check(tiff(LEVELS, [(281, 4095)], **options), SHOWN[12])
    check(tiff(LEVELS // 4, [(281, 1023)], **options), np.rint(LEVELS // 4 / 1023 * 255))
    check(tiff(LEVELS, [(281, 65535)], **options), SHOWN[16])
    check(tiff(LEVELS, [(281, 4094)], **options), SHOWN[16])  # the brightest pixel, no depth
    color = np.stack([LEVELS, LEVELS[::-1], LEVELS[:, ::-1]], axis=-1)
    of_color = [(281, (SHORT, 3, struct.pack(order + "3H", 4095, 4095, 4095)))]
    check(
        tiff(color, of_color, photometric=2, **options),
        np.rint(color / 4095 * 255),
    )


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("compression", [1, 8])
def test_color_of_16_bits_in_planes(order, compression):
    color = np.stack([LEVELS * 16, LEVELS[::-1] * 16, LEVELS[:, ::-1]], axis=-1)
    planes = [plane.astype(order + "u2").tobytes() for plane in np.moveaxis(color, -1, 0)]
    planes = [zlib.compress(plane) if compression == 8 else plane for plane in planes]
    sizes = [len(plane) for plane in planes]
    starts = [8, 8 + sizes[0], 8 + sum(sizes[:2])]
    tags = [
        (273, (LONG, 3, struct.pack(order + "3I", *starts))),
        (279, (LONG, 3, struct.pack(order + "3I", *sizes))),
        (259, compression),
        (284, 2),
    ]
    content = tiff(color, tags, order=order, photometric=2, packed=b"".join(planes))
    check(content, color // 256, atol=1)


def test_12_bits_that_are_packed():
    numbers = "".join(f"{level:012b}" for level in LEVELS.ravel())
    packed = int(numbers, 2).to_bytes(len(numbers) // 8, "big")
    check(tiff(LEVELS, bits=12, packed=packed), SHOWN[12])
    check(tiff(LEVELS, bits=12, packed=packed, photometric=0), 255 - SHOWN[12])


@pytest.mark.parametrize("bits", [10, 12, 15])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("place", ["lower", "shifted", "repeated"])
def test_significant_bits_of_a_png(bits, channels, place):
    largest = 2**bits - 1
    gray = np.array([[0, 1, largest // 2], [largest // 3, largest - 2, largest]])
    values = np.stack([gray, gray[::-1], gray[:, ::-1], np.full_like(gray, largest)], axis=-1)
    alpha = channels in (2, 4)
    values = values[..., [0, 3]] if channels == 2 else values[..., :channels]
    values = values[..., 0] if channels == 1 else values
    stored = {
        "lower": values,
        "shifted": values << (16 - bits),
        "repeated": (values << (16 - bits)) | (values >> (2 * bits - 16)),
    }[place]
    white = largest if place == "lower" else 65535
    shown = np.rint(stored / white * 255)
    if alpha:  # shown on white; a shifted alpha is not quite 1
        share = shown[..., -1:] / 255
        shown = shown[..., :-1] * share + 255 * (1 - share)
    shown = np.broadcast_to(shown, (*gray.shape, 3)) if shown.ndim == 3 else shown
    check(png(stored, before=[(b"sBIT", bytes([bits] * channels))]), shown, atol=int(alpha))


def test_a_dark_png_follows_the_standard():
    """Levels that fit both readings are those of the standard: its upper bits are significant."""
    levels = np.array([[0, 16, 160, 4080]])
    check(png(levels, before=[(b"sBIT", b"\x0c")]), np.rint(levels / 257))


def test_other_depths_of_other_formats():
    pgm = b"P5 4 2 4095\n" + LEVELS.astype(">u2").tobytes()
    check(pgm, SHOWN[12], atol=1)
    file = io.BytesIO()
    Image.fromarray((LEVELS * 16).astype(np.uint16)).save(file, "JPEG2000")
    check(file.getvalue(), np.rint(LEVELS * 16 / 257))


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_transparent_gray_at_every_depth(bits):
    largest = 2**bits - 1
    values = [0, largest, largest // 2, largest - 1, 0, 1, largest, 0]
    content = int("".join(f"{value:0{bits}b}" for value in values), 2).to_bytes(bits, "big")
    for key in (0, largest, largest // 2):
        file = png(
            np.zeros((1, 8)),
            bits,
            packed=[content],
            before=[(b"tRNS", struct.pack(">H", key))],
        )
        shown = [255 if value == key else round(value / largest * 255) for value in values]
        check(file, [shown])


@pytest.mark.parametrize("bits", [8, 16])
def test_transparent_color_at_every_depth(bits):
    """Of two colors that differ in the last bit, one is transparent."""
    key = np.array([3, 100, 77]) * (2 ** (bits - 8)) + (bits == 16)
    pixels = np.array([[key, np.add(key, [0, 0, 1]), np.subtract(key, [0, 1, 0]), key]])
    shown = np.rint(pixels / (2**bits - 1) * 255)
    shown[0, [0, 3]] = 255
    check(png(pixels, bits, before=[(b"tRNS", struct.pack(">3H", *key))]), shown)


def test_transparent_palette():
    palette, alpha = (b"PLTE", bytes([9, 9, 9, 0, 0, 0])), (b"tRNS", b"\xff\0")
    file = png(np.array([[0, 1]]), 8, color=3, before=[palette, alpha])
    check(file, [[9, 255]])


# What cannot be known ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (tiff(LEVELS, [(339, 2)]), "signed levels have no defined brightness"),
        (tiff(LEVELS % 256, [(339, 2)], bits=8), "signed levels"),
        (tiff(LEVELS * 2, [(281, 4095)]), "above 4095"),
        (tiff(LEVELS, bits=10, packed=bytes(40)), r"BitsPerSample \(10,\)"),
        (tiff(LEVELS, [(259, 999)]), "Compression 999"),
        (tiff(LEVELS[..., np.newaxis].repeat(5, -1), photometric=5), "PhotometricInterpretation 5"),
    ],
)
def test_what_cannot_be_known_is_refused_by_name(content, message):
    with pytest.raises(data.DataError, match=f"'picture' cannot be read.*{message}"):
        read(content)


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (b"\0\0\0\x18ftypheic", "HEIC"),
        (b"\0\0\0\x18ftypmif1", "HEIC"),
        (b"\0\0\0\x18ftypcrx ", "Canon CR3"),
        (b"\0\0\0\x18ftypmp42", "video"),
        (b"\xff\x0a", "JPEG XL"),
        (b"8BPS\0\1", "Photoshop"),
        (bytes(128) + b"DICM", "DICOM"),
        (b"%PDF-1.7", "PDF"),
        (b'<?xml version="1.0"?>\n<svg>', "SVG"),
        (b"PK\3\4", "ZIP"),
    ],
)
def test_unsupported_kinds_are_named(start, kind):
    with pytest.raises(data.DataError, match=f"the kind {kind}, which is not supported; sup.*JPEG"):
        read(start + bytes(200))


def test_an_unknown_kind_lists_the_supported_ones():
    with pytest.raises(data.DataError, match=r"no known format; supported are .*JPEG.*PNG.*TIFF"):
        read(b"not a picture")
