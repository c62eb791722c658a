"""The causal transformer: (x_t, timestep, prompt, past) -> prediction, and nothing else.

The layers and their names are those of diffusers' `WanTransformer3DModel` (`layers.py`). What is ours is what is
causal: how self-attention reaches the past, where frames stand in time, and one timestep per frame.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from causvid_cli.config import Prediction, Rope, SinkPlacement
from causvid_cli.geometry import Chunk
from causvid_cli.network.backbone import attention
from causvid_cli.network.cache import KVCache, Place, PromptCache
from causvid_cli.network.compiled import StaticPast
from causvid_cli.network.copies import Moves
from causvid_cli.network.fused import FusedBlocks, plain_tokens
from causvid_cli.network.layers import WanTransformer3DModel, placed
from causvid_cli.network.masks import AttentionParts, attention_parts
from causvid_cli.network.rope import apply_rope, rotations
from causvid_cli.network.timestep import features_of_number, features_of_tensor
from causvid_cli.network.ulysses import SharedPast, Ulysses

CLEAN_TIMESTEP = 0.0
"""What the clean pass is fed: later chunks see a chunk as it is, unless the weights were taught otherwise."""
LARGEST_MASKED = 8192
"""Tokens of a clip up to which a mask over all pairs of them is made; of more, attention goes part by part."""
LARGEST_MERGED = 100_000_000
"""Weights of the largest network whose small layers `fuse` merges."""


class CausalTransformer(nn.Module):
    """A Wan transformer that looks back through a cache, or over a whole clip under a mask.

    prediction: what the network returns, "flow" (noise - x0) or "x0". context_noise: the timestep at which it was
    taught to see what it has made. Both are facts of the weights.
    """

    def __init__(
        self, transformer: WanTransformer3DModel, *, prediction: Prediction = "flow", context_noise: float = 0.0
    ) -> None:
        super().__init__()
        self.transformer = transformer
        self.prediction: Prediction = prediction
        self.context_noise = context_noise
        block: Any
        for layer, block in enumerate(transformer.blocks):
            block.attn1.set_processor(SelfAttention(layer))
            block.attn2.set_processor(CrossAttention(layer))
        self.processes: Ulysses | None = None
        """Those that make each call for a chunk together, where there are several."""
        self._whole_blocks: list[Any] | None = None
        self._fused: FusedBlocks | None = None

    @torch.no_grad()
    def fuse(self) -> Self:
        """Let calls with a plain number for a timestep take fewer, larger operations (`network/fused.py`).

        For weights that change no more; moving or converting them undoes it. The layers of a large network are not
        merged: its time goes into the products themselves, and a second copy of its weights might not fit.
        """
        self._fused = FusedBlocks(self.transformer, self._embed_time, merged=self.is_small)
        return self

    @property
    def is_compiled(self) -> bool:
        """Whether there is a compiled block, which the first calls of a size make."""
        return self._fused is not None and self._fused.compiled is not None

    @property
    def is_small(self) -> bool:
        """Whether its time goes to the overhead of operations rather than into products."""
        return sum(weight.numel() for weight in self.parameters()) <= LARGEST_MERGED

    def compile(self, *, frames: int) -> Self:  # type: ignore[override]  # torch's compiles all of `forward`
        """Let calls for chunks of so many latent frames take a compiled block (`network/compiled.py`); after `fuse`.

        Where diffusers fetches weights from elsewhere when they are needed nothing changes. The first calls take long.
        Raises DeviceError when this machine lacks a compiler.
        """
        assert self._fused is not None, "compile before fuse"
        self._fused.compile(self.transformer.patch_embedding.weight.device, frames=frames)
        return self

    def _apply(self, *args: Any, **options: Any) -> Self:
        self._fused = None  # it holds the weights as they were before this move or conversion
        return super()._apply(*args, **options)

    def compile_whole(self) -> None:
        """Compile the blocks for `forward_whole`: training's many calls of few shapes repay it."""
        torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
        self._whole_blocks = [torch.compile(block, dynamic=False) for block in self.transformer.blocks]

    @property
    def config(self) -> Any:
        return self.transformer.config

    @property
    def dtype(self) -> torch.dtype:
        """Number format that it computes in."""
        return self.transformer.patch_embedding.weight.dtype

    def prompt_cache(self, prompt_embeds: Tensor) -> PromptCache:
        """The prompt as every call wants it: text features [B, L, text_dim] through the text projection."""
        return PromptCache(self.transformer.condition_embedder.text_embedder(prompt_embeds))

    def kv_cache(
        self,
        *,
        latent_height: int,
        latent_width: int,
        window_frames: int,
        sink_frames: int = 0,
        batch: int = 1,
        rope: Rope = "relative",
        sink_placement: SinkPlacement = "beside",
        trained_frames: int = 0,
    ) -> KVCache:
        """An empty cache for a video of this size (latent cells), on the model's device and in its dtype.

        Of several processes each has one, of its own heads.
        """
        rows, columns = self._grid(latent_height, latent_width)
        weight = self.transformer.patch_embedding.weight
        return KVCache(
            layers=len(self.transformer.blocks),
            heads=self.config.num_attention_heads // (self.processes.size if self.processes else 1),
            head_dim=self.config.attention_head_dim,
            tokens_per_latent_frame=rows * columns,
            window_frames=window_frames,
            rotations_at=partial(self._rotations, rows=rows, columns=columns),
            sink_frames=sink_frames,
            batch=batch,
            rope=rope,
            sink_placement=sink_placement,
            trained_frames=trained_frames,
            device=weight.device,
            dtype=weight.dtype,
        )

    @property
    def moves(self) -> Moves:
        """What there is to choose from where it predicts copies (`copies.py`)."""
        moves: Moves | None = self.transformer.moves
        assert moves is not None, "a network that predicts no copies"
        return moves

    def forward(
        self,
        x_t: Tensor,
        timestep: float | Tensor,
        prompt: PromptCache,
        *,
        cache: KVCache,
        chunk: Chunk,
        update_cache: bool = True,
        kv_only: bool = False,
        merged_clean_pass: tuple[Chunk, Tensor] | None = None,
    ) -> Tensor:
        """Prediction [B, C, f, h, w] for one chunk that sees the cached past; commits nothing.

        Of several processes only the first gets one.

        x_t: [B, C, f, h, w] with f = chunk.frames. timestep: 0..1000, a number or one per frame [B, f].
        update_cache: False leaves the cache as it is, so that a gradient can flow; nothing can be committed then.
        kv_only: only what the cache keeps of the chunk is wanted: the prediction may be empty.
        merged_clean_pass: the chunk before and its x0 [B, C, f, h, w]; its clean pass runs in this call too.
          It does not see this chunk, which sees it as it is committed: nothing but the time that it takes is another.
        """
        if merged_clean_pass is None:
            past = CachedPast(cache, (cache.begin(chunk),), update_cache)
            if self.processes is None:
                return self._run(x_t, timestep, prompt, past, kv_only=kv_only)
            assert not isinstance(timestep, Tensor), "several processes, and a timestep for each frame"
            self.processes.announce(
                self, x_t, timestep, prompt, cache=cache, chunk=chunk, update_cache=update_cache, kv_only=kv_only
            )
            shared = SharedPast(past, self.tokens(x_t), self.processes)
            return self._run(x_t, timestep, prompt, shared, kv_only=kv_only)
        assert self.processes is None, "several processes, and a merged clean pass"
        earlier, x0 = merged_clean_pass
        place = cache.begin(earlier)
        cache.commit()
        past = CachedPast(cache, (place, cache.begin(chunk)))
        both = torch.cat([x0.to(x_t.dtype), x_t], dim=2)
        assert not isinstance(timestep, Tensor), "a merged clean pass, and a timestep for each frame"
        timesteps = (self.clean_timestep(earlier), timestep)
        each = timesteps if self._can_fuse else past.per_frame(timesteps)
        return self._run(both, each, prompt, past, kv_only=True)[:, :, -chunk.frames :]

    def clean_timestep(self, chunk: Chunk) -> float:
        """What the network is fed in a chunk's clean pass: frames that were given are clean, made ones as it is taught.

        No noise is added to either (Self-Forcing's `context_noise`).
        """
        return self.context_noise if chunk.index >= 0 else CLEAN_TIMESTEP

    def forward_whole(
        self,
        x_t: Tensor,
        timestep: float | Tensor,
        prompt: PromptCache,
        *,
        mask: Tensor | None = None,
        clean: Tensor | None = None,
        detach_clean: bool = False,
    ) -> Tensor:
        """Prediction [B, C, F, h, w] for a whole clip at once, without a cache (teacher, training, `drawings.py`).

        timestep: a number, one per clip [B], or one per frame [B, F].
        mask: frames that attend to frames, bool [F, F] (`frame_mask`); None lets every frame see every frame.
        clean: x0 [B, C, F, h, w] for teacher forcing: the mask is then [2 F, 2 F] over clean frames and noisy frames
        (`teacher_forcing_mask`), the clean ones stand at the same positions at timestep 0, and only the noisy
        half of the prediction is returned.
        detach_clean: let no gradient flow through what noisy frames see of clean ones, as none flows through a cache.
        """
        batch, _, frames, height, width = x_t.shape
        rows, columns = self._grid(height, width)
        positions = list(range(frames))
        if clean is not None:
            timestep = _per_frame(timestep, batch, frames, x_t.device)
            timestep = torch.cat([torch.zeros_like(timestep), timestep], dim=1)
            x_t, positions = torch.cat([clean, x_t], dim=2), positions * 2
        parts: AttentionParts = ()
        if mask is not None and len(positions) * rows * columns > LARGEST_MASKED:
            parts, mask = attention_parts(mask, rows * columns), None
        elif mask is not None:
            mask = mask.to(x_t.device).repeat_interleave(rows * columns, 0).repeat_interleave(rows * columns, 1)
        # looked up here and not layer by layer: compiled blocks would work the table out anew in each
        table = self._rotations(positions, rows=rows, columns=columns)
        detached_tokens = frames * rows * columns if detach_clean and clean is not None else 0
        past = WholeClip(mask, table, detached_tokens, parts)
        return self._run(x_t, timestep, prompt, past)[:, :, -frames:]

    def tokens(self, x_t: Tensor) -> int:
        """How many tokens latents [B, C, F, h, w] have."""
        rows, columns = self._grid(*x_t.shape[-2:])
        return x_t.shape[2] * rows * columns

    def _grid(self, latent_height: int, latent_width: int) -> tuple[int, int]:
        _, patch_height, patch_width = self.config.patch_size
        return latent_height // patch_height, latent_width // patch_width

    @property
    def _can_fuse(self) -> bool:
        """Whether calls with a plain number for a timestep take the fused blocks."""
        return self._fused is not None and not _is_offloaded(self.transformer.blocks[0])

    def _rotations(self, positions: Sequence[int], *, rows: int, columns: int) -> Tensor:
        """Rotations of the tokens of latent frames at these positions."""
        device = self.transformer.patch_embedding.weight.device
        return rotations(tuple(positions), rows, columns, self.config.attention_head_dim, device)

    def _run(
        self,
        x_t: Tensor,
        timestep: float | tuple[float, ...] | Tensor,
        prompt: PromptCache,
        past: "Reach",
        *,
        kv_only: bool = False,
    ) -> Tensor:
        """Patches -> blocks -> prediction. A chunk with one timestep takes the [B] form: exact, and far smaller.

        timestep: also one for each part that the past has. kv_only: the first part's prediction may be left out.
        """
        net = self.transformer
        batch, _, frames, height, width = x_t.shape
        rows, columns = self._grid(height, width)
        x_t, shared = x_t.to(self.dtype), past if isinstance(past, SharedPast) else None
        fused = self._fused if self._can_fuse and not isinstance(timestep, Tensor) else None
        hidden = fused.tokens(x_t) if fused else plain_tokens(net, x_t)
        hidden = placed(net, hidden, rows=rows, columns=columns)
        hidden = shared.processes.own_tokens(hidden) if shared else hidden
        if fused and not isinstance(timestep, Tensor):
            timesteps = timestep if isinstance(timestep, tuple) else (timestep,)
            cache, static = None, None
            if fused.compiled and isinstance(past, CachedPast) and past.update_cache:
                static = StaticPast.of(past.cache, past.places, frames=fused.compiled.frames)
                cache = past.cache if static else None
            hidden = fused(hidden, timesteps, prompt, static or past, kv_only=kv_only, cache=cache)
        else:
            assert not isinstance(timestep, tuple), "parts for the plain layers"
            hidden = self._layers(hidden, timestep, prompt, past, tokens_per_latent_frame=rows * columns)
        _, patch_height, patch_width = self.config.patch_size
        out = net.proj_out(hidden)  # [B, L, patch_height * patch_width * C]
        if shared:
            out = out[:, :0] if kv_only else shared.processes.all_tokens(out, shared.tokens)
        frames = out.shape[1] // (rows * columns)
        out = out.reshape(batch, frames, rows, columns, patch_height, patch_width, self.config.out_channels)
        return out.permute(0, 6, 1, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4)

    def _embed_time(self, timestep: float | Tensor) -> tuple[Tensor, Tensor]:
        """Features of timesteps [..., D], and what the blocks are modulated by [..., 6, D]; of a number: [1, ...]."""
        net, embedder = self.transformer, self.transformer.condition_embedder
        weight = net.patch_embedding.weight
        size, dtype = self.config.freq_dim, _dtype(embedder.time_embedder)
        if isinstance(timestep, Tensor):
            features = features_of_tensor(timestep.to(weight.device), size).to(dtype)
        else:
            features = features_of_number(timestep, size, device=weight.device, dtype=dtype)
        time = embedder.time_embedder(features).to(weight.dtype)
        return time, embedder.time_proj(embedder.act_fn(time)).unflatten(-1, (6, -1))

    def _layers(
        self,
        hidden: Tensor,
        timestep: float | Tensor,
        prompt: PromptCache,
        past: "Reach",
        *,
        tokens_per_latent_frame: int,
    ) -> Tensor:
        """Blocks and the last norm, [B, L, D] -> [B, L, D]."""
        net = self.transformer
        time, modulation = self._embed_time(timestep)
        if time.ndim == 3:  # one timestep per frame -> one per token
            time, modulation = (t.repeat_interleave(tokens_per_latent_frame, dim=1) for t in (time, modulation))
        whole = isinstance(past, WholeClip) and self._whole_blocks
        for block in whole or net.blocks:
            if net.gradient_checkpointing and torch.is_grad_enabled():
                hidden = torch.utils.checkpoint.checkpoint(block, hidden, prompt, modulation, past, use_reentrant=False)
            else:
                hidden = block(hidden, prompt, modulation, past)

        shift, scale = (net.scale_shift_table + time.unsqueeze(-2)).unbind(-2)  # [B, D] or [B, L, D]
        if time.ndim == 2:
            shift, scale = shift.unsqueeze(1), scale.unsqueeze(1)
        return (net.norm_out(hidden.float()) * (1 + scale) + shift).to(hidden.dtype)


