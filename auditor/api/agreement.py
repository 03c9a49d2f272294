"""Ranks that are about to do different things are told so, before they wait for each other."""

from __future__ import annotations

from auditor.distributed import World
from auditor.errors import RunError
from auditor.manifest import Manifest


def check_agreement(world: World, manifest: Manifest) -> None:
    """Refuse to go on if the ranks are about to do different things.

    Raises
    ------
    RunError
        Naming the fields in which a rank differs from the main one.
    """
    if not world.several:
        return
    theirs = world.share("identity", manifest.to_dict())
    if theirs["digest"] != manifest.digest():
        changes = Manifest.from_dict(theirs).diff(manifest)
        raise RunError(
            f"Rank {world.rank} sees another model, other data or other settings than rank 0.",
            got="; ".join(map(str, changes[:5])) + ("; ..." if len(changes) > 5 else ""),
            fix="Give all ranks the same arguments, files and versions of packages.",
        )
    world.barrier("agreed")  # nobody begins before all have looked
