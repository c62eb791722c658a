"""Whether prompt changes take hold: videos whose prompt changes once, made in each of the ways that a script offers.

Beside them stand the same videos without a change ("none": what the judge would call changed by mistake), and what
should be seen ("drawn", and "drawn cut" where the video begins anew): the judge's own ceiling.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from causvid_cli import storybook
from causvid_cli.evaluate.clip_sources import EvalClip
from causvid_cli.evaluate.experiments import Experiment, OnMade, TrialMaker, as_drawn, keep_strips
from causvid_cli.evaluate.pixel_match import both_ways
from causvid_cli.evaluate.prompts import sample_stories
from causvid_cli.evaluate.results_folder import Folder, Record
from causvid_cli.evaluate.seen import WINDOW, asked_late
from causvid_cli.geometry import ChunkGrid
from causvid_cli.prompt.cues import Cue
from causvid_cli.storybook import FIRST_WORDS, Shown, Story, Words

PARTS = ("subject", "colour", "scene", "action")
KINDS = (*PARTS, *PARTS, "all")
"""What changes from script to script, over and over."""
SETTLED = 2
"""Chunks after the cue from which on the new story is judged."""
BLEND = 1
"""Chunks that a blend lasts."""
NONE, CUT, DRAWN, DRAWN_CUT = "none", "cut", "drawn", "drawn cut"
WAYS: Mapping[str, Cue | None] = {
    NONE: None,
    "recache": Cue(prompt="_", transition="recache"),
    "soft": Cue(prompt="_", transition="soft"),
    "blend": Cue(prompt="_", transition="recache", blend_chunks=BLEND),
    CUT: Cue(prompt="_", transition="cut"),
}
"""The second cue of each way; its prompt and start are filled in later."""


@dataclass(frozen=True, slots=True)
class SwitchScript:
    """A story, and another that holds after it. kind: what changes, one of KINDS."""

    kind: str
    before: Story
    after: Story

    @property
    def changed(self) -> tuple[str, ...]:
        """Attributes by which later frames of the two differ."""
        return changed_words(self.before, self.after)


def scripts(count: int, words: Words = FIRST_WORDS) -> tuple[SwitchScript, ...]:
    """Always the same; a smaller count is the beginning of a larger one. All stories are held out of training.

    words: what can be told.
    """
    rng = np.random.default_rng((0, 5))
    found: dict[SwitchScript, None] = {}
    while len(found) < count:
        found[_script(KINDS[len(found) % len(KINDS)], rng, words)] = None
    return tuple(found)


def _script(kind: str, rng: np.random.Generator, words: Words) -> SwitchScript:
    while True:
        (before,) = sample_stories(rng, 1, words, held_out=True)
        for after in _others(before, kind, rng, words) if before.target is None else ():
            if _is_clear(kind, before, after):
                return SwitchScript(kind, before, after)


def _others(story: Story, kind: str, rng: np.random.Generator, words: Words) -> Iterator[Story]:
    """Stories that differ from this one in one part, in random order, or in all."""
    if kind == "all":
        yield from sample_stories(rng, 1, words, held_out=True)
        return
    for name in rng.permutation(words[kind]).tolist():
        changes = {kind: name}
        if name == "turns into":
            changes["target"] = str(rng.choice([other for other in FIRST_WORDS["subject"] if other != story.subject]))
        if kind != "action" or name != story.action:
            yield replace(story, **changes)


def _is_clear(kind: str, before: Story, after: Story) -> bool:
    """Whether a script of two held-out stories changes what it should, in frames and in words, and nothing else."""
    if not storybook.held_out(after) or (after.target is not None and kind != "action"):
        return False
    wanted = {"all": [set(PARTS)], "action": [{"action"}, {"subject"}, {"subject", "action"}]}.get(kind, [{kind}])
    told = storybook.parse(after.caption(), before).story  # what it leaves unsaid is as before
    is_said = after.colour != "natural" or before.colour == "natural"
    return set(changed_words(before, after)) in wanted and told == after and is_said


def changed_words(before: Story, after: Story) -> tuple[str, ...]:
    """Attributes by which later frames of two stories differ."""
    old, new = asked_late(before, FIRST_WORDS), asked_late(after, FIRST_WORDS)
    return tuple(name for name in PARTS if old.get(name) != new.get(name))


@dataclass(frozen=True, slots=True)
class Times:
    """Where things lie in a video, in frames.

    chunk: number of the chunk that the cue begins. edges: first frames of the chunks from there on.
    """

    cue: int
    chunk: int
    settled: int
    frames: int
    edges: tuple[int, ...]

    @classmethod
    def of(cls, grid: ChunkGrid) -> "Times":
        """The cue comes when the judge has seen the first story, and the video ends when it has seen the second."""
        chunk = next(chunk.index for chunk in grid.chunks(None) if grid.first_frame(chunk.index) >= WINDOW)
        settled = grid.first_frame(chunk + SETTLED)
        starts = [grid.first_frame(each.index) for each in grid.chunks(settled + WINDOW)]
        return cls(starts[chunk], chunk, settled, settled + WINDOW, tuple(starts[chunk:]))


def experiment(trials: TrialMaker) -> Experiment:
    """Scripts, each made in all WAYS."""
    times, of = Times.of(trials.student.plan(length="1f").grid), scripts(trials.request.count, trials.first_words)

    def measure(trials: TrialMaker, folder: Folder, numbers: Sequence[int], on_made: OnMade) -> list[Record]:
        return measure_scripts(trials, folder, numbers, [of[number] for number in numbers], times, on_made)

    about = {
        "frames": times.frames,
        "cue_s": times.cue / float(trials.student.fps),
        "settled_s": times.settled / float(trials.student.fps),
        "blend_chunks": BLEND,
    }
    return Experiment(about=about, frames=len(WAYS) * times.frames, measure=measure)


def measure_scripts(
    trials: TrialMaker,
    folder: Folder,
    numbers: Sequence[int],
    of: Sequence[SwitchScript],
    times: Times,
    on_made: OnMade,
) -> list[Record]:
    """A record of each script: what the judge sees of every way, and how far its pixels are as drawn."""
    clips = [trials.clip(number, script.before.caption()) for number, script in zip(numbers, of, strict=True)]
    ways: list[dict[str, Record]] = [{} for _ in of]

    def look(way: str, indices: np.ndarray, seen_as: Sequence[str]) -> None:
        keep_strips(trials, folder, way, "switches", numbers, indices)
        shown = [stories(script, seen, times) for script, seen in zip(of, seen_as, strict=True)]
        windows = {start: indices[:, start : start + WINDOW] for start in (0, times.settled)}
        before, after = (trials.windows(window, start, shown) for start, window in windows.items())
        for row, looks in enumerate(zip(before, after, strict=True)):
            ways[row][way] = {"windows": dict(zip(("before", "after"), looks, strict=True))}

    unchanged: list[Tensor] = []
    for way, second in WAYS.items():
        told = [cues(script, second, times.chunk) for script in of]
        latents, made = trials.make(clips, told, frames=times.frames)
        takes_hold = [trials.track(own, seed=clip.seed).transitions for own, clip in zip(told, clips, strict=True)]
        seen_as = [CUT if "cut" in each else way for each in takes_hold]
        look(way, made, seen_as)
        for row, (script, seen, indices) in enumerate(zip(of, seen_as, made, strict=True)):
            ways[row][way] |= likeness(script, seen, indices, times)
            if unchanged:
                old = zip(latents[: times.chunk], unchanged, strict=True)
                ways[row][way]["same_before"] = all(torch.equal(x0[row], same[row]) for x0, same in old)
        unchanged = unchanged or latents[: times.chunk]
        on_made(made.shape[0] * made.shape[1])
    for way in (DRAWN, DRAWN_CUT):
        drawn = [draw(script, way, times, clip.seed) for script, clip in zip(of, clips, strict=True)]
        look(way, np.stack(drawn), [way] * len(of))
    return [record(script, clip, seen) for script, clip, seen in zip(of, clips, ways, strict=True)]


def record(script: SwitchScript, clip: EvalClip, ways: Record) -> Record:
    """What is kept of one script."""
    return {
        "maker": "student",
        **clip.identity,
        "kind": script.kind,
        "prompt": script.before.caption(),
        "then": script.after.caption(),
        "changed": script.changed,
        "ways": ways,
    }


def cues(script: SwitchScript, second: Cue | None, chunk: int) -> list[Cue]:
    first = Cue(prompt=script.before.caption())
    return [first] if second is None else [first, replace(second, prompt=script.after.caption(), start_chunk=chunk)]


def stories(script: SwitchScript, way: str, times: Times) -> tuple[Shown, ...]:
    """The stories that a video should show; where no change is made, what would be seen if it were."""
    cuts = (times.cue,) if way in (CUT, DRAWN_CUT) else ()
    return storybook.show_script([(0, script.before), (times.cue, script.after)], cuts=cuts)


def draw(script: SwitchScript, way: str, times: Times, seed: int) -> np.ndarray:
    """What should be seen, palette entries [T, H, W]. Of a blend the new story is taken to begin at the cue."""
    if way == NONE:
        return storybook.render_indices(script.before, length=times.frames, seed=seed)[0]
    return storybook.render_shown(stories(script, way, times), range(times.frames), seed=seed)[0]


def likeness(script: SwitchScript, way: str, indices: np.ndarray, times: Times) -> Record:
    """How far a video's pixels are as drawn: before the cue, from SETTLED chunks after it on, and chunk by chunk.

    Which way the scene faces is free at the beginning; after the cue only where the scene is a new one.
    """
    shares = [as_drawn(indices, draw(script, way, times, seed)) for seed in both_ways()]
    old, new = ([share[part] for share in shares] for part in (slice(times.cue), slice(times.cue, None)))
    faces = max(range(len(shares)), key=lambda face: float(old[face].sum()))
    free = way == CUT or (way != NONE and "scene" in script.changed)
    after = max(new, key=lambda share: float(share.sum())) if free else new[faces]
    parts = np.split(after, [edge - times.cue for edge in times.edges[1:]])
    return {
        "drawn_before": float(old[faces].mean()),
        "drawn": float(after[times.settled - times.cue :].mean()),
        "drawn_chunks": [float(part.mean()) for part in parts],
    }
