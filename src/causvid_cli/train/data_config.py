"""The user's own videos that a run learns from. Imports no torch."""

from dataclasses import dataclass, field

from causvid_cli.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class NewWords:
    """Words of the captions that the embedded model does not have yet; each gets a vector of its own."""

    __pydantic_config__ = {"extra": "forbid"}

    subject: tuple[str, ...] = ()
    colour: tuple[str, ...] = ()
    scene: tuple[str, ...] = ()
    action: tuple[str, ...] = ()
    """Verbs, as in "a robot dances"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """Videos with captions, or prompts alone. A run that also has a section [clips] learns from storybook clips
    besides, so that the embedded model forgets nothing.

    Captions are looked for in this order: `clip.txt` or `clip.json` beside `clip.mp4`; then `captions`, `metadata` or
    `dataset` as .csv, .json or .jsonl in any folder above it, with the columns file_name and caption (or their usual
    other names); then the list that `videos` names.
    """

    __pydantic_config__ = {"extra": "forbid"}

    videos: str = ""
    """A folder, searched with its subfolders, or a list of videos: .txt, .csv, .json or .jsonl."""
    prompts: str = ""
    """More prompts, for which there are no videos: one a line, or as a list with captions. Distribution matching needs
    nothing else."""
    sizes: tuple[tuple[int, int], ...] = ()
    """Allowed sizes (width, height), as the codec takes them: a video is cropped to the one nearest in shape. None is
    the model's own size alone."""
    clips_per_video: int = 4
    """Most clips cut from one video, spread evenly over it; 0 is as many as it holds."""
    weight: float = 1.0
    """How often training shows one of these clips, relative to one of the storybook's."""
    latent_frames: int | None = None
    """Length of a clip. None is the length of the storybook's, or the student's window."""
    words: NewWords = field(default_factory=NewWords)
    uncaptioned_share: float = 0.0
    """Share of the videos that may lack a caption that can be used. They are left out and listed; more is an error."""
    damaged_share: float = 1.0
    """The same for videos that are broken, empty or too short. 1 lets a run go on as long as one video is left."""

    def __post_init__(self) -> None:
        if not self.videos and not self.prompts:
            raise UsageError("data.videos: missing; give a folder of videos, a list of them, or data.prompts alone")
        if self.clips_per_video < 0:
            raise UsageError(f"data.clips_per_video: must be 0 or more, got {self.clips_per_video}")
        if self.weight <= 0:
            raise UsageError(f"data.weight: must be more than 0, got {self.weight}")
        if self.latent_frames is not None and self.latent_frames < 1:
            raise UsageError(f"data.latent_frames: must be 1 or more, got {self.latent_frames}")
        for name in ("uncaptioned_share", "damaged_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"data.{name}: must be 0 to 1, got {getattr(self, name)}")
