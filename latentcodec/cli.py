"""The `latentcodec` command: a table of plain functions, one for each subcommand.

Arguments, types and help texts come from a function's signature and docstring; an `Example:` section is shown as it is.
Heavy imports stay inside the functions, so that `latentcodec --help` answers at once.

Exit codes: 0 done; 1 an error with a name (this package's own, or the file system's) on stderr; 2 wrong usage.
"""

import argparse
import inspect
import os
import sys
from collections.abc import Callable
from json import dumps
from pathlib import Path
from typing import Any, Literal

import docstring_parser
from jsonargparse import ActionYesNo, DefaultHelpFormatter

from latentcodec import __version__
from latentcodec.arguments import Parser


class CommandError(ValueError):
    """A command cannot do what was asked; the message says why and what to do instead."""


def inspect_vae(
    vae: str,
    json: bool = False,
    ranges: bool = False,
    images: str | None = None,
    variant: str | None = None,
    scaling_factor: float | None = None,
    shift_factor: float | None = None,
    norm_num_groups: int | None = None,
) -> None:
    """Print what a VAE is: geometry, cost, scaling, fingerprint, and which programs can load it.

    Example:
        latentcodec inspect out/vae --json
        latentcodec inspect vae.safetensors --scaling-factor 0.13025 --ranges

    Args:
        vae: A diffusers folder, a file of weights or a name on the Hugging Face hub.
        json: Print one JSON object instead of text.
        ranges: Also encode and decode images, and tell what overflows in float16 and what 16 bits cost. Takes longer.
        images: Images for that: the first eight of a folder, or of another source. A synthetic one if not given.
        variant: Read the weights of this variant of a folder, for example fp16.
        scaling_factor: Scaling factor of the latents, for a single file that does not say it.
        shift_factor: Shift factor of the latents, likewise.
        norm_num_groups: Groups of every GroupNorm, likewise; 32 if not given.
    """
    from latentcodec.vae.inspection import format_description, inspect_source

    options: dict[str, Any] = {
        "variant": variant,
        "scaling_factor": scaling_factor,
        "shift_factor": shift_factor,
        "norm_num_groups": norm_num_groups,
    }
    description = inspect_source(vae, **options)
    if ranges or images is not None:
        from latentcodec.vae.loading import load_vae
        from latentcodec.vae.ranges import measure_ranges, probe_images

        probe = probe_images("procedural") if images is None else probe_images(images, count=8)
        if description["scaling"]["scaling_factor"] is None:
            options["scaling_factor"] = 1.0  # on which the activations do not depend
        description["ranges"] = measure_ranges(load_vae(vae, **options), probe).to_json()
    print(dumps(description, indent=2, ensure_ascii=False) if json else format_description(description))


def convert_vae(
    source: str,
    destination: str,
    dtype: Literal["float32", "float16", "bfloat16"] = "float32",
    prefix: Literal["", "first_stage_model.", "vae."] = "",
    variant: str | None = None,
    scaling_factor: float | None = None,
    shift_factor: float | None = None,
    norm_num_groups: int | None = None,
) -> None:
    """Convert a VAE to a single file for ComfyUI and A1111, or to a diffusers folder.

    A destination that ends in .safetensors becomes a single file with the tensor names of latent-diffusion (LDM);
    any other becomes a folder.

    Example:
        latentcodec convert out/vae vae.safetensors --dtype float16
        latentcodec convert vae.safetensors out/vae --scaling-factor 0.18215

    Args:
        source: A diffusers folder, a file of weights or a name on the Hugging Face hub.
        destination: The folder or .safetensors file to write. It must not exist yet.
        dtype: Type of the stored values.
        prefix: What comes before the names in a single file: nothing, for a VAE on its own.
        variant: Read the weights of this variant of a folder, for example fp16.
        scaling_factor: Scaling factor of the latents, for a single file that does not say it.
        shift_factor: Shift factor of the latents, likewise.
        norm_num_groups: Groups of every GroupNorm, likewise; 32 if not given.
    """
    path = Path(destination)
    if path.exists():
        raise CommandError(f"{destination} exists already; delete it or name another destination")
    if path.suffix in {".ckpt", ".bin", ".pt", ".pth"}:
        raise CommandError(f"{destination}: pickles are read but not written; name a .safetensors file or a folder")
    if prefix and path.suffix != ".safetensors":
        raise CommandError(f"{destination}: a diffusers folder has no prefix, found {prefix!r}; leave it out")

    import torch

    from latentcodec.vae.ecosystems import ecosystems
    from latentcodec.vae.ldm import save_ldm
    from latentcodec.vae.loading import load_vae, save_vae

    network = load_vae(
        source,
        dtype=getattr(torch, dtype),
        variant=variant,
        scaling_factor=scaling_factor,
        shift_factor=shift_factor,
        norm_num_groups=norm_num_groups,
    )
    if path.suffix == ".safetensors":
        save_ldm(network, path, prefix)
    else:
        save_vae(network, path)
    print(f"wrote {destination}")
    for program, reason in ecosystems(network.config).items():
        if reason is not None:
            print(f"note: {program} cannot load this VAE: {reason}")


