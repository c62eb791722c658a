import pytest
import torch
from tiny import SHAPE

from causvid_cli.errors import UsageError
from causvid_cli.geometry import Chunk
from causvid_cli.network.cache import PromptCache
from causvid_cli.prompt.cues import Cue, check_cues
from causvid_cli.prompt.story import StoryText, StoryTextEncoder
from causvid_cli.prompt.track import PromptTrack
from causvid_cli.storybook import ALL_WORDS, Story, render_indices

CAR, CAT = "a red car moves left in the snow", "a blue cat jumps in the forest"
BOAT = "a red boat stays still on the sea"


@pytest.fixture(scope="module")
def text():
    torch.manual_seed(0)
    return StoryTextEncoder(StoryText.for_vocabulary(dim=SHAPE.text_dim))


def track_of(text, *cues, **options):
    return PromptTrack(text, cues, to_cache=PromptCache, **{"seed": 1, "guidance": 1.5, **options})


def told(track, chunks):
    return [track.prompt(Chunk(index, 2 * index, 2)) for index in range(chunks)]


def features(text, prompt):
    return text.encode(prompt).embeds


def test_a_cue_holds_from_its_chunk_until_the_next(text):
    made = told(track_of(text, Cue(prompt=CAR), Cue(prompt=CAT, start_chunk=2), Cue(prompt=BOAT, start_chunk=5)), 6)
    for prompt, chunks in ((CAR, made[:2]), (CAT, made[2:5]), (BOAT, made[5:])):
        assert all(torch.equal(chunk.embeds, features(text, prompt)) for chunk in chunks)


def test_as_long_as_the_prompt_is_the_same_it_is_the_same_object(text):
    made = told(track_of(text, Cue(prompt=CAR), Cue(prompt=CAT, start_chunk=2)), 4)
    assert made[0] is made[1] and made[2] is made[3] and made[1] is not made[2]


def test_a_blend_slides_evenly_and_ends_at_the_new_prompt(text):
    old, new = features(text, CAR), features(text, CAT)
    made = told(track_of(text, Cue(prompt=CAR), Cue(prompt=CAT, start_chunk=1, blend_chunks=3)), 6)
    for chunk, weight in zip(made, (0, 0.25, 0.5, 0.75, 1, 1), strict=True):
        assert torch.allclose(chunk.embeds, torch.lerp(old, new, weight), atol=1e-6)
    assert made[4] is made[5]


def test_a_blend_that_a_cue_cuts_short_goes_on_from_where_it_was(text):
    cues = Cue(prompt=CAR), Cue(prompt=CAT, start_chunk=1, blend_chunks=3), Cue(prompt=BOAT, start_chunk=3)
    made = told(track_of(text, *cues, Cue(prompt=CAR, start_chunk=4, blend_chunks=1)), 6)
    half = torch.lerp(features(text, CAR), features(text, CAT), 0.5)
    assert torch.allclose(made[2].embeds, half, atol=1e-6)
    assert torch.equal(made[3].embeds, features(text, BOAT))
    assert torch.allclose(made[4].embeds, torch.lerp(features(text, BOAT), features(text, CAR), 0.5), atol=1e-6)


def test_strength_is_how_far_a_prompt_replaces_the_one_before(text):
    made = told(track_of(text, Cue(prompt=CAR, strength=0.1), Cue(prompt=CAT, start_chunk=1, strength=0.25)), 2)
    assert torch.equal(made[0].embeds, features(text, CAR))
    assert torch.allclose(made[1].embeds, torch.lerp(features(text, CAR), features(text, CAT), 0.25), atol=1e-6)


def test_a_cues_seed_holds_until_another(text):
    track = track_of(text, Cue(prompt=CAR), Cue(prompt=CAT, start_chunk=1, seed=7), Cue(prompt=BOAT, start_chunk=3))
    assert [track.seed(Chunk(index, 0, 1)) for index in range(5)] == [1, 7, 7, 7, 7]


