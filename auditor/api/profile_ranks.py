"""A profile that several processes share: they stream shards of the images, then score sites."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from auditor.api.settings import SelectivitySettings, StoreSettings
from auditor.api.shard_plan import ShardPlan
from auditor.api.site_scores import get_scores, put_scores
from auditor.api.storing import STORE, Responses, missing_shards, shard_files
from auditor.api.stream import Streamed
from auditor.api.tables import site_scorer
from auditor.api.tally import PROFILED, Moments, moments_of
from auditor.distributed import World
from auditor.distributed.reporters import together
from auditor.errors import OptionError
from auditor.progress import Reporter
from auditor.selectivity.scores import UnitScores
from auditor.stats.moments import ClassMoments
from auditor.store.blocks import BlockCache
from auditor.store.reader import StoreReader
from auditor.units import Site

MOMENTS = "moments"
SCORES = "scores"


def check_ranks(world: World, storing: StoreSettings) -> None:
    """Refuse what several ranks cannot share.

    Raises
    ------
    OptionError
    """
    if not world.several:
        return
    if storing.shard is not None:
        raise OptionError(
            "Several ranks divide the images themselves.", got=f"--shard {storing.shard}", fix="Leave out --shard."
        )
    if storing.keep == "none":
        raise OptionError(
            "What several ranks find meets on disk, so it cannot be kept in memory only.",
            fix="Profile without --store none, or use one process.",
        )


def stream_shards(
    plan: ShardPlan,
    streamed: Callable[..., Streamed],
    storing: StoreSettings,
    world: World,
    reporter: Reporter,
) -> None:
    """Stream every shard that is not complete, each by one rank, and keep the class moments of each beside its rows.

    Parameters
    ----------
    plan : ShardPlan
    streamed : callable
        Streams one shard: gets its file, its settings, its part of the pass and the open task.
    storing : StoreSettings
    world : World
    reporter : Reporter
    """
    missing = world.share("missing shards", plan.missing() if world.main else None)
    if not missing:
        return
    total = plan.bounds[-1]
    with together(reporter, "Profiling", total, "images") as task:
        if world.main:
            left = [plan.rows(number) for number in missing]
            task.advance(total - sum(part.stop - part.start for part in left))
        for place in world.take("shards", len(missing)):
            number = missing[place]
            file = plan.file(number)
            found = streamed(file, plan.settings(number, storing), plan.rows(number), task)
            BlockCache(file.parent).put(MOMENTS, to_arrays(found.moments))


def merged_moments(folder: Path, sites: Sequence[Site], n_classes: int) -> Moments:
    """Class moments of all shards of a run, merged in the order of the images."""
    merged = {split: {site.name: ClassMoments(n_classes, site.n_units) for site in sites} for split in PROFILED}
    for file in shard_files(folder):
        kept = BlockCache(file.parent).get(MOMENTS)
        if kept is None:  # a process was killed between the last row and this
            with StoreReader(file) as store:
                part = moments_of(store, sites, n_classes)
        else:
            part = {
                split: {
                    name: ClassMoments.from_state(
                        {field: kept[f"{split}|{name}|{field}"] for field in merged[split][name].state()}
                    )
                    for name in merged[split]
                }
                for split in PROFILED
            }
        for split, by_site in part.items():
            for name, moments in by_site.items():
                merged[split][name].merge(moments)
    return merged


def to_arrays(moments: Moments) -> dict[str, NDArray[Any]]:
    """Name every array of class moments."""
    return {
        f"{split}|{name}|{field}": values
        for split, by_site in moments.items()
        for name, one in by_site.items()
        for field, values in one.state().items()
    }


def score_shared(
    folder: Path,
    store: Responses,
    moments: Moments,
    sites: Sequence[Site],
    n_classes: int,
    settings: SelectivitySettings,
    world: World,
    reporter: Reporter,
    *,
    seed: int,
) -> Callable[[Site], list[UnitScores]]:
    """Score every site, each by one rank; gives a function that reads what was found."""
    cache = BlockCache(folder / SCORES)
    score = site_scorer(store, moments, n_classes, settings, seed=seed)
    largest_first = sorted(sites, key=lambda site: -site.n_units)
    with together(reporter, "Scoring selectivity", sum(site.n_units for site in sites), "units") as task:
        for place in world.take("sites", len(sites)):
            site = largest_first[place]
            if get_scores(cache, site.name) is None:
                put_scores(cache, site.name, score(site))
            task.advance(site.n_units)

    def known(site: Site) -> list[UnitScores]:
        cache.require(site.name)
        found = get_scores(cache, site.name)
        assert found is not None
        return found

    return known


def clear(folder: Path) -> None:
    """Remove what only the ranks needed; the run's own files hold it all."""
    BlockCache(folder / SCORES).clear()
    if folder.joinpath(SCORES).is_dir():
        folder.joinpath(SCORES).rmdir()
    for file in shard_files(folder):
        BlockCache(file.parent).clear()
        for path in file.parent.glob(".*.tmp"):  # half written by ranks that were killed
            path.unlink(missing_ok=True)


def user_shards(folder: Path) -> bool:
    """Whether the user divides the run with ``--shard``."""
    return not folder.joinpath(STORE).exists() and ShardPlan.of(folder) is None and missing_shards(folder)[1] > 0
