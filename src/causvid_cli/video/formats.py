"""What a file's name says about how it is written, and what can be found to be wrong with it before a model loads."""

import os
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Collection
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from causvid_cli.config import did_you_mean
from causvid_cli.errors import OutputError, UsageError
from causvid_cli.media.sound import Soundtrack
from causvid_cli.units import bytes_text
from causvid_cli.video.encode import FFV1, H264, VP9, Encoding, VideoFormat
from causvid_cli.video.files import check_unlocked, output_errors
from causvid_cli.video.publish import GIF_FPS, Finish, Gif, Remux, Webp

MIN_FREE_BYTES = 100_000
PART, PUBLISH, PARTIAL = ".part", ".publish", ".partial"
LONGEST_ADDED = ".journal.new"
"""The longest that is ever added to a name: of a journal that is begun."""
LOSSLESS_TIMES = 4
"""How many times larger than H.264 a lossless `.part` is, at least: what flat colours do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How a kind of file is written: a `.part` of pieces, then the finished file of that.

    container: of the `.part` (`encode.CONTAINERS`). finish: None makes numbered frames. tick: to which its times are
    rounded, in seconds; Matroska's are milliseconds. has_tags: it holds metadata and sound, and a rate that can be read
    back.
    """

    container: str
    encoding: Encoding
    finish: Callable[[Soundtrack | None], Finish] | None
    tick: Fraction = Fraction(1, 1000)
    has_tags: bool = True
    is_webp: bool = False


_MP4 = Form(container="mp4", encoding=H264, finish=lambda soundtrack: Remux("mp4", soundtrack), tick=Fraction(0))
FORMS = {
    ".mp4": _MP4,
    ".m4v": _MP4,
    ".mov": Form(container="mp4", encoding=H264, finish=lambda soundtrack: Remux("mov", soundtrack), tick=Fraction(0)),
    ".mkv": Form(container="mkv", encoding=H264, finish=lambda soundtrack: Remux("matroska", soundtrack)),
    ".webm": Form(container="webm", encoding=VP9, finish=lambda soundtrack: Remux("webm", soundtrack)),
    ".gif": Form(container="mkv", encoding=FFV1, finish=lambda _: Gif(), has_tags=False),
    ".webp": Form(container="mkv", encoding=FFV1, finish=lambda _: Webp(lossless=False), has_tags=False, is_webp=True),
    ".png": Form(container="mkv", encoding=FFV1, finish=None, has_tags=False),
}
"""By the last part of the name."""
_LOSSLESS = {
    ".mkv": Form(container="mkv", encoding=FFV1, finish=lambda soundtrack: Remux("matroska", soundtrack)),
    ".webp": Form(container="mkv", encoding=FFV1, finish=lambda _: Webp(lossless=True), has_tags=False, is_webp=True),
    ".png": FORMS[".png"],
}


def form_of(path: Path, *, lossless: bool = False) -> Form:
    """Return how a file of this name is written. Raises OutputError for an unknown name, UsageError for a loss."""
    suffix = path.suffix.lower()
    if suffix not in FORMS:
        if not suffix:
            raise OutputError(f"{path}: its name says no format; try -o {shlex.quote(f'{path}.mp4')}")
        known = f"{', '.join([*FORMS][:-1])} or frames/%05d.png"
        raise OutputError(f"{path}: {suffix} cannot be written; try {known}{did_you_mean(suffix, FORMS)}")
    if lossless and suffix not in _LOSSLESS:
        instead = shlex.quote(str(path.with_suffix(".mkv")))
        raise UsageError(f"--lossless: {suffix} loses some of every picture; try -o {instead}")
    if suffix == ".png" and not re.fullmatch(r"[^%]*%(0\d{1,2}|[1-9])?d[^%]*", path.name):
        instead = shlex.quote(str(path.with_name("%05d.png")))
        raise OutputError(f"{path}: the name has no place for the number of a frame; try -o {instead}")
    return (_LOSSLESS if lossless else FORMS)[suffix]


def part_of(path: Path) -> Path:
    """Return the file in which a video lies while it is made."""
    return path.with_name(path.name + PART)


def partial_of(path: Path) -> Path:
    """Return the name of a video that was ended before its time; for numbered frames, one in a folder beside them."""
    if path.suffix.lower() == ".png":
        return path.parent / PARTIAL[1:] / path.name
    return path.with_name(path.stem + PARTIAL + path.suffix)


