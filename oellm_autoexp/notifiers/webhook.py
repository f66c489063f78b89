"""A webhook: an address that takes messages as JSON, such as Slack's or Mattermost's."""

from __future__ import annotations

import json
from typing import Literal

from oellm_autoexp.notifiers.base import Address, Message, Notifier, address_of


class WebhookNotifier(Notifier):
    """Posts JSON `{"text": message}` to the address in the variable `url` (`$NAME`)."""

    class_name: Literal["WebhookNotifier"]
    url: Address

    def send(self, message: Message, timeout_seconds: float) -> None:
        """See Notifier.send."""
        from oellm_autoexp.storage.http import fetch  # slow to import, and every command imports this file

        body = json.dumps({"text": message.text}).encode()
        fetch(address_of(self.url), timeout_seconds, body, {"Content-Type": "application/json"})
