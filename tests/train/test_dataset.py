"""The user's own videos: found, captioned, cut, encoded; and every way in which they can be bad."""

import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import imageio.v3 as imageio
import imageio_ffmpeg
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import save_file
from tiny import tiny_codec, tiny_pack
from torch import Tensor

from causvid_cli import storybook
from causvid_cli.codec.wan import WanCodec
from causvid_cli.config import from_json, to_json
from causvid_cli.errors import MediaError, ModelError, NumericsError, OutputError, UsageError
from causvid_cli.geometry import CodecFacts
from causvid_cli.media.clips import open_clip
from causvid_cli.models.load import load_story_text
from causvid_cli.pipeline import load
from causvid_cli.prompt.encoded import EncodedPrompt
from causvid_cli.prompt.story import StoryText, StoryTextEncoder
from causvid_cli.train import prepare as preparation
from causvid_cli.train import prompt_table
from causvid_cli.train import shards as train_shards
from causvid_cli.train.captions import find_videos, read_prompts
from causvid_cli.train.config import DataConfig, NewWords
from causvid_cli.train.dataset import Joined, LatentClips
from causvid_cli.train.export import export_pack
from causvid_cli.train.prepare import prepare
from causvid_cli.train.prompt_table import PromptTable, encode_prompts
from causvid_cli.train.shards import save_shard
from causvid_cli.train.videos import PlannedVideo, VideoPlan, plan_videos, read_clips
from causvid_cli.video import H264, VideoFormat, open_writer

CPU = torch.device("cpu")
FPS, SIZE, LATENT_FRAMES = 8, (64, 64), 2
FRAMES = 4 * LATENT_FRAMES
CAPTION = "a red car jumps in the snow"


def numbered(count: int, *, size: tuple[int, int] = (64, 48), first: int = 0) -> np.ndarray:
    """Plain grey pictures [T, H, W, 3] whose brightness tells their number: 8 n."""
    grey = (8 * np.arange(first, first + count)).astype(np.uint8)
    return np.broadcast_to(grey[:, None, None, None], (count, size[1], size[0], 3)).copy()


def numbers(pictures: np.ndarray) -> list[int]:
    """The numbers of such pictures."""
    return np.rint(pictures.reshape(len(pictures), -1).mean(axis=1) / 8).astype(int).tolist()


def write_video(path: Path, count: int = 16, *, fps: int = FPS, size: tuple[int, int] = (64, 48)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    imageio.imwrite(path, numbered(count, size=size), fps=fps, codec="libx264", macro_block_size=2)
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """Two seconds at 8 pictures a second."""
    return write_video(tmp_path_factory.mktemp("video") / "clip.mp4")


@pytest.fixture
def folder(tmp_path, clip) -> Path:
    """Three good videos, each with a caption beside it."""
    for name in ("a", "b", "sub/c"):
        add(tmp_path / "videos", clip, name)
    return tmp_path / "videos"


def add(folder: Path, clip: Path, name: str, caption: str | None = CAPTION) -> Path:
    path = folder / f"{name}.mp4"
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(clip, path)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption)
    return path


@pytest.fixture(scope="module")
def codec():
    return tiny_codec()


@pytest.fixture(scope="module")
def text() -> StoryText:
    torch.manual_seed(0)
    return StoryText.for_vocabulary(storybook.FIRST_WORDS, dim=16)


def plan_of(folder: Path, source: Path, text: StoryText | None = None, **changes: object) -> VideoPlan:
    data = DataConfig(**{"videos": str(source), **changes})  # type: ignore[arg-type]
    facts = CodecFacts(latent_channels=24, spatial_factor=8, frames_first=4, frames_next=4)
    return plan_videos(folder, data, facts, fps=FPS, size=SIZE, latent_frames=LATENT_FRAMES, text=text)


def captions(source: Path) -> dict[str, tuple[str, ...]]:
    return {video.path.name: video.captions for video in find_videos(source)[0]}


# --- finding -------------------------------------------------------------------------------------------------------


