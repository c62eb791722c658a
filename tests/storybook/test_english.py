"""What prompts are read as: who does what to whom, where, in which order, and what of it is not shown."""

from __future__ import annotations

import csv
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from causvid_cli.prompt.story import StoryText
from causvid_cli.storybook import (
    ALL_WORDS,
    FIRST_LEXICON,
    FIRST_WORDS,
    LEXICON,
    PICTURE,
    SLOTS,
    Lexicon,
    parse,
    reword,
    sample_story,
)
from causvid_cli.storybook.kinds import is_english

PROMPTS = Path(__file__).parent / "prompts.tsv"


def summary(text: str) -> str:
    return parse(text).story.summary()


def test_what_new_users_type_is_read_right() -> None:
    rows = [row for row in csv.reader(PROMPTS.open(encoding="utf-8"), delimiter="\t") if not row[0].startswith("#")]
    wrong = [f"{prompt!r}: {found} for {told}" for prompt, told in rows if (found := summary(prompt)) != told]
    assert len(rows) >= 150
    assert len(wrong) <= 0.05 * len(rows), "\n".join(wrong)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("cyberpunk city, flying cars", "3 cars, moves right, street"),
        ("a plumber underwater", "man, stays still, underwater"),
        ("a plumber waves", "man, waves, street"),
        ("steampunk flying ship", "ship, moves right, sea"),
        ("pikachu runs in a meadow", "man, moves right, meadow"),
        ("plz draw a dog", "dog, stays still, meadow"),
        ("vaporwave, dancing cat", "cat, dances, street"),
        ("a cat crept up on a mouse", "cat, moves right, follows a mouse, street"),
        ("a bird flies up on the beach", "bird, flies up, beach"),
        ("a red ferrari speeding down the highway", "red car, moves right, road"),
        ("a car speeding up", "car, moves right, street"),
        ("the moon rises over the sea", "only sea, night"),
        ("a cat on the moon", "cat, stays still, space"),
        ("a boy looks up at the stars", "boy, stays still, space"),
        ("a woman walks down the street, looking at her phone", "woman, moves right, street"),
        ("a girl dances and poses", "girl, dances, meadow"),
        ("two cats watch a bird", "cat, stays still, left of a bird, street"),
        ("a car splashes through a puddle", "car, moves right, lake"),
    ],
)
def test_words_are_read_by_what_stands_beside_them(text: str, read: str) -> None:
    assert summary(text) == read
    assert not parse(text).shots


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("a boat on a blue sea", "boat, stays still, sea"),
        ("a red car chases a blue cat", "red car, moves right, chases a blue cat, street"),
        ("the bird is blue", "blue bird, stays still, forest"),
        ("a man in a black coat walks", "man, moves right, street"),
        ("a white clock to the left of an orange", "white clock, stays still, left of an orange fruit, room"),
        ("a mouse is followed by a cat", "cat, moves right, follows a mouse, street"),
    ],
)
def test_colours_belong_to_the_noun_behind_them_and_nouns_to_their_verb(text: str, read: str) -> None:
    assert summary(text) == read


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("a dog is not jumping", "dog, stays still, meadow"),
        ("a dog isn't jumping but spins", "dog, spins, meadow"),
        ("a man without a hat", "man, stays still, street"),
        ("a beach with no people", "only beach"),
        ("no rain, only a street", "only street"),
    ],
)
def test_what_is_denied_is_not_shown(text: str, read: str) -> None:
    parsed = parse(text)
    assert (parsed.story.summary(), parsed.unused, parsed.unknown) == (read, (), ())


@pytest.mark.parametrize(
    ("text", "shots"),
    [
        ("a dog runs left, then jumps", ("a dog runs left", "then jumps")),
        ("a cat runs left and then right", ("a cat runs left", "and then right")),
        ("A girl stops. She waves.", ("A girl stops", "She waves")),
        (
            "a man crosses the street and then writes in his notebook",
            ("a man crosses the street", "and then writes in his notebook"),
        ),
        ("a dog runs, then jumps, on the beach", ("a dog runs on the beach", "then jumps, on the beach")),
        ("a cat jumps, then a dog spins", ("a cat jumps", "then a dog spins")),
        ("a man walks while reading a book", ()),
        ("a small dog jumps and jumps", ()),
        (
            "a dog jumps in the kitchen, then it eats at night",
            ("a dog jumps in the kitchen at night", "then it eats at night"),
        ),
    ],
)
def test_actions_that_follow_each_other_become_prompts(text: str, shots: tuple[str, ...]) -> None:
    assert parse(text).shots == shots


