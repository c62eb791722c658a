"""The user's file that a video begins from: a photo, the end of a clip, or a clip to be made anew. Loads no torch."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

from causvid_cli.config import PackFacts
from causvid_cli.errors import CausvidError, MediaError, UsageError
from causvid_cli.geometry import CodecFacts, Hold, context_frames, held_frames
from causvid_cli.job.job import AudioUsed, Input, Job, sha256_of
from causvid_cli.prompt.cues import Cue
from causvid_cli.request import STRENGTH, FitMode, check_size, check_source, check_strength, nearest_size, size_text
from causvid_cli.request import Size as AskedSize
from causvid_cli.timecode import FASTEST_FPS, parse_time

if TYPE_CHECKING:
    import numpy as np

    from causvid_cli.media.clips import Clip, LiveClip, RawFormat
    from causvid_cli.media.fit import Fit
    from causvid_cli.media.sound import Soundtrack
    from causvid_cli.media.stills import StillImage
    from causvid_cli.video import Encoding, Finish
    from causvid_cli.video.join import JoinPlan, WithSound

DEFAULT_HOLD: Hold = "chunk"
SILENT = frozenset({".gif", ".webp", ".png"})
"""The endings of outputs that hold no sound."""
MILD_STRETCH = 1.1
"""A change of proportions that is not remarked upon."""
Size = tuple[int, int]
Kind = Literal["photo", "clip", "source"]


@dataclass(slots=True, kw_only=True)
class InputMedia:
    """What photo, clip and source have in common. `check` comes first: it reads the file's facts and settles the sizes.

    cells: (width, height) as the codec makes frames. size: of the file's frames.
    """

    path: Path | None
    """None is a live pipe."""
    fit: FitMode
    cells: Size = (0, 0)
    size: Size = (0, 0)
    latent_frames: int = 0
    """How many latent frames are given before the first chunk."""
    sha256: str = ""
    replaces_sound: bool = False
    """Whether other sound takes the place of the file's own."""
    crisp: bool = False
    """Whether the model's frames are shown as blocks of whole cells."""
    kind: Kind = "photo"

    def check(
        self, facts: PackFacts, codec: CodecFacts, *, size: AskedSize | None, fps: Fraction, output: Path | None
    ) -> None:
        """Read what the file is; `output` says by its name into what container the video goes, None is a pipe.

        Raises MediaError where it cannot be used, UsageError where an option does not fit.
        """
        raise NotImplementedError

    def read_through(self, seconds: Fraction | None) -> None:
        """Decode what a video of so many seconds takes from the file, so that damage is met before anything is made.

        Raises MediaError for damage, unless it is tolerated.
        """

    @property
    def fps(self) -> Fraction | None:
        """The frame rate of the file, where the video takes it over."""
        return None

    @property
    def seconds_before(self) -> Fraction:
        """How long the file's own part of the video is, before the first new frame."""
        return Fraction(0)

    @property
    def used(self) -> Input:
        """What the recipe says of it."""
        raise NotImplementedError

    @property
    def name(self) -> str:
        return self.path.name if self.path else "stdin"

    @property
    def told(self) -> Cue | None:
        """What its own recipe tells of its end, if it has one."""
        return None

    @property
    def notes(self) -> list[str]:
        """What is done to the file's frames, a line each."""
        return []

    def left_out(self, output: Path | None) -> list[str]:
        """Return what of the file does not get into the output, a line each."""
        return []

    def frames(self, fps: Fraction) -> "np.ndarray | None":
        """Return frames uint8 RGB [T, h, w, 3] before the first chunk, which fill `latent_frames`."""
        return None

    def source(self, fps: Fraction) -> "Iterator[np.ndarray] | None":
        """Return the frames [h, w, 3] of a clip to be made anew."""
        return None

    def show(self) -> "Callable[[np.ndarray], np.ndarray] | None":
        """Return what makes frames of the file's size of the model's; None where they are the same."""
        return None

    def joins(self, output: Path) -> bool:
        """Return whether a file of this name would hold packets of the input."""
        return False

    @property
    def encoding(self) -> "Encoding | None":
        """How frames are encoded, where that depends on the input."""
        return None

    def finish(self, output: Path, soundtrack: "Soundtrack | None") -> "Finish | None":
        """Return what makes the finished file, where that depends on the input. soundtrack: what is laid under it."""
        return None

    def _sizes(self, facts: PackFacts, codec: CodecFacts, own: Size, size: AskedSize | None) -> int:
        """Settle `cells`: of the shape of the file, or the nearest that the model has. Returns the enlargement."""
        any_size = facts.enlarge == 1
        width, height, times = check_size(size, facts) if size or any_size else nearest_size(facts, own)
        self.cells = (width, height)
        if any_size and (size is None or isinstance(size, str)):
            from causvid_cli.media.fit import model_size_for

            self.cells = model_size_for(own, self.cells, 2 * codec.spatial_factor)
        return times

    def _shape_notes(self, own: Size) -> list[str]:
        """Return the line that a clip is stretched to a model of another shape, where it shows."""
        stretched = own[0] * self.cells[1] / (own[1] * self.cells[0])
        if self.fit != "stretch" or 1 / MILD_STRETCH <= stretched <= MILD_STRETCH:
            return []
        wide, high = "{}x{}".format(*own), "{}x{}".format(*self.cells)
        return [f"its {wide} are stretched to the model's {high}; --fit crop or --fit pad keep round things round"]

    def _fit(self, own: Size) -> "Fit":
        from causvid_cli.media.fit import fit

        return fit(own, self.cells, self.fit)


