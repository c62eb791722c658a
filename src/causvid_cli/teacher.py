"""The bidirectional teacher: all latent frames of a clip at once, in many guided steps.

    teacher = load_teacher("storybook")
    frames = teacher.generate("a red car moves left in the snow", length="4s", seed=1)   # uint8 [T, H, W, 3]

Nothing can be shown before everything is done: that is what the student was distilled away from. The teacher stays as
what the student is measured against.
"""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from causvid_cli.codec import Codec
from causvid_cli.config import PackFacts, load_facts
from causvid_cli.device import keep_freed_memory, resolve_device, resolve_dtype
from causvid_cli.errors import ModelError, NumericsError
from causvid_cli.geometry import Geometry, take_chunks
from causvid_cli.models.load import load_codec, load_text, load_transformer
from causvid_cli.models.packs import find_pack, teacher_folder, verify_pack
from causvid_cli.network.model import CausalTransformer
from causvid_cli.prompt.encoded import TextEncoder
from causvid_cli.request import AUTO, DEFAULT_LENGTH, DEFAULT_MODEL, check_seed, random_seed
from causvid_cli.sampling.noise import seeded_noise
from causvid_cli.sampling.ode import solve_ode
from causvid_cli.sampling.schedule import sampler_sigmas
from causvid_cli.timecode import parse_frames


@dataclass(frozen=True, slots=True)
class Teacher:
    """A loaded teacher with the text encoder and the codec of its pack."""

    facts: PackFacts
    model: CausalTransformer
    codec: Codec
    text: TextEncoder
    device: torch.device

    @torch.inference_mode()
    def generate(
        self,
        prompt: str,
        *,
        length: str | float = DEFAULT_LENGTH,
        seed: int | None = None,
        steps: int | None = None,
        guidance: float | None = None,
    ) -> np.ndarray:
        """Return the whole video, uint8 RGB [T, H, W, 3]. Raises NumericsError when it is not finite.

        length: as in `Pipeline.stream`. steps: of the ODE's solution; guidance: see `denoise_whole`; both are by
        default what the pack says.
        """
        facts, codec = self.facts, self.codec
        frames = parse_frames(length, fps=Fraction(str(facts.fps)))
        seed = random_seed() if seed is None else check_seed(seed)
        x0 = denoise_whole(
            self.model,
            self.start_noise(codec.facts.latent_frames(frames), batch=1, seed=seed),
            self.text.encode(prompt, seed=seed).embeds,
            self.text.empty(),
            sigmas=sampler_sigmas(steps or facts.teacher_steps, shift=facts.teacher_shift),
            guidance=facts.teacher_guidance if guidance is None else guidance,
        )
        if not torch.isfinite(x0).all():
            raise NumericsError(f"the teacher's clip is not finite (seed {seed}); try --dtype float32")
        made = codec.decode_chunk(x0, state=codec.decode_state(), enlarge=facts.enlarge)
        return made[0, :frames].cpu().numpy()

    def start_noise(self, latent_frames: int, *, batch: int, seed: int) -> Tensor:
        """Return noise [B, C, F, h, w], chunk after chunk what a student of this pack begins its chunks with."""
        geometry = Geometry(self.facts.height, self.facts.width, self.codec.facts.spatial_factor)
        draw = seeded_noise(
            seed,
            batch=batch,
            channels=self.codec.facts.latent_channels,
            latent_height=geometry.latent_height,
            latent_width=geometry.latent_width,
            device=self.device,
        )
        parts = [draw(chunk, 0) for chunk in take_chunks(latent_frames, self.facts.chunk_frames)]
        return torch.cat(parts, dim=2)[:, :, :latent_frames]


def denoise_whole(
    model: CausalTransformer,
    noise: Tensor,
    prompt_embeds: Tensor,
    empty_embeds: Tensor,
    *,
    sigmas: list[float],
    guidance: float,
) -> Tensor:
    """Return clean latents x0 [B, C, F, h, w] of whole clips, every frame seeing every other.

    noise: x_t at sigmas[0], [B, C, F, h, w]. prompt_embeds: [B, L, D]; empty_embeds: [1, L, D].
    sigmas: falling to 0. guidance: how far the flow is led away from that of the empty prompt; 1 is none
    (`sampling.ode.guided_flow`).
    """
    weight = model.transformer.patch_embedding.weight
    prompt, empty = (model.prompt_cache(e.to(weight.device, weight.dtype)) for e in (prompt_embeds, empty_embeds))
    solution = solve_ode(model.forward_whole, model.prediction, noise, sigmas, prompt, empty=empty, guidance=guidance)
    *_, (_, x0) = solution
    return x0


def load_teacher(model: str | Path = DEFAULT_MODEL, *, device: str = AUTO, dtype: str = AUTO) -> Teacher:
    """Return the teacher of a model pack, by name or by folder; every file is verified first.

    Raises ModelError when the pack is missing, damaged or without a teacher, DeviceError when the device is.
    """
    folder = find_pack(model)
    facts = load_facts(folder)
    verify_pack(folder, facts)
    network_folder = teacher_folder(folder, facts)
    if network_folder is None:
        raise ModelError(f"{facts.name} comes without its teacher")
    torch_device = resolve_device(device)
    torch_dtype = resolve_dtype(dtype, torch_device)
    keep_freed_memory()
    text = load_text(folder, facts, device=torch_device, dtype=torch_dtype)
    codec = load_codec(folder, facts, device=torch_device, dtype=torch_dtype)
    network = load_transformer(network_folder, facts).to(torch_device, torch_dtype).fuse()
    return Teacher(facts, network, codec, text, torch_device)
