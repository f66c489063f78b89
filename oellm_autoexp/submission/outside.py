"""What planning inside an image asks the machine outside, where jobs are submitted, and the answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from oellm_autoexp.core.errors import AutoexpError, ConfigError, Problem, SchedulerError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic import TypeAdapter

    from oellm_autoexp.config.schema import SlurmSection
    from oellm_autoexp.containers.dialogue import Answers, Outside
    from oellm_autoexp.core.nouns import Manifest
    from oellm_autoexp.schedulers.site import Site

_SITE, _CONTAINERS = "site", "containers"
_KINDS = {kind.exit_code: kind for kind in (ConfigError, SchedulerError)}


@dataclass(frozen=True)
class Machine:
    """The machine where jobs are submitted: what SLURM allows there, and what keeps jobs from their containers."""

    site: Callable[[SlurmSection], Site]
    container_problems: Callable[[Manifest], list[Problem]]


def here() -> Machine:
    """This machine."""
    from oellm_autoexp.planning.programs import container_problems

    return Machine(lambda section: section.client.site(section), container_problems)


def asked(outside: Outside) -> Machine:
    """The machine outside, by its own word."""
    from pydantic import TypeAdapter

    from oellm_autoexp.schedulers.site import Site

    def site(section: SlurmSection) -> Site:
        answer = outside.ask(_SITE, section.model_dump(mode="json", by_alias=True, exclude={"env", "sbatch", "srun"}))
        return TypeAdapter(Site).validate_python(answer)

    def container_problems(manifest: Manifest) -> list[Problem]:
        of_all = manifest.model_copy(update={"jobs": ()})
        return _problems().validate_python(outside.ask(_CONTAINERS, of_all.model_dump(mode="json", by_alias=True)))

    return Machine(site, container_problems)


def answers() -> Answers:
    """What this machine answers to an `asked` in an image."""
    from oellm_autoexp.config.schema import SlurmSection
    from oellm_autoexp.core.nouns import Manifest

    machine = here()

    def site(section: Any) -> Any:
        return _listed(asdict(machine.site(SlurmSection.model_validate(section))))

    def container_problems(manifest: Any) -> Any:
        return _plain_problems(machine.container_problems(Manifest.model_validate(manifest)))

    return {_SITE: site, _CONTAINERS: container_problems}


def _listed(value: Any) -> Any:
    """Plain data with its sets as lists, for JSON."""
    if isinstance(value, dict):
        return {key: _listed(item) for key, item in value.items()}
    return [_listed(item) for item in value] if isinstance(value, (list, tuple, frozenset)) else value


def _plain_problems(problems: Sequence[Problem]) -> Any:
    return _problems().dump_python([*problems], mode="json")


def _problems() -> TypeAdapter[list[Problem]]:
    """Problems as plain data."""
    from pydantic import TypeAdapter

    return TypeAdapter(list[Problem])


def problems_result(error: AutoexpError) -> dict[str, Any]:
    """An error as a result that is sent to the outside."""
    return {"problems": _plain_problems(error.problems), "exit_code": error.exit_code}


def raise_problems(result: dict[str, Any]) -> None:
    """Raise the error that a result holds, or return if it holds none."""
    if problems := result.get("problems"):
        raise _KINDS.get(result["exit_code"], AutoexpError)(*_problems().validate_python(problems))
