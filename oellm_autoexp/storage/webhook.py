"""`python -m oellm_autoexp.storage.webhook`: posts one message.

It reads JSON `{"url", "text", "timeout"}` from standard input.

The address may be `$NAME`, a variable of this process: so it stands in no command line and in no file. Nothing of it
but the host is ever printed, since addresses of webhooks are secrets.
"""

from __future__ import annotations

import json
import os
import re
import sys
import urllib.error
import urllib.parse
import urllib.request
from http.client import HTTPException
from typing import IO, Any

_VARIABLE = re.compile(r"\$(?:\{([A-Za-z_][A-Za-z0-9_]*)\}|([A-Za-z_][A-Za-z0-9_]*))")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected POST would become a GET without the message."""

    def redirect_request(self, *_args: Any, **_more: Any) -> None:
        """Follow none."""


def post(url: str, text: str, timeout: float) -> str:
    """Post JSON `{"text": text}`; returns what went wrong, '' if nothing did. `timeout`: seconds without an answer."""
    variable = _VARIABLE.fullmatch(url)
    if variable:
        name = variable[1] or variable[2]
        url = os.environ.get(name, "")
        if not url:
            return f"the variable {name} with the webhook's address is not set"
    try:
        parts = urllib.parse.urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return "the webhook's address is no URL"
    if parts.scheme not in ("http", "https") or not host:
        return "the webhook's address must begin with http:// or https://"
    body = json.dumps({"text": text}).encode()
    headers = {"Content-Type": "application/json", "User-Agent": "oellm-autoexp"}
    try:
        request = urllib.request.Request(url, body, headers, method="POST")  # noqa: S310  http and https only
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=timeout) as answer:
            answer.read(1)
    except urllib.error.HTTPError as error:
        with error:
            return f"{host} answered {error.code} {error.reason}".rstrip()
    except urllib.error.URLError as error:
        return f"{host} can't be reached: {error.reason}"
    except TimeoutError:
        return f"{host} did not answer within {timeout:g} s"
    except (OSError, HTTPException, ValueError) as error:
        return f"{host}: {type(error).__name__}"  # its text may hold the address
    return ""


def main(stdin: IO[str] | None = None) -> int:
    """Post what standard input says; exit code 1, and one line, if that fails."""
    try:
        asked = json.load(stdin or sys.stdin)
        url, text, timeout = str(asked["url"]), str(asked["text"]), float(asked["timeout"])
    except (ValueError, KeyError, TypeError):
        sys.stderr.write('standard input must be JSON {"url", "text", "timeout"}\n')
        return 2
    error = post(url, text, timeout)
    sys.stderr.write(f"{error}\n" if error else "")
    return 1 if error else 0


if __name__ == "__main__":
    sys.exit(main())
