"""What a user's own script does under a launcher: it joins more than once, and fails in one rank at the end."""

import sys
from pathlib import Path

import auditor
from auditor.distributed.joining import joined

with joined() as world:
    run = auditor.profile(
        "slow:small_cnn", weights="none", data=sys.argv[1], input_size=16, batch_size=16, workers=0, shuffles=19,
        bootstraps=39, name="mine",
    )  # fmt: skip
with joined() as world:  # again, with nothing left of what they told each other before
    assert world.gather("once more", world.rank) == [0, 1]
    Path(f"rank-{world.rank}").write_text(f"{len(run.selectivity)}", encoding="utf-8")
with joined() as world:
    if world.rank == 1:
        message = "what is not in the table"
        raise LookupError(message)
    world.barrier("never reached by all")
