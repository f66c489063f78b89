"""Each way in which logs name a node, or let one know it, leads to the node that is at fault, and to no other one."""

from __future__ import annotations

import pytest

from oellm_autoexp.causes.analysis import find_cause
from oellm_autoexp.causes.cause import Cause
from oellm_autoexp.causes.endings import Ending
from oellm_autoexp.causes.rule import combined
from oellm_autoexp.causes.signs import LogText
from oellm_autoexp.engine.observing.cause_finder import rank_of, shipped_rules

RULES = combined({}, shipped_rules())
ECC = "RuntimeError: CUDA error: uncorrectable ECC error encountered"
FULL = "OSError: [Errno 28] No space left on device: '/tmp/triton/kernel.tmp'"
NCCL_ECC = "[2] NCCL WARN Cuda failure 'uncorrectable ECC error encountered'"
COMPLETION = "NCCL WARN NET/IB : Got completion from peer"
DUE_TO_NODE = "CANCELLED AT 2026-11-28T04:40:10 DUE TO NODE FAILURE, SEE SLURMCTLD LOG FOR DETAILS ***"
RERUN = "ERROR:megatron.core.rerun_state_machine:"
STALE = "OSError: [Errno 116] Stale file handle: '/scratch/project/ckpt'"
LAYOUT = "[2026-11-03T15:06:07] job 12 on n[1-4]: 4 nodes, 4 GPUs each"
TORCHRUN = """\
Root Cause (first observed failure):
[0]:
  time      : 2026-11-03_11:46:{second:02}
  host      : {host}
  rank      : {rank} (local_rank: {local})
  exitcode  : {code} (pid: 4711)
"""


def found(*logs: str, nodes: str = "n[1-4]", names: tuple[str, ...] = (), **ending: object) -> Cause:
    paths = names or ("main.log", *(f"log{number}" for number in range(1, len(logs))))
    texts = [
        LogText(path, f"{log}\n".encode(), rank=rank_of(path) if number else None)
        for number, (path, log) in enumerate(zip(paths, logs, strict=True))
    ]
    plain: dict[str, object] = {"scheduler_state": "FAILED", "exit_code": 1, "nodes": nodes}
    return find_cause(Ending(**{**plain, **ending}), texts, RULES)  # type: ignore[arg-type]


def failure(host: str, rank: int, local: int, *, second: int = 10, code: int = 1) -> str:
    return TORCHRUN.format(host=host, rank=rank, local=local, second=second, code=code)


