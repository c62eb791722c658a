"""A prompt in which one thing happens after the other -> a cue for each, as `--then` would give them. No torch."""

from dataclasses import replace
from fractions import Fraction

from causvid_cli.architectures import load_config
from causvid_cli.models.resolve import ResolvedModel
from causvid_cli.script.model import Script
from causvid_cli.timecode import Time


def in_shots(script: Script, model: ResolvedModel, *, chunks: int) -> Script:
    """The script with its only prompt as a cue for each action that follows another, spread evenly over the chunks.

    Of more actions than chunks the last prompt has the rest. A script of several cues stays as it is, and so does a
    prompt to a model that takes any text.
    """
    if len(script.cues) > 1 or model.facts.text != "storybook" or model.folder is None:
        return script
    text_folder = model.folder / "text_encoder"
    if not (text_folder / "config.json").is_file():
        return script  # who loads the model says what it lacks
    from causvid_cli.storybook import Lexicon, parse

    (cue,) = script.cues
    words = load_config(text_folder, "StoryText")["words"]
    shots = parse(cue.prompt, lexicon=Lexicon.of(words)).shots
    count = min(len(shots), chunks)
    if count < 2:
        return script
    prompts = [*shots[: count - 1], ", ".join(shots[count - 1 :])]
    starts = [Time(Fraction(number * chunks // count), "chunk") for number in range(count)]
    cues = (replace(cue, prompt=prompt, at=start) for prompt, start in zip(prompts, starts, strict=True))
    return replace(script, cues=tuple(cues))