@dataclass(slots=True, kw_only=True)
class Photo(InputMedia):
    """i2v: the video's first frames are the photo, as the codec shows it."""

    hold: Hold = DEFAULT_HOLD
    background: str = ""
    kind: Kind = "photo"
    _photo: "StillImage" = field(init=False)
    _held: int = 0

    def check(
        self, facts: PackFacts, codec: CodecFacts, *, size: AskedSize | None, fps: Fraction, output: Path | None
    ) -> None:
        from causvid_cli.media.stills import open_image

        assert self.path is not None
        self._photo = open_image(self.path, background=parse_colour(self.background))
        times = self._sizes(facts, codec, self._photo.size, size)
        self.size = (self.cells[0] * times, self.cells[1] * times)
        self._held = held_frames(codec, facts.chunk_frames, self.hold)
        self.latent_frames = codec.latent_frames(self._held)
        self.sha256 = sha256_of(self.path)

    @property
    def used(self) -> Input:
        return replace(base_used(self), hold=self.hold, background=self.background)

    @property
    def notes(self) -> list[str]:
        return list(self._photo.notes)

    def frames(self, fps: Fraction) -> "np.ndarray":
        return self._fit(self._photo.size).apply([self._photo.pixels]).repeat(self._held, axis=0)


@dataclass(slots=True, kw_only=True)
class ClipEnd(InputMedia):
    """extend: the video goes on where the clip ends, in the clip's own frame size."""

    context: str | None = None
    context_frames: int = 0
    """Latent frames of it, where they are settled already."""
    tolerate_damage: bool = False
    kind: Kind = "clip"
    _told: Cue | None = None
    _is_asked: bool = False
    _untold: str = ""
    _goes_on: bool = False
    _clip: "Clip | None" = None
    _plan: "JoinPlan" = field(init=False)
    _wanted: int = 0

    def check(
        self, facts: PackFacts, codec: CodecFacts, *, size: AskedSize | None, fps: Fraction, output: Path | None
    ) -> None:
        from causvid_cli.media.clips import open_clip
        from causvid_cli.video.join import container_of, plan_join

        assert self.path is not None
        self._clip = open_clip(self.path, tolerate_damage=self.tolerate_damage)
        self._plan = plan_join(
            self.path,
            container_of(output),
            keeps_sound=not self.replaces_sound,
            tolerate_damage=self.tolerate_damage,
        )
        self.size = (self._plan.tail.width, self._plan.tail.height)
        if size is not None and size != self.size:
            own = "{}x{}".format(*self.size)
            raise UsageError(f"--size {size_text(size)}: the new part has the clip's own size, {own}; leave it out")
        self._sizes(facts, codec, (self._clip.width, self._clip.height), None)
        seconds = self._clip.duration_s
        if self.context is not None:
            wanted = parse_time(self.context, name="--context").frames(fps) / fps
            if not wanted:
                raise UsageError(f"--context {self.context}: must be more than 0; try 2s")
            seconds = min(seconds, wanted)
        self.latent_frames = self.context_frames or context_frames(
            codec, max(1, int(seconds * fps)), window_frames=facts.window_frames, chunk_frames=facts.chunk_frames
        )
        self._wanted = codec.frames(self.latent_frames)
        self.crisp = facts.enlarge > 1
        self._goes_on = facts.text == "storybook"
        self.sha256 = sha256_of(self.path)

    @property
    def told(self) -> Cue | None:
        if not self._is_asked and self.path is not None:
            self._is_asked = True
            try:
                self._told = told_at_the_end(self.path)
            except CausvidError as error:  # of the clip itself `check` says it
                self._untold = f"what it showed is not known: {error}"
        return self._told

    def read_through(self, seconds: Fraction | None) -> None:
        assert self._clip is not None
        self._clip.read_through()  # all of it, for an exact join copies packets that nobody decodes later

    @property
    def fps(self) -> Fraction | None:
        from causvid_cli.media.clips import open_clip

        assert self.path is not None
        clip = self._clip or open_clip(self.path, tolerate_damage=self.tolerate_damage)
        return clip.fps if clip.fps <= FASTEST_FPS else None

    @property
    def seconds_before(self) -> Fraction:
        return self._plan.end

    @property
    def used(self) -> Input:
        cue = self.told if self._goes_on else None
        return replace(base_used(self), context_frames=self.latent_frames, keep_size=True, cue=cue)

    @property
    def notes(self) -> list[str]:
        assert self._clip is not None
        shape = self._shape_notes((self._clip.width, self._clip.height))
        lines = (*self._clip.notes, *shape, *self._plan.notes, self._plan.reason, self._untold)
        return [line for line in lines if line]

    def frames(self, fps: Fraction) -> "np.ndarray":
        import numpy as np

        assert self._clip is not None
        fit = self._fit((self._clip.width, self._clip.height))
        tail = self._clip.tail(self._wanted / fps, fps, shape=lambda frame: fit.apply([frame])[0])
        missing = self._wanted - len(tail)  # of a clip shorter than one latent frame
        return np.concatenate([tail[:1].repeat(missing, axis=0), tail])

    def show(self) -> "Callable[[np.ndarray], np.ndarray]":
        assert self._clip is not None
        plan, own = self._plan, (self._clip.width, self._clip.height)
        back = shown_at(self.cells, own, self.fit, plan.shown_size, crisp=self.crisp)
        return lambda frames: plan.to_coded(back(frames))

    def joins(self, output: Path) -> bool:
        return True

    @property
    def encoding(self) -> "Encoding":
        return self._plan.tail.encoding

    def finish(self, output: Path, soundtrack: "Soundtrack | None") -> "Finish":
        from causvid_cli.video.join import Join

        return Join(self._plan, soundtrack)


