"""The folder of an evaluation: clip by clip on disk, so that a run that was stopped goes on. Imports no torch.

settings.json    what is evaluated, and how; written first
clips.jsonl      a line for each clip that is made and measured
pictures/        strips of pictures of the first prompts' clips
clips/           the clips as MP4, where they are wanted
vbench/          VBench's own files
eval.json        the figures; written last, so that a folder that holds it is finished
index.html       the page
"""

import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from causvid_cli.config import to_json
from causvid_cli.errors import OutputError, UsageError
from causvid_cli.files import write_text
from causvid_cli.untrusted import read_object

Record = dict[str, Any]
"""What was measured of one clip: a line of clips.jsonl."""

SETTINGS, CLIPS, FIGURES, PAGE = "settings.json", "clips.jsonl", "eval.json", "index.html"
PICTURES, VIDEOS, VBENCH = "pictures", "clips", "vbench"


class Folder:
    """The folder of one evaluation: nothing is changed before `begin`."""

    def __init__(self, path: Path, settings: Mapping[str, Any], *, overwrite: bool) -> None:
        """Raises OutputError when the folder holds something else than an unfinished run of the same settings.

        Another evaluation gives way to `overwrite`, what is no evaluation never does.
        """
        self.path = path
        self._settings = json.loads(to_json(settings))
        self._replaces = False
        with self.writing():
            if path.exists() and not path.is_dir():
                raise OutputError(f"--out {path} is not a folder; choose another")
            if path.is_dir() and any(path.iterdir()):
                if not (path / SETTINGS).is_file():
                    raise OutputError(f"--out {path} holds other things than an evaluation; choose another")
                problem = self._problem()
                if problem and not overwrite:
                    raise OutputError(f"--out {path} {problem}; -y replaces it, or choose another")
                self._replaces = problem is not None
            there = next(place for place in (path, *path.absolute().parents) if place.exists())
            if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
                code = errno.EACCES if there.is_dir() else errno.ENOTDIR
                raise OSError(code, os.strerror(code))

    def begin(self) -> None:
        """Make the folder, or go on with what it holds."""
        with self.writing():
            if self._replaces:
                self._clear()
            (self.path / PICTURES).mkdir(parents=True, exist_ok=True)
            write_text(self.path / SETTINGS, to_json(self._settings, indent=1) + "\n")

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Inside, what the system refuses is an OutputError."""
        try:
            yield
        except OSError as error:
            raise OutputError(f"--out {self.path}: cannot be written: {(error.strerror or '').lower()}") from error

    def records(self, seeds: int) -> list[Record]:
        """What is measured already: whole prompts only, all clips of each. Torn lines and half prompts are dropped."""
        path = self.path / CLIPS
        if not path.exists():
            return []
        lines = [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
        records = [json.loads(line) for line in lines]
        counts: dict[tuple[Any, ...], int] = {}
        for record in records:
            counts[prompt_key(record)] = counts.get(prompt_key(record), 0) + 1
        kept = [record for record in records if counts[prompt_key(record)] == seeds]
        with self.writing():
            write_text(path, "".join(map(_line, kept)))
        return kept

    def append(self, records: Sequence[Record]) -> None:
        with self.writing(), (self.path / CLIPS).open("a", encoding="utf-8") as file:
            file.write("".join(map(_line, records)))

    def finish(self, figures: Mapping[str, Any], page: str) -> None:
        """Write the page and, last, the figures."""
        with self.writing():
            write_text(self.path / PAGE, page)
            write_text(self.path / FIGURES, to_json(figures, indent=1) + "\n")

    def strip(self, maker: str, group: str, number: int) -> Path:
        """Where the strip of a prompt's first clip lies."""
        return self.path / PICTURES / f"{maker}-{group}-{number:03d}.png"

    def video(self, maker: str, group: str, number: int, take: int) -> Path:
        return self.path / VIDEOS / maker / f"{group}-{number:03d}-{take}.mp4"

    def _problem(self) -> str | None:
        """Why this folder's run is not the one that is wanted, or is over."""
        if (self.path / FIGURES).exists():
            return "holds a finished evaluation"
        try:
            found = read_object(self.path / SETTINGS)
        except UsageError:
            return f"holds an evaluation whose {SETTINGS} is damaged"
        for name, value in self._settings.items():
            if found.get(name) != value:
                return f"holds an unfinished evaluation with another {name}"
        return None

    def _clear(self) -> None:
        for name in (PICTURES, VIDEOS, VBENCH):
            shutil.rmtree(self.path / name, ignore_errors=True)
        for name in (FIGURES, PAGE, CLIPS, SETTINGS):  # the settings last: they say that this is an evaluation
            (self.path / name).unlink(missing_ok=True)


def prompt_key(record: Record) -> tuple[Any, ...]:
    """Which prompt, made by whom."""
    return record["maker"], record["group"], record["number"]


def _line(record: Record) -> str:
    return to_json(record) + "\n"
