"""`accelerate launch -m train --config FILE` trains; the other `COMMANDS` are beside it."""

import sys
from collections.abc import Callable
from pathlib import Path

from latentcodec.arguments import Parser, is_own_error
from train.config import parse_config


def _train(arguments: list[str]) -> None:
    config = parse_config(arguments)
    from train.loop import train

    train(config)


def _export(arguments: list[str]) -> None:
    parser = Parser(prog="train export", description="Write a run's averaged weights as a diffusers folder.")
    parser.add_argument("run", type=str, help="folder of the run")
    parser.add_argument("out", type=str, help="folder to write")
    parser.add_argument(
        "--variants", type=list[str], default=[], help="also store fp16 and/or bf16: --variants [fp16,bf16]"
    )
    parser.add_argument("--ldm", type=bool, default=True, help="also write the LDM single file for ComfyUI and A1111")
    parser.add_argument(
        "--calibration", type=int, default=64, help="training images that the scaling factor is measured on"
    )
    parser.add_argument("--half", type=bool, default=False, help="round the weights themselves to float16")
    parser.add_argument(
        "--about", type=str | None, default=None, help="Markdown file for the model card: data, licence, recipe"
    )
    parser.add_argument("--pictures", type=bool, default=True, help="show validation images in the model card")
    parser.add_argument("--device", type=str, default=None, help="cpu, or None for the machine's accelerator")
    options = parser.parse(arguments)
    from train.export import export_run

    folder = export_run(
        Path(options.run), Path(options.out), variants=tuple(options.variants), ldm=options.ldm,
        calibration=options.calibration, device=options.device, half=options.half,
        about="" if options.about is None else Path(options.about).read_text("utf-8"), pictures=options.pictures,
    )  # fmt: skip
    print(f"exported to {folder}; its README.md is the model card")


def _cost(arguments: list[str]) -> None:
    config = parse_config(arguments)
    from train.cost import training_cost

    print(training_cost(config).describe())


def _benchmark(arguments: list[str]) -> None:
    from train.benchmark import main

    main(arguments)


def _diffusion(arguments: list[str]) -> None:
    from train.diffusion.config import parse_diffusion

    config = parse_diffusion(arguments)
    from train.diffusion.job import train_diffusion

    train_diffusion(config)


def _diffusion_benchmark(arguments: list[str]) -> None:
    from train.diffusion.benchmark import main

    main(arguments)


def _proxy(arguments: list[str]) -> None:
    from train.diffusion.proxy import main

    main(arguments)


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "export": _export,
    "cost": _cost,
    "benchmark": _benchmark,
    "diffusion": _diffusion,
    "diffusion-benchmark": _diffusion_benchmark,
    "proxy": _proxy,
}


def main(arguments: list[str]) -> int:
    """Exit status: 0 done, 1 an error with a name (printed without a traceback), 2 wrong usage."""
    command = COMMANDS.get(arguments[0]) if arguments else None
    try:
        if command is not None:
            command(arguments[1:])
        else:
            _train(arguments)
    except Exception as error:
        if is_own_error(error, "latentcodec", "eval", "train") or isinstance(error, FileExistsError):
            print(f"train: {type(error).__name__}: {error}", file=sys.stderr)
            return 1
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
