"""Downloads by huggingface_hub, through its own cache: what was begun goes on, what is there is not fetched again.

HF_HOME, HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE mean what they mean to every program of the hub. Imports no torch.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from causvid_cli.errors import CausvidError, ModelError
from causvid_cli.files import sha256_of_file
from causvid_cli.models.catalogue import Checkpoint, RemoteFile, RemoteSource, catalogue
from causvid_cli.models.install.build_pack import NO_ROOM, PackRecipe, check_room, packs_with
from causvid_cli.models.install.conversion import ConversionSpec, LoraSpec
from causvid_cli.models.install.plan_import import DTYPES, NEEDED, OPTIONAL, TOKENIZER, convert_part, transformers

SHA256_DIGITS = 64
"""Length of an etag that is the hash of the file itself."""

LONGEST_WAIT_S = 300
"""The hub counts requests in windows of five minutes; one that asks for a longer wait is not waited for."""
TRIES = 5
"""How often what the hub puts off is asked for."""
PUT_OFF = (429, 503)
"""Statuses that say "later"."""

Key = tuple[str, str]
"""Repository and path of a file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """A file to be had. bytes, sha256: as the hub or the catalogue says; cached: where it lies already."""

    source: RemoteSource
    remote: RemoteFile
    revision: str
    bytes: int | None
    sha256: str | None
    cached: Path | None

    @property
    def key(self) -> Key:
        return self.source.repository, self.remote.path


@dataclass(frozen=True, slots=True, kw_only=True)
class PullPlan:
    """All that a checkpoint takes. licence: of the checkpoint, as its card says now, if it could be asked."""

    checkpoint: Checkpoint
    items: tuple[Download, ...]
    linked: dict[str, Path]
    """Part -> the installed pack that has it."""
    licence: str | None
    notes: tuple[str, ...] = ()

    @property
    def download_bytes(self) -> int | None:
        """What is still to come; None where the hub did not say."""
        sizes = [item.bytes for item in self.items if item.cached is None]
        return None if None in sizes else sum(size for size in sizes if size)


Made = TypeVar("Made")
Tell = Callable[[str], None]


def plan_pull(checkpoint: Checkpoint, *, tell: Tell, offline: bool = False) -> PullPlan:
    """Ask what a checkpoint takes: sizes, licence, what is there already. Raises ModelError, in one line.

    tell: told of a wait that the hub asks for.
    """
    with _waits_told(tell):
        return _plan_pull(checkpoint, offline=offline or is_offline())


def _plan_pull(checkpoint: Checkpoint, *, offline: bool) -> PullPlan:
    parts = catalogue().parts
    linked = {part: found[1] for part in (*NEEDED, *OPTIONAL) if (found := next(packs_with(part), None))}
    items = [_ask(checkpoint, remote, offline=offline) for remote in checkpoint.files]
    notes = []
    for part in (*NEEDED, *OPTIONAL):
        if part in linked:
            continue
        source = parts[CATALOGUE_PARTS.get(part, part)]  # type: ignore[index]
        try:
            items += [_ask(source, remote, offline=offline) for remote in source.files]
        except ModelError as error:
            if part in NEEDED:
                raise
            notes.append(f"without {source.title} (--vae tiny): {error}")
    if checkpoint.unseen:
        notes.append(f"not seen yet: {checkpoint.unseen}; tell us whether it works")
    licence = None
    if not offline:
        try:
            licence = _licence(checkpoint)
        except ModelError as error:  # a mirror may have files and no cards
            notes.append(f"the model card was not read, so its licence is the one that causvid knows: {error}")
    return PullPlan(checkpoint=checkpoint, items=tuple(items), linked=linked, licence=licence, notes=tuple(notes))


CATALOGUE_PARTS = {"vae_tiny": "tiny_vae"}
"""Folder of a part in a pack -> its name in the catalogue, where they differ."""


def download(pull: PullPlan, *, tell: Tell, offline: bool = False) -> dict[Key, Path]:
    """Have every file in the hub's cache, whole: its hash is compared where one is known. Raises ModelError."""
    from huggingface_hub import constants, hf_hub_download

    if (count := pull.download_bytes) is not None:
        check_room(Path(constants.HF_HUB_CACHE), count)
    files = {}
    for item in pull.items:
        with _hub_errors(item.source, item.remote.path, offline=offline), _waits_told(tell):
            path = Path(
                hf_hub_download(
                    item.source.repository,
                    item.remote.path,
                    revision=_wanted(item.source),
                    endpoint=_endpoint(),
                    local_files_only=offline or is_offline(),
                )
            )
        _check_whole(item, path)
        files[item.key] = path
    return files


