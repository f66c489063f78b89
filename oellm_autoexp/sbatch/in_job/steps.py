"""Restarts in a job: its script begins the program again in the same allocation, on nodes that work. Pure.

A step is one run of the program (one `srun`). The script asks for spare nodes and `--no-kill`, so that the death of a
node ends the step and not the job; a step that fails is followed by another one, without the queue.
"""

from __future__ import annotations

import re
import signal
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from oellm_autoexp.core.states import DO_NOT_REQUEUE
from oellm_autoexp.core.text import shell
from oellm_autoexp.sbatch.environment import OF_SRUN_ALONE
from oellm_autoexp.sbatch.in_job import lost_nodes, too_few
from oellm_autoexp.sbatch.in_job.preflight import Preflight
from oellm_autoexp.sbatch.launch import LAUNCHER_VARIABLE
from oellm_autoexp.sbatch.log_paths import log_word
from oellm_autoexp.sbatch.signals import forwarding, noting

OTHER_NODES = 16
"""The exit code by which Megatron's rerun machine asks for another GPU (megatron/core/rerun_state_machine.py)."""
_PROBE_SECONDS = 30
_SHORT_SECONDS = 20
"""A step that fails sooner has hardly begun: the next one may wait."""
_WARNING_MARGIN_SECONDS = 60  # by which SLURM may send the signal of --signal early (sbatch(1))

_ENVIRONMENT = r"""# For each step once more, as values may depend on its nodes: each time from what was there before.
autoexp_names=(@names@)
declare -A autoexp_before=()
for autoexp_name in "${autoexp_names[@]}"; do
  [ -z "${!autoexp_name+set}" ] || autoexp_before[$autoexp_name]=${!autoexp_name}
done
autoexp_environment() {
  for autoexp_name in "${autoexp_names[@]}"; do
    unset "$autoexp_name"
    [ -z "${autoexp_before[$autoexp_name]+set}" ] || export "$autoexp_name=${autoexp_before[$autoexp_name]}"
  done
@lines@
}
autoexp_environment"""

