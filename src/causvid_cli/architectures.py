"""What the config.json of each network of a pack may say: types, ranges, and the defaults of what it leaves out.

Names and defaults are those of diffusers and transformers, whose other keys change nothing here.
Imports no torch.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Interval, Len, MultipleOf

from causvid_cli.config import from_data
from causvid_cli.errors import ModelError
from causvid_cli.untrusted import read_object, shown

Width = Annotated[int, Interval(ge=1, le=65536)]
"""Of a layer."""
Count = Annotated[int, Interval(ge=1, le=128)]
"""Of layers, heads, channels of a latent."""
Small = Annotated[float, Interval(gt=0, le=1)]
Word = Annotated[str, Len(1, 64)]
Words = Annotated[list[Word], Len(1, 4096)]


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformerConfig:
    """diffusers' `WanTransformer3DModel`."""

    patch_size: tuple[Literal[1], Literal[2], Literal[2]] = (1, 2, 2)
    num_attention_heads: Count = 40
    attention_head_dim: Annotated[int, Interval(ge=6, le=1024), MultipleOf(2)] = 128
    in_channels: Annotated[int, Interval(ge=1, le=1024)] = 16
    out_channels: Annotated[int, Interval(ge=1, le=1024)] = 16
    text_dim: Width = 4096
    freq_dim: Annotated[Width, MultipleOf(2)] = 256
    ffn_dim: Width = 13824
    num_layers: Count = 40
    cross_attn_norm: bool = True
    qk_norm: Literal["rms_norm_across_heads"] = "rms_norm_across_heads"
    eps: Small = 1e-6
    image_dim: Width | None = None
    added_kv_proj_dim: Width | None = None
    rope_max_seq_len: Width = 1024
    pos_embed_seq_len: Width | None = None
    grid_embed_size: Annotated[int, Interval(ge=0, le=1024)] = 0
    copied_channels: Annotated[int, Interval(ge=0, le=1024)] = 0
    """Our own: see `network/layers.py`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WanVaeConfig:
    """diffusers' `AutoencoderKLWan`."""

    base_dim: Annotated[int, Interval(ge=1, le=1024)] = 96
    decoder_base_dim: Annotated[int, Interval(ge=1, le=1024)] | None = None
    z_dim: Count = 16
    dim_mult: Annotated[list[Annotated[int, Interval(ge=1, le=64)]], Len(2, 6)] = field(
        default_factory=lambda: [1, 2, 4, 4]
    )
    num_res_blocks: Annotated[int, Interval(ge=1, le=16)] = 2
    attn_scales: list[float] = field(default_factory=list)
    temperal_downsample: list[bool] = field(default_factory=lambda: [False, True, True])
    dropout: Annotated[float, Interval(ge=0, le=1)] = 0.0
    latents_mean: list[float] | None = None
    latents_std: list[Annotated[float, Interval(gt=0)]] | None = None
    is_residual: bool = False
    in_channels: Count = 3
    out_channels: Count = 3
    patch_size: Annotated[int, Interval(ge=1, le=8)] | None = None
    scale_factor_temporal: int | None = 4
    scale_factor_spatial: int | None = 8

    def __post_init__(self) -> None:
        if len(self.temperal_downsample) != len(self.dim_mult) - 1:
            raise ModelError("temperal_downsample: must have one entry less than dim_mult")
        for name in ("latents_mean", "latents_std"):
            count = len(getattr(self, name) or [0.0] * 16)  # diffusers' own, where there is none
            if count != self.z_dim:
                raise ModelError(f"{name}: must have z_dim ({self.z_dim}) entries, has {count}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TinyVaeConfig:
    """The published TAEHV for Wan2.1's latents; relatives for other latents differ in what has one value only."""

    __pydantic_config__ = {"extra": "forbid"}

    latent_channels: Count = 16
    encoder_channels: Annotated[int, Interval(ge=1, le=4096)] = 64
    channels: Annotated[list[Annotated[int, Interval(ge=1, le=4096)]], Len(4, 4)] = field(
        default_factory=lambda: [256, 128, 64, 64]
    )
    image_channels: Literal[3] = 3
    patch_size: Literal[1] = 1
    encoder_time_downscale: tuple[Literal[True], Literal[True], Literal[False]] = (True, True, False)
    decoder_time_upscale: tuple[Literal[False], Literal[True], Literal[True]] = (False, True, True)
    decoder_space_upscale: tuple[Literal[True], Literal[True], Literal[True]] = (True, True, True)


Widths = Annotated[list[Annotated[int, Interval(ge=1, le=4096)]], Len(3, 3)]
Blocks = Annotated[int, Interval(ge=0, le=64)]


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelCodecConfig:
    """The embedded model's codec."""

    __pydantic_config__ = {"extra": "forbid"}

    colours: Annotated[int, Interval(ge=2, le=256)]
    cell_channels: Count = 6
    stack: Annotated[int, Interval(ge=1, le=64)] = 4
    encoder_widths: Widths = field(default_factory=lambda: [32, 64, 96])
    decoder_widths: Widths = field(default_factory=lambda: [64, 96, 128])
    blocks: Blocks | Annotated[list[Blocks], Len(3, 3)] = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotWords:
    """The words that the embedded model's prompts are read by, for each slot of a story."""

    __pydantic_config__ = {"extra": "forbid"}

    subject: Words
    colour: Words
    scene: Words
    action: Words
    target: Words
    size: Words = field(default_factory=list)
    speed: Words = field(default_factory=list)
    sky: Words = field(default_factory=list)
    camera: Words = field(default_factory=list)
    count: list[Literal[1, 2, 3]] = field(default_factory=list)
    relation: Words = field(default_factory=list)
    other: Words = field(default_factory=list)
    other_colour: Words = field(default_factory=list)
    mirrored: list[bool] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoryTextConfig:
    """The embedded model's text features."""

    __pydantic_config__ = {"extra": "forbid"}

    words: SlotWords
    dim: Annotated[int, Interval(ge=1, le=4096)]
    pictures: bool = False

    def __post_init__(self) -> None:
        for slot, words in asdict(self.words).items():
            said = [word for word in words if isinstance(word, str)]
            if bad := [word for word in said if not all(part.isalpha() for part in word.split(" "))]:
                raise ModelError(f"words.{slot}: {bad[0]!r} is no word of letters")


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeConfig:
    """The embedded model's judge."""

    __pydantic_config__ = {"extra": "forbid"}

    width: Annotated[int, Interval(ge=1, le=1024)]
    words: SlotWords


@dataclass(frozen=True, slots=True, kw_only=True)
class Umt5Config:
    """transformers' `UMT5EncoderModel`."""

    vocab_size: Annotated[int, Interval(ge=1, le=2**21)] = 250112
    d_model: Width = 512
    d_kv: Annotated[int, Interval(ge=1, le=1024)] = 64
    d_ff: Width = 1024
    num_layers: Count = 8
    num_heads: Count = 6
    relative_attention_num_buckets: Annotated[int, Interval(ge=4, le=1024), MultipleOf(4)] = 32
    relative_attention_max_distance: Annotated[int, Interval(ge=2, le=65536)] = 128
    dropout_rate: Annotated[float, Interval(ge=0, le=1)] = 0.1
    layer_norm_epsilon: Small = 1e-6
    feed_forward_proj: Literal["gated-gelu", "gated-silu", "gelu", "relu"] = "gated-gelu"

    def __post_init__(self) -> None:
        if self.relative_attention_max_distance <= self.relative_attention_num_buckets:
            raise ModelError("relative_attention_max_distance: must be more than relative_attention_num_buckets")


ARCHITECTURES: dict[str, type[Any]] = {
    "WanTransformer3DModel": TransformerConfig,
    "AutoencoderKLWan": WanVaeConfig,
    "TAEHV": TinyVaeConfig,
    "PixelCodec": PixelCodecConfig,
    "StoryText": StoryTextConfig,
    "StorybookJudge": JudgeConfig,
    "UMT5EncoderModel": Umt5Config,
}
"""Class of a network, as its config.json names it -> what that may say."""


def load_config(folder: Path, class_name: str) -> dict[str, Any]:
    """The configuration of a network from the config.json in its folder, with `_class_name` and every default.

    Raises ModelError, which names the file and the key, for another class and for a value that cannot be.
    """
    path = folder / "config.json"
    given = read_object(path, error=ModelError)
    key = "_class_name" if "_class_name" in given else "architectures"
    if (found := given.get(key)) is None:
        raise ModelError(f"{path}: _class_name: missing; {class_name!r} is wanted")
    if found not in (class_name, [class_name]):
        raise ModelError(f"{path}: {key}: {shown(found)} instead of {class_name!r}")
    named = {name: value for name, value in given.items() if not name.startswith("_")}
    checked = from_data(ARCHITECTURES[class_name], named, where=str(path), error=ModelError)
    told = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(checked).items()}
    return {"_class_name": class_name} | {name: value for name, value in told.items() if value is not None}
