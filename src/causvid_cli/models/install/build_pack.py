"""A model pack from its parts, in the user's folder of models: whole or not at all.

It grows in a hidden folder beside the pack's own, is written to the disk, and takes its name in one step. Parts that an
installed pack has already (VAE, text encoder and tokenizer are the same for every Wan2.1) are shared by hard links:
a second model takes 11 GB less, each pack is whole by itself, and removing one takes nothing from another. Where a
file system has no hard links they are copied.
"""

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from causvid_cli.config import PACK_NAME_RULE, PackFacts, is_pack_name, load_facts
from causvid_cli.errors import ModelError, OutputError, UsageError
from causvid_cli.models.diffusers_index import write_diffusers_index
from causvid_cli.models.install.conversion import ConversionSpec, Recognised
from causvid_cli.models.packs import (
    Stamps,
    list_packs,
    shipped_roots,
    sweep,
    verify_pack,
    write_pack_manifest,
)
from causvid_cli.paths import models_folder
from causvid_cli.units import bytes_text

SPARE_BYTES = 2**28
"""Left free on the disk."""
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

Approve = Callable[[list[Recognised]], None]
Report = Callable[[int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class PackRecipe:
    """What a pack is to be made of."""

    facts: PackFacts
    conversions: tuple[ConversionSpec, ...] = ()
    """Checkpoints to convert; `target` is the part's folder in the pack."""
    linked: Mapping[str, Path] = field(default_factory=dict)
    """Part -> the installed pack that it is taken from."""
    copied: Mapping[str, Path] = field(default_factory=dict)
    """Path in the pack -> a file to copy."""


def build_pack(recipe: PackRecipe, *, replacing: bool, approve: Approve, report: Report) -> Path:
    """Make and install a pack; returns its folder.

    replacing: whether it may take the place of one of the same name. approve: asked, before anything is written, with
    what the checkpoints are. report: told how many bytes more are written.
    Raises ModelError for what cannot be converted or has no room, OutputError where the folder cannot be written;
    nothing is left then, nor when it is interrupted.
    """
    sweep()
    name = recipe.facts.name
    check_name(name, replacing=replacing)
    for pack in set(recipe.linked.values()):
        verify_pack(pack, load_facts(pack))

    def approved(seen: list[Recognised]) -> None:
        approve(seen)
        check_room(models_folder(), sum(each.bytes for each in seen) + _copied_bytes(recipe))

    with _growing(name) as new:
        hashes: dict[str, str] = {}
        if recipe.conversions:
            from causvid_cli.models.install.convert import convert  # torch loads here

            conversions = [replace(spec, target=str(new / spec.target)) for spec in recipe.conversions]
            written = convert(conversions, approve=approved, report=report)
            for spec, files in zip(recipe.conversions, written, strict=True):
                hashes |= {f"{spec.target}/{file}": sha256 for file, sha256 in files.sha256.items()}
        else:
            approved([])
        for part, pack in recipe.linked.items():
            hashes |= _take_part(part, pack, new)
        for path, file in recipe.copied.items():
            (new / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, new / path)
        write_diffusers_index(new, recipe.facts)
        facts = write_pack_manifest(new, recipe.facts, known=hashes)
        _remember(new, facts)
        _sync(new)
        return _publish(new, models_folder() / name, replacing=replacing)


def copy_pack(pack: Path, name: str, *, replacing: bool) -> Path:
    """Install a pack that lies elsewhere under a name; every file is verified. Returns its folder."""
    sweep()
    facts = load_facts(pack)
    check_name(name, replacing=replacing)
    verify_pack(pack, facts, every=True)
    check_room(models_folder(), sum(file.bytes for file in facts.files.values()))
    with _growing(name) as new:
        for file, told in facts.files.items():
            (new / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(pack / file, new / file)
            if (new / file).stat().st_size != told.bytes:
                raise ModelError(f"{pack / file} changed while it was copied; try again")
        written = write_pack_manifest(new, replace(facts, name=name))
        if {file: each.sha256 for file, each in written.files.items()} != {f: e.sha256 for f, e in facts.files.items()}:
            raise ModelError(f"{pack} changed while it was copied; try again")
        _remember(new, written)
        _sync(new)
        return _publish(new, models_folder() / name, replacing=replacing)


def remove_pack(folder: Path) -> int:
    """Remove an installed pack; returns how many bytes that frees: parts that other packs share stay."""
    gone = folder.with_name(f".{folder.name}.{os.getpid()}.gone")
    freed = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and file.stat().st_nlink == 1)
    try:
        folder.rename(gone)  # at once no longer a model, whatever happens next
        shutil.rmtree(gone)
    except OSError as error:
        raise OutputError(f"{folder} cannot be removed: {(error.strerror or '').lower()}") from error
    return freed


def packs_with(part: str) -> Iterator[tuple[str, Path]]:
    """The installed packs of Wan that have a part, whole: name and folder, the user's own."""
    for name, folder in list_packs().items():
        if folder.parent == models_folder() and (folder / part).is_dir():
            with suppress(ModelError):  # a damaged one gives nothing; its own commands will say so
                facts = load_facts(folder)
                own = {path: told for path, told in facts.files.items() if path.split("/")[0] == part}
                verify_pack(folder, replace(facts, files=own))
                if facts.codec == "wan":
                    yield name, folder


def check_name(name: str, *, replacing: bool) -> None:
    """Raise UsageError for what cannot be a name, OutputError for one that is taken."""
    if not is_pack_name(name):
        raise UsageError(f"--name {name}: {PACK_NAME_RULE}")
    if any((root / name).exists() for root in shipped_roots()):
        raise OutputError(f"{name} comes with causvid; choose another --name")
    if (models_folder() / name).exists() and not replacing:
        raise OutputError(f"{name} is installed already; -y replaces it, or choose another --name")


def check_room(folder: Path, count: int) -> None:
    """Raise ModelError unless a disk has room for so many bytes more."""
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    needed, free = count + SPARE_BYTES, shutil.disk_usage(there).free
    if free < needed:
        raise ModelError(
            f"not enough room: {bytes_text(needed)} are needed in {folder}, {bytes_text(free)} are free; "
            "make room, or name another folder by CAUSVID_MODELS"
        )


@contextmanager
def _growing(name: str) -> Iterator[Path]:
    """A new hidden folder beside the pack's own, which is gone afterwards unless it was renamed."""
    root = models_folder()
    new = root / f".{name}.{os.getpid()}.part"
    try:
        root.mkdir(parents=True, exist_ok=True)
        new.mkdir()
    except OSError as error:
        raise OutputError(f"{root} cannot be written to: {(error.strerror or '').lower()}") from error
    try:
        yield new
    except OSError as error:
        if error.errno in NO_ROOM:
            raise ModelError(
                f"not enough room in {root}; make room, or name another folder by CAUSVID_MODELS"
            ) from error
        raise
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _take_part(part: str, pack: Path, new: Path) -> dict[str, str]:
    """Link the files of a part of an installed pack, or copy them; their sha256 by path."""
    hashes = {}
    for path, told in load_facts(pack).files.items():
        if path.split("/")[0] != part:
            continue
        (new / path).parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(pack / path, new / path)
        except OSError:  # another file system, or one without such links
            check_room(new, told.bytes)
            shutil.copyfile(pack / path, new / path)
        hashes[path] = told.sha256
    return hashes


def _copied_bytes(recipe: PackRecipe) -> int:
    """Bytes of what is not converted and cannot be shared."""
    root = models_folder()
    there = next(parent for parent in (root, *root.parents) if parent.exists())
    count = sum(file.stat().st_size for file in recipe.copied.values())
    for part, pack in recipe.linked.items():
        if pack.stat().st_dev != there.stat().st_dev:
            count += sum(told.bytes for path, told in load_facts(pack).files.items() if path.split("/")[0] == part)
    return count


def _remember(pack: Path, facts: PackFacts) -> None:
    """What was hashed as it was written need not be hashed before the first video."""
    stamps = Stamps(pack)
    for name, told in facts.files.items():
        stamps.put(name, told.sha256)
    stamps.save()


def _sync(folder: Path) -> None:
    """Have all of a folder on the disk, so that a crash after the rename finds it whole."""
    for path in [folder, *folder.rglob("*")]:
        if path.is_dir() and os.name == "nt":
            continue
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _publish(new: Path, final: Path, *, replacing: bool) -> Path:
    """Give a finished pack its name."""
    old = final.with_name(f".{final.name}.{os.getpid()}.old")
    if replacing and final.exists():
        final.rename(old)
    try:
        new.rename(final)
    except OSError as error:
        if old.exists():
            old.rename(final)
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
            raise OutputError(f"{final.name} was installed meanwhile; -y replaces it") from error
        raise
    shutil.rmtree(old, ignore_errors=True)
    return final


def pack_name_of(text: str) -> str:
    """A name for a pack made from that of a file or folder."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._").lower()
    return name[:64] or "model"
