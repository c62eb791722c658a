"""What a stage leaves for the eye: a log in JSON lines, sheets of samples, TensorBoard's files, a curve in a line.

Imports neither torch nor numpy before it needs them.
"""

import importlib.util
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from causvid_cli.config import to_json
from causvid_cli.files import write_text

if TYPE_CHECKING:
    import numpy as np

LOG = "log.jsonl"
BARS = "▁▂▃▄▅▆▇█"


class StageLog:
    """The log of one stage that stands at `step`, in its folder: log.jsonl, samples/, tensorboard/.

    What came after that step is forgotten, as these steps are taken again. TensorBoard's files are written where the
    `tensorboard` package is installed.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self.folder, self.step = folder, step
        if (folder / LOG).exists():
            rows = (row for row in read_log(folder) if row["step"] <= step)
            write_text(folder / LOG, "".join(to_json(row) + "\n" for row in rows))
        for sheet in (folder / "samples").glob("step-*.png"):
            if int(sheet.stem.removeprefix("step-")) > step:
                sheet.unlink()
        self._board: Any = None

    def write(self, row: Mapping[str, float]) -> None:
        """Add a row, which names its step."""
        with (self.folder / LOG).open("a") as log:
            log.write(to_json(row) + "\n")
        if board := self._tensorboard():
            for name, value in row.items():
                if name != "step":
                    board.add_scalar(name, value, row["step"])

    def picture(self, step: int, picture: "np.ndarray") -> Path:
        """Keep a sheet of samples, uint8 [H, W, 3]."""
        from imageio import v3 as imageio

        data = io.BytesIO()
        imageio.imwrite(data, picture, extension=".png")
        path = self.folder / "samples" / f"step-{step:06d}.png"
        path.parent.mkdir(exist_ok=True)
        path.with_suffix(".new").write_bytes(data.getvalue())
        os.replace(path.with_suffix(".new"), path)
        if board := self._tensorboard():
            board.add_image("samples", picture, step, dataformats="HWC")
        return path

    def close(self) -> None:
        if self._board:
            self._board.close()
            self._board = None

    def _tensorboard(self) -> Any:
        if self._board is None and has_tensorboard():
            from torch.utils.tensorboard import SummaryWriter

            # purge_step: TensorBoard forgets what an earlier, broken-off process wrote from there on.
            self._board = SummaryWriter(str(self.folder / "tensorboard"), purge_step=self.step + 1)
        return self._board


def has_tensorboard() -> bool:
    return importlib.util.find_spec("tensorboard") is not None


def read_log(folder: Path) -> list[dict[str, float]]:
    """Return the rows of a stage's log, oldest first; a last line that was cut short is left out, and so is NaN."""
    path = folder / LOG
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    rows = (json.loads(line) for line in lines if line.endswith("\n"))
    return [{name: value for name, value in row.items() if math.isfinite(value)} for row in rows]


def sparkline(values: Sequence[float], width: int) -> str:
    """Return a curve of at most `width` characters: the lowest value is ▁, the highest █, what is not finite a blank.

    Neighbours are averaged where there are more values than characters. Values that are all positive stand on a
    logarithmic scale: a loss falls fast, then slowly, and both are to be seen.
    """
    if len(values) > width:
        edges = [len(values) * i // width for i in range(width + 1)]
        values = [fmean(values[low:high]) for low, high in zip(edges, edges[1:], strict=False)]
    finite = [value for value in values if math.isfinite(value)]
    if finite and min(finite) > 0:
        values = [math.log(value) if math.isfinite(value) else value for value in values]
        finite = [math.log(value) for value in finite]
    if not finite:
        return " " * len(values)
    low, high = min(finite), max(finite)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((value - low) * scale)] if math.isfinite(value) else " " for value in values)
