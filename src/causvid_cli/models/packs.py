"""Find and verify model packs: folders in diffusers layout with a causvid.json. Imports no torch."""

import hashlib
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from causvid_cli.architectures import load_config
from causvid_cli.config import FACTS_FILE, FileFacts, PackFacts, did_you_mean, is_pack_name, load_facts, to_json
from causvid_cli.errors import ModelError, OutputError, UsageError
from causvid_cli.files import sha256_of_file, write_text
from causvid_cli.geometry import CodecFacts
from causvid_cli.models.catalogue import checkpoint_names, find_checkpoint
from causvid_cli.models.diffusers_index import INDEX_FILE, SCHEDULER
from causvid_cli.paths import models_folder
from causvid_cli.request import AUTO, DEFAULT_MODEL, Vae
from causvid_cli.untrusted import read_object

STAMPS_FILE = ".verified.json"

SMALL_BYTES = 64 * 2**20
"""Files up to this size, and so every file of a small model, are hashed each time."""

LEFT = re.compile(r"\.(?P<name>.+)\.(?P<pid>\d+)\.(?P<kind>part|gone|old)")
"""What a folder is called while it is made, removed, or put aside by a process."""
CLOCK_TICKS = 2.0
"""Seconds by which a process may seem to have started later than it did."""

Stamp = list[int | str]
"""sha256, size in bytes, time of change in nanoseconds, inode."""


def shipped_roots() -> list[Path]:
    """Folders of the packs that came with causvid: the installed package's, and a source checkout's."""
    checkout = Path(__file__).parents[3]
    installed = Path(__file__).with_name("weights")
    return [installed, *([checkout / "weights"] if (checkout / "pyproject.toml").is_file() else [])]


def pack_roots() -> list[Path]:
    """Folders whose subfolders are model packs; of two packs of one name the first one's is meant."""
    return [*shipped_roots(), models_folder()]


def list_packs() -> dict[str, Path]:
    """Return the packs that can be named: name -> folder. One that is being made has no name yet."""
    folders = (file.parent for root in pack_roots() for file in sorted(root.glob(f"*/{FACTS_FILE}")))
    packs: dict[str, Path] = {}
    for folder in folders:
        if is_pack_name(folder.name):  # not one that is being made, nor one that a shell would obey
            packs.setdefault(folder.name, folder)
    return packs


def sweep() -> None:
    """Clear up after runs that were killed: what they left unfinished goes, a model that one had put aside comes back.

    Raises OutputError where that cannot be done.
    """
    root = models_folder()
    try:
        left = [(folder, found) for folder in root.glob(".*") if (found := LEFT.fullmatch(folder.name))]
        for folder, found in left:
            if not folder.is_dir() or _is_at_work(int(found["pid"]), folder):
                continue
            if found["kind"] == "old" and not (root / found["name"]).exists():
                folder.rename(root / found["name"])  # killed between the two renames of `_publish`
            else:
                shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise OutputError(f"{root} cannot be written to: {(error.strerror or '').lower()}") from error


def _is_at_work(pid: int, folder: Path) -> bool:
    """Whether the process that made or renamed a folder still runs, rather than a later one of the same number."""
    import psutil

    try:
        started = psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        return False
    return os.name == "nt" or started <= folder.stat().st_ctime + CLOCK_TICKS


def find_pack(name_or_path: str | Path) -> Path:
    """The folder of a pack, by name or by path (a folder called like a pack is reached as ./NAME).

    Where no prompt says which embedded model is meant, auto is the usual one.
    """
    packs = list_packs()
    name_or_path = DEFAULT_MODEL if name_or_path == AUTO else name_or_path
    if name_or_path not in packs:
        with suppress(OutputError):  # what cannot be put back is not there
            sweep()
        packs = list_packs()
    if isinstance(name_or_path, str) and name_or_path in packs:
        return packs[name_or_path]
    path = Path(name_or_path)
    if os.path.isfile(path / FACTS_FILE):  # which, unlike Path's, takes a name longer than the system allows
        return path
    if os.path.isdir(path):
        raise ModelError(f"{path} is not a model pack: it holds no {FACTS_FILE}")
    if name_or_path in (names := list(checkpoint_names())):
        is_base = find_checkpoint(str(name_or_path)).kind == "base"
        use = ", a base for `causvid distill` that makes no video itself" if is_base else ""
        raise ModelError(f"{name_or_path} is not installed; `causvid models pull {name_or_path}` gets it{use}")
    known = ", ".join(packs) or "none"
    near = (
        did_you_mean(str(name_or_path), [*packs, *names])
        or "; `causvid models list` shows those to pull; or give the folder of a model pack"
    )
    raise ModelError(f"no model {str(name_or_path)[:200]!r}; known: {known}{near}")


