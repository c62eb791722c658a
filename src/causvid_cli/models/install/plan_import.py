"""What a user's file is to become: which checkpoint it is, which facts its pack states, and where its parts are.

Names and shapes do not tell how a transformer was trained, so that is known from the file's hash, from where it lies,
or from what the user says; it is never guessed. Imports no torch.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from causvid_cli.config import FACTS_FILE, PACK_NAME_RULE, PackFacts, is_pack_name
from causvid_cli.errors import ModelError, UsageError
from causvid_cli.files import sha256_of_file
from causvid_cli.models.catalogue import REQUIRED_FACTS, UNKNOWN_LICENCE, Checkpoint, catalogue, find_checkpoint
from causvid_cli.models.install.build_pack import PackRecipe, pack_name_of, packs_with
from causvid_cli.models.install.conversion import ConversionSpec, LoraSpec, Recognised
from causvid_cli.models.install.find_parts import PartFiles, find_parts, read_config
from causvid_cli.models.packs import list_packs
from causvid_cli.weights.names import GGUF, PICKLES

NEEDED = ("vae", "text_encoder", "tokenizer")
"""Parts without which a pack makes no video."""
OPTIONAL = ("vae_tiny",)
DTYPES = {"transformer": "bfloat16", "text_encoder": "bfloat16"}
"""Number formats of parts in a pack where nothing is asked; the codecs, which are small, keep theirs."""
OPTIONS = {
    "chunk_frames": "--chunk",
    "steps": "--steps",
    "shift": "--shift",
    "warp_steps": "--warp or --no-warp",
    "sink_frames": "--sink",
    "window_frames": "--window",
}
"""Facts that a file does not tell -> the option that says each."""
OWN_REPOSITORY = re.compile(r"Wan2\.1-T2V-(1\.3B|14B)\b", re.IGNORECASE)
COMMON_NAME = "diffusion_pytorch_model"
"""How every network of diffusers, and Wan's own, begins its files' names."""
TOKENIZER = "tokenizer/tokenizer.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportRequest:
    """What a user wants imported. facts: chosen ones, by their names in `PackFacts`."""

    path: Path
    name: str | None = None
    known_as: str | None = None
    base: str | None = None
    lora: Path | None = None
    key: str | None = None
    dtype: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportPlan:
    """What comes of it. notes: what the user should know."""

    recipe: PackRecipe
    checkpoint: Checkpoint | None
    notes: tuple[str, ...] = ()


def plan_import(request: ImportRequest) -> ImportPlan:
    """Raises ModelError or UsageError, in one line, for what cannot become a pack."""
    parts = find_parts(_published_file(request))
    if "transformer" not in parts:
        raise ModelError(
            f"{request.path} holds {', '.join(parts)} but no transformer; give it as --base of a checkpoint"
        )
    checkpoint, notes = _which(request, parts["transformer"])
    facts = _facts(request, checkpoint)
    lora = _lora(request, checkpoint)
    if parts["transformer"].path.suffix.lower() == GGUF and (request.dtype or lora):
        option = f"--dtype {request.dtype}" if request.dtype else f"{facts.name}, whose LoRA is merged"
        raise UsageError(f"{option}: a GGUF file keeps its numbers as they are; give .safetensors")
    spec = ConversionSpec(
        source=str(parts["transformer"].path),
        target="transformer",
        key=request.key or (checkpoint.key if checkpoint else None),
        dtype=request.dtype or DTYPES["transformer"],
        config=parts["transformer"].config,
        lora=lora,
    )
    recipe = add_parts(PackRecipe(facts=facts, conversions=transformers(spec, facts)), parts, base=request.base)
    return ImportPlan(recipe=recipe, checkpoint=checkpoint, notes=notes)


def add_parts(recipe: PackRecipe, parts: Mapping[str, PartFiles], *, base: str | None = None) -> PackRecipe:
    """A recipe with the other parts: from beside the transformer, from a base, or from what is installed.

    base: name or folder of a pack, or a folder of Wan's. Raises ModelError when a part that is needed is nowhere.
    """
    conversions, linked, copied = list(recipe.conversions), dict(recipe.linked), dict(recipe.copied)
    theirs = dict(parts)
    pack: Path | None = None
    if base is not None:
        pack = list_packs().get(base) or (Path(base) if os.path.isfile(Path(base) / FACTS_FILE) else None)
        theirs = theirs | ({} if pack else find_parts(Path(base)))
    missing = []
    for part in (*NEEDED, *OPTIONAL):
        if part in linked or any(spec.target == part for spec in conversions):
            continue
        if pack and (pack / part).is_dir():
            linked[part] = pack
        elif part in theirs and part == "tokenizer":
            copied[TOKENIZER] = theirs[part].path
        elif part in theirs:
            conversions.append(convert_part(part, theirs[part].path, config=theirs[part].config))
        elif installed := next(packs_with(part), None):
            linked[part] = installed[1]
        elif part in NEEDED:
            missing.append(part.replace("_", " "))
    if missing:
        *first, last = missing
        named = f"{', the '.join(first)} and the {last}" if first else last
        are, they = ("are", "they lie") if first else ("is", "it lies")
        raise ModelError(
            f"the {named} of Wan2.1 {are} wanted too: say where {they} by --base FOLDER; "
            "`causvid models pull NAME` gets all of them with any known model"
        )
    return replace(recipe, conversions=tuple(conversions), linked=linked, copied=copied)


def convert_part(part: str, path: Path, *, config: dict[str, Any] | None = None) -> ConversionSpec:
    return ConversionSpec(source=str(path), target=part, dtype=DTYPES.get(part), config=config)


def transformers(spec: ConversionSpec, facts: PackFacts) -> tuple[ConversionSpec, ...]:
    """The conversions of a checkpoint's transformer, and of the second one that lies beside it where there is one."""
    if facts.context_network is None:
        return (spec,)
    return replace(spec, network="first"), replace(spec, network="second", target=facts.context_network)


