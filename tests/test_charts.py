"""What holds for every chart; what each shows is tested beside it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from causvid_cli.charts import COLOURS, drawing, new_figure, page_svg, png, svg

DRAW = """
from causvid_cli.charts import *
with drawing():
    figure, axes = new_figure(300, 200)
    axes.plot([1, 2], label="\\u5bff $\\\\frac{ <b>")
    axes.set_title("\\u5bff $\\\\frac{ <b>")
    figure.legend()
    print(svg(figure))
    png(figure, background="white")
"""


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=True)


def test_drawing_prints_nothing_whatever_a_user_has(tmp_path):
    """A home that cannot be written to, a matplotlibrc of another taste, no font with the letters of a name."""
    (tmp_path / "matplotlibrc").write_text("lines.linewidth: 40\nno.such.key: 1\n")
    homeless = {"HOME": "/dev/null", "XDG_CONFIG_HOME": "", "XDG_CACHE_HOME": "", "MPLCONFIGDIR": ""}
    first = run(DRAW, **homeless)
    other = run(DRAW, **homeless, MATPLOTLIBRC=str(tmp_path / "matplotlibrc"))
    assert first.stderr == other.stderr == ""
    assert first.stdout == other.stdout
    assert "&lt;b&gt;" in first.stdout
    assert "$\\frac{" in first.stdout


def test_drawing_leaves_matplotlib_as_the_caller_has_it():
    import matplotlib

    with matplotlib.rc_context({"lines.linewidth": 7}):
        with drawing():
            assert matplotlib.rcParams["lines.linewidth"] == 2
        assert matplotlib.rcParams["lines.linewidth"] == 7


@pytest.mark.parametrize("background", ["none", COLOURS["page"]])
def test_a_chart_has_the_background_that_it_is_given(background):
    with drawing():
        figure, _ = new_figure(300, 200)
        first_patch = svg(figure, background=background).split("</g>")[0]
        assert f'style="fill: {background}' in first_patch
        assert "#" not in page_svg(figure).replace("url(#", "").replace('href="#', "")
        assert png(figure, background=background).startswith(b"\x89PNG")


@pytest.mark.parametrize("command", ["bench", "eval", "t2v"])
def test_help_draws_nothing(command):
    code = (
        "import sys; from causvid_cli.cli.app import app\n"
        f"try: app(['{command}', '--help'])\nexcept SystemExit: pass\n"
        "sys.exit(', '.join({'matplotlib', 'jinja2'} & set(sys.modules)) or 0)"
    )
    run(code)


def test_a_video_is_made_without_matplotlib(tmp_path):
    code = (
        "import sys; from causvid_cli.cli.app import app\n"
        f"try: app(['t2v', 'a red car', '--length', '4f', '-o', {str(tmp_path / 'car.mp4')!r}])\n"
        "except SystemExit as end: assert not end.code\n"
        "sys.exit('matplotlib' in sys.modules)"
    )
    run(code)
    assert Path(tmp_path / "car.mp4").exists()
