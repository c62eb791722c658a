"""What published students do differently, against a naive reference: no cache, every call computed from the beginning.

The formulas are the publishers', as their programs have them: positions of Self Gradient Forcing (Self_Gradient_Forcing
at 120d25e, `kv_cache_position_mode`), schedules and the noisy past of Causal-rCM (`Causal_rCM.md`), steps of the first
chunk of Causal-Forcing++ (`denoising_step_list_first_chunk`), the second network of SGF+ (`use_memory_expert`).
"""

import shutil
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny_pack, tiny_transformer
from torch import Tensor

from causvid_cli.codec.condition import encode_prefix
from causvid_cli.config import PackFacts, load_facts
from causvid_cli.errors import ModelError
from causvid_cli.geometry import Chunk, take_chunks
from causvid_cli.models.catalogue import find_checkpoint
from causvid_cli.models.packs import write_pack_manifest
from causvid_cli.network.cache import KVCache, PromptCache
from causvid_cli.network.model import CausalTransformer
from causvid_cli.pipeline import Pipeline, Stream, load
from causvid_cli.prompt.cues import Cue
from causvid_cli.request import Transition
from causvid_cli.sampling.drawings import Opening
from causvid_cli.sampling.plan import make_steps
from causvid_cli.sampling.together import Together
from causvid_cli.storybook import ALL_WORDS
from causvid_cli.weights.files import save_safetensors

PROMPT, SEED, CHUNKS = "a red car moves left in the snow", 5, 9
LIMIT = 2e-5
"""Float32, sums in another order, through two layers and several steps."""


# --- the reference -------------------------------------------------------------------------------------------------


def kept_positions(facts: PackFacts, first: int, count: int) -> tuple[list[int], list[int]]:
    """Frames that a chunk of frames [first, first + count) sees, itself last, and their positions in time."""
    sink, capacity = facts.sink_frames, facts.sink_frames + facts.window_frames
    newest = first + count
    frames = list(range(newest))
    if newest > capacity:
        frames = [*range(sink), *range(newest - facts.window_frames, newest)]
    if facts.rope == "absolute":
        return frames, frames
    window = len(frames) - sink
    if facts.sink_placement == "beside" or window <= 0:
        return frames, list(range(len(frames)))
    last = min(newest - 1, facts.trained_frames - 1)
    return frames, [*range(sink), *range(last - window + 1, last + 1)]


@cache
def turns(t: int, rows: int, columns: int, d: int) -> Tensor:
    """Complex turns of the tokens of a frame at position t, [L, d / 2]."""
    side, angles = 2 * (d // 6), []
    for row, column in product(range(rows), range(columns)):
        axes = ((t, d - 2 * side), (row, side), (column, side))
        angles.append(torch.cat([n / 10000 ** (torch.arange(0, size, 2).double() / size) for n, size in axes]))
    return torch.polar(torch.ones(()).double(), torch.stack(angles))


def rotated(x: Tensor, positions: list[int], rows: int, columns: int) -> Tensor:
    """RoPE of Wan: of head_dim d, rows and columns get 2 * (d // 6) numbers each, time the rest. x: [B, L, N, d]."""
    turn = torch.cat([turns(t, rows, columns, x.shape[-1]) for t in positions])[None, :, None]
    pairs = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * turn).flatten(-2).to(x.dtype)


@dataclass
class Naive:
    """Self-attention of chunks, row by row: each sees what it may of the past rows and its own, by softmax.

    rows: the chunks of this pass, (first frame, frames). past: keys and values before RoPE of earlier passes, by layer
    and frame; this pass adds its own where `keeps`. side, columns: rows of tokens, and columns where these are others.
    """

    facts: PackFacts
    rows: list[tuple[int, int]]
    past: dict[tuple[int, int], tuple[Tensor, Tensor]]
    side: int
    keeps: bool = True
    columns: int | None = None

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, backend: object) -> Tensor:
        per_frame, out, done = self.side * (self.columns or self.side), [], 0
        own = dict(self.past)
        for first, count in self.rows:
            for number in range(count):
                part = slice((done + number) * per_frame, (done + number + 1) * per_frame)
                own[layer, first + number] = k[:, part], v[:, part]
            frames, positions = kept_positions(self.facts, first, count)
            keys = torch.cat([own[layer, frame][0] for frame in frames], dim=1)
            values = torch.cat([own[layer, frame][1] for frame in frames], dim=1)
            queries = q[:, done * per_frame : (done + count) * per_frame]
            queries = rotated(queries, positions[-count:], self.side, self.columns or self.side)
            keys = rotated(keys, positions, self.side, self.columns or self.side)
            weights = torch.einsum("bqnd,bknd->bnqk", queries, keys) / q.shape[-1] ** 0.5
            out.append(torch.einsum("bnqk,bknd->bqnd", weights.softmax(-1), values))
            done += count
        if self.keeps:
            self.past |= own
        return torch.cat(out, dim=1)


