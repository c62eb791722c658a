"""The page in a real browser: pytest -m browser (needs playwright and Chromium)."""

import re
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import decode, makes

from causvid_cli import load, open_live, running
from causvid_cli.live.server import open_page
from causvid_cli.pipeline import Pipeline
from causvid_cli.script import ScriptKey

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
api = pytest.importorskip("playwright.sync_api")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.usefixtures("work"),
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium"),
]

CAR = "a red car moves left in the snow"
KEYS = {
    "left": ScriptKey(prompt="a red car moves left in the snow", release="a red car stays still in the snow"),
    "space": ScriptKey(prompt="a red car jumps in the snow"),
}
SIZES = {"wide": (1280, 900), "narrow": (390, 844)}


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return load("storybook-fast", device="cpu")


@pytest.fixture
def stage(pipeline) -> Iterator[tuple[Any, Any, Any]]:
    """A live video at real time, its page, and a browser."""
    with ExitStack() as stack:
        served = stack.enter_context(open_page())
        live = stack.enter_context(open_live(pipeline, CAR, "x.mp4", seed=1, keys=KEYS))
        served.hub.attach(live)
        stack.enter_context(running(live))
        player = stack.enter_context(api.sync_playwright())
        browser = player.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        stack.callback(browser.close)
        yield served, live, browser


def open_in(browser, url: str, size: str = "wide", codec: str = ""):
    width, height = SIZES[size]
    page = browser.new_page(viewport={"width": width, "height": height})
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("console", lambda message: message.type == "error" and page.problems.append(message.text))
    page.goto(url + (f"?codec={codec}" if codec else ""))
    api.expect(page.locator("#cover")).to_be_hidden(timeout=30_000)
    api.expect(page.locator("#rate")).to_contain_text("frames a second", timeout=30_000)
    return page


def colours(page) -> int:
    """How many colours the canvas shows: a blank one has one."""
    import io

    from PIL import Image

    picture = Image.open(io.BytesIO(page.locator("canvas").screenshot()))
    return len(picture.convert("RGB").getcolors(1 << 24) or [])


@pytest.mark.parametrize(("size", "codec"), [("wide", "h264"), ("narrow", "jpeg")])
def test_a_video_is_watched_told_taken_back_and_kept(stage, size, codec):
    served, live, browser = stage
    page = open_in(browser, served.url, size, codec)
    assert colours(page) > 5
    assert page.get_by_role("list").count() == 0  # which would have no items
    page.get_by_label("What happens next").fill("a red car turns into a swan")
    page.keyboard.press("Enter")
    api.expect(page.locator("#answer")).to_contain_text("is seen in", timeout=10_000)
    api.expect(page.locator("#latency")).to_have_text(re.compile(r"^\d+ ms$"), timeout=10_000)
    page.get_by_label("Seconds from now").fill("9")
    page.get_by_label("What happens next").fill("a cat in the forest")
    page.keyboard.press("Enter")
    planned = page.get_by_role("button", name=re.compile("^Planned for .* s: a cat in the forest"))
    before = planned.get_attribute("aria-label")
    box = planned.bounding_box()
    page.mouse.move(box["x"] + 5, box["y"] + 5)
    page.mouse.down()
    page.mouse.move(box["x"] + 105, box["y"] + 5, steps=5)
    page.mouse.up()
    api.expect(page.locator("#answer")).to_contain_text("Planned for", timeout=10_000)
    dragged = planned.get_attribute("aria-label")
    assert dragged != before
    planned.focus()
    page.keyboard.press("ArrowRight")
    api.expect(planned).not_to_have_attribute("aria-label", dragged, timeout=10_000)
    planned.focus()
    page.keyboard.press("Delete")
    api.expect(page.locator("#answer")).to_have_text("Dropped.", timeout=10_000)
    page.get_by_role("button", name="Pause").click()
    api.expect(page.get_by_role("button", name="Go on")).to_be_visible(timeout=10_000)
    page.get_by_role("button", name="Go on").click()
    page.get_by_role("button", name="Undo the last change").click()
    api.expect(page.locator("#answer")).to_contain_text("Back at", timeout=10_000)
    with page.expect_download() as download:
        page.get_by_role("link", name="Video").click()
    download.value.save_as("so_far.mp4")
    assert len(decode("so_far.mp4"))
    with page.expect_download() as download:
        page.get_by_role("link", name="Script").click()
    assert "a red car" in Path(download.value.path()).read_text()
    assert not page.problems
    assert page.locator("body").bounding_box()["width"] <= SIZES[size][0]  # nothing is wider than the screen
    (making,) = (thread for thread in threading.enumerate() if thread.name == "causvid live")
    page.get_by_role("button", name="End").click()
    making.join(20)
    assert not making.is_alive()


