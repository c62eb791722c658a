"""The page to read first: prompt -> text -> roll-out -> decode -> frames, joined into one stream of results.

    pipeline = load("storybook")
    for chunk in pipeline.stream("a red car moves left in the snow", length="5s", seed=1):
        show(chunk.frames)                                    # uint8 [T, H, W, 3], as soon as they are made

A stream is the only way to make a video: `generate()` collects it, the command line writes it to a file. A photo, the
tail of a clip, a script of prompts, another video to start from, chunks made by an earlier run are options of it.
"""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from causvid_cli.codec import Codec, enlarged
from causvid_cli.codec.condition import SourceLatents, check_frames, drawn_in, encode_prefix, is_foreign, photograph
from causvid_cli.codec.pixel import PixelCodec
from causvid_cli.config import PackFacts
from causvid_cli.device import SideStream, keep_freed_memory, resolve_device, resolve_dtype
from causvid_cli.errors import NumericsError
from causvid_cli.geometry import Chunk, Geometry
from causvid_cli.models.load import (
    NetworksUsed,
    check_fit_together,
    fitting,
    load_codec,
    load_networks,
    load_text_when_needed,
)
from causvid_cli.models.memory import Video
from causvid_cli.models.packs import codec_folder, verify_pack, without_parts
from causvid_cli.models.resolve import resolve_model
from causvid_cli.network.cache import KVCache, PromptCache
from causvid_cli.network.compiled import check_compiler
from causvid_cli.network.model import CausalTransformer
from causvid_cli.network.quantize import check_quantize
from causvid_cli.network.ulysses import Ulysses, check_heads
from causvid_cli.prompt.cues import Cue, Telling
from causvid_cli.prompt.encoded import TextEncoder
from causvid_cli.prompt.feature_cache import TextCache
from causvid_cli.prompt.story import StoryTextEncoder
from causvid_cli.prompt.track import PromptTrack
from causvid_cli.prompt.umt5 import PARTS as UMT5_PARTS
from causvid_cli.request import (
    AUTO,
    DEFAULT_MODEL,
    LOADING,
    Loading,
    check_source,
)
from causvid_cli.sampling.context import CleanPasses, ContextWriter, LastCalls, StepsOf
from causvid_cli.sampling.drawings import LastShown, Opening, opening_prompt
from causvid_cli.sampling.krea import Recomputed
from causvid_cli.sampling.noise import Noise, seeded_noise
from causvid_cli.sampling.plan import GenerateOptions, Plan, frame_rate, make_plan
from causvid_cli.sampling.rollout import Latents, OnStep, ignore_step, rollout
from causvid_cli.sampling.together import Made, Together

DEFAULTS = GenerateOptions()
PHOTOGRAPH = "the photo is no drawing of this model's kind: it is shown, and what follows is drawn from the prompt"
NEGATIVE = "this model makes each chunk in one step, which nothing leads away from a negative prompt: it is left out"
FOREIGN = "the clip is no drawing of this model's kind: what follows is drawn from the prompt"
GIVEN = -1
"""`ChunkResult.index` of pictures that were given, not made."""


@dataclass(frozen=True, slots=True)
class ChunkResult:
    """One chunk of a video, as soon as it is made.

    frames: uint8 RGB [T, H, W, 3]. start_frame: index of the first of them in the video. latent: x0 [1, C, f, h, w].
    prompt: what held for it. seconds: time that the chunk took. cue: number of the cue, from 0, that the prompt is of.
    index: number of the chunk, from 0; GIVEN for a photo that the video begins with.
    """

    frames: np.ndarray
    index: int
    start_frame: int
    latent: Tensor
    prompt: str
    seconds: float
    cue: int = 0


class Pending(NamedTuple):
    """A chunk whose frames are asked for by `frames`, which gives or awaits them."""

    chunk: Chunk
    x0: Tensor
    frames: Callable[[], np.ndarray]


