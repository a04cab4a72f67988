"""The page as one file: template, style and scripts, content as JSON, pictures as base64.

Nothing of it comes from elsewhere, and a policy in the page itself forbids the browser to fetch anything or to run any
script but this one. What results say reaches the page as JSON only, in which no character can end the element that holds
it; the scripts turn it into text, never into HTML.
"""

import base64
import hashlib
import html
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.report.pictures import Encoded

FOLDER = Path(__file__).with_name("page")
STYLES = ("colours", "page", "controls", "figures", "plots", "tables", "viewer", "latents", "small")
SCRIPTS = (
    "dom", "format", "scales", "controls", "table", "chart", "content", "columns", "difference", "pictured", "view", "gestures",
    "boundary", "toolbar", "viewer", "summary", "rate", "images", "latents", "speed", "provenance", "main",
)  # fmt: skip
"""In this order: each uses what came before; `main` begins."""

_MARK = re.compile(r"\{\{(\w+)\}\}")
_ENDS = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})


def page(title: str, content: dict[str, Any], pictures: Sequence[Encoded]) -> bytes:
    """The page, in UTF-8.

    Args:
        title: any text.
        content: with JSON types, see `eval.report.content`; the kinds of the pictures are added.
        pictures: by number.
    """
    style, script = style_text(), script_text()
    parts = {
        "title": html.escape(title),
        "policy": html.escape(_policy(style, script)),
        "style": style,
        "script": script,
        "data": json_text(
            {**content, "pictures": {**content["pictures"], "types": [picture.type for picture in pictures]}}
        ),
        "pictures": "\n".join(_element(number, picture) for number, picture in enumerate(pictures)),
    }
    template = (FOLDER / "page.html").read_text("utf-8")
    # in one pass, so that nothing that is put in is searched for marks; half a surrogate pair is no character
    return _MARK.sub(lambda mark: parts[mark[1]], template).encode("utf-8", "xmlcharrefreplace")


def style_text() -> str:
    """All style sheets as one, as they stand in the page."""
    return "\n" + "\n".join((FOLDER / f"{name}.css").read_text("utf-8") for name in STYLES)


def script_text() -> str:
    """All scripts as one, with names of their own."""
    sources = ((FOLDER / f"{name}.js").read_text("utf-8") for name in SCRIPTS)
    return '\n(() => {\n"use strict";\n\n' + "\n".join(sources) + "\n})();\n"


def json_text(content: Any) -> str:
    """JSON that may stand in a `script` element.

    Raises:
        ValueError: a number is NaN or infinite.
    """
    return json.dumps(content, allow_nan=False, separators=(",", ":")).translate(_ENDS)


def _policy(style: str, script: str) -> str:
    sources = (
        ("default-src", "'none'"),
        ("img-src", "data:"),
        ("style-src", _hash(style)),
        ("script-src", _hash(script)),
        ("base-uri", "'none'"),
        ("form-action", "'none'"),
    )
    return "; ".join(f"{directive} {source}" for directive, source in sources)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _element(number: int, picture: Encoded) -> str:
    """Read by nobody before the script asks for it."""
    return f'<script type="text/plain" id="picture-{number}">{base64.b64encode(picture.data).decode()}</script>'
