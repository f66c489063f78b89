# A job that keeps its own record: witness.sh FOLDER KIND. FOLDER/runs gets `start ID TIME` and `end ID TIME CODE` lines;
# FOLDER/doubles gets a line if another run of the same job is alive at the same time (the kernel frees the lock of one
# that is killed).
folder=$1 kind=$2 id=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
id=${id:-$SLURM_JOB_ID}
exec 9>"$folder/lock"
flock -n 9 || echo "$id beside $(tail -n 1 "$folder/runs")" >>"$folder/doubles"
echo "start $id $(date +%s.%N)" >>"$folder/runs"
number=$(grep -c ^start "$folder/runs")

finish() {
  echo "end $id $(date +%s.%N) $1" >>"$folder/runs"
  exit "$1"
}

lines() { # lines SECONDS
  for _ in $(seq $(($1 * 2))); do echo "step $((step += 1))"; sleep 0.5; done
}

case $kind in
  good) lines 3 ;;
  dots) for _ in $(seq 30); do printf .; sleep 0.3; done ;;
  quiet) for _ in 1 2 3; do sleep 2.5; echo still here; done ;;
  fails) lines 1; finish 3 ;;
  fails_once) lines 1; ((number > 1)) || finish 4 ;;
  hangs) echo begins; sleep 300 9>&- ;;
esac
finish 0