class Stream:
    """A video in the making: iterate for its chunks; set `prompt` between chunks to change what happens next.

    Without `ahead` nothing is made before it is asked for, so a prompt holds from the very next chunk on. With it the
    network is at work on one chunk more while frames are decoded and used: a prompt then holds from the chunk after
    the next. The frames of a given list of cues are the same, bit for bit.
    """

    def __init__(
        self,
        pipeline: "Pipeline",
        plan: Plan,
        cues: Sequence[Cue],
        options: GenerateOptions,
        *,
        given: np.ndarray | None,
        given_cue: Cue | None,
        source: Iterator[np.ndarray] | None,
        made: Latents | None,
        first_chunk: int,
        known_chunks: int,
        ahead: bool,
        together: Together | None,
    ) -> None:
        self.plan = plan
        self._ahead = ahead
        self._pipeline, self._switch = pipeline, options.switch
        self._is_foreign = given is not None and is_foreign(pipeline.codec, given)
        self._track = pipeline.track(
            cues,
            seed=plan.seed,
            guidance=options.guidance,
            known_chunks=known_chunks,
            picture=None if given is None or self._is_foreign else given[-1],
            after=given_cue,
        )
        self._given, self._earlier, self._first_chunk = given, made, first_chunk
        photo = given if plan.grid.shows_given else None
        self._photograph = None if photo is None else photograph(pipeline.codec, photo, enlarge=plan.enlarge)
        self._source = None if source is None else SourceLatents(pipeline.codec, source, device=pipeline.device)
        self._together = together
        self._member = together.join(self._track.prompt, self._noise) if together else None
        self.on_step: OnStep = ignore_step
        """Told of every denoising step (`rollout.OnStep`); set it before the first chunk is asked for."""
        self._made = self._make()

    @property
    def cues(self) -> tuple[Cue, ...]:
        """What was told, and when: the script that makes this video again."""
        return tuple(self._track.cues)

    @property
    def prompt(self) -> str:
        return self._track.current.prompt

    @prompt.setter
    def prompt(self, prompt: str) -> None:
        self._track.add(prompt, transition=self._switch)

    def tell(self, telling: Telling) -> Cue:
        """Begin a cue with the next chunk, and return it; raises UsageError for what cannot be done or understood."""
        return self._track.tell(telling, switch=self._switch)

    @property
    def notes(self) -> tuple[str, ...]:
        """What of the prompts was not understood or is left out, and of a photo or a clip cannot be kept."""
        foreign = (FOREIGN if self._photograph is None else PHOTOGRAPH,) if self._is_foreign else ()
        left_out = not self._pipeline.is_led and any(cue.negative for cue in self.cues)
        return (*self._track.notes, *((NEGATIVE,) if left_out else ()), *foreign)

    @property
    def prompt_notes(self) -> tuple[str, ...]:
        """What of the prompt that holds for the next chunk was not understood."""
        return self._track.current.notes

    @property
    def read_as(self) -> tuple[str, ...]:
        """How each cue's prompt was read, as the embedded model tells it; empty for models that take any text."""
        return self._track.read_as

    @property
    def not_understood(self) -> dict[str, tuple[str, ...]]:
        """Prompts of which nothing was understood, and the notes on each."""
        return self._track.not_understood

    @property
    def details(self) -> tuple[str, ...]:
        """Where the features of the prompts are from, where that may differ."""
        return self._track.details

    @property
    def reading(self) -> object:
        """The current prompt as the model reads it."""
        return self._track.current.reading

    def __iter__(self) -> Iterator[ChunkResult]:
        return self

    def __next__(self) -> ChunkResult:
        self._pipeline.text.release()  # until another prompt is set, which takes a moment anyway
        with torch.inference_mode():
            return next(self._made)

    def close(self) -> None:
        """End here: what is being made is given up."""
        self._made.close()

    def warm_up(self) -> float:
        """Let what is to be compiled be compiled now, by chunks that are thrown away; the seconds that it took.

        Without this the first chunks do it. The frames are the same.
        """
        pipeline, plan, started = self._pipeline, self.plan, time.monotonic()
        if not pipeline.model.is_compiled or plan.geometry in pipeline.warm:
            return 0.0
        frames, sink = pipeline.facts.chunk_frames, pipeline.facts.sink_frames
        grid = pipeline.facts.grid(pipeline.codec.facts)
        with torch.inference_mode():
            prompt = pipeline.prompt_cache(self._track.current.embeds)
            made = rollout(
                pipeline.model,
                prompt=lambda _: prompt,
                steps=plan.steps,
                cache=pipeline.kv_cache(plan, window_frames=2 * frames),
                chunks=islice(grid.chunks(None), -(-sink // frames) + 4),  # past the sink, till the window is full
                noise=self._noise,
                writer=pipeline.context_writer(plan.steps_of, self._noise),
                opening=pipeline.opening(plan),
                merge_clean_pass=pipeline.merge_clean_pass,
            )
            for _ in made:
                pass
        pipeline.warm.add(plan.geometry)
        return time.monotonic() - started

    def _make(self) -> Generator[ChunkResult, None, None]:
        pipeline, plan, track, clock = self._pipeline, self.plan, self._track, time.monotonic()
        state, recomputed = pipeline.codec.decode_state(), pipeline.recompute_context(plan)
        is_ahead = self._ahead and not recomputed  # which looks at a chunk's pictures before the next
        given, chunk_frames = self._given, plan.grid.chunk_frames
        prefix = [] if given is None else encode_prefix(pipeline.codec, given, chunk_frames, device=pipeline.device)
        with ExitStack() as stack:
            beside = stack.enter_context(closing(SideStream(pipeline.decodes_on))) if is_ahead else None

            def shown(chunk: Chunk, x0: Tensor) -> Pending:
                """Pictures of a chunk, or of what is given, decoded now or meanwhile."""
                decode, there = partial(self._decode, state, chunk, recomputed), x0.to(pipeline.decodes_on)
                if beside:
                    return Pending(chunk, x0, beside.submit(decode, there).result)
                frames = decode(there)
                return Pending(chunk, x0, lambda: frames)

            if prefix:  # later pictures of some codecs depend on it
                x0 = torch.cat([part for _, part in prefix], dim=2)
                frames = shown(Chunk(GIVEN, 0, x0.shape[2]), x0).frames()
                frames = frames if self._photograph is None else self._photograph
                if plan.grid.shows_given and self._first_chunk == GIVEN:
                    yield ChunkResult(frames, GIVEN, 0, x0, self.prompt, time.monotonic() - clock)
                    clock = time.monotonic()

            # a network for first chunks begins anew; else it is drawn over
            is_cut = track.begins_anew or (self._is_foreign and pipeline.opening_model is not None)
            seen = [] if is_cut else prefix
            told = track.told_before if is_cut and prefix else None
            last_shown = LastShown(told, prefix[-1][1][:, :, -1:]) if told else None

            def begin(batch: int, prompt: Callable[[Chunk], PromptCache], noise: Noise) -> Made:
                return rollout(
                    pipeline.model,
                    prompt=prompt,
                    steps=pipeline.steps_of(plan),
                    cache=pipeline.kv_cache(plan, batch=batch),
                    chunks=plan.grid.chunks(plan.frames),
                    noise=noise,
                    writer=pipeline.context_writer(plan.steps_of, noise),
                    opening=pipeline.opening(plan, batch=batch),
                    switch=track.transition,
                    prefix=seen,
                    last_shown=last_shown,
                    made=self._earlier,
                    source=self._source.latents if self._source else None,
                    recompute_context=recomputed,
                    merge_clean_pass=pipeline.merge_clean_pass,
                    on_step=self.on_step,
                )

            if self._together and self._member:
                made = self._together.chunks_of(self._member, begin)
            else:
                made = begin(1, track.prompt, self._noise)
            waiting: deque[Pending] = deque()
            ahead = 0  # of the first frames nothing is made: they come at once
            for chunk, x0 in made:
                skipped = chunk.index < self._first_chunk
                if skipped and state is None and not recomputed:  # what comes later does not depend on it
                    continue
                pending = shown(chunk, x0)
                if skipped:
                    pending.frames()
                    continue
                waiting.append(pending)
                if len(waiting) > ahead:
                    yield self._result(waiting.popleft(), clock)
                    ahead, clock = int(is_ahead), time.monotonic()
            for pending in waiting:
                yield self._result(pending, clock)
                clock = time.monotonic()

    def _result(self, pending: "Pending", clock: float) -> ChunkResult:
        index, frames = pending.chunk.index, pending.frames()
        cue, start_frame = self._track.place_of(index), self.plan.grid.first_frame(index)
        prompt, seconds = self._track.cues[cue].prompt, time.monotonic() - clock
        return ChunkResult(frames, index, start_frame, pending.x0, prompt, seconds, cue)

    def _decode(self, state: Any, chunk: Chunk, recomputed: Recomputed | None, x0: Tensor) -> np.ndarray:
        """Pictures [T, h, w, 3] as the user sees them, what lies behind the video's end cut off.

        Raises NumericsError when the latents are not finite.
        """
        finite = torch.isfinite(x0).all()  # read further down, when the device is waited for anyway
        times = self.plan.enlarge
        decoded = self._pipeline.codec.decode_chunk(x0, state=state, enlarge=1 if recomputed else times)
        if recomputed:
            recomputed.show(decoded, start_frame=chunk.start_frame, count=chunk.frames)
            decoded = enlarged(decoded, times)
        end = self.plan.frames
        if self._source and (end is None or self._source.read < end):
            end = self._source.read
        start_frame = 0 if chunk.index == GIVEN else self.plan.grid.first_frame(chunk.index)
        pictures = decoded[0, : None if end is None else end - start_frame].cpu().numpy()
        if not finite:
            seed = self._track.seed(chunk)
            raise NumericsError(f"chunk {chunk.index} is not finite (seed {seed}); try --dtype float32")
        return pictures

    def _noise(self, chunk: Chunk, step: int) -> Tensor:
        geometry, codec = self.plan.geometry, self._pipeline.codec
        draw = seeded_noise(
            self._track.seed(chunk),
            batch=1,
            channels=codec.facts.latent_channels,
            latent_height=geometry.latent_height,
            latent_width=geometry.latent_width,
            device=self._pipeline.device,
        )
        return draw(chunk, step)


class Pipeline:
    """A loaded model: text encoder, causal transformer, codec. folder: of its pack, unless its weights are random."""

    def __init__(
        self,
        facts: PackFacts,
        *,
        folder: Path | None,
        model: CausalTransformer,
        codec: Codec,
        text: TextEncoder,
        device: torch.device,
        decodes_on: torch.device | None = None,
        context_model: CausalTransformer | None = None,
        opening_model: CausalTransformer | None = None,
        notes: tuple[str, ...] = (),
    ) -> None:
        self.facts, self.folder = facts, folder
        self.model, self.codec, self.text, self.device = model, codec, text, device
        self.decodes_on = decodes_on or device
        """Where the codec is."""
        self.context_model, self.opening_model = context_model, opening_model
        """The networks that run the clean passes, and that make what nothing comes before, where they are others."""
        self.notes = notes
        """What the user should know of how it was loaded."""
        runs_clean_passes = facts.context == "clean_pass" and context_model is None and model.processes is None
        self.merge_clean_pass = device.type == "cpu" and model.is_small and runs_clean_passes
        """Whether clean passes are merged into first steps (`rollout`): measured on a CPU, with a small network."""

        self.warm: set[Geometry] = set()
        """Picture sizes that `Stream.warm_up` has been done for."""

    @property
    def fps(self) -> Fraction:
        """Frames per second that the model was trained at."""
        return frame_rate(self.facts)

    @property
    def benefits_from_prefetch(self) -> bool:
        """Whether a stream `ahead` is faster here: a GPU decodes beside the network, on a CPU they share the cores."""
        return self.device.type == "cuda"

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the transformer."""
        return self.model.transformer.patch_embedding.weight.dtype

    def plan(
        self,
        options: GenerateOptions = DEFAULTS,
        *,
        prefix_frames: int = 0,
        shows_given: bool = False,
        **changes: Any,
    ) -> Plan:
        """Return what a request comes to; the arguments are those of `stream`. Raises UsageError for the impossible."""
        return make_plan(
            self.facts,
            replace(options, **changes),
            codec=self.codec.facts,
            prefix_frames=prefix_frames,
            shows_given=shows_given,
        )

    def stream(
        self,
        prompt: str | Sequence[Cue],
        options: GenerateOptions = DEFAULTS,
        *,
        given: np.ndarray | None = None,
        given_cue: Cue | None = None,
        shows_given: bool = False,
        source: Iterator[np.ndarray] | None = None,
        made: Latents | None = None,
        first_chunk: int = GIVEN,
        known_chunks: int = 0,
        ahead: bool = False,
        together: Together | None = None,
        **changes: Any,
    ) -> Stream:
        """Make a video chunk by chunk.

        prompt: one, or cues that say which holds from which chunk on.
        options: what is chosen of the video; changes: single ones of them by name, such as length="5s", seed=1.
        given: pictures uint8 RGB [T, h, w, 3] before the first chunk, at the codec's size, filling whole latent frames
          (`geometry.held_frames`). given_cue: what they were told to show, which a first prompt may leave unsaid.
          shows_given: whether the video begins with them.
        source: the pictures [h, w, 3] of a video to start from, noised to `options.strength`; the video ends with it.
        made: chunks that an earlier run made. first_chunk: chunks before it are not shown again. known_chunks: how many
          were made: what is told holds after them.
        ahead: whether one chunk more may be in the making than is asked for (`Stream`).
        together: the roll-out of this video and of others of the same plan, none of which has anything given or made
          before, or a negative prompt.
        """
        options = replace(options, **changes)
        plan = self.plan(options, prefix_frames=0 if given is None else len(given), shows_given=shows_given)
        cues = [Cue(prompt=prompt)] if isinstance(prompt, str) else prompt
        if source is not None:
            check_source(self.facts)
        if given is not None:
            check_frames(given, height=plan.geometry.height, width=plan.geometry.width, facts=self.codec.facts)
        return Stream(
            self,
            plan,
            cues,
            options,
            given=given,
            given_cue=given_cue,
            source=source,
            made=made,
            first_chunk=first_chunk,
            known_chunks=known_chunks,
            ahead=ahead,
            together=together,
        )

    def generate(self, prompt: str | Sequence[Cue], options: GenerateOptions = DEFAULTS, **more: Any) -> np.ndarray:
        """Return the whole video at once, uint8 RGB [T, H, W, 3]; the arguments are those of `stream`."""
        return np.concatenate([chunk.frames for chunk in self.stream(prompt, options, **more)])

    def track(
        self,
        cues: Sequence[Cue],
        *,
        seed: int,
        guidance: float,
        known_chunks: int = 0,
        picture: np.ndarray | None = None,
        after: Cue | None = None,
    ) -> PromptTrack:
        """What each chunk of a video is told.

        picture: a drawing uint8 RGB [h, w, 3] that was there before the first; after: what it was told to show.
        """
        before = None
        if isinstance(self.text, StoryTextEncoder) and after:
            before = self.text.encode(after.prompt, seed=after.seed or 0)
        elif isinstance(self.text, StoryTextEncoder) and picture is not None:
            before = self.text.picture(drawn_in(self.codec, picture))
        return PromptTrack(
            self.text,
            cues,
            seed=seed,
            guidance=guidance if self.is_led else 1.0,
            to_cache=self.prompt_cache,
            known_chunks=known_chunks,
            cuts=self.opening_model is not None,
            before=before,
        )

    @property
    def is_led(self) -> bool:
        """Whether guidance leads it: shares of copies, led away from others, are the shares of nothing."""
        return self.model.prediction != "copies"

    def prompt_cache(self, embeds: Tensor) -> PromptCache:
        """Text features [B, L, D] for the transformer."""
        embeds = embeds.to(self.device, self.dtype)
        told = self.model.prompt_cache(embeds)
        told.context = self.context_model.prompt_cache(embeds) if self.context_model else None
        told.opening = self.opening_model.prompt_cache(embeds) if self.opening_model else None
        if self.opening_model and self.model.prediction == "copies" and isinstance(self.text, StoryTextEncoder):
            told.opening = opening_prompt(self.opening_model, self.text.text, embeds)
            told.scene = self.opening_model.prompt_cache(self.text.bare(embeds))
        return told

    def context_writer(self, steps_of: StepsOf, noise: Noise) -> ContextWriter:
        """What later chunks see of a chunk, for this model."""
        if self.facts.context == "last_call":
            return LastCalls(self.model, steps_of, noise)
        return CleanPasses(self.context_model or self.model)

    def opening(self, plan: Plan, *, batch: int = 1) -> Opening | None:
        """What makes the first chunks of a video's shots, or of several of one plan, where it is another network."""
        if (model := self.opening_model) is None:
            return None
        cache = self._cache_of(model, plan, self.facts.chunk_frames, batch=batch)
        compositor = self.codec if isinstance(self.codec, PixelCodec) else None
        return Opening(model, cache, plan.first_steps or plan.steps, compositor)

    def steps_of(self, plan: Plan) -> StepsOf:
        """The steps of the first network's chunks; where another begins each shot, that one alone takes first steps."""
        return plan.steps_of if self.opening_model is None else lambda chunk: plan.steps

    def recompute_context(self, plan: Plan) -> Recomputed | None:
        """What a video's past is seen by before each chunk, where the model was made for that."""
        facts = self.facts
        if not facts.recompute:
            return None
        return Recomputed(self.codec, frames=plan.window_frames - facts.chunk_frames, chunk_frames=facts.chunk_frames)

    def kv_cache(self, plan: Plan, *, batch: int = 1, window_frames: int | None = None) -> KVCache:
        """An empty cache for a video, or for several of one plan; for a short one it is no larger than that.

        window_frames: if others than the plan's.
        """
        window_frames = window_frames or plan.window_frames
        if plan.frames is not None:
            window_frames = min(window_frames or plan.latent_frames, plan.latent_frames)
        frames = max(window_frames, self.facts.chunk_frames)
        return self._cache_of(self.model, plan, frames, batch=batch, sink_frames=self.facts.sink_frames)

    def _cache_of(
        self, model: CausalTransformer, plan: Plan, window_frames: int, *, batch: int, sink_frames: int = 0
    ) -> KVCache:
        return model.kv_cache(
            window_frames=window_frames,
            sink_frames=sink_frames,
            rope=plan.rope,
            sink_placement=self.facts.sink_placement,
            trained_frames=self.facts.trained_frames,
            batch=batch,
            latent_height=plan.geometry.latent_height,
            latent_width=plan.geometry.latent_width,
        )


def load(
    model: str | Path = DEFAULT_MODEL,
    *,
    device: str = AUTO,
    dtype: str = AUTO,
    loading: Loading = LOADING,
    lora_files: Sequence[Path] = (),
    video: Video | None = None,
    vae_device: str = AUTO,
    join: Callable[[torch.device], Ulysses | None] = lambda device: None,
) -> Pipeline:
    """A pipeline from a model's name or the folder of a model pack; every file is verified first.

    loading: with random weights, the name is one of the catalogue's, and no file is read. lora_files: where its LoRAs
    lie, in their order (`lora_files.lora_use`). video: what is to be made, if it is not of the model's own size.
    vae_device: where frames are encoded and decoded; auto is where the network computes. join: gives the processes that
    make each video together, this one the first of them, if there are several; asked once all is checked.
    Raises ModelError when the model is missing, damaged or foreign, DeviceError when the device is, or has too little
    memory.
    """
    chosen = resolve_model(model, loading=loading)
    folder, facts = chosen.folder, chosen.facts
    torch_device = resolve_device(device)
    torch_dtype = resolve_dtype(dtype, torch_device)
    decodes_on = torch_device if vae_device == AUTO else resolve_device(vae_device, option="--vae-device")
    codec_dtype = resolve_dtype(dtype, decodes_on)
    keep_freed_memory()
    here = decodes_on == torch_device
    loading, note = fitting(folder, facts, loading, video, device=torch_device, dtype=torch_dtype, decodes_here=here)
    if loading.compile:
        check_compiler(torch_device)  # before anything large is read
    check_quantize(loading.quantize, torch_device, torch_dtype)
    if folder is not None:  # of umT5, the files are looked at when it is needed
        codec_folder(folder, facts, loading.vae)  # which it may not have
        verify_pack(folder, without_parts(facts, *UMT5_PARTS) if facts.text == "umt5" else facts)
    if processes := join(torch_device):
        torch_device = processes.device
        processes.tell(
            NetworksUsed(
                model=str(folder.resolve() if folder else model),
                sha256=chosen.sha256,
                dtype=torch_dtype,
                loading=loading,
                lora_files=tuple(str(file.resolve()) for file in lora_files),
            )
        )
    if folder is None:
        from causvid_cli.models.random_weights import random_codec, random_text

        text: TextEncoder = random_text(facts)
        codec = random_codec(loading.vae, device=decodes_on, dtype=codec_dtype)
    else:
        encodes_on = torch_device if loading.offload == "none" else torch.device("cpu")
        text = load_text_when_needed(
            folder, facts, device=torch_device, encodes_on=encodes_on, dtype=torch_dtype, cache=TextCache.of_user()
        )
        codec = load_codec(folder, facts, vae=loading.vae, device=decodes_on, dtype=codec_dtype)
    networks, notes = load_networks(
        folder, facts, loading, lora_files=lora_files, device=torch_device, dtype=torch_dtype
    )
    check_fit_together(networks, facts, codec=codec, text=text)
    if processes:
        for part, network in zip(facts.networks, networks, strict=True):
            check_heads(network.config.num_attention_heads, processes.size, name=f"{facts.name} {part}")
        processes.spread(networks)
        processes.agree()
    by_part = dict(zip(facts.networks, networks, strict=True))
    told = tuple(line for line in (note, *notes) if line)
    return Pipeline(
        facts,
        folder=folder,
        model=by_part["transformer"],
        codec=codec,
        text=text,
        device=torch_device,
        decodes_on=decodes_on,
        context_model=by_part.get(facts.context_network or ""),
        opening_model=by_part.get(facts.opening_network or ""),
        notes=told,
    )
