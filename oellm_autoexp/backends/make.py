"""The backend that a config's `backend.class_name` names.

To add one: a typed section in config/schema.py and its name in `Backend` there, and a case in `make_backend`.
"""

from __future__ import annotations

from oellm_autoexp.backends.base import Backend
from oellm_autoexp.backends.command import CommandLine
from oellm_autoexp.backends.megatron import log_lines as megatron_lines
from oellm_autoexp.backends.megatron.backend import MegatronCommand
from oellm_autoexp.backends.torchtitan import log_lines as torchtitan_lines
from oellm_autoexp.backends.torchtitan.backend import Torchtitan
from oellm_autoexp.config.schema import Backend as Section
from oellm_autoexp.config.schema import CommandBackend, MegatronBackend, TorchtitanBackend


def make_backend(section: Section) -> Backend:
    """What makes the commands of jobs with this section."""
    match section:
        case CommandBackend():
            return CommandLine(section)
        case MegatronBackend():
            return MegatronCommand(section)
        case TorchtitanBackend():
            return Torchtitan(section)


def sample_lines(section: Section) -> tuple[str, ...]:
    """Lines that the program of this section is known to print; none where the program is the user's own."""
    match section:
        case MegatronBackend():
            return megatron_lines.SAMPLE_LINES
        case TorchtitanBackend():
            return torchtitan_lines.SAMPLE_LINES
        case CommandBackend(prints="torchtitan"):
            return torchtitan_lines.SAMPLE_LINES
        case CommandBackend(prints="megatron"):
            return megatron_lines.SAMPLE_LINES
        case CommandBackend(megatron=stood_in_for) if stood_in_for:
            return megatron_lines.SAMPLE_LINES
        case _:
            return ()