def teacher_folder(path: Path, facts: PackFacts) -> Path | None:
    """Where the teacher of a verified pack lies; None: it comes without.

    Where it is another pack's, that one is verified, too. Raises ModelError when that is missing or has none.
    """
    if facts.teacher is None:
        return None
    if facts.teacher_of is None:
        return path / facts.teacher
    beside = path.parent / facts.teacher_of
    home = beside if (beside / FACTS_FILE).is_file() else find_pack(facts.teacher_of)
    theirs = load_facts(home)
    if theirs.teacher != facts.teacher or theirs.teacher_of is not None:
        raise ModelError(f"{path / FACTS_FILE}: teacher_of: {theirs.name} comes without a teacher of its own")
    verify_pack(home, theirs)
    return home / facts.teacher


TINY_VAE = "vae_tiny"
"""Folder of a pack's small VAE, where it has one."""
CODECS = {"pixel": "PixelCodec", "wan": "AutoencoderKLWan"}
"""`PackFacts.codec` -> the class of its network."""


def codec_folder(path: Path, facts: PackFacts, vae: Vae = "full") -> Path:
    """Where a pack's codec lies. Raises ModelError when the pack has none such."""
    if vae == "full":
        return path / "vae"
    if facts.codec != "wan":
        raise ModelError(f"--vae {vae}: {facts.name} has one codec only; leave it out")
    if not (folder := path / TINY_VAE).is_dir():
        raise ModelError(
            f"--vae {vae}: {facts.name} has none in {folder}; `causvid models pull {facts.name}` gets it; "
            "or leave it out"
        )
    return folder


def codec_facts(path: Path, facts: PackFacts, vae: Vae = "full") -> CodecFacts:
    """What a pack's video codec does to counts and sizes, without loading it. Raises ModelError."""
    config = load_config(codec_folder(path, facts, vae), CODECS[facts.codec] if vae == "full" else "TAEHV")
    if facts.codec == "pixel":
        stack = config["stack"]
        return CodecFacts(
            latent_channels=stack * config["cell_channels"],
            spatial_factor=8,
            frames_first=stack,
            frames_next=stack,
        )
    return wan_codec_facts(config)


def wan_codec_facts(config: Mapping[str, Any]) -> CodecFacts:
    """What the Wan VAE or TAEHV of this configuration does to counts and sizes. Raises KeyError and the like."""
    if config.get("_class_name") == "TAEHV":
        channels = int(config.get("latent_channels", 16))
        return CodecFacts(latent_channels=channels, spatial_factor=8, frames_first=1, frames_next=4)
    return CodecFacts(
        latent_channels=int(config["z_dim"]),
        spatial_factor=2 ** (len(config["dim_mult"]) - 1) * int(config.get("patch_size") or 1),
        frames_first=1,
        frames_next=2 ** sum(map(bool, config["temperal_downsample"])),
    )


def check_causal(facts: PackFacts) -> None:
    """Raise ModelError for a base, which cannot make a video chunk by chunk."""
    if facts.kind == "base":
        raise ModelError(
            f"{facts.name} is bidirectional, a base for `causvid distill`: it makes no video chunk by chunk; "
            "try a causal student, such as causal-forcing"
        )