class Reach(Protocol):
    """How self-attention of one call reaches other tokens."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, backend: Any) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class CachedPast:
    """Chunks that each see themselves and what the cache holds for their places, an earlier one among them.

    update_cache: whether they are written to the cache.
    """

    cache: KVCache
    places: tuple[Place, ...]
    update_cache: bool = True

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, backend: Any) -> Tensor:
        sizes = [place.rotations.shape[1] for place in self.places]
        rope = (
            torch.cat([place.rotations for place in self.places], dim=1) if len(sizes) > 1 else self.places[0].rotations
        )
        tensors = (apply_rope(q, rope), k, apply_rope(k, rope), v)
        parts = zip(self.places, *(t.split(sizes, dim=1) for t in tensors), strict=True)
        # one after another: the next may be written over what this one sees
        out = []
        for place, queries, key, rotated, value in parts:
            if self.update_cache:
                keys, values = self.cache.write(layer, key, value, place, rotated=rotated)
            else:
                keys, values = self.cache.append(layer, rotated, value, place)
            out.append(attention(queries, keys, values, backend=backend))
        return out[0] if len(out) == 1 else torch.cat(out, dim=1)

    def keep(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Write the first chunk's keys and values, and no more."""
        self.cache.write(layer, k, v, self.places[0])

    def after_first(self) -> "CachedPast":
        """Return the past of all chunks but the first."""
        return CachedPast(self.cache, self.places[1:], self.update_cache)

    def per_frame(self, timesteps: Sequence[float]) -> Tensor:
        """A timestep for each chunk -> one for each frame [1, F]."""
        frames = [len(place.positions) for place in self.places]
        device = self.cache.keys.device
        parts = zip(timesteps, frames, strict=True)
        return torch.cat([torch.full((1, count), timestep, device=device) for timestep, count in parts], dim=1)


