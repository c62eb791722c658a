"""What is kept of a live session: the video and its script, at the end, or on the way as a copy."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from causvid_cli.errors import OutputError, UsageError
from causvid_cli.files import write_text
from causvid_cli.geometry import ChunkGrid
from causvid_cli.job.inputs import InputMedia
from causvid_cli.job.job import Job
from causvid_cli.job.open import chapters_of, metadata_of
from causvid_cli.job.told import script_path, script_text
from causvid_cli.video import FileWriter, NumberedFramesWriter, Writer


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """The file of a session and the script beside it. made: in each method, what was made so far, as a job."""

    writer: Writer
    grid: ChunkGrid
    given: InputMedia | None
    model: str
    """How the script calls the model."""
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_file(self) -> bool:
        return isinstance(self.writer, FileWriter)

    def script(self, made: Job, folder: Path) -> str:
        """A script that will lie in this folder."""
        return script_text(made, self.grid, self.given, model=self.model, folder=folder)

    def save(self, made: Job, name: str) -> tuple[Path | None, Path]:
        """Keep what there is as NAME beside the video (not of a pipe), and its script; numbered frames in a folder.

        Returns their paths. Raises UsageError where the name is taken, OutputError where it cannot be written.
        """
        path = self.writer.path
        if isinstance(self.writer, NumberedFramesWriter):
            output = path.parent.with_name(name) / path.name
        else:
            output = path.with_name(name if name.endswith(path.suffix) else name + path.suffix)
        script = script_path(output if self.is_file else path.with_name(f"{name}.mp4"))
        if self.is_file and script == script_path(path):
            raise UsageError(f"save {name}: the video itself gets this name at the end; choose another")
        if script.exists():
            raise UsageError(f"save {name}: {script} exists; choose another name")
        if self.is_file:
            self.copy(made, output)
        self._write_script(made, script)
        return output if self.is_file else None, script

    def copy(self, made: Job, path: Path) -> Path:
        """Finish what there is under a name that is free, on the same disk; the video goes on. Raises as save()."""
        if not isinstance(self.writer, FileWriter):
            raise UsageError("the video goes to a pipe, and is kept nowhere")
        self._retell(made)
        self.writer.publish_copy(path)
        return path

    def finish(self, made: Job) -> Path | None:
        """Write the script, and tell the file what was told; the file gets its name afterwards. Returns the script."""
        if not self.is_file:
            return None
        script = script_path(self.writer.path)
        self._write_script(made, script)
        self._retell(made)
        return script

    def _write_script(self, made: Job, path: Path) -> None:
        try:
            write_text(path, self.script(made, path.parent))
        except OSError as error:
            raise OutputError(f"{path}: {(error.strerror or str(error)).lower()}") from error

    def _retell(self, made: Job) -> None:
        self.writer.retell(metadata_of(made, self.versions), chapters_of(made, self.grid))


def check_script_free(output: Path | None, *, overwrite: bool) -> None:
    """Raise OutputError where the script of a live video is there already."""
    if output is not None and not overwrite and (path := script_path(output)).exists():
        raise OutputError(f"{path} exists, the script of {output}; -y overwrites, or choose another -o")
