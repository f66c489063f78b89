"""What the planner makes of the monitoring rules: mistakes, advice, and the config values that templates need. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from operator import attrgetter, is_
from typing import Any

from oellm_autoexp.causes.cause import CATEGORIES
from oellm_autoexp.config.schema import AutoexpConfig, JobSection, decode, decode_section
from oellm_autoexp.config.shipped_rules import cause_names
from oellm_autoexp.config.values.overlay import Overlay
from oellm_autoexp.core.errors import ConfigError, Problem, raise_all
from oellm_autoexp.core.location import CONFIG, Location
from oellm_autoexp.core.text import did_you_mean, dotted
from oellm_autoexp.decisions.template_values import JOB_KEYS
from oellm_autoexp.rules.actions import CancelAction, EventAction, RestartAction
from oellm_autoexp.rules.conditions import Condition, MetadataCondition
from oellm_autoexp.rules.plausible import Odd, odd_value
from oellm_autoexp.rules.rules import SHIPPED_CAUSES, LogEvent, MonitoringSection, Rules, StateEvent
from oellm_autoexp.rules.templates import filled, keys_of, looked_up_keys, used_keys
from oellm_autoexp.sbatch.directives import DIRECTIVES, with_options
from oellm_autoexp.sbatch.directives import directives as directives_of
from oellm_autoexp.sbatch.resources import resources
from oellm_autoexp.search.patterns import advice, group_names


class Decoder:
    """Decodes and checks the configs of jobs; a section that several of them have is decoded once."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], Any] = {}
        """By its name and what is written in it: a section. Texts, as to Python `1` equals `true`."""

    def config(self, tree: Mapping[str, Any]) -> AutoexpConfig:
        """The typed config of a job's resolved tree. Raises ConfigError with all mistakes, here and elsewhere."""
        rules: MonitoringSection | None = None
        wrong: Sequence[Problem] = ()
        try:
            rules = self.section(tree)
        except ConfigError as error:
            wrong = error.problems
        keys = {name: (name, repr(tree[name])) for name in _OFTEN_EQUAL if name in tree}
        known = {name: self._known[key] for name, key in keys.items() if key in self._known}
        try:
            config = decode({**tree, **known, "monitoring": rules or {}})
        except ConfigError as error:
            raise ConfigError(*error.problems, *wrong) from None
        raise_all(ConfigError, [*wrong, *job_problems(config.job, tree)])
        for name in keys.keys() - known.keys():
            self._remember(keys[name], getattr(config, name))
        return config

    def section(self, tree: Mapping[str, Any]) -> MonitoringSection:
        """The `monitoring` section of a job's resolved tree. Raises ConfigError with all mistakes in it."""
        found = tree.get("monitoring") or {}
        written = dict(found) if isinstance(found, Mapping) else found
        paths = written.pop("output_paths", ()) if isinstance(written, dict) else ()
        key = "monitoring", repr(written)
        rules: MonitoringSection | None = self._known.get(key)
        if rules is None:
            rules = decode_section("monitoring", written)
            raise_all(ConfigError, problems(rules, tree))
            self._remember(key, rules)
        if paths:
            checked = decode_section("monitoring", {"output_paths": paths})
            rules = rules.model_copy(update={"output_paths": checked.output_paths})
        return rules

    def _remember(self, key: tuple[str, str], section: Any) -> None:
        self._known[key] = section
        if len(self._known) > _FEW:
            del self._known[next(iter(self._known))]


_OFTEN_EQUAL = ("container", "slurm", "scheduler", "job")  # the others are nearly always a job's own
_FEW = 40  # sections of one plan, such as those of each stage


def recorded(section: MonitoringSection) -> dict[str, Any]:
    """A section as the manifest has it: without what is its default, and what is each job's own."""
    return section.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude={"output_paths"})


def own_rules(section: MonitoringSection, plan: MonitoringSection) -> dict[str, Any] | None:
    """A job's section as the manifest has it; None where it is that of the plan."""
    common = _common()
    if all(map(is_, common(section), common(plan))):  # decoded once for both
        return None
    return recorded(section)


@cache
def _common() -> Callable[[MonitoringSection], tuple[Any, ...]]:
    """What gives a section's values but those that are each job's own."""
    return attrgetter(*(name for name in MonitoringSection.model_fields if name != "output_paths"))


