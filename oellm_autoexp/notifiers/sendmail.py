"""E-mail, handed to the site's own `sendmail` program (of Postfix, Exim, msmtp and others: they share its options)."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BeforeValidator, Field

from oellm_autoexp.core.errors import NotifyError
from oellm_autoexp.core.fields import TEXTS_IN_YAML, listed
from oellm_autoexp.notifiers.base import Message, Notifier

if TYPE_CHECKING:
    from email.message import EmailMessage

_FOLDERS = ("/usr/sbin", "/usr/lib")
"""Where sendmail is kept beside PATH: most users have /usr/sbin not in it."""
_LONGEST_SUBJECT = 200
# A user of this machine, or user@host: nothing that sendmail takes for an option, a program, a file or a list.
MailAddress = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.+=%-]*(@[A-Za-z0-9][A-Za-z0-9.-]*)?$")]


class SendmailNotifier(Notifier):
    """An e-mail to `to`, one address or several, from `sender` (null: this user)."""

    class_name: Literal["SendmailNotifier"]
    to: Annotated[tuple[MailAddress, ...], BeforeValidator(listed), Field(min_length=1), TEXTS_IN_YAML]
    sender: MailAddress | None = None

    def send(self, message: Message, timeout_seconds: float) -> None:
        """See Notifier.send."""
        program = _program()
        if program is None:
            raise NotifyError(self.lacks())
        words = [program, "-i", *(["-f", self.sender] if self.sender else []), "--", *self.to]
        try:
            result = subprocess.run(
                words,
                input=self._mail(message).as_bytes(),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=timeout_seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise NotifyError(f"{program} did not end within {timeout_seconds:g} s") from None
        except OSError as error:
            raise NotifyError(f"{program} can't be run: {error.strerror}") from None
        if result.returncode:
            lines = result.stdout.decode(errors="replace").split("\n")
            said = next((line.strip() for line in reversed(lines) if line.strip()), "")
            raise NotifyError(f"{program} ended with exit code {result.returncode}" + (f": {said}" if said else ""))

    def _mail(self, message: Message) -> EmailMessage:
        """The e-mail. No text becomes a header of its own: a subject is one line."""
        from email.message import EmailMessage  # slow to import, and every command imports this file
        from email.policy import default
        from email.utils import localtime

        mail = EmailMessage(policy=default)
        if self.sender:
            mail["From"] = self.sender
        mail["To"] = ", ".join(self.to)
        mail["Subject"] = _one_line(message.subject)
        mail["Date"] = localtime()
        mail["Auto-Submitted"] = "auto-generated"  # RFC 3834: no absence notice answers it
        mail.set_content(message.text.encode(errors="replace").decode())
        return mail

    def lacks(self) -> str:
        """See Notifier.lacks."""
        where = f"the folders of PATH, {' and '.join(_FOLDERS)}"
        return "" if _program() else f"there is no program sendmail here (looked for in {where})"


def _program() -> str | None:
    """The path of the site's sendmail; None if it has none."""
    return shutil.which("sendmail", path=os.pathsep.join((os.environ.get("PATH", os.defpath), *_FOLDERS)))


def _one_line(text: str) -> str:
    """A subject: printable characters only, cut to what mailboxes show."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= _LONGEST_SUBJECT else f"{line[: _LONGEST_SUBJECT - 1]}…"
