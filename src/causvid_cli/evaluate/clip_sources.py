"""Who makes the clips of an evaluation, several at once, and hands them over part by part."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, repeat

import numpy as np
import torch
from torch import Tensor

from causvid_cli import storybook
from causvid_cli.codec import Codec
from causvid_cli.codec.condition import encode_prefix
from causvid_cli.codec.pixel import PixelCodec
from causvid_cli.errors import NumericsError
from causvid_cli.geometry import Chunk
from causvid_cli.network.cache import PromptCache
from causvid_cli.pipeline import Pipeline
from causvid_cli.prompt.cues import Cue
from causvid_cli.prompt.encoded import EncodedPrompt
from causvid_cli.prompt.track import PromptTrack
from causvid_cli.request import Transition
from causvid_cli.sampling.drawings import LastShown
from causvid_cli.sampling.noise import Noise, seeded_noise
from causvid_cli.sampling.rollout import rollout
from causvid_cli.sampling.schedule import sampler_sigmas
from causvid_cli.storybook import Story
from causvid_cli.teacher import Teacher, denoise_whole


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalClip:
    """One clip to be made: what `causvid t2v PROMPT --seed SEED` makes."""

    group: str
    number: int
    """Position of its prompt in the group."""
    take: int
    """Position among the clips of this prompt."""
    seed: int
    encoded: EncodedPrompt

    @property
    def identity(self) -> dict[str, str | int]:
        """What a record says of which clip it is."""
        return {"group": self.group, "number": self.number, "take": self.take, "seed": self.seed}

    @property
    def prompt(self) -> str:
        return self.encoded.prompt

    @property
    def story(self) -> Story | None:
        """What a storybook model reads in the prompt, if it finds a subject."""
        reading = self.encoded.reading
        return reading if isinstance(reading, Story) and reading.subject is not None else None


@dataclass(frozen=True, slots=True)
class ClipFrames:
    """The next frames of several clips: uint8 RGB [B, T, H, W, 3] and, from a pixel codec, palette entries."""

    frames: np.ndarray
    indices: np.ndarray | None
    """uint8 [B, T, H, W]."""


Make = Callable[[Sequence[EvalClip], int], Iterator[ClipFrames]]
"""(clips, frames of each) -> their parts, oldest first."""


def student_maker(student: Pipeline) -> Make:
    """Clips of the student, all in one roll-out."""

    @torch.inference_mode()
    def make(clips: Sequence[EvalClip], frames: int) -> Iterator[ClipFrames]:
        cues = [[Cue(prompt=clip.prompt)] for clip in clips]
        yield from decoded(student.codec, together(student, clips, cues, frames=frames), clips=clips, frames=frames)

    return make


@torch.inference_mode()
def together(
    student: Pipeline,
    clips: Sequence[EvalClip],
    cues: Sequence[Sequence[Cue]],
    *,
    frames: int,
    given: Sequence[np.ndarray] = (),
) -> Iterator[Tensor]:
    """Latents x0 [B, C, f, h, w], chunk by chunk, of videos whose prompts take hold in the same way, in one roll-out.

    cues: of each clip, at the same chunks. given: frames [T, H, W, 3] that each begins with, as many for all; their
    latents come first.
    """
    pictures = [pictures[-1] for pictures in given] or repeat(None, len(clips))
    tracks = [
        student.track(own, seed=clip.seed, guidance=1.0, picture=picture)
        for clip, own, picture in zip(clips, cues, pictures, strict=True)
    ]
    rows: dict[tuple[bool, tuple[Transition, ...]], list[int]] = {}
    for row, track in enumerate(tracks):
        rows.setdefault((track.begins_anew, track.transitions), []).append(row)
    order = torch.tensor([row for alike in rows.values() for row in alike]).argsort()
    every = [
        _roll_out(
            student,
            [clips[row] for row in alike],
            Tracks([tracks[row] for row in alike]),
            frames=frames,
            given=[given[row] for row in alike] if given else (),
        )
        for alike in rows.values()
    ]
    for parts in zip(*every, strict=True):
        yield torch.cat(parts)[order]


def _roll_out(
    student: Pipeline,
    clips: Sequence[EvalClip],
    told: "Tracks",
    *,
    frames: int,
    given: Sequence[np.ndarray],
) -> Iterator[Tensor]:
    """`together`, of clips whose prompts take hold alike."""
    model, codec = student.model, student.codec
    held = len(given[0]) if given else 0
    plan = student.plan(length=f"{frames}f", seed=0, prefix_frames=held, shows_given=True)
    cells = {"latent_height": plan.geometry.latent_height, "latent_width": plan.geometry.latent_width}
    prefix = _prefixes(student, given)
    recomputed, state = student.recompute_context(plan), codec.decode_state()
    noise = own_noise(clips, channels=codec.facts.latent_channels, device=student.device, **cells)
    made = rollout(
        model,
        prompt=told.prompt,
        steps=student.steps_of(plan),
        cache=student.kv_cache(plan, batch=len(clips)),
        chunks=plan.chunks,
        noise=noise,
        writer=student.context_writer(plan.steps_of, noise),
        opening=student.opening(plan, batch=len(clips)),
        switch=told.transition,
        prefix=[] if told.begins_anew else prefix,
        last_shown=told.last_shown(prefix[-1][1]) if told.begins_anew else None,
        recompute_context=recomputed,
    )
    for chunk, x0 in chain(prefix, made):
        if recomputed:
            recomputed.show(codec.decode_chunk(x0, state=state), start_frame=chunk.start_frame, count=chunk.frames)
        yield x0


def _prefixes(student: Pipeline, given: Sequence[np.ndarray]) -> list[tuple[Chunk, Tensor]]:
    """The given frames of all clips -> (chunk, x0 [B, C, f, h, w])."""
    alone = [encode_prefix(student.codec, each, student.facts.chunk_frames, device=student.device) for each in given]
    return [(same[0][0], torch.cat([x0 for _, x0 in same])) for same in zip(*alone, strict=True)]


class Tracks:
    """The prompts of several clips as one: what each is told when it is made alone."""

    def __init__(self, tracks: Sequence[PromptTrack]) -> None:
        self._tracks = tracks
        self._parts: list[PromptCache] = []
        self._told: PromptCache | None = None

    def prompt(self, chunk: Chunk) -> PromptCache:
        """What the network is told; the same object as long as it is the same for all."""
        parts = [track.prompt(chunk) for track in self._tracks]
        if self._told is None or any(new is not old for new, old in zip(parts, self._parts, strict=True)):
            self._parts, self._told = parts, PromptCache.batch(parts)
        return self._told

    @property
    def begins_anew(self) -> bool:
        return self._tracks[0].begins_anew

    def last_shown(self, given: Tensor) -> LastShown | None:
        """What was told of the latents [B, C, f, h, w] that came before the first chunks."""
        told = [known for track in self._tracks if (known := track.told_before)]
        return LastShown(PromptCache.batch(told), given[:, :, -1:]) if len(told) == len(self._tracks) else None

    def transition(self, chunk: Chunk) -> Transition:
        return self._tracks[0].transition(chunk)


def teacher_maker(teacher: Teacher) -> Make:
    """Clips of the teacher, all solved together."""
    facts, codec = teacher.facts, teacher.codec

    @torch.inference_mode()
    def make(clips: Sequence[EvalClip], frames: int) -> Iterator[ClipFrames]:
        latent_frames = codec.facts.latent_frames(frames)
        x0 = denoise_whole(
            teacher.model,
            torch.cat([teacher.start_noise(latent_frames, batch=1, seed=clip.seed) for clip in clips]),
            embeds(clips),
            teacher.text.empty(),
            sigmas=sampler_sigmas(facts.teacher_steps, shift=facts.teacher_shift),
            guidance=facts.teacher_guidance,
        )
        yield from decoded(codec, x0.split(1, dim=2), clips=clips, frames=frames)

    return make


def renderer(clips: Sequence[EvalClip], frames: int) -> Iterator[ClipFrames]:
    """The storybook itself: clips as they should be. The seed mirrors the scene or does not, as in training."""
    yield painted(np.stack([_rendered(clip, frames) for clip in clips]))


def codec_maker(codec: PixelCodec, *, device: torch.device) -> Make:
    """The storybook's clips after the codec: the best that any network could do through it."""

    @torch.inference_mode()
    def make(clips: Sequence[EvalClip], frames: int) -> Iterator[ClipFrames]:
        whole = codec.facts.latent_frames(frames) * codec.stack
        x0 = [codec.encode_indices(torch.from_numpy(_rendered(clip, whole))[None].to(device)) for clip in clips]
        yield from decoded(codec, torch.cat(x0).split(1, dim=2), clips=clips, frames=frames)

    return make


