"""English forms of verbs and nouns: what a prompt may say, and what a caption does."""

from __future__ import annotations


def verb_forms(verb: str) -> tuple[str, ...]:
    """jump -> jump, jumps, jumping, jumped; hop -> hops, hopping, hopped; move -> moving; fly -> flies."""
    vowels = "aeiou"
    if verb.endswith("e"):
        return verb, f"{verb}s", f"{verb[:-1]}ing", f"{verb}d"
    if verb.endswith("y") and verb[-2:-1] not in (*vowels, ""):
        return verb, f"{verb[:-1]}ies", f"{verb}ing", f"{verb[:-1]}ied"
    plural = f"{verb}es" if verb.endswith(("s", "sh", "ch", "x", "o")) else f"{verb}s"
    doubled = len(verb) > 2 and verb[-1] not in vowels + "wxy" and verb[-2] in vowels and verb[-3] not in vowels
    stem = verb + verb[-1] if doubled else verb
    # Doubling depends on the stress ("wander" does not double), so both spellings are known.
    return verb, plural, f"{stem}ing", f"{stem}ed", f"{verb}ing", f"{verb}ed"


_IRREGULAR = {
    "man": "men", "woman": "women", "child": "children", "mouse": "mice", "wolf": "wolves", "leaf": "leaves",
    "sheep": "sheep", "deer": "deer", "grapes": "grapes",
}  # fmt: skip


def plural_of(noun: str) -> str:
    """cat -> cats, fish -> fishes, butterfly -> butterflies, snowman -> snowmen."""
    for singular, plural in _IRREGULAR.items():
        if noun == singular or (singular == "man" and noun.endswith("man")):
            return noun.removesuffix(singular) + plural
    if noun.endswith("y") and noun[-2:-1] not in (*"aeiou", ""):
        return f"{noun[:-1]}ies"
    return f"{noun}es" if noun.endswith(("s", "sh", "ch", "x")) else f"{noun}s"


def third_person(verb: str) -> str:
    """jump -> jumps, fly -> flies, dash -> dashes."""
    return verb_forms(verb)[1]


def plain_verb(verb: str) -> str:
    """dances -> dance, washes -> wash, flies -> fly; dance stays dance."""
    if verb.endswith("ies") and len(verb) > 4:
        return f"{verb[:-3]}y"
    if verb.endswith(("shes", "ches", "xes", "sses", "oes")):
        return verb[:-2]
    return verb[:-1] if verb.endswith("s") and not verb.endswith("ss") else verb


def singulars(noun: str) -> tuple[str, ...]:
    """What a noun may be the plural of: puppies -> puppy, wolves -> wolf, boxes -> box, men -> man; none for "dog"."""
    for end, singular in (("ies", "y"), ("ves", "f"), ("men", "man")):
        if noun.endswith(end) and len(noun) > len(end):
            return noun.removesuffix(end) + singular, noun.removesuffix("s")
    if not noun.endswith("s") or noun.endswith("ss"):
        return ()
    return (noun[:-1], noun[:-2]) if noun.endswith("es") else (noun[:-1],)


def verb_stems(word: str) -> tuple[str, ...]:
    """What a word may be a form of: chasing -> chas, chase; hopped -> hopp, hop, hoppe; dances -> dance."""
    for end in ("ing", "ed", "ly"):
        if word.endswith(end) and len(word) > len(end) + 1:
            stem = word.removesuffix(end)
            return stem, f"{stem}e", stem[:-1] if stem[-1] == stem[-2] else stem
    return (plain_verb(word),)
