"""Stage `prepare`: clips, rendered or the user's own, encoded once and kept as sharded safetensors."""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import partial
from itertools import accumulate, groupby
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from causvid_cli.codec import Codec
from causvid_cli.codec.pixel import PixelCodec
from causvid_cli.errors import MediaError, NumericsError, UsageError
from causvid_cli.prompt.story import StoryText
from causvid_cli.storybook import ALL_ROUND, SQUARE, TALL, TALL_ALL_ROUND, WIDE, Frame, Words
from causvid_cli.train import story_clips
from causvid_cli.train.captions import VideoProblem
from causvid_cli.train.dataset import Batch, LatentClips
from causvid_cli.train.prompt_table import PromptTable
from causvid_cli.train.shards import save_shard, shard_about
from causvid_cli.train.trainer import Report
from causvid_cli.train.videos import PlannedVideo, VideoPlan, read_clips, write_damaged

SHARD_CLIPS = 500
SHARD_BYTES = 64 * 2**20
"""Latents of videos in one file: what is lost when a run is killed."""
NEW_SHARE = 0.1
"""A latent cell is new when more of its pixels come out wrong."""
LATE_EVERY = 5
"""One shard in so many holds clips that begin later in their video, as a sliding window sees it."""
LATE_SWITCHES = 0.6
"""How many of the clips whose prompt changes begin later in their video."""
PHOTO_CHUNKS = 0.7
"""How many photos are held for a chunk; the others for one latent frame."""

Kind = Literal["plain", "late", "switch", "photo", "unnamed", "bare"]
"""What a storybook clip is: from its video's beginning, from the middle, with a prompt that changes, from a photo, with
a prompt that does not name its subject, with nobody in it."""


@dataclass(frozen=True, slots=True)
class Shard:
    """Clips that go into one file, not made yet. make: its number -> tensors, and what could not be used."""

    clips: int
    make: Callable[[int], tuple[dict[str, Tensor], list[VideoProblem]]]


@torch.no_grad()
def prepare(
    folder: Path,
    codec: Codec,
    text: StoryText | PromptTable,
    *,
    clips: int = 0,
    switches: int = 0,
    photos: int = 0,
    unnamed: int = 0,
    latent_frames: int = 8,
    long: int = 0,
    long_latent_frames: int = 20,
    wide: int = 0,
    tall: int = 0,
    all_round: int = 0,
    chunk_frames: int = 1,
    same_shot: bool = False,
    turns: bool = False,
    videos: VideoPlan | None = None,
    known: PixelCodec | None = None,
    device: torch.device,
    seed: int = 0,
    report: Report | None = None,
    note: Callable[[str], None] | None = None,
) -> LatentClips:
    """Encode what is still missing, shard by shard, and return it all.

    videos: the user's clips; they come first. known: a codec; what it cannot show of them is new, and counts as much as
    a sprite. clips: storybook clips of one story, a fifth of which begin late.
    switches: those whose prompt changes on the way, between chunks of `chunk_frames`. photos: those that begin with a
    photo, held for a chunk or for one latent frame. unnamed: those whose prompt does not name its subject. long:
    further ones of one story, of `long_latent_frames`. wide, tall: further ones of one story in such frames. all_round:
    those of scenes with nobody in them, all round. same_shot: whether prompts that change on the way, or after a photo,
    tell of another action only. turns: as of `story_clips.opening_weight`.
    report: a row after each shard, with the `total` of clips. note: takes what the user should know of the videos.
    Raises OutputError when the disk is full, MediaError when too many videos are damaged; finished shards stay.
    """
    shards: list[Shard] = []
    if videos:
        shards += video_shards(videos, codec, text, known=known, device=device)
    if clips or switches or photos or unnamed or long or wide or tall or all_round:
        if not isinstance(codec, PixelCodec) or not isinstance(text, StoryText):
            raise UsageError("clips: storybook clips are for models with the pixel codec and storybook's own text")
        shards += story_shards(
            codec,
            text,
            clips=clips,
            switches=switches,
            photos=photos,
            unnamed=unnamed,
            latent_frames=latent_frames,
            long=long,
            long_latent_frames=long_latent_frames,
            wide=wide,
            tall=tall,
            all_round=all_round,
            chunk_frames=chunk_frames,
            same_shot=same_shot,
            turns=turns,
            device=device,
            seed=seed,
        )
    done, total, problems = 0, sum(shard.clips for shard in shards), list[VideoProblem]()
    for number, shard in enumerate(shards):
        path = folder / f"clips-{number:05d}.safetensors"
        if path.exists():
            found = [VideoProblem(**entry) for entry in shard_about(path) or ()]
        else:
            tensors, found = shard.make(number)
            save_shard(tensors, path, [asdict(problem) for problem in found])
        problems += found
        if found and videos:
            write_damaged(folder, videos, problems)
            videos.check(problems)
        done += shard.clips
        if report:
            report({"step": number + 1, "clips": done, "total": total})
    if note and videos:
        for line in videos.notes(folder, problems):
            note(line)
    return LatentClips(folder)


