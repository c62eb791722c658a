"""The page to read first: prompt -> text -> roll-out -> decode -> frames, joined into one stream of results.

    pipeline = load("storybook")
    for chunk in pipeline.stream("a red car moves left in the snow", length="5s", seed=1):
        show(chunk.frames)                                    # uint8 [T, H, W, 3], as soon as they are made

A stream is the only way to make a video: `generate()` collects it, the command line writes it to a file.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from causvid_cli.cache import PromptCache
from causvid_cli.codec import Codec
from causvid_cli.codec.pixel import PixelCodec
from causvid_cli.config import PackFacts, load_facts
from causvid_cli.device import resolve_device, resolve_dtype, synchronize
from causvid_cli.errors import NumericsError
from causvid_cli.geometry import Chunk, Geometry, take_chunks
from causvid_cli.model import CausalTransformer
from causvid_cli.packs import find_pack, verify_pack
from causvid_cli.request import (
    AUTO,
    DEFAULT_LENGTH,
    DEFAULT_MODEL,
    check_seed,
    check_size,
    check_steps,
    random_seed,
)
from causvid_cli.rollout import Switch, rollout, seeded_noise
from causvid_cli.schedule import Step, even_steps, steps_of
from causvid_cli.text import EncodedPrompt, StoryText, StoryTextEncoder, TextEncoder
from causvid_cli.text_umt5 import UMT5TextEncoder
from causvid_cli.timecode import parse_frames
from causvid_cli.weights import load_config, load_safetensors, load_state


@dataclass(frozen=True, slots=True)
class ChunkResult:
    """One chunk of a video, as soon as it is made.

    frames: uint8 RGB [T, H, W, 3]. start_frame: index of the first of them in the video. latent: x0 [1, C, f, h, w].
    prompt: what held for it. seconds: time that the chunk took.
    """

    frames: np.ndarray
    index: int
    start_frame: int
    latent: Tensor
    prompt: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Plan:
    """What a video will be, before any of it is made: all of it checked."""

    frames: int
    width: int
    height: int
    enlarge: int
    geometry: Geometry
    chunks: tuple[Chunk, ...]
    steps: tuple[Step, ...]
    seed: int


class Stream:
    """A video in the making: iterate for its chunks; set `prompt` between chunks to change what happens next."""

    def __init__(self, pipeline: "Pipeline", prompt: str, plan: Plan, switch: Switch) -> None:
        self.plan = plan
        self._pipeline = pipeline
        self._switch: Switch = switch
        self._current = pipeline.text.encode(prompt)
        self._cached: tuple[EncodedPrompt, PromptCache] | None = None
        self._made = self._make()

    @property
    def prompt(self) -> str:
        return self._current.prompt

    @prompt.setter
    def prompt(self, prompt: str) -> None:
        if prompt != self._current.prompt:
            self._current = self._pipeline.text.encode(prompt, previous=self._current)

    @property
    def notes(self) -> tuple[str, ...]:
        """What of the current prompt was not understood."""
        return self._current.notes

    @property
    def reading(self) -> object:
        """The current prompt as the model reads it."""
        return self._current.reading

    def __iter__(self) -> Iterator[ChunkResult]:
        return self

    def __next__(self) -> ChunkResult:
        with torch.inference_mode():
            return next(self._made)

    def _make(self) -> Iterator[ChunkResult]:
        pipeline, plan = self._pipeline, self.plan
        geometry = plan.geometry
        cells = {"latent_height": geometry.latent_height, "latent_width": geometry.latent_width}
        facts, codec = pipeline.facts, pipeline.codec
        cache = pipeline.model.kv_cache(
            window_frames=facts.window_frames or plan.chunks[-1].end_frame,
            sink_frames=facts.sink_frames,
            rope=facts.rope,
            **cells,
        )
        noise = seeded_noise(plan.seed, batch=1, channels=codec.facts.latent_channels, device=pipeline.device, **cells)
        state = codec.decode_state()
        start_frame, clock = 0, time.monotonic()
        made = rollout(
            pipeline.model,
            prompt=self._prompt_cache,
            steps=plan.steps,
            cache=cache,
            chunks=plan.chunks,
            noise=noise,
            switch=self._switch,
        )
        for chunk, x0 in made:
            if not torch.isfinite(x0).all():
                raise NumericsError(f"chunk {chunk.index} is not finite (seed {plan.seed}); try --dtype float32")
            frames = codec.decode_chunk(x0, state=state)[0, : plan.frames - start_frame].cpu().numpy()
            synchronize(pipeline.device)
            seconds = time.monotonic() - clock
            yield ChunkResult(enlarge(frames, plan.enlarge), chunk.index, start_frame, x0, self.prompt, seconds)
            start_frame, clock = start_frame + len(frames), time.monotonic()

    def _prompt_cache(self, _chunk: Chunk) -> PromptCache:
        """The current prompt for the transformer; the same object as long as the prompt is the same."""
        if self._cached is None or self._cached[0] is not self._current:
            self._cached = (self._current, self._pipeline.prompt_cache(self._current))
        return self._cached[1]


class Pipeline:
    """A loaded model: text encoder, causal transformer, codec."""

    def __init__(
        self,
        facts: PackFacts,
        *,
        folder: Path,
        model: CausalTransformer,
        codec: Codec,
        text: TextEncoder,
        device: torch.device,
    ) -> None:
        self.facts, self.folder = facts, folder
        self.model, self.codec, self.text, self.device = model, codec, text, device

    @property
    def fps(self) -> Fraction:
        """Pictures per second that the model was trained at."""
        return Fraction(str(self.facts.fps)).limit_denominator(1001)

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the transformer."""
        return self.model.transformer.patch_embedding.weight.dtype

    def plan(
        self,
        *,
        length: str | float = DEFAULT_LENGTH,
        size: tuple[int, int] | None = None,
        fps: Fraction | None = None,
        seed: int | None = None,
        steps: int | None = None,
    ) -> Plan:
        """What a request comes to. Raises UsageError for what cannot be made.

        length: "5s", "250ms", "1:04.5", "96f" or seconds, at `fps` (default: the model's). size: (width, height).
        """
        frames = parse_frames(length, fps=fps or self.fps)
        return make_plan(
            self.facts,
            spatial_factor=self.codec.facts.spatial_factor,
            latent_frames=self.codec.facts.latent_frames(frames),
            frames=frames,
            size=size,
            seed=seed,
            steps=steps,
        )

    def stream(
        self,
        prompt: str,
        *,
        length: str | float = DEFAULT_LENGTH,
        size: tuple[int, int] | None = None,
        fps: Fraction | None = None,
        seed: int | None = None,
        steps: int | None = None,
        switch: Switch = "recache",
    ) -> Stream:
        """Make a video chunk by chunk; see `plan` for the options and `rollout` for `switch`."""
        return Stream(self, prompt, self.plan(length=length, size=size, fps=fps, seed=seed, steps=steps), switch)

    def generate(self, prompt: str, **options: object) -> np.ndarray:
        """The whole video at once, uint8 RGB [T, H, W, 3]; options as in `stream`."""
        return np.concatenate([chunk.frames for chunk in self.stream(prompt, **options)])  # type: ignore[arg-type]

    def prompt_cache(self, encoded: EncodedPrompt) -> PromptCache:
        """The prompt for the transformer."""
        return self.model.prompt_cache(encoded.embeds.to(self.device, self.dtype))


