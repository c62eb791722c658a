"""Videos of one roll-out are those that each has alone."""

import numpy as np
import pytest

from causvid_cli import load
from causvid_cli.prompt.cues import Cue
from causvid_cli.sampling.together import Together

TOLD = [
    ([Cue(prompt="a red car moves left in the snow"), Cue(prompt="it jumps", start_chunk=1)], 7),
    ([Cue(prompt="a blue cat jumps"), Cue(prompt="a swan flies up", start_chunk=1)], 8),
    ([Cue(prompt="a rocket flies up in space"), Cue(prompt="it stays still", start_chunk=1)], 9),
]


@pytest.fixture(scope="module")
def pipeline():
    return load("storybook", device="cpu")


def test_each_video_is_the_one_that_it_is_alone(pipeline):
    together = Together()
    shared = [pipeline.stream(cues, length="24f", seed=seed, together=together) for cues, seed in TOLD]
    steps = list(zip(*shared, strict=True))  # in step, a chunk of each
    for number, (cues, seed) in enumerate(TOLD):
        alone = list(pipeline.stream(cues, length="24f", seed=seed))
        assert len(alone) == len(steps) == 3
        for one, step in zip(alone, steps, strict=True):
            assert (step[number].latent - one.latent).abs().max() < 1e-4
            assert (step[number].frames != one.frames).any(axis=-1).mean() < 1e-3


def test_a_video_that_is_asked_for_later_has_lost_no_chunk(pipeline):
    together = Together()
    first, last = (pipeline.stream(cues, length="16f", seed=seed, together=together) for cues, seed in TOLD[:2])
    frames = [np.concatenate([chunk.frames for chunk in stream]) for stream in (first, last)]
    assert [len(each) for each in frames] == [16, 16]


def test_no_video_joins_a_roll_out_that_has_begun(pipeline):
    together = Together()
    next(pipeline.stream(TOLD[0][0], length="16f", together=together))
    with pytest.raises(ValueError, match="has begun"):
        pipeline.stream(TOLD[1][0], length="16f", together=together)
