"""Ways to notify people: messages to a real server, to a sendmail, by Apprise; and what is said where that fails."""

from __future__ import annotations

import email
import email.policy
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from oellm_autoexp.core.errors import NotifyError
from oellm_autoexp.core.redacted_text import REDACTED
from oellm_autoexp.engine.executing.programs import launch
from oellm_autoexp.notifiers.apprise import _without
from oellm_autoexp.notifiers.base import NOTIFIERS, Message, Notifier
from oellm_autoexp.notifiers.sendmail import SendmailNotifier
from oellm_autoexp.notifiers.webhook import WebhookNotifier
from oellm_autoexp.rules.actions import NotifyAction
from tests.hook_server import HookServer, hook_server
from tests.unit.test_queue import make_event, make_manifest

ENVIRONMENT = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}


@pytest.fixture
def server() -> Iterator[HookServer]:
    with hook_server() as made:
        yield made


def reported(folder: Path, message: str, env: dict[str, str], **action: Any) -> subprocess.CompletedProcess[str]:
    """What becomes of a message, as the worker of the queue sends it; nothing secret is among the program's words."""
    made = launch(
        NotifyAction.model_validate(
            {"class_name": "NotifyAction", "message": message, "timeout_seconds": 5, "subject": "a\nb", **action}
        ),
        manifest=make_manifest(folder),
        event=make_event(),
        id="i",
        state_dir=folder,
    )
    assert not any(value in word for word in made.words for value in env.values())
    return subprocess.run(
        made.words,
        cwd=made.cwd,
        env={**ENVIRONMENT, **made.env, **env},
        input=made.text,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def failed(result: subprocess.CompletedProcess[str]) -> str:
    """The one line that says why a message was not sent, which holds no address."""
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert "s3cr3t" not in line
    return line


# ---- webhooks


@pytest.mark.parametrize(
    "action", [{"webhook": "$HOOK"}, {"notifier": {"class_name": "WebhookNotifier", "url": "$HOOK"}}]
)
def test_a_webhook_gets_the_message_as_json(server: HookServer, tmp_path: Path, action: dict[str, Any]) -> None:
    message = "saved {iteration}\n$(x) 'ä'"
    result = reported(tmp_path, message, {"HOOK": server.url}, **action)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert server.received == [("/s3cr3t-path", {"text": message})]


def refusal(address: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Why a webhook can't be reached, which holds no word of its address but the host."""
    monkeypatch.setenv("HOOK", address)
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(NotifyError) as error:
        WebhookNotifier(class_name="WebhookNotifier", url="$HOOK").send(Message("s", "x"), 0.3)
    assert "s3cr3t" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("answer", [302, 404, 500])
def test_a_webhook_that_refuses_is_a_failure_without_its_address(
    server: HookServer, monkeypatch: pytest.MonkeyPatch, answer: int
) -> None:
    server.answer = answer
    assert refusal(server.url, monkeypatch).startswith(f"127.0.0.1 answered {answer}")


def test_a_webhook_that_never_answers_is_given_up(server: HookServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.answer = 0
    assert refusal(server.url, monkeypatch) == "127.0.0.1 did not answer within 0.3 s"


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("http://127.0.0.1:9/s3cr3t", "can't be reached"),
        ("", "the variable HOOK with the address is not set"),
        ("file:///etc/s3cr3t", "must begin with http"),
        ("http://", "must begin with http"),
        ("http://[s3cr3t", "no URL"),
        ("http://127.0.0.1:9/s3cr3t\n", "127.0.0.1"),
    ],
)
def test_a_webhook_that_is_not_there_says_why(monkeypatch: pytest.MonkeyPatch, address: str, why: str) -> None:
    assert why in refusal(address, monkeypatch)


def test_a_failure_is_reported_in_one_line(tmp_path: Path) -> None:
    assert "can't be reached" in failed(reported(tmp_path, "x", {"HOOK": "http://127.0.0.1:9/s3cr3t"}, webhook="$HOOK"))


# ---- e-mail

SENDMAIL = """#!/bin/sh
printf '%s\\n' "$@" > "$0.words"
cat > "$0.mail"
"""


def sendmail(folder: Path, text: str = SENDMAIL) -> Path:
    program = folder / "bin" / "sendmail"
    program.parent.mkdir()
    program.write_text(text)
    program.chmod(0o755)
    return program


def path_of(program: Path) -> dict[str, str]:
    return {"PATH": f"{program.parent}:{os.environ['PATH']}"}


MAIL = {"class_name": "SendmailNotifier", "to": ["me", "you@example.org"], "sender": "autoexp@example.org"}


def test_a_mail_goes_to_the_sites_sendmail_and_no_text_becomes_a_header_of_its_own(tmp_path: Path) -> None:
    program = sendmail(tmp_path)
    hostile = "crash\r\nBcc: all@example.org\n\nä\0\x1b[2J" + "x" * 300
    body = "line\n.\nFrom here\nBcc: all@example.org\nüber\n"
    result = reported(tmp_path, body, path_of(program), notifier=MAIL, subject=hostile)
    assert (result.returncode, result.stderr) == (0, "")
    words = program.with_suffix(".words").read_text().splitlines()
    assert words == ["-i", "-f", "autoexp@example.org", "--", "me", "you@example.org"]
    mail = email.message_from_bytes(program.with_suffix(".mail").read_bytes(), policy=email.policy.default)
    assert mail["Bcc"] is None
    assert mail["Subject"].startswith("crash Bcc: all@example.org ä [2Jxxx")
    assert len(mail["Subject"]) <= 200
    assert (mail["To"], mail["From"]) == ("me, you@example.org", "autoexp@example.org")
    assert mail["Auto-Submitted"] == "auto-generated"
    assert mail.get_body().get_content() == body  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "address",
    [
        "-oQ/tmp",
        "a b",
        "a@b\nBcc: c",
        "|sh",
        "/etc/x",
        ":include:/x",
        "a,b",
        "<a@b>",
        "",
        "a@b@c",
        "a@-b",
        "{name}@b",
        "ä@b",
    ],
)
def test_an_address_that_is_none_is_refused(address: str) -> None:
    for key in ("to", "sender"):
        with pytest.raises(ValidationError):
            SendmailNotifier.model_validate({**MAIL, key: address})


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("#!/bin/sh\necho 'no mail today' >&2\nexit 75\n", "ended with exit code 75: no mail today"),
        ("#!/bin/sh\nexec sleep 60\n", "did not end within 0.5 s"),
        ("#!/no/such/interpreter\n", "can't be run: No such file or directory"),
    ],
)
def test_a_sendmail_that_fails_is_a_failure_in_its_words(tmp_path: Path, script: str, why: str) -> None:
    env = path_of(sendmail(tmp_path, script))
    assert why in failed(reported(tmp_path, "x", env, notifier=MAIL, timeout_seconds=0.5))


