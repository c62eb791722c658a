"""What a video will be, worked out and checked before any of it is made."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from causvid_cli.config import PackFacts, Rope, check_choice
from causvid_cli.geometry import Chunk, ChunkGrid, CodecFacts, Geometry
from causvid_cli.request import (
    DEFAULT_LENGTH,
    GUIDANCE,
    TRANSITIONS,
    Size,
    Transition,
    check_endless,
    check_guidance,
    check_rope,
    check_seed,
    check_size,
    check_steps,
    check_strength,
    check_window,
    first_steps,
    parse_length,
    random_seed,
)
from causvid_cli.sampling.schedule import Step, even_steps, steps_from, steps_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a video will be, before any of it is made: all of it checked."""

    frames: int | None
    """Pictures; None goes on until it is stopped, or as long as the source."""
    width: int
    height: int
    enlarge: int
    geometry: Geometry
    grid: ChunkGrid
    steps: tuple[Step, ...]
    """Of every chunk, but for the first where `first_steps` says others."""
    first_steps: tuple[Step, ...] | None
    window_frames: int
    """Recent latent frames that the cache keeps besides the sink; 0 keeps all of the video's."""
    rope: Rope
    seed: int

    def steps_of(self, chunk: Chunk) -> tuple[Step, ...]:
        """The steps of a chunk, noisiest first."""
        return self.first_steps or self.steps if chunk.index == 0 else self.steps

    @property
    def chunks(self) -> tuple[Chunk, ...]:
        """What is made; not of a video without end."""
        assert self.frames is not None
        return tuple(self.grid.chunks(self.frames))

    @property
    def latent_frames(self) -> int:
        """Of the whole video, given ones included."""
        return self.chunks[-1].end_frame if self.chunks else self.grid.given_frames


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateOptions:
    """What may be chosen of a video; None is the model's own."""

    length: str | float = DEFAULT_LENGTH
    """ "5s", "250ms", "1:04.5", "96f" or seconds, at `fps`; "inf" goes on and on."""
    size: Size | None = None
    """(width, height) in pixels, or a name."""
    fps: Fraction | None = None
    seed: int | None = None
    """None draws one."""
    steps: int | None = None
    """Network calls of each chunk."""
    window_frames: int | None = None
    """Recent latent frames that the cache keeps besides the sink; 0 keeps all of the video's."""
    rope: Rope | None = None
    """Where the sink stands in time (`config.Rope`)."""
    strength: float | None = None
    """To which noise level a source is noised, 0..1."""
    switch: Transition = "recache"
    """How a prompt that is set on the way takes hold."""
    guidance: float = GUIDANCE
    """How far to be led away from negative prompts; 1 is not at all."""


def make_plan(
    facts: PackFacts,
    options: GenerateOptions,
    *,
    codec: CodecFacts,
    prefix_frames: int = 0,
    shows_given: bool = False,
) -> Plan:
    """Check options against the facts of a model and work out what they come to. Raises UsageError.

    prefix_frames: video frames before the first chunk. shows_given: whether the video begins with them.
    """
    check_guidance(options.guidance)
    check_choice(options.switch, TRANSITIONS, name="switch")
    steps, first = make_steps(facts, options.steps, options.strength)
    frames = parse_length(options.length, fps=options.fps or frame_rate(facts))
    width, height, factor = check_size(options.size, facts)
    check_endless(frames, facts)
    return Plan(
        frames=frames,
        width=width * factor,
        height=height * factor,
        enlarge=factor,
        geometry=Geometry(height, width, codec.spatial_factor),
        grid=facts.grid(
            codec,
            given_frames=codec.latent_frames(prefix_frames) if prefix_frames else 0,
            shows_given=shows_given,
        ),
        steps=steps,
        first_steps=first,
        window_frames=check_window(options.window_frames, facts),
        rope=check_rope(options.rope, facts) or facts.rope,
        seed=random_seed() if options.seed is None else check_seed(options.seed),
    )


def frame_rate(facts: PackFacts) -> Fraction:
    """Return the frames per second that a model was trained at."""
    return Fraction(str(facts.fps)).limit_denominator(1001)


def make_steps(
    facts: PackFacts, steps: int | None, strength: float | None
) -> tuple[tuple[Step, ...], tuple[Step, ...] | None]:
    """Return the noise levels of each chunk, and of the first where they are others; from `strength` down.

    They are the model's own, or `steps` even ones; the first chunk's as `request.first_steps` says.
    """
    count = check_steps(steps, facts)
    own = count == len(facts.steps)

    def levels(nominal: Sequence[float], *, warped: bool) -> tuple[Step, ...]:
        every = steps_of(nominal, shift=facts.shift, warped=warped)
        return every if strength is None else steps_from(every, check_strength(strength))

    first = first_steps(count, facts)
    return (
        levels(facts.steps if own else even_steps(count), warped=facts.warp_steps or not own),
        levels(first, warped=facts.warp_steps) if first else None,
    )
