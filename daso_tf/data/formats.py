"""Opens image files with Pillow, and reads what they say about orientation and brightness.

Pillow parses much more metadata than that, and refuses a picture for damage in any of it. So it
only gets the parts of JPEG and PNG files that hold pixels.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import math
import re
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO

from PIL import Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin

# Pillow recognizes a format by the file's content, whatever its name, and starts another program
# for some formats (EPS). It decodes these formats itself, if it was built with them.
Image.init()
FORMATS = tuple(
    kind
    for kind in ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
    if kind in Image.ID
)

# What other files begin with.
_OTHERS = {
    "HEIC": rb"....ftyp(hei[cxms]|hev[cxms]|mif1|msf1)",
    "AVIF": rb"....ftypavi[fs]",
    "Canon CR3": rb"....ftypcrx ",
    "video": rb"....ftyp|RIFF....AVI |\x1aE\xdf\xa3",
    "JPEG XL": rb"\xff\x0a|\0\0\0\x0cJXL ",
    "JPEG XR": rb"II\xbc",
    "Canon CR2": rb"II\*\0....CR",
    "Fujifilm RAF": rb"FUJIFILMCCD-RAW",
    "Olympus ORF": rb"IIR[OS]|MMOR",
    "Panasonic RW2": rb"IIU\0",
    "Photoshop": rb"8BPS",
    "DICOM": rb".{128}DICM",
    "FITS": rb"SIMPLE  =",
    "OpenEXR": rb"v/1\x01",
    "Radiance HDR": rb"#\?R",
    "QOI": rb"qoif",
    "icon": rb"\0\0[\x01\x02]\0",
    "PDF": rb"%PDF",
    "PostScript": rb"%!PS|\xc5\xd0\xd3\xc6",
    "SVG": rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*|<!DOCTYPE svg[^>]*>\s*)*<svg",
    "NumPy": rb"\x93NUMPY",
    "ZIP": rb"PK\x03\x04",
}

_ORIENTATION = 0x0112
_MOST_METADATA = 2**24  # bytes; longer metadata counts as broken
_FAX = (2, 3, 4)  # compressions of TIFF in which white is zero unless the file says otherwise


@dataclasses.dataclass
class Picture:
    """An image file that is open, and what it says about how to show its pixels.

    Args:
        image: As Pillow opens it. It is neither rotated nor decoded yet.
        orientation: The EXIF orientation, 1 to 8; 1 is "not rotated".
        bits: How many bits of a 16-bit level are significant.
        padded: Whether these may be the upper bits, as in PNG; if not, they are the lower ones.
        inverted: Whether level 0 of 16-bit gray is white.
        key: The levels of the color that is transparent, in 0..255, or in 0..65535 for 16 bits.
        low_bytes: Opens the lower 8 bits of 16-bit colors, of which Pillow keeps the upper 8.
        buffered: Pixels of which the decoder holds the frequencies all at once: those of a JPEG
            file whose scans each have a part of them.
    """

    image: Image.Image
    orientation: int = 1
    bits: int = 16
    padded: bool = False
    inverted: bool = False
    key: tuple[int, ...] | None = None
    low_bytes: Callable[[], Image.Image] | None = None
    buffered: int = 0


def open_picture(content: BinaryIO) -> Picture:
    """Opens an image file like `Image.open`, which has a limit of its own for the whole process.

    That limit is 179 megapixels, less than some cameras have.

    Args:
        content: The file. It must stay open as long as the picture is used.

    Raises:
        Exception: Pillow's decoders raise any kind for a broken file.
    """
    prefix = content.read(16)
    reasons = []
    for kind in FORMATS:
        factory, accepts = Image.OPEN[kind]
        accepted = not accepts or accepts(prefix)
        if accepted and not isinstance(accepted, str):  # a text says why it cannot be read
            content.seek(0)
            try:
                return _OPENERS[kind](content) if kind in _OPENERS else _other(factory, content)
            except (SyntaxError, IndexError, TypeError, struct.error) as error:
                reasons.append(f"as a {kind} file it is damaged or of an unknown kind: {error}")
    content.seek(0)
    raise ValueError(
        f"{_name_of(content.read(1024)) or ''.join(reasons[:1]) or 'it is of no known format'}; "
        f"supported are {', '.join(FORMATS)}"
    )


def _name_of(start: bytes) -> str:
    for kind, pattern in _OTHERS.items():
        if re.match(pattern, start, re.DOTALL):
            return f"it is a file of the kind {kind}, which is not supported"
    return ""


def _other(factory: Callable[..., Image.Image], content: BinaryIO) -> Picture:
    image = factory(content, "")
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except Exception:  # broken metadata fails in many ways
        orientation = 1
    return Picture(image, _valid(orientation))


# JPEG ------------------------------------------------------------------------------------------


def _jpeg(content: BinaryIO) -> Picture:
    kept, exif, xmp = [(0, 2)], b"", b""
    for marker, start, length in _jpeg_segments(content):
        if not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            kept.append((start, length))
            continue
        body = _read(content, start + 4, length - 4)
        # These two tell the decoder what the colors are.
        if (marker == 0xE0 and body[:5] == b"JFIF\0" and len(body) >= 14) or (
            marker == 0xEE and body[:5] == b"Adobe" and len(body) >= 12
        ):
            kept.append((start, length))
        elif marker == 0xE1 and body[:6] == b"Exif\0\0":
            exif += body[6:]
        elif marker == 0xE1 and body[:29] == b"http://ns.adobe.com/xap/1.0/\0":
            xmp += body[29:]
    image = JpegImagePlugin.JpegImageFile(_parts(content, kept))
    first_scan = _read(content, start, 5)  # its last byte is the number of its channels
    whole = "progression" not in image.info and first_scan[4:] == bytes([image.layers])
    return Picture(
        image, _orientation_of(exif, xmp), buffered=0 if whole else math.prod(image.size)
    )


def _jpeg_segments(content: BinaryIO) -> Iterator[tuple[int, int, int]]:
    """Yields marker, start and length of the segments before the pixels, then all the rest."""
    start, end = 2, content.seek(0, io.SEEK_END)
    while True:
        header = _read(content, start, 4)
        if len(header) < 4 or header[0] != 0xFF or not 0xC0 <= header[1] <= 0xFE:
            break
        marker, length = header[1], 2 + int.from_bytes(header[2:], "big")
        if marker == 0xDA or length < 4 or start + length > end:
            break
        yield marker, start, length
        start += length
    yield 0, start, end - start


# PNG -------------------------------------------------------------------------------------------


def _png(content: BinaryIO) -> Picture:
    kept, metadata = [(0, 8)], dict[bytes, bytes]()
    exif, xmp, header = b"", b"", b""
    for kind, start, length in _png_chunks(content):
        if kind == b"IHDR":
            header = _read(content, start + 8, 13).ljust(13, b"\0")
        # Critical chunks have a capital letter; of the others, Pillow needs the palette's alpha.
        if kind[:1].isupper() or not kind or (kind == b"tRNS" and header[9:10] == b"\3"):
            kept.append((start, length))
        elif length <= _MOST_METADATA and kind in (b"eXIf", b"tRNS", b"sBIT"):
            metadata.setdefault(kind, _read(content, start + 8, length - 12))
        elif length <= _MOST_METADATA and kind in (b"tEXt", b"zTXt", b"iTXt"):
            text = _read(content, start + 8, length - 12)
            if text.startswith(b"Raw profile type exif\0"):  # of ImageMagick
                exif = exif or _raw_profile(kind, text[22:])
            elif text.startswith(b"XML:com.adobe.xmp\0"):
                xmp = xmp or text
    orientation = _orientation_of(metadata.get(b"eXIf", b"") or exif, xmp)

    def opened() -> Image.Image:
        return PngImagePlugin.PngImageFile(_parts(content, kept))

    depth, color = (header[8], header[9]) if header else (0, 0)
    channels = {0: 1, 2: 3, 4: 2, 6: 4}.get(color, 0)
    picture = Picture(opened(), orientation, padded=True)
    transparent = metadata.get(b"tRNS", b"")
    if color in (0, 2) and len(transparent) >= 2 * channels:
        levels = struct.unpack(f">{channels}H", transparent[: 2 * channels])
        scale = 255 // (2**depth - 1) if depth < 8 else 1  # as Pillow scales the pixels
        picture.key = tuple((level & (2**depth - 1)) * scale for level in levels)
    significant = metadata.get(b"sBIT", b"")[:channels]
    if depth == 16 and len(significant) == channels and 0 < max(significant, default=0) < 16:
        picture.bits = max(significant)
    if depth == 16 and color in (2, 6):
        raw = {2: "RGB;16L", 6: "RGBA;16L"}[color]
        picture.low_bytes = lambda: _with_raw_mode(opened(), raw)
    elif depth == 16 and color == 4:
        picture.low_bytes = lambda: _low_bytes_of_gray_and_alpha(opened())
    return picture


def _low_bytes_of_gray_and_alpha(image: Image.Image) -> Image.Image:
    _, gray, _, alpha = _with_raw_mode(image, "RGBA").split()  # the four bytes of each pixel
    return Image.merge("RGBA", (gray, gray, gray, alpha))


def _png_chunks(content: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Yields kind, start and length of the chunks; the kind of what is no chunk is empty."""
    start, end = 8, content.seek(0, io.SEEK_END)
    while start < end:
        header = _read(content, start, 8)
        length = 12 + int.from_bytes(header[:4], "big")
        if not re.fullmatch(rb"[A-Za-z]{4}", header[4:]):
            yield b"", start, end - start
            return
        yield header[4:], start, min(length, end - start)
        start += length
        if header[4:] == b"IEND":
            return