def numbered(path: Path) -> list[Path]:
    """Return the numbered frames of this name that exist, in their order."""
    if not path.parent.is_dir():
        return []
    before, after = re.split(r"%\d*d", path.name)
    pattern = re.compile(re.escape(before) + r" *\d+" + re.escape(after))
    return sorted(entry for entry in path.parent.iterdir() if pattern.fullmatch(entry.name))


def finished_files(path: Path) -> list[Path]:
    """Return the files of a finished video that exist: the one of its name, or its numbered frames."""
    if path.suffix.lower() == ".png":
        return numbered(path)
    return [path] if os.path.lexists(path) else []


def check_output(
    path: Path,
    video: VideoFormat,
    *,
    overwrite: bool,
    expected_bytes: int = 0,
    joins: bool = False,
    named: Collection[str] = (),
) -> None:
    """Find what would keep `path` from being written, before a model loads. Raises OutputError; leaves no trace.

    expected_bytes: size of the finished video, as H.264. Twice that must be free: the `.part` and the finished file
    exist at once. joins: whether a clip or its sound is put into the file. named: files that may be there, since an
    earlier run of this video gave them their names.
    Raises UsageError for a size, a rate or a loss that this kind of file cannot have.
    """
    makes_folder = path.suffix.lower() == ".png" and not path.parent.exists()
    folder = path.parent.parent if makes_folder else path.parent
    with output_errors(lambda reason: f"{path}: {reason}"):
        _check_folder(folder)
        limit = os.pathconf(folder, "PC_NAME_MAX") if sys.platform != "win32" else 255
        longest = len(os.fsencode(path.name + LONGEST_ADDED))
        if longest > limit:
            raise OutputError(f"{path}: the name is {longest - limit} bytes too long; choose a shorter -o")
        if path.is_dir():
            raise OutputError(f"{path} is a folder; try -o {shlex.quote(str(path / 'video.mp4'))}")
        if path.exists() and not path.is_file():
            raise OutputError(f"{path} is a device or a pipe, not a file; choose another -o")
        form = form_of(path, lossless=video.lossless)
        _check_form(path, form, video, joins=joins)
        taken = [file for file in finished_files(path) if file.name not in named]
        if taken and not overwrite:
            raise OutputError(f"{taken[0]} exists; -y overwrites it, or choose another -o")
        check_unlocked(part_of(path))
    times = LOSSLESS_TIMES if form.encoding.is_rgb else 1
    with (
        output_errors(lambda reason: f"cannot write in folder {folder}: {reason}; choose another -o"),
        tempfile.TemporaryFile(dir=folder),  # asking for permission instead is wrong for root and on some mounts
    ):
        needed, free = max(2 * times * expected_bytes, MIN_FREE_BYTES), shutil.disk_usage(folder).free
        if free < needed:
            room = f"{path} needs {bytes_text(needed)} and folder {folder} has {bytes_text(free)} free"
            raise OutputError(f"{room}; free some space or choose another -o")


def _check_folder(folder: Path) -> None:
    if not folder.exists():
        raise OutputError(f"folder {folder} does not exist; create it with mkdir -p {shlex.quote(str(folder))}")
    if not folder.is_dir():
        raise OutputError(f"{folder} is not a folder; choose another -o")


def _check_form(path: Path, form: Form, video: VideoFormat, *, joins: bool) -> None:
    """Raise UsageError or OutputError when such a video cannot have this form."""
    if joins and not form.has_tags:
        instead = shlex.quote(str(path.with_suffix(".mp4")))
        raise OutputError(f"{path}: a clip and its sound go into an MP4, MKV or WebM; try -o {instead}")
    if video.soundtrack and not form.has_tags:
        instead = shlex.quote(str(path.with_suffix(".mp4") if path.suffix.lower() != ".png" else Path("video.mp4")))
        raise UsageError(f"--audio: {path.suffix} holds no sound; leave it out, or try -o {instead}")
    form.encoding.check_size(video.width, video.height)
    if video.fps > GIF_FPS and form is FORMS[".gif"]:
        instead = shlex.quote(str(path.with_suffix(".webp")))
        raise UsageError(
            f"{path}: a GIF shows at most {GIF_FPS} frames per second, not {float(video.fps):g}; try {instead}"
        )
