"""Stories to frames: the scene's loop under its sky, on it the actors where their actions put them, and the camera."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise

import numpy as np

from . import beasts, creatures, landscapes, objects, people, sketches  # noqa: F401  (they register their drawings)
from .cast import Actor, begins, cast, half_width, on_cells
from .motion import (
    CELL,
    CENTRE,
    CHANGE,
    FLASH,
    MOTIONS,
    Pose,
    Thing,
    followed,
    is_in_larger_world,
    lead,
    pose_at,
    zoom_at,
)
from .palette import EMPTY, PALETTE, ink, material_table
from .parse import parse
from .scenes import SCENES, SIZE, SQUARE, Frame
from .skies import INDOORS, ink_under, panorama
from .sprites import DRAWINGS, SCALE_STEPS, sprite
from .story import WHERE, Story
from .vocabulary import VOCABULARY

FPS = 8
PAN = 2
"""Columns by which the camera pans in a frame."""
ENTRY = 16
"""Columns between the places where somebody new appears in the middle of a video."""
BASE_ROW = {"ground": 56, "air": 50}
"""Lowest row of a sprite, its outline, by altitude."""
SPARKLES = ((-17, 8, 1), (16, 6, 2), (-14, 30, 2), (18, 26, 1), (0, 0, 1))
"""Round a changing sprite: column from its middle, row from the top of its box, arm length."""
WATERLINE = 48
"""The first row that is water where somebody swims."""
SPRITE, THING = 1, 2
"""What a mask says of a pixel: that somebody is seen there, or what their action brings along; 0: neither."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A story of a video: its first frame, the column where it begins, and how far the camera has panned by then."""

    first: int
    story: Story
    column: int
    pan: int
    wait: int = 0
    """Frames after the first in which nothing happens yet."""

    def t(self, number: int) -> int:
        """The frame of the story's action that a frame of the video shows; it is negative before the action."""
        return number - self.first - self.wait

    def pan_at(self, t: int) -> int:
        """How far the camera has panned at frame t of the action, or gone along with who travels."""
        panned = max(0, t) * {"pan right": PAN, "pan left": -PAN}.get(self.story.camera, 0)
        return self.pan + panned + followed(self.story, t)


def render_indices(
    story: Story, *, length: int, seed: int, start: int = 0, size: Frame = SQUARE
) -> tuple[np.ndarray, np.ndarray]:
    """Frames start .. start + length - 1 of a story's endless video; frame n depends on (story, seed, n) only.

    Returns palette indices uint8 [T, H, W] of a frame's size and what is seen in each pixel, uint8 [T, H, W]: 0 where
    nobody is, a sprite or a thing (`SPRITE`, `THING`). The seed picks whether the scene is mirrored, unless the story
    says it. Raises ValueError for a negative length or start.
    """
    if length < 0 or start < 0:
        raise ValueError(f"length {length} and start {start} must not be negative")
    return render_shown(show_script([(0, story)], size=size), range(start, start + length), seed=seed, size=size)


def render_script(
    cues: Sequence[tuple[int, Story]], *, length: int, seed: int, start: int = 0, size: Frame = SQUARE
) -> tuple[np.ndarray, np.ndarray]:
    """Frames start .. start + length - 1 of a video whose story changes: what should be seen when the prompt does.

    cues: (first frame, story), the first at 0, strictly rising. A story begins where the one before it has left off:
    its action starts anew in the column where the sprite stands, and the scene's loop goes on. Returns as
    `render_indices`; with one cue it is the same.
    """
    return render_shown(show_script(cues, size=size), range(start, start + length), seed=seed, size=size)


