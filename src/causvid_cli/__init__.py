"""causvid: video from a prompt, chunk by chunk, through a KV cache.

import causvid_cli

pipeline = causvid_cli.load("storybook")
for chunk in pipeline.stream("a red car moves left in the snow", length="5s", seed=1):
    ...  # chunk.frames: uint8 RGB [T, H, W, 3], as soon as they are made
frames = pipeline.generate("a cat jumps", length="2s", seed=1)  # the same, collected
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from causvid_cli.pipeline import ChunkResult, Pipeline, Stream, load

__version__ = "0.1.0.dev0"
__all__ = ["ChunkResult", "Pipeline", "Stream", "__version__", "load"]


def __getattr__(name: str) -> Any:
    """Names of the pipeline, imported when first asked for: torch takes seconds, `causvid --help` should not."""
    if name in __all__:
        from causvid_cli import pipeline

        return getattr(pipeline, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
