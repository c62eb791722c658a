"""A tiny storybook pack with a judge, all random, and `causvid eval` of it."""

import re
from html.parser import HTMLParser
from pathlib import Path

import torch
from tiny import SHAPE, tiny_codec, tiny_facts, tiny_transformer
from typer.testing import CliRunner, Result

from causvid_cli.cli.app import app
from causvid_cli.config import load_facts
from causvid_cli.evaluate.config import ExperimentKind, ExperimentRequest
from causvid_cli.evaluate.experiments import TrialMaker, open_trial_maker
from causvid_cli.evaluate.judge import Judge
from causvid_cli.prompt.story import StoryText
from causvid_cli.storybook import FIRST_WORDS
from causvid_cli.train.export import export_pack


def judged_pack(folder: Path) -> Path:
    torch.manual_seed(0)
    export_pack(
        folder,
        tiny_facts(teacher=None),
        student=tiny_transformer(seed=1),
        codec=tiny_codec(),
        text=StoryText.for_vocabulary(FIRST_WORDS, dim=SHAPE.text_dim),
        judge=Judge(FIRST_WORDS, width=4),
    )
    return folder


def trials_of(pack: Path, kind: ExperimentKind, count: int = 2) -> TrialMaker:
    return open_trial_maker(
        ExperimentRequest(pack=pack, facts=load_facts(pack), kind=kind, count=count, seed=5, device="cpu")
    )


def run_eval(pack: Path, *arguments: object) -> Result:
    environment = {"NO_COLOR": "1", "CAUSVID_DEBUG": None}
    return CliRunner(env=environment).invoke(app, ["eval", "--model", str(pack), *map(str, arguments)])


def pictures_of(page: Path) -> list[str]:
    """What a page asks for; fails for anything that does more than show."""
    found: list[str] = []

    class Links(HTMLParser):
        def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
            found.extend(value or "" for name, value in attributes if name in ("src", "href", "srcset"))
            assert tag not in ("script", "link", "iframe")

    text = page.read_text()
    Links().feed(text)
    assert not re.search(r"url\((?!#)", text)
    assert "@import" not in text
    assert all(link.startswith("data:image/png;base64,") for link in found)
    return found
