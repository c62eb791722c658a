"""Cues at the times a script asks for -> cues at the chunks of a model, with what that changed. No torch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise

from causvid_cli.geometry import ChunkGrid
from causvid_cli.prompt.cues import Cue, check_cues
from causvid_cli.script.fields import Snap
from causvid_cli.script.model import AFTER_LAST_CUE, Script, ScriptCue
from causvid_cli.script.problems import Problem, ScriptError
from causvid_cli.timecode import Retiming, Time, nearest_whole
from causvid_cli.units import counted

SAME_RATE = Retiming(Fraction(1), Fraction(1))


@dataclass(frozen=True, slots=True, kw_only=True)
class SnappedCue:
    """A cue of the video, and how far it lies from where the script asked for it."""

    number: int
    """Which cue of the script it is, from 1."""
    round: int
    """Which round of the loop it is played in, from 1."""
    cue: Cue
    asked_s: Fraction
    frame: int
    """The first frame that the prompt makes, counted from 0."""
    start_s: Fraction
    blend_asked_s: Fraction | None = None
    blend_s: Fraction = Fraction(0)

    def __str__(self) -> str:
        """`cue 2 asked 5.000s -> chunk 7, frame 81, 5.0625s (+0.062s)`."""
        again = f" (round {self.round})" if self.round > 1 else ""
        moved = f"{_seconds(self.start_s)}s ({_signed(self.start_s - self.asked_s)}s)"
        text = f"cue {self.number}{again} asked {_seconds(self.asked_s)}s -> chunk {self.cue.start_chunk}"
        text += f", frame {self.frame}, {moved}"
        if self.blend_asked_s:
            chunks = self.cue.blend_chunks
            text += f"; blend {_seconds(self.blend_asked_s)}s -> {chunks} chunk{'s' * (chunks != 1)}"
            text += f", {_seconds(self.blend_s)}s ({_signed(self.blend_s - self.blend_asked_s)}s)"
        return text


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapped:
    """A script as a model can carry it out."""

    report: tuple[SnappedCue, ...]
    """One per cue that is played, in order; their chunks rise from 0."""
    frames: int
    """How many frames the video has; of a clip that is continued, its new part."""
    fps: Fraction
    length_asked_s: Fraction
    warnings: tuple[Problem, ...] = ()

    @property
    def cues(self) -> tuple[Cue, ...]:
        """What the roll-out takes."""
        return tuple(entry.cue for entry in self.report)

    @property
    def length_s(self) -> Fraction:
        return self.frames / self.fps

    @property
    def lines(self) -> tuple[str, ...]:
        """The report for people, a line per cue and one for the length."""
        frames = counted(self.frames, "frame")
        length = f"length asked {_seconds(self.length_asked_s)}s -> {frames}, {_seconds(self.length_s)}s"
        return (*map(str, self.report), f"{length} ({_signed(self.length_s - self.length_asked_s)}s)")


def timeline(
    script: Script,
    grid: ChunkGrid,
    fps: Fraction,
    *,
    model_fps: Fraction | None = None,
    length: Time | None = None,
) -> Snapped:
    """The script's cues at the chunks of a grid.

    fps: the video's rate, which also says how long a script's frames last. model_fps: the rate at which the grid's
    frames are made, if it is another. length: takes the place of the script's; cues that it cuts off are left out with
    a warning. Times count from the video's first frame; where the grid's given
    frames are not the video's (a clip that is continued), from the first new one.
    Raises ScriptError: cues that fall on one chunk, do not rise, or, with snap: error, are not at a chunk's edge.
    """
    return _Snapping(script, grid, Retiming(model_fps or fps, fps), length).snapped()


def in_frames(script: Script, grid: ChunkGrid, retiming: Retiming = SAME_RATE) -> Script:
    """The same script with times in frames where it has them in latent frames or chunks: it can then be written."""

    def plain(time: Time | None) -> Time | None:
        if time is None or time.unit in ("s", "f"):
            return time
        return Time(Fraction(retiming.shown_until(int(_frames(time, grid, retiming)))), "f")

    cues = tuple(replace(cue, at=plain(cue.at), blend=plain(cue.blend)) for cue in script.cues)
    return replace(script, length=plain(script.length), cues=cues)


def _frames(time: Time, grid: ChunkGrid, retiming: Retiming) -> Fraction:
    """How many of the grid's frames pass until a time; exact."""
    if time.unit == "latent":
        return Fraction(grid.codec.frames(grid.given_frames + int(time.number)) - grid.hidden_frames)
    if time.unit == "chunk":
        return time.number * grid.frames_per_chunk
    return time.frames(retiming.shown) * retiming.made / retiming.shown