@dataclass(frozen=True, slots=True)
class WholeClip:
    """Tokens of a whole clip see each other where the mask (bool [L, L]; None: everywhere) or the parts allow.

    detached_tokens: so many at the start are seen, but learn nothing from being seen.
    """

    mask: Tensor | None
    rotations: Tensor
    detached_tokens: int = 0
    parts: AttentionParts = ()

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, backend: Any) -> Tensor:
        if n := self.detached_tokens:
            k, v = (torch.cat([t[:, :n].detach(), t[:, n:]], dim=1) for t in (k, v))
        q, k = apply_rope(q, self.rotations), apply_rope(k, self.rotations)
        if not self.parts:
            return attention(q, k, v, attn_mask=self.mask, backend=backend)
        out = []
        for own, seen in self.parts:
            keys, values = (torch.cat([t[:, run] for run in seen], dim=1) for t in (k, v))
            out.append(attention(q[:, own], keys, values, backend=backend))
        return torch.cat(out, dim=1)


class _Processor:
    # Read and set by diffusers' set_attention_backend and context parallelism.
    _attention_backend: Any = None
    _parallel_config: Any = None

    def __init__(self, layer: int) -> None:
        self.layer = layer


class SelfAttention(_Processor):
    """diffusers' attention processor whose `rotary_emb` is the call's `Reach`."""

    def __call__(self, attn: Any, hidden: Tensor, _encoder: None, _mask: None, past: Reach) -> Tensor:
        q, k = attn.norm_q(attn.to_q(hidden)), attn.norm_k(attn.to_k(hidden))
        q, k, v = (t.unflatten(-1, (attn.heads, -1)) for t in (q, k, attn.to_v(hidden)))  # [B, L, N, D]
        out = past.attend(self.layer, q, k, v, self._attention_backend)
        return attn.to_out[0](out.flatten(2).to(hidden.dtype))


