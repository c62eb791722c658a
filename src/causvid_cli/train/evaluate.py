"""Stage `eval`: what the judge sees in the clips of an exported model, for stories new and known.

Beside the student stand the clips as they should be ("rendered": how far the judge itself can be trusted) and those
after the codec ("codec": the best that any network could do through it).
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import imageio.v3 as imageio
import numpy as np
import torch
from torch import Tensor

from causvid_cli import storybook
from causvid_cli.codec.pixel import PixelCodec
from causvid_cli.packs import write_text
from causvid_cli.pipeline import Pipeline, load
from causvid_cli.rollout import rollout, seeded_noise
from causvid_cli.schedule import sampler_sigmas
from causvid_cli.storybook import Story
from causvid_cli.teacher import denoise_whole, load_teacher
from causvid_cli.text import TextEncoder
from causvid_cli.train import world
from causvid_cli.train.config import EvalConfig
from causvid_cli.train.judge import ATTRIBUTES, FRAMES, Judge, sample_stories, score
from causvid_cli.train.trainer import Report

Make = Callable[[Sequence[Story], int], Tensor]
"""(stories, seed) -> palette entries uint8 [B, FRAMES, H, W], on the CPU."""

CLIPS_AT_ONCE = 16
SHEET_ROWS, SHEET_COLUMNS, SHEET_ENLARGE = 16, 8, 3


def evaluate(
    folder: Path,
    pack: Path,
    judge: Judge,
    plan: EvalConfig,
    *,
    device: torch.device,
    seed: int = 0,
    report: Report | None = None,
) -> dict[str, Any]:
    """Generate, judge, and write `eval.json` and a contact sheet of each maker and group; returns what eval.json holds.

    Its `scores` are shares of clips, by maker, then by group of stories, then by attribute.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng((seed, 2))
    groups = {name: sample_stories(rng, plan.prompts, held_out=name == "held_out") for name in ("held_out", "seen")}
    makers = dict(open_makers(pack, device=device, teacher=plan.teacher))
    result: dict[str, Any] = {
        "model": pack.name,
        "prompts": plan.prompts,
        "seeds": plan.seeds,
        "scores": {maker: {} for maker in makers},
        "clips": {},
    }
    done = 0
    for maker, make in makers.items():
        for group, stories in groups.items():
            stories = stories * plan.seeds
            clips = []
            for start in range(0, len(stories), CLIPS_AT_ONCE):
                clips.append(make(stories[start : start + CLIPS_AT_ONCE], seed + start))
                done += len(clips[-1])
                if report:
                    report({"step": done})
            indices = torch.cat(clips)
            result["scores"][maker][group] = score(judge, indices.to(device), stories)
            result["clips"][f"{maker}-{group}"] = describe(judge, indices.to(device), stories)
            imageio.imwrite(folder / f"{maker}-{group}.png", contact_sheet(indices))
    write_text(folder / "eval.json", json.dumps(result, indent=1) + "\n")
    return result


def clips_of(plan: EvalConfig) -> int:
    """How many clips an evaluation makes."""
    return (4 if plan.teacher else 3) * 2 * plan.prompts * plan.seeds


def open_makers(pack: Path, *, device: torch.device, teacher: bool) -> Iterator[tuple[str, Make]]:
    """Each maker of clips, by name."""
    student = load(pack, device=str(device))
    codec = student.codec
    assert isinstance(codec, PixelCodec)

    def render(stories: Sequence[Story], seed: int) -> Tensor:
        return world.render_clips(tuple(stories), np.random.default_rng(seed), frames=FRAMES).indices

    def through_codec(stories: Sequence[Story], seed: int) -> Tensor:
        with torch.inference_mode():
            x0 = torch.cat([codec.encode_indices(clip[None].to(device)) for clip in render(stories, seed)])
            return decode(codec, x0.split(1, dim=2))

    yield "rendered", render
    yield "codec", through_codec
    yield "student", lambda stories, seed: student_clips(student, codec, stories, seed=seed)
    if teacher:
        yield "teacher", teacher_maker(pack, device=device)


