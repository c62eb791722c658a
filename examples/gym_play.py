"""A Gymnasium environment that is a video: 20 random actions, and the script that makes the same frames.

python examples/gym_play.py
"""

import gymnasium

PROMPTS = ["a red car moves left in the snow", "a red car moves right in the snow", "a red car jumps in the snow"]


def main(steps: int = 20) -> None:
    env = gymnasium.make("causvid_cli.gym:Causvid-v0", prompts=PROMPTS, steps=steps)
    frame, info = env.reset(seed=1)
    over = False
    while not over:
        action = env.action_space.sample()
        frame, reward, terminated, truncated, info = env.step(action)
        print(f"chunk {info['chunk']}: {info['prompt']}, mean {frame.mean():.1f}")
        over = terminated or truncated
    print(env.unwrapped.script())
    env.close()


if __name__ == "__main__":
    main()