class _Snapping:
    """One script on its way to a grid's chunks. Frames are the grid's, if not said to be the video's.

    A play is a cue in one round of the loop, counted from 0 in the order in which they come.
    """

    def __init__(self, script: Script, grid: ChunkGrid, retiming: Retiming, length: Time | None) -> None:
        self.script, self.grid, self.retiming, self.fps = script, grid, retiming, retiming.made
        self.length = length
        self.round_frames = _frames(script.length, grid, retiming) if script.length else Fraction(0)
        self.errors: list[Problem] = []
        self.warnings: list[Problem] = []

    def snapped(self) -> Snapped:
        end = self._end()
        retiming = self.retiming
        frames = max(1, nearest_whole(end * retiming.shown / retiming.made))  # of the video
        report = tuple(self._report(retiming.made_for(frames)))
        if self.errors:
            raise ScriptError(self.errors)
        check_cues([entry.cue for entry in report])
        self._warn_of_blends(report)
        return Snapped(
            report=report,
            frames=frames,
            fps=retiming.shown,
            length_asked_s=end / self.fps,
            warnings=tuple(self.warnings),
        )

    def _end(self) -> Fraction:
        """The video's length in frames, as asked."""
        if self.length:
            return _frames(self.length, self.grid, self.retiming)
        if self.script.length:
            return self.round_frames * (self.script.loop or 1)
        last = _frames(self.script.cues[-1].start, self.grid, self.retiming)
        return last + _frames(AFTER_LAST_CUE, self.grid, self.retiming)

    def _cue(self, play: int) -> ScriptCue:
        return self.script.cues[play % len(self.script.cues)]

    def _asked(self, play: int) -> Fraction:
        """The frame at which a play is asked for; exact."""
        before = play // len(self.script.cues) * self.round_frames
        return before + _frames(self._cue(play).start, self.grid, self.retiming)

    def _report(self, frames: int) -> Iterator[SnappedCue]:
        """The plays that fit into so many frames; what stands in the way goes to `errors` and `warnings`."""
        before: tuple[int, int] | None = None  # the play before, and its chunk
        for play in range((self.script.loop or 1) * len(self.script.cues)):
            if before and self._asked(play) <= self._asked(before[0]):
                start, earlier = self._cue(play).start, self._cue(before[0]).start
                self._complain(play, f"{start} is not after {earlier}, the cue before it")
                continue
            chunk = 0 if before is None else self._chunk(play)
            if before and chunk <= before[1]:
                self._complain_of_neighbours(play, before[0], chunk)
                continue
            before = (play, chunk)
            if play == 0:
                self._warn_of_first()
            if chunk and self.grid.first_frame(chunk) >= frames:
                end = _seconds(frames / self.fps)
                self._warn(play, f"begins at {self._cue(play).start}, and the video ends at {end}s; left out")
                continue
            yield self._snapped(play, chunk)

    def _chunk(self, play: int) -> int:
        """The chunk for a play after the first, as `snap` says."""
        snap: Snap = self.script.snap
        asked, start = self._asked(play), self.grid.first_frame
        below = max(0, self.grid.chunk_of(int(asked)))
        if asked <= start(below):
            if asked < start(below) and snap == "error":
                self._complain_of_edge(play, [below])
            return below
        if snap == "error":
            self._complain_of_edge(play, [below, below + 1])
        nearer = asked - start(below) <= start(below + 1) - asked  # halfway: rather early than late
        return below if snap == "previous" or (snap != "next" and nearer) else below + 1

    def _snapped(self, play: int, chunk: int) -> SnappedCue:
        script, cue = self.script, self._cue(play)
        blend = 0
        asked_blend = _frames(cue.blend, self.grid, self.retiming) if cue.blend else None
        if asked_blend:
            blend = nearest_whole(asked_blend / self.grid.frames_per_chunk)
            if asked_blend < self.grid.frames_per_chunk:
                chunk_s = _seconds(self.grid.frames_per_chunk / self.fps)
                takes = f"it takes one chunk ({chunk_s}s)" if blend else f"a chunk is {chunk_s}s: it changes at once"
                self._warn(play, f"blend {cue.blend} is shorter than a chunk; {takes}")
        negative = cue.negative if cue.negative is not None else script.negative
        strength = cue.strength if cue.strength is not None else script.strength
        snapped = Cue(
            prompt=script.prompt(cue),
            start_chunk=chunk,
            transition=cue.transition or script.transition or "recache",
            blend_chunks=blend,
            strength=1.0 if strength is None else strength,
            seed=cue.seed,
            negative=negative or "",
            name=cue.name or cue.prompt,
        )
        frame = self.retiming.shown_until(self.grid.first_frame(chunk))
        return SnappedCue(
            number=play % len(script.cues) + 1,
            round=play // len(script.cues) + 1,
            cue=snapped,
            asked_s=self._asked(play) / self.fps,
            frame=frame,
            start_s=frame / self.retiming.shown,
            blend_asked_s=asked_blend / self.fps if asked_blend else None,
            blend_s=blend * self.grid.frames_per_chunk / self.fps,
        )

    # --- what is said -------------------------------------------------------------------------------------------------

    def _problem(self, play: int, message: str) -> Problem:
        turn, index = divmod(play, len(self.script.cues))
        again = f" (round {turn + 1})" if turn else ""
        return Problem(path=self.script.path, line=self._cue(play).line, message=f"cue {index + 1}{again}: {message}")

    def _complain(self, play: int, message: str) -> None:
        self.errors.append(self._problem(play, message))

    def _warn(self, play: int, message: str) -> None:
        self.warnings.append(self._problem(play, message))

    def _complain_of_neighbours(self, play: int, before: int, chunk: int) -> None:
        gap = _seconds(self.grid.frames_per_chunk / self.fps)
        line = self._cue(before).line
        place = f", line {line}" if line else ""
        self._complain(
            play,
            f"asked {_seconds(self._asked(play) / self.fps)}s, falls on chunk {chunk} like cue "
            f"{before % len(self.script.cues) + 1} ({_seconds(self._asked(before) / self.fps)}s{place}); "
            f"with this model cues need {gap}s between them",
        )

    def _complain_of_edge(self, play: int, chunks: list[int]) -> None:
        near = " or ".join(f"{_seconds(self.grid.first_frame(chunk) / self.fps)}s" for chunk in chunks)
        self._complain(play, f"{self._cue(play).start} is not at a chunk's edge (snap: error); try {near}")

    def _warn_of_first(self) -> None:
        without = ("blend",) if self.script.goes_on else ("transition", "blend")
        given = [name for name in without if getattr(self._cue(0), name)]
        if given and not (self.script.loop or 1) > 1:
            self._warn(0, f"{' and '.join(given)} of a first cue does nothing: there is no prompt before it")

    def _warn_of_blends(self, report: Sequence[SnappedCue]) -> None:
        for play, (entry, following) in enumerate(pairwise(report)):
            if entry.cue.start_chunk + entry.cue.blend_chunks > following.cue.start_chunk:
                self._warn(play, f"blend {self._cue(play).blend} goes on past the next cue, which cuts it short")


def _seconds(seconds: Fraction) -> str:
    """At least three decimals; up to six where they end there: 5.000, 5.0625."""
    text = f"{float(seconds):.6f}".rstrip("0")
    whole, _, decimals = text.partition(".")
    return f"{whole}.{decimals:0<3}"


def _signed(seconds: Fraction) -> str:
    return f"{float(seconds):+.3f}"
