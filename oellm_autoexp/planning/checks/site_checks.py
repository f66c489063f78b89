"""What a job asks for against what its site takes: by SLURM's own answers, else by the data of its profile. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from oellm_autoexp.backends.base import Note
from oellm_autoexp.config.schema import SlurmSection
from oellm_autoexp.core.errors import ConfigError, Problem
from oellm_autoexp.core.location import CONFIG
from oellm_autoexp.sbatch.section import LimitsSection, SiteSection
from oellm_autoexp.sbatch.times import parse_time
from oellm_autoexp.schedulers.site import VARIABLES, Partition, Qos, Site
from oellm_autoexp.schedulers.site_limits import longest, problems

_LISTED = 8


def site_problems(
    slurm: SlurmSection, asked: Mapping[str, str], live: Site, environment: Mapping[str, str]
) -> list[Problem]:
    """Why the site of a job would not take it.

    `asked` are its directives by long option (`_` for `-`), `live` is what SLURM reports of the cluster, `environment`
    that of the submission. Raises ConfigError if the profile's data can't be read.
    """
    asked, known = _with_variables(asked, environment), _known(slurm, live)
    return [*_missing(slurm, asked, known), *problems(asked, known)]


def longest_seconds(
    slurm: SlurmSection, asked: Mapping[str, str], live: Site, environment: Mapping[str, str]
) -> int | None:
    """The longest time limit that the site of a job allows it; None: no limit is known. Arguments as site_problems."""
    return longest(_with_variables(asked, environment), _known(slurm, live))


def _with_variables(asked: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, str]:
    """The options of a job, those that variables of the submission set among them."""
    by_variable = {option: environment[name] for name, option in VARIABLES.items() if environment.get(name)}
    return {**by_variable, **asked}


def _known(slurm: SlurmSection, live: Site) -> Site:
    """What is known of a site. Raises ConfigError if the profile's data can't be read."""
    profile = declared(slurm.site)
    if live.accounting == "silent":  # then the profile's numbers are what is known of QOS
        return replace(live, qos=profile.qos)
    return live if live.complete else profile


def debug_notes(slurm: SlurmSection, asked: Mapping[str, str], environment: Mapping[str, str]) -> Iterator[Note]:
    """What a person should know of a choice of tests: that it takes another QOS than their variable names."""
    own, taken = environment.get("SLURM_QOS"), asked.get("qos")
    if slurm.debug and own and taken and taken != own:
        yield Note("slurm.debug", f"slurm.debug takes QOS {taken} in place of $SLURM_QOS ({own})")


def declared(section: SiteSection) -> Site:
    """What a profile says of a site. Raises ConfigError for a time that is none."""
    partitions = {
        name: Partition(name, name == section.partition, _seconds(limits, f"partitions.{name}"), limits.nodes)
        for name, limits in section.partitions.items()
    }
    qos = {}
    for name, limits in section.qos_limits.items():
        seconds = _seconds(limits, f"qos_limits.{name}")
        lifts_time, lifts_nodes = seconds is not None, limits.nodes is not None
        qos[name.lower()] = Qos(name, seconds, limits.nodes, limits.min_nodes, lifts_time, lifts_nodes)
    return Site(partitions, qos)


def _seconds(limits: LimitsSection, key: str) -> int | None:
    try:
        return None if limits.time is None else parse_time(limits.time)
    except ConfigError as error:
        raise ConfigError(
            *(Problem(p.what, CONFIG / "slurm.site" / key / "time", p.hint) for p in error.problems)
        ) from None


def _missing(slurm: SlurmSection, asked: Mapping[str, str], known: Site) -> list[Problem]:
    """Options without which the site takes no job, and a choice of tests that chooses nothing."""
    found = [
        Problem(
            f"no {'QOS' if option == 'qos' else option} is set, and {slurm.site.name} accepts no job without one",
            CONFIG / "slurm.sbatch" / option,
            f"export SLURM_{option.upper()}=NAME; {_yours(option, slurm.site, known)}",
        )
        for option in slurm.site.needs
        if not asked.get(option)
    ]
    if slurm.debug and not (slurm.site.debug_qos or slurm.site.debug_partition or asked.get("partition")):
        hint = "export SLURM_PARTITION_DEBUG=NAME, or set slurm.site.debug_partition or debug_qos"
        found.append(Problem("there is no partition or QOS for tests", CONFIG / "slurm.debug", hint))
    return found


def _yours(option: str, site: SiteSection, known: Site) -> str:
    """The names that a user has, or the command that lists them."""
    names = known.accounts if option == "account" else ()
    if option == "qos":
        names = tuple(sorted(frozenset[str]().union(*(each.qos for each in known.associations))))
    return f"yours: {', '.join(names[:_LISTED])}" if names else f"to list yours: {site.accounts_cmd}"