def video_shards(
    plan: VideoPlan,
    codec: Codec,
    text: StoryText | PromptTable,
    *,
    known: PixelCodec | None = None,
    device: torch.device,
) -> Iterator[Shard]:
    """Yield the user's videos in shards, each of one size and, a last video aside, of limited bytes."""
    for (width, height), same_size in groupby(plan.videos, key=lambda video: video.size):
        cells = (height // codec.facts.spatial_factor) * (width // codec.facts.spatial_factor)
        clip_bytes = 2 * codec.facts.latent_channels * plan.latent_frames * cells
        most, videos = max(1, min(SHARD_CLIPS, SHARD_BYTES // clip_bytes)), list(same_size)
        while videos:
            ends = list(accumulate(len(video.clips) for video in videos))
            count = max(1, bisect_right(ends, most))
            part, videos = videos[:count], videos[count:]
            make = partial(_encode_videos, part, plan, codec, text, known, device)
            yield Shard(ends[count - 1], make)


def _encode_videos(
    videos: Sequence[PlannedVideo],
    plan: VideoPlan,
    codec: Codec,
    text: StoryText | PromptTable,
    known: PixelCodec | None,
    device: torch.device,
    number: int,
) -> tuple[dict[str, Tensor], list[VideoProblem]]:
    """Return the latents of some videos of one size, and problems; one that breaks on the way is left out whole."""
    width, height = videos[0].size
    factor, fps = codec.facts.spatial_factor, Fraction(plan.fps)
    x0 = [torch.empty(0, codec.facts.latent_channels, plan.latent_frames, height // factor, width // factor)]
    sprite = [torch.empty(0, *x0[0].shape[2:], dtype=torch.uint8)]
    first_predictable_frames, captions, problems = list[int](), list[str](), list[VideoProblem]()
    for video in videos:
        if not Path(video.path).exists():  # not the video's fault: a drive that is not there, say
            raise MediaError(f"{video.path}: has gone since its clips were planned; bring it back")
        latents, new = dict[int, Tensor](), dict[int, Tensor]()
        try:
            for start, clip in zip(video.starts, read_clips(video, frames=plan.frames, fps=fps), strict=True):
                pixels = torch.from_numpy(clip).unsqueeze(0).to(device)
                latents[start] = codec.encode_chunk(pixels, state=codec.encode_state()).cpu()
                new[start] = new_cells(pixels, known).cpu() if known else torch.zeros_like(latents[start][:, 0]).byte()
        except MediaError as error:
            problems.append(VideoProblem(video.path, str(error).removeprefix(f"{video.path}: ")))
            continue
        for start, caption in video.clips:
            x0.append(latents[start])
            sprite.append(new[start])
            first_predictable_frames.append(
                int(start > 0)
            )  # what a clip from within a video begins with, nothing foretells
            captions.append(caption)
    joined = torch.cat(x0).half()
    if not joined.isfinite().all():
        raise NumericsError(f"latents of {videos[0].path} or of those after it are not finite")
    tensors = {
        "x0": joined,
        "rows": text.caption_rows(captions).view(len(captions), -1) if captions else text.empty_rows(0),
        "sprite": torch.cat(sprite),
        "known_from": torch.tensor(first_predictable_frames, dtype=torch.long),
        "share": torch.full((len(captions),), plan.weight),
    }
    return tensors, problems


def new_cells(pixels: Tensor, known: PixelCodec) -> Tensor:
    """Return which latent cells of clips uint8 [B, T, H, W, 3] a codec cannot show: uint8 [B, T / stack, h, w]."""
    indices = known.nearest_entries(pixels)
    wrong = known.decode_indices(known.encode_indices(indices)) != indices
    factor = known.facts.spatial_factor
    return (F.avg_pool3d(wrong.float(), (known.stack, factor, factor)) > NEW_SHARE).byte()


def story_shards(
    codec: PixelCodec,
    text: StoryText,
    *,
    clips: int,
    switches: int,
    photos: int,
    unnamed: int,
    latent_frames: int,
    long: int,
    long_latent_frames: int,
    wide: int,
    tall: int,
    all_round: int,
    chunk_frames: int,
    same_shot: bool,
    turns: bool = False,
    device: torch.device,
    seed: int,
) -> Iterator[Shard]:
    """Yield storybook clips in shards; what is in one depends on (seed, its number) and its place among these only."""

    def make(
        kind: Kind, count: int, frames: int, number: int, *, size: Frame = SQUARE
    ) -> tuple[dict[str, Tensor], list[VideoProblem]]:
        rng = np.random.default_rng((seed, number))
        first_predictable_frames = sample_first_predictable_frames(
            rng, kind, count, frames=frames, chunk_frames=chunk_frames
        )
        batch = _sample(
            rng,
            kind,
            first_predictable_frames,
            text.words,
            length=frames * codec.stack,
            stack=codec.stack,
            step=chunk_frames,
            same_shot=same_shot,
            pictures=text.pictures,
            size=size,
        )
        tensors = {
            "x0": torch.cat([encode_clip(codec, clip.to(device)) for clip in batch.indices]).half().cpu(),
            "rows": text.rows(batch.stories),
            "sprite": most_seen(batch.mask, stack=codec.stack, factor=codec.facts.spatial_factor),
            "known_from": torch.tensor(first_predictable_frames),
            "share": torch.tensor(
                [
                    story_clips.sampling_weight(story, late=kind == "late")
                    if frames > chunk_frames
                    else story_clips.opening_weight(story, turns=turns, all_round=kind == "bare")
                    for story in batch.stories
                ]
            ),
        }
        return tensors, []

    few = min(SHARD_CLIPS, -(-clips // LATE_EVERY))  # a few clips, too, are in enough shards for some to begin late
    for index, count in enumerate(_parts(clips, few)):
        kind: Kind = "late" if index % LATE_EVERY == LATE_EVERY - 1 else "plain"
        yield Shard(count, partial(make, kind, count, latent_frames))
    for count in _parts(switches, SHARD_CLIPS):
        yield Shard(count, partial(make, "switch", count, latent_frames))
    for count in _parts(photos, SHARD_CLIPS):
        yield Shard(count, partial(make, "photo", count, latent_frames))
    for count in _parts(unnamed, SHARD_CLIPS):
        yield Shard(count, partial(make, "unnamed", count, latent_frames))
    for count in _parts(long, SHARD_CLIPS):
        yield Shard(count, partial(make, "plain", count, long_latent_frames))
    for total, size in ((wide, WIDE), (tall, TALL)):
        for count in _parts(total, SHARD_CLIPS):
            yield Shard(count, partial(make, "plain", count, latent_frames, size=size))
    for count in _parts(all_round, SHARD_CLIPS):
        for size in (ALL_ROUND, TALL_ALL_ROUND) if tall else (ALL_ROUND,):
            yield Shard(count, partial(make, "bare", count, latent_frames, size=size))


def most_seen(mask: Tensor, *, stack: int, factor: int) -> Tensor:
    """Return what is seen in latent cells, uint8 [B, F, h, w], where any pixel [B, T, H, W] shows it: things first."""
    batch, frames, height, width = mask.shape
    cells = mask.reshape(batch, frames // stack, stack, height // factor, factor, width // factor, factor)
    return cells.amax(dim=(2, 4, 6))


def sample_first_predictable_frames(
    rng: np.random.Generator, kind: Kind, count: int, *, frames: int, chunk_frames: int
) -> list[int]:
    """For each of `count` clips of a kind, the first of its `frames` latent frames that can be foretold.

    A prompt changes between chunks. A photo is held for a chunk, which is what roll-outs do unless they are told
    otherwise, or for one latent frame. What goes before a late clip may be any number of latent frames.
    """
    if kind in ("plain", "bare"):
        return [0] * count
    if kind == "unnamed":
        return [min(chunk_frames, frames - 1)] * count
    if kind == "photo":
        whole = rng.random(count) < PHOTO_CHUNKS
        return [min(chunk_frames if is_whole else 1, frames - 1) for is_whole in whole]
    between = range(chunk_frames, frames, chunk_frames) if kind == "switch" else range(2, frames - 1)
    places = between or range(frames - 1, frames)  # of a clip that is too short for that, its last frame
    return [places[pick] for pick in rng.integers(len(places), size=count)]


def _sample(
    rng: np.random.Generator,
    kind: Kind,
    first_predictable_frames: Sequence[int],
    words: Words,
    *,
    length: int,
    stack: int,
    step: int,
    same_shot: bool = False,
    pictures: bool = False,
    size: Frame = SQUARE,
) -> story_clips.Clips:
    """Return clips of a kind, `length` frames long. stack: frames of a latent frame; step: latent frames of a chunk.

    same_shot: whether prompts that change tell of another action only. pictures: whether prompts may leave to a photo
    where that is. size: of plain and of bare ones.
    """
    only = {"changes": story_clips.SAME_SHOT} if same_shot else {}
    known = [stack * frame for frame in first_predictable_frames]
    if kind == "bare":
        return story_clips.sample_bare(rng, len(known), words, frames=length, size=size)
    if kind == "plain":
        return story_clips.sample_clips(rng, len(known), words, frames=length, size=size)
    if kind == "photo":
        return story_clips.sample_photos(rng, len(known), words, frames=length, held=known, pictures=pictures, **only)
    if kind == "unnamed":
        return story_clips.sample_unnamed(rng, len(known), words, frames=length)
    starts = story_clips.sample_starts(rng, len(known), step=stack * step)
    if kind == "late":
        return story_clips.sample_clips(rng, len(known), words, frames=length, starts=starts)
    starts = [start if rng.random() < LATE_SWITCHES else 0 for start in starts]
    return story_clips.sample_switches(
        rng, len(known), words, frames=length, switch_frames=known, starts=starts, **only
    )


def _parts(total: int, most: int) -> Iterator[int]:
    """Yield the sizes of parts: 7 in parts of at most 3 are 3, 3, 1."""
    for start in range(0, total, max(1, most)):
        yield min(most, total - start)


def encode_clip(codec: PixelCodec, indices: Tensor) -> Tensor:
    """Return normalised latents [1, C, F, h, w] of one clip [T, H, W]; frames that repeat are encoded once."""
    frames, places = torch.unique(indices, dim=0, return_inverse=True)
    cells = codec.encode_frames(frames)
    return codec.stack_cells(cells[places].unsqueeze(0))


@dataclass(frozen=True, slots=True)
class Prompted:
    """Prompts, and the shape of what is to be made of them, in the place of `LatentClips`.

    rows: prompt row numbers [N, L]. shape: of a clip, (C, F, h, w).
    """

    rows: Tensor
    shape: tuple[int, ...]

    @property
    def latent_frames(self) -> int:
        return self.shape[1]

    def batch(self, rng: np.random.Generator, count: int, *, device: torch.device, **_: object) -> Batch:
        """Return random prompts, and zeros where their clips would be."""
        rows = self.rows[torch.from_numpy(rng.integers(len(self.rows), size=count))]
        x0 = torch.zeros(1, *self.shape, device=device).expand(count, *self.shape)
        return Batch(x0, rows, x0[:, :1], torch.zeros(count, dtype=torch.long, device=device))