def problems(rules: Rules, config: Mapping[str, Any]) -> list[Problem]:
    """What is wrong with rules that decode: unknown keys of templates, words and events; events that never come."""
    found = list(_switched_off(rules))
    job = config.get("job")
    threshold = job.get("inactivity_threshold_seconds") if isinstance(job, Mapping) else None
    found += _event_problems(rules, own_threshold=threshold is not None)
    values = dotted(config)
    found += [
        _unknown_key(key, CONFIG / "monitoring.termination_command", {*JOB_KEYS, *values})
        for word in rules.termination_command
        for key in keys_of(word)
        if key not in JOB_KEYS and key not in values
    ]
    made = rules.published()
    for event, binding, place in rules.bindings():
        own = _event_keys(event)
        # what publishes an event may give it more metadata
        if event.name in made:
            own |= {key for other, action, _ in rules.bindings() for key in _event_keys(other) | _published(action)}
        if isinstance(binding.action, RestartAction):
            found += check_overrides(binding.action.overrides, place / "overrides", config)
        if isinstance(event, StateEvent) and event.state == "stall":  # it comes with those of the line that caused it
            own |= {key for other in rules.log_events.values() if other.state == "stall" for key in _event_keys(other)}
        for key in used_keys(binding):
            if key not in own and key not in JOB_KEYS and key not in values:
                found.append(_unknown_key(key, place, {*own, *JOB_KEYS, *values}))
        found += _unknown(looked_up_keys(binding), place, {*own, *JOB_KEYS, *_plain(values)})
        if "category" not in own:
            found += _unknown_categories(binding, place)
    return found


def _switched_off(rules: Rules) -> Iterator[Problem]:
    """Rules of causes that are switched off although there are none of these names."""
    off = [name for name, rule in rules.causes.items() if rule is None]
    for name in off:
        if name not in cause_names():
            hint = did_you_mean(name, cause_names()) or f"{SHIPPED_CAUSES} has the rules"
            what = f"there is no rule '{name}' that null could switch off"
            yield Problem(what, CONFIG / "monitoring.causes" / name, hint)


def job_problems(job: JobSection, config: Mapping[str, Any]) -> list[Problem]:
    """What is wrong with the conditions of a job that decode: keys that nothing is called."""
    return [
        problem
        for where, conditions in _job_conditions(job).items()
        for number, condition in enumerate(conditions)
        if (keys := list(looked_up_keys(condition)))
        for problem in _unknown(keys, CONFIG / "job" / where / number, {*JOB_KEYS, *_plain(dotted(config))})
    ]


def _job_conditions(job: JobSection) -> dict[str, tuple[Condition, ...]]:
    return {
        "start_conditions": job.start_conditions,
        "cancel_conditions": job.cancel_conditions,
        "done_conditions": job.done_conditions,
    }


def _plain(values: Mapping[str, Any]) -> Iterator[str]:
    """The keys of values that a condition can look at: no lists."""
    return (key for key, value in values.items() if not isinstance(value, Mapping | list))


def _unknown(keys: Iterable[str], where: Location, known: Collection[str]) -> list[Problem]:
    """The keys of conditions that nothing is called."""
    return [Problem(f"there is no value '{key}'", where, did_you_mean(key, known)) for key in keys if key not in known]


def _unknown_categories(binding: EventAction, place: Location) -> Iterator[Problem]:
    """Words that conditions compare a job's category of failure with, and that are no category."""
    for number, condition in enumerate(binding.conditions):
        if isinstance(condition, MetadataCondition) and condition.key == "category":
            words = map(str, condition.compared)
            for word in dict.fromkeys(word for word in words if word and word not in CATEGORIES and "{" not in word):
                hint = did_you_mean(word, CATEGORIES) or f"known: {', '.join(CATEGORIES)}"
                yield Problem(f"there is no category '{word}'", place / "conditions" / number, hint)


def _unknown_key(key: str, place: Location, known: Collection[str]) -> Problem:
    hint = did_you_mean(key, known) or "a literal brace is written twice: {{ }}"
    return Problem(f"there is no value '{{{key}}}'", place, hint)


def check_overrides(overrides: Mapping[str, Any], where: Location, config: Mapping[str, Any]) -> list[Problem]:
    """What is wrong with the overrides of a new attempt, as far as can be seen from them and the job's config."""
    directives = {key.removeprefix(DIRECTIVES): v for key, v in overrides.items() if key.startswith(DIRECTIVES)}
    found = []
    try:
        with_options("", directives)
        directives_of(directives, (), name="x", log_path="/x", work_dir="/")
        plain = {key: value for key, value in directives.items() if not _templates(value)}
        resources(plain)
    except ConfigError as error:
        found = [Problem(problem.what, where, problem.hint) for problem in error.problems]
    if any(key.lstrip("+~") == "index" for key in overrides):
        found.append(Problem("a job keeps its index", where, "leave it out"))
    # A single + is no mistake where the key has a default only, which can't be seen here.
    anew = {f"+{key}" if key.startswith("+") and not key.startswith("++") else key: overrides[key] for key in overrides}
    try:
        Overlay(dict(config), {}).apply(anew)
    except ConfigError as error:
        found += [replace(problem, where=where / str(problem.where).removeprefix("$.")) for problem in error.problems]
    return found


def _templates(value: Any) -> bool:
    return bool(keys_of(str(value)))


