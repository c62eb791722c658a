"""Photos of every kind -> upright sRGB; what is no photo -> one line that says what it is and what to try."""

import io
import os
import struct
import zlib
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image, ImageCms
from real_media import ANIMATION, real_clip, real_photo, real_photos

from causvid_cli.errors import MediaError
from causvid_cli.media import stills
from causvid_cli.media.stills import open_image

RED, GREEN, BLUE, WHITE = (220, 30, 30), (30, 200, 30), (30, 30, 220), (255, 255, 255)
UNREADABLE = {"multipage_rgb.tif"}  # planes of a TIFF in an order that Pillow has no name for


def corners(size: int = 24) -> Image.Image:
    """Four squares: red green above blue white; wider than high."""
    pixels = np.zeros((size, size * 2, 3), np.uint8)
    half = size // 2
    pixels[:half, :size], pixels[:half, size:], pixels[half:, :size], pixels[half:, size:] = RED, GREEN, BLUE, WHITE
    return Image.fromarray(pixels)


def saved(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


def refused(path: Path, *words: str) -> None:
    """One line that begins with the path and has these words."""
    with pytest.raises(MediaError) as caught:
        open_image(path)
    line = str(caught.value)
    assert line.startswith(f"{path}: ") and "\n" not in line
    for word in words:
        assert word in line, line


# --- what is read ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [path for path in real_photos() if path.name not in UNREADABLE], ids=lambda p: p.name)
def test_real_photos_are_read_at_their_size(path):
    picture = open_image(path)
    assert picture.pixels.dtype == np.uint8 and picture.pixels.shape[2] == 3
    with Image.open(path) as image:
        assert picture.size == image.size
        if image.mode == "RGB" and "icc_profile" not in image.info:
            assert np.array_equal(picture.pixels, np.asarray(image))
            assert picture.notes == ()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_turned_upright_by_its_exif(orientation, tmp_path):
    upright = corners()
    back = {**stills._UPRIGHT, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}.get(orientation)
    lying, exif = (upright if back is None else upright.transpose(back)), Image.Exif()
    exif[0x0112] = orientation
    picture = open_image(saved(lying, tmp_path / "a.png", exif=exif))
    assert np.array_equal(picture.pixels, np.asarray(upright))
    assert ("turned upright by its EXIF" in picture.notes) == (orientation > 1)


def test_an_unknown_orientation_and_broken_exif_are_left_alone(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 9
    assert open_image(saved(corners(), tmp_path / "a.png", exif=exif)).notes == ()
    picture = open_image(saved(corners(), tmp_path / "b.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff"))
    assert picture.size == (48, 24)


@pytest.mark.parametrize("background", [(0, 0, 0), (10, 200, 90)])
@pytest.mark.parametrize("kind", ["RGBA", "LA", "P", "webp"])
def test_transparent_parts_show_the_background_and_never_the_hidden_colour(kind, background, tmp_path):
    image = Image.new("RGBA", (8, 4), (255, 255, 255, 0))
    image.paste((255, 255, 255, 255), (0, 0, 4, 4))
    path = tmp_path / ("a.webp" if kind == "webp" else "a.png")
    if kind == "P":
        image = image.quantize(4)
        assert image.has_transparency_data
    elif kind == "LA":
        image = image.convert("LA")
    picture = open_image(
        saved(image, path, **({"lossless": True, "exact": True} if kind == "webp" else {})), background=background
    )
    assert (picture.pixels[:, :4] == 255).all()
    assert (picture.pixels[:, 4:] == background).all()
    assert picture.notes == ("its transparent parts filled",)


def test_half_transparent_is_half_of_each(tmp_path):
    path = saved(Image.new("RGBA", (4, 4), (200, 100, 0, 128)), tmp_path / "a.png")
    assert np.abs(open_image(path, background=(0, 0, 200)).pixels[0, 0].astype(int) - (100, 50, 100)).max() <= 1


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bit_grey_is_scaled_not_clipped(suffix, tmp_path):
    values = np.linspace(0, 65535, 64).astype(np.uint16).reshape(4, 16)
    picture = open_image(saved(Image.fromarray(values), tmp_path / f"a.{suffix}"))
    assert np.abs(picture.pixels[..., 0].astype(float) - values / 257).max() <= 0.5
    assert (picture.pixels[..., 0] == picture.pixels[..., 2]).all()


def png(pixels: np.ndarray, *, color: int) -> bytes:
    """A 16-bit PNG of the samples uint16 [H, W, C], which Pillow cannot write."""
    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)

    def part(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 16, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + part(b"IDAT", zlib.compress(rows)) + part(b"IEND", b"")


@pytest.mark.parametrize(("channels", "color"), [(3, 2), (4, 6), (2, 4)])
def test_sixteen_bit_colour_is_scaled_not_clipped(channels, color, tmp_path):
    values = np.linspace(0, 65535, 32 * channels).astype(np.uint16).reshape(4, 8, channels)
    if channels != 3:
        values[..., -1] = 65535
    (tmp_path / "a.png").write_bytes(png(values, color=color))
    picture = open_image(tmp_path / "a.png").pixels.astype(float)
    wanted = values[..., :3] / 257 if channels > 2 else values[..., :1] / 257
    assert np.abs(picture - wanted).max() <= 1


KINDS = ["1.png", "L.png", "P.gif", "CMYK.tif", "LAB.tif", "RGB.jp2", "RGB.bmp", "RGB.ppm", "RGB.webp", "YCbCr.jpg"]


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_of_many_modes_look_alike(kind, tmp_path):
    mode, wanted = kind.split(".")[0], corners()
    image = wanted.quantize(8) if mode == "P" else wanted
    if mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        image = ImageCms.profileToProfile(wanted, srgb, lab, outputMode="LAB")
    elif mode != "P":
        image = wanted.convert(mode)
        wanted = image.convert("RGB") if mode in ("1", "L") else wanted
    path = saved(image, tmp_path / kind, **({"lossless": True} if kind == "RGB.webp" else {}))
    difference = np.abs(open_image(path).pixels.astype(int) - np.asarray(wanted))
    assert np.median(difference) <= 2 and difference.mean() < 8  # the edges of a JPEG


def test_grey_beyond_16_bits_is_refused_and_floats_up_to_1_are_read(tmp_path):
    ramp = np.linspace(0, 1, 16, dtype=np.float32).reshape(4, 4)
    picture = open_image(saved(Image.fromarray(ramp), tmp_path / "a.tif"))
    assert np.array_equal(picture.pixels[..., 0], np.rint(ramp * 255))
    refused(saved(Image.fromarray(ramp * 300), tmp_path / "b.tif"), "floating-point", "8 or 16 bits")
    refused(saved(Image.fromarray((ramp * 1e6).astype(np.int32)), tmp_path / "c.tif"), "32-bit", "8 or 16 bits")


def test_an_embedded_profile_is_converted_to_srgb():
    picture = open_image(real_photo("rocket.jpg"))
    assert picture.notes == ("converted from Adobe RGB (1998) to sRGB",)
    with Image.open(real_photo("rocket.jpg")) as image:
        plain = np.asarray(image.convert("RGB"))
    assert 1 < np.abs(picture.pixels.astype(int) - plain).mean() < 20


def test_an_srgb_profile_changes_nothing_and_a_damaged_one_is_left_out(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture = open_image(saved(corners(), tmp_path / "a.png", icc_profile=profile))
    assert np.array_equal(picture.pixels, np.asarray(corners())) and picture.notes == ()
    picture = open_image(saved(corners(), tmp_path / "b.png", icc_profile=b"no profile at all" * 20))
    assert np.array_equal(picture.pixels, np.asarray(corners()))
    assert picture.notes == ("its colour profile is damaged and was left out",)


def test_the_first_page_of_a_tiff_is_read_and_said_so():
    assert open_image(real_photo("multipage.tif")).notes == ("the first of its 2 pictures",)


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "avif"])
def test_an_animation_points_to_the_commands_for_clips(suffix, tmp_path):
    path, later = tmp_path / f"a b.{suffix}", Image.new("RGB", (48, 24), GREEN)
    corners().save(path, save_all=True, append_images=[later, corners()])
    refused(path, "animation of 3 pictures", "causvid extend", "causvid restyle")
    refused(real_photo(ANIMATION), "animation of 24 pictures")


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "gif", "bmp", "jp2", "avif"])
def test_a_picture_cut_short_is_refused_at_any_length(suffix, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    whole = saved(Image.fromarray(noise), tmp_path / f"a.{suffix}").read_bytes()
    part = tmp_path / f"part.{suffix}"
    for size in (1, 10, 40, len(whole) // 2, len(whole) * 9 // 10):
        part.write_bytes(whole[:size])
        refused(part)


def test_flipped_bytes_give_a_picture_or_one_line(tmp_path):
    rng, path = np.random.default_rng(0), tmp_path / "a"
    for suffix in ("jpg", "png", "webp", "tif", "gif", "bmp", "avif"):
        whole = saved(corners(), tmp_path / f"a.{suffix}").read_bytes()
        for _ in range(25):
            data = bytearray(whole)
            for place in rng.integers(0, len(data), 6):
                data[place] ^= int(rng.integers(1, 256))
            path.write_bytes(data)
            try:
                assert open_image(path).pixels.ndim == 3
            except MediaError as error:
                assert "\n" not in str(error)


def test_a_flipped_byte_in_a_png_is_noticed(tmp_path):
    data = bytearray(real_photo("coffee.png").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "a.png").write_bytes(data)
    refused(tmp_path / "a.png", "damaged")


def bomb(width: int, height: int) -> bytes:
    """The header of a PNG that promises so many pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return start + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))


@pytest.mark.parametrize(
    ("width", "height"), [(60_000, 60_000), (8001, 8000), (10_000, 10_000), (2**31 - 1, 2**31 - 1)]
)
def test_too_large_a_picture_is_refused_before_it_is_decoded(width, height, tmp_path, recwarn):
    (tmp_path / "a.png").write_bytes(bomb(width, height))
    refused(tmp_path / "a.png", "more than 64 megapixels")
    assert not recwarn


def test_what_is_no_picture_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(stills, "_with_heif", lambda: False)
    refused(real_clip("bikes.mp4"), "is a video", "causvid extend")
    for name, data, *words in [
        ("a.txt", "Ein Märchen\n".encode() * 20, "text"),
        ("a.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "text"),
        ("a.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(ls) system", "PostScript"),
        ("a.pdf", b"%PDF-1.7\n\xff", "PDF"),
        ("a.jpg", bytes(range(256)) * 9, "no picture"),
        ("a.heic", b"\0\0\0\x18ftypheic" + bytes(99), "HEIC", "pip install pillow-heif"),
    ]:
        (tmp_path / name).write_bytes(data)
        refused(tmp_path / name, *words)


def test_what_cannot_be_opened_is_named_and_never_waited_for(tmp_path):
    refused(tmp_path / "none.png", "does not exist")
    refused(tmp_path, "not a file")
    refused(Path("/dev/zero"), "not a file")
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "not a file")
    (tmp_path / "empty.png").touch()
    refused(tmp_path / "empty.png", "is empty")
    refused(tmp_path / ("long" * 99), "cannot be read")


def test_a_name_is_only_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("-x.png", "$(id).png", "file:a.png"):
        assert open_image(saved(corners(), Path(name))).size == (48, 24)


def test_a_still_in_a_video_container_is_read_when_pillow_can(tmp_path):
    assert open_image(saved(corners(), tmp_path / "a.avif", quality=100)).size == (48, 24)
    assert av.open(io.BytesIO((tmp_path / "a.avif").read_bytes())).streams.video
