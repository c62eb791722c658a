"""A video as a Gymnasium environment."""

import warnings

import numpy as np
import pytest

gymnasium = pytest.importorskip("gymnasium")

from gymnasium.utils.env_checker import check_env  # noqa: E402

from causvid_cli import load  # noqa: E402
from causvid_cli.gym import CausvidEnv  # noqa: E402
from causvid_cli.script import ScriptKey, read_script  # noqa: E402

PROMPTS = ["a red car moves left in the snow", "a swan flies up"]


@pytest.fixture(scope="module")
def pipeline(tiny):
    return load(tiny, device="cpu")


def test_gymnasiums_own_checker_is_content(tiny):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*not within the registry.*|.*spec.*")
        env = gymnasium.make("causvid_cli.gym:Causvid-v0", prompts=PROMPTS, model=str(tiny), render_mode="rgb_array")
        check_env(env.unwrapped, skip_render_check=False)
    env.close()


def test_the_same_seed_and_actions_are_the_same_world_again_and_a_script_of_it(pipeline):
    def play() -> tuple[list[np.ndarray], str]:
        env = CausvidEnv(PROMPTS, pipeline=pipeline, steps=4)
        frames = [env.reset(seed=5)[1]["frames"]]
        for action in (0, 1, 1, 0):
            frame, reward, terminated, truncated, info = env.step(action)
            assert (reward, terminated) == (0.0, False)
            frames.append(info["frames"])
        assert truncated
        script = env.script()
        env.close()
        return frames, script

    frames, script = play()
    again, _ = play()
    np.testing.assert_array_equal(np.concatenate(frames), np.concatenate(again))
    assert [(str(cue.start), cue.prompt) for cue in read_script(script).cues][1:] == [
        ("4f", PROMPTS[0]),
        ("8f", PROMPTS[1]),
        ("16f", PROMPTS[0]),
    ]


def test_keys_are_actions_that_last_a_step(pipeline):
    keys = {"left": ScriptKey(prompt="a red car moves left", release="a red car"), "space": "a red car jumps"}
    env = CausvidEnv(keys=keys, pipeline=pipeline, first="a red car")
    env.reset(seed=1)
    told = [env.step(action)[-1]["prompt"] for action in (0, 0, 1)]
    env.close()
    assert told == ["a red car moves left", "a red car moves left", "a red car jumps"]


def test_an_environment_needs_actions(pipeline):
    with pytest.raises(ValueError, match="needs prompts or keys"):
        CausvidEnv(pipeline=pipeline)