def identify_checkpoint(path: Path) -> Checkpoint | None:
    """The known checkpoint that a file is, byte for byte; it is read only when one has its size."""
    size = path.stat().st_size
    alike = [
        (remote.sha256, checkpoint)
        for checkpoint in catalogue().checkpoints.values()
        for remote in checkpoint.files
        if remote.sha256 and remote.bytes == size
    ]
    if not alike:
        return None
    found = sha256_of_file(path)
    return next((checkpoint for sha256, checkpoint in alike if sha256 == found), None)


def check_recognised(recipe: PackRecipe, checkpoint: Checkpoint | None, seen: Sequence[Recognised]) -> None:
    """Raise ModelError unless the checkpoints were recognised as what they are to be, and fit each other."""
    from causvid_cli.models.install.identify import TITLES, same_network

    configs: dict[str, dict[str, Any]] = {}
    for part, pack in recipe.linked.items():
        configs[part] = read_config(pack / part) or {}
    for spec, found in zip(recipe.conversions, seen, strict=True):
        if found.part != spec.part:
            wanted, given = (TITLES[part] for part in (spec.part, found.part))  # type: ignore[index]
            raise ModelError(f"{spec.source} is a {given}, where a {wanted} is wanted")
        configs[found.part] = found.config
    transformer = configs["transformer"]
    if checkpoint:
        known = catalogue().architectures[checkpoint.architecture]
        if not same_network(transformer, known.config):
            raise ModelError(
                f"{recipe.conversions[0].source} has {transformer['num_layers']} blocks of "
                f"{transformer['num_attention_heads'] * transformer['attention_head_dim']} channels: it is not "
                f"{checkpoint.name}, which is a {known.name}"
            )
    fits = {
        "vae": ("z_dim", "in_channels", "latent channels"),
        "vae_tiny": ("latent_channels", "in_channels", "latent channels"),
        "text_encoder": ("d_model", "text_dim", "text features"),
    }
    for part, (theirs, ours, what) in fits.items():
        if part in configs and (number := configs[part].get(theirs)) != transformer.get(ours):
            raise ModelError(
                f"the {part.replace('_', ' ')} gives {number} {what}, the transformer takes {transformer.get(ours)}: "
                "they are not of one model"
            )


# --- which it is ---------------------------------------------------------------------------------------------------


