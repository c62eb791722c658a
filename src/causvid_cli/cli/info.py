"""Command `info`: what a video file holds, and how it was made."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from causvid_cli.cli import console, options
from causvid_cli.cli.command import Command, examples
from causvid_cli.units import bytes_text

if TYPE_CHECKING:
    from causvid_cli.media.probe import VideoInfo

app = typer.Typer()


@app.command(cls=Command, epilog=examples("causvid info car.mp4", "causvid info car.mp4 --json"))
def info(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A video, or the .part of one that was broken off.")],
    as_json: options.Json = False,
) -> None:
    """Show what a video holds and how it was made."""
    from causvid_cli.media.probe import read_info  # loads PyAV

    found = read_info(file)
    if as_json:
        console.result_json(_as_json(found))
    else:
        console.table(_rows(found))


def _as_json(info: "VideoInfo") -> dict[str, Any]:
    return {"v": 1} | asdict(info) | {"path": str(info.path), "fps": float(info.fps)}


def _rows(info: "VideoInfo") -> Iterator[tuple[str, object]]:
    """(name, value): first how it was made, then what is in the file."""
    recipe = info.recipe
    if recipe is None:
        yield "recipe", "none: causvid did not make this file, or its metadata was removed"
    else:
        model = recipe.get("model")
        known = recipe | {"model": model.get("name") if isinstance(model, dict) else model}
        for name in ("command", "prompt", "model", "seed", "steps", "device", "dtype"):
            if known.get(name) is not None:
                yield name, known[name]
        if isinstance(versions := recipe.get("versions"), dict):
            yield "made with", ", ".join(f"{name} {version}" for name, version in versions.items())
    color = info.color
    yield "size", f"{info.width}x{info.height}"
    yield "frames", f"{info.frames} at {float(info.fps):g} per second, {info.duration_s:.3f} s"
    yield "codec", f"{info.codec}, {info.pixel_format}"
    yield (
        "colour",
        f"{color.primaries} primaries, {color.transfer} transfer, {color.matrix} matrix, {color.range} range",
    )
    yield "file", f"{info.path}, {bytes_text(info.size_bytes)}"
    for chapter in info.chapters:
        yield "chapter", f"from frame {chapter.start_frame}: {chapter.title}"
