"""prompt -> prompt_embeds by umT5, as Wan was trained with: any English (and more) goes.

The features of a prompt's tokens are followed by rows of zeros up to `ROWS`, and the transformer attends to all of
them, without a mask. umT5 itself never sees the padding: its positions are relative, so that changes nothing.
"""

import html
import re
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from causvid_cli.errors import ModelError
from causvid_cli.request import check_prompt
from causvid_cli.text import EncodedPrompt
from causvid_cli.weights import load_config, load_safetensors, load_state

ROWS = 512
"""Text features of every prompt; longer ones are cut."""
CLASS = "UMT5EncoderModel"
TOKENIZER = "tokenizer.json"


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

        float16 becomes bfloat16, because T5's activations overflow it.
        """
        check_installed()
        from tokenizers import Tokenizer
        from transformers import UMT5Config, UMT5EncoderModel

        config = load_config(folder / "text_encoder", CLASS)
        with torch.device("meta"):
            model = UMT5EncoderModel(UMT5Config.from_dict(config))
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
        return cls(model.to(device, torch.bfloat16 if dtype == torch.float16 else dtype), tokenizer)

    @torch.inference_mode()
    def encode(self, prompt: str, *, previous: EncodedPrompt | None = None) -> EncodedPrompt:
        """Features [1, 512, D] of a prompt, which says all by itself; a note where its end was cut."""
        text = clean(check_prompt(prompt))
        encoding = self.tokenizer.encode(text)
        cut = (f"the prompt is longer than {self.rows} tokens; its end was not read",)
        notes = cut if encoding.overflowing else ()
        return EncodedPrompt(prompt, self._padded(encoding.ids), notes, text)

    @torch.inference_mode()
    def empty(self) -> Tensor:
        return self._padded(self.tokenizer.encode("").ids)

    def _padded(self, ids: list[int]) -> Tensor:
        tokens = torch.tensor([ids], device=self.model.device)
        embeds: Tensor = self.model(tokens).last_hidden_state  # [1, tokens, D]
        return F.pad(embeds, (0, 0, 0, self.rows - len(ids)))


def check_installed() -> None:
    """Raise ModelError unless the packages that umT5 needs are here."""
    try:
        import ftfy  # noqa: F401
        import tokenizers  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        raise ModelError(
            f"this model reads prompts by umT5, which needs the package {error.name}; try pip install 'causvid[wan]'"
        ) from None


def clean(prompt: str) -> str:
    """A prompt as Wan's own programs clean it: mended characters, no HTML entities, single spaces."""
    import ftfy

    return re.sub(r"\s+", " ", html.unescape(html.unescape(ftfy.fix_text(prompt)))).strip()
