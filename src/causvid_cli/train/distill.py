"""A whole distillation, stage by stage: each resumable by itself, each leaving what the next one needs.

autoencoder -> prepare -> pictures -> teacher -> opening -> pixels
    -> causal -> ode -> student -> dmd -> judge -> export -> eval

A run has the stages that its file has a section for. What they leave, and how the next one finds it: `train/run.py`.
"""

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from causvid_cli.codec.pixel import PixelCodec
from causvid_cli.config import to_json
from causvid_cli.errors import OutputError, UsageError
from causvid_cli.files import write_text
from causvid_cli.prompt.story import StoryText
from causvid_cli.storybook import SQUARE
from causvid_cli.train.autoencoder import OwnFrames, distinct_frames, train_autoencoder
from causvid_cli.train.captions import read_prompts
from causvid_cli.train.causal import train_causal
from causvid_cli.train.config import EvalConfig, OdeConfig, Optimisation, check_stages
from causvid_cli.train.dataset import LatentClips
from causvid_cli.train.denoiser import Denoiser
from causvid_cli.train.dmd import Matching, train_dmd
from causvid_cli.train.eval_stage import clips_of, evaluate
from causvid_cli.train.export import export_pack
from causvid_cli.train.judge_stage import load_judge, train_judge
from causvid_cli.train.moves import measure_moves
from causvid_cli.train.ode import OdePairs, make_ode_pairs, pairs_shard
from causvid_cli.train.opening import FirstChunks, train_opening, train_pixels
from causvid_cli.train.parallel import on_first
from causvid_cli.train.prepare import prepare
from causvid_cli.train.prompt_table import PromptTable, encode_prompts
from causvid_cli.train.resume import check_same_run, finished
from causvid_cli.train.run import MOVES_FILE, OPENING, PROMPT_ROWS, STUDENT_STAGES, TEACHER_STAGES, TrainingRun
from causvid_cli.train.sample_sheets import Samples, student_samples, teacher_samples
from causvid_cli.train.shards import save_shard
from causvid_cli.train.student import Regression, train_student
from causvid_cli.train.teacher_stage import train_teacher
from causvid_cli.train.trainer import Report, StageSetting
from causvid_cli.train.videos import VideoPlan, plan_videos
from causvid_cli.untrusted import read_object

StageReport = Callable[[str, dict[str, float]], None]
"""(stage, row of its log); the row is empty when the stage begins."""

PICTURE_SHIFT = 1.5
"""How far the noise levels of single latent frames lean to noise: less than those of clips."""
BEGINNING = ("ode", "dmd")
"""Stages in which the student makes what nothing comes before."""
ALONE = ("autoencoder", "prepare", "judge", "export", "eval")
"""Stages that one process does by itself."""
USES = {
    "data": ("autoencoder", "prepare"),
    "clips": ("prepare",),
    "rollout": ("opening", "pixels", "causal", "ode", "student", "dmd", "export"),
    "matching": ("dmd",),
    "teacher_guidance": ("export",),
    "teacher_steps": ("export",),
}
"""The stages that a section matters to, where it is neither one stage's plan nor matters to all."""
PRESENCE = {"opening": ("autoencoder", "prepare", "causal", "student", "export")}
"""The stages that a section matters to by being there: what is told of a change, and which clips the student sees.

Not so pixels: first chunks may become cleaner after the student has learnt to go on from them.
"""
NEEDS = {
    "autoencoder": (),
    "prepare": ("autoencoder",),
    "pictures": ("prepare",),
    "teacher": ("pictures",),
    "opening": ("teacher",),
    "pixels": ("opening",),
    "causal": ("teacher", "pixels"),
    "ode": ("causal",),
    "student": ("ode",),
    "dmd": ("student",),
    "judge": (),
    "export": ("dmd", "pixels", "judge"),
    "eval": ("export",),
}
"""The stages right before each stage; one that a run does not have stands for those before it."""


