"""Requests to addresses that are secrets: of an address, only its host is ever shown."""

from __future__ import annotations

import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any

from oellm_autoexp.core.errors import NotifyError

_AGENT = {"User-Agent": "oellm-autoexp"}


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected POST would become a GET without its body."""

    def redirect_request(self, *_args: Any, **_more: Any) -> None:
        """Follow none."""


def fetch(
    url: str, timeout_seconds: float, body: bytes | None = None, headers: Mapping[str, str] | None = None
) -> None:
    """GET an address, or POST `body` to it. `timeout_seconds`: the longest time without an answer.

    Raises NotifyError if the answer is not 2xx, or none comes.
    """
    host = _host(url)
    try:
        request = urllib.request.Request(url, body, {**_AGENT, **(headers or {})})  # noqa: S310  http and https only
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=timeout_seconds) as answer:
            answer.read(1)
    except urllib.error.HTTPError as error:
        with error:
            raise NotifyError(f"{host} answered {error.code} {error.reason}".rstrip()) from None
    except urllib.error.URLError as error:
        raise NotifyError(f"{host} can't be reached: {error.reason}") from None
    except TimeoutError:
        raise NotifyError(f"{host} did not answer within {timeout_seconds:g} s") from None
    except (OSError, HTTPException, ValueError) as error:  # its text may hold the address
        raise NotifyError(f"{host}: {type(error).__name__}") from None


def _host(url: str) -> str:
    """The host of an address. Raises NotifyError if it is no address of the web."""
    try:
        parts = urllib.parse.urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        raise NotifyError("the address is no URL") from None
    if parts.scheme not in ("http", "https") or not host:
        raise NotifyError("the address must begin with http:// or https://")
    return host
