"""A folder or list of videos -> each video with its captions. Nothing is decoded, and torch is not needed.

Captions are found where the usual trainers look for them: see `DataConfig`. What lies nearest to a video holds: its own
`clip.txt`, then its own `clip.json`, then a list in its folder or above.
"""

import csv
import io
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from causvid_cli.errors import MediaError, UsageError
from causvid_cli.request import check_prompt
from causvid_cli.untrusted import LARGE, parse_json

VIDEO_SUFFIXES = {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".gif", ".ts", ".mts", ".m2ts", ".flv", ".ogv"}
VIDEO_SUFFIXES |= {".wmv", ".3gp"}
LIST_SUFFIXES = (".csv", ".jsonl", ".json")
LIST_STEMS = ("captions", "metadata", "dataset")
FILE_COLUMNS = ("file_name", "file", "filename", "video", "video_path", "video_file", "path", "media_path")
CAPTION_COLUMNS = ("caption", "captions", "text", "prompt", "description")


@dataclass(frozen=True, slots=True)
class Captioned:
    """A video file, as it may be found again, and what it is said to show; the first caption is the first clip's."""

    path: Path
    captions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class VideoProblem:
    """Why a video is left out."""

    path: str
    reason: str
    of_caption: bool = False
    """Whether its caption is the trouble, and not the video."""


def find_videos(source: Path) -> tuple[list[Captioned], list[VideoProblem]]:
    """Every video of a folder with its subfolders, or of a list, in a fixed order; and those without a caption.

    Raises UsageError when the source is missing, holds no video, or a list in it cannot be read.
    """
    if source.is_dir():
        files, lists = _walk(source)
        listed = _join(entry for file in lists for entry in read_list(file))
        paths = sorted({*files, *listed})
    elif source.is_file():
        listed = _join(read_list(source))
        paths = list(listed)
    else:
        raise UsageError(f"data.videos: {source}: does not exist; give a folder of videos or a list of them")
    if not paths:
        raise UsageError(f"data.videos: {source}: holds no video ({', '.join(sorted(VIDEO_SUFFIXES))})")
    found, problems = [], []
    for path in paths:
        try:
            found.append(Captioned(path, _captions_of(path, listed.get(path, ()))))
        except MediaError as error:
            problems.append(VideoProblem(str(path), str(error), of_caption=True))
    return found, problems


def read_prompts(path: Path) -> list[str]:
    """Prompts without videos: one a line of a .txt, or the captions of a list. Raises UsageError, with the line."""
    if path.suffix.lower() == ".txt":
        captions = [line.strip() for line in _read_text(path).splitlines()]
    else:
        captions = [caption for _, said in _entries(path) for caption in said]
    prompts = [_checked(caption, f"{path}: ") for caption in captions if caption]
    if not prompts:
        raise UsageError(f"{path}: holds no prompt")
    return list(dict.fromkeys(prompts))


def read_list(path: Path) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """(video, captions) of each entry of a list; a video's path is relative to the list's folder, or absolute."""
    for number, (name, captions) in enumerate(_entries(path), start=1):
        if not name:
            raise UsageError(f"{path}: entry {number} names no video (columns: {', '.join(FILE_COLUMNS)})")
        yield path.parent / name, captions


