"""The loop that every stage of a distillation shares: steps, schedule, EMA, log, checkpoints, resume.

A stage says what one step's loss is; randomness comes from (seed, step) only, so a run killed at any moment goes on
from its last checkpoint to the very weights that an unbroken run would have reached. Several processes take the same
steps together (`parallel.py`), and a checkpoint does not tell how many there were.
"""

import math
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from causvid_cli.config import to_json
from causvid_cli.device import training_arithmetic
from causvid_cli.errors import NumericsError, OutputError, UsageError
from causvid_cli.train import parallel
from causvid_cli.train.config import ComputeConfig, Optimisation
from causvid_cli.train.logs import StageLog
from causvid_cli.train.resume import last_step
from causvid_cli.untrusted import read_object

Loss = Callable[[int, np.random.Generator], Mapping[str, Tensor]]
"""(step, rng) -> named scalars. The one called "loss" is minimised; where a trainer has several parts, those that are
called like a part, each for that part alone. The others are only logged, NaN (nothing to measure) left out."""
Report = Callable[[dict[str, float]], None]
Samples = Callable[[int, nn.Module], np.ndarray]
"""(step, the module with averaged weights) -> a sheet of samples, uint8 [H, W, 3]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSetting:
    """Where and how the stages of a run compute."""

    device: torch.device
    seed: int = 0
    compute: ComputeConfig = ComputeConfig()
    report: Report | None = None
    samples: Samples | None = None


def lr_at(plan: Optimisation, step: int) -> float:
    """Return the learning rate of one step: linear warm-up, plateau, cosine decay."""
    if step < plan.warmup:
        return plan.lr * (step + 1) / plan.warmup
    start = plan.steps * (1 - plan.decay)
    if step <= start:
        return plan.lr
    done = min(1.0, (step - start) / max(1.0, plan.steps - start))
    return plan.lr * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))


def averaged_weights(folder: Path, part: str | None = None) -> dict[str, Tensor]:
    """Return the averaged weights (without averaging: the weights) in a stage's last checkpoint.

    part: only those of one of the trainer's parts, under the names that they have within it.
    """
    tensors = load_file(folder / "checkpoint" / "state.safetensors")
    inside = f"{part}." if part else ""
    kind = "ema." if any(name.startswith(f"ema.{inside}") for name in tensors) else "weights."
    prefix = kind + inside
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


@dataclass
class WeightGroup:
    """Parameters that are updated together: by one optimiser, at the rates of one plan, with one average."""

    name: str
    plan: Optimisation
    parameters: dict[str, nn.Parameter]
    updates: int = 0
    ema: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.optimizer = torch.optim.AdamW(
            [{"params": kind} for kind in parallel.split_by_kind(self.parameters.values())],
            lr=self.plan.lr,
            betas=(0.9, 0.98),
            weight_decay=self.plan.weight_decay,
            fused=True,
        )
        if self.plan.ema:
            self.ema = {name: p.detach().clone() for name, p in self.parameters.items()}

    @property
    def loss(self) -> str:
        """The name of its loss."""
        return self.name or "loss"

    def update(self, lr: float) -> Tensor:
        """Take one step along the gradients that are there, and return their norm, before it was clipped."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        parameters = list(self.parameters.values())
        parallel.average_gradients(parameters)
        norm = parallel.clip_gradients(parameters, self.plan.clip)
        self.optimizer.step()
        self.updates += 1
        if self.ema:
            # Early on the average must forget the random start faster than its own rate would.
            keep = min(self.plan.ema, (1 + self.updates) / (10 + self.updates))
            averages = [parallel.local(average) for average in self.ema.values()]
            torch._foreach_lerp_(averages, [parallel.local(p.detach()) for p in parameters], 1 - keep)
        return norm

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield all that a checkpoint keeps, by name."""
        for name, parameter in self.parameters.items():
            yield f"weights.{name}", parameter.detach()
            if self.ema:
                yield f"ema.{name}", self.ema[name]
            for key, value in self.optimizer.state.get(parameter, {}).items():
                yield f"optimizer.{key}.{name}", torch.as_tensor(value)

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `tensors` gave; parameters without an optimiser state have never had a gradient."""
        for name, parameter in self.parameters.items():
            parameter.copy_(parallel.spread_like(tensors[f"weights.{name}"], parameter))
            if self.ema:
                average = tensors.get(f"ema.{name}", tensors[f"weights.{name}"])
                self.ema[name].copy_(parallel.spread_like(average, parameter))
            if f"optimizer.step.{name}" in tensors:
                state = self.optimizer.state[parameter]
                state["step"] = tensors[f"optimizer.step.{name}"].to(parameter.device)
                for key in ("exp_avg", "exp_avg_sq"):
                    # Laid out in memory like the parameter: the fused optimiser walks through both as they lie.
                    value = parallel.spread_like(tensors[f"optimizer.{key}.{name}"], parameter)
                    state[key] = torch.empty_like(parameter).copy_(value)