_STEPS = r"""# The program runs in steps: one that fails is begun again in this allocation, on nodes that work.
autoexp_spare=@spare@ autoexp_restarts=@restarts@ autoexp_log_file=@log@
autoexp_srun=(@srun@) autoexp_patience=@patience@ autoexp_clock=@clock@ autoexp_warning=@warning@ autoexp_pause=0
autoexp_nodes=() autoexp_sick=() autoexp_job=()
autoexp_step=0 autoexp_code=0 autoexp_why='' autoexp_end='' autoexp_signalled=''
autoexp_no_answer='SLURM does not answer (scontrol show job)'
@functions@@too_few@@lost_nodes@
autoexp_program() {
@program@
}
autoexp_say() {  # a line of its own, also where the program has ended without the end of a line
  [[ -f /proc/$$/fd/1 && -n $(tail --bytes=1 "/proc/$$/fd/1" | tr '\0' x) ]] && echo
  printf 'oellm-autoexp: %s\n' "$1"
}
autoexp_joined() { local IFS=,; printf '%s' "$*"; }
autoexp_write() {  # beside the file, so that no reader finds none, or half of it
  local name=$1
  shift
  rm -f -- "$name.new"
  printf '%s\n' "$@" > "$name.new" && mv -fT -- "$name.new" "$name"
}
autoexp_mark() { autoexp_in_marks autoexp_write "$@" 2> /dev/null; }
autoexp_forget() { rm -f -- "$autoexp_id".step*; }
autoexp_sick_before() { [[ ! -f $autoexp_id.sick || ! -O $autoexp_id.sick ]] || cat -- "$autoexp_id.sick"; }
autoexp_leave_out() {  # node, check, reason
  local node rest=()
  for node in "${autoexp_nodes[@]}"; do [ "$node" = "$1" ] || rest+=("$node"); done
  autoexp_nodes=("${rest[@]}")
  autoexp_sick+=("$1"$'\t'"$2"$'\t'"$3")
  autoexp_say "node $1 is left out: $2: $3"
  autoexp_mark "$autoexp_id.sick" "${autoexp_sick[@]}" || true  # nothing depends on it
}
autoexp_each() {  # seconds (0: no limit), lines of bash, nodes: a task on each, in a step beside the program's
  local seconds=$1 lines=$2
  shift 2
  unset @of_srun_alone@ \
    SLURM_GPUS_PER_TASK SLURM_NTASKS_PER_GPU SLURM_TRES_PER_TASK SLURM_CPUS_PER_TASK SLURM_DISTRIBUTION \
    SLURM_NTASKS_PER_SOCKET SLURM_MEM_PER_CPU SLURM_MEM_PER_GPU SLURM_MEM_PER_NODE AUTOEXP_STEP
  export "${autoexp_job[@]}"
  exec timeout --kill-after=10 "$seconds" "${autoexp_srun[@]}" --overlap --mem=0 --mpi=none --input=none --nodes=$# \
    --ntasks=$# --ntasks-per-node=1 --nodelist="$(autoexp_joined "$@")" --kill-on-bad-exit=0 bash -c "$lines"
}
autoexp_ask() {  # some nodes: what they answer, in one step for all of them
  local checks
  checks="trap '' HUP USR1 USR2"$'\n'$(declare -f @names@)$'\n'autoexp_on_node  # --signal is for the program
  if ((${#autoexp_srun[@]})); then
    autoexp_each "$autoexp_patience" "$checks" "$@" 2> /dev/null
  else
    bash -c "$checks"
  fi
}
autoexp_shown() {  # what SLURM shows of the job; its controller may be away for some minutes
  local job _
  for _ in {1..20}; do
    job=" $(scontrol --oneliner show job "$autoexp_id" 2> /dev/null) "
    [[ $job == *" JobState="* ]] && break
    sleep 15
  done
  printf '%s' "$job"
}
autoexp_silent() {  # which nodes are not in what has been `said`
  local node
  silent=()
  for node in "${autoexp_nodes[@]}"; do
    [[ $said == *autoexp-node$'\t'"$node"$'\t'* ]] || silent+=("$node")
  done
}
autoexp_look() {  # nodes that do not answer, or fail a check, are left out; 1 if the job does not go on
  local began said kind node check reason silent try
  for try in 1 2 3; do
    began=$(date +%s)
    said=$(autoexp_ask "${autoexp_nodes[@]}")
    autoexp_silent
    ((${#silent[@]} && ${#autoexp_srun[@]})) || break
    autoexp_ask_slurm || return  # no step of a job that is ending begins on any node
    autoexp_silent
    if ((${#silent[@]} && ${#autoexp_nodes[@]} > 1)); then  # one dead node keeps a step of all from starting
      said+=$'\n'$(
        for node in "${silent[@]}"; do
          autoexp_ask "$node" &
          check=$((check + 1))
          ((check % 16)) || wait
        done
        wait
      )
      autoexp_goes_on || return
      autoexp_silent
    fi
    if [[ $said == *autoexp-node$'\t'* ]] || ((${#silent[@]} == 0)); then break; fi
    # Not one answers: SLURM starts no steps while its controller is away, and for some seconds after that.
    ((try == 3)) || sleep 10
  done
  if ((${#silent[@]} == ${#autoexp_nodes[@]})); then  # nor the one of this script: it is not the nodes' fault
    reason=$(autoexp_each "$autoexp_patience" : "${autoexp_nodes[0]}" 2>&1 > /dev/null | grep -m 1 -a 'error: ')
    autoexp_end="no task begins on any node${reason:+: $reason}"
    return 1
  fi
  for node in "${silent[@]}"; do autoexp_leave_out "$node" answer "it does not answer"; done
  while IFS=$'\t' read -r kind node check reason; do
    if [ "$kind" = autoexp-sick ]; then
      autoexp_leave_out "$node" "$check" "$reason"
    elif [ "$kind" != autoexp-node ] || ((autoexp_clock < 0)); then
      continue
    elif [[ ! $check =~ ^[1-9][0-9]{0,11}$ ]]; then  # bash would run the code in any other text
      autoexp_leave_out "$node" clock "it shows no time"
    elif ((check < began - autoexp_clock || check > $(date +%s) + autoexp_clock)); then
      autoexp_leave_out "$node" clock "its clock differs by more than $autoexp_clock s from that of $HOSTNAME"
    fi
  done < <(printf '%s\n' "$said")
  return 0
}
autoexp_goes_on() {  # whether SLURM lists the job as running, and has time for it
  local job left
  job=$(autoexp_shown)
  [[ $job == *" JobState="* ]] || { autoexp_end=$autoexp_no_answer; return 1; }
  [[ $job == *" JobState=RUNNING "* ]] || { autoexp_end="SLURM does not list the job as running"; return 1; }
  [[ $job =~ \ NodeList=([^ ]+) ]] && autoexp_held=${BASH_REMATCH[1]}
  [[ $job =~ \ EndTime=([0-9T:-]+) ]] || return 0
  left=$(($(date -d "${BASH_REMATCH[1]}" +%s) - $(date +%s)))
  if ((left <= 0)); then
    autoexp_end="the time limit is reached"
    return 1
  elif ((left <= autoexp_warning)); then
    autoexp_end="the time limit is $left s away, and its signal may have come"
    return 1
  fi
}
autoexp_is_lost() {  # whether a state of a node (sinfo(1)) is one in which no job runs on it, or none begins
  [[ $1 == @(down*|drain*|fail*|unknown*|inval*|power*down*|*\*) ]]
}
autoexp_ask_slurm() {  # whether the job goes on; nodes that SLURM has lost or drains are left out
  local held states node state
  autoexp_held=''
  autoexp_goes_on || return
  [ -z "$autoexp_held" ] || held=" $(scontrol show hostnames "$autoexp_held" | tr '\n' ' ')"
  states=$(autoexp_joined "${autoexp_nodes[@]}")
  states=$'\n'$(sinfo --noheader --Node --format='%N %T' --nodes="$states" 2> /dev/null)$'\n'
  for node in "${autoexp_nodes[@]}"; do
    state=''
    [[ $states == *$'\n'"$node "* ]] && state=${states#*$'\n'"$node "} state=${state%%$'\n'*}
    if autoexp_is_lost "$state"; then
      autoexp_leave_out "$node" slurm "SLURM shows it as $state"
    elif [[ -n $held && $held != *" $node "* ]]; then
      autoexp_leave_out "$node" slurm "it left the allocation"
    fi
  done
}
autoexp_on() {  # what a job of these nodes alone would have (sbatch(1), OUTPUT ENVIRONMENT VARIABLES)
  local name list
  list=$(autoexp_joined "$@")
  export SLURM_JOB_NODELIST="$list" SLURM_NODELIST="$list" SLURM_JOB_NUM_NODES=$# SLURM_NNODES=$# SLURMD_NODENAME="$1"
  [ -n "${SLURM_OPEN_MODE-}" ] || export SLURM_OPEN_MODE=append  # files of single tasks are those of all steps
  [ -z "$autoexp_tasks" ] || export SLURM_NTASKS=$((autoexp_tasks * $#)) SLURM_NPROCS=$((autoexp_tasks * $#))
  if ((autoexp_step > 1)); then  # after the death of a node, SLURM may count the step before as running for ever
    unset SLURM_MEM_PER_CPU SLURM_MEM_PER_GPU
    export SLURM_OVERLAP=1 SLURM_MEM_PER_NODE=0  # 0: all of the job's
  fi
  for name in SLURM_TASKS_PER_NODE SLURM_JOB_CPUS_PER_NODE; do
    [[ ${!name-} =~ ^([0-9]+)(\(x[0-9]+\))?$ ]] && export "$name=${BASH_REMATCH[1]}$( (($# == 1)) || printf '(x%d)' $#)"
  done
}
autoexp_errors_of_srun() {  # the first line of this kind ($1) that srun has written in this step
  [[ -n $autoexp_from && -f /proc/$$/fd/2 ]] || return
  tail --bytes="+$((autoexp_from + 1))" "/proc/$$/fd/2" 2> /dev/null | grep -m 1 -axE "srun: error: $1"
}
autoexp_failed() {
  autoexp_say "step $autoexp_step has failed, though its other tasks ended with 0: $1"
  autoexp_code=1
}
autoexp_own_code() {  # srun's code is that of tasks that it has ended; what the first one ended with is on stderr
  local found
  if ((autoexp_code == 0 && ${#autoexp_srun[@]})); then  # nor does it count tasks that were lost with their node
    found=$(autoexp_errors_of_srun "Node failure on .*") || return
    autoexp_failed "${found#srun: error: }"
    return
  fi
  ((autoexp_code > 128)) || return
  found=$(autoexp_errors_of_srun ".*: (Exited with exit code [0-9]+|(@signals@)( \(core dumped\))?)")
  case $found in
    '') ;;
    *' code '*) autoexp_code=${found##* } ;;
@codes@
  esac
}
autoexp_rest() {  # after several short steps longer and longer: each restart asks slurmctld for five things
  ((SECONDS - autoexp_began < @short@)) || autoexp_pause=0
  if ((autoexp_pause)); then
    sleep "$autoexp_pause" &
    wait "$!"  # which a signal ends
  fi
  autoexp_pause=$((autoexp_pause < 32 ? 2 * autoexp_pause + 1 : 60))
}
autoexp_again() {  # whether another step follows a step that has ended
  local node others=0
  ((autoexp_code)) || return 1
  ((autoexp_restarts)) || return 1
  [ "$autoexp_code" -ne @do_not_requeue@ ] || autoexp_end='exit code @do_not_requeue@ asks for no restart'
  [ -z "$autoexp_signalled" ] || autoexp_end='the job has received its signal'
  ((autoexp_step <= autoexp_restarts)) || autoexp_end="step $autoexp_step was the last of $((autoexp_restarts + 1))"
  [ -z "$autoexp_end" ] || return 1
  autoexp_rest
  if ((${#autoexp_srun[@]})); then
    autoexp_ask_slurm || return 1
    ((${#autoexp_nodes[@]} < autoexp_wanted)) || autoexp_look || return 1
    if ((${#autoexp_nodes[@]} < autoexp_wanted)); then
      autoexp_end="${#autoexp_nodes[@]} nodes work, and the program needs $autoexp_wanted"
      return 1
    fi
  fi
  if ((autoexp_code == @other_nodes@)); then  # Megatron's result was wrong, on a GPU of one of these nodes
    for node in "${autoexp_nodes[@]}"; do [[ " ${autoexp_used[*]} " == *" $node "* ]] || others=1; done
    ((others)) || { autoexp_end='exit code @other_nodes@ asks for other nodes, and there are none'; return 1; }
    while [[ " ${autoexp_used[*]} " == *" ${autoexp_nodes[0]} "* ]]; do
      autoexp_nodes=("${autoexp_nodes[@]:1}" "${autoexp_nodes[0]}")
    done
  fi
  [ -z "$autoexp_signalled" ] || { autoexp_end='the job has received its signal'; return 1; }
}
autoexp_others_first() {  # what was left out before the job was requeued is used only where there are no others
  local node first=() last=() before
  before=$'\n'$(printf '%s\n' "${autoexp_sick[@]}")
  for node in "${autoexp_nodes[@]}"; do
    if [[ $before == *$'\n'"$node"$'\t'* ]]; then last+=("$node"); else first+=("$node"); fi
  done
  autoexp_nodes=("${first[@]}" "${last[@]}")
}
autoexp_steps() {
  local all=() node nodes chosen
  if ((${#autoexp_srun[@]})); then
    mapfile -t autoexp_nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
  else
    autoexp_nodes=("${SLURMD_NODENAME:-$HOSTNAME}")
  fi
  for node in SLURM_{JOB_NODELIST,NODELIST,JOB_NUM_NODES,NNODES,TASKS_PER_NODE,JOB_CPUS_PER_NODE}; do
    [ -z "${!node+set}" ] || autoexp_job+=("$node=${!node}")  # of all its nodes; each step has its own
  done
  autoexp_wanted=$((${#autoexp_nodes[@]} - autoexp_spare))
  all=("${autoexp_nodes[@]}")
  autoexp_tasks=''
  if ((autoexp_spare)) && [ -n "${SLURM_NTASKS-}" ]; then autoexp_tasks=$((SLURM_NTASKS / ${#autoexp_nodes[@]})); fi
  autoexp_in_marks autoexp_forget 2> /dev/null  # of the same job before it was requeued
  mapfile -t autoexp_sick < <(autoexp_in_marks autoexp_sick_before 2> /dev/null)
  autoexp_others_first
@preflight@
  while :; do
    autoexp_step=$((autoexp_step + 1))
    chosen=" ${autoexp_nodes[*]:0:autoexp_wanted} " autoexp_used=()
    for node in "${all[@]}"; do  # in the order of the allocation, by which srun numbers its tasks
      [[ $chosen != *" $node "* ]] || autoexp_used+=("$node")
    done
    nodes=$(autoexp_joined "${autoexp_used[@]}")
    if ((${#autoexp_srun[@]})); then autoexp_on "${autoexp_used[@]}"; fi
    if ((autoexp_step > 1)) || ((${#autoexp_used[@]} < ${#all[@]})); then autoexp_environment; fi
    autoexp_mark "$autoexp_id.step$autoexp_step.start" "$(date +%s)" "$nodes" "$((autoexp_restarts + 1))" \
      "$(stat --format=%s -- "$autoexp_log_file" 2> /dev/null || echo 0)" "$autoexp_why"
    ((autoexp_step == 1)) ||
      autoexp_say "restart $((autoexp_step - 1)) of $autoexp_restarts in the job: on $nodes, as $autoexp_why"
    autoexp_from=$(stat --dereference --format=%s "/proc/$$/fd/2" 2> /dev/null)
    autoexp_began=$SECONDS
    @run@
    autoexp_mark "$autoexp_id.step$autoexp_step.exit" "$autoexp_code" "$nodes"
    autoexp_again || break
    autoexp_why="step $autoexp_step ended with exit code $autoexp_code"
  done
  [ -z "$autoexp_end" ] || autoexp_say "no restart in the job: $autoexp_end"
}
if [ -n "${@launcher_variable@+set}" ]; then  # in a terminal: once, here
  autoexp_program
else
  @begin@
  autoexp_steps
  @end@
  (exit "$autoexp_code")
fi"""
_PLAIN = """autoexp_program
    autoexp_code=$?
    autoexp_own_code"""
