"""A batch as one page: a small picture of each video, its prompt, and a link; what failed, and why."""

import base64
import io
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from causvid_cli.batch.jobs import Job
from causvid_cli.batch.ledger import Ledger
from causvid_cli.errors import CausvidError
from causvid_cli.files import write_text

PAGE = "index.html"
SIDE = 160
"""Pixels along the longer side of a small picture."""


def write_page(jobs: Sequence[Job], ledger: Ledger) -> Path:
    """Write the page of these jobs into the batch's folder, and return its path. It asks for nothing from outside."""
    from jinja2 import Environment, StrictUndefined

    made, failed = [], []
    for job in jobs:
        if entry := ledger.results.get(job.path):
            made.append({"job": job, "entry": entry, "picture": small_picture(ledger.folder / job.path)})
        elif entry := ledger.failed.get(job.path):
            failed.append({"job": job, "entry": entry})
    template = files(__package__).joinpath("page.html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    path = ledger.folder / PAGE
    write_text(path, environment.from_string(template).render(made=made, failed=failed, total=len(jobs)))
    return path


def small_picture(video: Path) -> str:
    """Return the middle frame of a video as a data address of a WebP; "" where it cannot be read."""
    from PIL import Image

    from causvid_cli.media.clips import open_clip

    try:
        clip = open_clip(video)
        frame = next(clip.frames(clip.fps, start_s=clip.duration_s / 2), None)
    except CausvidError:
        return ""
    if frame is None:
        return ""
    image, data = Image.fromarray(frame), io.BytesIO()
    image.thumbnail((SIDE, SIDE), Image.Resampling.BOX)
    image.save(data, "WEBP", quality=80)
    return f"data:image/webp;base64,{base64.b64encode(data.getvalue()).decode()}"
