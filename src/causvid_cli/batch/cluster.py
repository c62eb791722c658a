"""Workers that are actors of a Ray cluster, one a GPU or one for so many CPU cores, as many as there is room for.

An actor is a process of its node that holds a worker process as `local.py` has it, so that both are killed, watched and
started again in one way. Videos and journals go into the batch's folder, which every node must see; a model pack that a
node lacks is sent there once.
"""

import os
import queue
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from causvid_cli.batch.engine import Tell, WorkersError
from causvid_cli.batch.local import ProcessLink
from causvid_cli.errors import ExitCode
from causvid_cli.extras import require
from causvid_cli.files import write_bytes
from causvid_cli.paths import cache_folder

ANSWER_S = 8.0
"""Seconds that a cluster has to answer."""


class Cluster:
    """A Ray cluster, connected to. address: "local" starts one here; "auto" and HOST:PORT join one that runs.

    cpus_per_worker: cores of an actor where there is no GPU. Raises ModelError where Ray is not installed, WorkersError
    where nobody answers.
    """

    def __init__(self, address: str, *, cpus_per_worker: int, command: Sequence[str]) -> None:
        require("ray", extra="ray", what="--ray")
        import ray

        self._ray, self._command, self._cpus = ray, list(command), cpus_per_worker
        self._packs: dict[str, Any] = {}
        _connect(ray, address)

    def wanted(self) -> int:
        """How many actors the cluster has room for: one a GPU, else one for each so many cores."""
        total = self._ray.cluster_resources()
        return int(total.get("GPU", 0)) or max(1, int(total.get("CPU", 1)) // self._cpus)

    def open_link(self, number: int, tell: Tell) -> "ActorLink":
        """Start an actor; it waits until the cluster has room for it."""
        gpus = int(bool(self._ray.cluster_resources().get("GPU", 0)))
        options = {"num_cpus": 1 if gpus else self._cpus, "num_gpus": gpus, "max_concurrency": 4}
        actor = self._ray.remote(_Actor).options(**options).remote(self._command)
        return ActorLink(self._ray, actor, tell)

    def send_pack(self, name: str, digest: str, folder: Path) -> dict[str, Any]:
        """Return what a job's message says of its model, whose files lie in the cluster's memory from now on."""
        if digest not in self._packs:
            files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
            self._packs[digest] = self._ray.put(files)
        return {"name": name, "sha256": digest, "files": [self._packs[digest]]}

    def close(self) -> None:
        self._ray.shutdown()


class ActorLink:
    """An actor that is a worker."""

    def __init__(self, ray: Any, actor: Any, tell: Tell) -> None:
        self._ray, self._actor, self._tell = ray, actor, tell
        self._ended = "its actor ended"
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def send(self, message: Mapping[str, Any]) -> None:
        self._actor.send.remote(message)

    def stop(self) -> None:
        self._actor.stop.remote()

    def close(self) -> None:
        with suppress(Exception):  # it may be dead
            self._ray.get(self._actor.close.remote(), timeout=30)
        self._ray.kill(self._actor)

    def how_it_ended(self) -> str:
        return self._ended

    def _listen(self) -> None:
        try:
            for told in self._actor.events.options(num_returns="streaming").remote():
                self._tell(self._ray.get(told))
        except Exception as error:  # Ray has many names for an actor, a node or a cluster that is gone
            self._ended = " ".join([type(error).__name__, *str(error).splitlines()[:1]])
        self._tell(None)


class _Actor:
    """A worker process on some node of the cluster."""

    def __init__(self, command: list[str]) -> None:
        self._events: queue.SimpleQueue[Mapping[str, Any] | None] = queue.SimpleQueue()
        self._link = ProcessLink(command, self._events.put)

    def events(self) -> Iterator[Mapping[str, Any]]:
        """Yield the worker's events until it ends."""
        while (event := self._events.get()) is not None:
            yield {**event, "host": socket.gethostname()}

    def send(self, message: Mapping[str, Any]) -> None:
        try:
            self._link.send(with_pack_here(message))
        except Exception as error:  # a node without room for the model, say
            for number, _ in enumerate(message["jobs"]):
                told = {"number": number, "exit_code": ExitCode.MODEL, "what": str(error), "may_pass": True}
                self._events.put({"event": "failed", **told})
            self._events.put({"event": "end"})

    def stop(self) -> None:
        self._link.stop()

    def close(self) -> None:
        self._link.close()


def with_pack_here(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return a job's message for a worker of this machine, whose model lies here, fetched where it did not."""
    import ray

    from causvid_cli.errors import CausvidError
    from causvid_cli.models.resolve import resolve_model
    from causvid_cli.request import Loading

    message = dict(message)
    model = message.pop("model", None)
    if model is None:
        return message
    with suppress(CausvidError):
        if resolve_model(model["name"], loading=Loading()).sha256 == model["sha256"]:
            return message
    folder = cache_folder() / "packs" / model["sha256"][:16] / model["name"]
    if not (folder / "causvid.json").is_file():
        files = ray.get(model["files"][0])
        for name in sorted(files, key=lambda name: name == "causvid.json"):  # which makes a pack of the folder, last
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            write_bytes(folder / name, files[name])
    jobs = []
    for job in message["jobs"]:
        command, *arguments = job["arguments"]
        others = [each for each in arguments if not each.startswith("--model=")]
        jobs.append({**job, "arguments": [command, f"--model={folder}", *others]})
    return message | {"jobs": jobs}


def _connect(ray: Any, address: str) -> None:
    """Join a cluster, or start one of this machine. Raises WorkersError in one line when none answers in time."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    debug = bool(os.environ.get("CAUSVID_DEBUG"))
    quiet = {"logging_level": "ERROR", "log_to_driver": debug}
    if not debug:  # a node's death would be told on stdout, with its log, among what is there for programs
        ray._private.worker.print_to_stdstream = lambda *_, **__: None
    if address == "local":
        ray.init(address="local", include_dashboard=False, _node_ip_address="127.0.0.1", **quiet)
        return
    if address != "auto":
        _knock(address)
    failed: list[BaseException] = []

    def join() -> None:
        try:
            ray.init(address=address, **quiet)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=join, daemon=True)  # Ray itself waits for minutes
    thread.start()
    thread.join(ANSWER_S)
    if failed or thread.is_alive():
        why = f": {str(failed[0]).partition('.')[0]}" if failed and str(failed[0]) else ""
        raise WorkersError(f"--ray {address}: no cluster answers{why}; `ray status` shows one that runs")


def _knock(address: str) -> None:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER_S / 2).close()
    except (OSError, ValueError, OverflowError) as error:
        said = (getattr(error, "strerror", None) or str(error)).lower()
        raise WorkersError(f"--ray {address}: nobody answers ({said}); write local, auto or HOST:PORT") from None
