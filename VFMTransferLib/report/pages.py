"""Pages as self-contained HTML: Jinja templates that escape what they are given, with style and scripts inside."""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import date
from functools import lru_cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from ..core import __version__
from ..core.terms import RESEARCH_USE

if TYPE_CHECKING:
    from jinja2 import Environment


def render(name: str, styles: tuple[str, ...], scripts: tuple[str, ...] = (), **values: Any) -> str:
    """A page from one of the templates, with style sheets and scripts beside it, which loads nothing from elsewhere.

    Values are what the template asks for; text is escaped, markup of ours is `Markup`.
    """
    style, script = ("\n".join(map(_asset, names)) for names in (styles, scripts))
    return (
        _environment()
        .get_template(name)
        .render(
            **values,
            research_use=RESEARCH_USE,
            version=__version__,
            date=date.today().isoformat(),
            style=style,
            style_hash=_content_hash(style),
            script=script,
            script_hash=_content_hash(script),
        )
    )


def json_for_script(document: dict[str, Any]) -> str:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


@lru_cache(maxsize=1)
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader(__package__),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _asset(name: str) -> str:
    return resources.files(__package__).joinpath("templates", name).read_text(encoding="utf-8")


def _content_hash(text: str) -> str:
    """What lets a browser run this very text and nothing else (Content Security Policy)."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
