"""Golden recordings: numbers that the published programs produced, found by what their headers say.

`@pytest.mark.golden(KIND, ...)` runs a test once for every recording of these kinds in --golden-dir, given to it as
`recording`. The header's `name` is the kind, or begins with it (`vae`, `vae_2`); a keys_*.json file is of kind `keys`.
"""

import json
import os
import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
import typer.testing
from safetensors import safe_open
from safetensors.torch import load_file
from tiny import tiny_pack
from torch import Tensor

from causvid_cli.models import catalogue, memory, random_weights, resolve

LIMIT = 5e-5
"""Largest absolute error against a float32 recording: 10 times what is measured, a tenth of what a slip costs."""


@dataclass(frozen=True)
class Recording:
    """One file of a golden folder."""

    path: Path
    name: str
    meta: dict[str, Any]
    """What its header says (safetensors), or all that it holds (JSON)."""

    def is_of(self, kinds: Iterable[str]) -> bool:
        return any(self.name == kind or self.name.startswith(f"{kind}_") for kind in kinds)

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        return load_file(self.path)

    def under(self, prefix: str) -> dict[str, Tensor]:
        """The tensors below a folder-like prefix, without it."""
        return {name.removeprefix(prefix): t for name, t in self.tensors.items() if name.startswith(prefix)}


def find_recordings(folder: Path) -> list[Recording]:
    """Every recording in a folder; UsageError when there is none, so that nothing passes by finding nothing."""
    found = [Recording(path, "keys", json.loads(path.read_text())) for path in sorted(folder.glob("keys_*.json"))]
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            meta = {key: _value(text) for key, text in (file.metadata() or {}).items()}
        found.append(Recording(path, meta.get("name", path.stem), meta))
    if not found:
        raise pytest.UsageError(f"{folder} holds no golden recordings (*.safetensors, keys_*.json)")
    return found


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:  # a plain string
        return text


def pytest_addoption(parser: pytest.Parser) -> None:
    default = Path(__file__).parent / "golden"
    parser.addoption(
        "--golden-dir", type=Path, default=default, metavar="DIR", help="recordings that the parity tests compare with"
    )


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(1)  # tiny models: a second thread gains nothing, and on a busy machine costs 10 times
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes that tests start, two tests at a time
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as for whatever a script starts with `&`
        signal.signal(signal.SIGINT, signal.default_int_handler)
    typer.testing._get_command = cache(typer.testing._get_command)  # or each command run here builds all of them
    config.addinivalue_line("markers", "golden(kind, ...): run once for every recording of these kinds")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if marker := metafunc.definition.get_closest_marker("golden"):
        recordings = find_recordings(metafunc.config.getoption("golden_dir"))
        chosen = [recording for recording in recordings if recording.is_of(marker.args)]
        metafunc.parametrize("recording", chosen, ids=[recording.path.stem for recording in chosen])


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """What a developer has set for all runs changes no test."""
    for name in [name for name in os.environ if name.startswith("CAUSVID_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CAUSVID_CONFIG", os.devnull)
    monkeypatch.setenv("CAUSVID_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setenv("CAUSVID_MODELS", os.devnull)  # and no model that a developer has


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model pack of random weights, reached by its path; tests that change it take a copy."""
    return tiny_pack(tmp_path_factory.mktemp("packs") / "tiny")


@pytest.fixture
def small_networks(monkeypatch) -> catalogue.Catalogue:
    """The catalogue, its networks so small that any test can have them."""
    sizes = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 12, "ffn_dim": 48, "text_dim": 16}
    whole = catalogue.catalogue()
    architectures = {
        name: replace(network, config=network.config | sizes) for name, network in whole.architectures.items()
    }
    parts = dict(whole.parts)
    parts["vae"] = replace(parts["vae"], config=parts["vae"].config | {"base_dim": 4, "num_res_blocks": 1})
    parts["tiny_vae"] = replace(
        parts["tiny_vae"], config=parts["tiny_vae"].config | {"channels": [8, 8, 8, 8], "encoder_channels": 8}
    )
    small = replace(whole, architectures=architectures, parts=parts)
    for module in (resolve, memory, random_weights):
        monkeypatch.setattr(module, "catalogue", lambda: small)
    return small


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def golden_dir(request: pytest.FixtureRequest) -> Path:
    """The folder of golden recordings."""
    return request.config.getoption("golden_dir")


@pytest.fixture
def close(record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """`close(label, got, wanted)`: same shape and within LIMIT everywhere; the largest error is printed at the end."""

    def check(label: str, got: Tensor, wanted: Tensor, limit: float = LIMIT) -> None:
        assert got.shape == wanted.shape, label
        error = (got.double() - wanted.double()).abs().max().item()
        record_property("largest error", f"{error:.1e} of {limit:.0e} allowed: {label}")
        assert error <= limit, f"{label}: largest error {error:.3g}"  # False for NaN too

    return check


def pytest_terminal_summary(terminalreporter: Any) -> None:
    lines = [
        f"{report.nodeid.split('::')[-1]}: {text}"
        for reports in (terminalreporter.stats.get(outcome, []) for outcome in ("passed", "failed"))
        for report in reports
        for name, text in getattr(report, "user_properties", [])
        if name == "largest error"
    ]
    if lines:
        terminalreporter.section("largest errors")
        terminalreporter.write_line("\n".join(lines))
