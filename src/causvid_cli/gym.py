"""A Gymnasium environment whose world is a video that is made: actions are prompts, observations are frames.

env = gymnasium.make("causvid_cli.gym:Causvid-v0", prompts=["a red car moves left", "a red car moves right"])
frame, info = env.reset(seed=1)
frame, reward, terminated, truncated, info = env.step(0)
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from causvid_cli.live.opened import open_live
from causvid_cli.live.session import Live
from causvid_cli.live.watch import Shown
from causvid_cli.pipeline import Pipeline, load
from causvid_cli.request import DEFAULT_MODEL
from causvid_cli.script import ScriptKey

Reward = Callable[[np.ndarray, int], float]
"""(observed frame, action) -> reward of a step."""


class CausvidEnv(gymnasium.Env[np.ndarray, int]):
    """A step is a chunk of video under the prompt or key of its action; observed is its last frame, uint8 [H, W, 3].

    prompts: what the actions say; or keys: bound as in a script, each pressed for one step. first: what the video
    shows at first. steps: after how many an episode is cut off. pipeline: a loaded model; else `model` is loaded
    (`gymnasium.make` copies what it is given: give it a model). reward: what a step is worth; 0 if it is left out.
    The frames of a step are in info["frames"], [T, H, W, 3]; `env.unwrapped.script()` makes them again.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 8}

    def __init__(
        self,
        prompts: Sequence[str] = (),
        *,
        first: str = "a red car stays still in the snow",
        keys: Mapping[str, ScriptKey | str] | None = None,
        steps: int = 100,
        model: str = DEFAULT_MODEL,
        pipeline: Pipeline | None = None,
        reward: Reward = lambda frame, action: 0.0,
        render_mode: str | None = None,
    ) -> None:
        self.pipeline = pipeline or load(model)
        self._first, self._steps, self._reward = first, steps, reward
        self._keys = dict(keys or {})
        self.actions: tuple[dict[str, Any], ...] = tuple({"prompt": prompt} for prompt in prompts)
        self.actions += tuple({"key": key} for key in self._keys)
        if not self.actions:
            raise ValueError("an environment needs prompts or keys: they are its actions")
        self.render_mode = render_mode
        self.metadata = type(self).metadata | {"render_fps": float(self.pipeline.fps)}
        plan = self.pipeline.plan(length="1f", seed=0)
        self.action_space = spaces.Discrete(len(self.actions))  # type: ignore[assignment]
        self.observation_space = spaces.Box(0, 255, (plan.height, plan.width, 3), np.uint8)
        self._open = ExitStack()
        self._live: Live | None = None
        self._made: Generator[Shown, None, None] | None = None
        self._shown: np.ndarray | None = None
        self._taken = 0
        self._held: str | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin another video; the same seed and actions make the same frames."""
        super().reset(seed=seed)
        self.close()
        noise = int(self.np_random.integers(2**31))
        self._live = self._open.enter_context(
            open_live(self.pipeline, self._first, seed=noise, keys=self._keys, pace="fast")
        )
        self._made = iter(self._live)
        self._taken, self._held = 0, None
        return self._observe()

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Make a chunk under an action's prompt or key."""
        assert self._live is not None, "reset comes first"
        said = self.actions[int(action)]
        if self._held is not None and self._held != said.get("key"):
            self._live.send({"key": self._held, "down": False})
        self._held = said.get("key")
        if said.get("prompt") != self._live.prompt:
            self._live.send(said)
        frame, info = self._observe()
        self._taken += 1
        return frame, float(self._reward(frame, int(action))), False, self._taken >= self._steps, info

    def render(self) -> Any:
        """The frame that was observed last."""
        return self._shown if self.render_mode == "rgb_array" else None

    def script(self) -> str:
        """What was told so far, as a script that makes the same frames again."""
        from pathlib import Path

        assert self._live is not None, "reset comes first"
        return self._live.script(Path.cwd())

    def close(self) -> None:
        if self._made is not None:
            self._made.close()
        self._open.close()
        self._live = self._made = None

    def _observe(self) -> tuple[np.ndarray, dict[str, Any]]:
        assert self._made is not None
        shown = next(self._made)
        self._shown = shown.frames[-1]
        return self._shown, {"frames": shown.frames, "chunk": shown.index, "prompt": shown.prompt}


gymnasium.register(id="Causvid-v0", entry_point="causvid_cli.gym:CausvidEnv")
