"""What is to be evaluated: all of it checked that can be without torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from causvid_cli.config import PackFacts, load_facts
from causvid_cli.errors import UsageError
from causvid_cli.models.packs import pack_digest, teacher_folder
from causvid_cli.request import AUTO
from causvid_cli.timecode import parse_frames

BUILT_IN = 200
"""Prompts of the built-in set."""
DEFAULT_LENGTH = "4s"
"""What the judge looks at, and what the embedded model's teacher was trained on."""
ExperimentKind = Literal["switches", "photos"]
"""Prompts that change on the way, and photos that are set in motion."""
MOST_TRIALS = 400
MEASURE_NAMES = ("prompts", "pairs", "end", "change", "return", "alternate", "photo")
"""What `--measure` offers: the keys of `measures.MEASURES`."""
DEFAULT_SHOTS, MOST_SHOTS = 30, 1000
"""Shots of 2 s that alternating prompts make."""


def renders(facts: PackFacts) -> bool:
    """Whether a model makes the storybook's own frames, so that the right answer can be drawn."""
    from causvid_cli.storybook import SIZE  # numpy loads here

    return (facts.text, facts.codec, facts.height, facts.width) == ("storybook", "pixel", SIZE, SIZE)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalRequest:
    """One evaluation."""

    pack: Path
    facts: PackFacts
    prompts: Mapping[str, tuple[str, ...]]
    """The prompts, by the name of their group."""
    length: str = DEFAULT_LENGTH
    """How long each clip is, as the user wrote it."""
    seeds: int = 1
    """Clips of each prompt."""
    seed: int = 0
    """Seed of the first clip; each clip has its own."""
    teacher: bool = False
    """Whether the model's teacher answers too."""
    codec: bool = False
    """Whether the storybook's own drawings are measured through the codec too."""
    videos: bool = False
    """Whether the clips are kept as MP4."""
    device: str = AUTO
    dtype: str = AUTO

    @property
    def frames(self) -> int:
        """Frames of each clip. Raises UsageError for a length that is none."""
        return parse_frames(self.length, fps=Fraction(str(self.facts.fps)))

    @property
    def renders(self) -> bool:
        """Whether the right answer can be drawn."""
        return renders(self.facts)

    @property
    def makers(self) -> tuple[str, ...]:
        """Whose clips are measured."""
        chosen = {"student": True, "teacher": self.teacher, "codec": self.codec, "rendered": self.renders}
        return tuple(maker for maker, wanted in chosen.items() if wanted)

    @property
    def clips(self) -> int:
        """How many clips all makers make together."""
        return len(self.makers) * sum(map(len, self.prompts.values())) * self.seeds

    @property
    def _teacher_digest(self) -> str | None:
        """Of a teacher that is measured and is another pack's: that pack's."""
        home = teacher_folder(self.pack, self.facts) if self.teacher and self.facts.teacher_of else None
        return pack_digest(load_facts(home.parent)) if home else None

    @property
    def settings(self) -> dict[str, Any]:
        """What makes two evaluations the same."""
        return {
            "model": self.facts.name,
            "weights": pack_digest(self.facts),
            "teacher": self._teacher_digest,
            "prompts": self.prompts,
            "frames": self.frames,
            "seeds": self.seeds,
            "seed": self.seed,
            "makers": self.makers,
            "videos": self.videos,
            "device": self.device,
            "dtype": self.dtype,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureRequest:
    """Named measures of a storybook model, and of another beside it. Raises UsageError for a model that is none."""

    pack: Path
    facts: PackFacts
    measures: tuple[str, ...]
    """Names of `measures.MEASURES`."""
    against: tuple[Path, PackFacts] | None = None
    """Another model, measured with the same prompts and seeds, by the first one's judge."""
    count: int | None = None
    """Prompts, scripts or photos of each measure; None: as many as is usual for it."""
    seeds: int = 1
    """Clips of each."""
    seed: int = 0
    """Seed of each measure's first clip; each clip has its own."""
    shots: int = DEFAULT_SHOTS
    """Of alternating prompts."""
    device: str = AUTO
    dtype: str = AUTO

    def __post_init__(self) -> None:
        if not renders(self.facts):
            raise UsageError(f"--measure: {self.facts.name} is no storybook model; try another --model")
        if self.against is not None and not renders(self.against[1]):
            raise UsageError(f"--against {self.against[1].name}: is no storybook model; try another")

    @property
    def settings(self) -> dict[str, Any]:
        """What makes two evaluations the same."""
        other = self.against[1] if self.against else None
        return {
            "model": self.facts.name,
            "weights": pack_digest(self.facts),
            "against": other and [other.name, pack_digest(other)],
            "measures": self.measures,
            "count": self.count,
            "seeds": self.seeds,
            "seed": self.seed,
            "shots": self.shots,
            "device": self.device,
            "dtype": self.dtype,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentRequest:
    """One evaluation of prompt changes or of photos. Raises UsageError for a model that cannot be judged."""

    pack: Path
    facts: PackFacts
    kind: ExperimentKind
    count: int
    """How many scripts, or photos."""
    seed: int = 0
    """Seed of the first clip; each clip has its own."""
    device: str = AUTO
    dtype: str = AUTO

    def __post_init__(self) -> None:
        if self.facts.judge is None or not renders(self.facts):
            raise UsageError(
                f"--{self.kind}: {self.facts.name} is no storybook model with a judge; try another --model"
            )

    @property
    def settings(self) -> dict[str, Any]:
        """What makes two evaluations the same."""
        return {
            "model": self.facts.name,
            "weights": pack_digest(self.facts),
            self.kind: self.count,
            "seed": self.seed,
            "device": self.device,
            "dtype": self.dtype,
        }
