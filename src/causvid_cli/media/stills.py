"""A photo -> RGB, as its maker saw it: upright, in sRGB, nothing transparent, nothing clipped."""

import importlib
import io
import logging
import shlex
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

from causvid_cli.errors import MediaError
from causvid_cli.media.probe import MAX_PIXELS, check_input, open_video

FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "AVIF", "JPEG2000", "HEIF")
"""Pillow's readers that may open a user's file: raster formats only; none that starts another program (EPS)."""
logging.getLogger("PIL").addHandler(logging.NullHandler())  # what it logs it raises as well; nothing is to be printed

_ANIMATED = {"GIF", "PNG", "WEBP", "AVIF"}  # more pictures in a TIFF are pages, in an MPO views or previews
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_KINDS = {b"%PDF": "a PDF document", b"%!PS": "a PostScript document", b"\xc5\xd0\xd3\xc6": "a PostScript document"}


@dataclass(frozen=True, slots=True)
class StillImage:
    """pixels: uint8 RGB [H, W, 3], sRGB. notes: what was done to it, as parts of a sentence."""

    pixels: np.ndarray
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)"""
        return self.pixels.shape[1], self.pixels.shape[0]


def open_image(path: Path, *, background: tuple[int, int, int] = (0, 0, 0)) -> StillImage:
    """Read a photo or drawing.

    background: what shows through transparent parts. Raises MediaError when the file is missing, damaged, too large,
    an animation, or no picture. A JPEG has no checksums: what is flipped inside one shows, and is not noticed.
    """
    check_input(path)
    try:
        with open(path, "rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's hints at large or odd files: ours to judge, not the user's
            return _read(file, path, background)
    except (MediaError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise MediaError(f"{path}: has more than {MAX_PIXELS // 10**6} megapixels; scale it down first") from error
    except Exception as error:  # hostile files make Pillow's readers raise nearly anything
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise MediaError(f"{path}: is damaged, or cut short: {reason}") from error


def _read(file: io.BufferedReader, path: Path, background: tuple[int, int, int]) -> StillImage:
    heif = _with_heif()
    try:
        image: Image.Image = Image.open(file, formats=_known_formats())
    except Image.UnidentifiedImageError as error:
        raise MediaError(f"{path}: {_what_it_is(file, path, heif=heif)}") from error
    _check(image, path)
    if image.format == "PNG":  # the only format with a checksum; reading the pixels does not look at it
        image.verify()
        image = Image.open(file, formats=("PNG",))
    count = getattr(image, "n_frames", 1)
    notes = [f"the first of its {count} pictures"] if count > 1 else []
    image.load()
    turn = _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
    profile = image.info.get("icc_profile")
    color, alpha = _eight_bit(image, path, notes)
    rgb = _to_srgb(color, profile, notes)
    if alpha is not None:
        notes.append("its transparent parts filled")
        rgb = Image.composite(rgb, Image.new("RGB", rgb.size, background), alpha)
    if turn is not None:
        notes.append("turned upright by its EXIF")
        rgb = rgb.transpose(turn)
    return StillImage(np.array(rgb), tuple(notes))


def _check(image: Image.Image, path: Path) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        most = f"more than {MAX_PIXELS // 10**6} megapixels"
        raise MediaError(f"{path}: {width}x{height} is {most}; scale it down first")
    if image.format in _ANIMATED and getattr(image, "is_animated", False):
        count = f"an animation of {image.n_frames} pictures, not a still"  # type: ignore[attr-defined]
        name = shlex.quote(str(path))
        if image.format == "AVIF":
            raise MediaError(f"{path}: is {count}; save it as MP4 or GIF, then try causvid extend or causvid restyle")
        raise MediaError(f"{path}: is {count}; try causvid extend {name} or causvid restyle {name}")


def _eight_bit(image: Image.Image, path: Path, notes: list[str]) -> tuple[Image.Image, Image.Image | None]:
    """Colour in 8 bits (mode L, RGB, CMYK or LAB) and, where parts are transparent, alpha (mode L)."""
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image).astype(np.float64)
        key = image.info.get("transparency")
        alpha = Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8)) if isinstance(key, int) else None
        return Image.fromarray(_scaled(values, image.mode, path)), alpha
    if image.has_transparency_data:
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        return image.convert("RGB"), None if alpha.getextrema() == (255, 255) else alpha
    if image.mode in ("L", "RGB", "CMYK", "LAB"):
        return image, None
    return image.convert("L" if image.mode == "1" else "RGB"), None


def _scaled(values: np.ndarray, mode: str, path: Path) -> np.ndarray:
    """Grey numbers [H, W] of 16 bits, or floats up to 1 -> uint8; `convert` would clip them to white."""
    white = 1.0 if mode == "F" else 65535.0
    if not (values.min() >= 0 and values.max() <= white):  # not (...): False for NaN too
        kind = "floating-point" if mode == "F" else "32-bit"
        raise MediaError(f"{path}: has {kind} grey values beyond {white:g}; save it with 8 or 16 bits")
    return np.rint(values * (255 / white)).astype(np.uint8)


def _to_srgb(image: Image.Image, profile: bytes | None, notes: list[str]) -> Image.Image:
    """RGB in sRGB, through the picture's own colour profile where it has one."""
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            name = ImageCms.getProfileDescription(source).strip()
            if not (name.startswith("sRGB") and image.mode == "RGB"):  # converting that would only round
                converted = _converted(image, source)
                notes.append(f"converted from {name or 'its colour profile'} to sRGB")
                return converted
        except (ImageCms.PyCMSError, OSError, ValueError):
            notes.append("its colour profile is damaged and was left out")
    elif image.mode == "LAB":
        return _converted(image, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")))
    elif image.mode == "CMYK":
        notes.append("its CMYK has no colour profile, so its colours are near ones")
    return image if image.mode == "RGB" else image.convert("RGB")


def _converted(image: Image.Image, source: ImageCms.ImageCmsProfile) -> Image.Image:
    """From a colour profile to sRGB, mode RGB."""
    converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    assert converted is not None  # it is, only when inPlace
    return converted


def _with_heif() -> bool:
    """Let Pillow read HEIC, if pillow-heif is installed."""
    with suppress(ImportError):
        importlib.import_module("pillow_heif").register_heif_opener()
        return True
    return False


def _known_formats() -> list[str]:
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _what_it_is(file: io.BufferedReader, path: Path, *, heif: bool) -> str:
    """Of a file that Pillow does not know: what it is, and what to do with it."""
    file.seek(0)
    start = file.read(4096)
    if start[4:8] == b"ftyp" and start[8:12] in _HEIC_BRANDS and not heif:
        return "is a HEIC photo; pip install pillow-heif, or save it as JPEG"
    if start[4:12] == b"ftypavif":
        return "is an AVIF picture, which this Pillow cannot read; pip install 'pillow>=11.3', or save it as PNG"
    with suppress(MediaError), open_video(path):
        name = shlex.quote(str(path))
        return f"is a video, not a picture; try causvid extend {name} or causvid restyle {name}"
    if start[:4] in (b"II*\0", b"MM\0*"):
        return "is a TIFF of a rare kind that cannot be read; save it as PNG"
    kind = _KINDS.get(start[:4])
    with suppress(UnicodeDecodeError):
        if kind is None and b"\0" not in start and start[:-3].decode():  # the end may cut a letter
            kind = "text (or a vector drawing)"
    known = "no picture that can be read" if kind is None else f"{kind}, not a picture"
    return f"is {known}; try a JPEG, PNG, WebP, TIFF or AVIF"
