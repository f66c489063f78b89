"""What notices, beside a step with spare nodes, that one of its nodes is lost, sooner than SLURM does. Pure.

SLURM counts a node as dead after `SlurmdTimeout` (slurm.conf(5), usually 300 s), and the other nodes of a step wait for
it as long. So a task on each node of the step says every few seconds that it is alive, through srun, without asking
SLURM's controller. A node is lost if it says nothing for a fifth of SlurmdTimeout (or 12 s), the job's log does not
grow in that time, and SLURM can't begin a task on it, or finds no process of the program there, though it can begin one
on the node that runs the script.
"""

from __future__ import annotations

_SAYS_SECONDS = 3
_LEAST_SILENCE_SECONDS = 12

_FUNCTIONS = r"""autoexp_alive() {  # on a node: says so until srun is gone
  trap '' HUP USR1 USR2
  while printf '%s\n' "${SLURMD_NODENAME:-$HOSTNAME}" && sleep @says@; do :; done
}
autoexp_tasks_here() {  # on a node: its name, and how many processes it has of the tasks of this step of the program
  local node=${SLURMD_NODENAME:-$HOSTNAME} count=0 process
  for process in $(grep -lzxF -- "$1" /proc/[0-9]*/environ 2> /dev/null); do
    grep -qzxF "SLURMD_NODENAME=$node" "$process" && grep -qz '^SLURM_STEP_ID=' "$process" && count=$((count + 1))
  done 2> /dev/null
  printf '%s %d\n' "$node" "$count"
}
autoexp_begins() {  # seconds, nodes: those on which SLURM begins a task, with what that finds there
  local seconds=$1 lines node count=0
  shift
  lines=$(declare -f autoexp_tasks_here)$'\n'$(printf 'autoexp_tasks_here %q' "AUTOEXP_STEP=$AUTOEXP_STEP")
  for node; do
    (autoexp_each "$seconds" "$lines" "$node" 2> /dev/null) &
    (((count += 1) % 16)) || wait
  done
  wait
}
autoexp_end_program() {  # srun kills its tasks on SIGTERM, and waits as long as KillWait for those that it can't reach
  local process name
  for process in /proc/[0-9]*; do
    { read -r name < "$process/comm" && [ "$name" = srun ] &&
      grep -qzxF "AUTOEXP_STEP=$AUTOEXP_STEP" "$process/environ" && kill "${process#/proc/}"; } 2> /dev/null
  done
}
autoexp_silence() {  # how many seconds a node must say nothing; a SlurmdTimeout of 0 is none
  local seconds=300
  [[ $(scontrol show config 2> /dev/null | grep -m 1 '^SlurmdTimeout ') =~ =\ *([1-9][0-9]{0,5}) ]] &&
    seconds=${BASH_REMATCH[1]}
  printf '%d' $((seconds < 5 * @least@ ? @least@ : seconds / 5))
}
autoexp_hear() {  # seconds, nodes: notes which of them is alive; 1 if none can say so, more if none does
  local node code wait=$1
  shift
  read -r -t "$wait" -u "$from" node
  code=$?
  part+=$node  # of a line, if the time is over
  ((code == 0)) || return "$code"
  [[ " $* " != *" $part "* ]] || heard[$part]=$SECONDS
  part=''
}
autoexp_watch() {  # as below, until it is killed: another process could get its number
  local says=''
  trap '[ -z "$says" ] || kill "$says" 2> /dev/null; exit' TERM
  autoexp_find_lost "$@"
  [ -z "$says" ] || kill "$says" 2> /dev/null
  exec sleep infinity
}
autoexp_find_lost() {  # the node of the script, and those of the step: prints those that are lost, and ends the step
  local from part='' node now before=$SECONDS silence doubt silent size='' shown quiet=$SECONDS begins lost
  local -A heard=()
  exec {from}< <(autoexp_each 0 "$(declare -f autoexp_alive)"$'\n'autoexp_alive "$@" 2> /dev/null)
  says=$!
  silence=$(autoexp_silence) doubt=$((silence / 2))
  while :; do
    autoexp_hear @says@ "$@" || (($? > 128)) || return
    now=$SECONDS
    ((now < before || now >= before + @says@)) || continue
    if ((now < before || now > before + 3 * @says@)); then  # this shell did not run, as of a job that was suspended
      quiet=$now
      for node in "${!heard[@]}"; do heard[$node]=$now; done
    fi
    before=$now
    shown=$(stat --format=%s -- "$autoexp_log_file" 2> /dev/null)
    [ "$shown" = "$size" ] || size=$shown quiet=$now
    silent=()
    for node in "${!heard[@]}"; do ((now < heard[$node] + doubt)) || silent+=("$node"); done
    ((${#silent[@]} && now >= quiet + doubt && now < ${heard[$1]:--doubt} + doubt)) || continue
    begins=$'\n'$(autoexp_begins "$silence" "$1" "${silent[@]}")$'\n'  # takes 10 s where nobody answers
    now=$SECONDS
    while ((SECONDS <= now + 1)) && autoexp_hear 0.1 "$@"; do :; done  # what they have said in the meantime
    [[ $begins == *$'\n'"$1 "* && $(stat --format=%s -- "$autoexp_log_file" 2> /dev/null) == "$size" ]] || continue
    now=$SECONDS lost=()
    for node in "${silent[@]}"; do
      if [[ $begins == *$'\n'"$node "[1-9]* || ($begins == *$'\n'"$node "* && $begins == *$'\n'"$1 0"*) ]]; then
        unset "heard[$node]"  # only what said that it is alive has ended there, as far as can be seen
      elif ((now >= heard[$node] + silence && now >= quiet + silence)); then
        lost+=("$node")
      fi
    done
    before=$now
    ((${#lost[@]})) || continue
    ((${#autoexp_nodes[@]} - ${#lost[@]} >= autoexp_wanted)) || return  # no step could follow: SLURM decides
    autoexp_say "step $autoexp_step is ended: for $silence s there was no sign of life of ${lost[*]}" >&2
    printf '%s\n' "${lost[@]}"
    autoexp_end_program
    return
  done
}
autoexp_watched() {  # runs the program of a step, and watches its nodes beside the one that runs this script
  local here=$1 from node watch='' others=() lost=()
  for node in "${autoexp_used[@]}"; do [ "$node" = "$here" ] || others+=("$node"); done
  export AUTOEXP_STEP="$autoexp_id.$autoexp_step of $HOSTNAME:$$"
  if ((autoexp_step <= autoexp_restarts && ${#others[@]})); then
    exec {from}< <(autoexp_watch "$here" "${others[@]}")
    watch=$!
  fi
  autoexp_program
  autoexp_code=$?
  if [ -n "$watch" ]; then
    kill "$watch" 2> /dev/null
    while read -r -t 0.1 -u "$from" node; do lost+=("$node"); done
    exec {from}<&-
  fi
  autoexp_own_code
  for node in "${lost[@]}"; do autoexp_leave_out "$node" answer "it gave no sign of life"; done
  ((${#lost[@]} == 0 || autoexp_code)) || autoexp_failed "${lost[*]} gave no sign of life"
}"""


def functions() -> str:
    """The functions of bash; `autoexp_watched NODE` runs the program of one step, from a script that NODE runs."""
    return _FUNCTIONS.replace("@says@", str(_SAYS_SECONDS)).replace("@least@", str(_LEAST_SILENCE_SECONDS))