CHANGES_NOTHING = Lexicon.of({**ALL_WORDS, "action": tuple(a for a in ALL_WORDS["action"] if a != "turns into")})


@pytest.mark.parametrize(
    ("text", "shots"),
    [
        (
            "a paper airplane turns into a swan on the lake",
            ("a paper airplane stays still at the lake", "a swan stays still at the lake"),
        ),
        (
            "a red car drives left, then turns into a boat at sunset",
            ("a red car drives left at sunset", "a boat stays still on the street at sunset"),
        ),
        (
            "a cat turns into a dog on the left",
            ("a cat stays still on the street", "a dog stays still on the street"),
        ),
        ("it turns into a swan", ()),
        ("a red car jumps", ()),
    ],
)
def test_to_a_pack_that_changes_nothing_a_change_is_another_shot(text: str, shots: tuple[str, ...]) -> None:
    assert parse(text, lexicon=CHANGES_NOTHING).shots == shots
    for shot in shots:
        assert parse(shot, lexicon=CHANGES_NOTHING).shots == ()


STANDS = [name for name in ALL_WORDS["action"] if name not in ("grows", "shrinks", "falls")]
NOTHING_GROWS = Lexicon.of({**ALL_WORDS, "action": tuple(STANDS)})


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("a brown dog grows in the snow", ("small", "normal", "big")),
        ("a brown dog shrinks in the snow", ("big", "normal", "small")),
        ("a big brown dog grows in the snow", ("small", "normal", "big")),
    ],
)
def test_to_a_pack_in_which_nothing_grows_it_is_a_shot_for_each_size(text: str, sizes: tuple[str, ...]) -> None:
    shots, story = parse(text, lexicon=NOTHING_GROWS).shots, None
    for shot, size in zip(shots, sizes, strict=True):
        story = parse(shot, story, NOTHING_GROWS).story
        assert (story.size, story.subject, story.colour, story.scene) == (size, "dog", "brown", "snow")
        assert story.action == "stays still"
    assert parse(text).shots == ()  # to one in which it does
    then = parse("a brown dog jumps, then grows", lexicon=NOTHING_GROWS)
    assert (then.story.action, then.not_shown) == ("jumps", ())


def test_what_falls_lands_where_a_pack_cannot_let_it_lie() -> None:
    told = parse("an apple falls", lexicon=NOTHING_GROWS)
    assert told.story.action == "lands"
    assert [(word.name, word.said) for word in told.shown_as] == [("lands", "falls")]
    assert parse("it grows", told.story, NOTHING_GROWS).not_shown == ("grows",)


def test_what_stands_there_becomes_something_in_one_shot_and_what_is_not_told_is_named() -> None:
    """To a pack that changes nothing, as a later cue."""
    before = parse("a cat sits in the snow").story
    for text in ("it turns into a swan", "the cat turns into a swan", "a cat turns into a swan"):
        told = parse(text, before, CHANGES_NOTHING)
        assert (told.story, told.shots, told.unused) == (replace(before, subject="swan"), (), ())
    other = parse("the dog turns into a swan", before, CHANGES_NOTHING)
    assert (other.story.subject, len(other.shots), other.unused) == ("dog", 2, ("turns into",))
    two = parse("two small brown dogs run left").story
    assert parse("the dogs turn into a swan", two, CHANGES_NOTHING).story.subject == "swan"