ONE_LOG = {
    # ---- the line itself
    "label of pdsh": f"n3: {ECC}",
    "label of pdsh and of PyTorch": f"n3: [rank2]: {ECC}",
    "label with brackets": f"[n3]: {ECC}",
    "label of Open MPI": f"[n3:4711] {ECC}",
    "host with its domain": f"n3.site.org: {ECC}",
    "network interface": f"n3-ib0: {ECC}",
    "NCCL": f"n3:211:877 {NCCL_ECC}",
    "NCCL behind a time": f"[2026-11-03 15:06:07] n3:211:877 {NCCL_ECC}",
    "NCCL, and torchrun about another rank": f"n3:211:877 {NCCL_ECC}\n{failure('n1', 1, 1)}",
    "kernel": "n3 kernel: NVRM: Xid (PCI:0000:9b:00): 79, pid=8, GPU has fallen off the bus.",
    "syslog": "Nov  3 15:06:07 n3.site.org kernel: NVRM: Xid (PCI:0000:9b:00): 79, pid=8, GPU has fallen off the bus.",
    "text": "RuntimeError: health check: CUDA error: the GPU is lost: GPU 3 on node n3",
    "text that another rank writes": f"[rank0]: n3 failed: {ECC}",
    "text with quotes": f'host "n3": {ECC}',
    "one of several nodes": "dcgmi health check: n1 pass, n2 pass, n3 FAIL (GPU 5), n4 pass",
    "fatal error on a host": f"Fatal error on host n3: {ECC}",
    "Megatron-LM": f"{RERUN}Rank 9, node n3.site, device 1, iteration #4: Possible transient error!",
    # ---- lines around it
    "heading": f"n2\n--------\nfine\n--------\nn3\n--------\n{ECC}",
    "check above": f"GPU check on n2: ok\nGPU check on n3:\n{ECC}",
    "syslogd": "Message from syslogd@n3 at Nov  3 15:06:07 ...\n kernel:watchdog: BUG: soft lockup - CPU#21 stuck",
    "block below": f"{ECC}\n  Local host:   n3\n  Local device: gpu5\n  Remote host: n1",
    # ---- the rank's node
    "rank in order": f"{LAYOUT}\n[rank9]: {ECC}",
    "rank in the text": f"{LAYOUT}\nRank 9 of 16: {ECC}",
    "rank of MPI's label": f"{LAYOUT}\n[1,9]<stderr>: {ECC}",
    "rank of Lightning's label": f"{LAYOUT}\n[rank: 9] {ECC}",
    "size of Megatron-LM": f"  world_size ...................................... 16\n[rank9]: {ECC}",
    "size of groups is smaller": f"world size: 16\ntensor parallel world size: 4\n[rank9]: {ECC}",
    "size of Lightning": f"Initializing distributed: GLOBAL_RANK: 5, MEMBER: 6/16\n[rank9]: {ECC}",
    "size of SLURM": f"SLURM_NTASKS=16\n9: {ECC}",
    "size by node": f"torchrun --nnodes=4 --nproc-per-node=4 train.py\n[rank9]: {ECC}",
    "size by node of SLURM": f"SLURM_TASKS_PER_NODE=4(x4)\n9: {ECC}",
    "rank that says its host": f"rank 9 on n3 (local rank 1)\n[rank9]: {ECC}",
    "rank with its host in another order": f"host: n3, rank: 9\n[rank9]: {ECC}",
    "rank that says where it runs": f"[rank9]: running on n3\n[rank9]: {ECC}",
    "task that says its host": f"9: task 9 on n3: CUDA_VISIBLE_DEVICES=0\n9: {ECC}",
    "rank that NCCL knows": f"[rank9]: n3:211:877 [1] NCCL INFO Bootstrap: Using ib0:10.0.0.3<0>\n[rank9]: {ECC}",
    "DeepSpeed's mapping": "global_rank_mapping=defaultdict(<class 'list'>, {'n1': [0, 1], 'n3': [8, 9]})\n"
    f"[rank9]: {ECC}",
    "srun of the task": f"9: {ECC}\nsrun: error: n3: task 9: Exited with exit code 1",
    "srun of other tasks": f"9: {ECC}\nsrun: error: n4: tasks 12-15: Exited with exit code 1\n"
    "srun: error: n2: tasks 4-7: Exited with exit code 1",
    "torchrun": f"{ECC}\n{failure('n3.site.org', 9, 1)}",
    "torchrun of another rank of the node": f"[rank9]: {ECC}\n{failure('n3', 10, 2)}{failure('n4', 15, 3)}",
    "torchrun's local rank": f"[default1]:{ECC}\n{failure('n3', 9, 1)}",
    "task of torchrun": f"{LAYOUT}\n2: [default1]:{ECC}",
    "earliest of several torchruns": f"{ECC}\n{failure('n1', 1, 1, second=20)}{failure('n3', 9, 1)}",
    "torchruns that write at once": "\n".join(
        line
        for pair in zip(
            failure("n3", 9, 1, second=10).splitlines(), failure("n1", 1, 1, second=20).splitlines(), strict=True
        )
        for line in (f"2: {pair[0]}", f"0: {pair[1]}")
    )
    + f"\n{ECC}",
    # ---- without any label
    "the one that ended by itself": f"{ECC}\nsrun: error: n3: task 9: Exited with exit code 1\n"
    "srun: error: n1: tasks 0-3: Terminated\nsrun: error: n2: tasks 4-7: Aborted (core dumped)",
    "tasks of one node alone": f"{ECC}\nsrun: error: n3: tasks 8-11: Killed",
    "Cray MPICH": "MPICH ERROR [Rank 9] [job id 1.0] [Tue Nov 10 04:11:52 2026] [n3] - Abort(6) (rank 9 in comm 0): x\n"
    "MPIDI_OFI_handle_cq_error(1067): OFI poll failed (ofi_events.c:1069: UNDELIVERABLE)",
    "another line of this category": f"{ECC}\nn3 kernel: NVRM: Xid (PCI:0000:9b:00): 48, pid=8, DBE",
    # ---- SLURM
    "node failure": "srun: error: Node failure on n3",
    "node failure that slurmstepd reports first": f"0: slurmstepd: error: *** STEP 34.0 ON n1 {DUE_TO_NODE}\n"
    "srun: error: Node failure on n3",
    "launch": "srun: error: Task launch for StepId=12.0 failed on node n3.site: Communication connection failure",
    "number of the node": "srun: error: step_launch_notify_io_failure: aborting, io error with slurmstepd on node 2",
    "not responding": "srun: error: Node n3 is not responding",
    "daemon": "slurmd[n3]: error: Prolog failed: exit status 1",
    "plug-in for PMIx": "slurmstepd: error:  mpi/pmix_v4: _errhandler: n3 [2]: x.c:211: invalid job credential",
    # ---- networks and file systems
    "ssh": "pdsh@n1: n3: ssh exited with exit code 255\nn3: ssh: connect to host n3 port 22: No route to host",
    "Hydra's proxy": "[mpiexec@n1] control_cb (pmiserv_cb.c:280): connection to proxy 2 at host n3 failed",
    "Open MPI's daemon": "  my node:   n1\n  target node:  n3",
    "UCX": "[1762433021.012] [n3:4711:0] ib_mlx5_log.c:177 UCX ERROR Transport retry count exceeded on mlx5_2:1/IB",
    "an adapter, which others wait for": f"n1:2:3 [0] {COMPLETION} 10.0.0.7<1> with error 12\n"
    f"n2:2:3 [0] {COMPLETION} 10.0.0.7<1> with error 12\n"
    "n3:2:3 [0] NCCL WARN NET/IB : mlx5_4:1 Got async event : port error",
    "a peer that none reaches": "n3:211:877 [2] NCCL INFO Bootstrap: Using ib0:10.0.0.3<0>\n"
    f"n1:2:3 [0] {COMPLETION} 10.0.0.3<1> with error 12\n"
    f"n2:2:3 [0] {COMPLETION} 10.0.0.3<2> with error 12",
    "local disk": f"{LAYOUT}\n[rank9]: {FULL}\n[rank10]: {FULL}",
    "mount": f"{LAYOUT}\n[rank9]: {STALE}\n[rank10]: {STALE}",
}


