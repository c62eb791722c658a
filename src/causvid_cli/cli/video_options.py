"""The options that every command which makes a video has, declared once."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from typing import Any, get_type_hints

import typer

from causvid_cli.cli import options, settings
from causvid_cli.cli.torchrun import led
from causvid_cli.request import AUTO, GUIDANCE


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoOptions:
    """What a user may say of any video, as it was typed."""

    output: options.Output = None
    length: options.Length = None
    size: options.Size = None
    fps: options.Fps = None
    interpolate: options.Interpolate = None
    seed: options.Seed = None
    steps: options.Steps = None
    rope: options.WhichRope = None
    negative: options.Negative = None
    strict: options.Strict = False
    guidance: options.Guidance = GUIDANCE
    transition: options.Transition = None
    model: options.Model = AUTO
    device: options.Device = AUTO
    vae_device: options.VaeDevice = AUTO
    dtype: options.Dtype = AUTO
    vae: options.ChosenVae = AUTO
    lora: options.Loras = None
    quantize: options.QuantizeTo = "none"
    offload: options.OffloadWhat = "none"
    compile: options.Compile = False
    attention: options.AttentionBy = AUTO
    random_weights: options.RandomWeights = None
    threads: options.Threads = None
    count: options.Count = 1
    format: options.Format = None
    audio: options.Audio = None
    audio_fit: options.HowAudioFits = "pad"
    lossless: options.Lossless = False
    no_metadata: options.NoMetadata = False
    sidecar: options.Sidecar = False
    keep_latents: options.KeepLatents = False
    overwrite: options.Overwrite = False
    skip_existing: options.SkipExisting = False
    dry_run: options.DryRun = False
    preview: options.Preview = False
    progress: options.Progress = "auto"
    quiet: options.Quiet = 0
    verbose: options.Verbose = 0
    as_json: options.Json = False
    json_lines: options.JsonLines = False
    typed: frozenset[str] = frozenset()
    """Names of those that stand on the command line itself, so that they go before what a script says."""

    def preferred(self, name: str, given: Any, from_script: Any) -> Any:
        """What was typed, else what the script says, else what environment, config file or default say."""
        return given if name in self.typed or from_script is None else from_script


def with_video_options_but(*left_out: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of `VideoOptions` but some; it gets them as the one argument `video_options`.

    It also gets `typer_context`, if it has a parameter of that name.
    """
    hints = get_type_hints(VideoOptions, include_extras=True)
    shared = [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
        )
        for field in fields(VideoOptions)
        if field.name not in ("typed", *left_out)
    ]
    context = inspect.Parameter("typer_context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        given = ("video_options", "typer_context")
        own = [parameter for parameter in signature.parameters.values() if parameter.name not in given]

        @wraps(command)
        def run(*, typer_context: typer.Context, **values: Any) -> None:
            names = [parameter.name for parameter in shared]
            typed = frozenset(name for name in names if settings.typed(typer_context, name))
            video_options = VideoOptions(**{name: values.pop(name) for name in names}, typed=typed)
            if "typer_context" in signature.parameters:
                values["typer_context"] = typer_context
            led(command)(**values, video_options=video_options)

        parameters = [*own, *shared, context]
        run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate


with_video_options = with_video_options_but()
"""Give a command all options of `VideoOptions`."""