def _raw_profile(kind: bytes, text: bytes) -> bytes:
    """Returns the EXIF data of a text that has them as hexadecimal digits."""
    with contextlib.suppress(zlib.error, ValueError):
        if kind == b"zTXt":
            text = zlib.decompressobj().decompress(text[1:], _MOST_METADATA)
        return bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode("latin-1"))
    return b""


# TIFF ------------------------------------------------------------------------------------------


class _Tiff(TiffImagePlugin.TiffImageFile):
    """Leaves the orientation and the brightness of gray levels to the caller."""

    orientation = 1
    bits = 16
    inverted = False

    def _setup(self) -> None:
        tags = self.tag_v2
        self.orientation = _valid(_tag(tags, _ORIENTATION))
        # Pillow would rotate; and it computes with resolutions, whatever they are.
        for tag in (
            _ORIENTATION,
            TiffImagePlugin.X_RESOLUTION,
            TiffImagePlugin.Y_RESOLUTION,
            TiffImagePlugin.RESOLUTION_UNIT,
        ):
            if tag in tags:
                del tags[tag]
        depths = _numbers(_tag(tags, TiffImagePlugin.BITSPERSAMPLE))
        photometric = _tag(tags, TiffImagePlugin.PHOTOMETRIC_INTERPRETATION)
        if 2 in _numbers(_tag(tags, TiffImagePlugin.SAMPLEFORMAT)) and depths[0] <= 16:
            raise ValueError("signed levels have no defined brightness")
        if photometric is None and _tag(tags, TiffImagePlugin.COMPRESSION) not in _FAX:
            samples = _numbers(_tag(tags, TiffImagePlugin.SAMPLESPERPIXEL))[0]
            photometric = {1: 1, 3: 2}.get(samples, 0)  # as libtiff, and so most viewers
            tags[TiffImagePlugin.PHOTOMETRIC_INTERPRETATION] = photometric
        if photometric == 0 and depths in ((12,), (16,)):
            self.inverted = True  # Pillow would ignore it
            tags[TiffImagePlugin.PHOTOMETRIC_INTERPRETATION] = 1
        try:
            super()._setup()
        except (SyntaxError, KeyError) as error:
            raise ValueError(
                f"TIFF files with BitsPerSample {depths}, PhotometricInterpretation {photometric} "
                f"and Compression {_tag(tags, TiffImagePlugin.COMPRESSION)} are not supported "
                f"({error})"
            ) from error
        if 16 in depths and _is_planar(tags) and not self.use_load_libtiff:
            # One strip per channel, whose levels Pillow would take for two of 8 bits.
            order = "L" if tags.prefix == b"II" else "B"
            for index, tile in enumerate(self.tile):
                assert isinstance(tile.args, tuple)
                raw = f"{tile.args[0]};16{order}"
                self.tile[index] = tile._replace(args=(raw, *tile.args[1:]))
        if 12 in depths:
            self.bits = 12
        elif 16 in depths:
            self.bits = _significant_bits(tags) or 16

    def load_end(self) -> None:
        """Does nothing: Pillow would read all metadata, and rotate."""


