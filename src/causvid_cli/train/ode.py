"""Pairs of noise and clean latents along the teacher's ODE (CausVid, arXiv 2412.07772, 3.3)."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from causvid_cli.device import training_arithmetic
from causvid_cli.errors import UsageError
from causvid_cli.sampling.ode import solve_ode
from causvid_cli.sampling.schedule import sampler_sigmas
from causvid_cli.train.config import OdeConfig, RolloutFacts
from causvid_cli.train.dataset import Joined, LatentClips
from causvid_cli.train.denoiser import Denoiser
from causvid_cli.train.layout import Layout, draw_steps, every_step
from causvid_cli.train.parallel import mean, my_share, shares
from causvid_cli.train.prepare import Prompted
from causvid_cli.train.shards import load_shard, save_shard
from causvid_cli.train.teacher_stage import standard_normal
from causvid_cli.train.trainer import StageSetting

PAIRS_PER_CLIP = 6
"""First chunks of one step for each of its clips: they are short, and the many ways to begin are the hard part."""


class OdePairs:
    """Points on guided ODE solutions: of first chunks by the causal network, or of whole clips by the teacher.

    points: float16 [N, S + 1, C, F, h, w]: x_t at each noise level of `every_step`, then x0. rows: [N, L].
    path: what `pairs_shard` numbers. Points stay in their files until they are taken.
    """

    def __init__(self, path: Path) -> None:
        shards = [load_shard(file) for file in sorted(path.parent.glob(f"{path.stem}*{path.suffix}"))]
        if not shards:
            raise UsageError(f"{path.parent} holds no pairs; run stage ode first")
        self.points = Joined([shard["points"] for shard in shards])
        self.rows = torch.cat([shard["rows"] for shard in shards])

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def latent_frames(self) -> int:
        return self.points.shape[3]

    def batch(
        self, rng: np.random.Generator, count: int, layout: Layout, facts: RolloutFacts, *, device: torch.device
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return random (x_t, x0, rows, which step each frame stands at [B, F]): this process's share of `count`."""
        pick = my_share(torch.from_numpy(rng.integers(len(self), size=count)))
        step = draw_steps(rng, len(pick), layout, facts)
        points = self.points[pick].float().movedim(3, 1)  # [B, F, S + 1, C, h, w]
        x_t = points[torch.arange(len(pick))[:, None], torch.arange(step.shape[1]), step].transpose(1, 2)
        return x_t.to(device), points[:, :, -1].transpose(1, 2).to(device), self.rows[pick], step.to(device)


def pairs_shard(path: Path, number: int) -> Path:
    """Return where the pairs of one batch of solutions lie: pairs.safetensors -> pairs-00003.safetensors."""
    return path.with_name(f"{path.stem}-{number:05d}{path.suffix}")


@torch.no_grad()
def make_ode_pairs(
    path: Path,
    denoiser: Denoiser,
    clips: LatentClips | Prompted,
    plan: OdeConfig,
    facts: RolloutFacts,
    *,
    shift: float,
    setting: StageSetting,
) -> OdePairs:
    """Solve the guided ODE of the denoiser's network and keep the points at the student's noise levels.

    The solutions are of whole clips where the network is the bidirectional teacher (CausVid 3.3), else of first chunks.
    Batch by batch, each a shard; those that are there are not made again, and several processes take turns.
    """
    network, steps, device = denoiser.network, every_step(facts), setting.device
    frames = None if plan.source == "teacher" else facts.chunk_frames
    sigmas = sorted({*sampler_sigmas(plan.steps, shift=shift), *(step.sigma for step in steps)}, reverse=True)
    wanted = [sigmas.index(step.sigma) for step in steps] + [len(sigmas) - 1]
    (process,) = shares(1)
    for number in range(process.index, -(-plan.pairs // plan.batch), process.of):
        shard, start = pairs_shard(path, number), number * plan.batch
        if not shard.exists():
            rng = np.random.default_rng((setting.seed, start))
            clip = clips.batch(
                rng,
                plan.batch,
                device=device,
                sprite_weight=1.0,
                first_predictable_frames=[0],
                smallest=True,  # pairs are of one shape
            )
            with training_arithmetic(device, bf16=setting.compute.precision == "bf16"):
                solution = solve_ode(
                    network.forward_whole,
                    network.prediction,
                    standard_normal(rng, clip.x0[:, :, :frames]),
                    sigmas,
                    denoiser.prompt(clip.rows),
                    empty=denoiser.prompt(denoiser.text.empty_rows(plan.batch)),
                    guidance=plan.guidance,
                )
                x_ts = [x_t for _, x_t in solution]
            points = torch.stack([x_ts[place] for place in wanted], dim=1).half()
            save_shard({"points": points, "rows": clip.rows}, shard)
        if setting.report:
            setting.report({"step": number + 1, "pairs": min(plan.pairs, start + plan.batch)})
    mean(torch.zeros((), device=device))  # all wait for the last
    return OdePairs(path)
