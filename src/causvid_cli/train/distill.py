"""A whole distillation, stage by stage: each resumable by itself, each leaving what the next one needs.

autoencoder -> prepare -> pictures -> teacher -> causal -> ode -> student -> export -> judge -> eval
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from causvid_cli import storybook
from causvid_cli.codec.pixel import PixelCodec
from causvid_cli.config import PackFacts, to_json
from causvid_cli.errors import OutputError, UsageError
from causvid_cli.packs import write_text
from causvid_cli.schedule import Step, steps_of
from causvid_cli.text import StoryText
from causvid_cli.train.autoencoder import load_codec, train_autoencoder
from causvid_cli.train.config import Optimisation, TrainConfig, check_stages
from causvid_cli.train.evaluate import clips_of, evaluate
from causvid_cli.train.export import export_pack
from causvid_cli.train.judge import load_judge, train_judge
from causvid_cli.train.latents import LatentClips, prepare
from causvid_cli.train.network import Denoiser, build_network
from causvid_cli.train.student import OdePairs, make_ode_pairs, train_causal, train_student
from causvid_cli.train.teacher import train_teacher
from causvid_cli.train.trainer import Report, averaged_weights

StageReport = Callable[[str, dict[str, float]], None]
"""(stage, row of its log); the row is empty when the stage begins."""

PICTURE_SHIFT = 1.5
CLIP_SHIFT = 2.0
ENLARGE = 8
NEEDS = {
    "autoencoder": (),
    "prepare": ("autoencoder",),
    "pictures": ("prepare",),
    "teacher": ("pictures",),
    "causal": ("teacher",),
    "ode": ("causal",),
    "student": ("ode",),
    "export": ("student",),
    "judge": (),
    "eval": ("export", "judge"),
}
"""The stages right before each stage."""
LEAVES = {
    "autoencoder": "autoencoder/codec.safetensors",
    "prepare": "latents/clips-00000.safetensors",
    "pictures": "pictures/checkpoint",
    "teacher": "teacher/checkpoint",
    "causal": "causal/checkpoint",
    "ode": "ode/pairs.safetensors",
    "student": "student/checkpoint",
    "export": "pack/{name}/causvid.json",
    "judge": "judge/checkpoint",
}
"""Where in a run's folder the others find what a stage has made."""