def test_captions_are_found_where_other_trainers_look_for_them(tmp_path, clip):
    for name in ("text", "object", "list", "deep/table", "deep/lines", "two"):
        add(tmp_path, clip, name, None)
    (tmp_path / "text.txt").write_text("\ufeff a cat \n jumps \n")
    (tmp_path / "object.json").write_text('{"caption": "a dog", "fps": 3}')
    (tmp_path / "list.json").write_text('["a bird", "a fish"]')
    (tmp_path / "deep" / "metadata.csv").write_text('File_Name,text,other\ntable.mp4,"a ball, red",1\n')
    (tmp_path / "captions.jsonl").write_text('{"video": "deep/lines.mp4", "prompt": ["a boat"]}\n\n')
    (tmp_path / "dataset.json").write_text('{"two.mp4": "a man", "text.mp4": "what lies nearer holds"}')
    assert captions(tmp_path) == {
        "text.mp4": ("a cat jumps",),
        "object.mp4": ("a dog",),
        "list.mp4": ("a bird", "a fish"),
        "table.mp4": ("a ball, red",),
        "lines.mp4": ("a boat",),
        "two.mp4": ("a man",),
    }


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.txt", "a.mp4\ta cat\nsub/b.mp4 | a dog\n\n"),
        ("list.csv", "video_path,caption\na.mp4,a cat\nsub/b.mp4,a dog\n"),
        ("list.json", '[{"file": "a.mp4", "caption": "a cat"}, {"file": "sub/b.mp4", "caption": "a dog"}]'),
        ("list.jsonl", '{"path": "a.mp4", "text": "a cat"}\n{"path": "sub/b.mp4", "text": "a dog"}\n'),
        ("videos.txt", "a.mp4\nsub/b.mp4\n"),
    ],
)
def test_a_list_names_videos_and_captions(tmp_path, clip, name, content):
    for video in ("a", "sub/b", "not-listed"):
        add(tmp_path, clip, video, None)
    (tmp_path / name).write_text(content)
    if name == "videos.txt":
        (tmp_path / "prompts.txt").write_text("a cat\na dog\n")
    assert captions(tmp_path / name) == {"a.mp4": ("a cat",), "b.mp4": ("a dog",)}


def test_hidden_files_are_no_videos(folder, clip):
    add(folder, clip, ".cache/x")
    add(folder, clip, "._a")
    assert set(captions(folder)) == {"a.mp4", "b.mp4", "c.mp4"}


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("none", None, "none: does not exist"),
        (
            "list.csv",
            "a.mp4,a cat\nb.mp4,a dog\n",
            "must name the columns, such as file_name,caption; found: a.mp4,a cat",
        ),
        ("list.csv", "", "found: nothing"),
        ("list.jsonl", '{"file": "a.mp4"}\n{"file"', "list.jsonl:2: not JSON"),
        ("list.jsonl", '{"caption": "a cat"}', "entry 1 names no video"),
        ("list.txt", b"\xff\xfe\x00", "not UTF-8"),
        ("list.yaml", "a", "must be .txt, .csv, .json or .jsonl"),
    ],
)
def test_a_list_that_cannot_be_read_says_why(tmp_path, name, content, complaint):
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UsageError, match=complaint):
        find_videos(tmp_path / name)


def test_a_folder_without_videos_says_so(tmp_path):
    with pytest.raises(UsageError, match=r"holds no video \(\.3gp"):
        find_videos(tmp_path)


def test_prompts_without_videos_come_from_a_file(tmp_path):
    (tmp_path / "prompts.txt").write_text("a cat\n\na dog\na cat\n")
    (tmp_path / "prompts.csv").write_text("prompt\na cat\na dog\n")
    assert read_prompts(tmp_path / "prompts.txt") == read_prompts(tmp_path / "prompts.csv") == ["a cat", "a dog"]
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(UsageError, match=r"empty\.txt: holds no prompt"):
        read_prompts(tmp_path / "empty.txt")


# --- what cannot be used -------------------------------------------------------------------------------------------