def push_command(
    vae: str,
    repo: str,
    private: bool = False,
    revision: str | None = None,
    message: str | None = None,
    variant: str | None = None,
    scaling_factor: float | None = None,
    shift_factor: float | None = None,
    norm_num_groups: int | None = None,
) -> None:
    """Publish a VAE on the Hugging Face hub, with a model card, and print the address.

    A diffusers folder goes up as it is; anything else is written as one first. The token is that of `hf auth login`
    or of the environment variable HF_TOKEN.

    Example:
        latentcodec push out/vae someone/my-vae --private

    Args:
        vae: A diffusers folder, a file of weights or a name on the Hugging Face hub.
        repo: Where to: owner/name. It is made if it does not exist.
        private: Make a new repository private.
        revision: A branch, made if it does not exist; the main one if not given.
        message: Message of the commit.
        variant: Publish only the weights of this variant of a folder, for example fp16.
        scaling_factor: Scaling factor of the latents, for a single file that does not say it.
        shift_factor: Shift factor of the latents, likewise.
        norm_num_groups: Groups of every GroupNorm, likewise; 32 if not given.
    """
    from latentcodec.vae.publish import push_vae

    options: dict[str, Any] = {
        "variant": variant,
        "scaling_factor": scaling_factor,
        "shift_factor": shift_factor,
        "norm_num_groups": norm_num_groups,
    }
    given = {name: value for name, value in options.items() if value is not None}
    print(push_vae(vae, repo, private=private, revision=revision, message=message, **given))


# Subcommand -> function. A new command is one function and one line here.
COMMANDS: dict[str, Callable[..., None]] = {
    "inspect": inspect_vae,
    "convert": convert_vae,
    "push": push_command,
}


class _HelpFormatter(argparse.RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Keeps the line breaks of docstrings, hence of their examples."""


def command_parser(function: Callable[..., None]) -> Parser:
    """Parser of one subcommand: required parameters are positional, booleans are `--name` and `--no_name`."""
    description = inspect.cleandoc(function.__doc__ or "").partition("\n\nArgs:")[0]
    parser = Parser(description=description)
    helps = {entry.arg_name: entry.description for entry in docstring_parser.parse(function.__doc__ or "").params}
    parameters = inspect.signature(function).parameters.values()
    switches = [parameter for parameter in parameters if parameter.annotation is bool]
    parser.add_function_arguments(
        function, as_group=False, as_positional=True, fail_untyped="all", skip={switch.name for switch in switches}
    )
    for switch in switches:
        parser.add_argument(f"--{switch.name}", action=ActionYesNo, default=switch.default, help=helps[switch.name])
    return parser


def main_parser() -> Parser:
    """Parser of the whole command line."""
    parser = Parser(
        prog="latentcodec",
        version=__version__,
        formatter_class=_HelpFormatter,
        description="Latent image codec: KL autoencoders for latent diffusion and image compression.",
    )
    subcommands = parser.add_subcommands(required=True, dest="command", metavar="COMMAND")
    for name, function in COMMANDS.items():
        subparser = command_parser(function)
        subcommands.add_subcommand(name, subparser, help=(function.__doc__ or "").partition("\n")[0])
        subparser.prog = f"{parser.prog} {name}"
    return parser


def is_named_error(error: Exception) -> bool:
    """Whether `error` explains itself: one of this package's own classes, or a missing or unreadable file."""
    return isinstance(error, OSError) or type(error).__module__.partition(".")[0] == "latentcodec"


def main(arguments: list[str] | None = None) -> int:
    """Run one command line (`sys.argv` when None) and return the exit code; wrong usage exits with 2 by itself."""
    parsed: Any = main_parser().parse_args(arguments)
    function = COMMANDS[parsed.command]
    values = parsed[parsed.command]
    try:
        function(**{name: values[name] for name in inspect.signature(function).parameters})
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader (`| head`) has gone; keep the interpreter from complaining when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        print("latentcodec: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if not is_named_error(error):
            raise
        print(f"latentcodec: error: {error}", file=sys.stderr)
        return 1
    return 0
