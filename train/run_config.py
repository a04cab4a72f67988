"""What every run of training has: a folder, a number of steps, an optimiser; and which of it may change on resume."""

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeVar

from latentcodec.arguments import Parser, nearest


class ConfigError(ValueError):
    """A setting that cannot work; the message names the key, what was expected, what was found and the remedy."""


def require(condition: bool, message: str) -> None:
    """Raise ConfigError with `message` unless `condition` holds."""
    if not condition:
        raise ConfigError(message)


def require_known(key: str, name: str, registry: dict[str, Any]) -> None:
    """Raise ConfigError unless `name` is in `registry`; it names the nearest that is."""
    if name not in registry:
        guess = nearest(name, registry)
        hint = f"; did you mean `{guess}`?" if guess else ""
        raise ConfigError(f"{key}: expected one of {', '.join(registry)}; found `{name}`{hint}")


@dataclass
class OptimizerConfig:
    """AdamW for each side. The learning rate is a pure function of the step."""

    lr: float = 1e-4
    """Peak learning rate of the network."""
    discriminator_lr: float | None = None
    """Learning rate of the discriminator, where there is one; None: the same."""
    betas: tuple[float, float] = (0.5, 0.9)
    """Adam's betas (LDM's values)."""
    weight_decay: float = 0.0
    """AdamW's decoupled weight decay."""
    warmup: int = 500
    """Steps over which the learning rate grows linearly from 0."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """After the warm-up: constant, or a half cosine down to `final_lr` x lr at the last step."""
    final_lr: float = 0.0
    """Where the cosine ends, as a share of `lr`."""
    clip: float = 1.0
    """Largest gradient norm of each side; 0 switches clipping off."""


@dataclass
class RunConfig:
    """One run. `out` holds everything that it leaves; the same command again resumes it."""

    out: str = "runs/default"
    """Folder of the run: config, checkpoints, metrics.jsonl, pictures."""
    steps: int = 100_000
    """Updates of the network (of the generator, where there is a discriminator)."""
    batch_size: int = 32
    """Images a step over all processes and accumulation steps together, so that the run does not depend on the launch."""
    accumulate: int = 1
    """Gradient accumulation steps."""
    seed: int = 0
    """Seed of weights, data order and noise."""
    mixed_precision: Literal["no", "bf16"] = "bf16"
    """bf16: autocast around the networks; weights, EMA and losses stay fp32."""
    ema_decay: float = 0.999
    """Decay of the averaged weights, reached through (1 + step) / (10 + step)."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    threads: int | None = None
    """Threads of each process on a CPU; None: torch decides."""
    log_every: int = 50
    """Steps between lines in metrics.jsonl, health checks and the check for non-finite losses."""
    checkpoint_every: int = 1000
    """Steps between checkpoints; there is always one at the end."""
    keep_checkpoints: int = 2
    """How many of the newest checkpoints stay on disk."""
    max_minutes: float | None = None
    """Stop with a checkpoint after this long (a leg of a longer run); the same command goes on."""
    tracker: str | None = None
    """Any tracker of Accelerate, for example `tensorboard` or `wandb`, beside metrics.jsonl."""

    may_change: ClassVar[tuple[str, ...]] = (
        "out", "log_every", "checkpoint_every", "keep_checkpoints", "max_minutes", "tracker", "threads", "accumulate",
    )  # fmt: skip
    """Settings that may differ when a run is resumed, because no weight depends on them."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulate", "log_every", "checkpoint_every", "keep_checkpoints"):
            value = getattr(self, name)
            require(value >= 1, f"{name}: expected at least 1; found {value}")

    def microbatch(self, processes: int) -> int:
        """Images of one forward pass in one process. Raises ConfigError when the batch does not divide."""
        parts = processes * self.accumulate
        if self.batch_size % parts:
            fitting = max(parts, round(self.batch_size / parts) * parts)
            raise ConfigError(
                f"batch_size: expected a multiple of processes x accumulate = {processes} x {self.accumulate} = {parts}; "
                f"found {self.batch_size}. Use for example --batch_size {fitting}"
            )
        return self.batch_size // parts

    def as_dict(self) -> dict[str, Any]:
        """Plain nested dict with JSON types, for checkpoints and reports."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    def changed_since(self, before: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
        """{key: (before, now)} of the settings that weights depend on. `before`: an `as_dict` of this kind of config."""
        old, new = flatten(before), flatten(self.as_dict())

        def may_change(key: str) -> bool:
            return any(key == name or key.startswith(name + ".") for name in self.may_change)

        return {
            key: (old.get(key), new.get(key))
            for key in sorted(old.keys() | new.keys())
            if old.get(key) != new.get(key) and not may_change(key)
        }


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


C = TypeVar("C", bound=RunConfig)


def config_parser(kind: type[RunConfig], *, prog: str, description: str, example: str) -> Parser:
    """A parser with `--config FILE` (such as `example`), `--print_config` and every field of `kind`."""
    parser = Parser(prog=prog, description=description)
    parser.add_argument("--config", action="config", help=f"YAML file, for example {example}")
    parser.add_class_arguments(kind)
    return parser


def parsed(kind: type[C], parser: Parser, arguments: list[str] | None) -> C:
    """A config from command-line arguments. Raises ConfigError on a wrong value; a wrong key exits with 2 and one line."""
    return _filled(kind, parser.parse(arguments))


def config_from_dict(kind: type[C], values: dict[str, Any]) -> C:
    """A config from what its `as_dict` gave."""
    parser = Parser(exit_on_error=False)
    parser.add_class_arguments(kind)
    return _filled(kind, parser.instantiate(parser.parse_object(values)))


def _filled(kind: type[C], namespace: Any) -> C:
    return kind(**{f.name: namespace[f.name] for f in dataclasses.fields(kind)})