def make_plan(
    facts: PackFacts,
    *,
    spatial_factor: int,
    latent_frames: int,
    frames: int,
    size: tuple[int, int] | None,
    seed: int | None,
    steps: int | None,
) -> Plan:
    """Check a request against the facts of a model and work out what it comes to."""
    width, height, factor = check_size(size, facts)
    count = check_steps(steps, facts)
    own = count == len(facts.steps)
    return Plan(
        frames=frames,
        width=width * factor,
        height=height * factor,
        enlarge=factor,
        geometry=Geometry(height, width, spatial_factor),
        chunks=tuple(take_chunks(latent_frames, facts.chunk_frames)),
        steps=steps_of(
            facts.steps if own else even_steps(count), shift=facts.shift, warped=facts.warp_steps or not own
        ),
        seed=random_seed() if seed is None else check_seed(seed),
    )


def enlarge(frames: np.ndarray, times: int) -> np.ndarray:
    """Each pixel as a square of times x times: [T, H, W, 3] -> [T, H * times, W * times, 3]."""
    # columns first: rows are then copied whole, which is 5 times faster than the other way round
    return frames if times == 1 else frames.repeat(times, axis=2).repeat(times, axis=1)


def load(model: str | Path = DEFAULT_MODEL, *, device: str = AUTO, dtype: str = AUTO) -> Pipeline:
    """A pipeline from a model's name or the folder of a model pack; every file is verified first.

    Raises ModelError when the model is missing, damaged or foreign, DeviceError when the device is.
    """
    folder = find_pack(model)
    facts = load_facts(folder)
    verify_pack(folder, facts)
    place = resolve_device(device)
    kind = resolve_dtype(dtype, place)
    text = load_text(folder, facts, device=place, dtype=kind)
    codec = load_codec(folder, facts, device=place, dtype=kind)
    network = load_transformer(folder / "transformer", facts).to(place, kind).fuse()
    return Pipeline(facts, folder=folder, model=network, codec=codec, text=text, device=place)