def test_what_a_negative_prompt_leaves_unsaid_is_as_in_the_prompt(text):
    track = track_of(text, Cue(prompt=CAR, negative="the forest"), Cue(prompt=CAT, start_chunk=1))
    with_negative, without = told(track, 2)
    assert torch.equal(with_negative.negative.embeds, features(text, "a red car moves left in the forest"))
    assert with_negative.guidance == 1.5
    assert without.negative is None


def test_a_prompt_added_on_the_way_holds_from_the_next_chunk_on(text):
    track = track_of(text, Cue(prompt=CAR), Cue(prompt=BOAT, start_chunk=4))
    told(track, 2)
    track.add(CAT, transition="soft")
    made = [track.prompt(Chunk(index, 0, 1)).embeds for index in range(2, 5)]
    for got, prompt in zip(made, (CAT, CAT, BOAT), strict=True):
        assert torch.equal(got, features(text, prompt))
    assert track.cues[1] == Cue(prompt=CAT, start_chunk=2, transition="soft")
    assert track.transition(Chunk(3, 0, 1)) == "soft"


def test_a_later_prompt_keeps_what_it_does_not_say(text):
    track = track_of(text, Cue(prompt=CAR), Cue(prompt="it jumps", start_chunk=1))
    assert torch.equal(told(track, 2)[1].embeds, features(text, "a red car jumps in the snow"))


def test_after_a_picture_whoever_it_shows_goes_on_and_nothing_cuts_until_another_comes(text):
    knows = StoryTextEncoder(StoryText.for_vocabulary(dim=SHAPE.text_dim, pictures=True))
    assert text.picture() is None and knows.picture() is not None
    prompts = ["the quokkaz jumps", "it spins on the beach", "at night", "a cat runs left", "it jumps"]
    cues = [Cue(prompt=prompt, start_chunk=start) for start, prompt in enumerate(prompts)]
    track = track_of(knows, *cues, cuts=True, before=knows.picture())
    assert track.transitions == ("recache", "recache", "cut", "cut")
    assert track.read_as[:2] == ("it, jumps", "it, spins, beach")
    assert track.notes == ("'the quokkaz jumps': 'quokkaz' is not a word that this model knows",)
    described = ("a dog jumps", "the brown dog spins on the beach", "a small dog jumps", "a dog runs left at night")
    cues = [Cue(prompt=prompt, start_chunk=start) for start, prompt in enumerate(described)]
    track = track_of(knows, *cues, cuts=True, before=knows.picture())
    assert track.transitions == ("recache",) * 3  # said of who is there already, where that is
    named = track_of(
        knows, Cue(prompt="a dog jumps"), Cue(prompt="it spins", start_chunk=1), before=knows.picture(), cuts=True
    )
    assert (named.read_as, named.transitions) == (("dog, jumps", "dog, spins"), ("recache",))
    assert track_of(text, Cue(prompt="it jumps"), before=text.picture()).read_as == ("only meadow",)


def test_after_a_clip_that_is_known_a_prompt_may_leave_it_unsaid_and_another_shot_begins_anew():
    knows = StoryTextEncoder(StoryText.for_vocabulary(dim=SHAPE.text_dim, pictures=True))
    before = knows.encode("a brown dog stands on the beach", seed=1)
    jumps = track_of(knows, Cue(prompt="it jumps"), before=before, cuts=True)
    assert (jumps.read_as, jumps.begins_anew) == (("brown dog, jumps, beach",), True)
    assert not track_of(knows, Cue(prompt="it stands still"), before=before, cuts=True).begins_anew
    assert not track_of(knows, Cue(prompt="it jumps", transition="soft"), before=before, cuts=True).begins_anew
    assert not track_of(knows, Cue(prompt="it jumps"), before=before).begins_anew  # a model without shots
    assert not track_of(knows, Cue(prompt="only the sea"), before=knows.picture(), cuts=True).begins_anew


