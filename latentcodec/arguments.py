"""The command-line parser of the whole project: jsonargparse, with the nearest right key in its errors."""

import difflib
import re
import sys
from collections.abc import Iterable
from typing import Any, NoReturn

from jsonargparse import ArgumentParser

# How jsonargparse names a key it does not know: on the command line, and inside a YAML file or a group.
_UNKNOWN_KEY = re.compile(
    r"unrecognized arguments?: --(?P<flag>[\w.\-]+)|does not accept option '(?P<option>[\w.\-]+)'"
)
_FLAG = re.compile(r"--[a-z][\w.]*(-[\w.]+)+")
_GROUP = re.compile(r"Group '(?P<group>[\w.]+)'")


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The entry of `known` most like `word`, or None when nothing is close."""
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return matches[0] if matches else None


def is_own_error(error: Exception, *packages: str) -> bool:
    """Whether an error explains itself to who typed a command: its class is one of these packages' own."""
    return type(error).__module__.partition(".")[0] in packages


def _underscored(argument: str) -> str:
    """`--some-flag=a-value` as `--some_flag=a-value`; what is no such flag, as it is."""
    flag, equals, value = argument.partition("=")
    return f"--{flag[2:].replace('-', '_')}{equals}{value}" if _FLAG.fullmatch(flag) else argument


class Parser(ArgumentParser):
    """`jsonargparse.ArgumentParser` whose errors end in one line: the wrong key and the nearest right one. Exits with 2."""

    def known_keys(self) -> list[str]:
        """Every dotted key that this parser accepts, without the help and config switches."""
        keys = [action.dest for action in self._actions if action.option_strings]
        return sorted(key for key in keys if key not in {"help", "config", "print_config"})

    def explain(self, message: str) -> str:
        """`message` of jsonargparse, with a suggestion when it is about an unknown key."""
        found = _UNKNOWN_KEY.search(message)
        if found is None:
            return message
        key = found["flag"] or found["option"]
        group = _GROUP.search(message)
        if group is not None and not key.startswith(group["group"] + "."):
            key = f"{group['group']}.{key}"
        candidates = self.known_keys()
        # A YAML error names the leaf under a wrong parent (`wieghts.l1`), so try the parents too.
        parts = key.split(".")
        for length in range(len(parts), 0, -1):
            guess = nearest(".".join(parts[:length]), candidates)
            if guess is not None:
                return f"unknown key `{key}`; did you mean `{guess}`?"
        return f"unknown key `{key}`; `--print_config` shows every key"

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the explained message on stderr and exit with 2."""
        if not getattr(self, "exit_on_error", True) and ex is not None:
            raise ex
        print(f"{self.prog}: error: {self.explain(message)}", file=sys.stderr)
        sys.exit(2)

    def parse_args(  # type: ignore[override]  # whose own type is wider in one base class and narrower in the other
        self, args: Iterable[str] | None = None, namespace: Any = None, **options: Any
    ) -> Any:
        """As in jsonargparse, but a flag's words may be joined by dashes too: `--scaling-factor` is `--scaling_factor`."""
        given = sys.argv[1:] if args is None else list(args)
        end = given.index("--") if "--" in given else len(given)  # what comes after it is no flag
        return super().parse_args([*map(_underscored, given[:end]), *given[end:]], namespace, **options)

    def parse(self, arguments: list[str] | None = None) -> Any:
        """Parsed arguments with dataclasses instantiated, so that their `__post_init__` checks have run."""
        return self.instantiate(self.parse_args(arguments))