@dataclass
class Reference:
    """A roll-out in which every call runs over all that was before it."""

    pipeline: Pipeline
    schedule: list[list[tuple[float, float]]]
    """Chunk -> (timestep, sigma) of its steps; the last entry is for all later ones."""
    rows: list[tuple[int, Tensor, float]] = field(default_factory=list)
    """First frame, input and timestep of each chunk's call that later chunks see."""
    before: Tensor = field(default_factory=lambda: torch.empty(0))
    """The latent frame before the last that was there, where both are copied."""
    given: int = 1
    """How many latent frames are given, or the one that the first chunk begins with."""
    began: Tensor = field(default_factory=lambda: torch.empty(0))
    """The latent frame that the shot began with."""
    scene: Tensor = field(default_factory=lambda: torch.empty(0))
    """What nobody is in, where that is copied."""

    def call(self, x_t: Tensor, timestep: float, first: int) -> Tensor:
        """The prediction for a chunk, after all context calls in one pass by the network that runs them."""
        facts, side, past = self.pipeline.facts, x_t.shape[-1] // 2, {}
        writer = self.pipeline.context_model or self.pipeline.model
        if self.rows:
            inputs = torch.cat([x for _, x, _ in self.rows], dim=2)
            times = torch.cat([torch.full((1, x.shape[2]), t) for _, x, t in self.rows], dim=1)
            rows = [(start, x.shape[2]) for start, x, _ in self.rows]
            self.run(writer, inputs, times, Naive(facts, rows, past, side))
        times = torch.full((1, x_t.shape[2]), timestep)
        maker = self.pipeline.model if self.rows else self.pipeline.opening_model or self.pipeline.model
        return self.run(maker, x_t, times, Naive(facts, [(first, x_t.shape[2])], past, side, keeps=False))

    def run(self, model: CausalTransformer, x: Tensor, times: Tensor, reach: Naive, embeds: Tensor | None = None):
        embeds = (self.pipeline.text.encode(PROMPT).embeds if embeds is None else embeds).to(x)
        return model._run(x, times, PromptCache(model.prompt_cache(embeds).embeds), reach)

    def begin(self, stream: Stream, chunk: Chunk, step: int) -> Tensor:
        """Noise, or what was there last."""
        if self.pipeline.facts.prediction != "copies" or not self.rows:
            return stream._noise(chunk, step)
        frames = torch.cat([x0 for _, x0, _ in self.rows], dim=2)
        self.before, self.began = (
            frames[:, :, -2:][:, :, :1],
            self.began if len(self.began) else frames[:, :, self.given - 1 :][:, :, :1],
        )
        self.scene = self.bare_scene(torch.zeros_like(frames[:, :, :1]).repeat(1, 1, 1, 1, 16 // frames.shape[-1]))
        return torch.cat([frames[:, :, -1:]] * chunk.frames, dim=2)

    def bare_scene(self, x_t: Tensor) -> Tensor:
        """What the network for first chunks makes of nothing under the prompt's story without anybody."""
        text, maker = self.pipeline.text, self.pipeline.opening_model
        story = replace(text.encode(PROMPT).reading, subject=None, colour="natural", action="stays still")
        reach, (timestep, _) = (
            Naive(self.pipeline.facts, [(0, 1)], {}, x_t.shape[-2] // 2, columns=x_t.shape[-1] // 2),
            self.schedule[0][0],
        )
        times = torch.full((1, x_t.shape[2]), timestep)
        return self.run(maker, x_t, times, reach, text.text(text.text.rows([story])))

    def x0(self, x_t: Tensor, sigma: float, output: Tensor) -> Tensor:
        """The clean latents that an output means, cell by cell."""
        prediction, channels = self.pipeline.facts.prediction, x_t.shape[1]
        if prediction == "flow":
            return x_t - sigma * output
        if output.shape[1] == channels:  # of what nothing comes before
            return output
        x0, side = torch.empty_like(x_t), x_t.shape[-1]
        for row, column in product(range(side), range(side)):
            new, logits = output[..., row, column].split([channels, output.shape[1] - channels], dim=1)
            for picture in range(4):
                own, first = slice(picture * channels // 4, (picture + 1) * channels // 4), slice(0, channels // 4)
                for frame in range(x_t.shape[2]):
                    choice = int(logits[0, 46 * picture : 46 * picture + 46, frame].argmax())
                    part = self.part(x_t, new, choice, own, first, row, column)
                    x0[:, own, frame, row, column] = part[:, :, min(frame, part.shape[2] - 1)]
        return x0

    def part(self, x_t: Tensor, new: Tensor, choice: int, own: slice, first: slice, row: int, column: int) -> Tensor:
        """What a choice is for a cell of a picture, [1, c, f]: 9 cells, 6 moved, 9 mirrored, 5 before, 5, 11 scenes."""
        beside = [(row, column), (row, column - 1), (row, column + 1), (row - 1, column), (row + 1, column)]
        further = [(row - 2, column), (row + 2, column), (row, column - 2), (row, column + 2)]
        if choice < 9:
            return self.cell(x_t[:, own], *[*beside, *further][choice])
        if choice < 15:  # 6, 4, 2 left, as many right
            return self.moved(x_t[:, first], choice - 9, row, column)
        if choice < 24:
            return self.moved(x_t[:, own], 6, row, column + choice - 19)
        if choice < 29:
            return self.cell(self.before[:, own], row, column + (0, -2, 2, -4, 4)[choice - 24])
        if choice < 34:
            return self.cell(self.began[:, own], row + (0, 1, 2, -1, -2)[choice - 29], column)
        if choice < 45:
            way, went = ((0, 0), *((n * s, m * s) for n in (2, 4) for s in (1, -1) for m in (0, n)), (0, 2), (0, -2))[
                choice - 34
            ]
            return self.gone_by(x_t[:, first], own, way, went, row, column)
        return new[:, own]

    def gone_by(self, last: Tensor, own: slice, way: int, went: int, row: int, column: int) -> Tensor:
        """One cell of a picture of the scene, [1, c, 1], where a camera goes and went so many pixels a picture."""
        size = own.stop - own.start
        picture, begin = own.start // size, (16 - last.shape[-1]) // 2
        columns = torch.arange(begin, begin + last.shape[-1])

        def unlike(place: tuple[int, int]) -> float:
            pixels, cells = place
            there = self.further(slice(0, size), pixels)[..., (columns + cells) % 16]
            return (there - last[:, :, 0]).square().mean(dim=1).clamp(max=0.5).mean().item()

        pixels, cells = min(product((0, 2, 4, 6), range(16)), key=unlike)
        at = 8 * cells + pixels + 4 * went + way * picture
        return self.further(own, at % 8)[..., row, (begin + column + at // 8) % 16].unsqueeze(-1)

    def further(self, own: slice, pixels: int) -> Tensor:
        """A picture of the scene, all round [1, c, h, 16], from pixels further right."""
        moves, picture = self.pipeline.model.transformer.moves, self.scene[:, own, 0]
        if pixels == 0:
            return picture
        picture, move = (picture.roll(-1, -1), 2) if pixels == 6 else (picture, -pixels)
        around = torch.nn.functional.pad(picture, (1, 1, 0, 0), mode="circular")
        around = torch.nn.functional.pad(around, (0, 0, 1, 1), mode="replicate")
        move = (-6, -4, -2, 2, 4, 6).index(move)
        return torch.nn.functional.conv2d(around, moves.weight[move], moves.bias[move])

    def cell(self, frames: Tensor, row: int, column: int) -> Tensor:
        """One cell of frames [1, c, f, h, w]; beyond an edge the outermost."""
        rows, columns = frames.shape[-2:]
        return frames[..., min(max(row, 0), rows - 1), min(max(column, 0), columns - 1)]

    def moved(self, frames: Tensor, move: int, row: int, column: int) -> Tensor:
        """One cell of frames through a kernel of the network's: of a column beyond an edge, that of the outermost."""
        moves, column = self.pipeline.model.transformer.moves, min(max(column, 0), frames.shape[-1] - 1)
        out = moves.bias[move].view(1, -1, 1).clone()
        for down, right in product(range(3), range(3)):
            around = self.cell(frames, row + down - 1, column + right - 1)
            out = out + torch.einsum("oc,bcf->bof", moves.weight[move, :, :, down, right], around)
        return out

    def latents(self, count: int, given: Tensor | None = None) -> list[Tensor]:
        """Clean latents of so many chunks, after a given one that is seen as it is."""
        facts, made = self.pipeline.facts, []
        given_frames = 0 if given is None else given.shape[2]
        if given is not None:
            self.rows.append((0, given, 0.0))
        self.given = given_frames or facts.chunk_frames
        stream = self.pipeline.stream(PROMPT, seed=SEED)
        for index in range(count):
            first = given_frames + index * facts.chunk_frames
            chunk = Chunk(index, first, facts.chunk_frames)
            steps = self.schedule[min(index, len(self.schedule) - 1)]
            x_t = steps[0][1] * self.begin(stream, chunk, 0)
            for number, (timestep, sigma) in enumerate(steps):
                x0 = self.x0(x_t, sigma, self.call(x_t, timestep, first))
                last_x_t = x_t
                if number + 1 < len(steps):
                    later = steps[number + 1][1]
                    x_t = (1 - later) * x0 + later * stream._noise(chunk, number + 1)
            noisy = facts.context == "last_call" and first > 0
            self.rows.append((first, last_x_t, timestep) if noisy else (first, x0, facts.context_noise))
            made.append(x0)
        return made


# --- packs ---------------------------------------------------------------------------------------------------------


FACTS: dict[str, object] = {"steps": (1000.0, 500.0), "shift": 1.0, "warp_steps": False, "sink_frames": 0}
EXACT = [(1000 * float(t), float(t)) for t in (Fraction(1600, 1601), Fraction(15, 16), Fraction(5, 6), Fraction(5, 8))]
TWO = [(1000.0, 1.0), (500.0, 0.5)]
COPIES: dict[str, object] = {"opening_network": "opening", "prediction": "copies", "steps": (1000.0,)}
FORMS: dict[str, tuple[dict[str, object], list[list[tuple[float, float]]]]] = {
    "fewer steps after the first chunk": (
        {"first_steps": tuple(t for t, _ in EXACT), "steps": (EXACT[0][0], EXACT[2][0])},
        [EXACT, [EXACT[0], EXACT[2]]],
    ),
    "one step after the first chunk": (
        {"first_steps": tuple(t for t, _ in EXACT), "steps": (EXACT[0][0],), "chunk_frames": 2},
        [EXACT, EXACT[:1]],
    ),
    "a sink kept apart": (
        {"sink_frames": 1, "window_frames": 3, "sink_placement": "apart", "trained_frames": 6},
        [TWO],
    ),
    "a sink kept apart, chunks of 2": (
        {"sink_frames": 2, "window_frames": 4, "sink_placement": "apart", "trained_frames": 9, "chunk_frames": 2},
        [TWO],
    ),
    "no room for a gap": (
        {"sink_frames": 1, "window_frames": 3, "sink_placement": "apart", "trained_frames": 4},
        [TWO],
    ),
    "a sink beside the window": ({"sink_frames": 1, "window_frames": 3}, [TWO]),
    "a sink that stays where it was": ({"sink_frames": 1, "window_frames": 3, "rope": "absolute"}, [TWO]),
    "the past as the last call left it": (
        {"context": "last_call", "first_steps": tuple(t for t, _ in EXACT), "steps": (EXACT[0][0], EXACT[3][0])},
        [EXACT, [EXACT[0], EXACT[3]]],
    ),
    "a clean pass that is a little noisy": ({"context_noise": 100.0}, [TWO]),
    "a second network": (
        {"context_network": "context_transformer", "sink_frames": 1, "window_frames": 3, "sink_placement": "apart"},
        [TWO],
    ),
    "a network for what nothing comes before": (
        {"opening_network": "opening", "first_steps": (1000.0,), "sink_frames": 1, "window_frames": 3},
        [TWO[:1], TWO],
    ),
    "copies of what was there": (
        {**COPIES, "first_steps": (1000.0, 500.0), "window_frames": 3},
        [TWO, TWO[:1]],
    ),
    "copies of what was there, chunks of 2": (
        {**COPIES, "chunk_frames": 2},
        [TWO[:1]],
    ),
    "a network for each": (
        {"opening_network": "opening", "context_network": "context_transformer", "chunk_frames": 2},
        [TWO],
    ),
}


def pack_of(folder: Path, **facts: object) -> Pipeline:
    """A loaded pack of random weights, with a second network where its facts name one."""
    second = facts.pop("context_network", None)
    tiny_pack(folder, **{**FACTS, **facts})
    if second:
        shutil.copytree(folder / "transformer", folder / second)
        save_safetensors(tiny_transformer(seed=9).transformer.state_dict(), folder / second, dtype=torch.bfloat16)
        write_pack_manifest(folder, replace(load_facts(folder), context_network=second))
    return load(folder, device="cpu", dtype="float32")


def largest(ours: list[Tensor], wanted: list[Tensor]) -> float:
    assert len(ours) == len(wanted)
    return max((a - b).abs().max().item() for a, b in zip(ours, wanted, strict=True))


def video(pipeline: Pipeline, chunks: int = CHUNKS, **options: object) -> list[Tensor]:
    grid = pipeline.plan(length="1f").grid
    return [
        chunk.latent for chunk in pipeline.stream(PROMPT, length=f"{grid.first_frame(chunks)}f", seed=SEED, **options)
    ]


@pytest.mark.parametrize("form", FORMS)
def test_a_form_is_what_a_naive_roll_out_gives(tmp_path, form):
    facts, schedule = FORMS[form]
    pipeline = pack_of(tmp_path / "pack", **facts)
    chunks = CHUNKS // pipeline.facts.chunk_frames + 2
    with torch.inference_mode():
        wanted = Reference(pipeline, schedule).latents(chunks)
    assert largest(video(pipeline, chunks), wanted) < LIMIT


GIVEN_FORMS = [
    "a clean pass that is a little noisy",
    "the past as the last call left it",
    "a network for what nothing comes before",
    "copies of what was there",
]


@pytest.mark.parametrize("form", GIVEN_FORMS)
def test_a_given_frame_is_seen_clean_and_the_first_chunk_after_it_takes_its_own_steps(tmp_path, form):
    facts, schedule = FORMS[form]
    pipeline = pack_of(tmp_path / "pack", **facts)
    size = (pipeline.codec.facts.frames(1), pipeline.facts.height, pipeline.facts.width, 3)
    given = drawn(pipeline, size)
    ((_, x0),) = encode_prefix(pipeline.codec, given, 1)
    options = {"length": f"{5 * size[0]}f", "given": given, "shows_given": True}
    _, *made = pipeline.stream(PROMPT, seed=SEED, **options)
    with torch.inference_mode():
        if pipeline.opening_model:  # which alone has learnt the first steps
            schedule = schedule[1:]
        wanted = Reference(pipeline, schedule).latents(4, given=x0)
    assert largest([chunk.latent for chunk in made], wanted) < LIMIT


def drawn(pipeline: Pipeline, size: tuple[int, ...], *, seed: int = 0) -> np.ndarray:
    """Pictures in the codec's palette."""
    palette = pipeline.codec.palette.numpy()
    return palette[np.random.default_rng(seed).integers(len(palette), size=size[:3])]


@pytest.mark.parametrize("shows_given", [True, False])
def test_after_what_is_no_drawing_a_new_shot_begins_which_sees_nothing_of_it(tmp_path, shows_given):
    pipeline = pack_of(tmp_path / "pack", **COPIES)
    size = (pipeline.codec.facts.frames(1), pipeline.facts.height, pipeline.facts.width, 3)
    photos = [np.random.default_rng(seed).integers(256, size=size, dtype=np.uint8) for seed in (1, 2)]
    after = {}
    for name, given in (("photos", photos), ("drawings", [drawn(pipeline, size, seed=seed) for seed in (1, 2)])):
        streams = [
            pipeline.stream(PROMPT, length=f"{4 * size[0]}f", seed=SEED, given=each, shows_given=shows_given)
            for each in given
        ]
        after[name] = [[chunk.latent for chunk in stream if chunk.index >= 0] for stream in streams]
        assert all(any("is no drawing" in note for note in stream.notes) == (name == "photos") for stream in streams)
    assert largest(*after["photos"]) == 0
    assert largest(*after["drawings"]) > 100 * LIMIT


# --- shots ---------------------------------------------------------------------------------------------------------


def opener(folder: Path, **facts: object) -> Pipeline:
    return pack_of(folder, opening_network="opening", **facts)


def shots(pipeline: Pipeline, *prompts: str, transition: Transition = "recache", **options: object) -> list[Tensor]:
    """Latents of a video of three chunks under each prompt; each cue's noise is that of its own beginning."""
    cues = [Cue(prompt=prompt, start_chunk=3 * number, transition=transition) for number, prompt in enumerate(prompts)]
    frames = pipeline.plan(length="1f").grid.first_frame(3 * len(prompts))
    return [chunk.latent for chunk in pipeline.stream(cues, length=f"{frames}f", seed=SEED, **options)]


def test_who_or_where_or_another_action_is_a_new_shot_unless_it_is_told_to_go_on(tmp_path):
    """Of a model whose first chunks are another network's."""
    pipeline = opener(tmp_path / "pack")
    car, jump, boat = PROMPT, "a red car jumps in the snow", "a red boat jumps in the snow"
    made, plain = shots(pipeline, car, jump, boat), shots(pack_of(tmp_path / "plain"), car, jump, boat)
    frames = pipeline.plan(length="1f").grid.first_frame(9)

    def told(transition: Transition) -> list[Tensor]:
        cues = [(car, 0, "recache"), (jump, 3, transition), (boat, 6, "cut")]
        cues = [Cue(prompt=prompt, start_chunk=chunk, transition=how) for prompt, chunk, how in cues]
        return [chunk.latent for chunk in pipeline.stream(cues, length=f"{frames}f", seed=SEED)]

    assert largest(made, told("cut")) == 0  # both prompts cut by themselves
    goes_on = told("soft")
    pipeline.model, weights = pipeline.opening_model, pipeline.model
    alone = shots(pipeline, car, jump, boat)
    assert largest(made[3:7:3], alone[3:7:3]) < LIMIT  # made by the other network alone
    assert largest([goes_on[3]], [alone[3]]) > 100 * LIMIT
    pipeline.model = weights
    assert largest([plain[0]], [made[0]]) > 100 * LIMIT
    track = pipeline.track([Cue(prompt=car), Cue(prompt=boat, start_chunk=3, blend_chunks=2)], seed=0, guidance=1.0)
    assert track.transitions == ("recache",)  # a blend needs the past


def test_the_first_chunk_of_every_shot_takes_the_steps_that_its_network_has_learnt(tmp_path):
    pipeline, taken = opener(tmp_path / "pack", steps=(1000.0,), first_steps=(1000.0, 500.0, 250.0)), {}
    cues = [
        Cue(prompt=PROMPT),
        Cue(prompt="a red car jumps in the snow", start_chunk=1, transition="soft"),
        Cue(prompt="a boat", start_chunk=2),
    ]
    stream = pipeline.stream(cues, length=f"{pipeline.plan(length='1f').grid.first_frame(4)}f", seed=SEED)
    stream.on_step = lambda chunk, done: taken.update({chunk.index: done})
    assert len(list(stream)) == 4
    assert taken == {0: 3, 1: 1, 2: 3, 3: 1}


def test_a_bare_scene_is_drawn_once_for_each_prompt_and_no_seed_tells_it(tmp_path, monkeypatch):
    pipeline, drawn = pack_of(tmp_path / "pack", **COPIES), []

    def noted(self: Opening, *told: object) -> Tensor:
        drawn.append(scene(self, *told))
        return drawn[-1]

    scene = Opening.scene
    monkeypatch.setattr(Opening, "scene", noted)
    shots(pipeline, PROMPT, "a boat jumps on the sea")
    assert len(drawn) == 2 and not torch.equal(*drawn)
    list(pipeline.stream(PROMPT, length="2s", seed=SEED + 1))
    assert torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize("form", [{}, COPIES, {**COPIES, "words": ALL_WORDS}])
def test_a_video_of_shots_goes_on_from_any_chunk_and_a_negative_prompt_is_told_to_both(tmp_path, form):
    pipeline = pack_of(tmp_path / "pack", **{"opening_network": "opening", "first_steps": (1000.0, 250.0), **form})
    prompts = (PROMPT, "a red car jumps in the snow", "a boat jumps on the sea", PROMPT)
    whole = shots(pipeline, *prompts)
    softly = shots(pipeline, *prompts, transition="soft")
    assert largest(softly, whole) > 100 * LIMIT
    for known in (1, 3, 5, 6, 7, 11):
        for made, options in ((whole, {}), (softly, {"transition": "soft"})):
            kept = dict(enumerate(made[:known]))
            options |= {"made": lambda chunk, of=kept: of.get(chunk.index), "known_chunks": known}
            assert largest(shots(pipeline, *prompts, **options), made) == 0
    cues = [Cue(prompt=PROMPT, negative="a blue boat on the sea")]
    streams = [pipeline.stream(cues, length="1s", seed=SEED, guidance=guidance) for guidance in (1.0, 3.0)]
    told = [[chunk.latent for chunk in stream] for stream in streams]
    if form:  # copies cannot be led, which is said
        assert largest(*told) == 0
        assert all("negative prompt: it is left out" in note for stream in streams for note in stream.notes)
    else:
        assert largest(told[0][:1], told[1][:1]) > 100 * LIMIT


@pytest.mark.parametrize("form", [{}, COPIES, {**COPIES, "words": ALL_WORDS}])
def test_several_videos_of_shots_are_each_as_alone(tmp_path, form):
    pipeline = pack_of(tmp_path / "pack", **{"opening_network": "opening", **form})
    cues = [Cue(prompt=PROMPT), Cue(prompt="a boat jumps on the sea", start_chunk=2)]
    together = Together()
    streams = [pipeline.stream(cues, length="3s", seed=seed, together=together) for seed in (1, 2)]
    for seed, stream in zip((1, 2), streams, strict=True):
        alone = [chunk.latent for chunk in pipeline.stream(cues, length="3s", seed=seed)]
        assert largest([chunk.latent for chunk in stream], alone) < LIMIT


# --- positions -----------------------------------------------------------------------------------------------------


def test_forms_differ(tmp_path):
    sink = {"sink_frames": 1, "window_frames": 3}
    apart = pack_of(tmp_path / "apart", **sink, sink_placement="apart", trained_frames=6)
    made = [video(apart), video(pack_of(tmp_path / "beside", **sink)), video(apart, rope="absolute")]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert largest(made[one][:4], made[other][:4]) < LIMIT  # nothing is evicted yet
        assert largest(made[one], made[other]) > 100 * LIMIT
    assert largest(made[0][:6], made[2][:6]) < LIMIT  # as long as trained clips, the sink stays where it was


# --- schedules -----------------------------------------------------------------------------------------------------


def sigmas(name: str, count: int | None = None) -> list[float]:
    """Noise levels of a known checkpoint's first two chunks, one after the other."""
    later, first = make_steps(find_checkpoint(name).facts(), count, None)
    return [step.sigma for step in (*(first or later), *later)]


FOUR = [1600 / 1601, 15 / 16, 5 / 6, 5 / 8]


@pytest.mark.parametrize(
    ("name", "later"),
    [
        ("causal-rcm", FOUR),
        ("causal-rcm-framewise", FOUR),
        ("causal-rcm-2step", [1600 / 1601, 5 / 6]),
        ("causal-rcm-framewise-2step", [1600 / 1601, 5 / 6]),
        ("causal-rcm-framewise-2step-noisy", [1600 / 1601, 5 / 8]),
    ],
)
def test_causal_rcm_takes_its_publishers_times(name, later):
    assert sigmas(name) == pytest.approx([*FOUR, *later], rel=1e-15)


def test_causal_rcm_in_one_step_keeps_the_first_chunks_four():
    assert sigmas("causal-rcm-framewise-2step", 1) == pytest.approx([*FOUR, 1.0], rel=1e-15)
    assert len(sigmas("causal-rcm-framewise-2step", 8)) == 16


def shifted(nominal: list[float], shift: float = 5.0) -> list[float]:
    """Self-Forcing's warp: step n is sigma n / 1000, shifted."""
    return [shift * (n / 1000) / (1 + (shift - 1) * n / 1000) for n in nominal]


@pytest.mark.parametrize(("name", "later"), [("causal-forcing-2step", [1000, 500]), ("causal-forcing-1step", [1000])])
def test_causal_forcing_plus_plus_takes_four_steps_for_its_first_frame(name, later):
    assert sigmas(name) == pytest.approx(shifted([1000, 750, 500, 250, *later]))


@pytest.mark.parametrize("name", ["sgf", "sgf-framewise", "sgf-plus", "sgf-plus-framewise"])
def test_self_gradient_forcing_steps_and_stands_as_its_publisher_says(name):
    facts = find_checkpoint(name).facts()
    assert sigmas(name) == pytest.approx(2 * shifted([1000, 750, 500, 250]))
    cache = KVCache(
        layers=1,
        heads=1,
        head_dim=2,
        tokens_per_latent_frame=1,
        window_frames=facts.window_frames,
        sink_frames=facts.sink_frames,
        sink_placement=facts.sink_placement,
        trained_frames=facts.trained_frames,
        rotations_at=lambda positions: torch.zeros(1, len(positions)),
    )
    for chunk in take_chunks(60, facts.chunk_frames):
        place = cache.begin(chunk)
        frames, positions = kept_positions(facts, chunk.start_frame, chunk.frames)
        assert [position - place.sink_shift for position in place.positions] == positions[-chunk.frames :]
        cache.commit()
        assert cache.frames() == frames
    sink = facts.sink_frames
    assert positions == [*range(sink), *range(21 - facts.window_frames, 21)]


def test_streamdiffusion_v2_looks_its_levels_up_as_causvid_does():
    assert sigmas("streamdiffusion-v2")[:4] == pytest.approx([0.7, 0.5, 0.4, 0.2], abs=4e-3)
    table = torch.tensor(shifted([1000 - n for n in range(1000)], shift=8.0))
    nearest = [table[(table - t).abs().argmin()].item() for t in (0.7, 0.5, 0.4, 0.2)]
    assert sigmas("streamdiffusion-v2") == pytest.approx(2 * nearest)


# --- prompts, photos and resuming ----------------------------------------------------------------------------------


def noisy_pack(folder: Path) -> Pipeline:
    return pack_of(folder, **FORMS["the past as the last call left it"][0], sink_frames=1, window_frames=3)


def test_a_noisy_past_costs_a_call_less_for_every_chunk(tmp_path):
    calls: dict[str, int] = {}
    for form in ("last_call", "clean_pass"):
        pipeline = pack_of(tmp_path / form, context=form)
        pipeline.merge_clean_pass = False
        count: list[int] = []
        pipeline.model.register_forward_hook(lambda *_, seen=count: seen.append(1))
        video(pipeline, 5)
        calls[form] = len(count)
    assert calls == {"clean_pass": 5 * 2 + 4, "last_call": 5 * 2 + 1}  # the first chunk's clean pass


def test_a_noisy_past_is_the_prompts_own_beside_a_negative_one(tmp_path):
    pipeline = noisy_pack(tmp_path / "pack")

    def told(negative: str, guidance: float) -> list[Tensor]:
        cues = [Cue(prompt=PROMPT, negative=negative)]
        return [chunk.latent for chunk in pipeline.stream(cues, length="20f", seed=SEED, guidance=guidance)]

    assert largest(told("a cat", 1.0), told("", 1.0)) == 0
    almost = largest(told("a cat", 1 + 1e-6), told("", 1.0))
    assert almost < 1e-3, "the negative prompt's keys and values stay in the past"


@pytest.mark.parametrize("form", ["the past as the last call left it", "a second network"])
def test_a_resumed_video_is_the_same_bit_for_bit(tmp_path, form):
    pipeline = pack_of(tmp_path / "pack", **FORMS[form][0])
    whole = video(pipeline)
    again = video(pipeline, made=lambda chunk: whole[chunk.index] if chunk.index < 5 else None)
    assert all(torch.equal(a, b) for a, b in zip(whole, again, strict=True))


@pytest.mark.parametrize("form", ["the past as the last call left it", "a second network", "a sink kept apart"])
def test_a_new_prompt_changes_later_chunks_only(tmp_path, form):
    pipeline = pack_of(tmp_path / "pack", **FORMS[form][0])
    length = f"{pipeline.plan(length='1f').grid.first_frame(CHUNKS)}f"
    plain = video(pipeline)
    for transition in ("recache", "soft", "cut"):
        cues = [Cue(prompt=PROMPT), Cue(prompt="a blue cat jumps", start_chunk=4, transition=transition)]
        made = [chunk.latent for chunk in pipeline.stream(cues, length=length, seed=SEED)]
        assert [torch.equal(a, b) for a, b in zip(plain, made, strict=True)] == [True] * 4 + [False] * 5


@pytest.mark.parametrize(
    ("facts", "complaint"),
    [
        ({"first_steps": ()}, "first_steps: lists no timestep"),
        ({"first_steps": (500.0, 1000.0)}, "first_steps: must fall"),
        ({"context": "last_call", "context_network": "second"}, "context: runs no clean pass"),
        ({"context": "last_call", "opening_network": "second"}, "context: sees last calls"),
        ({"prediction": "copies"}, "prediction: needs an opening_network"),
        ({**COPIES, "steps": (1000.0, 500.0)}, "steps: must be one where what was there is copied"),
        ({"context_network": "../x"}, "context_network: must be the name of a folder"),
        ({"trained_frames": 0}, "trained_frames: must be 1 to 1,024"),
    ],
)
def test_a_pack_that_contradicts_itself_is_refused(tmp_path, facts, complaint):
    with pytest.raises(ModelError, match=complaint):
        tiny_pack(tmp_path / "pack", **facts)


@pytest.mark.parametrize("form", ["the past as the last call left it", "a second network"])
def test_videos_of_one_roll_out_are_those_made_alone(tmp_path, form):
    pipeline = pack_of(tmp_path / "pack", **FORMS[form][0])
    told = [(PROMPT, 1), ("a blue cat jumps", 2)]
    together = Together()
    streams = [pipeline.stream(prompt, length="24f", seed=seed, together=together) for prompt, seed in told]
    made = list(zip(*streams, strict=True))
    for number, (prompt, seed) in enumerate(told):
        alone = [chunk.latent for chunk in pipeline.stream(prompt, length="24f", seed=seed)]
        assert largest([chunks[number].latent for chunks in made], alone) < LIMIT