def load_codec(folder: Path, facts: PackFacts, *, device: torch.device, dtype: torch.dtype) -> Codec:
    """The codec of a pack. dtype: what the Wan VAE computes in; the pixel codec keeps to float32."""
    if facts.codec == "wan":
        from causvid_cli.codec.wan import WanCodec  # here, so that storybook starts without it

        return WanCodec.from_pack(folder / "vae", device=device, dtype=dtype)
    return load_pixel_codec(folder / "vae").to(device)


def load_text(folder: Path, facts: PackFacts, *, device: torch.device, dtype: torch.dtype) -> TextEncoder:
    """The text encoder of a pack. device, dtype: where and in what umT5 computes; storybook's is a small table."""
    if facts.text == "umt5":
        return UMT5TextEncoder.from_pack(folder, device=device, dtype=dtype)
    return StoryTextEncoder(load_story_text(folder / "text_encoder"))


def load_transformer(folder: Path, facts: PackFacts) -> CausalTransformer:
    """A causal transformer for inference from a folder in diffusers layout, in the dtype of its file."""
    from diffusers.models.transformers.transformer_wan import WanTransformer3DModel

    config = load_config(folder, "WanTransformer3DModel")
    with torch.device("meta"):  # no random start: of 14 B weights it would take minutes
        network = WanTransformer3DModel.from_config(config)
    network.rope = torch.nn.Identity()  # a table on no device; ours is rope.py
    load_state(network, load_safetensors(folder), name=f"{facts.name} {folder.name}")
    return CausalTransformer(network, prediction=facts.prediction).eval().requires_grad_(False)


def load_pixel_codec(folder: Path) -> PixelCodec:
    codec = PixelCodec.from_config(load_config(folder, "PixelCodec"))
    load_state(codec, load_safetensors(folder), name="PixelCodec")
    return codec.channels_last().eval().requires_grad_(False)


def load_story_text(folder: Path) -> StoryText:
    config = load_config(folder, "StoryText")
    text = StoryText(config["words"], dim=config["dim"])
    load_state(text, load_safetensors(folder), name="StoryText")
    return text.eval().requires_grad_(False)
