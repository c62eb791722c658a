"""A whole distillation, stage by stage: each resumable by itself, each leaving what the next one needs.

autoencoder -> prepare -> pictures -> teacher -> causal -> ode -> student -> dmd -> judge -> export -> eval

A run has the stages that its file has a section for. Two networks go through them: the teacher (base -> pictures ->
teacher), and the student (the base's student, or else the teacher -> causal -> student -> dmd).
"""

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path

import torch

from causvid_cli import storybook
from causvid_cli.codec import Codec
from causvid_cli.codec.pixel import PixelCodec
from causvid_cli.config import PackFacts, to_json
from causvid_cli.errors import OutputError, UsageError
from causvid_cli.model import CausalTransformer
from causvid_cli.packs import write_text
from causvid_cli.text import StoryText
from causvid_cli.train.autoencoder import OwnPictures, distinct_pictures, load_codec, train_autoencoder
from causvid_cli.train.base import Base, load_base
from causvid_cli.train.captions import read_prompts
from causvid_cli.train.config import EvalConfig, OdeConfig, Optimisation, RolloutFacts, TrainConfig, check_stages
from causvid_cli.train.dmd import Matching, train_dmd
from causvid_cli.train.evaluate import clips_of, evaluate
from causvid_cli.train.export import export_pack
from causvid_cli.train.judge import load_judge, train_judge
from causvid_cli.train.latents import LatentClips, prepare
from causvid_cli.train.network import Denoiser, build_network, with_layers
from causvid_cli.train.parallel import on_first
from causvid_cli.train.prompted import Prompted
from causvid_cli.train.prompts import PromptTable, encode_prompts
from causvid_cli.train.runs import check_same_run, finished
from causvid_cli.train.samples import Samples, student_samples, teacher_samples
from causvid_cli.train.shards import load_shard, save_shard
from causvid_cli.train.student import OdePairs, Regression, make_ode_pairs, pairs_shard, train_causal, train_student
from causvid_cli.train.teacher import train_teacher
from causvid_cli.train.trainer import Report, Setting, averaged_weights
from causvid_cli.train.videos import VideoPlan, plan_videos

StageReport = Callable[[str, dict[str, float]], None]
"""(stage, row of its log); the row is empty when the stage begins."""

PICTURE_SHIFT = 1.5
"""How far the noise levels of single latent frames lean to noise: less than those of clips."""
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
ALONE = ("autoencoder", "prepare", "judge", "export", "eval")
"""Stages that one process does by itself."""
USES = {
    "data": ("autoencoder", "prepare"),
    "clips": ("prepare",),
    "rollout": ("causal", "ode", "student", "dmd", "export"),
    "matching": ("dmd",),
    "teacher_guidance": ("export",),
    "teacher_steps": ("export",),
}
"""The stages that a section matters to, where it is neither one stage's plan nor matters to all."""
NEEDS = {
    "autoencoder": (),
    "prepare": ("autoencoder",),
    "pictures": ("prepare",),
    "teacher": ("pictures",),
    "causal": ("teacher",),
    "ode": ("causal",),
    "student": ("ode",),
    "dmd": ("student",),
    "judge": (),
    "export": ("dmd", "judge"),
    "eval": ("export",),
}
"""The stages right before each stage; one that a run does not have stands for those before it."""
LEAVES = {
    "autoencoder": "autoencoder/codec.safetensors",
    "prepare": "latents/clips-00000.safetensors",
    "ode": "ode/pairs-00000.safetensors",
    "export": "pack/{name}/causvid.json",
}
"""Where in a run's folder the others find what a stage has made; for the others: STAGE/checkpoint."""
PROMPT_ROWS = "rows.safetensors"
"""In the folder of prepared clips: the prompts of `data.prompts`."""
TEACHER_STAGES = ("pictures", "teacher")
STUDENT_STAGES = ("causal", "student", "dmd")


