"""`python -m eval COMMAND ...`: measurements, each printed as a table and saved as JSON with where and how it was taken."""

import sys
from collections.abc import Callable

from latentcodec.arguments import is_own_error


def _speed(arguments: list[str]) -> None:
    from eval.speed.command import main

    main(arguments)


def _latents(arguments: list[str]) -> None:
    from eval.latents.command import main

    main(arguments)


def _reconstruct(arguments: list[str]) -> None:
    from eval.reconstruct.command import main

    main(arguments)


def _rate(arguments: list[str]) -> None:
    from eval.rate.command import main

    main(arguments)


def _symbols(arguments: list[str]) -> None:
    from eval.symbols.command import main

    main(arguments)


def _report(arguments: list[str]) -> None:
    from eval.report.command import main

    main(arguments)


def _anomaly(arguments: list[str]) -> None:
    from eval.anomaly import main

    main(arguments)


def _augment(arguments: list[str]) -> None:
    from eval.augmentation import main

    main(arguments)


def _showcase(arguments: list[str]) -> None:
    from eval.showcase import main

    main(arguments)


def _tiling(arguments: list[str]) -> None:
    from eval.tiling import main

    main(arguments)


def _reading(arguments: list[str]) -> None:
    from eval.reading.command import main

    main(arguments)


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "reconstruct": _reconstruct,
    "latents": _latents,
    "rate": _rate,
    "symbols": _symbols,
    "speed": _speed,
    "tiling": _tiling,
    "augment": _augment,
    "anomaly": _anomaly,
    "showcase": _showcase,
    "reading": _reading,
    "report": _report,
}


def main(arguments: list[str]) -> int:
    """Exit status: 0 done, 1 an error with a name (printed without a traceback), 2 wrong usage."""
    command = COMMANDS.get(arguments[0]) if arguments else None
    if command is None:
        print(f"usage: python -m eval {{{','.join(COMMANDS)}}} ... ; each has --help", file=sys.stderr)
        return 0 if arguments in (["-h"], ["--help"]) else 2
    try:
        command(arguments[1:])
    except Exception as error:
        if is_own_error(error, "latentcodec", "eval"):
            print(f"eval: {type(error).__name__}: {error}", file=sys.stderr)
            return 1
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
