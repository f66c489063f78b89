"""The picture of a plan: what people compare with their intention before they submit."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

from oellm_autoexp.config.loader import Source, load
from oellm_autoexp.core.nouns import Manifest
from oellm_autoexp.core.text import number
from oellm_autoexp.testing.plans import plan_of
from oellm_autoexp.view.graph import Graph, as_dot, as_json, as_mermaid, as_text, graph


def manifest(name: str) -> Manifest:
    return plan_of(Source(name)).manifest


def test_the_text_shows_sweep_stages_conditions_and_jobs() -> None:
    text = as_text(graph(manifest("examples/stable_decay"), max_jobs_per_stage=1))
    assert text == (
        "======================================================================\n"
        " Multi-Stage Experiment Plan: stable_decay\n"
        "======================================================================\n"
        "Total: 4 jobs across 2 stage(s)\n"
        "\n"
        "┌────────────────────────────────────────────────────────────────────┐\n"
        "│ Hyperparameter Sweep                                               │\n"
        "│ • lr: [0.01, 0.03]                                                 │\n"
        "│ Total combinations: 2                                              │\n"
        "└────────────────────────────────────────────────────────────────────┘\n"
        "\n"
        "┌────────────────────────────────────────────────────────────────────┐\n"
        "│ Stage: stable (2 jobs)                                             │\n"
        "├────────────────────────────────────────────────────────────────────┤\n"
        "│ Start: Immediate                                                   │\n"
        "│ Jobs:                                                              │\n"
        "│   stable_lr0.01                                                    │\n"
        "│   … 1 more                                                         │\n"
        "└────────────────────────────────────────────────────────────────────┘\n"
        "\n"
        "              │\n"
        "\n"
        "┌────────────────────────────────────────────────────────────────────┐\n"
        "│ Stage: decay (2 jobs)                                              │\n"
        "├────────────────────────────────────────────────────────────────────┤\n"
        "│ Start Conditions:                                                  │\n"
        "│   • FileExists: .../checkpoints/iter_0000080                       │\n"
        "│ Cancel Conditions:                                                 │\n"
        "│   • SlurmState: stable_job = crash or timeout or cancelled or      │\n"
        "│     node_fail or oom                                               │\n"
        "│ Jobs:                                                              │\n"
        "│   decay_lr0.01                                                     │\n"
        "│   … 1 more                                                         │\n"
        "└────────────────────────────────────────────────────────────────────┘\n"
    )


def drawn(*configs: dict[str, Any]) -> Graph:
    composed = replace(
        load(Source(overrides=("backend=tiny_lm", "project.name=${metadata.n}"))), sweep={"configs": list(configs)}
    )
    return graph(plan_of(composed).manifest)


def test_jobs_of_a_stage_that_wait_for_different_things_are_reported_apart() -> None:
    wait = [{"class_name": "FileExistsCondition", "path": "/x"}]
    base = {"stage": "base", "metadata.n": "e1"}
    one = {"stage": "tune", "metadata.n": "t1", "+metadata.of": "${sibling.base.name}", "job.start_conditions": wait}
    two = {"stage": "tune", "metadata.n": "t2"}
    three = {"stage": "tune", "metadata.n": "t3", "job.start_condition_cmd": ["test", "-e", "a b"]}
    tune = drawn(base, one, two, three).stages[1]
    assert tune.start == (
        "FileExists: /x (1 of 3 jobs)",
        "Command: test -e 'a b' (1 of 3 jobs)",
        "Immediate (1 of 3 jobs)",
    )
    assert (tune.cancel, tune.after) == ((), ("base",))


def test_a_siblings_name_is_replaced_where_it_is_a_word_of_its_own_and_nowhere_else() -> None:
    paths = ["/data/re1eased/e1.txt", "/data/e1/done", "${sibling.base.output_dir}/done"]
    waits = [{"class_name": "FileExistsCondition", "path": path} for path in paths]
    base = {"stage": "base", "metadata.n": "e1"}
    after = drawn(base, {"stage": "tune", "metadata.n": "t", "job.start_conditions": waits}).stages[1]
    assert after.start == (
        "FileExists: /data/re1eased/e1.txt",
        "FileExists: /data/base_job/done",
        "FileExists: .../done",
    )


def test_the_worked_example_shows_75_jobs_in_five_stages_and_four_arrows() -> None:
    text = as_text(graph(manifest("examples/wsd_75")))
    assert "Total: 75 jobs across 5 stage(s)" in text
    assert "Total combinations: 15" in text
    assert text.count("Stage: ") == 5
    assert "              │             │             │             │\n" in text
    assert all(len(line) <= 70 for line in text.splitlines())


def test_mermaid_dot_and_json_show_the_same_edges() -> None:
    drawn = graph(manifest("examples/wsd_75"))
    stages = ["stable", "decay40", "decay80", "decay120", "decay160"]
    assert [stage["name"] for stage in json.loads(as_json(drawn))["stages"]] == stages
    assert [stage["after"] for stage in json.loads(as_json(drawn))["stages"]] == [[], *[["stable"]] * 4]
    assert as_mermaid(drawn).count("s0 -->") == 4
    assert all(f'"stable" -> "{name}"' in as_dot(drawn) for name in stages[1:])


def test_a_name_of_a_stage_is_shown_without_what_a_terminal_or_a_format_would_obey() -> None:
    odd = 'a\x1b[31m\x9b2J\u202e"]; #quot; `x` <b>\\n\nb'
    drawn = graph(manifest("examples/wsd_75"), 2)
    first = replace(drawn.stages[0], name=odd, jobs=(odd,), start=(odd,), after=(odd,))
    odder = replace(drawn, title=odd, axes={odd: (odd, 1)}, stages=(first,))
    for shown in (as_text(odder), as_mermaid(odder), as_dot(odder), as_json(odder)):
        assert all(character.isprintable() or character == "\n" for character in shown)
    assert json.loads(as_json(odder))["stages"][0]["name"] == odd
    assert as_mermaid(odder).count("\n") == 3
    labels = re.findall(r'"([^"]*)"', as_mermaid(odder))
    assert labels[0] == "a�[31m�2J�#quot;]; #35;quot; #96;x#96; #lt;b#gt;\\n b<br/>15 jobs"
    assert '"a�[31m�2J�\\"]; #quot; `x` <b>\\\\n b" [label=' in as_dot(odder)
    assert {len(line) for line in as_text(odder).splitlines() if line.startswith(("┌", "│", "└"))} == {70}


def test_small_numbers_are_written_as_people_write_them() -> None:
    assert [number(value) for value in (2.5e-4, 1e-3, 0.01, 0.5, 64, "x", 0.0)] == [
        "2.5e-4",
        "1e-3",
        "0.01",
        "0.5",
        "64",
        "x",
        "0.0",
    ]
