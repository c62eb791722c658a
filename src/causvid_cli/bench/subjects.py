"""What makes the clip of a bench: the student in a setting, with frames or without, or the teacher."""

import copy
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from causvid_cli.bench.config import BenchConfig, BenchSetting, Role
from causvid_cli.device import synchronize, use_threads
from causvid_cli.geometry import CodecFacts
from causvid_cli.pipeline import Pipeline, load
from causvid_cli.sampling.plan import GenerateOptions, Plan
from causvid_cli.teacher import Teacher, load_teacher


@dataclass(frozen=True, slots=True)
class Maker:
    """Something loaded that makes the clip, a part of its frames at a time. setting: of a student."""

    model: Pipeline | Teacher
    config: BenchConfig
    setting: BenchSetting = BenchSetting()

    def __call__(self) -> Iterator[np.ndarray]:
        """Frames [T, H, W, 3], the next part of them."""
        if isinstance(self.model, Teacher):
            yield self.model.generate(self.config.prompt, length=self.config.length, seed=self.config.seed)
        else:
            with closing(self.student.stream(self.config.prompt, self._options, ahead=self.is_ahead)) as chunks:
                for chunk in chunks:
                    yield chunk.frames

    def latents(self, *, merge_clean_pass: bool) -> Iterator[Tensor]:
        """Clean latents x0 [1, C, f, h, w] of a student's chunks, made without decoding any; the device has made them.

        merge_clean_pass: whether clean passes and first steps are one call where they can be.
        """
        pipeline = without_decoding(self.student)
        pipeline.merge_clean_pass = merge_clean_pass
        for chunk in pipeline.stream(self.config.prompt, self._options):
            synchronize(self.device)
            yield chunk.latent

    @property
    def _options(self) -> GenerateOptions:
        config, setting = self.config, self.setting
        return GenerateOptions(
            length=config.length,
            size=config.size,
            seed=config.seed,
            steps=setting.steps,
            window_frames=setting.window_frames,
        )

    @property
    def is_ahead(self) -> bool:
        """Whether a student makes its next chunk while frames are decoded, as `causvid t2v` lets it."""
        return self.student.benefits_from_prefetch and not self.student.facts.recompute

    @property
    def plan(self) -> Plan:
        """What a student's clip comes to."""
        return self.student.plan(self._options)

    @property
    def student(self) -> Pipeline:
        assert isinstance(self.model, Pipeline)
        return self.model

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """In which the network computes, in whatever its weights are kept."""
        return self.model.model.transformer.patch_embedding.weight.dtype

    @property
    def capacity_frames(self) -> int:
        """Latent frames that a student's cache holds when it is full."""
        plan = self.plan
        return self.student.facts.sink_frames + (plan.window_frames or plan.latent_frames)

    @property
    def first_steady_chunk(self) -> int:
        """The first chunk from which on all take the same work: the cache was full before it, for its clean pass.

        With a compiled network one later, since on a GPU that chunk records the last of its calls.
        """
        return -(-self.capacity_frames // self.student.facts.chunk_frames) + self.config.loading.compile


class NoPictures:
    """A codec that paints nothing: what is measured through it is the network and all around it (`codec.Codec`)."""

    def __init__(self, facts: CodecFacts) -> None:
        self.facts = facts
        self._like = torch.empty(0)

    def encode_state(self) -> list[int]:
        return self.decode_state()

    def decode_state(self) -> list[int]:
        """How many latent frames came before."""
        return [0]

    def encode_chunk(self, frames: Tensor, *, state: list[int]) -> Tensor:
        """Nothing, in the shape of latents: for a model that sees its past anew."""
        return torch.zeros_like(self._like[:, :, : self.facts.latent_frames(frames.shape[1])])

    def decode_chunk(self, x0: Tensor, *, state: list[int], enlarge: int = 1) -> Tensor:
        """As many frames as there would be, of no pixels."""
        self._like = x0
        frames = self.facts.frames(x0.shape[2], start=state[0])
        state[0] += x0.shape[2]
        return torch.zeros(len(x0), frames, 0, 0, 3, dtype=torch.uint8, device=x0.device)


def without_decoding(pipeline: Pipeline) -> Pipeline:
    """The same model, whose chunks have latents only."""
    silent = copy.copy(pipeline)
    silent.codec = NoPictures(pipeline.codec.facts)
    return silent


def open_maker(role: Role, config: BenchConfig) -> Maker:
    """The loaded student, in the first setting, or teacher."""
    if role == "teacher":
        maker = Maker(load_teacher(config.model, device=config.device, dtype=config.dtype), config)
    else:
        pipeline = load(config.model, device=config.device, dtype=config.dtype, loading=config.loading)
        maker = Maker(pipeline, config, config.settings[0])
    use_threads(config.threads, is_small=maker.model.model.is_small, device=maker.device)
    return maker