def known_overrides(rules: Rules) -> Iterator[tuple[Location, dict[str, Any]]]:
    """The overrides of new attempts that no template changes, each with its place in the config."""
    for _, binding, place in rules.bindings():
        if isinstance(binding.action, RestartAction) and binding.action.overrides:
            try:
                action = filled(RestartAction(class_name="RestartAction", overrides=binding.action.overrides), {})
            except KeyError:
                continue
            yield place / "overrides", action.overrides


def template_values(rules: Rules, job: JobSection, config: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a job's config that the templates of its rules name, or conditions, by dotted key."""
    wanted = {key for _, binding, _ in rules.bindings() for key in (*used_keys(binding), *looked_up_keys(binding))}
    wanted.update(key for each in _job_conditions(job).values() for one in each for key in looked_up_keys(one))
    wanted.update(key for word in rules.termination_command for key in keys_of(word))
    return {key: value for key in sorted(wanted - JOB_KEYS) for value in _at(config, key)}


def notes(rules: Rules, lines: Sequence[str] = ()) -> list[str]:
    """States without effect, slow patterns with the better form, and those that catch wrong words of `lines`."""
    patterns = {name: e.pattern for name, e in rules.log_events.items() if e.pattern and e.pattern_type != "substring"}
    found = ((name, advice(pattern)) for name, pattern in patterns.items())
    slow = [f"the pattern of monitoring.log_events.{name} {why}" for name, why in found if why]
    odd = ((name, odd_value(event, lines)) for name, event in rules.log_events.items())
    return [*_states_without_effect(rules), *slow, *(_odd_note(name, value) for name, value in odd if value)]


def _states_without_effect(rules: Rules) -> Iterator[str]:
    """A note for each log event whose state no job comes to count as."""
    for name, event in rules.log_events.items():
        state, place = event.state, f"the state {event.state} of monitoring.log_events.{name}"
        if state == "success" and not any(isinstance(each.action, CancelAction) for each in event.bindings):
            yield (
                f"{place} has no effect: the exit code decides whether a job has succeeded. For a line that says that "
                "the work is done, use monitoring.termination_string, or a CancelAction in the event"
            )
        elif state == "blocked":
            yield f"{place} has no effect: only a job that was not submitted can be blocked; remove the state"
        elif state in ("pending", "running"):
            yield f"{place} has no effect: the scheduler decides whether a job is {state}; remove the state"


def _odd_note(name: str, odd: Odd) -> str:
    return (
        f"the pattern of monitoring.log_events.{name} extracts '{odd.value}' as {odd.key}, which is not a {odd.what}, "
        f"in a line that the program prints: {odd.line}"
    )


def _event_problems(rules: Rules, *, own_threshold: bool) -> Iterator[Problem]:
    published = rules.published()
    for name, event in rules.log_events.items():
        where = CONFIG / "monitoring.log_events" / name
        if event.pattern is None and event.pattern_type in ("regex", "substring") and name not in published:
            yield Problem(
                "this event can never occur", where, "give it a pattern, or a PublishEventAction that names it"
            )
        if event.pattern_type == "inactivity" and not (
            own_threshold or event.inactivity_threshold_seconds or rules.inactivity_threshold_seconds
        ):
            yield Problem(
                "the rule has no time limit", where, "set inactivity_threshold_seconds, here or for the section"
            )
        if name in rules.state_events:
            yield Problem("a log event and a state event have this name", where, "give one of them another name")
    states: dict[str | None, str] = {}
    for name, state_event in rules.state_events.items():
        other = states.setdefault(state_event.state, name)
        if other != name:
            what = f"'{other}' is already for the state '{state_event.state}'"
            hint = f"put the actions into '{other}', or remove it: '{other}: null'"
            yield Problem(what, CONFIG / "monitoring.state_events" / name, hint)
    known = {*rules.log_events, *rules.state_events}
    for name in sorted(published - known):
        yield Problem(
            f"there is no event '{name}'", CONFIG / "monitoring", did_you_mean(name, known) or "declare this event"
        )


def _event_keys(event: LogEvent | StateEvent) -> set[str]:
    """What an event's metadata hold."""
    keys = set(event.metadata)
    if isinstance(event, LogEvent) and event.pattern is not None and event.pattern_type != "substring":
        keys |= {name for name in group_names(event.pattern) if not name.isdecimal()}
    return keys | set(event.extract_groups) if isinstance(event, LogEvent) else keys


def _published(binding: Any) -> set[str]:
    return set(getattr(binding.action, "metadata", {}))


def _at(config: Mapping[str, Any], key: str) -> Iterator[Any]:
    """The value at a dotted key, if there is one (a list or mapping is none that a word can hold)."""
    value: Any = config
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return
        value = value[part]
    if not isinstance(value, Mapping | list):
        yield value
