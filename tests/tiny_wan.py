"""Wan2.1 in diffusers layout, random and small enough for any test; nothing is downloaded."""

import json
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel

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
