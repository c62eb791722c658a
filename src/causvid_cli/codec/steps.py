"""How pictures fall into latent frames."""

from collections.abc import Sequence

from causvid_cli.errors import MediaError
from causvid_cli.geometry import CodecFacts


def check_pictures(frames: int, facts: CodecFacts, *, begun: bool) -> Sequence[int]:
    """How many of these pictures go into each latent frame; the first of a video takes `facts.frames_first`.

    Raises MediaError for a number that does not fill whole latent frames.
    """
    first, following = (0 if begun else facts.frames_first), facts.frames_next
    count, extra = divmod(frames - first, following)
    if frames <= 0 or count < 0 or extra:
        near = [n for n in (frames - extra, frames - extra + following) if n > 0]
        raise MediaError(f"{frames} pictures do not fill whole latent frames; try {' or '.join(map(str, near))}")
    return [first] * (first > 0) + [following] * count
