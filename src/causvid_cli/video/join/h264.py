"""H.264 as MP4 and Matroska hold it: parameter sets in the track's header, NAL units behind their lengths.

The header is the AVCDecoderConfigurationRecord of ISO/IEC 14496-15; NAL units and parameter sets: ITU-T H.264, 7.3.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

SPS, PPS = 7, 8
"""Types of NAL units: parameter sets of a sequence and of a picture."""
MOST_SETS = 31
"""Sequence parameter sets that a track's header can count."""
_START_CODE = re.compile(b"\0\0\1")
_PLAIN_PROFILES = (66, 77, 88)  # Baseline, Main, Extended: their headers end without the chroma format


@dataclass(frozen=True, slots=True)
class ParameterSets:
    """What a decoder must know before the first frame. length_size: bytes of a NAL unit's length; 0: start codes."""

    sps: tuple[bytes, ...]
    pps: tuple[bytes, ...]
    length_size: int = 4

    @property
    def profile(self) -> int:
        return self.sps[0][1]

    @property
    def ids(self) -> frozenset[int]:
        """The numbers that are taken, by either kind of set."""
        return frozenset([_golomb(unit, 4) for unit in self.sps] + [_golomb(unit, 1) for unit in self.pps])

    def add(self, other: "ParameterSets") -> "ParameterSets":
        """Return these sets, then those of `other` that are not among them."""
        return ParameterSets(_union(self.sps, other.sps), _union(self.pps, other.pps), self.length_size)

    def header(self) -> bytes:
        """Return the header of a track that holds all of them, with lengths of 4 bytes.

        Its profile is the first set's, its constraints those that hold for all, its level the highest.
        """
        compatible = 0xFF
        for unit in self.sps:
            compatible &= unit[2]
        level = max(unit[3] for unit in self.sps)
        header = bytes([1, self.profile, compatible, level, 0xFC | 3, 0xE0 | len(self.sps)])
        header += b"".join(len(unit).to_bytes(2) + unit for unit in self.sps)
        header += bytes([len(self.pps)]) + b"".join(len(unit).to_bytes(2) + unit for unit in self.pps)
        return header if self.profile in _PLAIN_PROFILES else header + b"\xfd\xf8\xf8\0"  # 4:2:0, 8 bits, 8 bits, none

    def in_band(self) -> bytes:
        """Return the sets as they go in front of a key frame."""
        return with_lengths([*self.sps, *self.pps])


def parse_header(data: bytes) -> ParameterSets:
    """Return the parameter sets of a track's header, MP4's or with start codes. Raises ValueError for another."""
    if data[:1] == b"\1":
        return _parse_record(data)
    sets = sets_among(units(data, 0))
    if not sets.sps or not sets.pps:
        raise ValueError("the header of its H.264 holds no parameter sets")
    return ParameterSets(sets.sps, sets.pps, 0)


def _parse_record(data: bytes) -> ParameterSets:
    kinds: list[tuple[bytes, ...]] = []
    at = 5
    for mask in (0x1F, 0xFF):
        found, count = [], data[at] & mask if at < len(data) else 0
        at += 1
        for _ in range(count):
            size = int.from_bytes(data[at : at + 2])
            found.append(data[at + 2 : at + 2 + size])
            at += 2 + size
        kinds.append(tuple(found))
    if at > len(data) or not all(kinds) or not all(len(unit) > 3 for unit in kinds[0]) or not all(kinds[1]):
        raise ValueError("the header of its H.264 is damaged")
    return ParameterSets(kinds[0], kinds[1], (data[4] & 3) + 1)


def sets_among(found: Iterable[bytes]) -> ParameterSets:
    """Return the parameter sets among NAL units, each once."""
    kept = [unit for unit in found if unit and unit[0] & 31 in (SPS, PPS)]
    sps = tuple(dict.fromkeys(unit for unit in kept if unit[0] & 31 == SPS and len(unit) > 3))
    return ParameterSets(sps, tuple(dict.fromkeys(unit for unit in kept if unit[0] & 31 == PPS)))


def units(data: bytes, length_size: int) -> Iterator[bytes]:
    """Yield the NAL units of a packet. Raises ValueError when their lengths and the packet's do not agree."""
    if not length_size:
        yield from (unit.rstrip(b"\0") for unit in _START_CODE.split(data)[1:])
        return
    at = 0
    while at < len(data):
        start = at + length_size
        at = start + int.from_bytes(data[at:start])
        if at > len(data):
            raise ValueError("a frame is cut short")
        yield data[start:at]


def with_lengths(found: Iterable[bytes]) -> bytes:
    """Return NAL units as MP4 stores them, each behind its length of 4 bytes."""
    return b"".join(len(unit).to_bytes(4) + unit for unit in found)


def _union(ours: tuple[bytes, ...], theirs: tuple[bytes, ...]) -> tuple[bytes, ...]:
    return tuple(dict.fromkeys(ours + theirs))


def _golomb(unit: bytes, at: int) -> int:
    """Return the Exp-Golomb number (H.264 9.1) that begins with byte `at`: a set's own number in both kinds of sets."""
    bits = f"{int.from_bytes(unit[at : at + 4].ljust(4, bytes([0x80]))):032b}"
    zeros = bits.index("1") if "1" in bits else 0
    return int(bits[zeros : 2 * zeros + 1], 2) - 1
