"""Any service that the library Apprise knows (chats, SMS, phones, e-mail servers): more than a hundred.

It comes with the extra `oellm-autoexp[apprise]`. Addresses of services hold their passwords, so they stand in a
variable or in a file of Apprise's own, and no word of them is shown.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic import BeforeValidator, model_validator

from oellm_autoexp.core.errors import NotifyError
from oellm_autoexp.core.fields import TEXTS_IN_YAML, listed
from oellm_autoexp.core.redacted_text import REDACTED, redact_message
from oellm_autoexp.notifiers.base import Address, Message, Notifier, address_of

_SHORTEST_SECRET = 6


class AppriseNotifier(Notifier):
    """A message by Apprise, to the services in the variable `url` (`$NAME`), or in a configuration file of Apprise's.

    Of the services in `config`, `tags` chooses some (none: all).
    """

    class_name: Literal["AppriseNotifier"]
    url: Address | None = None
    config: str | None = None
    tags: Annotated[tuple[str, ...], BeforeValidator(listed), TEXTS_IN_YAML] = ()

    @model_validator(mode="after")
    def _one_source(self) -> AppriseNotifier:
        if (self.url is None) == (self.config is None):
            raise ValueError("give either 'url' or 'config'")
        if self.tags and self.config is None:
            raise ValueError("'tags' choose among the services of a 'config'")
        return self

    def send(self, message: Message, timeout_seconds: float) -> None:  # noqa: ARG002  each service has a limit of its own
        """See Notifier.send."""
        if why := self.lacks():
            raise NotifyError(why)
        warnings = _Warnings()
        logger = logging.getLogger("apprise")
        logger.propagate = False
        logger.addHandler(warnings)
        services = self._services(importlib.import_module("apprise"))
        if not services.notify(title=message.subject, body=message.text, tag=[*self.tags] or "all"):
            said = _without((service.url() for service in services), warnings.last)
            raise NotifyError(f"Apprise could not send it: {said or 'it does not say why'}")

    def _services(self, apprise: Any) -> Any:
        """The services, of which there is at least one. Raises NotifyError."""
        services = apprise.Apprise()
        if self.url is not None:
            known = services.add(address_of(self.url))
        else:
            config = apprise.AppriseConfig()
            known = config.add(str(Path(self.config or "").expanduser()))
            services.add(config)
        if not (known and len(services)):
            raise NotifyError(f"Apprise knows no service by what is in {self.url or self.config}")
        return services

    def lacks(self) -> str:
        """See Notifier.lacks."""
        if importlib.util.find_spec("apprise") is not None:
            return ""
        return "the package apprise is not installed: pip install 'oellm-autoexp[apprise]'"


class _Warnings(logging.Handler):
    """Keeps the last thing that Apprise complains of: its answer is but true or false."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.last = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        self.last = record.getMessage()


def _without(urls: Iterable[str], text: str) -> str:
    """A text without the parts of addresses that may be secrets: all but the scheme, and what is short."""
    for url in urls:
        parts = urlsplit(url)
        pieces = (*re.split(r"[/:@]+", f"{parts.netloc}/{parts.path}"), *(value for _, value in parse_qsl(parts.query)))
        forms = {form for piece in pieces for form in (piece, unquote(piece)) if len(form) >= _SHORTEST_SECRET}
        for form in sorted(forms, key=len, reverse=True):
            text = text.replace(form, REDACTED)
    return redact_message(" ".join(text.split()))
