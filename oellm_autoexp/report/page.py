"""One HTML file that holds all that it needs, and may load nothing. Pure."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from html import escape

from oellm_autoexp.report.document import Document

STYLES = ("uPlot.min.css", "report.css")
SCRIPTS = ("uPlot.iife.min.js",)
OWN_SCRIPTS = ("data.js", "elements.js", "filter.js", "table.js", "curves.js", "sweep.js", "runs.js", "main.js")
"""Ours, in the order in which they stand, within one function."""
TEMPLATE = "page.html"
ASSETS = (TEMPLATE, *STYLES, *SCRIPTS, "uPlot.LICENSE", *OWN_SCRIPTS)


def page(document: Document, assets: Mapping[str, str]) -> str:
    """The page of a report. `assets`: the texts of ASSETS by name.

    Its policy (CSP) lets only the scripts and styles run that stand in it, known by their digests.
    """
    styles = "\n".join(assets[name] for name in STYLES)
    licence = "\n".join(f" * {line}" for line in assets["uPlot.LICENSE"].splitlines())
    library = f"/*!\n{licence}\n */\n" + "\n".join(assets[name] for name in SCRIPTS)
    own = '(() => {\n"use strict";\n' + "\n".join(assets[name] for name in OWN_SCRIPTS) + "\n})();\n"
    policy = "; ".join(
        [
            "default-src 'none'",
            f"script-src {_digest(library)} {_digest(own)}",
            f"style-src {_digest(styles)}",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
    parts = {
        "policy": policy,
        "title": escape(document.title.encode(errors="replace").decode()),
        "styles": styles,
        "library": library,
        "own": own,
        "data": document.as_json(),
    }
    pieces = assets[TEMPLATE].split("{{")
    filled = [pieces[0]]
    for piece in pieces[1:]:
        name, _, rest = piece.partition("}}")
        filled += [parts[name], rest]
    return "".join(filled)


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
