"""Options that several commands share: the name, the limits and the help text of each.

A command gives the default, as in `device: Device = "cpu"`.
"""

from pathlib import Path
from typing import Annotated, Literal

import typer

from videotok.config import MotionSourceChoice

RATE, READING, MODELS = "Rate and quality", "What is read", "Weights and machine"
"""Groups of options in the help of a command that has many."""

Force = Annotated[bool, typer.Option("--force", "-f", help="Replace an output that exists.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]

Fps = Annotated[
    str,
    typer.Option(
        help="Frames per second of the clips, such as 12 or 30000/1001; 6 for understanding.", rich_help_panel=RATE
    ),
]
KeepRatio = Annotated[
    float | None,
    typer.Option(help="Share of a keyframe's patches to keep on average, above 0 to 1.", rich_help_panel=RATE),
]
RefinementSteps = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Steps of code refinement; 4 gain about 0.4 dB and take several times as long.",
        rich_help_panel=RATE,
    ),
]
MotionQuantizers = Annotated[
    int | None,
    typer.Option(
        min=0, help="Residual quantizers of motion ids; more follow the motion more closely.", rich_help_panel=RATE
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Network evaluations of the detokenizer per clip; the model's own number by default.",
        rich_help_panel=RATE,
    ),
]
FrameSize = Annotated[
    str | None,
    typer.Option(
        "--size",
        help="WIDTHxHEIGHT of the frames; about 256x144 pixels in the source's shape by default.",
    ),
]
"""Text for `videotok.cli.console.parse_size`."""

MotionSource = Annotated[
    MotionSourceChoice,
    typer.Option(
        help="native: the stream's own motion vectors; reencode: those of an x264 re-encoding; mpeg4: those of an "
        "MPEG-4 re-encoding, as the published Video-LaVIT weights expect; auto: native where there are any.",
        rich_help_panel=READING,
    ),
]
Stream = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Index of the video stream in the file, as ffprobe shows it; its default one by default.",
        rich_help_panel=READING,
    ),
]
SplitAtCuts = Annotated[
    bool, typer.Option("--split-at-cuts", help="Begin a new clip at every scene cut.", rich_help_panel=READING)
]
Start = Annotated[float, typer.Option(min=0, help="Where to begin, in seconds.", rich_help_panel=READING)]
Duration = Annotated[
    float | None, typer.Option(help="Seconds of video to read; to the end by default.", rich_help_panel=READING)
]

Model = Annotated[
    str | None,
    typer.Option(help="Folder or hub id of the weights; those that ship by default.", rich_help_panel=MODELS),
]
KeyframeModel = Annotated[
    Path | None,
    typer.Option(help="Folder of another keyframe tokenizer, such as a diffusers VQModel.", rich_help_panel=MODELS),
]
LanguageModel = Annotated[
    Path | None,
    typer.Option(
        "--lm",
        help="Folder of a language model that reads video; the one that ships by default.",
        rich_help_panel=MODELS,
    ),
]
VideoModel = Annotated[
    str | None,
    typer.Option(
        help="Folder or hub id of other video weights than those of the language model.", rich_help_panel=MODELS
    ),
]
LanguageModelPrecision = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"],
    typer.Option(
        help="Precision of the language model; auto: bfloat16 on a GPU, float32 on a CPU.", rich_help_panel=MODELS
    ),
]
LpipsWeights = Annotated[
    Path | None,
    typer.Option(
        "--lpips", help="Weights of the LPIPS network (SqueezeNet 1.1, safetensors), which are not part of videotok."
    ),
]
Device = Annotated[
    Literal["auto", "cpu", "cuda", "mps"],
    typer.Option(
        help="Where the models run; auto: the fastest device of this machine. Ids stay the same.",
        rich_help_panel=MODELS,
    ),
]
Dtype = Annotated[
    Literal["auto", "float32", "float64", "float16", "bfloat16"],
    typer.Option(
        help="Precision of the models that make pictures; auto: float32, but bfloat16 in the detokenizer on a CPU "
        "with instructions for it. Ids stay the same.",
        rich_help_panel=MODELS,
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="CPU threads of the models; by default all cores that this process may use. Ids stay the same.",
        rich_help_panel=MODELS,
    ),
]
"""A command calls `videotok.threads.set_up_cpu` with it."""

LearningRate = Annotated[
    float, typer.Option("--lr", min=0, help="Highest learning rate; linear warm-up, then a cosine to zero.")
]
MaxMinutes = Annotated[
    float | None,
    typer.Option(min=0.01, help="Time limit; the learning rate then falls with the time and is zero at its end."),
]
SaveEvery = Annotated[int, typer.Option(min=1, help="Steps between checkpoints and validations.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue from the run's checkpoint.")]
TrainingPrecision = Annotated[
    Literal["auto", "bf16", "no"],
    typer.Option("--precision", help="Precision of the forward pass; auto: bf16 on a GPU that has it, else float32."),
]


def training_precision(name: str, device: str) -> Literal["bf16", "no"]:
    """Return the precision that a `TrainingPrecision` means on a device, as the trainer takes it."""
    import torch

    if name == "auto":
        return "bf16" if device != "cpu" and torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "no"
    return "bf16" if name == "bf16" else "no"