def verify_pack(path: Path, facts: PackFacts, *, every: bool = False) -> None:
    """Raise ModelError unless every file that the facts list is there, byte for byte.

    every: hash them all. Otherwise a large file that looks as it did when its hash was last right is not read again
    (`Stamps`).
    """
    remedy = f"get {facts.name} again from {facts.source}"
    if any(path.resolve().is_relative_to(root.resolve()) for root in pack_roots() if root != models_folder()):
        remedy = "reinstall causvid"
    if not facts.files:
        raise ModelError(f"{path / FACTS_FILE}: files: lists none, so nothing can be verified; {remedy}")
    stamps = Stamps(path)
    for name, wanted in facts.files.items():
        file = path / name
        if not file.is_file():
            raise ModelError(f"{file} is missing; {remedy}")
        if (size := file.stat().st_size) != wanted.bytes:
            raise ModelError(f"{file} is damaged: {size} bytes instead of {wanted.bytes}; {remedy}")
        if stamps.holds(name, wanted.sha256) and not every:
            continue
        if (found := sha256_of_file(file)) != wanted.sha256:
            stamps.drop(name)
            raise ModelError(f"{file} is damaged: sha256 {found[:12]}... instead of {wanted.sha256[:12]}...; {remedy}")
        stamps.put(name, wanted.sha256)
    stamps.save()


def with_parts(facts: PackFacts, *parts: str) -> PackFacts:
    """The facts of a pack that had no other subfolders than these."""
    return replace(facts, files={name: file for name, file in facts.files.items() if name.split("/")[0] in parts})


def without_parts(facts: PackFacts, *parts: str) -> PackFacts:
    """The facts of a pack that had all subfolders but these."""
    return replace(facts, files={name: file for name, file in facts.files.items() if name.split("/")[0] not in parts})


def pack_digest(facts: PackFacts) -> str:
    """One sha256 for all files of a pack that its frames depend on: equal packs have equal weights."""
    files = without_parts(facts, INDEX_FILE, SCHEDULER).files
    lines = (f"{file.sha256}  {name}\n" for name, file in sorted(files.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def write_pack_manifest(path: Path, facts: PackFacts, *, known: Mapping[str, str] | None = None) -> PackFacts:
    """Write causvid.json with the size and hash of every file now in the pack, hidden ones aside; what it wrote.

    known: sha256 of files that are known to have it, by their path in the pack.
    """
    files = {file.relative_to(path).as_posix(): file for file in sorted(path.rglob("*")) if file.is_file()}
    hashes = known or {}
    listed = {
        name: FileFacts(sha256=hashes.get(name) or sha256_of_file(file), bytes=file.stat().st_size)
        for name, file in files.items()
        if name != FACTS_FILE and not any(part.startswith(".") for part in name.split("/"))
    }
    facts = replace(facts, files=listed)
    write_text(path / FACTS_FILE, to_json(facts, indent=2, ensure_ascii=False) + "\n")
    return facts


class Stamps:
    """How large files of a pack looked when their hashes were last right, so that 28 GB are not read before each video.

    They lie in a hidden file of the pack, outside its manifest. Who can forge one can also write the manifest: they
    guard against damage, as the manifest does, and `causvid models verify` reads every byte.
    """

    def __init__(self, pack: Path) -> None:
        self._pack = pack
        self._stamps: dict[str, Stamp] = {}
        self._changed = False
        with suppress(UsageError):  # a lost or damaged one only costs time
            self._stamps = read_object(pack / STAMPS_FILE)

    def holds(self, name: str, sha256: str) -> bool:
        """Whether a file is large, had this hash, and looks as it did then."""
        stamp = self._look(name, sha256)
        return stamp is not None and self._stamps.get(name) == stamp

    def put(self, name: str, sha256: str) -> None:
        """Remember how a file looks whose hash was found to be this one."""
        stamp = self._look(name, sha256)
        if stamp is not None and self._stamps.get(name) != stamp:
            self._stamps[name], self._changed = stamp, True

    def drop(self, name: str) -> None:
        """Forget a file that was found to be damaged, at once."""
        if self._stamps.pop(name, None) is not None:
            self._changed = True
            self.save()

    def save(self) -> None:
        """Write what is new, where the pack can be written to."""
        if not self._changed:
            return
        part = self._pack / f"{STAMPS_FILE}.part"  # of one name, so that kills leave no more than one
        try:
            part.write_text(to_json(self._stamps), encoding="utf-8")
            part.replace(self._pack / STAMPS_FILE)
        except OSError:  # a pack of another user's, a full disk: the next run hashes again
            with suppress(OSError):
                part.unlink(missing_ok=True)

    def _look(self, name: str, sha256: str) -> Stamp | None:
        """How a large file looks now."""
        found = (self._pack / name).stat()
        if found.st_size <= SMALL_BYTES:
            return None
        return [sha256, found.st_size, found.st_mtime_ns, found.st_ino]
