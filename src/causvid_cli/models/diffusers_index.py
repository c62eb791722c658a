"""What lets diffusers load the parts of a pack: `model_index.json` and the configuration of a scheduler.

    WanTransformer3DModel.from_pretrained(pack, subfolder="transformer")
    FlowMatchEulerDiscreteScheduler.from_pretrained(pack, subfolder="scheduler")

The index of a student names no pipeline of diffusers: WanPipeline would run its network over a whole clip, for which it
was not made. Nor does it name a network that is told where its patches stand (`grid_embed_size`), which diffusers would
load without that. Imports no torch.
"""

from pathlib import Path
from typing import Any

from causvid_cli.config import PackFacts, to_json
from causvid_cli.files import write_text
from causvid_cli.untrusted import read_object

INDEX_FILE = "model_index.json"
SCHEDULER = "scheduler"
CLASSES = {
    "transformer": ("diffusers", "WanTransformer3DModel"),
    "vae": ("diffusers", "AutoencoderKLWan"),
    "text_encoder": ("transformers", "UMT5EncoderModel"),
    "tokenizer": ("transformers", "T5TokenizerFast"),
    SCHEDULER: ("diffusers", "FlowMatchEulerDiscreteScheduler"),
}
"""Part of a pack -> the library and the class that load it; the embedded model's codec and text are causvid's own."""


def write_diffusers_index(pack: Path, facts: PackFacts) -> None:
    """Write both files into a pack whose parts lie there.

    The scheduler's steps are the student's: to x0, and from there to the next level by new noise.
    """
    scheduler = {
        "_class_name": CLASSES[SCHEDULER][1],
        "num_train_timesteps": 1000,
        "shift": facts.shift if facts.warp_steps else 1.0,  # else its timesteps are as they are
        "stochastic_sampling": facts.kind == "student",
    }
    (pack / SCHEDULER).mkdir(exist_ok=True)
    write_text(pack / SCHEDULER / "scheduler_config.json", to_json(scheduler, indent=2) + "\n")
    own = () if facts.codec == "wan" else ("vae", "text_encoder", "tokenizer")
    networks = dict.fromkeys((part for part in (*facts.networks[1:], facts.teacher) if part), CLASSES["transformer"])
    classes = {
        part: of
        for part, of in (CLASSES | networks).items()
        if part not in own and (pack / part).is_dir() and not _has_grid(pack / part)
    }
    index: dict[str, Any] = {
        "_class_name": "WanPipeline" if facts.kind == "base" else "CausalWanPipeline",
        "causal": facts.kind == "student",
        **classes,
    }
    write_text(pack / INDEX_FILE, to_json(index, indent=2) + "\n")


def _has_grid(part: Path) -> bool:
    """Whether a part is a network that diffusers has no code for."""
    config = part / "config.json"
    return config.is_file() and bool(read_object(config).get("grid_embed_size"))