def test_a_machine_without_sendmail_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notifier = SendmailNotifier.model_validate(MAIL)
    monkeypatch.setattr("oellm_autoexp.notifiers.sendmail._FOLDERS", (str(tmp_path),))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "there is no program sendmail here" in notifier.lacks()
    sendmail(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert notifier.lacks() == ""


# ---- Apprise


def apprise(**keys: Any) -> dict[str, Any]:
    pytest.importorskip("apprise")
    return {"class_name": "AppriseNotifier", **keys}


def test_apprise_sends_to_the_services_in_a_variable(server: HookServer, tmp_path: Path) -> None:
    address = server.url.replace("http://", "json://")
    result = reported(
        tmp_path, "it ended", {"URLS": f"{address}, {address}"}, notifier=apprise(url="$URLS"), subject="s"
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert [(body["title"], body["message"]) for _, body in server.received] == [("s", "it ended")] * 2


def test_apprise_sends_to_the_services_of_a_file_that_have_a_tag(server: HookServer, tmp_path: Path) -> None:
    address = server.url.replace("http://", "json://")
    (tmp_path / "apprise.conf").write_text(f"team={address}/team\nme={address}/me\n")
    notifier = apprise(config=str(tmp_path / "apprise.conf"), tags="team")
    assert reported(tmp_path, "x", {}, notifier=notifier).returncode == 0
    assert [path for path, _ in server.received] == ["/s3cr3t-path/team"]


@pytest.mark.parametrize(
    ("urls", "why"),
    [("nothing://s3cr3t", "Apprise knows no service by what is in $URLS"), ("", "the variable URLS with the address")],
)
def test_apprise_without_a_service_says_so(tmp_path: Path, urls: str, why: str) -> None:
    env = {"URLS": urls} if urls else {}
    assert why in failed(reported(tmp_path, "x", env, notifier=apprise(url="$URLS")))


def test_apprise_that_is_refused_tells_the_answer_and_no_part_of_the_address(
    server: HookServer, tmp_path: Path
) -> None:
    server.answer = 403
    address = server.url.replace("http://", "json://me:s3cr3t-word@")
    assert "403" in failed(reported(tmp_path, "x", {"URLS": address}, notifier=apprise(url="$URLS")))


def test_parts_of_addresses_are_taken_out_of_what_apprise_says() -> None:
    said = "Failed: tgram://s3cr3t%2Fword/chat12?key=s3cr3t3 or s3cr3t/word\nat chat12"
    assert "s3cr3t" not in _without(["tgram://s3cr3t%2Fword/chat12?key=s3cr3t3"], said)
    assert _without([], "token=abcdefgh1") == f"token={REDACTED}"


# ---- all of them


@pytest.mark.parametrize(
    "section",
    [
        {"class_name": "WebhookNotifier", "url": "https://host/s3cr3t"},
        {"class_name": "AppriseNotifier", "url": "tgram://s3cr3t"},
        {"class_name": "AppriseNotifier"},
        {"class_name": "AppriseNotifier", "url": "$A", "tags": "x"},
        {"class_name": "AppriseNotifier", "url": "$A", "config": "x"},
        {"class_name": "SendmailNotifier", "to": []},
        {"class_name": "Notifier"},
    ],
)
def test_a_notifier_that_is_none_is_refused(section: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(NOTIFIERS.union()).validate_python(section)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", json.dumps({"notifier": [], "subject": "", "text": "", "timeout_seconds": 1})],
)
def test_what_is_no_message_is_refused_in_one_line(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    import io

    from oellm_autoexp.notifiers.send import main

    assert main(io.StringIO(text)) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_of_an_exception_that_nothing_foresees_only_kind_and_place_are_reported(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import io

    from oellm_autoexp.notifiers.send import main

    def fail(*_: Any) -> None:
        raise RuntimeError("https://host/s3cr3t")

    monkeypatch.setattr(SendmailNotifier, "send", fail)
    asked = {"notifier": MAIL, "subject": "", "text": "", "timeout_seconds": 1}
    assert main(io.StringIO(json.dumps(asked))) == 1
    said = capsys.readouterr().err
    assert said.startswith("SendmailNotifier: RuntimeError in test_notifiers.py:")
    assert "s3cr3t" not in said


def test_every_notifier_says_what_it_is() -> None:
    for kind in NOTIFIERS.classes().values():
        assert issubclass(kind, Notifier)
        assert kind.__doc__