def test_keys_are_pressed_and_let_go(stage):
    served, live, browser = stage
    page = open_in(browser, served.url)
    page.locator("body").click()
    page.keyboard.down("ArrowLeft")
    api.expect(page.locator("#answer")).to_contain_text("moves left", timeout=10_000)
    page.keyboard.up("ArrowLeft")
    api.expect(page.locator("#answer")).to_contain_text("stays still", timeout=10_000)
    page.get_by_role("button", name="Key space").click()
    api.expect(page.locator("#answer")).to_contain_text("jumps", timeout=10_000)
    assert [cue.prompt for cue in live.cues][-2:] == [KEYS["left"].release, KEYS["space"].prompt]


def test_a_lost_connection_comes_back_with_all_that_was_told(stage):
    served, live, browser = stage
    page = open_in(browser, served.url)
    page.get_by_label("What happens next").fill("a red car jumps in the snow")
    page.keyboard.press("Enter")
    api.expect(page.locator("#answer")).to_contain_text("is seen in", timeout=10_000)
    for viewer in list(served.hub._viewers):
        served.hub._loop.call_soon_threadsafe(viewer.end)
    api.expect(page.locator("#cover")).to_contain_text("Connecting again", timeout=10_000)
    api.expect(page.locator("#cover")).to_be_hidden(timeout=10_000)
    api.expect(page.locator(".cue")).to_have_count(2)
    page.get_by_label("What happens next").fill("a red car stays still")
    page.keyboard.press("Enter")
    api.expect(page.locator("#answer")).to_contain_text("stays still", timeout=10_000)


def test_one_writes_and_another_takes_over(stage):
    served, live, browser = stage
    first, second, watcher = (open_in(browser, url) for url in (served.url, served.url, served.watch_url))
    for each in (second, watcher):
        api.expect(each.locator("#watching")).to_be_visible()
        api.expect(each.get_by_label("What happens next")).to_be_disabled()
    api.expect(watcher.locator("#take")).to_be_hidden()
    second.get_by_role("button", name="Write here").click()
    api.expect(second.get_by_label("What happens next")).to_be_enabled(timeout=10_000)
    api.expect(first.get_by_label("What happens next")).to_be_disabled(timeout=10_000)
    api.expect(first.locator("#viewers")).to_have_text("3")


def test_the_page_asks_what_to_show_first_and_tells_of_the_end(pipeline):
    with ExitStack() as stack:
        served = stack.enter_context(open_page())
        asked = stack.enter_context(ThreadPoolExecutor(1)).submit(served.hub.first_prompt)
        player = stack.enter_context(api.sync_playwright())
        page = player.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"]).new_page()
        page.goto(served.url)
        spoken = page.get_by_role("status")
        api.expect(spoken.filter(has_text="Say what to show first.")).to_be_visible(timeout=10_000)
        api.expect(page.get_by_role("link")).to_have_count(0)  # nothing is made yet
        page.get_by_label("What happens next").fill(CAR)
        page.keyboard.press("Enter")
        api.expect(spoken.filter(has_text="The model is loading")).to_be_visible(timeout=10_000)
        with open_live(pipeline, asked.result(10), "x.mp4", seed=1) as live:
            served.hub.attach(live)
            with running(live):
                api.expect(page.get_by_role("link")).to_have_count(2, timeout=10_000)
        api.expect(spoken.filter(has_text="The end")).to_be_visible(timeout=10_000)
        api.expect(page.get_by_role("link")).to_have_count(0)


def test_what_was_done_in_the_page_makes_the_same_frames_again(pipeline):
    with open_page() as served, open_live(pipeline, CAR, "x.mp4", seed=1) as live:
        served.hub.attach(live)
        with running(live), api.sync_playwright() as player:
            browser = player.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            page = open_in(browser, served.url)
            for prompt, change in (("it jumps", "soft"), ("a swan flies up", "cut")):
                page.get_by_label("Change").select_option(change)
                page.get_by_label("What happens next").fill(prompt)
                page.keyboard.press("Enter")
                api.expect(page.locator("#answer")).to_contain_text("is seen in", timeout=10_000)
                page.wait_for_timeout(1500)
            browser.close()
    makes("edit-script", "x.causvid.yaml", "-o", "again.mp4")
    np.testing.assert_array_equal(decode("again.mp4"), decode("x.mp4"))
