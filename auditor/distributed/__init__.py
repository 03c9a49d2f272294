"""Several processes on one job: who they are, how they meet, how work is divided, and what happens when one is lost.

Everything here stands on ``torch.distributed``: its launchers (``torchrun``, ``srun``), its key-value store for meeting
and for progress, its process groups for training. Results go through the run's folder, which all processes see.
"""

from auditor.distributed.world import World, alone, current

__all__ = ["World", "alone", "current"]
