"""Wan2.1 in diffusers layout, random and small enough for any test; nothing is downloaded."""

import json
from dataclasses import replace
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel

from causvid_cli.codec.taehv import TAEHV
from causvid_cli.train.base_model import load_base
from causvid_cli.train.export import export_pack
from causvid_cli.weights.files import save_safetensors

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,-'\"&<>"


def tiny_wan(folder: Path, *, seed: int = 0, **changes: object) -> Path:
    """A folder like Wan2.1-T2V-1.3B-Diffusers. changes: of the transformer's configuration."""
    from transformers import UMT5Config, UMT5EncoderModel

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        shape: dict = {
            "num_attention_heads": 2,
            "attention_head_dim": 16,
            "text_dim": 32,
            "freq_dim": 32,
            "ffn_dim": 64,
            "num_layers": 2,
        }
        WanTransformer3DModel(**shape | changes).save_pretrained(folder / "transformer")
        AutoencoderKLWan(base_dim=4, num_res_blocks=1).save_pretrained(folder / "vae")
        umt5 = UMT5Config(vocab_size=128, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
        encoder = UMT5EncoderModel(umt5)
        torch.nn.init.normal_(encoder.shared.weight)
        encoder.save_pretrained(folder / "text_encoder")
    tiny_tokenizer(folder / "tokenizer")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "WanPipeline"}))
    return folder


def tiny_tokenizer(folder: Path) -> None:
    """A tokenizer.json of umT5's kind, one token a letter, which ends a text with </s>."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    special = ["<pad>", "</s>", "<s>", "<unk>"]
    pieces = [(token, 0.0) for token in special] + [(letter, -3.0) for letter in "▁" + LETTERS]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.enable_padding(length=600)  # a saved setting, which encoding must not follow
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))


def tiny_student(folder: Path, **changes: object) -> Path:
    """A pack like that of a published student, with both codecs, of two steps. changes: of its facts."""
    base = load_base(tiny_wan(folder.with_name(f"{folder.name}-base")), device=torch.device("cpu"), dtype=torch.float32)
    with torch.no_grad():  # so that what a chunk sees makes a difference
        base.start.transformer.proj_out.weight.mul_(3)
    facts = {"name": folder.name, "height": 32, "width": 48, "teacher": None, "steps": (1000.0, 500.0)}
    tiny_taehv(base.folder / "vae_tiny")
    export_pack(folder, replace(base.facts, **facts | changes), student=base.start, base=base.folder)
    return folder


def tiny_taehv(folder: Path) -> None:
    """A random TAEHV for Wan's latents."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        codec = TAEHV(encoder_channels=8, channels=(8, 8, 8, 8))
    save_safetensors(codec.state_dict(), folder, dtype=torch.float32)
    (folder / "config.json").write_text(json.dumps({"_class_name": "TAEHV", **codec.config}))
