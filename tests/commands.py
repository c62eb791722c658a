"""Commands as a user runs them, in this process, and a model that can be made to fail."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
from typer.testing import CliRunner, Result

from causvid_cli import pipeline
from causvid_cli.cli.app import app

PROMPT = "a red car moves left in the snow"


def run(*arguments: object, **options: object) -> Result:
    """`causvid ARGUMENTS`."""
    return CliRunner(env={"NO_COLOR": "1", "CAUSVID_DEBUG": None}).invoke(app, list(map(str, arguments)), **options)


def makes(*arguments: object, **options: object) -> Result:
    """`run`, which must go well."""
    result = run(*arguments, **options)
    assert result.exit_code == 0, result.output
    return result


def said(result: Result) -> str:
    """What is on stderr besides how the prompt was read, which every command that makes a video says."""
    return re.sub(r"^causvid: read as: .*\n", "", result.stderr, flags=re.MULTILINE)


def fails(result: Result, code: int, complaint: str) -> None:
    """The command ended with this code, one line on stderr that matches, and nothing on stdout."""
    assert result.exit_code == code, result.output
    assert re.fullmatch(r"causvid: [^\n]+\n", said(result)), result.stderr
    assert re.search(complaint, said(result)), result.stderr
    assert result.stdout == ""


def notes(result: Result) -> list[str]:
    """What was said on stderr before the line that sums up, but for how the prompt was read."""
    return [line.removeprefix("causvid: ") for line in said(result).splitlines()[:-1]]


def decode(path: Path | str) -> np.ndarray:
    """Every frame of a video, uint8 RGB [T, H, W, 3]."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def names() -> list[str]:
    """What lies in this folder."""
    return sorted(path.name for path in Path().iterdir())


def after_chunks(count: int, act: Callable[[], object]) -> Callable[..., Iterator]:
    """The real roll-out, in which something happens after `count` chunks were made."""
    real = pipeline.rollout

    def rollout(*arguments: object, **options: object) -> Iterator:
        for index, made in enumerate(real(*arguments, **options)):
            if index == count:
                act()
            yield made

    return rollout


def raise_(error: BaseException) -> None:
    raise error
