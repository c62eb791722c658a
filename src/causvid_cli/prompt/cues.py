"""What a video shows from which chunk on: cues, as the roll-out keeps them. Imports no torch."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace

from causvid_cli.config import check_choice
from causvid_cli.errors import UsageError
from causvid_cli.request import TRANSITIONS, Transition, check_prompt, check_seed

MOST_CHUNKS = 10**8


@dataclass(frozen=True, slots=True, kw_only=True)
class Cue:
    """From chunk `start_chunk` on this prompt holds, until the next cue.

    Raises UsageError for a cue that contradicts itself.
    """

    prompt: str
    start_chunk: int = 0
    """Counted over generated chunks, the first is 0."""
    transition: Transition = "recache"
    """In a first cue of effect only after a picture or a clip of which it is known what it shows."""
    blend_chunks: int = 0
    """Over how many chunks the text features slide from the old prompt to this one; 0: at once."""
    strength: float = 1.0
    """How far this prompt replaces the one before, 0..1."""
    seed: int | None = None
    """Noise from here on comes from this seed; None: from the seed before."""
    negative: str = ""
    """What not to show; guidance then costs a second network call per step."""
    name: str = ""
    """Title of its chapter; the prompt if empty."""

    def __post_init__(self) -> None:
        check_prompt(self.prompt)
        check_choice(self.transition, TRANSITIONS, name="transition")
        if self.blend_chunks and self.transition == "cut":
            raise UsageError("blend and transition cut contradict each other; leave one out")
        if not 0 <= self.strength <= 1:
            raise UsageError(f"strength {self.strength:g}: must be 0 to 1")
        if not 0 <= self.start_chunk <= MOST_CHUNKS or not 0 <= self.blend_chunks <= MOST_CHUNKS:
            raise UsageError(f"start_chunk and blend_chunks must be 0 to {MOST_CHUNKS:,}")
        if self.seed is not None:
            check_seed(self.seed)

    @property
    def title(self) -> str:
        return self.name or self.prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Telling:
    """What is told while a video is made: fields of a cue that begins with the next chunk; None leaves one as it is.

    Without a prompt the one that holds goes on, and with it what was made of it (a strength, a blend).
    """

    prompt: str | None = None
    transition: Transition | None = None
    """None: `soft` where the prompt stays, else how the stream switches."""
    blend_chunks: int | None = None
    strength: float | None = None
    seed: int | None = None
    negative: str | None = None
    name: str | None = None

    def over(self, earlier: "Telling") -> "Telling":
        """Both, told before the same chunk: what this one leaves open is as in the earlier one."""
        said = {each.name: getattr(self, each.name) for each in fields(self)}
        return replace(earlier, **{name: value for name, value in said.items() if value is not None})


def with_told(cues: Sequence[Cue], told: Iterable[Cue]) -> tuple[Cue, ...]:
    """The cues of a video to which others were told while it was made: each holds until the next, and takes the place
    of one that begins with the same chunk."""
    merged = {cue.start_chunk: cue for cue in cues}
    merged.update({cue.start_chunk: cue for cue in told})
    return tuple(merged[start] for start in sorted(merged))


def check_cues(cues: Sequence[Cue]) -> tuple[Cue, ...]:
    """The cues of a video. Raises UsageError unless they begin at chunk 0 and rise."""
    if not cues or cues[0].start_chunk != 0:
        raise UsageError("a script needs a first cue at time 0")
    for before, after in zip(cues, cues[1:], strict=False):
        if after.start_chunk <= before.start_chunk:
            raise UsageError(
                f"two cues fall on chunk {after.start_chunk}: {before.title!r} and {after.title!r}; move them apart"
            )
    return tuple(cues)