class CrossAttention(_Processor):
    """diffusers' attention processor whose `encoder_hidden_states` is the call's `PromptCache`."""

    def __call__(self, attn: Any, hidden: Tensor, prompt: PromptCache, _mask: None, _rotary: None) -> Tensor:
        q = attn.norm_q(attn.to_q(hidden)).unflatten(-1, (attn.heads, -1))
        k, v = prompt.keys_values(self.layer, partial(self.keys_values, attn))
        out = attention(q, k, v, backend=self._attention_backend)  # every row of text, no mask
        return attn.to_out[0](out.flatten(2).to(hidden.dtype))

    @staticmethod
    def keys_values(attn: Any, embeds: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [B, L, head, head_dim] of a prompt [B, L, dim]."""
        k, v = attn.norm_k(attn.to_k(embeds)), attn.to_v(embeds)
        return k.unflatten(-1, (attn.heads, -1)), v.unflatten(-1, (attn.heads, -1))


def _per_frame(timestep: float | Tensor, batch: int, frames: int, device: torch.device) -> Tensor:
    time = torch.as_tensor(timestep, dtype=torch.float32, device=device)
    if time.ndim == 1:
        time = time.unsqueeze(1)
    return time.expand(batch, frames)


def _is_offloaded(block: Any) -> bool:
    """Whether diffusers fetches a block's weights when it, or a layer of it, is called: then it has to be called."""
    return hasattr(block, "_diffusers_hook") or hasattr(block.attn1.to_q, "_diffusers_hook")


def _dtype(module: nn.Module) -> torch.dtype:
    return next(module.parameters()).dtype
