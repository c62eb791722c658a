"""The loop that every stage of a distillation shares: steps, schedule, EMA, log, checkpoints, resume.

A stage says what one step's loss is; randomness comes from (seed, step) only, so a run killed at any moment goes on
from its last checkpoint to the very weights that an unbroken run would have reached.
"""

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from causvid_cli.errors import NumericsError
from causvid_cli.packs import write_text
from causvid_cli.train.config import Optimisation

Loss = Callable[[int, np.random.Generator], Mapping[str, Tensor]]
"""(step, rng) -> named scalars; the one called "loss" is minimised, the others are only logged."""
Report = Callable[[dict[str, float]], None]


def lr_at(plan: Optimisation, step: int) -> float:
    """Learning rate of one step: linear warm-up, plateau, cosine decay."""
    if step < plan.warmup:
        return plan.lr * (step + 1) / plan.warmup
    start = plan.steps * (1 - plan.decay)
    if step <= start:
        return plan.lr
    done = min(1.0, (step - start) / max(1.0, plan.steps - start))
    return plan.lr * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))


def averaged_weights(folder: Path) -> dict[str, Tensor]:
    """The averaged weights (without averaging: the weights) in a stage's last checkpoint."""
    tensors = load_file(folder / "checkpoint" / "state.safetensors")
    kind = "ema." if any(name.startswith("ema.") for name in tensors) else "weights."
    return {name.removeprefix(kind): tensor for name, tensor in tensors.items() if name.startswith(kind)}


@dataclass
class Trainer:
    """One stage's run: `module`'s trainable parameters, kept in `folder` (checkpoint/, log.jsonl)."""

    folder: Path
    module: nn.Module
    plan: Optimisation
    seed: int = 0
    report: Report | None = None
    step: int = 0
    ema: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.parameters = {name: p for name, p in self.module.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(),
            lr=self.plan.lr,
            betas=(0.9, 0.98),
            weight_decay=self.plan.weight_decay,
            fused=True,
        )
        if self.plan.ema:
            self.ema = {name: p.detach().clone() for name, p in self.parameters.items()}
        final, old = self.folder / "checkpoint", self.folder / "checkpoint.old"
        if old.exists() and not final.exists():  # killed in `save`, between its two renames
            os.rename(old, final)
        if final.exists():
            self._load()
        self._forget_later_rows()

    def run(self, loss: Loss) -> None:
        """Take the steps that remain. Raises NumericsError when the loss is not finite."""
        sums: dict[str, float] = {}
        since, clock = 0, time.monotonic()
        while self.step < self.plan.steps:
            rng = np.random.default_rng((self.seed, self.step))
            values = self._take_step(loss, rng)
            for name, value in values.items():
                sums[name] = sums.get(name, 0.0) + value.item()
            since += 1
            if not math.isfinite(sums["loss"]):
                raise NumericsError(f"loss is not finite at step {self.step}; lower the learning rate ({self.plan.lr})")
            if self.step % self.plan.log_every == 0 or self.step == self.plan.steps:
                seconds = time.monotonic() - clock
                row = {name: value / since for name, value in sums.items()}
                row |= {"step": self.step, "lr": lr_at(self.plan, self.step), "step_s": seconds / since}
                self._log(row)
                sums, since, clock = {}, 0, time.monotonic()
            if self.step % self.plan.save_every == 0 or self.step == self.plan.steps:
                self.save()

    def _take_step(self, loss: Loss, rng: np.random.Generator) -> dict[str, Tensor]:
        for group in self.optimizer.param_groups:
            group["lr"] = lr_at(self.plan, self.step)
        values = loss(self.step, rng)
        self.optimizer.zero_grad(set_to_none=True)
        values["loss"].backward()
        torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.plan.clip)
        self.optimizer.step()
        self.step += 1
        if self.ema:
            # Early on the average must forget the random start faster than its own rate would.
            keep = min(self.plan.ema, (1 + self.step) / (10 + self.step))
            torch._foreach_lerp_(list(self.ema.values()), [p.detach() for p in self.parameters.values()], 1 - keep)
        return {name: value.detach() for name, value in values.items()}

    @contextmanager
    def averaged(self) -> Iterator[nn.Module]:
        """The module with its averaged weights, for sampling, evaluation and export."""
        if not self.ema:
            yield self.module
            return
        own = {name: p.detach().clone() for name, p in self.parameters.items()}
        try:
            self._copy_in(self.ema)
            yield self.module
        finally:
            self._copy_in(own)

    @torch.no_grad()
    def _copy_in(self, values: Mapping[str, Tensor]) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(values[name])

    def _log(self, row: dict[str, float]) -> None:
        with (self.folder / "log.jsonl").open("a") as log:
            log.write(json.dumps(row) + "\n")
        if self.report:
            self.report(row)

    def _forget_later_rows(self) -> None:
        """Take out of the log what came after the checkpoint: these steps are taken again."""
        path = self.folder / "log.jsonl"
        if path.exists():
            lines = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
            write_text(path, "".join(line for line in lines if json.loads(line)["step"] <= self.step))

    def save(self) -> None:
        """Write a checkpoint whole or not at all."""
        tensors = {f"weights.{name}": p.detach() for name, p in self.parameters.items()}
        tensors |= {f"ema.{name}": value for name, value in self.ema.items()}
        for name, parameter in self.parameters.items():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer.{key}.{name}"] = torch.as_tensor(value)
        new, final, old = (self.folder / name for name in ("checkpoint.new", "checkpoint", "checkpoint.old"))
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, new / "state.safetensors")
        (new / "state.json").write_text(json.dumps({"step": self.step, "seed": self.seed}))
        shutil.rmtree(old, ignore_errors=True)
        if final.exists():
            os.rename(final, old)
        os.rename(new, final)
        shutil.rmtree(old, ignore_errors=True)

    @torch.no_grad()
    def _load(self) -> None:
        folder = self.folder / "checkpoint"
        self.step = json.loads((folder / "state.json").read_text())["step"]
        tensors = load_file(folder / "state.safetensors")
        for name, parameter in self.parameters.items():
            parameter.copy_(tensors[f"weights.{name}"])
            state = self.optimizer.state[parameter]
            for key in ("step", "exp_avg", "exp_avg_sq"):
                value = tensors[f"optimizer.{key}.{name}"].to(parameter.device)
                # Laid out in memory like the parameter: the fused optimiser walks through both as they lie.
                state[key] = value if key == "step" else torch.empty_like(parameter).copy_(value)
            if self.ema:
                self.ema[name] = tensors[f"ema.{name}"].to(parameter.device)