@pytest.mark.parametrize(
    ("prompt", "read_as", "anew"),
    [
        ("it jumps", "cat, jumps, beach, sunset", True),
        ("a cat jumps", "cat, jumps, beach, sunset", True),
        ("a grey cat meets a dog", "grey cat, stays still, meets a dog, beach, sunset", True),
        ("a dog jumps", "dog, jumps, beach, sunset", False),
        ("a dog jumps on the beach at sunset", "dog, jumps, beach, sunset", False),
        ("a dog jumps in the forest", "dog, jumps, forest, sunset", True),
        ("a dog jumps in the rain", "dog, jumps, beach, rain", True),
        ("only the beach", "only beach, sunset", True),
        ("it jumps in the rain", "cat, jumps, beach, rain", True),
        ("snow falls", "cat, stays still, beach, snowing", True),
        ("it grows big and plays", "cat, grows, beach, sunset", True),
    ],
)
def test_where_a_picture_is_may_be_left_unsaid_and_who_is_known_or_elsewhere_is_a_new_shot(prompt, read_as, anew):
    knows = StoryTextEncoder(StoryText.for_vocabulary(dim=SHAPE.text_dim, pictures=True))
    beach = Story("cat", "natural", "beach", "stays still", sky="sunset", mirrored=True)
    (shown,), _ = render_indices(beach, length=1, seed=0)
    track = track_of(knows, Cue(prompt=prompt), before=knows.picture(shown), cuts=True)
    assert (track.read_as, track.begins_anew) == ((read_as,), anew)
    elsewhere = track_of(
        knows, Cue(prompt="a dog runs"), Cue(prompt="the dog runs in the forest", start_chunk=1),
        before=knows.picture(shown), cuts=True,
    )  # fmt: skip
    assert (elsewhere.begins_anew, elsewhere.transitions) == (False, ("cut",))
    if not prompt.startswith("only") and read_as.endswith("beach, sunset"):  # it faces as the picture does
        bare = knows.bare(track.current.embeds)
        assert torch.equal(bare, knows.bare(knows.text(knows.text.rows([beach]))))


@pytest.mark.parametrize(
    ("prompt", "anew"),
    [
        ("two cats jump", True),
        ("two cats stay still at sea", True),
        ("three cats jump", False),
        ("two dogs jump", False),
        ("it jumps", False),
    ],
)
def test_of_several_in_a_picture_the_prompt_tells_who_they_are(prompt, anew):
    knows = StoryTextEncoder(StoryText.for_vocabulary(dim=SHAPE.text_dim, pictures=True))
    cats = Story("cat", "natural", "sea", "jumps", count=2, mirrored=False)
    (shown,), _ = render_indices(cats, length=1, seed=0, start=9)
    track = track_of(knows, Cue(prompt=prompt), before=knows.picture(shown), cuts=True)
    assert (track.begins_anew, track.read_as[0].endswith("sea")) == (anew, True)
    soft = Cue(prompt=prompt, transition="soft")
    assert not track_of(knows, soft, before=knows.picture(shown), cuts=True).begins_anew


def test_what_else_a_picture_shows_is_left_out_and_that_is_told():
    knows = StoryTextEncoder(StoryText.for_vocabulary(dim=SHAPE.text_dim, pictures=True))
    cat = Story("cat", "natural", "beach", "plays", mirrored=False)
    (shown,), _ = render_indices(cat, length=1, seed=0)
    alone = track_of(knows, Cue(prompt="it jumps"), before=knows.picture(shown), cuts=True)
    assert (alone.begins_anew, alone.notes) == (True, ())
    for prompt in ("the cat meets a dog", "two cats jump", "a big red cat sleeps"):  # there is one cat, and no more
        assert track_of(knows, Cue(prompt=prompt), before=knows.picture(shown), cuts=True).notes == ()
    shown[6:18, 4:14] = 20  # a kite
    with_kite = track_of(knows, Cue(prompt="it jumps"), before=knows.picture(shown), cuts=True)
    assert with_kite.begins_anew
    assert with_kite.notes == ("what else the picture shows is left out: what follows is drawn from the prompt",)