def _rendered(clip: EvalClip, frames: int) -> np.ndarray:
    assert isinstance(clip.encoded.reading, Story)
    indices, _ = storybook.render_indices(clip.encoded.reading, length=frames, seed=clip.seed)
    return indices


def embeds(clips: Sequence[EvalClip]) -> Tensor:
    """Text features [B, L, D]."""
    return torch.cat([clip.encoded.embeds for clip in clips])


def own_noise(
    clips: Sequence[EvalClip], *, channels: int, latent_height: int, latent_width: int, device: torch.device
) -> Noise:
    """To each clip the noise that it has when it is made alone."""
    shape = {"channels": channels, "latent_height": latent_height, "latent_width": latent_width, "device": device}
    draws = [seeded_noise(clip.seed, batch=1, **shape) for clip in clips]  # type: ignore[arg-type]

    def draw(chunk: Chunk, step: int) -> Tensor:
        return torch.cat([own(chunk, step) for own in draws])

    return draw


def decoded(codec: Codec, chunks: Iterable[Tensor], *, clips: Sequence[EvalClip], frames: int) -> Iterator[ClipFrames]:
    """Parts of clips from their latents [B, C, f, h, w], cut to so many frames. Raises NumericsError."""
    state, made = codec.decode_state(), 0
    for x0 in chunks:
        if not torch.isfinite(x0).all():
            bad = next(clip for clip, latent in zip(clips, x0, strict=True) if not torch.isfinite(latent).all())
            raise NumericsError(f"{bad.prompt!r} with seed {bad.seed} is not finite; try --dtype float32")
        if isinstance(codec, PixelCodec):
            part = painted(codec.decode_indices(x0)[:, : frames - made].cpu().numpy(), codec.palette.cpu().numpy())
        else:
            part = ClipFrames(codec.decode_chunk(x0, state=state)[:, : frames - made].cpu().numpy(), None)
        made += part.frames.shape[1]
        yield part


def painted(indices: np.ndarray, palette: np.ndarray = storybook.PALETTE) -> ClipFrames:
    """A part from its palette entries uint8 [B, T, H, W]."""
    return ClipFrames(palette[indices], indices)
