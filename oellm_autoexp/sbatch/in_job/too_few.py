"""What a job does if too few of its nodes pass `slurm.preflight`, as text of its script. Pure.

A job goes back into the queue without the nodes that failed. A link of a chain ends, as the next one waits in the queue
already: that one is kept from these nodes, and the chain counts no link without progress.
"""

from __future__ import annotations

_COMMON = r"""autoexp_no_others='SLURM has no other nodes for it'
autoexp_and_sick() {  # the nodes that are excluded ($1), and those that failed their checks
  local without=${1#"(null)"} node
  for node in "${autoexp_sick[@]}"; do without+=${without:+,}${node%%$'\t'*}; done
  printf '%s' "$without"
}
autoexp_suits() {  # whether SLURM has nodes for the job without these, now or when lost ones return
  local job excluded name state kind own='' up=0 all=0 nodes
  [[ $(sbatch --test-only --exclude="$1" "$0" 2>&1) == *@(node configuration|Invalid node name)* ]] || return 0
  job=$(autoexp_shown)  # a job that names its nodes, or its reservation, gets no others
  [[ $job == *" ReqNodeList=(null) "* && $job != *" Reservation="* ]] || return
  excluded=" $(scontrol show hostnames "$1" 2> /dev/null | tr '\n' ' ') "
  nodes=$(timeout 60 sinfo --noheader --Node --partition="$SLURM_JOB_PARTITION" \
    --format='%N|%T|%c|%m|%G|%f' 2> /dev/null)
  while IFS='|' read -r name state kind; do
    [[ $name != "${autoexp_sick[0]%%$'\t'*}" ]] || own=$kind
  done <<< "$nodes"
  while IFS='|' read -r name state kind; do  # the others that have what the one has
    [[ -n $own && $kind == "$own" && $excluded != *" $name "* ]] || continue
    ((all += 1))
    autoexp_is_lost "$state" || ((up += 1))
  done <<< "$nodes"
  ((up < SLURM_JOB_NUM_NODES && SLURM_JOB_NUM_NODES <= all))
}
autoexp_requeue() {  # once in its life, a job goes back into the queue without the nodes that failed their checks
  local job without='' said try
  if autoexp_in_marks test -e "$autoexp_id.requeued"; then
    autoexp_say "the job is not requeued without them: it was requeued before"
    return
  fi
  job=$(autoexp_shown)
  if [[ $job != *" JobState="* ]]; then
    autoexp_say "the job is not requeued without them: $autoexp_no_answer"
    return
  elif [[ $job != *" Requeue=1 "* ]]; then
    autoexp_say "the job is not requeued without them: SLURM may not requeue it (slurm.sbatch.requeue)"
    return
  fi
  [[ $job =~ \ ExcNodeList=([^ ]+) ]] && without=${BASH_REMATCH[1]}
  without=$(autoexp_and_sick "$without")
  if ! autoexp_suits "$without"; then
    autoexp_say "the job is not requeued without them: $autoexp_no_others"
    return
  fi
  autoexp_mark "$autoexp_id.requeued" "$(date +%s)" || return
  autoexp_say "the job is requeued without $without"
  trap '' TERM  # what SLURM sends to a job that is requeued: its nodes can only be excluded after that
  scontrol requeue "$autoexp_id" || return
  for try in {1..20}; do
    said=$(scontrol update "JobId=$autoexp_id" "ExcNodeList=$without" 2>&1) && exit 75
    ((try != 3)) || autoexp_say "the job may run on them again, as SLURM does not exclude them: ${said##*$'\n'}"
    sleep 1
  done
  exit 75
}"""
_OF_CHAIN = r"""autoexp_keep_links_off() {  # the links in the queue are kept from the nodes that failed
  local link nodes without='' links=() said
  autoexp_is_link || { autoexp_requeue; return; }  # a script that a person has submitted by itself
  if ! said=$(timeout 60 squeue --noheader --array --states=PENDING \
    --format='%K|%x' --jobs="$SLURM_ARRAY_JOB_ID" 2> /dev/null); then
    autoexp_say "the next links may run on them, as squeue gives no answer"
    return
  fi
  while IFS='|' read -r link nodes; do
    [[ $link =~ ^[0-9]+$ ]] && links+=("$link") without=$nodes
  done <<< "$said"
  if ((${#links[@]} == 0)); then  # the last one has no next one that could go on
    scontrol update "JobId=$autoexp_id" Requeue=1 > /dev/null 2>&1
    autoexp_requeue
    return
  fi
  without=$(autoexp_and_sick "$without")
  if ! autoexp_suits "$without"; then
    autoexp_say "the next links are not kept from them: $autoexp_no_others"
    return
  fi
  links="${SLURM_ARRAY_JOB_ID}_[$(autoexp_joined "${links[@]}")]"
  if said=$(scontrol update "JobId=$links" "ExcNodeList=$without" 2>&1); then
    autoexp_say "the next links are kept from $without"
    autoexp_in_marks autoexp_not_begun
  else
    autoexp_say "the next links may run on them, as SLURM does not exclude them: ${said##*$'\n'}"
  fi
}"""
_LINES = r"""  autoexp_look
  [ -z "$autoexp_signalled" ] || autoexp_end="the job has received its signal"  # the program would begin without it
  if [ -n "$autoexp_end" ]; then
    autoexp_say "the program is not begun: $autoexp_end"
    autoexp_code=75  # EX_TEMPFAIL of sysexits.h
    return
  elif ((${#autoexp_nodes[@]} < autoexp_wanted)); then
    autoexp_say "the program is not begun: it needs $autoexp_wanted nodes, ${#autoexp_nodes[@]} pass slurm.preflight"
    ((${#autoexp_srun[@]} == 0)) || @otherwise@
    autoexp_code=75
    return
  fi"""


def functions(*, of_chain: bool) -> str:
    """The functions of bash that `lines` needs."""
    return f"{_COMMON}\n{_OF_CHAIN}" if of_chain else _COMMON


def lines(*, of_chain: bool) -> str:
    """The lines before the first step: the checks, and what follows if too few nodes pass them."""
    return _LINES.replace("@otherwise@", "autoexp_keep_links_off" if of_chain else "autoexp_requeue")
