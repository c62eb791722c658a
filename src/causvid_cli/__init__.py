"""causvid: video from a prompt, chunk by chunk, through a KV cache.

import causvid_cli

pipeline = causvid_cli.load("storybook")
for chunk in pipeline.stream("a red car moves left in the snow", length="5s", seed=1):
    ...  # chunk.frames: uint8 RGB [T, H, W, 3], as soon as they are made
frames = pipeline.generate("a cat jumps", length="2s", seed=1)  # the same, collected

Into a file, complete or not there at all, of every format that causvid writes:

from causvid_cli.video import VideoFormat, open_writer

video = VideoFormat(width=512, height=512, fps=pipeline.fps)
with open_writer("cat.mp4", video) as writer:
    writer.write(frames)  # again for each chunk
    writer.publish()

What a user can mend raises a `CausvidError` (`causvid_cli.errors`) of one line. `Pipeline.stream` tells all arguments,
and `causvid_cli.sampling.plan.GenerateOptions` the choices.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from causvid_cli.versions import __version__

if TYPE_CHECKING:
    from causvid_cli.live.opened import open_live, running
    from causvid_cli.live.session import Live
    from causvid_cli.pipeline import ChunkResult, Pipeline, Stream, load

__all__ = ["ChunkResult", "Live", "Pipeline", "Stream", "__version__", "load", "open_live", "running"]

_ROOMS = {"Live": "live.session", "open_live": "live.opened", "running": "live.opened"}


def __dir__() -> list[str]:
    """Names of the pipeline too, for `help` and the completion of an interactive Python."""
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    """Names of the pipeline, imported when first asked for: torch takes seconds, `causvid --help` should not."""
    if name in __all__:
        return getattr(import_module(f"{__name__}.{_ROOMS.get(name, 'pipeline')}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