@pytest.mark.parametrize("way", ONE_LOG)
def test_the_node_at_fault_is_found(way: str) -> None:
    concluded = found(ONE_LOG[way])
    assert concluded.blamed_nodes == ("n3",), concluded
    assert concluded.rank in (None, 2, 9, 10), concluded


@pytest.mark.parametrize(
    ("log", "ending", "nodes"),
    [
        ("srun: error: Node failure on n[2,4]", {}, ("n2", "n4")),
        ("srun: error: Node failure on n2\nsrun: error: Node failure on n4", {}, ("n2", "n4")),
        ("srun: error: Task launch for StepId=12.0 failed on nodes n[2-3]: Job prolog failed", {}, ("n2", "n3")),
        ("node check failed: n2,n4: GPU not there", {}, ("n2", "n4")),
        (f"n1:2:3 [0] {COMPLETION} 10.0.0.7<1> with error 12",
         {"scheduler_state": "NODE_FAIL", "failed_nodes": "n2"}, ("n2",)),
        (ECC, {"scheduler_state": "NODE_FAIL", "failed_nodes": "n2"}, ("n2",)),
        ("/var/spool/job1/slurm_script: line 5: cannot create temp file for here-document: No space left on device",
         {}, ("n1",)),
        (f"{LAYOUT}\nERROR:x:Unexpected result nan on rank 9 at iteration #4 invocation #1 (message='found NaN')\n"
         "ValueError: loss is nan", {}, ("n3",)),
        ("GPU check on gpu-b-07: bad\n[rank5]: " + ECC, {"nodes": "gpu-b-[07-08]"}, ("gpu-b-07",)),
        (f"gpu-b-07: {ECC}", {"nodes": "gpu-b-[07-08]"}, ("gpu-b-07",)),
        (f"n3: {ECC}", {"nodes": "n[1-4].site.org"}, ("n3.site.org",)),
        (f"jwb0003i:1:2 {NCCL_ECC}", {"nodes": "jwb[0001-0004]"}, ("jwb0003",)),
        (f"[rank1]: {ECC}", {"nodes": "n7"}, ("n7",)),
        (f"{LAYOUT}\n[rank9]: {STALE}", {}, ("n3",)),
    ],
)  # fmt: skip
def test_lists_single_nodes_and_what_the_scheduler_knows(
    log: str, ending: dict[str, str], nodes: tuple[str, ...]
) -> None:
    assert found(log, **ending).blamed_nodes == nodes  # type: ignore[arg-type]