def render_photo(
    photo: Story,
    story: Story,
    *,
    at: int,
    held: int,
    length: int,
    seed: int,
    size: Frame = SQUARE,
    is_cut: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Frames 0 .. length - 1 of a photo that comes to life: a picture that stands still, then a story.

    photo, at: the photo is this frame of this story's video. held: how many frames it is shown. The story's action
    starts anew in the column where the photo's sprite stands. The scene's loop counts the frames of the new video, so
    it is in step with it whatever the photo shows. is_cut: as of `show_photo`. Returns as `render_indices`.
    """
    still = render_indices(photo, length=1, seed=seed, start=at, size=size)
    shown = show_photo(photo, story, at=at, held=held, size=size, is_cut=is_cut)
    alive = render_shown([shown], range(held, max(held, length)), seed=seed, size=size)
    frames, mask = (np.concatenate([np.repeat(a, held, axis=0), b])[:length] for a, b in zip(still, alive, strict=True))
    return frames, mask


def show_script(
    cues: Sequence[tuple[int, Story]], *, cuts: Collection[int] = (), size: Frame = SQUARE
) -> tuple[Shown, ...]:
    """The stories of a video as `render_script` shows them. Raises ValueError unless cues begin at 0 and rise.

    cuts: frames at which a story begins as if the video did; where the one before was in the same place, the camera
    stays where it was.
    """
    if not cues or cues[0][0] != 0 or any(b[0] <= a[0] for a, b in pairwise(cues)):
        raise ValueError(f"cues must begin at frame 0 and rise, got {[frame for frame, _ in cues]}")
    shown: list[Shown] = []
    for first, story in cues:
        if shown and first not in cuts:
            shown.append(_after(shown[-1], first, story))
        else:
            pan = _pan_in_place(shown[-1], first - 1, story) if shown else 0
            shown.append(_anew(first, story, pan, size))
    return tuple(shown)


def show_photo(photo: Story, story: Story, *, at: int, held: int, size: Frame = SQUARE, is_cut: bool = False) -> Shown:
    """The story that follows a photo as `render_photo` shows it, from frame `held` on.

    is_cut: it begins as if the video did, as of `show_script`.
    """
    (still,) = show_script([(0, photo)], size=size)
    return (
        _anew(held, story, _pan_in_place(still, at, story), size)
        if is_cut
        else replace(_after(still, at, story), first=held)
    )


def _anew(first: int, story: Story, pan: int, size: Frame) -> Shown:
    """A story that begins with frame `first` as if the video did."""
    return Shown(first, story, begins(story, size.width), pan, lead(story))


def _pan_in_place(before: Shown, number: int, story: Story) -> int:
    """How far the camera has panned where a frame of the video has shown another story; elsewhere it has not.

    Where it zooms, nobody finds it again.
    """
    is_there = all(getattr(before.story, slot) == getattr(story, slot) for slot in (*WHERE, "mirrored"))
    zooms = any(each.camera.startswith("zoom") for each in (before.story, story))
    return before.pan_at(before.t(number)) if is_there and not zooms and is_in_larger_world(story) else 0


def _after(before: Shown, first: int, story: Story) -> Shown:
    """A story that begins, with frame `first`, where the one before it has left off; who is new acts later."""
    t = before.t(first)
    column, wait = _column(before, t), 0
    if story.subject != _subject_at(before.story, t) and (wait := lead(story)):
        column = round(column / ENTRY) * ENTRY
    return Shown(first, story, column, before.pan_at(t), wait)


def render_shown(
    shown: Sequence[Shown], numbers: range, *, seed: int, size: Frame = SQUARE
) -> tuple[np.ndarray, np.ndarray]:
    """The frames of these numbers; every number belongs to the last story that begins no later.

    Returns as `render_indices`. Raises ValueError for a story that cannot be drawn.
    """
    for each in shown:
        if not can_draw(each.story):
            raise ValueError(f"{each.story.caption()}: only the storybook's own words can be drawn")
    frames = np.empty((len(numbers), size.height, size.width), np.uint8)
    mask = np.zeros_like(frames)
    for frame, marked, number in zip(frames, mask, numbers, strict=True):
        told = next(each for each in reversed(shown) if each.first <= number)
        _paint(frame, marked, told, number, seed, size)
    return frames, mask


def _column(shown: Shown, t: int) -> int:
    """The column where a story's subject stands; it is where the next story begins."""
    if is_in_larger_world(shown.story):
        return shown.column
    return pose_at(shown.story, max(0, t), shown.column).x


def _paint(frame: np.ndarray, mask: np.ndarray, shown: Shown, number: int, seed: int, size: Frame) -> None:
    """Draw one frame and its mask, both [H, W], in place."""
    story, t = shown.story, shown.t(number)
    mirrored = is_mirrored(seed) if story.mirrored is None else story.mirrored
    assert story.scene and story.sky  # a story that is drawn says where
    around = panorama(story.scene, story.sky, mirrored, size.height)
    columns = np.arange(size.width) - (size.width - SIZE) // 2 + shown.pan_at(t)
    frame[:] = around[number % len(around)][:, columns % (2 * SIZE)]
    if (zoom := zoom_at(story, t)) != 1:
        frame[:] = frame[np.ix_(*_enlarged(frame.shape, zoom, at=(size.above + BASE_ROW["ground"], size.centre)))]
    bottom = slice(size.above, None)  # actors stand in the square
    ground, marked = frame[bottom], mask[bottom]
    wet = story.sky in ("rain", "storm") and story.action == "jumps" and story.scene not in INDOORS
    actors = cast(story, t, shown.column, size.width)
    for actor in actors:
        if wet:
            _puddle(ground, actor.pose)
        paste(frame, mask, actor, above=size.above, wraps=not is_in_larger_world(story))
        if actor.pose.white:
            _sparkle(ground, marked, actor.pose, t)
        if actor.pose.sink and story.scene != "underwater":
            _flood(ground, marked, story, shown.pan_at(t))
    for actor in actors:  # what they have along tells what they do: nobody hides it
        for thing in (*actor.pose.things, *_splashes(actor.pose, wet=wet)):
            paste(frame, mask, brought(actor, thing, size.width), above=size.above, what=THING)


def shown_subject(story: Story, frame: int) -> str | None:
    """The subject that is seen in one frame of a story's video: what turns into something is that from then on."""
    return _subject_at(story, frame - lead(story))


def _subject_at(story: Story, t: int) -> str | None:
    """The subject that is seen in frame t of a story's action."""
    is_target = story.target is not None and pose_at(story, max(0, t), CENTRE).is_target
    return story.target if is_target else story.subject


def render(prompt: str, *, length: int, seed: int) -> np.ndarray:
    """RGB frames uint8 [T, 64, 64, 3] of what a prompt says (through parse)."""
    indices, _ = render_indices(parse(prompt).story, length=length, seed=seed)
    rgb: np.ndarray = PALETTE[indices]  # [T, 64, 64, 3]
    return rgb


def check_drawings() -> None:
    """Raise ValueError unless vocabulary and drawings name the same subjects, scenes and actions."""
    subjects = [name for name in DRAWINGS if not name.startswith("* ")]
    for what, words, drawn in (
        ("subject", VOCABULARY.subjects, subjects),
        ("scene", VOCABULARY.scenes, SCENES),
        ("action", VOCABULARY.actions, MOTIONS),
    ):
        if lost := set(words) ^ set(drawn):
            raise ValueError(f"{what}s in only one of vocabulary.toml and the drawings: {', '.join(sorted(lost))}")


def can_draw(story: Story) -> bool:
    """Whether there is a drawing for each of a story's words."""
    subjects = {story.subject, story.target, story.other} - {None}
    colours = {story.colour, story.other_colour} <= VOCABULARY.colour.keys()
    return colours and story.scene in SCENES and story.action in MOTIONS and subjects <= DRAWINGS.keys()


def is_mirrored(seed: int) -> bool:
    """Whether a seed's videos have the scene mirrored: one in two."""
    mixed = (int(seed) * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) % 2**64
    mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    return bool(mixed >> 63)


@lru_cache(maxsize=16384)
def _coloured(subject: str, colour: str, look: Pose) -> tuple[np.ndarray, np.ndarray]:
    """Palette indices uint8 [h, w] and mask bool [h, w] of a sprite that looks like a pose; its place plays no part."""
    materials = sprite(subject, look.phase, look.scale_step, look.squash_step, look.blinks)
    if look.breathes and len(materials):
        materials = np.delete(materials, len(materials) * 3 // 5, axis=0)
    if look.lies:
        materials = np.rot90(materials)
    if look.faces_left:
        materials = materials[:, ::-1]
    mask = materials != EMPTY
    cells = material_table(subject, colour)[materials]
    if look.white:
        inner = np.pad(mask, 1)
        inner = inner[:-2, 1:-1] & inner[2:, 1:-1] & inner[1:-1, :-2] & inner[1:-1, 2:]
        cells = np.where(inner, np.uint8(ink("white.light")), np.uint8(ink("outline")))
    return cells, mask


def coloured(actor: Actor) -> tuple[np.ndarray, np.ndarray]:
    """Palette indices uint8 [h, w] of an actor, and a mask bool [h, w] of where it is."""
    return _coloured(actor.subject, actor.colour, actor.pose.look())


def corner(actor: Actor) -> tuple[int, int]:
    """The row and the column, in the square, of the top left of what `coloured` returns."""
    height, width = coloured(actor)[1].shape
    known = VOCABULARY.subject.get(actor.subject)  # what an action brings along is no subject
    base = BASE_ROW[known.altitude if known else "ground"]
    return base + 1 - height - actor.pose.rise, actor.pose.x - width // 2


def paste(
    frame: np.ndarray, mask: np.ndarray, actor: Actor, *, above: int = 0, wraps: bool = False, what: int = SPRITE
) -> None:
    """Draw an actor into frame and mask, both [H, W], in place.

    above: rows above the square that it stands in. wraps: what leaves on one side enters on the other.
    """
    cells, solid = coloured(actor)
    height, width = cells.shape
    top, left = corner(actor)
    top, wide = above + top, frame.shape[1]
    hidden = max(0, -top)  # rows above the frame
    for edge in (left, left - wide, left + wide) if wraps else (left,):
        first, last = max(0, edge), min(wide, edge + width)
        if first < last and hidden < height:
            part = (slice(hidden, None), slice(first - edge, last - edge))
            place = (slice(top + hidden, top + height), slice(first, last))
            rows = len(frame[place])  # rows below the frame are not painted
            part = (slice(hidden, hidden + rows), part[1])
            np.copyto(frame[place], cells[part], where=solid[part])
            mask[place][solid[part]] = what


def brought(actor: Actor, thing: Thing, width: int) -> Actor:
    """What an actor brings along, as an actor: in its own colours, as much smaller as the actor is, but no larger.

    It is whole in a frame of this width, if there is room for it where its actor stands.
    """
    pose = actor.pose
    factor = pose.scale_step / SCALE_STEPS
    size = max(6, round(thing.scale_step * min(1, factor)))
    half = half_width(thing.name, size)
    reach = half_width(actor.subject, pose.scale_step) + round(thing.ahead * factor) + half // 2
    x = pose.x + on_cells(reach) * (-1 if pose.faces_left else 1)
    if half <= pose.x <= width - half:
        x = min(max(x, -(-half // CELL) * CELL), (width - half) // CELL * CELL)
    altitude = BASE_ROW["ground"] - BASE_ROW[VOCABULARY.subject[actor.subject].altitude]
    highest = (BASE_ROW["ground"] - size - altitude) // CELL * CELL
    return Actor(
        thing.name,
        "natural",
        Pose(
            x=x,
            rise=min(on_cells(thing.rise * factor), highest) + altitude,
            phase=thing.phase,
            scale_step=size,
            faces_left=pose.faces_left and not thing.name.startswith("* "),
        ),
    )


def _splashes(pose: Pose, *, wet: bool) -> tuple[Thing, ...]:
    """Water that splashes on both sides of somebody who comes down in a puddle."""
    if not wet or pose.rise > 6:
        return ()
    return Thing("* splash", 16, -6, 0, pose.phase), Thing("* splash", 16, -34, 0, pose.phase + 2 & 3)


def _puddle(frame: np.ndarray, pose: Pose) -> None:
    rows, columns = np.ogrid[: frame.shape[0], : frame.shape[1]]
    half = 20 * pose.scale_step / SCALE_STEPS
    water = ((columns + 0.5 - pose.x) / half) ** 2 + ((rows + 0.5 - BASE_ROW["ground"]) / 4) ** 2 <= 1
    frame[water] = ink("sea")


def _flood(frame: np.ndarray, mask: np.ndarray, story: Story, pan: int) -> None:
    """Water over the lower part of a frame, with crests that go by, in place; what is under it is no sprite."""
    sea, crest = (ink_under(story.sky or "day", name) for name in ("sea", "sky"))
    frame[WATERLINE:] = sea
    mask[WATERLINE:] = 0
    columns = np.arange(frame.shape[1]) - (frame.shape[1] - SIZE) // 2
    for row, start in ((WATERLINE, 0), (WATERLINE + 6, 9), (WATERLINE + 11, 4)):
        frame[row : row + 2, (columns - start + pan) % 16 < 8] = crest


def _enlarged(shape: Sequence[int], size: float, *, at: tuple[int, int]) -> Iterator[np.ndarray]:
    """Which rows, and which columns, are seen in a frame that is enlarged about a row and a column that stay."""
    for centre, side in zip(at, shape, strict=True):
        yield np.floor(centre + (np.arange(side) + 0.5 - centre) / size).astype(int)


def _sparkle(frame: np.ndarray, mask: np.ndarray, pose: Pose, t: int) -> None:
    """Small crosses round a changing sprite, in place; they count as sprite."""
    glow, top = ink("yellow.light"), BASE_ROW["ground"] - 38
    for dx, dy, arm in SPARKLES[(t - FLASH) % 2 :: 2] if t < CHANGE else SPARKLES:
        x, y = pose.x + dx, top + dy
        upright = range(y - arm, y + arm + 2), range(x, x + 2)
        level = range(y, y + 2), range(x - arm, x + arm + 2)
        for rows, columns in (upright, level):
            place = np.ix_(rows, [column % frame.shape[1] for column in columns])
            frame[place] = glow
            mask[place] = SPRITE


check_drawings()
