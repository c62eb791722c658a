"""Scripts: prompts over time, read from `.causvid.yaml` and other formats, snapped to a model's chunks. No torch."""

from causvid_cli.script.exports import schema, to_ffmetadata, to_vtt, to_yaml
from causvid_cli.script.fields import VERSION
from causvid_cli.script.model import KEYS, Script, ScriptCue, ScriptKey
from causvid_cli.script.problems import Problem, ScriptError, harmless, render_all
from causvid_cli.script.read import read_keys, read_script, script_of
from causvid_cli.script.snap import Snapped, SnappedCue, in_frames, timeline

__all__ = [
    "KEYS",
    "VERSION",
    "Problem",
    "Script",
    "ScriptCue",
    "ScriptError",
    "ScriptKey",
    "Snapped",
    "SnappedCue",
    "harmless",
    "in_frames",
    "read_keys",
    "read_script",
    "render_all",
    "schema",
    "script_of",
    "timeline",
    "to_ffmetadata",
    "to_vtt",
    "to_yaml",
]