@dataclass
class Distillation:
    """One run: its configuration, its folder, and what its stages have made."""

    config: TrainConfig
    folder: Path
    device: torch.device
    report: StageReport | None = None
    note: Callable[[str], None] | None = None
    """Where lines for the user go that belong to no step."""

    def run(self, stages: Sequence[str] = ()) -> None:
        """Run these stages, or all, in their order; finished ones are passed over, broken-off ones go on.

        Raises UsageError when a stage needs another that has not run to its end, or when the folder was made by another
        configuration, OutputError when the folder cannot be written.
        """
        chosen = check_stages(stages, self.config)
        for name in chosen:
            for needed in self.needs(name) - set(chosen):
                if not self.finished(needed):
                    how = "not finished" if self.leaves(needed).exists() else "not run"
                    raise UsageError(f"--stage {name}: needs stage {needed}, which has {how} in {self.folder}")
        on_first(self._open_folder)
        for name in chosen:
            if self.report:
                self.report(name, {})
            if name in ALONE:
                on_first(getattr(self, name))
            else:
                getattr(self, name)()

    def _open_folder(self) -> None:
        path, config = self.folder / "config.json", asdict(self.config)
        begun = [stage for stage in self.config.stages() if self.leaves(stage).exists()]
        if path.exists():
            old = json.loads(path.read_text())
            # By the steps that it was asked for then: a stage that is done takes no more, as others have built on it.
            steps = {stage: (old.get(stage) or {}).get("steps", 0) for stage in begun if stage != "ode"}
            check_same_run(
                old,
                json.loads(json.dumps(config)),
                begun=begun,
                finished=[stage for stage in begun if finished(self.folder / stage, steps.get(stage, 0))],
                uses=USES,
                folder=self.folder,
            )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_text(path, to_json(self.config))
        except OSError as error:
            raise OutputError(f"--run-dir {self.folder}: cannot be written: {error.strerror}") from error

    def finished(self, stage: str) -> bool:
        """Whether a stage has done all that the file asks of it."""
        plan = getattr(self.config, stage, None)
        if isinstance(plan, Optimisation):
            return finished(self.folder / stage, plan.steps) and self.leaves(stage).exists()
        if isinstance(plan, OdeConfig):
            return all(pairs_shard(self.pairs, number).exists() for number in range(-(-plan.pairs // plan.batch)))
        return self.leaves(stage).exists()

    def needs(self, stage: str) -> set[str]:
        """The stages of this run right before a stage."""
        found = [{n} if n in self.config.stages() else self.needs(n) for n in NEEDS[stage]]
        return set().union(*found)

    def leaves(self, stage: str) -> Path:
        """What a stage leaves for others."""
        if stage == "prepare" and not self.has_clips:
            return self.latents / PROMPT_ROWS
        return self.folder / LEAVES.get(stage, f"{stage}/checkpoint").format(name=self.config.name)

    @property
    def pack(self) -> Path:
        """The folder that `export` writes."""
        return self.folder / "pack" / self.config.name

    def progress(self, stage: str, row: Mapping[str, float]) -> tuple[int, int]:
        """How far a stage is, from a row of its log: (done, of how many)."""
        name, total = "step", 1
        match getattr(self.config, stage, None):
            case Optimisation(steps=total):
                pass
            case OdeConfig(pairs=total):
                name = "pairs"
            case EvalConfig() as plan:
                total = clips_of(plan)
        if stage == "prepare":
            name, total = "clips", int(row.get("total", 1))
        return min(int(row.get(name, 0)), total), total

    def autoencoder(self) -> None:
        base, own = self.base.codec if self.base else None, None
        if base is not None:
            if not isinstance(base, PixelCodec):
                raise UsageError("[autoencoder]: only the storybook's codec can learn; leave the section out")
            videos = self.videos()
            own = OwnPictures(distinct_pictures(videos, base), base) if videos else None
        folder, plan = self.folder / "autoencoder", self.config.autoencoder
        assert plan is not None
        train_autoencoder(folder, plan, self.setting("autoencoder"), base=base, own=own)

    def videos(self) -> VideoPlan | None:
        """The user's clips, planned."""
        data, clips, facts = self.config.data, self.config.clips, self.facts()
        if data is None or not data.videos:
            return None
        return plan_videos(
            self.latents,
            data,
            (self.base.codec if self.base else self.codec).facts,
            fps=facts.fps,
            size=(facts.width, facts.height),
            latent_frames=data.latent_frames or (clips.latent_frames if clips else self.rollout.window_frames),
            text=self.new_text(),
        )

    def prepare(self) -> None:
        data, clips, text, videos = self.config.data, self.config.clips, self.new_text(), self.videos()
        story = asdict(clips) if clips else {}
        if text is None:
            assert self.base is not None
            captions = list(videos.captions) if videos else []  # first, so that their row numbers stay as they are
            captions += read_prompts(Path(data.prompts)) if data and data.prompts else []
            if PromptTable(self.latents / "prompts").lacks(captions):
                encode_prompts(self.latents / "prompts", captions, replace(self.base).text)  # umT5 goes when it is done
        if data and data.prompts:
            rows = (text or self.text()).caption_rows(read_prompts(Path(data.prompts)))
            save_shard({"rows": rows}, self.latents / PROMPT_ROWS)
        if not self.has_clips:
            return
        prepare(
            self.latents,
            self.codec,
            text or self.text(),
            videos=videos,
            known=self.known_codec,
            **story,
            chunk_frames=self.rollout.chunk_frames,
            device=self.device,
            seed=self.config.seed,
            report=self.setting("prepare").report,
            note=self.note,
        )

    def pictures(self) -> None:
        self._teach("pictures", frames=1, shift=PICTURE_SHIFT)

    def teacher(self) -> None:
        self._teach("teacher", frames=None, shift=self.shift)

    def causal(self) -> None:
        train_causal(
            self.folder / "causal",
            self.learner(self.student_net(before="causal")),
            self.clips(),
            self.plan("causal"),
            self.rollout,
            shift=self.shift,
            setting=self.setting("causal"),
            blends=self.config.blends,
        )

    def ode(self) -> None:
        plan = self.config.ode
        assert plan is not None
        make_ode_pairs(
            self.pairs,
            self.teacher_net() if plan.source == "teacher" else self.student_net(before="student"),
            self.prompted(),
            plan,
            self.rollout,
            shift=self.shift,
            setting=self.setting("ode"),
        )

    def student(self) -> None:
        denoiser = self.learner(self.student_net(before="student"))
        plan = self.plan("student")
        regression = self.regression(denoiser, plan)
        train_student(self.folder / "student", denoiser, regression, plan, self.setting("student"))

    def dmd(self) -> None:
        plan, matching = self.plan("dmd"), self.config.matching
        student, teacher = self.learner(self.student_net(before="dmd")), self.teacher_net()
        real = teacher if matching.real_score == "teacher" else self.student_net(before="student")
        train_dmd(
            self.folder / "dmd",
            Matching(
                student,
                self.learner(copy.deepcopy(teacher)),
                self.learner(real),
                self.clips() if matching.forcing == "diffusion" else self.prompted(),
                self.rollout,
                matching,
                batch=plan.batch,
                shift=self.shift,
                device=self.device,
                regression=self.regression(student, plan) if matching.regression else None,
            ),
            plan,
            self.setting("dmd"),
        )

    def judge(self) -> None:
        train_judge(self.folder / "judge", self.plan("judge"), self.setting("judge"))

    def export(self) -> None:
        student, base = self.student_net(), self.base
        export_pack(
            self.pack,
            self.facts(),
            student=student.network,
            teacher=self.teacher_net().network if self.has_teacher else None,
            codec=self.codec if self.own_codec and isinstance(self.codec, PixelCodec) else None,
            text=student.text if isinstance(student.text, StoryText) else None,
            judge=load_judge(self.folder / "judge", device=self.device) if self.config.judge else None,
            base=base.folder if base else None,
        )

    def eval(self) -> None:
        assert self.config.eval is not None
        evaluate(
            self.folder / "eval",
            self.pack,
            None,
            self.config.eval,
            device=self.device,
            seed=self.config.seed,
            report=self.setting("eval").report,
        )

    def facts(self) -> PackFacts:
        """What the pack says of itself."""
        config, rollout = self.config, self.rollout
        facts = self.base.facts if self.base else STORYBOOK
        sizes = config.data.sizes if config.data else ()
        if sizes and (facts.width, facts.height) not in sizes:
            facts = replace(facts, width=sizes[0][0], height=sizes[0][1])
        return replace(
            facts,
            name=config.name,
            **asdict(rollout),
            sink_frames=0 if self.base is None else facts.sink_frames,
            prediction=config.network.prediction if self.base is None else facts.prediction,
            teacher="teacher" if self.has_teacher else None,
            teacher_guidance=config.teacher_guidance or facts.teacher_guidance,
            teacher_steps=config.teacher_steps or facts.teacher_steps,
            license=config.license or facts.license,
            source=config.source or facts.source,
            files={},
        )

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
        return self.base is None or self.base.teacher_folder is not None

    def plan(self, stage: str) -> Optimisation:
        """How a stage takes its steps."""
        plan: Optimisation = getattr(self.config, stage)
        return plan

    def setting(self, stage: str) -> Setting:
        """Where and how a stage computes, and to whom it reports."""
        told = self.report
        report: Report | None = None if told is None else lambda row: told(stage, row)
        return Setting(
            device=self.device,
            seed=self.config.seed,
            compute=self.config.compute,
            report=report,
            samples=self.samples(stage) if stage in (*TEACHER_STAGES, *STUDENT_STAGES) else None,
        )

    def samples(self, stage: str) -> Samples | None:
        """How a stage shows on the way what it has learnt, where its plan asks for that."""
        if not self.plan(stage).sample_every:
            return None
        if stage in STUDENT_STAGES:
            return student_samples(self.codec, self.clips(), self.rollout)
        return teacher_samples(
            self.codec,
            self.clips(),
            frames=1 if stage == "pictures" else None,
            shift=self.shift,
            guidance=self.facts().teacher_guidance,
        )

    @property
    def latents(self) -> Path:
        return self.folder / "latents"

    @property
    def pairs(self) -> Path:
        """What the shards of stage `ode` are called, but for their numbers."""
        return self.folder / "ode" / "pairs.safetensors"

    @cached_property
    def base(self) -> Base | None:
        """What the run starts from, where the file names it."""
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

    def clips(self) -> LatentClips:
        if not self.has_clips:
            raise UsageError("data.videos: missing; a stage of this run learns from clips, and there are only prompts")
        return LatentClips(self.latents)

    def prompted(self) -> LatentClips | Prompted:
        """What stages draw from that make clips of their own: where the file has prompts, those and all captions."""
        data = self.config.data
        if data is None or not data.prompts:
            return self.clips()
        rows = [load_shard(self.latents / PROMPT_ROWS)["rows"]]
        if self.has_clips:
            buckets = self.clips().buckets
            rows += [bucket.rows[bucket.known_from == 0] for bucket in buckets]
            shape = min(tuple(bucket.x0.shape[1:]) for bucket in buckets)
        else:
            facts, codec = self.facts(), self.codec.facts
            cells = facts.height // codec.spatial_factor, facts.width // codec.spatial_factor
            shape = (codec.latent_channels, data.latent_frames or self.rollout.window_frames, *cells)
        return Prompted(torch.cat(rows), shape)

    def new_text(self) -> StoryText | None:
        """The embedded model's text features as a run begins with them; None where prompts are read otherwise."""
        if self.base is None:
            return StoryText.for_vocabulary(dim=self.config.network.text_dim)
        if self.base.facts.text != "storybook":
            return None
        words = asdict(self.config.data.words) if self.config.data else {}
        return copy.deepcopy(self.base.story).with_words(words)

    def text(self) -> StoryText | PromptTable:
        """Text features of all that training tells; those that can be learnt are learnt with the teacher."""
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

    def regression(self, denoiser: Denoiser, plan: Optimisation) -> Regression:
        """The loss of stage `student`."""
        assert self.config.ode is not None
        return Regression(
            denoiser,
            self.clips() if self.config.ode.foretell else self.prompted(),
            OdePairs(self.pairs),
            self.rollout,
            batch=plan.batch,
            device=self.device,
            foretell=self.config.ode.foretell,
            blends=self.config.blends,
        )

    def teacher_net(self, *, before: str | None = None) -> Denoiser:
        """The teacher as its stages have left it, all of them or those before one."""
        start = replace(self.base).teacher if self.base else None  # loaded anew: the base keeps no copy
        return self._trained(start, self._stages_before(TEACHER_STAGES, before))

    def student_net(self, *, before: str | None = None) -> Denoiser:
        """The student as its stages have left it, all of them or those before one.

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

    def learner(self, denoiser: Denoiser, *, text: bool = False) -> Denoiser:
        """The same network, ready to be trained; text: its features too, which teacher and student share."""
        denoiser.requires_grad_(True).train()
        denoiser.text.requires_grad_(text)
        denoiser.network.transformer.gradient_checkpointing = self.config.compute.gradient_checkpointing
        if self.config.compute.compile:
            denoiser.network.compile_whole()
        return denoiser

    def _stages_before(self, stages: Sequence[str], before: str | None) -> tuple[str, ...]:
        earlier = stages[: stages.index(before)] if before in stages else stages
        return tuple(stage for stage in earlier if stage in self.config.stages())

    def _trained(self, start: CausalTransformer | None, stages: Sequence[str]) -> Denoiser:
        """A network with its text features, as these stages, one upon the other, have left it."""
        torch.manual_seed(self.config.seed)
        text = self.text()
        if start is None:
            network = build_network(self.config.network, self.codec.facts.latent_channels)
        else:
            network = start
        return self._as_left(Denoiser(network, text), stages)

    def _as_left(self, denoiser: Denoiser, stages: Sequence[str]) -> Denoiser:
        """A denoiser with the weights that stages, one upon the other, have left."""
        for stage in stages:
            part = "student" if stage == "dmd" else None
            denoiser.load_state_dict(averaged_weights(self.folder / stage, part=part), strict=False)
        return denoiser.to(self.device)

    def _teach(self, stage: str, *, frames: int | None, shift: float) -> None:
        train_teacher(
            self.folder / stage,
            self.learner(self.teacher_net(before=stage), text=True),
            self.clips(),
            self.plan(stage),
            frames=frames,
            shift=shift,
            setting=self.setting(stage),
        )