@dataclass(slots=True, kw_only=True)
class SourceClip(InputMedia):
    """restyle: every chunk starts from the clip's own, noised; a live pipe will do."""

    strength: float
    tolerate_damage: bool = False
    raw: "RawFormat | None" = None
    pipe: "BinaryIO | None" = None
    kind: Kind = "source"
    _clip: "Clip | LiveClip" = field(init=False)
    _keep_size: bool = False
    _with_sound: "WithSound | None" = None

    def check(
        self, facts: PackFacts, codec: CodecFacts, *, size: AskedSize | None, fps: Fraction, output: Path | None
    ) -> None:
        from causvid_cli.media.clips import open_clip, open_stream

        check_strength(self.strength)
        check_source(facts)
        if self.path is None:
            assert self.pipe is not None
            self._clip = open_stream(self.pipe, raw=self.raw)
        else:
            self._clip = open_clip(self.path, tolerate_damage=self.tolerate_damage)
            self.sha256 = sha256_of(self.path)
        own = (self._clip.width, self._clip.height)
        times = self._sizes(facts, codec, own, size)
        self._keep_size = size is None and self.fit == "stretch"
        even = (own[0] + own[0] % 2, own[1] + own[1] % 2)
        self.size = even if self._keep_size else (self.cells[0] * times, self.cells[1] * times)
        self.crisp = facts.enlarge > 1
        if self.path is not None and output is not None and self.joins(output):
            from causvid_cli.video.join import WithSound, container_of

            self._with_sound = WithSound(self.path, container_of(output), tolerate_damage=self.tolerate_damage)

    def read_through(self, seconds: Fraction | None) -> None:
        from causvid_cli.media.clips import Clip

        if isinstance(self._clip, Clip):
            self._clip.read_through(end_s=seconds)

    @property
    def used(self) -> Input:
        return replace(base_used(self), strength=self.strength, keep_size=self._keep_size)

    @property
    def notes(self) -> list[str]:
        own = (self._clip.width, self._clip.height)
        sound = self._with_sound.notes if self._with_sound else ()
        found = [*self._clip.notes, *self._shape_notes(own), *sound]
        if not self._keep_size or own == self.size:
            return found
        scaled = "its frames of {}x{} are scaled to {}x{}: H.264 needs even sides".format(*own, *self.size)
        return [*found, scaled]

    def source(self, fps: Fraction) -> "Iterator[np.ndarray]":
        fit = self._fit((self._clip.width, self._clip.height))
        return (fit.apply([frame])[0] for frame in self._clip.frames(fps))

    def show(self) -> "Callable[[np.ndarray], np.ndarray] | None":
        own = (self._clip.width, self._clip.height)
        return shown_at(self.cells, own, self.fit, self.size, crisp=self.crisp) if self._keep_size else None

    def left_out(self, output: Path | None) -> list[str]:
        if not self._has_sound or (output is not None and self.joins(output)):
            return []
        return [f"its sound is left out: {'stdout' if output is None else output.suffix} gets frames only"]

    def joins(self, output: Path) -> bool:
        return self._has_sound and output.suffix.lower() not in SILENT

    @property
    def _has_sound(self) -> bool:
        has_sound = self.path is not None and bool(getattr(self._clip, "has_sound", False))
        return has_sound and not self.replaces_sound

    def finish(self, output: Path, soundtrack: "Soundtrack | None") -> "Finish | None":
        return self._with_sound


