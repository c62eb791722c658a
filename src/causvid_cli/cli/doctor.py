"""Command `doctor`: does everything that makes a video work on this machine?"""

import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from fractions import Fraction
from importlib import import_module
from pathlib import Path

import typer

from causvid_cli.cli import console, options
from causvid_cli.cli.command import Command, examples
from causvid_cli.config import load_facts
from causvid_cli.errors import CausvidError, ExitCode, OutputError
from causvid_cli.models.packs import find_pack, verify_pack
from causvid_cli.request import DEFAULT_MODEL
from causvid_cli.versions import PACKAGES, of, versions

app = typer.Typer()


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found."""

    name: str
    ok: bool
    detail: str
    exit_code: int


@app.command(cls=Command, epilog=examples("causvid doctor", "causvid doctor --json"))
def doctor(as_json: options.Json = False) -> None:
    """Check that all that makes a video works on this machine.

    Ends with 0 when it does, else with the exit code of the first check that failed, the gravest.
    """
    found = [examine(name, check, code) for name, (check, code) in CHECKS.items()]
    failed = [finding for finding in found if not finding.ok]
    if as_json:
        console.result_json({"v": 1, "ok": not failed, "checks": [asdict(finding) for finding in found]})
    else:
        console.table(("✓" if finding.ok else "✗", finding.name, finding.detail) for finding in found)
    if failed:
        console.message(f"{len(failed)} of {len(found)} checks failed: {', '.join(f.name for f in failed)}")
        raise typer.Exit(failed[0].exit_code)


def examine(name: str, check: Callable[[], str], exit_code: ExitCode) -> Finding:
    """Run one check. Whatever it raises is a finding: the checks after it still have something to say."""
    try:
        return Finding(name, True, check(), ExitCode.DONE)
    except Exception as error:
        own = isinstance(error, CausvidError)
        return Finding(name, False, str(error) if own else f"{type(error).__name__}: {error}", exit_code)


def _python() -> str:
    known = versions()
    return f"causvid {known['causvid']}, python {known['python']} on {sys.platform}"


def _packages() -> str:
    for name in PACKAGES:
        import_module(name)
    return ", ".join(f"{name} {of(name)}" for name in PACKAGES)


def _devices() -> str:
    from causvid_cli.device import describe_devices

    return "; ".join(describe_devices())


def _encoder() -> str:
    """Encode a little H.264 in memory, as every video is."""
    import numpy as np

    from causvid_cli.video import FragmentEncoder, VideoFormat

    encoder = FragmentEncoder(VideoFormat(width=64, height=64, fps=Fraction(8)))
    fragment = encoder.encode(np.zeros((8, 64, 64, 3), np.uint8))
    return f"H.264 by libx264: 8 frames in {len(fragment)} bytes"


def _ffmpeg() -> str:
    import imageio_ffmpeg

    return f"ffmpeg {imageio_ffmpeg.get_ffmpeg_version()}, of imageio-ffmpeg {of('imageio-ffmpeg')}"


def _writing() -> str:
    """Write and publish a video in the temp folder, and read it back."""
    import numpy as np

    from causvid_cli.media.probe import read_info
    from causvid_cli.video import VideoFormat, open_writer

    with tempfile.TemporaryDirectory(prefix="causvid-doctor-") as folder:
        path = Path(folder) / "test.mp4"
        with open_writer(path, VideoFormat(width=64, height=64, fps=Fraction(8))) as writer:
            writer.write(np.zeros((8, 64, 64, 3), np.uint8))
            writer.publish()
        frames = read_info(path).frames
    if frames != 8:
        raise OutputError(f"8 frames were written to {tempfile.gettempdir()} and {frames} read back")
    return f"a video was written to {tempfile.gettempdir()} and read back"


def _model() -> str:
    folder = find_pack(DEFAULT_MODEL)
    facts = load_facts(folder)
    verify_pack(folder, facts)
    return f"{facts.name}, {len(facts.files)} files verified"


CHECKS: dict[str, tuple[Callable[[], str], ExitCode]] = {
    "python": (_python, ExitCode.BUG),
    "packages": (_packages, ExitCode.BUG),
    "devices": (_devices, ExitCode.DEVICE),
    "encoder": (_encoder, ExitCode.OUTPUT),
    "ffmpeg": (_ffmpeg, ExitCode.OUTPUT),
    "writing": (_writing, ExitCode.OUTPUT),
    "model": (_model, ExitCode.MODEL),
}
"""Name -> what to try, and the exit code when it fails; the gravest first."""
