"""What a run has: its configuration, its folder, and what its stages have left there, put together again.

Two networks go through the stages: the teacher (base -> pictures -> teacher), and the student (the base's student, or
else the teacher -> causal -> student -> dmd).
"""

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch

from causvid_cli import storybook
from causvid_cli.codec import Codec
from causvid_cli.codec.pixel import PixelCodec
from causvid_cli.config import PackFacts
from causvid_cli.errors import UsageError
from causvid_cli.network.model import CausalTransformer
from causvid_cli.prompt.story import StoryText
from causvid_cli.storybook import TALL, WIDE, Frame, Words
from causvid_cli.storybook.story import CHANGE
from causvid_cli.train.autoencoder import load_codec
from causvid_cli.train.base_model import Base, load_base
from causvid_cli.train.config import NetworkConfig, RolloutFacts, TrainConfig
from causvid_cli.train.dataset import LatentClips
from causvid_cli.train.denoiser import Denoiser, build_network, with_layers
from causvid_cli.train.prepare import Prompted
from causvid_cli.train.prompt_table import PromptTable
from causvid_cli.train.shards import load_shard
from causvid_cli.train.trainer import averaged_weights

STORYBOOK = PackFacts(
    name="storybook",
    chunk_frames=1,
    steps=(1000.0,),
    shift=1.0,
    warp_steps=True,
    sink_frames=0,
    window_frames=8,
    rope="relative",
    prediction="flow",
    fps=storybook.FPS,
    height=storybook.SIZE,
    width=storybook.SIZE,
    enlarge=8,
    text="storybook",
    codec="pixel",
    teacher_guidance=2.5,
    teacher_shift=2.0,
    license="Apache-2.0",
    source="",
)
"""What a pack that is made from nothing says of itself, but for what its run chooses."""
LEAVES = {
    "autoencoder": "autoencoder/codec.safetensors",
    "prepare": "latents/clips-00000.safetensors",
    "ode": "ode/pairs-00000.safetensors",
    "export": "pack/{name}/causvid.json",
}
"""Where in a run's folder the others find what a stage has made; for the others: STAGE/checkpoint."""
PROMPT_ROWS = "rows.safetensors"
"""In the folder of prepared clips: the prompts of `data.prompts`."""
MOVES_FILE = "moves.safetensors"
"""In the folder of prepared clips: how latents move, where a network copies what was there (`train/moves.py`)."""
TEACHER_STAGES = ("pictures", "teacher")
OPENING = "opening"
"""The first stage of a network for first chunks, and that network's folder in a pack."""
OPENING_STAGES = (OPENING, "pixels")
STUDENT_STAGES = ("causal", "student", "dmd")