def _entries(path: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(name of the video, captions) of each entry of a .txt, .csv, .json or .jsonl; either may be empty."""
    text, suffix = _read_text(path), path.suffix.lower()
    if suffix == ".txt":
        yield from _text_entries(path, text)
    elif suffix == ".csv":
        try:
            rows = list(csv.DictReader(io.StringIO(text)))
        except csv.Error as error:
            raise UsageError(f"{path}: not CSV: {error}") from None
        columns = list(rows[0]) if rows else []
        if not {*FILE_COLUMNS, *CAPTION_COLUMNS}.intersection(str(column).strip().lower() for column in columns):
            raise UsageError(
                f"{path}: its first line must name the columns, such as file_name,caption; "
                f"found: {','.join(map(str, columns)) or 'nothing'}"
            )
        yield from map(_named, rows)
    elif suffix == ".jsonl":
        for number, line in enumerate(text.splitlines(), start=1):
            if line.strip():
                yield _named(_parse_json(line, f"{path}:{number}"))
    elif suffix == ".json":
        data = _parse_json(text, str(path))
        if isinstance(data, dict):  # {"clip.mp4": "caption"} or {"clip.mp4": {"caption": ...}}
            data = [{**(told if isinstance(told, dict) else {"caption": told}), "file": n} for n, told in data.items()]
        yield from map(_named, data if isinstance(data, list) else [data])
    else:
        raise UsageError(f"{path}: a list must be .txt, .csv, .json or .jsonl")


def _text_entries(path: Path, text: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """One video a line, its caption after a tab or |; or the captions line by line in prompts.txt beside videos.txt."""
    lines = [line for line in text.splitlines() if line.strip()]
    beside = next((file for name in ("prompts.txt", "prompt.txt") if (file := path.with_name(name)).is_file()), None)
    if path.stem.lower() == "videos" and beside:
        captions = [line for line in _read_text(beside).splitlines() if line.strip()]
        if len(captions) != len(lines):
            raise UsageError(
                f"{path} has {len(lines)} lines and {beside} has {len(captions)}; they go together in pairs"
            )
        lines = [f"{name}\t{caption}" for name, caption in zip(lines, captions, strict=True)]
    for line in lines:
        name, _, caption = line.partition("\t" if "\t" in line else "|")
        yield name.strip(), _said(caption)


def _named(entry: Any) -> tuple[str, tuple[str, ...]]:
    """(name of the video, captions) in a row of a table or an object of JSON."""
    if not isinstance(entry, dict):
        return "", _said(entry)
    told = {str(key).strip().lower(): value for key, value in entry.items()}
    name = next((told[column] for column in FILE_COLUMNS if isinstance(told.get(column), str)), "")
    return name.strip(), _said(next((told[column] for column in CAPTION_COLUMNS if told.get(column)), ()))


def _said(value: Any) -> tuple[str, ...]:
    """The captions in a text or a list of texts, each on one line."""
    texts = [value] if isinstance(value, str) else value if isinstance(value, list | tuple) else []
    return tuple(line for text in texts if isinstance(text, str) and (line := " ".join(text.split())))


def _captions_of(path: Path, listed: tuple[str, ...]) -> tuple[str, ...]:
    """A video's captions. Raises MediaError when it has none, or one that cannot be used."""
    text, data = path.with_suffix(".txt"), path.with_suffix(".json")
    try:
        if text.is_file():
            captions, where = _said(_read_text(text)), text.name
        elif data.is_file():
            told = _parse_json(_read_text(data), str(data))
            captions, where = (_named(told)[1] if isinstance(told, dict) else _said(told)), data.name
        else:
            captions, where = listed, ""
        if not captions:
            raise MediaError(f"{where} holds no caption" if where else "has no caption")
        return tuple(_checked(caption, "") for caption in dict.fromkeys(captions))
    except UsageError as error:
        raise MediaError(str(error)) from None


def _checked(caption: str, where: str) -> str:
    try:
        return check_prompt(caption)
    except UsageError as error:
        raise UsageError(f"{where}{error}") from None


def _walk(folder: Path) -> tuple[list[Path], list[Path]]:
    """The videos and the lists below a folder, hidden ones aside."""
    videos, lists = [], []
    for root, folders, files in os.walk(folder, onerror=_refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for path in (Path(root, name) for name in sorted(files) if not name.startswith(".")):
            if path.suffix.lower() in VIDEO_SUFFIXES:
                videos.append(path)
            elif path.stem.lower() in LIST_STEMS and path.suffix.lower() in LIST_SUFFIXES:
                lists.append(path)
            elif path.name.lower() == "videos.txt":
                lists.append(path)
    own = {video.with_suffix("") for video in videos}  # dataset.json beside dataset.mp4 is that video's alone
    return videos, [path for path in lists if path.with_suffix("") not in own]


def _refuse(error: OSError) -> None:
    raise UsageError(f"data.videos: {error.filename}: {error.strerror}")


def _join(entries: Iterable[tuple[Path, tuple[str, ...]]]) -> dict[Path, tuple[str, ...]]:
    """Each video once, with all its captions."""
    joined: dict[Path, tuple[str, ...]] = {}
    for path, captions in entries:
        joined[path] = (*joined.get(path, ()), *captions)
    return joined


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(f"{path}: not UTF-8 text") from None
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None


def _parse_json(text: str, where: str) -> Any:
    return parse_json(text, where=where, most_bytes=LARGE)