def _tiff(content: BinaryIO) -> Picture:
    image = _Tiff(content)
    picture = Picture(image, image.orientation, image.bits, inverted=image.inverted)
    tile = image.tile[0] if image.tile else None
    raw = tile.args[0] if tile and isinstance(tile.args, tuple) else ""
    if not _is_planar(image.tag_v2) and re.fullmatch("(RGB|RGBX|RGBA);16[LBN]", raw):
        other = raw[:-1] + ("L" if raw.endswith("B") else "B")  # "N" is "L" on usual machines
        picture.low_bytes = lambda: _with_raw_mode(_Tiff(_rewound(content)), other)
    if image.mode not in ("I", "I;16", "I;16B") and picture.bits < 16 and not picture.low_bytes:
        raise ValueError(f"{picture.bits} significant bits of 16 are supported for gray and RGB")
    return picture


def _is_planar(tags: TiffImagePlugin.ImageFileDirectory_v2) -> bool:
    return _tag(tags, TiffImagePlugin.PLANAR_CONFIGURATION) == 2


def _significant_bits(tags: TiffImagePlugin.ImageFileDirectory_v2) -> int | None:
    """Returns b where MaxSampleValue is 2^b - 1; other values are statistics of the pixels."""
    values = set(_numbers(_tag(tags, 281)))
    largest = values.pop() if len(values) == 1 else 0
    return largest.bit_length() if largest >= 255 and not largest & (largest + 1) else None


