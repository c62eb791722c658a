"""Amounts as people read them: bytes, seconds, counts."""


def bytes_text(count: int) -> str:
    """Return so many bytes as text, with one decimal: 1234567 -> "1.2 MB"."""
    if count < 1000:
        return f"{count} bytes"
    size = count / 1000
    for unit in ("kB", "MB"):
        if round(size, 1) < 1000:
            return f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def duration_text(seconds: float) -> str:
    """Return so many seconds as text, in its two largest units: 3725 -> "1 h 2 min"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def counted(number: int, noun: str) -> str:
    """Return a number and what it counts: "1 frame", "2 frames"."""
    return f"{number} {noun}{'s' * (number != 1)}"
