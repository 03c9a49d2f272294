"""How this process was launched: by ``torchrun`` or another launcher of PyTorch, by Slurm's ``srun``, or by itself.

Knows no torch, so that a command line can ask before it imports anything.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from auditor.errors import OptionError

_TORCHRUN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_FIRST_PORT, _PORTS = 15000, 20000


@dataclass(frozen=True)
class Launch:
    """One process of several.

    Attributes
    ----------
    rank, size : int
        Number of this process, from 0, and how many there are.
    local_rank, local_size : int
        The same on this machine.
    address : str
    port : int
        Where the ranks meet.
    attempt : str
        Tells one start of the same launcher from the next.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    address: str
    port: int
    attempt: str = "0"

    @classmethod
    def of_environment(cls, environment: Mapping[str, str] = os.environ) -> Launch | None:
        """Read what a launcher has set; None for a process that was started alone.

        Raises
        ------
        OptionError
            If what is set makes no sense.
        """
        if "WORLD_SIZE" in environment and "RANK" in environment:
            launch = cls._of_torch(environment)
        elif "SLURM_PROCID" in environment and "SLURM_STEP_NUM_TASKS" in environment:
            launch = cls._of_slurm(environment)
        else:
            return None
        return launch if launch.size > 1 else None

    @classmethod
    def _of_torch(cls, environment: Mapping[str, str]) -> Launch:
        rank, size = _integer(environment, "RANK"), _integer(environment, "WORLD_SIZE")
        if size > 1:
            missing = [name for name in _TORCHRUN if name not in environment]
            if missing:
                raise OptionError(
                    "WORLD_SIZE and RANK are set, but not where the processes meet.",
                    wanted=", ".join(_TORCHRUN),
                    got=f"without {', '.join(missing)}",
                    fix="Start with `torchrun --nproc-per-node N -m auditor ...`, or unset WORLD_SIZE.",
                )
        if not 0 <= rank < size:
            raise OptionError("A rank is one of several.", wanted=f"RANK from 0 to {size - 1}", got=str(rank))
        return cls(
            rank,
            size,
            _integer(environment, "LOCAL_RANK", rank),
            _integer(environment, "LOCAL_WORLD_SIZE", size),
            environment.get("MASTER_ADDR", "localhost"),
            _integer(environment, "MASTER_PORT", _FIRST_PORT),
            environment.get("TORCHELASTIC_RESTART_COUNT", "0"),
        )

    @classmethod
    def _of_slurm(cls, environment: Mapping[str, str]) -> Launch:
        size = _integer(environment, "SLURM_STEP_NUM_TASKS")
        address = environment.get("MASTER_ADDR", "")
        if size > 1 and not address:
            address = first_host(environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_NODELIST", ""))
        # The same number in all tasks of a step, another one in each step.
        job, step = _integer(environment, "SLURM_JOB_ID", 0), _integer(environment, "SLURM_STEP_ID", 0)
        port = _integer(environment, "MASTER_PORT", _FIRST_PORT + (job * 31 + step) % _PORTS)
        tasks = re.match(r"\d+", environment.get("SLURM_STEP_TASKS_PER_NODE", ""))
        return cls(
            _integer(environment, "SLURM_PROCID"),
            size,
            _integer(environment, "SLURM_LOCALID", 0),
            int(tasks[0]) if tasks else 1,
            address,
            port,
            f"{job}.{step}.{environment.get('SLURM_RESTART_COUNT', '0')}",
        )


def first_host(nodes: str) -> str:
    """Name of the first machine of a list as Slurm writes it (``gpu[03-05,09],login1``).

    Raises
    ------
    OptionError
        If the list is empty.
    """
    if shutil.which("scontrol") and nodes:
        found = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=False)
        if found.returncode == 0 and found.stdout.strip():
            return found.stdout.split()[0]
    match = re.match(r"([^\[,]+)(?:\[([^\],-]+)[^\]]*\])?([^,]*)", nodes)
    if match is None:
        raise OptionError(
            "Slurm does not say on which machines the step runs.",
            wanted="SLURM_STEP_NODELIST",
            fix="Set MASTER_ADDR to the name of the first machine.",
        )
    return f"{match[1]}{match[2] or ''}{match[3]}"


def _integer(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environment.get(name)
    if text is None and default is not None:
        return default
    try:
        return int(text)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise OptionError(f"{name} is not a number.", wanted="an integer", got=repr(text)) from None