def recipe_of(pull: PullPlan, files: dict[Key, Path], *, name: str | None, dtype: str | None) -> PackRecipe:
    """How a pack is made of what was downloaded."""
    checkpoint, parts = pull.checkpoint, catalogue().parts
    revision = pull.items[0].revision
    facts = checkpoint.facts(
        name=name,
        source=f"{checkpoint.repository}@{revision}",
        license=pull.licence or checkpoint.license,
    )
    weights = {item.remote.path: files[item.key] for item in pull.items if item.source == checkpoint}
    lora = next((remote for remote in checkpoint.files if remote.lora_key), None)
    first = next((path for path in weights if path.endswith(".index.json")), checkpoint.files[0].path)
    spec = ConversionSpec(
        source=str(weights[first]),
        target="transformer",
        key=checkpoint.key,
        dtype=dtype or DTYPES["transformer"],
        lora=_merged(lora, weights) if lora else None,
    )
    conversions, copied = [*transformers(spec, facts)], {}
    for part in (*NEEDED, *OPTIONAL):
        source = parts[CATALOGUE_PARTS.get(part, part)]  # type: ignore[index]
        if path := next((files[item.key] for item in pull.items if item.source == source), None):
            if part == "tokenizer":
                copied[TOKENIZER] = path
            else:
                conversions.append(convert_part(part, path))
    return PackRecipe(facts=facts, conversions=tuple(conversions), linked=pull.linked, copied=copied)


def forget(items: Sequence[Download], files: dict[Key, Path]) -> int:
    """Remove from the cache what this pull brought there and nothing else uses; returns the bytes."""
    return sum(_remove(files[item.key]) for item in items if item.cached is None)


def is_offline() -> bool:
    """Whether the hub's own switch says that it is not to be asked."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


# --- the hub -------------------------------------------------------------------------------------------------------


def _wanted(source: RemoteSource) -> str:
    """The revision to ask for: by its own name, so that the cache knows it again without a network."""
    return source.revision or "main"


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None


def _ask(source: RemoteSource, remote: RemoteFile, *, offline: bool) -> Download:
    """A file's size and hash, and whether it is in the cache."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache

    revision = _wanted(source)
    there = try_to_load_from_cache(source.repository, remote.path, revision=revision)
    cached = Path(there) if isinstance(there, str) else None
    if source.revision and cached:  # a file of a commit does not change
        return Download(
            source=source,
            remote=remote,
            revision=revision,
            bytes=cached.stat().st_size,
            sha256=remote.sha256,
            cached=cached,
        )
    if offline:
        if cached is None:
            raise ModelError(_not_cached(source, remote.path))
        commit = cached.parts[cached.parts.index("snapshots") + 1]  # where the cache has a commit's files
        return Download(source=source, remote=remote, revision=commit, bytes=None, sha256=remote.sha256, cached=cached)
    with _hub_errors(source, remote.path, offline=offline):
        url = hf_hub_url(source.repository, remote.path, revision=revision, endpoint=_endpoint())
        told = _patiently(get_hf_file_metadata, url, endpoint=_endpoint())
    revision = told.commit_hash or revision
    there = try_to_load_from_cache(source.repository, remote.path, revision=revision)
    etag = told.etag or ""
    return Download(
        source=source,
        remote=remote,
        revision=revision,
        bytes=told.size if told.size is not None else remote.bytes,
        sha256=remote.sha256 or (etag if len(etag) == SHA256_DIGITS else None),
        cached=Path(there) if isinstance(there, str) else None,
    )


def _licence(checkpoint: Checkpoint) -> str | None:
    """What the model's card names; None where it names none."""
    from huggingface_hub import HfApi

    with _hub_errors(checkpoint, "its model card", offline=False):
        told = _patiently(HfApi(endpoint=_endpoint()).model_info, checkpoint.repository)
    card: Any = told.card_data
    if card is None or not card.get("license"):
        return None
    return str(card.get("license_name") or card["license"] if card["license"] == "other" else card["license"])


def _check_whole(item: Download, path: Path) -> None:
    """Raise ModelError unless a download has its hash; one that has not is removed, so that it is fetched again."""
    if item.sha256 is None:
        return
    if (found := sha256_of_file(path)) != item.sha256:
        size, content = path.stat().st_size, path.resolve()
        remedy = "and was removed; run this again"
        if not _remove(path):
            remedy = f"and stays, since other downloads share it; remove {content} and run this again"
        raise ModelError(
            f"{item.remote.path} came damaged ({size} bytes, sha256 {found[:12]}... instead of {item.sha256[:12]}...) "
            f"{remedy}"
        )


