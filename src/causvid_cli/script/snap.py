"""Cues at the times a script asks for -> cues at the chunks of a model, with what that changed. No torch."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

from causvid_cli.geometry import ChunkGrid
from causvid_cli.prompt.cues import Cue, check_cues
from causvid_cli.script.model import AFTER_LAST_CUE, Script, ScriptCue, Snap
from causvid_cli.script.problems import Problem, ScriptError
from causvid_cli.timecode import Time, nearest_whole


@dataclass(frozen=True, slots=True, kw_only=True)
class SnappedCue:
    """A cue of the video, and how far it lies from where the script asked for it."""

    number: int
    """Of the cue in the script, from 1."""
    round: int
    """Of a loop, from 1."""
    cue: Cue
    asked_s: Fraction
    picture: int
    """The first picture that the prompt makes, counted from 0."""
    start_s: Fraction
    blend_asked_s: Fraction | None = None
    blend_s: Fraction = Fraction(0)

    def __str__(self) -> str:
        """`cue 2 asked 5.000s -> chunk 7, frame 81, 5.0625s (+0.062s)`."""
        again = f" (round {self.round})" if self.round > 1 else ""
        moved = f"{_seconds(self.start_s)}s ({_signed(self.start_s - self.asked_s)}s)"
        text = f"cue {self.number}{again} asked {_seconds(self.asked_s)}s -> chunk {self.cue.start_chunk}"
        text += f", frame {self.picture}, {moved}"
        if self.blend_asked_s:
            chunks = self.cue.blend_chunks
            text += f"; blend {_seconds(self.blend_asked_s)}s -> {chunks} chunk{'s' * (chunks != 1)}"
            text += f", {_seconds(self.blend_s)}s ({_signed(self.blend_s - self.blend_asked_s)}s)"
        return text


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapped:
    """A script as a model can carry it out."""

    cues: tuple[Cue, ...]
    """What the roll-out takes."""
    report: tuple[SnappedCue, ...]
    """One per cue that is played, in order."""
    pictures: int
    """Of the video; for a clip that is continued, of its new part."""
    fps: Fraction
    length_asked_s: Fraction
    warnings: tuple[Problem, ...] = ()

    @property
    def length_s(self) -> Fraction:
        return self.pictures / self.fps

    @property
    def lines(self) -> tuple[str, ...]:
        """The report for people, a line per cue and one for the length."""
        length = f"length asked {_seconds(self.length_asked_s)}s -> {self.pictures} frames, {_seconds(self.length_s)}s"
        return (*map(str, self.report), f"{length} ({_signed(self.length_s - self.length_asked_s)}s)")


def timeline(script: Script, grid: ChunkGrid, fps: Fraction, *, length: Time | None = None) -> Snapped:
    """The script's cues at the chunks of a grid.

    fps: of the video, which also says how long a script's frames last. length: instead of the script's; cues that
    it cuts off are left out with a warning. Times count from the video's first picture; where the grid's given
    pictures are not the video's (a clip that is continued), from the first new one.
    Raises ScriptError: cues that fall on one chunk, do not rise, or, with snap: error, are not at a chunk's edge.
    """
    return _Snapping(script, grid, fps, length).snapped()


def in_frames(script: Script, grid: ChunkGrid) -> Script:
    """The same script with times in frames where it has them in latent frames or chunks: it can then be written."""
    cues = tuple(replace(cue, at=_plain(cue.at, grid), blend=_plain(cue.blend, grid)) for cue in script.cues)
    return replace(script, length=_plain(script.length, grid), cues=cues)


def _plain(time: Time | None, grid: ChunkGrid) -> Time | None:
    if time is None or time.unit in ("s", "f"):
        return time
    return Time(_pictures(time, grid, Fraction(1)), "f")


def _pictures(time: Time, grid: ChunkGrid, fps: Fraction) -> Fraction:
    """Where a time lies, in pictures; exact."""
    if time.unit == "latent":
        return Fraction(grid.codec.frames(grid.given_frames + int(time.number)) - grid.hidden_pictures)
    if time.unit == "chunk":
        return time.number * _chunk_pictures(grid)
    return time.pictures(fps)


def _chunk_pictures(grid: ChunkGrid) -> int:
    """Pictures of every chunk but perhaps the first: cues so far apart never share one."""
    return grid.chunk_frames * grid.codec.frames_next


@dataclass(frozen=True, slots=True)
class _Asked:
    """A cue of one round, and where it is asked for in pictures."""

    cue: ScriptCue
    number: int
    round: int
    position: Fraction


class _Snapping:
    def __init__(self, script: Script, grid: ChunkGrid, fps: Fraction, length: Time | None) -> None:
        self.script, self.grid, self.fps = script, grid, fps
        self.length = length
        self.errors: list[Problem] = []
        self.warnings: list[Problem] = []

    def snapped(self) -> Snapped:
        end = self._end()
        pictures = max(1, nearest_whole(end))
        report = list(self._report(pictures))
        if self.errors:
            raise ScriptError(self.errors)
        self._warn_of_blends(report)
        return Snapped(
            cues=check_cues([entry.cue for entry in report]),
            report=tuple(report),
            pictures=pictures,
            fps=self.fps,
            length_asked_s=end / self.fps,
            warnings=tuple(self.warnings),
        )

    def _end(self) -> Fraction:
        """The video's length in pictures, as asked."""
        if self.length:
            return _pictures(self.length, self.grid, self.fps)
        if self.script.length:
            return _pictures(self.script.length, self.grid, self.fps) * (self.script.loop or 1)
        last = _pictures(self.script.cues[-1].start, self.grid, self.fps)
        return last + AFTER_LAST_CUE.pictures(self.fps)

    def _asked(self) -> Iterator[_Asked]:
        """Every cue of every round."""
        period = self.script.length and _pictures(self.script.length, self.grid, self.fps)
        for turn in range(self.script.loop or 1):
            begin = turn * (period or 0)
            for number, cue in enumerate(self.script.cues, start=1):
                yield _Asked(cue, number, turn + 1, begin + _pictures(cue.start, self.grid, self.fps))

    def _report(self, pictures: int) -> Iterator[SnappedCue]:
        """The cues that are played; what stands in the way goes to `errors` and `warnings`."""
        before: tuple[_Asked, int] | None = None
        for asked in self._asked():
            if before and asked.position <= before[0].position:
                self._complain(asked, f"{asked.cue.start} is not after {before[0].cue.start}, the cue before it")
                continue
            chunk = 0 if before is None else self._chunk(asked)
            if before and chunk <= before[1]:
                self._complain_of_neighbours(asked, before[0], chunk)
                continue
            before = (asked, chunk)
            if asked.round == 1 and chunk == 0:
                self._warn_of_first(asked)
            if chunk and self.grid.start_picture(chunk) >= pictures:
                self._warn(asked, f"begins at the end of the video ({_seconds(pictures / self.fps)}s); left out")
                continue
            yield self._snapped(asked, chunk)

    def _chunk(self, asked: _Asked) -> int:
        """The chunk for a cue after the first, as `snap` says."""
        snap: Snap = self.script.snap
        position, start = asked.position, self.grid.start_picture
        below = max(0, self.grid.chunk_of(int(position)))
        if position <= start(below):
            if position < start(below) and snap == "error":
                self._complain_of_edge(asked, [below])
            return below
        if snap == "error":
            self._complain_of_edge(asked, [below, below + 1])
        nearer = position - start(below) <= start(below + 1) - position  # halfway: rather early than late
        return below if snap == "previous" or (snap != "next" and nearer) else below + 1

    def _snapped(self, asked: _Asked, chunk: int) -> SnappedCue:
        script, cue = self.script, asked.cue
        blend = 0
        asked_blend = _pictures(cue.blend, self.grid, self.fps) if cue.blend else None
        if asked_blend:
            blend = nearest_whole(asked_blend / _chunk_pictures(self.grid))
            if asked_blend < _chunk_pictures(self.grid):
                chunk_s = _seconds(_chunk_pictures(self.grid) / self.fps)
                takes = f"it takes one chunk ({chunk_s}s)" if blend else f"a chunk is {chunk_s}s: it changes at once"
                self._warn(asked, f"blend {cue.blend} is shorter than a chunk; {takes}")
        negative = cue.negative if cue.negative is not None else script.negative
        strength = cue.strength if cue.strength is not None else script.strength
        made = Cue(
            prompt=script.prompt(cue),
            start_chunk=chunk,
            transition=cue.transition or script.transition or "recache",
            blend_chunks=blend,
            strength=1.0 if strength is None else strength,
            seed=cue.seed,
            negative=negative or "",
            name=cue.name or cue.prompt,
        )
        picture = self.grid.start_picture(chunk)
        return SnappedCue(
            number=asked.number,
            round=asked.round,
            cue=made,
            asked_s=asked.position / self.fps,
            picture=picture,
            start_s=picture / self.fps,
            blend_asked_s=asked_blend / self.fps if asked_blend else None,
            blend_s=blend * _chunk_pictures(self.grid) / self.fps,
        )

    # --- what is said -------------------------------------------------------------------------------------------------

    def _problem(self, asked: _Asked, message: str) -> Problem:
        again = f" (round {asked.round})" if asked.round > 1 else ""
        return Problem(path=self.script.path, line=asked.cue.line, message=f"cue {asked.number}{again}: {message}")

    def _complain(self, asked: _Asked, message: str) -> None:
        self.errors.append(self._problem(asked, message))

    def _warn(self, asked: _Asked, message: str) -> None:
        self.warnings.append(self._problem(asked, message))

    def _complain_of_neighbours(self, asked: _Asked, before: _Asked, chunk: int) -> None:
        gap = _seconds(_chunk_pictures(self.grid) / self.fps)
        place = f", line {before.cue.line}" if before.cue.line else ""
        self._complain(
            asked,
            f"asked {_seconds(asked.position / self.fps)}s, falls on chunk {chunk} like cue {before.number} "
            f"({_seconds(before.position / self.fps)}s{place}); with this model cues need {gap}s between them",
        )

    def _complain_of_edge(self, asked: _Asked, chunks: list[int]) -> None:
        near = " or ".join(f"{_seconds(self.grid.start_picture(chunk) / self.fps)}s" for chunk in chunks)
        self._complain(asked, f"{asked.cue.start} is not at a chunk's edge (snap: error); try {near}")

    def _warn_of_first(self, asked: _Asked) -> None:
        given = [name for name in ("transition", "blend") if getattr(asked.cue, name)]
        if given and not (self.script.loop or 1) > 1:
            self._warn(asked, f"{' and '.join(given)} of a first cue does nothing: there is no prompt before it")

    def _warn_of_blends(self, report: list[SnappedCue]) -> None:
        for entry, following in zip(report, report[1:], strict=False):
            cue = self.script.cues[entry.number - 1]
            if entry.cue.start_chunk + entry.cue.blend_chunks > following.cue.start_chunk:
                message = f"blend {cue.blend} goes on past the next cue, which cuts it short"
                self._warn(_Asked(cue, entry.number, entry.round, Fraction(0)), message)


def _seconds(seconds: Fraction) -> str:
    """At least three decimals; up to six where they end there: 5.000, 5.0625."""
    text = f"{float(seconds):.6f}".rstrip("0")
    whole, _, decimals = text.partition(".")
    return f"{whole}.{decimals:0<3}"


def _signed(seconds: Fraction) -> str:
    return f"{float(seconds):+.3f}"