@torch.inference_mode()
def student_clips(student: Pipeline, codec: PixelCodec, stories: Sequence[Story], *, seed: int) -> Tensor:
    """The stories as the student tells them, all in one roll-out."""
    plan, facts = student.plan(length=f"{FRAMES}f", seed=seed), student.facts
    cells = {"latent_height": plan.geometry.latent_height, "latent_width": plan.geometry.latent_width}
    weight = student.model.transformer.patch_embedding.weight
    prompt = student.model.prompt_cache(captions(student.text, stories).to(weight.device, weight.dtype))
    made = rollout(
        student.model,
        prompt=lambda _: prompt,
        steps=plan.steps,
        cache=student.model.kv_cache(
            window_frames=facts.window_frames or plan.chunks[-1].end_frame,
            sink_frames=facts.sink_frames,
            rope=facts.rope,
            batch=len(stories),
            **cells,
        ),
        chunks=plan.chunks,
        noise=seeded_noise(
            seed, batch=len(stories), channels=codec.facts.latent_channels, device=student.device, **cells
        ),
    )
    return decode(codec, (x0 for _, x0 in made))


def teacher_maker(pack: Path, *, device: torch.device) -> Make:
    """Clips of the pack's teacher."""
    teacher = load_teacher(pack, device=str(device))
    codec, facts = teacher.codec, teacher.facts
    assert isinstance(codec, PixelCodec)

    @torch.inference_mode()
    def make(stories: Sequence[Story], seed: int) -> Tensor:
        x0 = denoise_whole(
            teacher.model,
            teacher.start_noise(codec.facts.latent_frames(FRAMES), batch=len(stories), seed=seed),
            captions(teacher.text, stories),
            teacher.text.empty(),
            sigmas=sampler_sigmas(facts.teacher_steps, shift=facts.teacher_shift),
            guidance=facts.teacher_guidance,
        )
        return decode(codec, x0.split(1, dim=2))

    return make


def captions(text: TextEncoder, stories: Sequence[Story]) -> Tensor:
    """Features [B, L, D] of the stories' captions, read as a user's prompt is."""
    return torch.cat([text.encode(story.caption()).embeds for story in stories])


def decode(codec: PixelCodec, chunks: Iterable[Tensor]) -> Tensor:
    """Palette entries [B, FRAMES, H, W] on the CPU from latents [B, C, f, h, w], a chunk at a time to save memory."""
    return torch.cat([codec.decode_indices(x0).cpu() for x0 in chunks], dim=1)[:, :FRAMES]


def describe(judge: Judge, indices: Tensor, stories: Sequence[Story]) -> list[dict[str, Any]]:
    """For each clip its prompt and what the judge takes it for."""
    named = {name: classes.tolist() for name, classes in judge.name(indices).items()}
    return [
        {"prompt": story.caption(), "judged": {name: ATTRIBUTES[name][named[name][row]] for name in ATTRIBUTES}}
        for row, story in enumerate(stories)
    ]


def contact_sheet(indices: Tensor) -> np.ndarray:
    """The first clips, one a row, their frames from left to right: RGB uint8 [rows * 195, columns * 195, 3]."""
    columns = np.linspace(0, FRAMES - 1, SHEET_COLUMNS).round().astype(int)
    pictures = storybook.PALETTE[indices[:SHEET_ROWS, columns].numpy()]  # [R, C, H, W, 3]
    pictures = np.pad(pictures, ((0, 0), (0, 0), (0, 1), (0, 1), (0, 0)), constant_values=255)  # a line between them
    rows, _, height, width, _ = pictures.shape
    sheet = pictures.transpose(0, 2, 1, 3, 4).reshape(rows * height, SHEET_COLUMNS * width, 3)
    return sheet.repeat(SHEET_ENLARGE, axis=0).repeat(SHEET_ENLARGE, axis=1)
