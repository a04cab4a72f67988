"""Subcommands of `latentcodec`: one file with one function each. Heavy imports stay inside the functions.

What several of them share:

images.py       the images that a command line names, decoded ahead by threads
latents.py      the files that it names, and what is in files of latents
codec.py        the codec that it asks for
report.py       what is printed at the end
"""


class CommandError(ValueError):
    """A command cannot do what was asked, or not all of it; the message says why and what to do instead."""


class Finding(Exception):  # noqa: N818  # it is none
    """What a command was asked to look for is there. Not an error: the exit code is 3, so that scripts can tell."""

    exit_code = 3
