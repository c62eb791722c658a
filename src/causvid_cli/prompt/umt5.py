"""prompt -> prompt_embeds by umT5, as Wan was trained with: any English (and more) goes.

The features of a prompt's tokens are followed by rows of zeros up to `ROWS`, and the transformer attends to all of
them, without a mask. umT5 itself never sees the padding: its positions are relative, so that changes nothing.
"""

import html
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from causvid_cli.architectures import load_config
from causvid_cli.errors import ModelError
from causvid_cli.extras import require
from causvid_cli.prompt.encoded import EncodedPrompt
from causvid_cli.request import check_prompt
from causvid_cli.weights.files import load_safetensors, load_state

ROWS = 512
"""Text features of every prompt; longer ones are cut."""
CLASS = "UMT5EncoderModel"
TOKENIZER = "tokenizer.json"
PARTS = ("text_encoder", "tokenizer")
"""Subfolders of a pack that only encoding a prompt needs."""


@dataclass(frozen=True, slots=True)
class Features:
    """What umT5 says of a text: rows [tokens, D], and what there is to say to the user."""

    rows: Tensor
    notes: tuple[str, ...] = ()


class UMT5TextEncoder:
    """transformers' umT5 encoder with its tokenizer, both from a local folder (`text.TextEncoder`)."""

    def __init__(self, model: Any, tokenizer: Any, *, rows: int = ROWS) -> None:
        """model: `UMT5EncoderModel`. tokenizer: `tokenizers.Tokenizer` that ends a text as umT5 wants it."""
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.rows = rows
        tokenizer.no_padding()
        tokenizer.enable_truncation(rows)

    @classmethod
    def from_pack(cls, folder: Path, *, device: torch.device | str, dtype: torch.dtype) -> "UMT5TextEncoder":
        """The encoder in the subfolders text_encoder and tokenizer. Raises ModelError unless all is there and fits.

        float16 becomes bfloat16, because T5's activations overflow it. A bfloat16 file stays so in a float32 model: its
        11 GB would become 23, and the published programs compute in bfloat16 too.
        """
        model = empty_umt5(load_config(folder / "text_encoder", CLASS))
        from tokenizers import Tokenizer

        state = load_safetensors(folder / "text_encoder")
        tied = {"shared.weight", "encoder.embed_tokens.weight"}  # one tensor, which a file holds under either name
        if given := tied & state.keys():
            state |= dict.fromkeys(tied - given, state[given.pop()])
        load_state(model, state, name=str(folder / "text_encoder"))
        model.set_input_embeddings(model.shared)
        path = folder / "tokenizer" / TOKENIZER
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises nothing narrower
            raise ModelError(f"{path} cannot be read: {error}") from None
        wide = dtype == torch.float32 and model.dtype == torch.float32
        return cls(model.to(device, torch.float32 if wide else torch.bfloat16), tokenizer)

    def encode(self, prompt: str, *, previous: EncodedPrompt | None = None, seed: int = 0) -> EncodedPrompt:
        """Features [1, 512, D] of a prompt, which says all by itself; a note where its end was cut."""
        text = clean(check_prompt(prompt))
        features = self.features(text)
        return EncodedPrompt(prompt, padded(features.rows, self.rows), features.notes, text)

    def empty(self) -> Tensor:
        return padded(self.features("").rows, self.rows)

    def release(self) -> None:
        """Nothing: who loaded it keeps it. `text_cache.CachedText` lets it go."""

    @torch.inference_mode()
    def features(self, text: str) -> Features:
        """Features of a text that is clean, one row for each of its tokens, on the encoder's device."""
        encoding = self.tokenizer.encode(text)
        cut = (f"the prompt is longer than {self.rows} tokens; its end was not read",)
        tokens = torch.tensor([encoding.ids], device=self.model.device)
        return Features(self.model(tokens).last_hidden_state[0], cut if encoding.overflowing else ())


def padded(rows: Tensor, count: int) -> Tensor:
    """Features of a text's tokens [tokens, D], and zeros after them: [1, count, D]."""
    return F.pad(rows, (0, 0, 0, count - len(rows))).unsqueeze(0)


def empty_umt5(config: dict[str, Any]) -> Any:
    """Return transformers' encoder of this configuration, without weights (on the meta device)."""
    check_installed()
    from transformers import UMT5Config, UMT5EncoderModel

    with torch.device("meta"):
        return UMT5EncoderModel(UMT5Config.from_dict(config))


def check_installed() -> None:
    """Raise ModelError unless the packages that umT5 needs are here."""
    require("ftfy", "tokenizers", "transformers", extra="wan", what="this model reads prompts by umT5, which")


def clean(prompt: str) -> str:
    """A prompt as Wan's own programs clean it: mended characters, no HTML entities, single spaces."""
    import ftfy

    return re.sub(r"\s+", " ", html.unescape(html.unescape(ftfy.fix_text(prompt)))).strip()