@pytest.mark.parametrize("names", [("main.log", "out_n2.log", "out_n3.log"), ("main.log", "12-n2.out", "12-n3.out")])
def test_files_of_nodes_say_the_node(names: tuple[str, ...]) -> None:
    assert found("starts", "starts", ECC, names=names).blamed_nodes == ("n3",)


def test_files_of_ranks_say_the_rank_and_how_many_there_are() -> None:
    names = ("main.log", *(f"rank_{rank}.log" for rank in range(16)))
    logs = ["starts"] * 17
    logs[1 + 9] = ECC
    concluded = found(*logs, names=names)
    assert (concluded.rank, concluded.blamed_nodes) == (9, ("n3",))


@pytest.mark.parametrize(
    "log",
    [
        ECC,
        f"[rank9]: {ECC}",  # how many ranks a node has is not known
        f"[default1]:{ECC}",
        f"{LAYOUT}\n[rank0]: local rank 1: ok\n{ECC}",
        f"SLURM_NTASKS=4\n[rank9]: {ECC}",
        f"{LAYOUT}\n[rank9]: {ECC}\nsrun: error: n2: task 13: Exited with exit code 1",  # ranks are not in blocks
        f"[rank9]: {ECC}\nsrun: error: n1: task 0: Exited with exit code 1\nsrun: error: n2: task 1: Aborted",
        f"{ECC}\nsrun: error: n3: task 9: Exited with exit code 1\nsrun: error: n2: task 5: Exited with exit code 1",
        f"rank 9 on n2\nrank 9 on n3\n[rank9]: {ECC}",
        f"MASTER_ADDR=n1\n[rank9]:[W1 TCPStore.cpp] failed on SocketImpl(addr=[n2]:1, remote=[n1]:29500)\n{ECC}",
        f"0: slurmstepd: error: *** STEP 34.0 ON n1 {DUE_TO_NODE}",
        f"{LAYOUT}\n[rank1]: {FULL}\n[rank9]: {FULL}",
        f"{LAYOUT}\n[rank1]: {STALE}\n[rank9]: {STALE}",
        f"n1:2:3 [0] {COMPLETION} 10.0.0.3<1> with error 12\nn2:2:3 [0] {COMPLETION} 10.0.0.1<2> with error 12",
        "[rank5]: torch.distributed.DistNetworkError: failed to connect to n1:29500: Connection refused",
        f"{LAYOUT}\n{RERUN}Rank 9, node n3, device 0, iteration #4: Correct result (but possible Application error)",
    ],
)
def test_no_node_is_blamed_where_none_is_known(log: str) -> None:
    concluded = found(log)
    assert (concluded.category != "", concluded.blamed_nodes) == (True, ())


def test_a_file_that_is_named_like_a_node_says_nothing_alone() -> None:
    assert found("starts", ECC, names=("main.log", "layers_n3.log")).blamed_nodes == ()