@dataclass
class TrainingRun:
    """A run as far as it has come."""

    config: TrainConfig
    folder: Path
    device: torch.device

    def leaves(self, stage: str) -> Path:
        """Return the file that says that a stage has left what others need."""
        if stage == "prepare" and not self.has_clips:
            return self.latents / PROMPT_ROWS
        return self.folder / LEAVES.get(stage, f"{stage}/checkpoint").format(name=self.config.name)

    @property
    def pack(self) -> Path:
        """The folder that `export` writes."""
        return self.folder / "pack" / self.config.name

    @property
    def latents(self) -> Path:
        return self.folder / "latents"

    @property
    def pairs(self) -> Path:
        """The path of the shards of stage `ode`, but for their numbers."""
        return self.folder / "ode" / "pairs.safetensors"

    def facts(self) -> PackFacts:
        """Return what the pack says of itself."""
        config, rollout = self.config, self.rollout
        facts = self.base.facts if self.base else STORYBOOK
        sizes = config.data.sizes if config.data else ()
        if sizes and (facts.width, facts.height) not in sizes:
            facts = replace(facts, width=sizes[0][0], height=sizes[0][1])
        shapes = {name: (size.width, size.height, facts.enlarge) for name, size in self.shapes.items()}
        return replace(
            facts,
            name=config.name,
            sizes=facts.sizes | shapes,
            **asdict(rollout),
            sink_frames=0 if self.base is None else facts.sink_frames,
            context="clean_pass",  # which training runs, by the student itself
            context_network=None,
            opening_network=OPENING if self.config.opening else facts.opening_network,
            prediction=config.network.prediction if self.base is None else facts.prediction,
            teacher="teacher" if self.has_teacher else None,
            teacher_of=None,
            teacher_guidance=config.teacher_guidance or facts.teacher_guidance,
            teacher_steps=config.teacher_steps or facts.teacher_steps,
            license=config.license or facts.license,
            source=config.source or facts.source,
            files={},
        )

    @property
    def shapes(self) -> dict[str, Frame]:
        """The shapes of its storybook clips that are not square, by name."""
        clips = self.config.clips
        told = {"wide": (WIDE, clips.wide), "tall": (TALL, clips.tall)} if clips else {}
        return {name: size for name, (size, count) in told.items() if count}

    @property
    def rollout(self) -> RolloutFacts:
        """How the student makes videos: as the file says, or else as the base does."""
        if self.config.rollout or self.base is None:
            return self.config.rollout or RolloutFacts()
        known = asdict(self.base.facts)
        return RolloutFacts(**{field.name: known[field.name] for field in fields(RolloutFacts)})

    @property
    def shift(self) -> float:
        """How far the noise levels of training, and of the teacher's own schedule, lean to noise."""
        return self.facts().teacher_shift

    @property
    def has_teacher(self) -> bool:
        return bool(self.config.teacher) if self.base is None else self.base.teacher_folder is not None

    @cached_property
    def base(self) -> Base | None:
        """The base that the run starts from; None where the file names none."""
        return load_base(self.config.base, device=self.device, dtype=torch.float32) if self.config.base else None

    @cached_property
    def codec(self) -> Codec:
        if self.base and not self.own_codec:
            return self.base.codec
        plan = self.config.autoencoder
        assert plan is not None
        return load_codec(self.folder / "autoencoder", plan, device=self.device, base=self.known_codec)

    @property
    def known_codec(self) -> PixelCodec | None:
        """The base's codec, where the run teaches it something new."""
        codec = self.base.codec if self.base and self.own_codec else None
        return codec if isinstance(codec, PixelCodec) else None

    @property
    def own_codec(self) -> bool:
        """Whether the run trains a codec."""
        return self.base is None or self.config.autoencoder is not None

    @property
    def has_clips(self) -> bool:
        """Whether there is anything to learn from but prompts."""
        return bool(self.config.clips or (self.config.data and self.config.data.videos))

    @property
    def has_opening(self) -> bool:
        """Whether first chunks are made by a network of their own."""
        return self.facts().opening_network is not None

    @property
    def turns(self) -> bool:
        """Whether who goes left is drawn as the mirror image of who goes right (`StoryText.to_draw`)."""
        return self.facts().prediction == "copies"

    def clips(self, *, going_on: bool = False) -> LatentClips:
        """Return the prepared clips. going_on: for the student, to whom their first chunks may be given."""
        if not self.has_clips:
            raise UsageError("data.videos: missing; a stage of this run learns from clips, and there are only prompts")
        given = self.rollout.chunk_frames if going_on and self.has_opening else 0
        return LatentClips(self.latents, given=given)

    def prompted(self) -> LatentClips | Prompted:
        """What stages that make clips of their own draw from: prompts and captions, or clips where there are none."""
        data = self.config.data
        if data is None or not data.prompts:
            return self.clips()
        rows = [load_shard(self.latents / PROMPT_ROWS)["rows"]]
        if self.has_clips:
            buckets = self.clips().buckets
            rows += [bucket.rows[bucket.first_predictable_frame == 0] for bucket in buckets]
            shape = min(tuple(bucket.x0.shape[1:]) for bucket in buckets)
        else:
            facts, codec = self.facts(), self.codec.facts
            cells = facts.height // codec.spatial_factor, facts.width // codec.spatial_factor
            shape = (codec.latent_channels, data.latent_frames or self.rollout.window_frames, *cells)
        return Prompted(torch.cat(rows), shape)

    @property
    def words(self) -> Words:
        """What storybook clips of this run tell: what its prompts can.

        With a network for first chunks a change is told in two shots, unless a base's words have it.
        """
        words = self.seen_words
        if self.config.opening and self.base is None:
            words = {**words, "action": tuple(name for name in words["action"] if name != CHANGE)}
        return words

    @property
    def seen_words(self) -> Words:
        """What its judge can tell of a clip, whichever model has made it."""
        if self.base and self.base.facts.text == "storybook":
            return self.base.story.words
        return self.config.world.words() if self.config.world else storybook.FIRST_WORDS

    def new_text(self) -> StoryText | None:
        """The embedded model's text features as a run begins with them; None where prompts are read otherwise."""
        if self.base is None:
            pictures = bool(self.config.clips and self.config.clips.unnamed)
            return StoryText.for_vocabulary(self.words, dim=self.config.network.text_dim, pictures=pictures)
        if self.base.facts.text != "storybook":
            return None
        words = asdict(self.config.data.words) if self.config.data else {}
        return copy.deepcopy(self.base.story).with_words(words)

    def text(self) -> StoryText | PromptTable:
        """Return text features of all that training tells; those that can be learnt are learnt with the teacher."""
        text = self.new_text()
        if text is None:
            return PromptTable(self.latents / "prompts")
        for stage in self._stages_before(TEACHER_STAGES, None):
            if self.leaves(stage).exists():
                learnt = averaged_weights(self.folder / stage)
                text.load_state_dict(
                    {name.removeprefix("text."): w for name, w in learnt.items() if name.startswith("text.")}
                )
        return text

    def teacher_net(self, *, before: str | None = None) -> Denoiser:
        """Return the teacher as its stages have left it, all of them or those before one."""
        start = replace(self.base).teacher if self.base else None  # loaded anew: the base keeps no copy
        return self._trained(start, self._stages_before(TEACHER_STAGES, before))

    def opening_net(self, *, before: str | None = None) -> Denoiser:
        """Return the network for first chunks as its stages have left it, all of them or those before one.

        With a base it begins as what makes that one's.
        """
        base = replace(self.base) if self.base else None
        start = (base.opening or base.start) if base else None
        own = self.config.network
        shape = replace(own, prediction=self.facts().prediction_of(OPENING), ffn_dim=own.opening_ffn_dim or own.ffn_dim)
        return self._trained(start, self._stages_before(OPENING_STAGES, before), shape=shape)

    def student_net(self, *, before: str | None = None) -> Denoiser:
        """Return the student as its stages have left it, all of them or those before one.

        A base's student begins with what its teacher has learned in this run.
        """
        stages = self._stages_before(STUDENT_STAGES, before)
        start = replace(self.base).start if self.base else None
        if self.base and self.base.student_folder:
            if start and not stages:
                self._teach_student(start)
            denoiser = self._trained(start, ())
        else:
            denoiser = self._trained(start, self._stages_before(TEACHER_STAGES, None))
        if layers := self.config.network.student_layers:
            denoiser.network = with_layers(denoiser.network, layers)
        return self._as_left(denoiser, stages)

    def solver(self, source: Literal["teacher", "causal", "base"]) -> Denoiser:
        """Return the network whose solutions stage `ode` keeps. Raises UsageError where the base has no student."""
        if source == "teacher":
            return self.teacher_net()
        if source == "causal":
            return self.student_net(before="student")
        student = replace(self.base).student if self.base else None
        if student is None:
            raise UsageError(f"ode.source: {self.config.base} has no student; try teacher")
        return self._trained(student, ())

    @torch.no_grad()
    def _teach_student(self, student: CausalTransformer) -> None:
        """Add to the base's student the difference that this run has made to its teacher.

        The student was made from the teacher, so what changes the one changes the other alike: LCM-LoRA (arXiv
        2311.05556) adds such differences in the same way. Nothing happens where they are of different shapes.
        """
        if self.base is None or not self._stages_before(TEACHER_STAGES, None) or not self.has_teacher:
            return
        known, learnt = replace(self.base).teacher.state_dict(), self.teacher_net().network.state_dict()
        weights = student.state_dict()
        if {name: w.shape for name, w in weights.items()} != {name: w.shape for name, w in known.items()}:
            return
        for name, weight in weights.items():
            weight += learnt[name].to(weight) - known[name]

    def _stages_before(self, stages: Sequence[str], before: str | None) -> tuple[str, ...]:
        earlier = stages[: stages.index(before)] if before in stages else stages
        return tuple(stage for stage in earlier if stage in self.config.stages())

    def _trained(
        self, start: CausalTransformer | None, stages: Sequence[str], *, shape: NetworkConfig | None = None
    ) -> Denoiser:
        """Return a network with its text features, as these stages, one upon the other, have left it.

        shape: of a new one, if not as the file says.
        """
        torch.manual_seed(self.config.seed)
        text = self.text()
        if start is None:
            pictures = self.codec.stack if isinstance(self.codec, PixelCodec) else 1
            network = build_network(shape or self.config.network, self.codec.facts.latent_channels, pictures=pictures)
            if network.transformer.moves is not None:
                network.transformer.moves.load_state_dict(load_shard(self.latents / MOVES_FILE))
        else:
            network = start
        return self._as_left(Denoiser(network, text), stages)

    def _as_left(self, denoiser: Denoiser, stages: Sequence[str]) -> Denoiser:
        """Return a denoiser with the weights that stages, one upon the other, have left."""
        for stage in stages:
            part = "student" if stage == "dmd" else None
            denoiser.load_state_dict(averaged_weights(self.folder / stage, part=part), strict=False)
        return denoiser.to(self.device)
