"""The lines of a script that make its job a chain: what each link checks before its program, and after. Pure.

A chain is an array of the scheduler whose tasks, its links, run one at a time (`--array=1-10%1`). No monitor need be
alive for it: a link that finds that nothing is left to do ends the rest.
"""

from __future__ import annotations

from string import Template

from oellm_autoexp.core.nouns import Chain
from oellm_autoexp.core.states import DO_NOT_REQUEUE
from oellm_autoexp.core.text import shell

NEEDED_FUNCTION = "autoexp_in_marks"
"""A function of the shipped template that these lines call."""

_MOST_SECONDS = 1800
"""How long a link waits for processes that are being killed; SLURM gives up on them earlier (UnkillableStepTimeout)."""
_STATES = "RUNNING,SUSPENDED,STOPPED,CONFIGURING,RESIZING,COMPLETING"
"""Those of a link whose processes are there, or may be (squeue(1))."""

# An array's limit does not count each task whose processes may still be there (measured on SLURM 22.05): one whose
# processes are being killed (COMPLETING), and one that has lost a node and runs on (--no-kill). So a link goes back
# into the queue, or waits, before anything that takes it for a second job beside the first.
_WAIT = Template(
    r"""# The links of a chain run one after the other, whatever SLURM begins at once.
autoexp_is_link() { [ -n "$${SLURM_ARRAY_TASK_ID-}" ] && [ -z "$${$terminal+set}" ]; }  # no terminal
autoexp_put_back() {  # into the queue, behind link $$1: the nodes of this one would do nothing for as long as that runs
  local job=$${SLURM_ARRAY_JOB_ID}_$$SLURM_ARRAY_TASK_ID
  scontrol update "JobId=$$job" Requeue=1 > /dev/null 2>&1 || return
  trap '' TERM  # what SLURM sends to a job that is requeued: its dependency can only be set after that
  scontrol requeue "$$job" > /dev/null 2>&1 || { trap - TERM; return; }
  for _ in {1..20}; do
    scontrol update "JobId=$$job" "Dependency=afterany:$${SLURM_ARRAY_JOB_ID}_$$1" > /dev/null 2>&1 && break
    sleep 1
  done
  exit 75
}
autoexp_wait_for_links() {
  local found link state ends runs said='' pause=1 since=$$SECONDS
  while :; do
    ends='' runs=''
    found=$$(timeout 60 squeue --noheader --array --states=$states \
      --format='%K %T' --jobs="$$SLURM_ARRAY_JOB_ID" 2> /dev/null) || ends='squeue gives no answer'
    while read -r link state; do
      if [[ ! $$link =~ ^[0-9]+$$ || $$link == "$$SLURM_ARRAY_TASK_ID" ]]; then
        continue
      elif [ "$$state" = COMPLETING ]; then
        ends="link $$link is $$state"
      elif ((10#$$link < SLURM_ARRAY_TASK_ID)); then
        runs=$$link
      fi
    done <<< "$$found"
    [ -n "$$ends$$runs" ] || return 0
    if [ -n "$$runs" ]; then
      [ -n "$$said" ] || printf '%s\n' "oellm-autoexp: link $$SLURM_ARRAY_TASK_ID waits for the end of link $$runs" >&2
      [ -n "$$said" ] || autoexp_put_back "$$runs"
      said=1 since=$$SECONDS
    elif [ $$((SECONDS - since)) -ge $most_seconds ]; then  # without an answer it can't be known
      ends="the link before may still be ending after $most_seconds s: $$ends"
      printf '%s\n' "oellm-autoexp: link $$SLURM_ARRAY_TASK_ID begins all the same: $$ends" >&2
      return 0
    fi
    sleep "$$pause"
    pause=$$((pause < 30 ? pause * 2 : 30))
  done
}
if autoexp_is_link; then autoexp_wait_for_links; fi"""
)
_BEFORE = Template(
    r"""# The job is a chain: this script runs for each of its $links links, one after the other.
autoexp_goal=$goal autoexp_progress_file=$progress_file autoexp_stop_file=$stop_file
autoexp_tag=$${autoexp_tag-$${SLURM_JOB_NAME##*.}} autoexp_by_slurm=$by_slurm
autoexp_is_link() { [ -n "$${SLURM_ARRAY_TASK_ID-}" ] && [ -z "$${$terminal+set}" ]; }  # no terminal
autoexp_reached() {  # the number at the beginning of the progress file; '' without one
  local text='' number='^[[:space:]]*([0-9]{1,18})([.][0-9]*)?([^0-9A-Za-z_.].*)?$$'
  [ ! -f "$$autoexp_progress_file" ] || { IFS= read -r -n 64 text < "$$autoexp_progress_file"; } 2> /dev/null
  [[ $$text =~ $$number ]] && printf '%s' "$$((10#$${BASH_REMATCH[1]}))"
}
autoexp_is_complete() { [ -n "$$autoexp_goal" ] && [ -n "$$1" ] && [ "$$1" -ge "$$autoexp_goal" ]; }
autoexp_write_end() { rm -f -- chain.end && printf '%s\n' "$$autoexp_tag" "$$autoexp_id" "$$1" "$$2" > chain.end; }
autoexp_end_chain() {  # the links that wait are not needed: $$1 is complete, stopped or failed, $$2 says why
  printf '%s\n' "oellm-autoexp: link $$SLURM_ARRAY_TASK_ID ends the chain: $$2" >&2
  autoexp_in_marks autoexp_write_end "$$1" "$$2"
  [ -z "$$autoexp_by_slurm" ] || timeout 60 scancel --state=PENDING "$$SLURM_ARRAY_JOB_ID" > /dev/null 2>&1
}
autoexp_ended() {  # how a link before has ended the chain; '' if none has
  local token end
  [[ -f chain.end && -O chain.end ]] || return 0
  { IFS= read -r token; IFS= read -r _; IFS= read -r end; } < chain.end
  [ "$$token" != "$$autoexp_tag" ] || printf '%s' "$$end"
}
autoexp_begins_at() {  # note where this link begins ($$1); how many links just before it have begun there, too
  local token id number count=0
  [[ -f chain.progress && -O chain.progress && ! -L chain.progress ]] || rm -f -- chain.progress
  while read -r token id number; do
    [[ $$token == "$$autoexp_tag" && $$id != "$$autoexp_id" ]] || continue
    if [ "$$number" = "$$1" ]; then count=$$((count + 1)); else count=0; fi
  done < <(cat chain.progress 2> /dev/null)
  printf '%s\n' "$$autoexp_tag $$autoexp_id $$1" >> chain.progress
  printf '%s' "$$count"
}
autoexp_not_begun() {  # this link has found too few nodes: that it got no further says nothing of the program
  local other
  [ -f chain.progress ] || return 0
  other=$$(grep -v -- "^$$autoexp_tag $$autoexp_id " chain.progress)
  rm -f -- chain.progress.new && printf '%s' "$${other:+$$other$$'\n'}" > chain.progress.new &&
    mv -fT -- chain.progress.new chain.progress
}
autoexp_begin_link() {
  local reached ended fruitless
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
  elif [ "$$1" -eq 0 ] && [ -z "$$autoexp_goal" ] && [ -z "$${autoexp_signalled-}" ]; then
    autoexp_end_chain complete "its program ended with exit code 0"
  elif [ "$$1" -eq $do_not_requeue ]; then
    autoexp_end_chain failed "exit code $do_not_requeue asks for no further attempt"
  elif [ "$$1" -eq 0 ] && [ -z "$$autoexp_goal" ]; then
    printf '%s\n' "oellm-autoexp: link $$SLURM_ARRAY_TASK_ID of $links has ended at its signal" >&2
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


def waiting(terminal: str) -> str:
    """The lines by which a link on SLURM waits until no earlier one runs; `terminal` as in `with_chain`."""
    return _WAIT.substitute(terminal=terminal, states=_STATES, most_seconds=_MOST_SECONDS)


def with_chain(run: str, chain: Chain, terminal: str, *, by_slurm: bool) -> str:
    """The lines that run a job's program, with what makes them a link of a chain; their status is the link's.

    `terminal`: the variable that is set where the script runs in a terminal, and as no job. `by_slurm`: whether SLURM
    runs the job; the ids of another scheduler mean nothing to squeue and scancel.
    """
    before = _BEFORE.substitute(
        links=chain.links,
        goal=shell(["" if chain.until is None else str(chain.until)]),
        progress_file=shell([chain.progress_file]),
        stop_file=shell([chain.stop_file]),
        max_fruitless=chain.max_fruitless,
        terminal=terminal,
        by_slurm="1" if by_slurm else "''",
        do_not_requeue=DO_NOT_REQUEUE,
    )
    return f"{before}{run}{_AFTER}"
