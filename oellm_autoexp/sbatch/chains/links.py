"""The lines of a script that make its job a chain: what each link checks before its program, and after. Pure.

A chain is an array of the scheduler whose tasks, its links, run one at a time (`--array=1-10%1`). No monitor need be
alive for it: a link that finds that nothing is left to do ends the rest.
"""

from __future__ import annotations

import math
from string import Template

from oellm_autoexp.core.nouns import Chain
from oellm_autoexp.core.states import DO_NOT_REQUEUE
from oellm_autoexp.core.text import shell

NEEDED_FUNCTION = "autoexp_in_marks"
"""A function of the shipped template that these lines call."""

_MOST_SECONDS = 1800
"""How long a link waits for the end of the one before; SLURM gives up on processes earlier (UnkillableStepTimeout)."""

# An array's limit counts a task as ended while its processes are still being killed (measured on SLURM 22.05), so that
# a link waits until the one before has left the state COMPLETING.
_BEFORE = Template(
    r"""# The job is a chain: this script runs for each of its $links links, one after the other.
autoexp_goal=$goal autoexp_progress_file=$progress_file autoexp_stop_file=$stop_file
autoexp_token=$${SLURM_JOB_NAME##*.} autoexp_by_slurm=$by_slurm
autoexp_is_link() { [ -n "$${SLURM_ARRAY_TASK_ID-}" ] && [ -z "$${$terminal+set}" ]; }  # no terminal
autoexp_reached() {  # the first number of the progress file; '' without one
  local text=''
  [ -z "$$autoexp_progress_file" ] || { IFS= read -r text < "$$autoexp_progress_file"; } 2> /dev/null
  [[ $$text =~ ^[[:space:]]*([0-9]{1,18}) ]] && printf '%s' "$$((10#$${BASH_REMATCH[1]}))"
}
autoexp_is_complete() { [ -n "$$autoexp_goal" ] && [ -n "$$1" ] && [ "$$1" -ge "$$autoexp_goal" ]; }
autoexp_write_end() { rm -f -- chain.end && printf '%s\n' "$$autoexp_token" "$$autoexp_id" "$$1" "$$2" > chain.end; }
autoexp_end_chain() {  # the links that wait are not needed: $$1 is complete, stopped or failed, $$2 says why
  printf '%s\n' "oellm-autoexp: link $$SLURM_ARRAY_TASK_ID ends the chain: $$2" >&2
  autoexp_in_marks autoexp_write_end "$$1" "$$2"
  [ -z "$$autoexp_by_slurm" ] || timeout 60 scancel --state=PENDING "$$SLURM_ARRAY_JOB_ID" > /dev/null 2>&1
}
autoexp_ended() {  # how a link before has ended the chain; '' if none has
  local token end
  [[ -f chain.end && -O chain.end ]] || return 0
  { IFS= read -r token; IFS= read -r _; IFS= read -r end; } < chain.end
  [ "$$token" != "$$autoexp_token" ] || printf '%s' "$$end"
}
autoexp_begins_at() {  # note where this link begins ($$1); how many links just before it have begun there, too
  local token id number count=0
  [ ! -L chain.progress ] || rm -f -- chain.progress
  while read -r token id number; do
    [[ $$token == "$$autoexp_token" && $$id != "$$autoexp_id" ]] || continue
    if [ "$$number" = "$$1" ]; then count=$$((count + 1)); else count=0; fi
  done < <(cat chain.progress 2> /dev/null)
  printf '%s\n' "$$autoexp_token $$autoexp_id $$1" >> chain.progress
  printf '%s' "$$count"
}
autoexp_begin_link() {
  local others reached ended fruitless pause=1 begun=$$SECONDS
  # The processes of the link before are perhaps still being killed.
  while [ -n "$$autoexp_by_slurm" ] && [ $$((SECONDS - begun)) -lt $most_seconds ]; do
    others=$$(timeout 60 squeue --noheader --array --states=COMPLETING --jobs="$$SLURM_ARRAY_JOB_ID" 2> /dev/null)
    [ -n "$$others" ] || break
    sleep "$$pause"
    pause=$$((pause < 30 ? pause * 2 : 30))
  done
  reached=$$(autoexp_reached)
  ended=$$(autoexp_in_marks autoexp_ended)
  [ "$$ended" != complete ] || autoexp_link_done 0
  [ -z "$$ended" ] || autoexp_link_done 1
  if autoexp_is_complete "$$reached"; then
    autoexp_end_chain complete "$$reached of $$autoexp_goal"
    autoexp_link_done 0
  elif [ -e "$$autoexp_stop_file" ]; then
    autoexp_end_chain stopped "the file $$autoexp_stop_file is there"
    autoexp_link_done 1
  fi
  [ -n "$$autoexp_progress_file" ] || return 0
  fruitless=$$(autoexp_in_marks autoexp_begins_at "$${reached:-none}")
  if [ "$${fruitless:-0}" -ge $max_fruitless ]; then
    autoexp_end_chain failed "$$fruitless links in a row got no further (progress: $${reached:-none})"
    autoexp_link_done 1
  fi
}
autoexp_link_done() { autoexp_code=$$1; autoexp_in_marks autoexp_exit 2> /dev/null; exit "$$1"; }
autoexp_end_link() {  # what the end of this link's program, with exit code $$1, means for the chain
  local reached
  reached=$$(autoexp_reached)
  if autoexp_is_complete "$$reached"; then
    [ "$$1" -eq 0 ] || printf '%s\n' "oellm-autoexp: exit code $$1 does not count, as the run is complete" >&2
    autoexp_end_chain complete "$$reached of $$autoexp_goal"
    return 0
  elif [ "$$1" -eq 0 ] && [ -z "$$autoexp_goal" ]; then
    autoexp_end_chain complete "its program ended with exit code 0"
  elif [ "$$1" -eq $do_not_requeue ]; then
    autoexp_end_chain failed "exit code $do_not_requeue asks for no further attempt"
  elif [ "$$1" -eq 0 ]; then
    reached="$${reached:-no number} of $$autoexp_goal"
    printf '%s\n' "oellm-autoexp: link $$SLURM_ARRAY_TASK_ID of $links has ended at $$reached" >&2
  fi
  return "$$1"
}
if autoexp_is_link; then autoexp_begin_link; fi

"""
)
_AFTER = """

# What its end means for the chain.
autoexp_code=$?
if autoexp_is_link; then autoexp_end_link "$autoexp_code"; else (exit "$autoexp_code"); fi"""


def with_chain(run: str, chain: Chain, terminal: str, *, by_slurm: bool) -> str:
    """The lines that run a job's program, with what makes them a link of a chain; their status is the link's.

    `terminal`: the variable that is set where the script runs in a terminal, and as no job. `by_slurm`: whether SLURM
    runs the job; the ids of another scheduler mean nothing to squeue and scancel.
    """
    before = _BEFORE.substitute(
        links=chain.links,
        goal=shell(["" if chain.until is None else str(math.ceil(chain.until))]),
        progress_file=shell([chain.progress_file]),
        stop_file=shell([chain.stop_file]),
        max_fruitless=chain.max_fruitless,
        most_seconds=_MOST_SECONDS,
        terminal=terminal,
        by_slurm="1" if by_slurm else "''",
        do_not_requeue=DO_NOT_REQUEUE,
    )
    return f"{before}{run}{_AFTER}"