def test_videos_that_cannot_be_used_are_listed_with_their_reasons_and_the_run_goes_on(tmp_path, folder, clip):
    whole = clip.read_bytes()
    add(folder, clip, "empty").write_bytes(b"")
    add(folder, clip, "text").write_text("hello")
    add(folder, clip, "half").write_bytes(whole[: len(whole) // 2])
    write_video(folder / "short.mp4", 7)
    (folder / "short.txt").write_text(CAPTION)
    (folder / "captions.csv").write_text(f"file,caption\nmissing.mp4,{CAPTION}\n")
    plan = plan_of(tmp_path / "run", folder)
    assert [Path(video.path).name for video in plan.videos] == ["a.mp4", "b.mp4", "c.mp4"]
    listed = dict(line.split("\t") for line in (tmp_path / "run" / "damaged.txt").read_text().splitlines())
    reasons = {Path(path).name: reason for path, reason in listed.items()}
    assert reasons == {
        "empty.mp4": "is empty",
        "text.mp4": "cannot be read as a video: Invalid data found when processing input",
        "half.mp4": "cannot be read as a video: Invalid data found when processing input",
        "short.mp4": "is too short: 0.88 s, and a clip takes 1.00 s",
        "missing.mp4": "does not exist",
    }
    counted, left_out = plan.notes(tmp_path / "run")
    assert counted == "3 videos, 6 clips"
    assert left_out.startswith(f"5 videos left out and listed in {tmp_path / 'run' / 'damaged.txt'}: ")
    assert left_out.endswith("and 2 more")
    with pytest.raises(MediaError, match=r"5 of 8 videos cannot be used: .* allow it with data\.damaged_share"):
        plan_of(tmp_path / "strict", folder, damaged_share=0.5)


def test_without_a_video_left_there_is_no_run(tmp_path, clip):
    add(tmp_path / "videos", clip, "a").write_bytes(b"")
    with pytest.raises(MediaError, match=r"none of 1 videos can be used: .*a\.mp4 \(is empty\)"):
        plan_of(tmp_path / "run", tmp_path / "videos")
    assert (tmp_path / "run" / "damaged.txt").read_text().endswith("a.mp4\tis empty\n")


def test_missing_captions_stop_the_run_unless_they_are_allowed(tmp_path, folder, clip):
    add(folder, clip, "x", None)
    add(folder, clip, "y", " \n")
    add(folder, clip, "z", None).with_suffix(".json").write_text("{")
    add(folder, clip, "zz", "x" * 30_000)
    with pytest.raises(MediaError) as failure:
        plan_of(tmp_path / "run", folder)
    line = str(failure.value)
    assert "4 of 7 videos have no caption that can be used: " in line
    assert "x.mp4 (has no caption)" in line and "y.mp4 (y.txt holds no caption)" in line
    assert line.endswith("name new words in data.words, or allow it with data.uncaptioned_share")
    assert "\n" not in line
    plan = plan_of(tmp_path / "run", folder, uncaptioned_share=0.6)
    assert len(plan.videos) == 3
    reasons = (tmp_path / "run" / "damaged.txt").read_text()
    assert "z.json: not JSON" in reasons and "30000 characters" in reasons


def test_a_caption_without_a_known_subject_is_no_caption_for_the_storybook(tmp_path, folder, clip, text):
    add(folder, clip, "robot", "a beige robot jumps in the snow")
    with pytest.raises(MediaError, match=r"names no subject that the model knows \(unknown: 'beige', 'robot'\)"):
        plan_of(tmp_path / "run", folder, text)
    knowing = text.with_words({"subject": ["robot"]})
    plan = plan_of(tmp_path / "run", folder, knowing)
    assert len(plan.videos) == 4
    assert list(plan.notes(tmp_path))[-1] == (
        "words of captions that the model does not know: beige (1); data.words makes them known"
    )


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"videos": ""}, "data.videos: missing; give a folder"),
        ({"sizes": ((60, 64),)}, "width 60 is not a multiple of 16"),
    ],
)
def test_settings_that_cannot_work_are_refused(tmp_path, folder, changes, complaint):
    with pytest.raises(UsageError, match=complaint):
        plan_of(tmp_path / "run", folder, **changes)


def test_the_configuration_is_saved_and_read_back():
    data = DataConfig(videos="x", sizes=((64, 48),), words=NewWords(subject=("robot",)))
    assert from_json(DataConfig, to_json(data), where="x") == data
    with pytest.raises(UsageError, match=r"words\.subjct: unknown; did you mean subject\?"):
        from_json(DataConfig, '{"words": {"subjct": ["robot"]}}', where="x")


# --- clips ---------------------------------------------------------------------------------------------------------


def planned(path: Path, *starts: int, size: tuple[int, int] = (64, 48)) -> PlannedVideo:
    return PlannedVideo(path=str(path), captions=(CAPTION,), size=size, starts=starts)


def test_clips_are_spread_evenly_over_a_video_and_the_first_begins_with_it(tmp_path, clip):
    write_video(tmp_path / "videos" / "long.mp4", 30)
    (tmp_path / "videos" / "long.txt").write_text(CAPTION)
    starts = {
        count: plan_of(tmp_path / str(count), tmp_path / "videos", clips_per_video=count).videos[0].starts
        for count in (1, 2, 0)
    }
    assert starts == {1: (0,), 2: (0, 22), 0: (0, 11, 22)}
    first, last = read_clips(planned(tmp_path / "videos" / "long.mp4", 0, 22), frames=FRAMES, fps=Fraction(FPS))
    assert numbers(first) == list(range(8))
    assert numbers(last) == list(range(22, 30))


@pytest.mark.parametrize(("fps", "shown"), [(24, [0, 3, 6, 9]), (8, [0, 1, 2, 3]), (4, [0, 0, 1, 1])])
@pytest.mark.parametrize("container", ["mp4", "mkv"])
def test_every_rate_becomes_the_models(tmp_path, fps, shown, container):
    path = write_video(tmp_path / f"clip.{container}", 12, fps=fps)
    assert numbers(next(read_clips(planned(path, 0), frames=4, fps=Fraction(FPS)))) == shown


@pytest.mark.parametrize("container", ["mp4", "mov", "mkv", "avi"])
def test_a_video_is_used_to_its_end_in_every_container(tmp_path, container):
    path = write_video(tmp_path / "videos" / f"clip.{container}", 16)
    path.with_suffix(".txt").write_text(CAPTION)
    (video,) = plan_of(tmp_path / "run", tmp_path / "videos").videos
    first, last = read_clips(video, frames=FRAMES, fps=Fraction(FPS))
    assert video.starts == (0, 8)
    assert numbers(first) == list(range(8))
    assert numbers(last) == list(range(8, 16))