_ENDED_BY = (signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)
"""Signals that end a task which fails by itself; srun writes them in the words of strsignal(3)."""
_MARKER = re.compile(r"@([a-z_]+)@")


def _filled(text: str, values: Mapping[str, object]) -> str:
    return _MARKER.sub(lambda match: str(values[match[1]]), text)


@dataclass(frozen=True)
class Steps:
    """How the script of a job runs its program in steps.

    `spare`: nodes of the job that a step leaves out; `srun` starts the steps of the checks, '' on the local scheduler.
    `log_path` has SLURM's patterns. `warning_seconds`: how long before the time limit `--signal` warns the tasks; 0:
    not at all.
    """

    restarts: int
    spare: int
    srun: str
    log_path: str
    preflight: Preflight
    warning_seconds: int = 0

    @property
    def _is_watched(self) -> bool:
        """Whether a node that is lost would be noticed by the script, as there is another one."""
        return bool(self.spare and self.srun)

    def environment(self, names: Iterable[str], lines: str) -> str:
        """The lines of a script that set these variables, so that they can be set once more for each step."""
        return _filled(_ENVIRONMENT, {"names": " ".join(names), "lines": lines or "  :"})

    def run(self, command: str, asked: signal.Signals | None, *, of_chain: bool) -> str:
        """The lines that run a command in steps; their status is that of the last step.

        `asked` is the signal of `--signal=B:…`, which is passed on to each step (signals.forwarding). `of_chain`:
        whether the job is a chain (chains/links.py).
        """
        clock = self.preflight.clock_seconds
        words = {number: signal.strsignal(number) or number.name for number in _ENDED_BY}
        values = {
            "spare": self.spare,
            "restarts": self.restarts,
            "log": log_word(self.log_path) or "''",
            "srun": shell([self.srun]) if self.srun else "",
            "patience": _PROBE_SECONDS + self.preflight.seconds,
            "clock": -1 if clock is None else clock,
            "warning": self.warning_seconds + _WARNING_MARGIN_SECONDS if self.warning_seconds else 0,
            "of_srun_alone": " \\\n    ".join(textwrap.wrap(" ".join(OF_SRUN_ALONE), 112)),
            "functions": self.preflight.functions,
            "names": " ".join(self.preflight.names),
            "program": forwarding(command, asked, again=True),
            "too_few": f"\n{too_few.functions(of_chain=of_chain)}" if self.preflight.checks else "",
            "lost_nodes": f"\n{lost_nodes.functions()}" if self._is_watched else "",
            "run": 'autoexp_watched "${all[0]}"' if self._is_watched else _PLAIN,
            "preflight": too_few.lines(of_chain=of_chain) if self.preflight.checks else "  :",
            "launcher_variable": LAUNCHER_VARIABLE,
            "begin": noting(asked) if asked else ":",
            "end": f"trap - {asked.name.removeprefix('SIG')}" if asked else ":",
            "do_not_requeue": DO_NOT_REQUEUE,
            "other_nodes": OTHER_NODES,
            "short": _SHORT_SECONDS,
            "signals": "|".join(words.values()),
            "codes": "\n".join(f"    *': {text}'*) autoexp_code={128 + number} ;;" for number, text in words.items()),
        }
        return _filled(_STEPS, values)