def _remove(path: Path) -> int:
    """Remove a file of a snapshot in the cache; returns the bytes that frees.

    The content, to which it is a link, stays where another snapshot, of whatever program, has a link to it too.
    """
    content, snapshots = path.resolve(), path
    while snapshots.name != "snapshots" and snapshots != snapshots.parent:
        snapshots = snapshots.parent
    path.unlink(missing_ok=True)
    if snapshots.name and any(other.resolve() == content for other in snapshots.rglob("*") if other.is_symlink()):
        return 0
    size = content.stat().st_size if content.exists() else 0
    content.unlink(missing_ok=True)
    return size


def _merged(lora: RemoteFile, weights: dict[str, Path]) -> LoraSpec:
    return LoraSpec(source=str(weights[lora.path]), key=lora.lora_key, rank=lora.lora_rank, alpha=lora.lora_alpha)


def _not_cached(source: RemoteSource, path: str) -> str:
    return (
        f"{source.repository}: {path} is not among the downloads that are here, and the hub is not to be asked "
        "(--offline or HF_HUB_OFFLINE)"
    )


@contextmanager
def _waits_told(tell: Tell) -> Iterator[None]:
    """Within it, a wait that the hub asks for is told, and ModelError raised where it is too long.

    The hub's library itself waits as long as it is told to, and says nothing.
    """
    from huggingface_hub import get_session

    def look(response: Any) -> None:
        if not (seconds := _wait_asked(response)):
            return
        asked = f"the hub asks for a wait of {seconds} s ({response.status_code}: too many requests, or too busy)"
        if seconds > LONGEST_WAIT_S:
            raise ModelError(f"{asked}; what is here is kept: run this again then")
        tell(asked)

    hooks = get_session().event_hooks["response"]
    hooks.append(look)
    try:
        yield
    finally:
        hooks.remove(look)


def _wait_asked(response: Any) -> int | None:
    """Seconds after which an answer says to ask again; None where it says nothing of the kind."""
    from huggingface_hub.utils import parse_ratelimit_headers

    if response.status_code not in PUT_OFF:
        return None
    headers: Mapping[str, str] = response.headers
    if (limit := parse_ratelimit_headers(headers)) and not limit.remaining:
        return limit.reset_in_seconds
    told = headers.get("retry-after", "").strip()
    return int(told) if told.isdigit() else None


def _patiently(call: Callable[..., Made], *given: Any, **more: Any) -> Made:
    """What a function of the hub's library returns that does not wait by itself: asked again when the hub says."""
    from huggingface_hub import errors

    for _ in range(TRIES - 1):
        try:
            return call(*given, **more)
        except errors.HfHubHTTPError as error:
            if (seconds := _wait_asked(error.response)) is None:
                raise
            time.sleep(seconds)
    return call(*given, **more)


@contextmanager
def _hub_errors(source: RemoteSource, path: str, *, offline: bool) -> Iterator[None]:
    """Turn what the hub's library raises into one line with the remedy."""
    from huggingface_hub import errors

    again = "what is here is kept: run this again to go on"
    try:
        yield
    except CausvidError:
        raise
    except errors.GatedRepoError:
        raise ModelError(
            f"{source.repository} is only for who has agreed to its terms: agree on its page, then `hf auth login`"
        ) from None
    except errors.RepositoryNotFoundError:
        raise ModelError(
            f"{source.repository} is not there, or is private: if you may read it, `hf auth login` (or HF_TOKEN)"
        ) from None
    except errors.RevisionNotFoundError:
        raise ModelError(f"{source.repository} has no revision {source.revision} any more; update causvid") from None
    except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError) as error:
        if offline or is_offline():
            raise ModelError(_not_cached(source, path)) from None
        raise ModelError(f"the hub cannot be reached ({_reason(error)}); check the network; {again}") from None
    except errors.EntryNotFoundError:
        raise ModelError(f"{source.repository} has no file {path} any more; update causvid") from None
    except errors.HfHubHTTPError as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        raise ModelError(f"the hub answered {status} for {source.repository}; try later; {again}") from None
    except _network_errors() as error:
        if getattr(error, "errno", None) in NO_ROOM:
            raise ModelError("not enough room for the download; make room, or name another folder by HF_HOME") from None
        if "onsistency" in str(error):
            raise ModelError(f"{path} came incomplete; run this again") from None
        raise ModelError(f"the hub cannot be reached ({_reason(error)}); check the network; {again}") from None


def _network_errors() -> tuple[type[BaseException], ...]:
    """What is raised when there is no way to the hub: by the system, and by the HTTP library that the hub's uses.

    That has been requests, httpx and others; the hub's own error tells which by what it is derived from.
    """
    from huggingface_hub import errors

    own = (base for base in errors.HfHubHTTPError.__bases__ if base not in (Exception, BaseException, object))
    return (OSError, *own)


def _reason(error: BaseException) -> str:
    """The first line of what lies deepest."""
    while error.__cause__ is not None:
        error = error.__cause__
    said = str(error).strip().splitlines()
    return said[0][:120] if said else type(error).__name__