def test_a_video_that_was_made_here_comes_back_pixel_for_pixel(tmp_path, codec):
    story = storybook.Story("car", "red", "snow", "moves left")
    indices, _ = storybook.render_indices(story, length=FRAMES, seed=1)
    path = tmp_path / "clip.mp4"
    finer = replace(H264, options=H264.options | {"crf": "10"})
    with open_writer(path, VideoFormat(width=512, height=512, fps=Fraction(FPS), encoding=finer)) as writer:
        writer.write(storybook.PALETTE[indices].repeat(8, axis=1).repeat(8, axis=2))
        writer.publish()
    (pictures,) = read_clips(planned(path, 0, size=(64, 64)), frames=FRAMES, fps=Fraction(FPS))
    found = codec.nearest_entries(torch.from_numpy(pictures)).numpy()
    assert (found == indices).mean() > 0.995  # what H.264 does to the edges


def test_a_wide_video_is_cropped_around_its_middle_to_the_size_nearest_in_shape(tmp_path):
    pictures = numbered(FRAMES, size=(128, 64))
    pictures[:, :, :32], pictures[:, :, 96:] = 255, 255
    for name, turned in (("wide", pictures), ("tall", pictures.swapaxes(1, 2))):
        (tmp_path / "videos").mkdir(exist_ok=True)
        imageio.imwrite(tmp_path / "videos" / f"{name}.mp4", turned, fps=FPS)
        (tmp_path / "videos" / f"{name}.txt").write_text(CAPTION)
    square = plan_of(tmp_path / "square", tmp_path / "videos").videos
    assert [video.size for video in square] == [(64, 64), (64, 64)]
    for video in square:
        (found,) = read_clips(video, frames=FRAMES, fps=Fraction(FPS))
        assert found.shape == (FRAMES, 64, 64, 3)
        assert numbers(found[:, 4:-4, 4:-4]) == list(range(FRAMES))
    shapes = plan_of(tmp_path / "shapes", tmp_path / "videos", sizes=((64, 64), (64, 32), (32, 64))).videos
    assert [(Path(video.path).stem, video.size) for video in shapes] == [("tall", (32, 64)), ("wide", (64, 32))]


def ffmpeg(*options: object) -> None:
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error", *map(str, options)], check=True)


def test_a_phones_video_stands_upright(tmp_path):
    pictures = numbered(FRAMES, size=(64, 32))
    pictures[:, :, :32] = 250  # left half bright
    imageio.imwrite(tmp_path / "flat.mp4", pictures, fps=FPS)
    ffmpeg("-display_rotation", 90, "-i", tmp_path / "flat.mp4", "-c", "copy", tmp_path / "turned.mp4")
    (found,) = read_clips(planned(tmp_path / "turned.mp4", 0, size=(32, 64)), frames=FRAMES, fps=Fraction(FPS))
    assert found.shape == (FRAMES, 64, 32, 3)
    assert found[:, 40:].min() > 200 > found[:, :24].max()  # turned counter-clockwise: left has become below


def test_pixels_that_are_not_square_are_shown_as_they_are_meant(tmp_path):
    write_video(tmp_path / "videos" / "flat.mp4", FRAMES, size=(64, 64))
    ffmpeg(
        "-i", tmp_path / "videos" / "flat.mp4", "-c", "copy", "-bsf:v", "h264_metadata=sample_aspect_ratio=2/1",
        tmp_path / "videos" / "wide.mp4",
    )  # fmt: skip
    for name in ("flat", "wide"):
        (tmp_path / "videos" / f"{name}.txt").write_text(CAPTION)
    plan = plan_of(tmp_path / "run", tmp_path / "videos", sizes=((64, 64), (64, 32)))
    assert {Path(video.path).stem: video.size for video in plan.videos} == {"flat": (64, 64), "wide": (64, 32)}


def test_an_hdr_video_is_refused_with_the_same_words_as_elsewhere(tmp_path, folder):
    tags = "transfer_characteristics=16:colour_primaries=9:matrix_coefficients=9"
    ffmpeg("-i", folder / "a.mp4", "-c", "copy", "-bsf:v", f"h264_metadata={tags}", folder / "hdr.mp4")
    (folder / "hdr.txt").write_text(CAPTION)
    with pytest.raises(MediaError) as elsewhere:
        open_clip(folder / "hdr.mp4")
    (problem,) = plan_of(tmp_path / "run", folder).problems
    assert f"{problem.path}: {problem.reason}" == str(elsewhere.value)
    assert problem.reason.startswith("is HDR (PQ)")