@dataclass
class Distillation:
    """One run: its configuration, its folder, and what its stages have made."""

    config: TrainConfig
    folder: Path
    device: torch.device
    report: StageReport | None = None

    def run(self, stages: Sequence[str] = ()) -> None:
        """Run these stages, or all, in their order; finished ones are passed over, broken-off ones go on.

        Raises UsageError when a stage needs another that has not run, OutputError when the folder cannot be written.
        """
        chosen = check_stages(stages)
        for name in chosen:
            for needed in NEEDS[name]:
                if needed not in chosen and not (self.folder / LEAVES[needed].format(name=self.config.name)).exists():
                    raise UsageError(f"--stage {name}: needs stage {needed}, which has not run in {self.folder}")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_text(self.folder / "config.json", to_json(self.config))
        except OSError as error:
            raise OutputError(f"--run-dir {self.folder}: cannot be written: {error.strerror}") from error
        for name in chosen:
            if self.report:
                self.report(name, {})
            getattr(self, name)()

    @property
    def pack(self) -> Path:
        """The folder that `export` writes."""
        return self.folder / "pack" / self.config.name

    def progress(self, stage: str, row: Mapping[str, float]) -> tuple[int, int]:
        """How far a stage is, from a row of its log: (done, of how many)."""
        counted = {
            "prepare": ("clips", self.config.clips.count + self.config.clips.switches),
            "ode": ("pairs", self.config.ode.pairs),
            "eval": ("step", clips_of(self.config.eval)),
        }
        plan = getattr(self.config, stage, None)
        name, total = ("step", plan.steps) if isinstance(plan, Optimisation) else counted.get(stage, ("step", 1))
        return min(int(row.get(name, 0)), total), total

    def autoencoder(self) -> None:
        train_autoencoder(
            self.folder / "autoencoder",
            self.config.autoencoder,
            device=self.device,
            seed=self.config.seed,
            report=self._reporter("autoencoder"),
        )

    def prepare(self) -> None:
        prepare(
            self.folder / "latents",
            self.codec(),
            StoryText.for_vocabulary(dim=self.config.network.text_dim),
            clips=self.config.clips.count,
            switches=self.config.clips.switches,
            latent_frames=self.config.clips.latent_frames,
            device=self.device,
            seed=self.config.seed,
            report=self._reporter("prepare"),
        )

    def pictures(self) -> None:
        self._teach("pictures", self.denoiser(), frames=1, shift=PICTURE_SHIFT)

    def teacher(self) -> None:
        self._teach("teacher", self.denoiser("pictures"), frames=None, shift=CLIP_SHIFT)

    def causal(self) -> None:
        denoiser = self.denoiser("teacher")
        denoiser.text.requires_grad_(False)  # teacher and student share the text features
        train_causal(
            self.folder / "causal",
            denoiser,
            self.clips(),
            self.config.causal,
            chunk_frames=self.config.rollout.chunk_frames,
            window_frames=self.config.rollout.window_frames,
            shift=CLIP_SHIFT,
            device=self.device,
            seed=self.config.seed,
            report=self._reporter("causal"),
        )

    def ode(self) -> None:
        make_ode_pairs(
            self.folder / "ode" / "pairs.safetensors",
            self.denoiser("teacher", "causal"),
            self.clips(),
            count=self.config.ode.pairs,
            steps=self.steps(),
            chunk_frames=self.config.rollout.chunk_frames,
            guidance=self.config.ode.guidance,
            ode_steps=self.config.ode.steps,
            shift=CLIP_SHIFT,
            device=self.device,
            seed=self.config.seed,
            report=self._reporter("ode"),
        )

    def student(self) -> None:
        denoiser = self.denoiser("teacher", "causal")
        denoiser.text.requires_grad_(False)
        train_student(
            self.folder / "student",
            denoiser,
            self.clips(),
            self.config.student,
            steps=self.steps(),
            pairs=OdePairs(self.folder / "ode" / "pairs.safetensors"),
            chunk_frames=self.config.rollout.chunk_frames,
            window_frames=self.config.rollout.window_frames,
            device=self.device,
            seed=self.config.seed,
            report=self._reporter("student"),
        )

    def export(self) -> None:
        student = self.denoiser("teacher", "causal", "student")
        export_pack(
            self.pack,
            self.facts(),
            student=student.network,
            teacher=self.denoiser("teacher").network,
            codec=self.codec(),
            text=student.text,
        )

    def judge(self) -> None:
        train_judge(
            self.folder / "judge",
            self.config.judge,
            device=self.device,
            seed=self.config.seed,
            report=self._reporter("judge"),
        )

    def eval(self) -> None:
        evaluate(
            self.folder / "eval",
            self.pack,
            load_judge(self.folder / "judge", device=self.device),
            self.config.eval,
            device=self.device,
            seed=self.config.seed,
            report=self._reporter("eval"),
        )

    def facts(self) -> PackFacts:
        """What the pack says of itself."""
        rollout = self.config.rollout
        return PackFacts(
            name=self.config.name,
            chunk_frames=rollout.chunk_frames,
            steps=rollout.steps,
            shift=rollout.shift,
            warp_steps=True,
            sink_frames=0,
            window_frames=rollout.window_frames,
            rope="relative",
            prediction=self.config.network.prediction,
            fps=storybook.FPS,
            height=storybook.SIZE,
            width=storybook.SIZE,
            enlarge=ENLARGE,
            text="storybook",
            codec="pixel",
            teacher="teacher",
            teacher_guidance=self.config.teacher_guidance,
            teacher_steps=self.config.teacher_steps,
            teacher_shift=CLIP_SHIFT,
            license=self.config.license,
            source=self.config.source,
        )

    def steps(self) -> tuple[Step, ...]:
        """The student's few steps."""
        return steps_of(self.config.rollout.steps, shift=self.config.rollout.shift, warped=True)

    def codec(self) -> PixelCodec:
        return load_codec(self.folder / "autoencoder", device=self.device)

    def clips(self) -> LatentClips:
        return LatentClips(self.folder / "latents")

    def denoiser(self, *stages: str) -> Denoiser:
        """A network with its text features, as these stages, one upon the other, have left it."""
        torch.manual_seed(self.config.seed)
        text = StoryText.for_vocabulary(dim=self.config.network.text_dim)
        denoiser = Denoiser(build_network(self.config.network, self.codec().facts.latent_channels), text)
        for stage in stages:
            denoiser.load_state_dict(averaged_weights(self.folder / stage), strict=False)
        return denoiser.to(self.device)

    def _teach(self, stage: str, denoiser: Denoiser, *, frames: int | None, shift: float) -> None:
        train_teacher(
            self.folder / stage,
            denoiser,
            self.clips(),
            getattr(self.config, stage),
            frames=frames,
            shift=shift,
            device=self.device,
            seed=self.config.seed,
            report=self._reporter(stage),
        )

    def _reporter(self, stage: str) -> Report | None:
        report = self.report
        return None if report is None else lambda row: report(stage, row)