@pytest.mark.parametrize(
    "told",
    [
        (
            ("it jumps", "it, jumps"),
            ("it spins on the beach", "it, spins, beach"),
            ("then it falls", "it, falls, beach"),
        ),
        (("the quokkaz dances", "it, dances"), ("they swim slowly", "it, swims slowly")),
        (("a dog jumps", "dog, jumps"), ("it spins", "dog, spins"), ("it is raining", "dog, spins, rain")),
        (("at night", "it, stays still, night"), ("", "it, stays still, night")),
    ],
)
def test_a_prompt_may_leave_who_and_where_to_a_picture_before_it(told: tuple[tuple[str, str], ...]) -> None:
    story = PICTURE
    for text, read in told:
        story = parse(text, story).story
        assert (story.summary(), story.seen) == (read, True)
        assert parse(story.caption(), PICTURE).story == story
        assert StoryText.for_vocabulary().rows([story]).shape == (1, len(SLOTS))


def test_who_is_new_after_a_picture_is_a_shot_that_tells_all() -> None:
    for first in ("it jumps", "a dog jumps"):
        story = parse("a cat runs left", parse(first, PICTURE).story).story
        assert (story.summary(), story.seen, story.sky) == ("cat, moves left, street", False, "day")
    assert parse("only the beach", PICTURE).story.summary() == "only beach"
    assert parse("it jumps", parse("the meadow").story).story.summary() == "only meadow"  # no picture shows who


def test_a_later_prompt_keeps_who_is_meant() -> None:
    story = parse("two small brown dogs run left on the beach at sunset").story
    for text in ("they jump", "then jump", "and they jump"):
        assert parse(text, story).story == replace(story, action="jumps")
    assert parse("then a cat jumps", story).story.summary() == "cat, jumps, beach, sunset"
    assert parse("a dog jumps", story).story.colour == "natural"  # another one
    assert parse("the dog jumps", story).story.colour == "brown"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a labradoodle", None),
        ("a spaniel runs", "dog"),
        ("a sedan", "car"),
        ("a hummingbird", "bird"),
        ("a violin", "guitar"),
        ("Yoda dances", "man"),
    ],
)
def test_a_noun_outside_the_vocabulary_goes_to_the_nearest_kind(text: str, shown: str | None) -> None:
    parsed = parse(text)
    assert parsed.story.subject == shown
    assert [word.name for word in parsed.shown_as] == ([shown] if shown else [])


@pytest.mark.parametrize(
    ("text", "read", "shown", "lost"),
    [
        ("a puppy runs", "cat, moves right, street", {"puppy": "cat"}, ()),
        ("an elephant on the beach", "mammoth, stays still, sea", {"elephant": "mammoth", "beach": "sea"}, ()),
        ("a truck at night", "car, stays still, night city", {"truck": "car"}, ()),
        ("a woman eats quickly", "man, stays still, street", {"woman": "man"}, ("quickly", "eats")),
        ("a brown mammoth", "mammoth, stays still, snow", {}, ()),
        ("a black cat", "cat, stays still, street", {}, ("black",)),
        ("two cats in the rain", "cat, stays still, street", {}, ("rain", "two")),
        ("a volcano", "only meadow", {}, ("volcano",)),
    ],
)
def test_a_smaller_pack_shows_what_is_nearest_and_says_so(
    text: str, read: str, shown: dict[str, str], lost: tuple[str, ...]
) -> None:
    parsed = parse(text, None, FIRST_LEXICON)
    assert parsed.story.summary() == read
    assert {word.said: word.name for word in parsed.shown_as} == shown
    assert set(parsed.not_shown) == set(lost)


def test_every_subject_of_the_world_is_named_or_shown_by_a_smaller_pack() -> None:
    nearest = {name: FIRST_LEXICON.shown("subject", name, name) for name in ALL_WORDS["subject"]}
    assert all(nearest[name] == name for name in FIRST_WORDS["subject"])
    assert {nearest[name] for name in ("dog", "woman", "ship", "airplane", "bus", "eagle", "shark")} == {
        "cat", "man", "boat", "paper airplane", "car", "bird", "fish",
    }  # fmt: skip
    few = Lexicon.of({**FIRST_WORDS, "subject": ("dog", "squirrel", "truck")})
    assert [few.shown("subject", name, name) for name in ("wolf", "mouse", "bus", "apple")] == [
        "dog", "squirrel", "truck", None,
    ]  # fmt: skip