@pytest.mark.parametrize(
    ("codec", "name"),
    [
        (("libx264", "-flags", "+ildct+ilme", "-x264-params", "tff=1"), "interlaced.mp4"),
        (("apng", "-f", "apng"), "transparent.png"),
    ],
)
def test_interlaced_and_transparent_videos_are_learnt_as_a_clip_is_seen(tmp_path, codec, name):
    moving = np.zeros((FRAMES, 64, 64, 4), np.uint8)
    for number, picture in enumerate(moving):
        picture[0::2, 6 * number : 6 * number + 16] = 255
        picture[1::2, 6 * number + 3 : 6 * number + 19] = (255, 255, 255, 120)
    moving[:, :4] = (90, 200, 30, 0)
    (tmp_path / "raw").write_bytes(moving.tobytes())
    source = ("-f", "rawvideo", "-pix_fmt", "rgba", "-s", "64x64", "-r", FPS, "-i", tmp_path / "raw")
    ffmpeg(*source, "-c:v", *codec, tmp_path / name)
    (found,) = read_clips(planned(tmp_path / name, 0, size=(64, 64)), frames=FRAMES, fps=Fraction(FPS))
    clip = open_clip(tmp_path / name)
    assert np.array_equal(found, np.stack(list(clip.frames(Fraction(FPS)))))
    assert clip.view.interlaced == (name == "interlaced.mp4")


def test_many_captions_take_turns():
    few = PlannedVideo(path="x", captions=("a", "b", "c"), size=SIZE, starts=(0, 9))
    assert few.clips == ((0, "a"), (9, "b"), (0, "c"))
    assert replace(few, captions=("a",)).clips == ((0, "a"), (9, "a"))


# --- shards --------------------------------------------------------------------------------------------------------


@pytest.fixture
def two_per_shard(monkeypatch):
    monkeypatch.setattr(preparation, "SHARD_CLIPS", 2)


def prepared(folder: Path, source: Path, codec, text, **options: object) -> LatentClips:
    plan = plan_of(folder, source, text if isinstance(text, StoryText) else None)
    return prepare(folder, codec, text, videos=plan, device=CPU, **options)


def shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("clips-*.safetensors"))}


def test_a_shard_of_videos_holds_what_training_wants(tmp_path, folder, codec, text, two_per_shard):
    rows: list[dict[str, float]] = []
    told: list[str] = []
    clips = prepared(tmp_path / "run", folder, codec, text, report=rows.append, note=told.append)
    (bucket,) = clips.buckets
    assert (len(clips), clips.latent_frames) == (6, LATENT_FRAMES)
    assert bucket.x0.shape == (6, 24, LATENT_FRAMES, 8, 8)
    assert bucket.x0.dtype == torch.float16
    assert bucket.first_predictable_frame.tolist() == [0, 1] * 3
    assert torch.equal(bucket.rows, text.caption_rows([CAPTION] * 6))
    assert [row["clips"] for row in rows] == [2, 4, 6]
    assert {row["total"] for row in rows} == {6}
    assert told == ["3 videos, 6 clips"]
    batch = clips.batch(np.random.default_rng(0), 5, device=CPU, sprite_weight=4.0)
    assert batch.weight.unique().tolist() == [1]

    (first, _) = read_clips(planned(folder / "a.mp4", 0, 8, size=SIZE), frames=FRAMES, fps=Fraction(FPS))
    wanted = codec.encode_chunk(torch.from_numpy(first)[None], state=codec.encode_state())
    assert torch.equal(bucket.x0[torch.tensor([0])], wanted.half())


def test_what_is_joined_can_be_taken_from_as_if_it_were_one():
    whole = torch.arange(12).view(6, 2)
    joined = Joined(whole.split([1, 3, 2]))
    pick = torch.tensor([5, 0, 3, 3, 1, 4])
    assert (len(joined), joined.shape) == (6, (6, 2))
    assert torch.equal(joined[pick], whole[pick])


def test_videos_and_storybook_clips_are_learnt_together(tmp_path, folder, codec, text, two_per_shard):
    options = {"clips": 10, "switches": 1, "photos": 2, "latent_frames": 5, "long": 3, "long_latent_frames": 7}
    clips = prepared(tmp_path / "run", folder, codec, text, **options)
    assert {bucket.latent_frames: len(bucket.rows) for bucket in clips.buckets} == {2: 6, 5: 13, 7: 3}
    story = clips.buckets[1]
    assert (
        story.first_predictable_frame > 0
    ).sum() == 5  # a fifth of 10, the one that changes its prompt, two from photos
    assert (clips.buckets[2].first_predictable_frame == 0).all()


def test_few_storybook_clips_also_begin_late_at_times(tmp_path, codec, text):
    clips = prepare(tmp_path, codec, text, clips=7, latent_frames=5, device=CPU)
    assert len(clips) == 7
    assert clips.buckets[0].first_predictable_frame.tolist() == [0] * 7  # in parts of 2: the fifth would begin late
    clips = prepare(tmp_path / "more", codec, text, clips=10, latent_frames=5, device=CPU)
    assert [known > 0 for known in clips.buckets[0].first_predictable_frame.tolist()] == [False] * 8 + [True] * 2