@dataclass
class Trainer:
    """One stage's run: `module`'s trainable parameters, kept in `folder` (checkpoint/, log.jsonl, samples/).

    parts: for a module whose children are trained apart, in the same step or in turns: the children's names, each with
    a plan for its rates (lr, warmup, decay, weight_decay, clip, ema). `plan` counts the steps of all. A part is updated
    in the steps whose loss names it; gradients that reach another part are dropped.

    Raises UsageError when the batch cannot be shared evenly, or when the folder holds a checkpoint of another network.
    """

    folder: Path
    module: nn.Module
    plan: Optimisation
    setting: StageSetting
    parts: Mapping[str, Optimisation] = field(default_factory=dict)
    step: int = 0

    def __post_init__(self) -> None:
        self._check_batch()
        if self.setting.compute.shard:
            parallel.shard(self.module, self.setting.device)
        self._parts = [self._part(name, plan) for name, plan in (self.parts or {"": self.plan}).items()]
        parallel.on_first(self._tidy_folder)
        if last_step(self.folder) is not None:
            self._load()

    @property
    def ema(self) -> dict[str, Tensor]:
        """The averages of all parts that have one."""
        return {name: average for part in self._parts for name, average in part.ema.items()}

    def run(self, loss: Loss) -> None:
        """Take the steps that remain.

        Raises NumericsError when a loss or a gradient is not finite, OutputError when the folder cannot be written; the
        last checkpoint is then as it was.
        """
        sums: dict[str, list[float]] = {}
        clock = Stopwatch()
        with self._logging() as log:
            while self.step < self.plan.steps:
                with clock:
                    values = self._take_step(loss)
                for name, value in values.items():
                    if math.isfinite(value):
                        sums.setdefault(name, []).append(value)
                if self._is_due(self.plan.log_every):
                    row = {name: math.fsum(seen) / len(seen) for name, seen in sums.items()}
                    row |= {"step": self.step, "lr": lr_at(self.plan, self.step), "step_s": clock.mean()}
                    if log:
                        self._report(log, row)
                    sums, clock = {}, Stopwatch()
                if self.plan.sample_every and self._is_due(self.plan.sample_every):
                    self._sample(log)
                if self._is_due(self.plan.save_every):
                    self.save()

    @contextmanager
    def averaged(self) -> Iterator[nn.Module]:
        """The module with its averaged weights, for sampling, evaluation and export; parts without keep their own."""
        ema = self.ema
        parameters = {name: p for part in self._parts for name, p in part.parameters.items() if name in ema}
        own = {name: p.detach().clone() for name, p in parameters.items()}
        try:
            _copy_in(parameters, ema)
            yield self.module
        finally:
            _copy_in(parameters, own)

    def save(self) -> None:
        """Write a checkpoint whole or not at all. Raises OutputError when it cannot be written."""
        tensors = {}
        for part in self._parts:
            for name, tensor in part.tensors():
                tensor = parallel.whole(tensor)  # asked for by all processes, kept by one
                if parallel.is_first():
                    tensors[name] = tensor.cpu().contiguous()
        parallel.on_first(lambda: self._write_checkpoint(tensors))

    # --- one step ---

    def _take_step(self, loss: Loss) -> dict[str, float]:
        """Update the parts that the loss names, and return the means over the whole batch of what it returns."""
        for part in self._parts:
            part.optimizer.zero_grad(set_to_none=True)
        parts = [self._backward(loss, share) for share in parallel.shares(self.plan.accumulate)]
        means = {name: torch.stack([values[name] for values in parts]).mean() for name in parts[0]}
        means = dict(zip(means, parallel.mean(torch.stack(list(means.values()))), strict=True))
        due = [part for part in self._parts if part.loss in means]
        for part in due:
            lr = lr_at(replace(part.plan, steps=self.plan.steps), self.step)
            means[f"{part.name}_grad_norm".lstrip("_")] = part.update(lr)
        self.step += 1
        values = dict(zip(means, torch.stack(list(means.values())).tolist(), strict=True))
        self._check_finite(values, due)
        return values

    def _backward(self, loss: Loss, share: parallel.Share) -> dict[str, Tensor]:
        """Add the gradients of one share of the batch, and return what the loss did."""
        rng = np.random.default_rng((self.setting.seed, self.step))
        bf16 = self.setting.compute.precision == "bf16"
        with parallel.working_on(share), training_arithmetic(self.setting.device, bf16=bf16):
            # A cache of weights in bfloat16 would hold whole what is spread over the processes.
            torch.set_autocast_cache_enabled(not parallel.in_group())
            values = loss(self.step, rng)
            losses = [values[part.loss] for part in self._parts if part.loss in values]
            assert losses, f"the loss of step {self.step} returned none of {[part.loss for part in self._parts]}"
            total = torch.stack(losses).sum()
            with torch.autocast(self.setting.device.type, enabled=False):
                # Here, as gradient checkpointing computes again what must come out as it did before.
                (total / self.plan.accumulate).backward()
        return {name: value.detach().float() for name, value in values.items()}

    def _check_finite(self, values: Mapping[str, float], due: Iterable[WeightGroup]) -> None:
        for part in due:
            norm = f"{part.name}_grad_norm".lstrip("_")
            for name, what in ((part.loss, "loss"), (norm, "gradient")):
                if not math.isfinite(values[name]):
                    of = f" of {part.name}" if part.name else ""
                    saved = last_step(self.folder)
                    kept = "nothing is saved yet" if saved is None else f"the checkpoint of step {saved} is kept"
                    raise NumericsError(
                        f"stage {self.folder.name}: the {what}{of} is not finite at step {self.step} "
                        f"(seed {self.setting.seed}); {kept}; lower the learning rate ({part.plan.lr:g})"
                    )

    def _is_due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.plan.steps

    @contextmanager
    def _logging(self) -> Iterator[StageLog | None]:
        """Yield the stage's log, in the first process only."""
        if not parallel.is_first():
            yield None
            return
        with self._writing("the log"):
            log = StageLog(self.folder, self.step)
        with closing(log):
            yield log

    def _report(self, log: StageLog, row: dict[str, float]) -> None:
        with self._writing("the log"):
            log.write(row)
        if self.setting.report:
            self.setting.report(row)

    def _sample(self, log: StageLog | None) -> None:
        if self.setting.samples:
            with torch.no_grad(), self.averaged() as module:
                picture = self.setting.samples(self.step, module)  # by all processes: the weights are with all
            if log:
                with self._writing("a sheet of samples"):
                    log.picture(self.step, picture)

    # --- its beginning ---

    def _check_batch(self) -> None:
        processes, accumulate = parallel.size(), self.plan.accumulate
        among = processes * accumulate
        if self.plan.batch % among:
            parts = [f"{processes} processes"] * (processes > 1) + [f"accumulate = {accumulate}"] * (accumulate > 1)
            near = -(-self.plan.batch // among) * among
            raise UsageError(
                f"{self.folder.name}.batch: {self.plan.batch} cannot be shared evenly ({', '.join(parts)}); try {near}"
            )

    def _part(self, name: str, plan: Optimisation) -> WeightGroup:
        inside = f"{name}." if name else ""
        named = self.module.named_parameters()
        return WeightGroup(name, plan, {key: p for key, p in named if p.requires_grad and key.startswith(inside)})

    # --- its folder ---

    def _tidy_folder(self) -> None:
        """Make the folder; put back a checkpoint that `save` had moved away when it was killed."""
        with self._writing("its folder"):
            self.folder.mkdir(parents=True, exist_ok=True)
            final, old = self.folder / "checkpoint", self.folder / "checkpoint.old"
            if old.exists() and not final.exists():
                os.rename(old, final)

    def _write_checkpoint(self, tensors: Mapping[str, Tensor]) -> None:
        new, final, old = (self.folder / name for name in ("checkpoint.new", "checkpoint", "checkpoint.old"))
        updates = {part.name: part.updates for part in self._parts}
        state = {"step": self.step, "seed": self.setting.seed, "updates": updates}
        with self._writing(f"the checkpoint of step {self.step}"):
            shutil.rmtree(new, ignore_errors=True)
            try:
                new.mkdir()
                save_file(dict(tensors), new / "state.safetensors")
                (new / "state.json").write_text(to_json(state))
            except (OSError, SafetensorError):
                shutil.rmtree(new, ignore_errors=True)  # half of it would only fill the disk
                raise
            shutil.rmtree(old, ignore_errors=True)
            if final.exists():
                os.rename(final, old)
            os.rename(new, final)
            shutil.rmtree(old, ignore_errors=True)

    def _load(self) -> None:
        folder = self.folder / "checkpoint"
        state = read_object(folder / "state.json")
        tensors = load_file(folder / "state.safetensors")
        self._check_network(tensors)
        self.step = state["step"]
        for part in self._parts:
            part.load(tensors)
            part.updates = state.get("updates", {}).get(part.name, self.step)

    def _check_network(self, tensors: Mapping[str, Tensor]) -> None:
        there = {name.removeprefix("weights."): t.shape for name, t in tensors.items() if name.startswith("weights.")}
        here = {name: p.shape for part in self._parts for name, p in part.parameters.items()}
        if odd := [name for name in here | there if here.get(name) != there.get(name)]:
            raise UsageError(
                f"{self.folder / 'checkpoint'} is of another network ({len(odd)} weights differ, such as {odd[0]}); "
                "give another --run-dir"
            )

    @contextmanager
    def _writing(self, what: str) -> Iterator[None]:
        try:
            yield
        except (OSError, SafetensorError) as error:
            saved = last_step(self.folder)
            kept = "" if saved is None else f"; the checkpoint of step {saved} is kept"
            reason = getattr(error, "strerror", None) or str(error)
            raise OutputError(f"{self.folder}: {what} cannot be written: {reason.lower()}{kept}") from error


class Stopwatch:
    """Times what happens within; `mean()` is in seconds."""

    def __init__(self) -> None:
        self._total, self._count = 0.0, 0

    def __enter__(self) -> None:
        self._start = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._total, self._count = self._total + time.monotonic() - self._start, self._count + 1

    def mean(self) -> float:
        return self._total / self._count


@torch.no_grad()
def _copy_in(parameters: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    for name, parameter in parameters.items():
        parameter.copy_(values[name])
