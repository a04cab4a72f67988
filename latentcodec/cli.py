"""The `latentcodec` command: a table of plain functions, one for each subcommand.

Arguments, types and help texts come from a function's signature and docstring; an `Example:` section is shown as it is.
Heavy imports stay inside the functions, so that `latentcodec --help` answers at once.

Exit codes: 0 done; 1 an error with a name (this package's own, or the file system's) on stderr; 2 wrong usage; 3 a command
that looks for something has found it.
"""

import argparse
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

import docstring_parser
from jsonargparse import ActionYesNo, DefaultHelpFormatter

from latentcodec import __version__
from latentcodec.arguments import Parser, is_own_error
from latentcodec.commands import Finding
from latentcodec.commands.anomaly import fit_anomaly, score_anomaly
from latentcodec.commands.augment import augment_images
from latentcodec.commands.compress import compress_images
from latentcodec.commands.convert import convert_vae
from latentcodec.commands.decode import decode_latents
from latentcodec.commands.decompress import decompress_files
from latentcodec.commands.encode import encode_images
from latentcodec.commands.export_latents import export_latents
from latentcodec.commands.inspect import inspect_vae
from latentcodec.commands.interpolate import interpolate_images
from latentcodec.commands.precompute import precompute_latents
from latentcodec.commands.prepare_bitstream import prepare_bitstream_command
from latentcodec.commands.push import push_vae_command
from latentcodec.commands.reconstruct import reconstruct_images
from latentcodec.commands.verify import verify_store

Commands = dict[str, "Callable[..., None] | dict[str, Callable[..., None]]"]

# Subcommand -> function, or a group of them. A new command is one function and one line here.
COMMANDS: Commands = {
    "inspect": inspect_vae,
    "convert": convert_vae,
    "push": push_vae_command,
    "encode": encode_images,
    "decode": decode_latents,
    "reconstruct": reconstruct_images,
    "interpolate": interpolate_images,
    "augment": augment_images,
    "anomaly": {"fit": fit_anomaly, "score": score_anomaly},
    "compress": compress_images,
    "decompress": decompress_files,
    "prepare-bitstream": prepare_bitstream_command,
    "precompute": precompute_latents,
    "verify": verify_store,
    "export-latents": export_latents,
}


class _HelpFormatter(argparse.RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Keeps the line breaks of docstrings, hence of their examples."""


def command_parser(function: Callable[..., None]) -> Parser:
    """Parser of one subcommand, from its function's signature.

    Required parameters are positional, a list takes one argument or more; required parameters that are keyword-only are
    flags, also by their first letter (`-o`, `--output`); booleans are `--name` and `--no_name`.
    """
    description = inspect.cleandoc(function.__doc__ or "").partition("\n\nArgs:")[0]
    parser = Parser(description=description)
    helps = {entry.arg_name: entry.description for entry in docstring_parser.parse(function.__doc__ or "").params}
    parameters = inspect.signature(function).parameters.values()
    lists = [parameter for parameter in parameters if parameter.annotation == list[str]]
    flags = [p for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    switches = [parameter for parameter in parameters if parameter.annotation is bool]
    for several in lists:
        parser.add_argument(several.name, nargs="+", type=str, metavar=several.name.upper(), help=helps[several.name])
    for flag in flags:
        parser.add_argument(
            f"-{flag.name[0]}", f"--{flag.name}", type=flag.annotation, required=True, help=helps[flag.name]
        )
    skip: set[str | int] = {parameter.name for parameter in [*lists, *flags, *switches]}
    parser.add_function_arguments(function, as_group=False, as_positional=True, fail_untyped="all", skip=skip)
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
    _add_commands(parser, COMMANDS)
    return parser


def _add_commands(parser: Parser, commands: Mapping[str, Any]) -> None:
    subcommands = parser.add_subcommands(required=True, dest="command", metavar="COMMAND")
    for name, entry in commands.items():
        group = isinstance(entry, dict)
        subparser = Parser(description=_group_summary(entry)) if group else command_parser(entry)
        summary = _group_summary(entry) if group else (entry.__doc__ or "").partition("\n")[0]
        subcommands.add_subcommand(name, subparser, help=summary)
        subparser.prog = f"{parser.prog} {name}"
        if group:
            _add_commands(subparser, entry)


def _group_summary(group: Mapping[str, Callable[..., None]]) -> str:
    """The module of a group says what it is about."""
    (module,) = {function.__module__ for function in group.values()}
    return (sys.modules[module].__doc__ or "").partition("\n")[0]


def _chosen(parsed: Any) -> tuple[Callable[..., None], Any]:
    """The function that a command line asks for, and its values."""
    entry: Any = COMMANDS
    while isinstance(entry, dict):
        entry, parsed = entry[parsed.command], parsed[parsed.command]
    return entry, parsed


def is_named_error(error: Exception) -> bool:
    """Whether `error` explains itself: one of this package's own classes, or a missing or unreadable file."""
    return isinstance(error, OSError) or is_own_error(error, "latentcodec")


def main(arguments: list[str] | None = None) -> int:
    """Run one command line (`sys.argv` when None) and return the exit code; wrong usage exits with 2 by itself."""
    parsed: Any = main_parser().parse_args(arguments)
    function, values = _chosen(parsed)
    try:
        function(**{name: values[name] for name in inspect.signature(function).parameters})
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader (`| head`) has gone; keep the interpreter from complaining when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Finding as finding:
        print(f"latentcodec: {finding}", file=sys.stderr)
        return finding.exit_code
    except KeyboardInterrupt:
        print("latentcodec: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if not is_named_error(error):
            raise
        print(f"latentcodec: error: {error}", file=sys.stderr)
        return 1
    return 0