def break_in_the_middle(path: Path) -> None:
    """Leave a video's index and its first seconds, and write noise over the rest."""
    noise = np.random.default_rng(0)
    imageio.imwrite(path, noise.integers(256, size=(48, 64, 64, 3), dtype=np.uint8), fps=FPS)
    data = bytearray(path.read_bytes())
    middle = (data.index(b"mdat") + len(data)) // 2
    data[middle:-4000] = noise.bytes(len(data) - 4000 - middle)
    path.write_bytes(data)


def test_what_breaks_while_it_is_read_is_listed_and_left_out_whole(tmp_path, folder, codec, text, two_per_shard):
    break_in_the_middle(folder / "b.mp4")
    for _ in range(2):  # the second time its shard is there already
        told: list[str] = []
        clips = prepared(tmp_path / "run", folder, codec, text, note=told.append)
        assert len(clips) == 4
        assert told[0] == "2 videos, 4 clips"
        assert (
            told[1].startswith("1 video left out and listed in ")
            and "b.mp4 (damaged at frame 22 (invalid data" in told[1]
        )
        assert (tmp_path / "run" / "damaged.txt").read_text().startswith(f"{folder / 'b.mp4'}\tdamaged at frame 22")
        (tmp_path / "run" / "damaged.txt").unlink()
    with pytest.raises(MediaError, match=r"1 of 3 videos cannot be used: .*b\.mp4"):
        plan = plan_of(tmp_path / "run", folder, text, damaged_share=0.3)
        prepare(tmp_path / "run", codec, text, videos=plan, device=CPU)


def test_clips_that_are_there_are_not_mixed_with_those_of_other_videos(tmp_path, folder, codec, text, clip):
    prepared(tmp_path / "run", folder, codec, text)
    before = shards(tmp_path / "run")
    add(folder, clip, "new")
    with pytest.raises(UsageError, match="run holds clips of other videos or of other settings"):
        prepared(tmp_path / "run", folder, codec, text)
    assert shards(tmp_path / "run") == before
    shutil.move(folder, tmp_path / "elsewhere")
    assert len(prepared(tmp_path / "run", folder, codec, text)) == 6  # the videos have gone, their clips are here


def test_videos_that_have_gone_stop_the_run_and_are_not_called_damaged(tmp_path, folder, codec, text):
    plan_of(tmp_path / "run", folder, text)
    shutil.move(folder, tmp_path / "elsewhere")
    with pytest.raises(MediaError, match=r"a\.mp4: has gone since its clips were planned; bring it back"):
        prepared(tmp_path / "run", folder, codec, text)
    assert not shards(tmp_path / "run")
    shutil.move(tmp_path / "elsewhere", folder)
    assert len(prepared(tmp_path / "run", folder, codec, text)) == 6


def test_the_wan_codec_takes_videos_of_its_own_rhythm(tmp_path, folder):
    statistics = {"latents_mean": [0.0] * 4, "latents_std": [1.0] * 4}
    shape = {"dim_mult": [1, 1, 2, 2], "temperal_downsample": [False, True, True]}
    codec = WanCodec(AutoencoderKLWan(base_dim=4, z_dim=4, num_res_blocks=1, **statistics, **shape))
    data = DataConfig(videos=str(folder), sizes=((48, 32),))
    plan = plan_videos(tmp_path / "run", data, codec.facts, fps=16.0, size=(832, 480), latent_frames=2)
    assert (plan.frames, plan.videos[0].starts) == (5, (0, 9, 18, 27))  # 1 + 4 pictures, of 32 at 16 a second
    table = encode_prompts(tmp_path / "prompts", plan.captions, LetterCount())
    (bucket,) = prepare(tmp_path / "run", codec, table, videos=plan, device=CPU).buckets
    assert bucket.x0.shape == (12, 4, 2, 4, 6)


def test_without_clips_training_says_what_to_run(tmp_path):
    with pytest.raises(UsageError, match="holds no clips; run stage prepare first"):
        LatentClips(tmp_path)


def test_a_damaged_shard_says_what_to_do(tmp_path):
    (tmp_path / "clips-00000.safetensors").write_bytes(b"not safetensors at all")
    with pytest.raises(ModelError, match=r"clips-00000.safetensors is damaged: .*; delete it"):
        LatentClips(tmp_path)


def test_storybook_clips_are_for_storybook_models_alone(tmp_path, codec):
    with pytest.raises(UsageError, match="pixel codec and storybook's own text"):
        prepare(tmp_path, codec, PromptTable(tmp_path), clips=1, device=CPU)


