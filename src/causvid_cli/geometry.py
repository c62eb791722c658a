"""The one place where pixels, latent frames, chunks and tokens are counted. Imports no torch."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Literal, get_args

from causvid_cli.errors import UsageError

Hold = Literal["frame", "chunk"]
"""How long a photo is held: one latent frame, or a whole chunk of them. Both occur in published programs."""
HOLDS: tuple[Hold, ...] = get_args(Hold)
ROUND = 16
"""Columns of latent cells after which a drawn scene comes again (`network/copies.py`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecFacts:
    """What a video codec does to counts and sizes."""

    latent_channels: int
    spatial_factor: int
    """Pixels per latent cell, along each side."""
    frames_first: int
    """Video frames that the first latent frame of a video decodes to (Wan: 1)."""
    frames_next: int
    """Video frames that every later latent frame decodes to (Wan: 4)."""

    def frames(self, latent_frames: int, *, start: int = 0) -> int:
        """Return how many video frames latent frames [start, start + latent_frames) decode to."""
        first = 1 if start == 0 and latent_frames > 0 else 0
        return first * self.frames_first + (latent_frames - first) * self.frames_next

    def latent_frames(self, frames: int) -> int:
        """Return the fewest latent frames, at least 1, that hold so many video frames."""
        rest = max(0, frames - self.frames_first)
        return 1 + -(-rest // self.frames_next)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Latent frames [start_frame, start_frame + frames) of a video, denoised together."""

    index: int
    start_frame: int
    frames: int

    @property
    def end_frame(self) -> int:
        return self.start_frame + self.frames


def chunks(chunk_frames: int, *, start_frame: int = 0, first_frames: int | None = None) -> Iterator[Chunk]:
    """Chunks without end, oldest first.

    start_frame: latent frames given as prefix, before the first generated chunk.
    first_frames: latent frames of the first chunk where it differs (Self-Forcing's independent first frame: 1).
    """
    frame = start_frame
    for index in count():
        frames = first_frames if index == 0 and first_frames is not None else chunk_frames
        yield Chunk(index, frame, frames)
        frame += frames


def take_chunks(latent_frames: int, chunk_frames: int, **options: int | None) -> Iterator[Chunk]:
    """The fewest whole chunks that generate at least `latent_frames` latent frames."""
    made = 0
    for chunk in chunks(chunk_frames, **options):  # type: ignore[arg-type]
        if made >= latent_frames:
            return
        yield chunk
        made += chunk.frames


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkGrid:
    """Where the chunks of a video lie, in latent frames and in video frames.

    given_frames: latent frames that are given (a photo, the tail of a clip), before the first chunk that is made.
    shows_given: whether their video frames are the first of the video (a photo's are; a clip's are in the clip).
    """

    codec: CodecFacts
    chunk_frames: int
    given_frames: int = 0
    shows_given: bool = False

    @property
    def hidden_frames(self) -> int:
        """How many frames are decoded before the video's first."""
        return 0 if self.shows_given else self.codec.frames(self.given_frames)

    def first_frame(self, chunk_index: int) -> int:
        """Return the number of a chunk's first video frame, counted from the video's first."""
        return self.codec.frames(self.given_frames + chunk_index * self.chunk_frames) - self.hidden_frames

    @property
    def frames_per_chunk(self) -> int:
        """How many video frames every chunk but perhaps the first makes: cues so far apart never share a chunk."""
        return self.chunk_frames * self.codec.frames_next

    def chunk_of(self, frame: int) -> int:
        """Return the index of the chunk that makes a video frame; -1 for a given one."""
        if frame < self.first_frame(0):
            return -1
        latent = self.codec.latent_frames(frame + self.hidden_frames + 1) - 1
        return (latent - self.given_frames) // self.chunk_frames

    def chunks(self, frames: int | None) -> Iterator[Chunk]:
        """Yield the chunks that make a video of so many frames; without end for None."""
        for chunk in chunks(self.chunk_frames, start_frame=self.given_frames):
            if frames is not None and self.first_frame(chunk.index) >= frames:
                return
            yield chunk


def held_frames(codec: CodecFacts, chunk_frames: int, hold: Hold) -> int:
    """Return how many times a photo is repeated to be a prefix."""
    return codec.frames(1 if hold == "frame" else chunk_frames)


def context_frames(codec: CodecFacts, frames: int, *, window_frames: int, chunk_frames: int) -> int:
    """Return how many latent frames the tail of a clip becomes: whole ones, at least 1, leaving room for a chunk.

    frames: how many the clip gives at most. window_frames: of the cache; 0 sets no limit.
    """
    most = window_frames - chunk_frames if window_frames else frames
    whole = codec.latent_frames(frames)
    fitting = whole if codec.frames(whole) <= frames else whole - 1
    return max(1, min(fitting, most))


@dataclass(frozen=True, slots=True)
class Geometry:
    """A frame size in pixels and what it is in latent cells and tokens.

    Raises UsageError when a side is not a multiple of the codec's factor times the transformer's patch.
    """

    height: int
    width: int
    spatial_factor: int = 8
    patch: tuple[int, int, int] = (1, 2, 2)

    def __post_init__(self) -> None:
        for name, side, patch in (("height", self.height, self.patch[1]), ("width", self.width, self.patch[2])):
            check_multiple(name, side, self.spatial_factor * patch)

    @property
    def latent_height(self) -> int:
        return self.height // self.spatial_factor

    @property
    def latent_width(self) -> int:
        return self.width // self.spatial_factor

    @property
    def tokens_per_latent_frame(self) -> int:
        return (self.latent_height // self.patch[1]) * (self.latent_width // self.patch[2])


def check_multiple(name: str, value: int, step: int) -> None:
    """Refuse a side that is not a positive multiple of `step`, naming the nearest that are."""
    if value > 0 and value % step == 0:
        return
    below = max(value // step, 1) * step
    near = f"{below}" if value < step else f"{below} or {below + step}"
    raise UsageError(f"{name} {value} is not a multiple of {step}; try {near}")
