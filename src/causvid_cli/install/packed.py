"""A GGUF file -> the transformer folder of a pack: recognised, then copied as it is, since its bits are the point."""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from causvid_cli.files import write_text
from causvid_cli.install.orders import Made, Order
from causvid_cli.install.recognise import Network, recognise
from causvid_cli.weights.gguf import gguf_shapes

PIECE_BYTES = 2**24


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedJob:
    """An order whose file keeps its numbers."""

    order: Order
    network: Network

    @classmethod
    def open(cls, order: Order) -> "PackedJob":
        """Raises ModelError, in one line, for a file that is damaged or of something else."""
        path = Path(order.source)
        return cls(order=order, network=recognise(gguf_shapes(path), where=order.source, config=order.config))

    @property
    def bytes(self) -> int:
        return Path(self.order.source).stat().st_size

    def write(self, report: Callable[[int], None]) -> Made:
        """The folder: the file under its own name, and config.json."""
        source, folder = Path(self.order.source), Path(self.order.target)
        folder.mkdir(parents=True)
        digest = hashlib.sha256()
        with source.open("rb") as whole, (folder / source.name).open("wb") as file:
            while piece := whole.read(PIECE_BYTES):
                file.write(piece)
                digest.update(piece)
                report(len(piece))
            file.flush()
            os.fsync(file.fileno())
        write_text(folder / "config.json", json.dumps(self.network.config, indent=2, sort_keys=True) + "\n")
        return Made(part=self.network.part, sha256={source.name: digest.hexdigest()})