def given_of(used: Input, path: Path | None, *, tolerate_damage: bool = False) -> InputMedia:
    """Return the input of a recipe, in a file of this machine."""
    if used.kind == "photo":
        return Photo(path=path, fit=used.fit, hold=used.hold or DEFAULT_HOLD, background=used.background)
    if used.kind == "clip":
        return ClipEnd(path=path, fit=used.fit, context_frames=used.context_frames, tolerate_damage=tolerate_damage)
    return SourceClip(path=path, fit=used.fit, strength=used.strength or STRENGTH, tolerate_damage=tolerate_damage)


def told_at_the_end(clip: Path) -> Cue | None:
    """Return what a clip's recipe tells of its end, in a prompt that leaves nothing unsaid, and its scene's seed.

    None where it has no recipe, one of which nobody is understood, or one of a longer clip, whose end it tells. Raises
    MediaError for one that is damaged.
    """
    from causvid_cli.media.probe import read_info
    from causvid_cli.storybook import Story, parse

    info = read_info(clip)
    if not info.recipe:
        return None
    job = Job.from_recipe(info.recipe, where=clip.name)
    if len(job.cues) > 1 and job.frames is not None and info.frames < job.frames:
        return None
    before = [job.input.cue] if job.input and job.input.cue else []
    story: Story | None = None
    seed: int | None = None
    for cue in (*before, *job.cues):
        told = parse(cue.prompt, story).story
        if story is None or told.scene != story.scene:
            seed = cue.seed if cue in before else job.seed
        story = told
    return Cue(prompt=story.caption(), seed=seed) if story and story.subject else None


def find_soundtrack(used: AudioUsed | None, path: Path | None, *, where: str) -> "Soundtrack | None":
    """Return the soundtrack of a recipe, in a file of this machine. Raises MediaError when that is another or gone."""
    from causvid_cli.media.sound import open_soundtrack

    if used is None:
        return None
    if path is None or not path.exists():
        raise MediaError(f"{path or used.name}: not there, the sound of {where}; say where it lies by --audio")
    soundtrack = open_soundtrack(path, fit=used.fit)
    if soundtrack.sha256 != used.sha256:
        raise MediaError(f"{path}: not the sound of {where}; give that one by --audio")
    return soundtrack


def base_used(given: InputMedia) -> Input:
    """Return what the recipe says of any input."""
    return Input(kind=given.kind, name=given.name, sha256=given.sha256, fit=given.fit)


def shown_at(cells: Size, own: Size, how: FitMode, size: Size, *, crisp: bool) -> "Callable[[np.ndarray], np.ndarray]":
    """Return what makes a clip's frames (of size `own`, stored in `size`) of the model's. crisp: cells stay blocks."""
    from causvid_cli.media.fit import fit

    filled, stored = fit(cells, own, how), fit(own, size, "stretch")
    if size == own:
        return lambda frames: filled.apply(frames, nearest=crisp)
    return lambda frames: stored.apply(filled.apply(frames, nearest=crisp), nearest=crisp)


def parse_colour(text: str, *, name: str = "--background") -> tuple[int, int, int]:
    """Return (red, green, blue) of #RRGGBB; nothing is black. Raises UsageError."""
    if not text:
        return (0, 0, 0)
    match = re.fullmatch("#?([0-9a-fA-F]{2})([0-9a-fA-F]{2})([0-9a-fA-F]{2})", text)
    if not match:
        raise UsageError(f"{name} {text!r} is no colour; write #RRGGBB, such as #ffffff for white")
    red, green, blue = (int(part, 16) for part in match.groups())
    return red, green, blue
