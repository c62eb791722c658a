"""Which versions of what this is."""

import platform

__version__ = "0.1.0.dev0"

PACKAGES = ("torch", "diffusers", "safetensors", "numpy", "av")
"""What decides the frames of a video."""


def versions() -> dict[str, str]:
    """Name -> version, of causvid, Python and the packages that decide the frames; no package is imported."""
    return {"causvid": __version__, "python": platform.python_version()} | {name: of(name) for name in PACKAGES}


def of(package: str) -> str:
    """The installed version of a package, or "absent"."""
    from importlib.metadata import PackageNotFoundError, version  # here, so that --help answers at once

    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"