def test_misspelled_words_are_read_and_named() -> None:
    parsed = parse("a buterfly and an elefant in the gardn")
    assert {word.said: word.name for word in parsed.corrected} == {
        "buterfly": "butterfly", "elefant": "elephant", "gardn": "garden",
    }  # fmt: skip
    assert parsed.story.summary() == "butterfly, stays still, left of an elephant, meadow"
    assert parse("a dgo runs").unknown == ("dgo",)  # three letters could be anything
    assert parse("a bear in the bored room").corrected == ()  # a word of English is no misspelling
    assert is_english("chasing") and is_english("puppies") and not is_english("buterfly")


def test_emoji_are_read_by_their_names() -> None:
    assert summary("\N{DOG FACE} runs on the \N{BEACH WITH UMBRELLA}\ufe0f") == "dog, moves right, beach"
    assert summary("\N{AUTOMOBILE}\N{NIGHT WITH STARS}") == "car, stays still, night city"
    parsed = parse("\N{GRINNING FACE} a cat")
    assert parsed.unknown == ("\N{GRINNING FACE}",) and parsed.story.subject == "cat"


OTHER_LANGUAGES = (
    "un perro corre por la playa",
    "ein Hund rennt \u00fcber die Wiese",
    "\u0441\u043e\u0431\u0430\u043a\u0430 \u0431\u0435\u0436\u0438\u0442 \u043f\u043e \u043f\u043b\u044f\u0436\u0443",
    "\u4e00\u53ea\u72d7 \u5728\u6d77\u6ee9\u4e0a \u5954\u8dd1",
)


@pytest.mark.parametrize("text", OTHER_LANGUAGES)
def test_other_languages_are_told_from_unknown_words(text: str) -> None:
    parsed = parse(text)
    assert not parsed.is_english and parsed.corrected == ()
    assert parse("a frobnicating cat in the wibble").is_english


def test_contradictions_are_left_out_by_the_users_own_words() -> None:
    assert parse("a car goes left and right").unused == ("right",)
    assert parse("a cat by day at midnight").unused == ("midnight",)
    parsed = parse(
        "a cat, a dog, a horse, a cow, a pig, a sheep, a goat, a fox, a wolf, a lion, a tiger and a bear walk"
    )
    assert parsed.story.summary() == "cat, moves right, left of a dog, street"
    assert len(parsed.unused) == 10


@pytest.mark.parametrize(("words", "lexicon"), [(FIRST_WORDS, FIRST_LEXICON), (ALL_WORDS, LEXICON)])
def test_every_way_to_say_a_story_is_read_as_that_story(words, lexicon) -> None:
    for seed in range(1000):
        rng = np.random.default_rng(seed)
        story = replace(sample_story(rng, words), mirrored=None)
        for text in (reword(story, rng), story.caption(), story.summary()):
            parsed = parse(text, None, lexicon)
            assert parsed.story == story, text
            assert (parsed.unknown, parsed.unused, parsed.corrected, parsed.shots) == ((), (), (), ()), text


def test_hostile_text_is_read_in_linear_time() -> None:
    rng = np.random.default_rng(0)
    known = [" ".join(phrase) for phrase in LEXICON.phrases]
    marks = list(".,!?;:\n\t'\"-()&0123456789\N{DOG FACE}\ufe0f\u0441\u043e\u0431\u0130")
    texts = ["".join(map(chr, rng.integers(0, 0x110000, size=40))) for _ in range(300)]
    texts += [" ".join(rng.choice(known, size=20)) for _ in range(300)]
    texts += ["".join(rng.choice(marks, size=60)) for _ in range(300)]
    previous = None
    for text in texts:
        previous = parse(text, previous).story
    parts = (
        "then jumps ",
        "a cat jumps, then ",
        "dog and ",
        "not ",
        "blue ",
        "\N{DOG FACE}",
        "x-",
        "zebra's ",
        "dogg ",
    )
    for part in parts:
        before = time.process_time()
        parse(part * 2000, previous)
        assert time.process_time() - before < 10, part  # a tenth of a second; what is quadratic takes minutes
