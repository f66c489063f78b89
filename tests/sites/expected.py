"""What five clusters' documentation says that a rank of a job there sees."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "WANDB_MODE": "offline"}
INFINIBAND_AT_JSC = {
    "NCCL_SOCKET_IFNAME": "ib0",
    "NCCL_SOCKET_FAMILY": "AF_INET",
    "NCCL_IB_TIMEOUT": "18",
    "NCCL_IB_RETRY_CNT": "20",
    "NCCL_IB_HCA": "mlx5_0,mlx5_1,mlx5_2,mlx5_3",
}
NETWORK = {
    "lumi": {
        "NCCL_SOCKET_IFNAME": "hsn0,hsn1,hsn2,hsn3",
        "NCCL_NET_GDR_LEVEL": "PHB",
        "HSA_ENABLE_SDMA": "0",
        "HSA_FORCE_FINE_GRAIN_PCIE": "1",
        "CC": "gcc-12",
        "CXX": "g++-12",
    },
    "leonardo": {"NCCL_IB_TIMEOUT": "120", **OFFLINE},
    "marenostrum": {
        "NCCL_NET": "IB",
        "NCCL_SOCKET_IFNAME": "ib0,ib1,ib2,ib3",
        "NCCL_IB_HCA": "mlx5_0,mlx5_1,mlx5_4,mlx5_5",
        "NCCL_NVLS_ENABLE": "0",
        "NCCL_NCHANNELS_PER_PEER": "32",
        "NCCL_MIN_NCHANNELS": "32",
        "CC": "gcc-13",
        "CXX": "g++-13",
        **OFFLINE,
    },
    "juwels": {
        **INFINIBAND_AT_JSC,
        "GLOO_SOCKET_IFNAME": "ib0",
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1",
        **OFFLINE,
    },
    "jupiter": {
        **INFINIBAND_AT_JSC,
        "NCCL_PROTO": "Simple",
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
        "OMP_NUM_THREADS": "72",
        **OFFLINE,
    },
}
SRUN = {
    "lumi": ("--network=disable_rdzv_get", "--wait=60"),
    "leonardo": ("--threads-per-core=1", "--gpu-bind=none", "--wait=60"),
    "marenostrum": (),
    "juwels": ("--threads-per-core=1", "--gpu-bind=none", "--wait=60"),
    "jupiter": ("--mpi=none",),
}
"""Flags of srun."""
SBATCH = {
    "lumi": ("--exclusive", "--mem=480G"),
    "leonardo": ("--exclusive",),
    "marenostrum": ("--exclusive", "--wait-all-nodes=1"),
    "juwels": ("--exclusive",),
    "jupiter": ("--exclusive",),
}
"""What a job asks for beside its shape."""
CPUS_PER_TASK = {"lumi": "7", "leonardo": "8", "marenostrum": "20", "juwels": "12", "jupiter": "72"}
MASTER = {"lumi": "{name}", "juwels": "{name}i"}
"""What a site's ranks call the first node; elsewhere by its address, 10.0.0.1 here."""
MODULES = {
    "lumi": ["module purge"],
    "jupiter": ["module purge"],
    "juwels": [
        "module purge",
        "module load Stages/2025 GCC/13.3.0 CUDA/12 NCCL/default-CUDA-12 OpenMPI/5.0.5 ParaStationMPI",
    ],
}


@dataclass(frozen=True)
class Containers:
    """What containers need at a site: folders that are bound, and commands of `module` for them."""

    folders: tuple[str, ...]
    modules: tuple[str, ...] = ()


OF_CONTAINERS = {
    "lumi": Containers(
        ("/pfs", "/scratch", "/flash", "/project", "/projappl", "/users"),
        ("module use /appl/local/laifs/modules", "module load lumi-aif-singularity-bindings"),
    ),
    "leonardo": Containers(("/leonardo", "/leonardo_work", "/leonardo_scratch")),
    "marenostrum": Containers(("/gpfs", "/apps"), ("module load singularity",)),
    "juwels": Containers(()),
    "jupiter": Containers(("/e",)),
}


def modules(name: str) -> list[str]:
    """The commands of `module` of a job in a container."""
    return [*MODULES.get(name, []), *OF_CONTAINERS[name].modules]


def masks() -> list[str]:
    """The masks of CPUs in LUMI's profile, one a rank."""
    found = re.search("mask_cpu:([0-9a-f,]+)", (ROOT / "config/slurm/lumi.yaml").read_text())
    assert found is not None
    return found[1].split(",")