def test_after_a_picture_words_of_a_models_own_are_gone_on_with():
    own = {**ALL_WORDS, "subject": ("cat", "robby"), "other": ("cat", "robby"), "colour": ("natural", "teal")}
    knows = StoryTextEncoder(StoryText.for_vocabulary(own, dim=SHAPE.text_dim, pictures=True))
    cats = Story("cat", "natural", "sea", "jumps", count=2, mirrored=False)
    (shown,), _ = render_indices(cats, length=1, seed=0)
    for prompt in ("two robbys jump", "a robby waves", "two teal cats jump", "a cat meets a robby"):
        assert not track_of(knows, Cue(prompt=prompt), before=knows.picture(shown), cuts=True).begins_anew


def test_what_a_prompt_leaves_unsaid_of_who_a_picture_shows_is_as_the_picture_has_it():
    knows = StoryTextEncoder(StoryText.for_vocabulary(ALL_WORDS, dim=SHAPE.text_dim, pictures=True))
    big = Story("cat", "red", "beach", "stays still", size="big", mirrored=True)
    (shown,), _ = render_indices(big, length=1, seed=0)
    told = {
        "it jumps": "big red cat, jumps, beach",
        "the cat jumps": "big red cat, jumps, beach",
        "the blue cat jumps": "big blue cat, jumps, beach",
        "the dog jumps": "dog, jumps, beach",
    }
    for prompt, read_as in told.items():
        assert track_of(knows, Cue(prompt=prompt), before=knows.picture(shown), cuts=True).read_as == (read_as,)


def test_the_same_place_faces_the_same_way_under_another_seed():
    knows = StoryTextEncoder(StoryText.for_vocabulary(dim=SHAPE.text_dim))
    before = knows.encode("a dog stands on the beach", seed=1)
    other = next(
        seed
        for seed in range(2, 20)
        if knows.encode("a dog", seed=seed).reading != knows.encode("a dog", seed=1).reading
    )
    assert knows.encode("it jumps", previous=before, seed=other).reading.mirrored == before.reading.mirrored
    elsewhere = knows.encode("it jumps in the snow", previous=before, seed=other)
    assert elsewhere.reading.mirrored != before.reading.mirrored


def test_words_that_are_not_known_are_noted_of_every_cue(text):
    track = track_of(text, Cue(prompt=CAR), Cue(prompt="a zeppelin", start_chunk=1, negative="a gargoyle"))
    assert any("zeppelin" in note for note in track.notes) and any("gargoyle" in note for note in track.notes)


@pytest.mark.parametrize(
    ("cues", "message"),
    [
        ([], "first cue at time 0"),
        ([Cue(prompt=CAR, start_chunk=1)], "first cue at time 0"),
        (
            [Cue(prompt=CAR), Cue(prompt=CAT, start_chunk=2), Cue(prompt=BOAT, start_chunk=2)],
            "two cues fall on chunk 2",
        ),
    ],
)
def test_cues_begin_at_0_and_rise(cues, message):
    with pytest.raises(UsageError, match=message):
        check_cues(cues)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": " "}, "prompt is empty"),
        ({"transition": "fade"}, "transition fade: unknown; try recache, soft or cut"),
        ({"transition": "cut", "blend_chunks": 1}, "blend and transition cut contradict"),
        ({"strength": 1.5}, "strength 1.5: must be 0 to 1"),
        ({"strength": float("nan")}, "must be 0 to 1"),
        ({"seed": -1}, "--seed -1"),
    ],
)
def test_a_cue_that_contradicts_itself_is_refused(fields, message):
    with pytest.raises(UsageError, match=message):
        Cue(**{"prompt": CAR, **fields})


def test_nobody_draws_a_bare_scene_that_is_left_to_a_picture():
    knows = StoryTextEncoder(StoryText.for_vocabulary(dim=SHAPE.text_dim, pictures=True))
    for prompt in ("it jumps", "a dog jumps on the beach"):
        assert knows.bare(knows.encode(prompt, previous=knows.picture()).embeds).isnan().all()
    assert not knows.bare(knows.encode("a dog jumps on the beach").embeds).isnan().any()
