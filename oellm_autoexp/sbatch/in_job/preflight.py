"""The checks that run on each node of a job before its program (`slurm.preflight`), as text of its script. Pure.

Nodes need bash and coreutils, and no Python: the functions of the checks are sent to them by `srun bash -c`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from oellm_autoexp.core.errors import Problem
from oellm_autoexp.core.location import CONFIG
from oellm_autoexp.core.text import Raw, shell
from oellm_autoexp.sbatch.environment import expanded
from oellm_autoexp.sbatch.section import PreflightCheck
from oellm_autoexp.sbatch.shell_code import with_variables

_WHERE = CONFIG / "slurm.preflight"
_SCRATCH, _SHARED_MEMORY = "${TMPDIR:-/tmp}", "/dev/shm"  # noqa: S108  on the node, in a file of a name of its own
_KILL_AFTER_SECONDS = 5
_CHECK = r"""autoexp_check() {  # runs on a node: the name of a check, its time limit in seconds, its command
  local name=$1 seconds=$2 began=$SECONDS said code
  shift 2
  said=$({
    timeout --kill-after=@kill_after@ "$seconds" bash -c '"$@"' bash "$@" 2>&1 < /dev/null &
    wait "$!"
    code=$?
    kill -s KILL -- "-$!" 2> /dev/null  # what the command has left in the background keeps the pipe open
    printf '\n%s' "$code"
  } | tail --bytes=4096 | tr '\0' ' ')
  code=${said##*$'\n'}
  [ "$code" != 0 ] || return 0
  said=${said%$'\n'*}
  said=${said%"${said##*[![:space:]]}"}
  said=${said##*$'\n'}
  [[ $code != @(124|137) ]] || ((SECONDS - began < ${seconds%%[.e]*})) || said="no result within $seconds s"
  said=${said:-exit code $code}
  said=${said//[[:cntrl:]]/ }
  printf 'autoexp-sick\t%s\t%s\t%s\n' "$autoexp_node" "$name" "${said:0:300}"
}"""
_GPUS = r"""autoexp_gpus() {  # how many GPUs a node must show
  local visible=${CUDA_VISIBLE_DEVICES:-${ROCR_VISIBLE_DEVICES:-${ZE_AFFINITY_MASK-}}} separators
  separators=${visible//[^,]/}
  if [ "$visible" = NoDevFiles ]; then
    printf '%s\n' "0 of $1 GPUs are visible (SLURM has set $visible)"
    return 1
  elif [ -n "$visible" ] && ((${#separators} + 1 < $1)); then
    printf '%s\n' "$((${#separators} + 1)) of $1 GPUs are visible ($visible)"
    return 1
  fi
  if command -v nvidia-smi > /dev/null; then
    autoexp_nvidia "$1" "$visible"
  elif command -v rocm-smi > /dev/null; then
    autoexp_amd "$1"
  elif [ -z "$visible" ]; then
    printf '%s\n' "none of $1 GPUs is visible: no nvidia-smi, no rocm-smi, no CUDA_VISIBLE_DEVICES"
    return 1
  fi
}
autoexp_memory() {  # how many GPUs there must be, the program that shows them, its unit, what it shows of the memory of
  # each, and its first other line: of a GPU that does not answer, a line says so among those of the others
  local count
  count=$(printf '%s' "${4:+$4$'\n'}" | wc -l)
  if ((count < $1)); then
    printf '%s\n' "$2 shows $count of $1 GPUs${5:+: $5}"
    return 1
  fi
  if (($(printf '%s\n' "$4" | sort -u | wc -l) > 1)); then
    printf '%s\n' "the GPUs have unequal memory: ${4//$'\n'/, } $3"
    return 1
  fi
}
autoexp_nvidia() {  # nvidia-smi(1); what a driver does not know is no fault of the node
  local only=() shown code query index value memory='^ *([0-9]+|\[(N/A|Not Supported)\]) *$'
  [[ -z $2 || $2 == *MIG* ]] || only=("--id=$2")
  shown=$(nvidia-smi "${only[@]}" --query-gpu=memory.total --format=csv,noheader,nounits 2>&1)
  code=$?
  if ((code)); then
    shown=$(printf '%s\n' "$shown" | grep -m 1 -avE "$memory|^ *$")
    printf '%s\n' "nvidia-smi: ${shown:-exit code $code}"
    return 1
  fi
  autoexp_memory "$1" nvidia-smi MiB "$(printf '%s\n' "$shown" | grep -aE "$memory")" \
    "$(printf '%s\n' "$shown" | grep -m 1 -avE "$memory|^ *$")" || return 1
  for query in gpu=index,ecc.errors.uncorrected.volatile.total remapped-rows=gpu_bus_id,remapped_rows.pending \
    remapped-rows=gpu_bus_id,remapped_rows.failure gpu=index,clocks_throttle_reasons.hw_slowdown \
    gpu=index,clocks_event_reasons.hw_slowdown; do  # newer drivers have the last name
    shown=$(nvidia-smi "${only[@]}" "--query-$query" --format=csv,noheader,nounits 2> /dev/null) || continue
    while IFS=', ' read -r index value; do
      if [[ $value =~ ^([1-9][0-9]*|Yes|Active)$ ]]; then
        printf '%s\n' "GPU $index: ${query##*,} is $value"
        return 1
      fi
    done < <(printf '%s\n' "$shown")
  done
}
autoexp_amd() {
  local shown code memory='^card[0-9]+,[0-9]+(,|$)' others='^(device,|WARNING: | *$)'
  shown=$(rocm-smi --showmeminfo vram --csv 2>&1)
  code=$?
  if ((code)); then
    shown=$(printf '%s\n' "$shown" | grep -m 1 -avE "$memory|$others")
    printf '%s\n' "rocm-smi: ${shown:-exit code $code}"
    return 1
  fi
  autoexp_memory "$1" rocm-smi bytes "$(printf '%s\n' "$shown" | grep -aE "$memory" | cut -d, -f2)" \
    "$(printf '%s\n' "$shown" | grep -m 1 -avE "$memory|$others")"
}"""
_ROOM = r"""autoexp_room() {  # a folder that must be writable, and have so many free MB
  local free file
  autoexp_begin=$1/.autoexp.$HOSTNAME.$BASHPID
  trap 'rm -f -- "$autoexp_begin".*' EXIT  # before there is a file; after this function, without its locals
  if ! file=$(mktemp -- "$autoexp_begin.XXXXXXXX" 2>&1); then
    printf '%s\n' "${file/"$autoexp_begin"/$1/.autoexp}"
    return 1
  fi
  head -c 1048576 /dev/zero 2>&1 > "$file" || return 1
  free=$(df --block-size=1M --output=avail -- "$1" | tail -n 1)
  free=${free//[!0-9]/}
  if ((10#${free:-0} < $2)); then
    printf '%s\n' "$1 has ${free:-0} MB free, fewer than $2"
    return 1
  fi
}"""
_READABLE = r"""autoexp_readable() {  # a file, or the folder of an unpacked image
  if [ -d "$1" ]; then
    ls -- "$1" 2>&1 > /dev/null
  else
    head -c 1048576 -- "$1" 2>&1 > /dev/null
  fi
}"""

_FUNCTIONS = {"gpus": _GPUS, "scratch": _ROOM, "shm": _ROOM, "image": _READABLE, "clock": "", None: ""}
"""What each check needs."""
_NAME = re.compile(r"^(autoexp_\w+)\(\)", re.MULTILINE)


@dataclass(frozen=True)
class Preflight:
    """The checks of one job: `gpus` on each node, and its container's image as a word of the script ('': no file)."""

    checks: tuple[PreflightCheck, ...] = ()
    gpus: int = 0
    image: str | Raw = ""

    @property
    def functions(self) -> str:
        """The functions of the script that run on a node; `autoexp_on_node` calls the others."""
        kinds = dict.fromkeys(_FUNCTIONS[check.check] for check in self.checks)
        needed = "\n".join(filter(None, kinds))
        shown = [f"  export -f {' '.join(_NAME.findall(needed))}"] if needed else []
        lines = [*shown, *(f"  {line}" for line in map(self._line, self.checks) if line)]
        return "\n".join(
            (
                *([_CHECK.replace("@kill_after@", str(_KILL_AFTER_SECONDS))] if self.checks else []),
                *([needed] if needed else []),
                "autoexp_on_node() {  # runs on a node: what its checks find, and that it has answered",
                "  autoexp_node=${SLURMD_NODENAME:-$HOSTNAME}",
                *lines,
                '  printf \'autoexp-node\\t%s\\t%s\\n\' "$autoexp_node" "$(date +%s)"',
                "}",
            )
        )

    @property
    def names(self) -> list[str]:
        """The names of `functions`."""
        return _NAME.findall(self.functions)

    @property
    def seconds(self) -> int:
        """How long all checks may take on a node."""
        return sum(int(check.timeout_seconds) + _KILL_AFTER_SECONDS for check in self.checks)

    @property
    def clock_seconds(self) -> int | None:
        """By how much a node's clock may differ from the batch node's; None: it is not compared."""
        return min((check.max_seconds for check in self.checks if check.check == "clock"), default=None)

    def problems(self) -> Iterator[Problem]:
        """Checks that could not pass on any node."""
        for index, check in enumerate(self.checks):
            where = _WHERE / index
            if check.check == "gpus" and not self.gpus:
                yield Problem(
                    "the job asks for no GPUs", where, "leave this check out, or set slurm.sbatch.gpus_per_node"
                )
            elif check.check == "image" and not self.image:
                hint = "leave this check out; container.image names the file of an image"
                yield Problem("the job has no container whose image is a file", where, hint)

    def _line(self, check: PreflightCheck) -> str:
        """One check as a line of the script; '' for what the batch node compares itself."""
        words: Sequence[str | Raw]
        match check.check:
            case "gpus":
                words = ("autoexp_gpus", str(self.gpus))
            case "scratch":
                folder = Raw(expanded(check.path)) if check.path is not None else Raw(f'"{_SCRATCH}"')
                words = ("autoexp_room", folder, str(check.free_mb))
            case "shm":
                words = ("autoexp_room", _SHARED_MEMORY, str(check.free_mb))
            case "image":
                words = ("autoexp_readable", self.image)
            case "clock":
                return ""
            case None:
                words = with_variables(check.command)
        return shell(("autoexp_check", check.label, f"{check.timeout_seconds:g}", *words))