def _which(request: ImportRequest, transformer: PartFiles) -> tuple[Checkpoint | None, tuple[str, ...]]:
    """The known checkpoint, and what is to be said of it."""
    chosen = find_checkpoint(request.known_as) if request.known_as else None
    if chosen:
        _check_published(transformer.path, chosen)
    known = identify_checkpoint(transformer.path)
    base = known if known and known.kind == "base" else _own_repository(transformer.path)
    if base and chosen and chosen.kind == "student":
        raise ModelError(
            f"{transformer.path} is {base.title}, which is bidirectional: as a causal student it would make noise; "
            f"import it --as {base.name}, a base for `causvid distill`"
        )
    if known and chosen and known != chosen:
        raise ModelError(f"{transformer.path} is {known.name}, not {chosen.name}; leave --as out")
    found = chosen or known or base
    if found and found.kind == "base":
        return found, (f"{found.title} is bidirectional: a base for `causvid distill`, not a model for `causvid t2v`",)
    notes = (f"this is {found.name} ({found.title})",) if found and not chosen else ()
    return found, (*notes, f"not seen yet: {found.unseen}") if found and found.unseen else notes


def _published_file(request: ImportRequest) -> Path:
    """The path; in a folder, a known checkpoint's file where it lies there under its published name."""
    if request.known_as and request.path.is_dir() and (files := find_checkpoint(request.known_as).files):
        for name in (files[0].path, Path(files[0].path).name):
            if (request.path / name).is_file() and Path(name).suffix.lower() in PICKLES:
                return request.path / name
    return request.path


def _check_published(path: Path, checkpoint: Checkpoint) -> None:
    """Raise ModelError for a file of a published name that is shorter than the published one."""
    for remote in checkpoint.files:
        if Path(remote.path).name != path.name or path.name.startswith(COMMON_NAME):
            continue
        size = path.stat().st_size
        if remote.bytes and not remote.about and size < remote.bytes:
            raise ModelError(f"{path} is cut short: {size} bytes instead of {remote.bytes}; get it again")


def _own_repository(path: Path) -> Checkpoint | None:
    """The base whose repository a file lies in, as its folders are called."""
    if not path.name.startswith(COMMON_NAME):
        return None
    found = next((match for part in path.absolute().parts[:-1] if (match := OWN_REPOSITORY.search(part))), None)
    return find_checkpoint(f"wan2.1-{found[1].lower()}") if found else None


def _facts(request: ImportRequest, checkpoint: Checkpoint | None) -> PackFacts:
    name = request.name or (checkpoint.name if checkpoint else pack_name_of(_own_name(request.path)))
    if checkpoint is None:
        missing = [OPTIONS[fact] for fact in REQUIRED_FACTS if request.facts.get(fact) is None]
        if missing:
            known = ", ".join(name for name, each in catalogue().checkpoints.items() if each.kind == "student")
            raise UsageError(
                f"{request.path}: a file does not tell how it was trained: say --as NAME if it is a known checkpoint "
                f"({known}), or all of {', '.join(OPTIONS.values())} (missing: {', '.join(missing)})"
            )
        checkpoint = Checkpoint(
            name=name,
            title=name,
            repository=f"imported from {request.path.name}",
            license=UNKNOWN_LICENCE,
            files=(),
            architecture="",
        )
    if not is_pack_name(name):
        raise UsageError(f"--name {name}: {PACK_NAME_RULE}")
    return checkpoint.facts(name=name, **request.facts)


def _own_name(path: Path) -> str:
    """What a file is called; its folder's name where that says more."""
    common = path.stem in ("model", "pytorch_model", "diffusion_pytorch_model", "transformer", "checkpoint")
    return path.absolute().parent.name if path.is_file() and common else path.absolute().stem


def _lora(request: ImportRequest, checkpoint: Checkpoint | None) -> LoraSpec | None:
    """The LoRA that belongs to a checkpoint, from where the user says or beside the file."""
    known = next((file for file in checkpoint.files if file.lora_key), None) if checkpoint else None
    if known is None:
        if request.lora:
            raise UsageError(
                f"--lora {request.lora}: merges the LoRA that belongs to a checkpoint, as longlive's; "
                "give others to t2v"
            )
        return None
    folder = request.path if request.path.is_dir() else request.path.parent
    path = request.lora or next(
        (file for file in (folder / Path(known.path).name, folder / known.path) if file.is_file()), None
    )
    if path is None or not path.is_file():
        raise UsageError(
            f"{request.path}: {checkpoint.name if checkpoint else 'it'} is a base and a LoRA: "
            f"give {known.path} by --lora FILE"
        )
    return LoraSpec(source=str(path), key=known.lora_key, rank=known.lora_rank, alpha=known.lora_alpha)
