"""What a bench is asked for."""

from dataclasses import dataclass
from typing import Literal

from causvid_cli.request import AUTO, DEFAULT_MODEL, LOADING, Loading, Size

Role = Literal["student", "teacher"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchSetting:
    """How the student is run; None is as its model was made for."""

    steps: int | None = None
    window_frames: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchConfig:
    """What is measured."""

    model: str = DEFAULT_MODEL
    """Name or folder of a pack or, with random weights, a name in the catalogue."""
    device: str = AUTO
    dtype: str = AUTO
    loading: Loading = LOADING
    length: str = "10s"
    """How long the clip is. It may be longer than what the teacher was trained on: time is measured, not quality."""
    size: Size | None = None
    """Of its frames; None is the model's own."""
    settings: tuple[BenchSetting, ...] = (BenchSetting(),)
    """How the student is run, in turn. Fresh processes and the comparison with the teacher take the first."""
    repeats: int = 3
    warm_up: int | None = None
    """Chunks that are made before anything is timed; None is until the window is full, and one more."""
    teacher: bool = True
    """Whether the teacher makes the clip too."""
    threads: int | None = None
    """CPU threads; None is as in `device.use_threads`."""
    prompt: str = "a paper airplane turns into a swan"
    seed: int = 0

    @property
    def roles(self) -> tuple[Role, ...]:
        return ("student", "teacher") if self.teacher else ("student",)