def test_a_run_that_was_killed_ends_in_the_same_shards(tmp_path, folder, codec, text, two_per_shard):
    options = {"clips": 3, "latent_frames": 5}
    prepared(tmp_path / "unbroken", folder, codec, text, **options)
    run, save, left = tmp_path / "killed", save_file, [2]

    def save_and_die(tensors: dict[str, Tensor], path: Path, **about: object) -> None:
        if not left[0]:
            path.write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1
        save(tensors, path, **about)

    child = os.fork()
    if not child:
        train_shards.save_file = save_and_die
        try:
            prepared(run, folder, codec, text, **options)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert len(shards(run)) == 2
    assert next(run.glob("*.new")).read_bytes() == b"half"
    prepared(run, folder, codec, text, **options)
    assert shards(run) == shards(tmp_path / "unbroken")
    assert not list(run.glob("*.new"))


@contextmanager
def little_room(room: int) -> Iterator[None]:
    """No file may grow past so many bytes, pytest's own output neither: what a full disk does, for this process."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_is_one_clear_line_and_leaves_no_half_shard(tmp_path):
    save_shard({"x": torch.zeros(10)}, tmp_path / "clips-00000.safetensors")
    with little_room(20_000), pytest.raises(OutputError) as failure:
        save_shard({"x": torch.zeros(20_000)}, tmp_path / "clips-00001.safetensors")
    line = str(failure.value)
    assert "clips-00001.safetensors: cannot be written: " in line and "File too large" in line
    assert "what was written before it is kept" in line and "\n" not in line
    assert [path.name for path in tmp_path.iterdir()] == ["clips-00000.safetensors"]


def test_a_folder_that_cannot_be_written_is_one_clear_line(tmp_path, folder):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="run: cannot be written: Not a directory"):
        plan_of(tmp_path / "file" / "run", folder)


# --- prompts -------------------------------------------------------------------------------------------------------


class LetterText:
    """A text encoder: a row of 8 features for each letter, then zeros."""

    def __init__(self) -> None:
        self.encoded: list[str] = []

    def encode(self, prompt: str, *, previous: EncodedPrompt | None = None, seed: int = 0) -> EncodedPrompt:
        self.encoded.append(prompt)
        rows = torch.tensor([float(ord(letter)) for letter in prompt]).unsqueeze(1).expand(-1, 8)
        return EncodedPrompt(prompt, torch.cat([rows, torch.zeros(20 - len(rows), 8)]).unsqueeze(0), (), prompt)

    def empty(self) -> Tensor:
        return self.encode("e").embeds


def test_prompts_are_encoded_once_and_more_can_be_added(tmp_path, monkeypatch):
    monkeypatch.setattr(prompt_table, "SHARD_PROMPTS", 2)
    text = LetterText()
    table = encode_prompts(tmp_path, ["a", "bb", "a", "ccc"], text)
    assert text.encoded == ["a", "bb", "e", "ccc"]
    encode_prompts(tmp_path, ["ccc", "a"], text)
    more = encode_prompts(tmp_path, ["dddd", "a"], text)
    assert text.encoded[4:] == ["dddd"]
    assert torch.equal(table.caption_rows(["ccc", "a"]), more.caption_rows(["ccc", "a"]))
    assert more.caption_rows(["dddd", "bb"]).tolist() == [[4], [2]]
    found = more(torch.cat([more.caption_rows(["dddd", "bb"]), more.empty_rows(1)]))
    assert torch.equal(found, torch.cat([text.encode(prompt).embeds for prompt in ("dddd", "bb", "e")]))
    with pytest.raises(UsageError, match="prompt 'zz' is not among the 4 that were prepared"):
        more.caption_rows(["zz"])


def test_a_prompt_run_that_was_stopped_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(prompt_table, "SHARD_PROMPTS", 2)
    names = ["a", "bb", "ccc", "dddd", "eeeee"]
    encode_prompts(tmp_path / "unbroken", names, LetterText())
    encode_prompts(tmp_path / "stopped", names, LetterText())
    for path in sorted((tmp_path / "stopped").iterdir())[1:]:
        path.unlink()
    encode_prompts(tmp_path / "stopped", names, LetterText())
    for path in (tmp_path / "unbroken").iterdir():
        assert path.read_bytes() == (tmp_path / "stopped" / path.name).read_bytes()


def test_features_that_are_not_finite_are_refused(tmp_path, monkeypatch):
    text = LetterText()
    monkeypatch.setattr(text, "empty", lambda: torch.full((1, 20, 8), torch.nan))
    with pytest.raises(NumericsError, match="not finite"):
        encode_prompts(tmp_path, ["a"], text)
    assert not list(tmp_path.iterdir())


def test_videos_are_learnt_under_encoded_prompts_too(tmp_path, folder, codec):
    plan = plan_of(tmp_path / "run", folder)
    table = encode_prompts(tmp_path / "prompts", ["unused", *plan.captions], LetterCount())
    clips = prepare(tmp_path / "run", codec, table, videos=plan, device=CPU)
    assert clips.buckets[0].rows.tolist() == [[2]] * 6


class LetterCount(LetterText):
    """One row, whatever the prompt."""

    def encode(self, prompt: str, *, previous: EncodedPrompt | None = None, seed: int = 0) -> EncodedPrompt:
        return EncodedPrompt(prompt, torch.full((1, 1, 8), float(len(prompt))), (), prompt)


# --- new words -----------------------------------------------------------------------------------------------------

NEW = {"subject": ["robot", "space bus"], "colour": ["silver"], "scene": ["kitchen"], "action": ["dances"]}


def test_a_new_word_begins_as_the_mean_of_its_slot_and_changes_no_other(text):
    more = text.with_words(NEW)
    known = text.rows([storybook.Story("car", "red", "snow", "turns into", "cat")])
    again = more.rows([storybook.Story("car", "red", "snow", "turns into", "cat")])
    assert torch.equal(text(known), more(again))
    assert torch.equal(text(text.empty_rows(1)), more(more.empty_rows(1)))
    robot = more(more.caption_rows(["a silver robot dances in the kitchen"]))[0]
    for slot, vector in zip(("subject", "colour", "scene", "action"), robot, strict=False):
        words = [row for name, row in text._rows[slot].items() if name]
        torch.testing.assert_close(vector, text.embed.weight[words].mean(dim=0))
    assert more.words["target"][-2:] == ["robot", "space bus"]
    assert text.with_words({}) is text
    assert more.with_words(NEW) is more


@pytest.mark.parametrize(
    ("prompt", "caption"),
    [
        ("A robot jumps in the snow", "a robot jumps in the snow"),
        ("two silver Robots are dancing in the kitchen", "a silver robot dances in the kitchen"),
        ("a cat turns into a robot in a kitchen", "a cat turns into a robot in the kitchen"),
        ("a red space bus danced", "a red space bus dances in the meadow"),
        ("a red car jumps", "a red car jumps on the street"),
        ("only the kitchen", "only the kitchen"),
    ],
)
def test_new_words_are_understood_in_every_form(text, prompt, caption):
    parsed = text.with_words(NEW).parse(prompt)
    assert parsed.story.caption() == caption
    assert not parsed.unknown


def test_a_story_goes_on_with_new_words(text):
    more = text.with_words(NEW)
    first = more.parse("a robot in the kitchen").story
    assert more.parse("it jumps", first).story.caption() == "a robot jumps in the kitchen"
    assert more.parse("it turns into a car", first).story.caption() == "a robot turns into a car in the kitchen"


def test_new_words_are_named_among_the_known_ones(text):
    encoder = StoryTextEncoder(text.with_words(NEW))
    assert encoder.encode("a robt").notes == ("'robt' is read as 'robot'",)
    (_, nobody) = encoder.encode("a volcano").notes
    assert nobody.endswith("butterfly and 2 more")


def test_the_built_in_words_alone_are_read_as_ever(text):
    assert text.lexicon.phrases == storybook.FIRST_LEXICON.phrases
    parsed = text.parse("a robot jumps")
    assert [(word.said, word.name) for word in parsed.shown_as] == [("robot", "man")]


def test_what_code_cannot_draw_says_so(text):
    story = text.with_words({"subject": ["gizmo"]}).parse("a gizmo jumps").story
    assert not storybook.held_out(story)
    with pytest.raises(ValueError, match="a gizmo jumps in the meadow: only the storybook's own words can be drawn"):
        storybook.render_indices(story, length=1, seed=0)


@pytest.mark.parametrize(
    ("word", "complaint"),
    [
        ("bunny", "the model knows it already, as subject rabbit"),
        ("red", "the model knows it already, as colour red"),
        ("Robot", "must be words of lower-case letters"),
        ("r2d2", "must be words of lower-case letters"),
        ("", "must be words of lower-case letters"),
    ],
)
def test_a_new_word_that_could_not_be_read_is_refused(text, word, complaint):
    with pytest.raises(UsageError, match=complaint):
        text.with_words({"subject": [word]})


def test_a_pack_carries_its_words(tmp_path):
    pipeline = load(tiny_pack(tmp_path / "tiny"), device="cpu")
    text = load_story_text(tmp_path / "tiny" / "text_encoder").with_words({"subject": ["gizmo"]})
    export_pack(tmp_path / "robots", pipeline.facts, student=pipeline.model, codec=pipeline.codec, text=text)  # type: ignore[arg-type]
    robots = load(tmp_path / "robots", device="cpu")
    stream = robots.stream("a gizmo jumps in the snow", length="4f", seed=1)
    assert stream.notes == ()
    assert stream.reading.caption() == "a gizmo jumps in the snow"  # type: ignore[attr-defined]
    assert next(stream).frames.shape[0] == 4