@dataclass
class Distillation(TrainingRun):
    """One run, to be gone through."""

    report: StageReport | None = None
    note: Callable[[str], None] | None = None
    """Where lines for the user go that belong to no step."""

    def run(self, stages: Sequence[str] = ()) -> None:
        """Run these stages, or all, in their order; finished ones are passed over, broken-off ones go on.

        Raises UsageError when a stage needs another that has not run to its end, or when the folder was made by another
        configuration, OutputError when the folder cannot be written.
        """
        chosen = check_stages(stages, self.config)
        if self.base and self.base.facts.opening_network and not self.config.opening and self.config.teacher:
            raise UsageError(
                f"[opening]: missing; stage teacher learns how prompts are told, and {self.config.base} makes first "
                "chunks by a network of their own, which has to learn that, too"
            )
        if self.config.pixels and len(self.rollout.first_steps or self.rollout.steps) != 1:
            raise UsageError("rollout.steps: must be one; stage pixels looks at what one step makes")
        if self.has_opening and (odd := [stage for stage in BEGINNING if stage in self.config.stages()]):
            raise UsageError(
                f"[{odd[0]}]: its clips begin with the student's own chunks, not with those of an opening network"
            )
        if self.config.eval and self.config.eval.teacher and not self.has_teacher:
            raise UsageError("eval.teacher: this run has no teacher; leave it out")
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
        path = self.folder / "config.json"
        begun = [stage for stage in self.config.stages() if self.leaves(stage).exists()]
        if path.exists():
            old = read_object(path)
            # By the steps that it was asked for then: a stage that is done takes no more, as others have built on it.
            steps = {stage: (old.get(stage) or {}).get("steps", 0) for stage in begun if stage != "ode"}
            check_same_run(
                old,
                json.loads(to_json(self.config)),
                begun=begun,
                finished=[stage for stage in begun if finished(self.folder / stage, steps.get(stage, 0))],
                uses=USES,
                presence=PRESENCE,
                folder=self.folder,
            )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_text(path, to_json(self.config, indent=2) + "\n")
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
        """Return the stages of this run right before a stage."""
        found = [{n} if n in self.config.stages() else self.needs(n) for n in NEEDS[stage]]
        return set().union(*found)

    def progress(self, stage: str, row: Mapping[str, float]) -> tuple[int, int]:
        """Return how far a stage is, from a row of its log: (done, of how many)."""
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
            own = OwnFrames(distinct_frames(videos, base), base) if videos else None
        folder, plan = self.folder / "autoencoder", self.config.autoencoder
        assert plan is not None
        train_autoencoder(folder, plan, self.setting("autoencoder"), self.words, base=base, own=own)

    def videos(self) -> VideoPlan | None:
        """Return the user's clips, planned; None where the file names no videos."""
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
        openings, all_round = story.pop("openings", 0), story.pop("all_round", 0)
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
        copies = self.base is None and self.config.network.prediction == "copies"
        if copies and not (self.latents / MOVES_FILE).exists():
            assert isinstance(self.codec, PixelCodec)
            moves = measure_moves(self.codec, self.seen_words, seed=self.config.seed)
            save_shard(moves.state_dict(), self.latents / MOVES_FILE)
        prepare(
            self.latents,
            self.codec,
            text or self.text(),
            videos=videos,
            known=self.known_codec,
            **story,
            chunk_frames=self.rollout.chunk_frames,
            same_shot=self.has_opening,
            device=self.device,
            seed=self.config.seed,
            report=self.setting("prepare").report,
            note=self.note,
        )
        if openings:
            shares = {name: openings * story[name] // max(1, story["clips"]) for name in ("wide", "tall")}
            prepare(
                self.latents / "openings",
                self.codec,
                text or self.text(),
                **shares,
                all_round=all_round,
                latent_frames=self.rollout.chunk_frames,
                chunk_frames=self.rollout.chunk_frames,
                long=openings,
                long_latent_frames=self.rollout.chunk_frames,
                turns=self.turns,
                device=self.device,
                seed=self.config.seed + 1,  # other stories than the clips'
                report=self.setting("prepare").report,
            )

    def pictures(self) -> None:
        self._teach("pictures", frames=1, shift=PICTURE_SHIFT)

    def teacher(self) -> None:
        self._teach("teacher", frames=None, shift=self.shift)

    def opening(self) -> None:
        train_opening(self.folder / OPENING, self.first_chunks(OPENING), self.plan(OPENING), self.setting(OPENING))

    def pixels(self) -> None:
        chunks, plan, setting = self.first_chunks("pixels"), self.plan("pixels"), self.setting("pixels")
        assert isinstance(self.codec, PixelCodec)
        shapes = tuple(self.shapes.values())
        train_pixels(self.folder / "pixels", chunks, self.codec, self.words, plan, setting, shapes=shapes)

    def causal(self) -> None:
        plan = self.config.causal
        assert plan is not None
        train_causal(
            self.folder / "causal",
            self.learner(self.student_net(before="causal")),
            self.clips(going_on=True),
            plan,
            self.rollout,
            shift=self.shift,
            setting=self.setting("causal"),
            blends=self.config.blends,
            few=plan.few_steps,
            opening=self.fixed_opening(),
        )

    def ode(self) -> None:
        plan = self.config.ode
        assert plan is not None
        make_ode_pairs(
            self.pairs,
            self.solver(plan.source),
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
        sizes = [SQUARE, *self.shapes.values()]
        train_judge(self.folder / "judge", self.seen_words, self.plan("judge"), self.setting("judge"), sizes=sizes)

    def export(self) -> None:
        student, base = self.student_net(), self.base
        export_pack(
            self.pack,
            self.facts(),
            student=student.network,
            opening=self.opening_net().network if self.config.opening else None,
            teacher=self.teacher_net().network if self.has_teacher else None,
            codec=self.codec if self.own_codec and isinstance(self.codec, PixelCodec) else None,
            text=student.text if isinstance(student.text, StoryText) else None,
            judge=load_judge(self.folder / "judge", self.seen_words, device=self.device) if self.config.judge else None,
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

    def plan(self, stage: str) -> Optimisation:
        """Return how a stage takes its steps."""
        plan: Optimisation = getattr(self.config, stage)
        return plan

    def setting(self, stage: str) -> StageSetting:
        """Return where and how a stage computes, and to whom it reports."""
        told = self.report
        report: Report | None = None if told is None else lambda row: told(stage, row)
        return StageSetting(
            device=self.device,
            seed=self.config.seed,
            compute=self.config.compute,
            report=report,
            samples=self.samples(stage) if stage in (*TEACHER_STAGES, *STUDENT_STAGES) else None,
        )

    def samples(self, stage: str) -> Samples | None:
        """Return how a stage shows on the way what it has learnt, where its plan asks for that."""
        if not self.plan(stage).sample_every:
            return None
        if stage in STUDENT_STAGES:
            return student_samples(self.codec, self.clips(), self.rollout, opening=self.fixed_opening())
        return teacher_samples(
            self.codec,
            self.clips(),
            frames=1 if stage == "pictures" else None,
            shift=self.shift,
            guidance=self.facts().teacher_guidance,
        )

    def regression(self, denoiser: Denoiser, plan: Optimisation) -> Regression:
        """Return the loss of stage `student`."""
        ode, student = self.config.ode, self.config.student
        supervise_rollout = ode is None or ode.supervise_rollout
        return Regression(
            denoiser,
            self.clips() if supervise_rollout else self.prompted(),
            OdePairs(self.pairs) if ode else None,
            self.rollout,
            batch=plan.batch,
            device=self.device,
            supervise_rollout=supervise_rollout,
            first_chunks=student is not None and student.first_chunks,
            opening=self.fixed_opening(),
            blends=self.config.blends,
        )

    def first_chunks(self, stage: str) -> FirstChunks:
        """Return what a stage of the network for first chunks learns from."""
        denoiser = self.learner(self.opening_net(before=stage))
        return FirstChunks(denoiser, LatentClips(self.latents / "openings"), self.rollout, self.turns, self.device)

    def fixed_opening(self) -> Denoiser | None:
        """Return the network for first chunks, which learns nothing here; None where there is none."""
        return self.opening_net().requires_grad_(False).eval() if self.has_opening else None

    def learner(self, denoiser: Denoiser, *, text: bool = False) -> Denoiser:
        """Return the same network, ready to be trained. text: so are its features, which teacher and student share."""
        denoiser.requires_grad_(True).train()
        denoiser.text.requires_grad_(text)
        denoiser.network.transformer.gradient_checkpointing = self.config.compute.gradient_checkpointing
        if self.config.compute.compile:
            denoiser.network.compile_whole()
        return denoiser

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
