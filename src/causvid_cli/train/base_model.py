"""What a run starts from when its configuration names a base: a model pack, or Wan2.1 itself.

    base = load_base("Wan2.1-T2V-1.3B-Diffusers", device=device, dtype=torch.float32)
    student = copy.deepcopy(base.start)

Nothing is loaded before it is asked for: a stage that trains on prepared features never holds umT5.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from causvid_cli.architectures import load_config
from causvid_cli.codec import Codec
from causvid_cli.config import FACTS_FILE, PackFacts, load_facts
from causvid_cli.device import resolve_dtype
from causvid_cli.errors import ModelError
from causvid_cli.models.load import load_codec, load_story_text, load_text, load_transformer
from causvid_cli.models.packs import find_pack, list_packs, teacher_folder, verify_pack
from causvid_cli.network.model import CausalTransformer
from causvid_cli.prompt.encoded import TextEncoder
from causvid_cli.prompt.story import StoryText
from causvid_cli.prompt.umt5 import CLASS as UMT5
from causvid_cli.prompt.umt5 import TOKENIZER
from causvid_cli.request import AUTO

WAN_PARTS = ("transformer", "vae", "text_encoder", "tokenizer")


@dataclass(frozen=True)
class Base:
    """A base whose files have been looked at; its parts are loaded when they are first asked for.

    facts: what a student of this base says of itself where the run says nothing else. dtype: of the transformers; codec
    and text encoder compute in what suits the device.
    """

    folder: Path
    facts: PackFacts
    student_folder: Path | None
    teacher_folder: Path | None
    device: torch.device
    dtype: torch.dtype

    @cached_property
    def student(self) -> CausalTransformer | None:
        return self._transformer(self.student_folder) if self.student_folder else None

    @cached_property
    def teacher(self) -> CausalTransformer:
        """The bidirectional teacher. Raises ModelError when the base comes without one."""
        if self.teacher_folder is None:
            raise ModelError(f"{self.facts.name} comes without its teacher, and cannot be distilled from")
        return self._transformer(self.teacher_folder)

    @property
    def start(self) -> CausalTransformer:
        """The network that a new student begins as: the base's student, or its teacher where it has none."""
        return self.student or self.teacher

    @cached_property
    def opening(self) -> CausalTransformer | None:
        """What makes first chunks, where that is another network."""
        return self._transformer(self.folder / self.facts.opening_network) if self.facts.opening_network else None

    @cached_property
    def codec(self) -> Codec:
        return load_codec(self.folder, self.facts, device=self.device, dtype=resolve_dtype(AUTO, self.device))

    @cached_property
    def text(self) -> TextEncoder:
        return load_text(self.folder, self.facts, device=self.device, dtype=resolve_dtype(AUTO, self.device))

    @cached_property
    def story(self) -> StoryText:
        """The learned text features of a storybook pack. Raises ModelError when the base reads prompts otherwise."""
        if self.facts.text != "storybook":
            raise ModelError(f"{self.facts.name} reads prompts by {self.facts.text}, not as storybook does")
        return load_story_text(self.folder / "text_encoder").to(self.device)

    def _transformer(self, folder: Path) -> CausalTransformer:
        return load_transformer(folder, self.facts).to(self.device, self.dtype)


def load_base(model: str | Path, *, device: torch.device, dtype: torch.dtype) -> Base:
    """Return a base from the name or folder of a model pack, or the folder of Wan2.1 text-to-video in diffusers layout.

    A pack's files are verified; of Wan, whose files nobody has listed, the configurations are. Raises ModelError.
    """
    folder = Path(model)
    if folder.is_dir() and not (folder / FACTS_FILE).is_file() and model not in list_packs():
        check_wan(folder)
        return Base(folder, wan_facts(folder.resolve().name), None, folder / "transformer", device, dtype)
    folder = find_pack(model)
    facts = load_facts(folder)
    verify_pack(folder, facts)
    teacher = teacher_folder(folder, facts)
    student = None if facts.kind == "base" else folder / "transformer"
    return Base(folder, facts, student, teacher, device, dtype)


def check_wan(folder: Path) -> None:
    """Raise ModelError unless a folder holds Wan2.1 text-to-video: its four parts, and they fit each other."""
    if missing := [part for part in WAN_PARTS if not (folder / part).is_dir()]:
        original = (folder / "Wan2.1_VAE.pth").is_file()
        raise ModelError(
            f"{folder} is neither a model pack ({FACTS_FILE}) nor Wan2.1 in diffusers layout: no {', '.join(missing)}"
            + ("; these are Wan's original files: get the repository whose name ends in -Diffusers" if original else "")
        )
    if not (folder / "tokenizer" / TOKENIZER).is_file():
        raise ModelError(f"{folder / 'tokenizer' / TOKENIZER} is missing")
    network = load_config(folder / "transformer", "WanTransformer3DModel")
    sizes = {
        "in_channels": load_config(folder / "vae", "AutoencoderKLWan")["z_dim"],
        "text_dim": load_config(folder / "text_encoder", UMT5)["d_model"],
        "image_dim": None,
    }
    for key, wanted in sizes.items():
        if (found := network.get(key)) != wanted:
            raise ModelError(
                f"{folder / 'transformer'}: {key} {found} instead of {wanted}: not Wan2.1's text-to-video transformer"
            )
    if (folder / "transformer_2").exists():
        raise ModelError(f"{folder} has a second transformer: Wan2.2 cannot be distilled yet; give Wan2.1")


def wan_facts(name: str) -> PackFacts:
    """Facts of a student of Wan2.1: as Self-Forcing trains it (arXiv 2506.08009); of its teacher, as Wan samples."""
    return PackFacts(
        name=name,
        chunk_frames=3,
        steps=(1000.0, 750.0, 500.0, 250.0),
        shift=5.0,
        warp_steps=True,
        sink_frames=0,
        window_frames=21,
        rope="relative",
        prediction="flow",
        fps=16.0,
        height=480,
        width=832,
        text="umt5",
        codec="wan",
        teacher="teacher",
        teacher_guidance=5.0,
        teacher_steps=50,
        teacher_shift=3.0,
        license="Apache-2.0",
        source=f"distilled from {name}",
    )