def _tag(tags: TiffImagePlugin.ImageFileDirectory_v2, tag: int) -> object:
    try:
        return tags.get(tag)
    except Exception:  # it is broken
        return None


def _numbers(value: object) -> tuple[int, ...]:
    values = value if isinstance(value, tuple) else (value,)
    return tuple(number for number in values if isinstance(number, int)) or (1,)


_OPENERS = {"JPEG": _jpeg, "PNG": _png, "TIFF": _tiff}


# Both ------------------------------------------------------------------------------------------


def _with_raw_mode(image: Image.Image, raw: str) -> Image.Image:
    assert isinstance(image, (PngImagePlugin.PngImageFile, TiffImagePlugin.TiffImageFile))
    image.tile = [
        tile._replace(args=(raw, *tile.args[1:]) if isinstance(tile.args, tuple) else raw)
        for tile in image.tile
    ]
    return image


def _orientation_of(exif: bytes, xmp: bytes) -> int:
    """Returns the orientation that EXIF data have, or else XMP data, or else 1."""
    found = None
    if exif:
        with contextlib.suppress(Exception):  # broken metadata fail in many ways
            tags = Image.Exif()
            tags.load(exif)
            found = tags.get(_ORIENTATION)
    if found is None and (match := re.search(rb'tiff:Orientation(?:="|>)([0-9])', xmp)):
        found = int(match[1])
    return _valid(found)


def _valid(orientation: object) -> int:
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def _read(content: BinaryIO, start: int, length: int) -> bytes:
    content.seek(start)
    return content.read(length)


def _rewound(content: BinaryIO) -> BinaryIO:
    content.seek(0)
    return content


def _parts(content: BinaryIO, parts: Sequence[tuple[int, int]]) -> BinaryIO:
    """Returns a file that consists of parts (start, length) of another one."""
    return io.BufferedReader(_Parts(content, parts), 2**16)


class _Parts(io.RawIOBase):
    def __init__(self, content: BinaryIO, parts: Sequence[tuple[int, int]]) -> None:
        self._content, self._position = content, 0
        self._parts: list[tuple[int, int, int]] = []  # start here, start there, length
        self._length = 0
        for start, length in parts:
            if self._parts and sum(self._parts[-1][1:]) == start:  # they adjoin
                here, there, before = self._parts.pop()
                self._parts.append((here, there, before + length))
            else:
                self._parts.append((self._length, start, length))
            self._length += length

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + (0, self._position, self._length)[whence]
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        for here, there, length in self._parts:
            within = self._position - here
            if 0 <= within < length:
                data = _read(self._content, there + within, min(len(buffer), length - within))
                buffer[: len(data)] = data
                self._position += len(data)
                return len(data)
        return 0
