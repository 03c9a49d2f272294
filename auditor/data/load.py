"""From what the user wrote after ``--data`` to a data set."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from auditor.data.base import LabelledData
from auditor.data.folder import close_siblings
from auditor.data.splits import DEFAULT_FRACTIONS, check_fractions
from auditor.errors import DataError, PluginError
from auditor.registry import registry


def load_data(text: str, *, seed: int = 0, fractions: tuple[float, float, float] = DEFAULT_FRACTIONS) -> LabelledData:
    """Ask every data source in turn and load with the first that claims `text`.

    Parameters
    ----------
    text : str
        ``"digits"``, a folder, or whatever an installed plugin understands.
    seed : int
        Decides which image is in which split.
    fractions : tuple of float
        Shares of train, select and score.

    Raises
    ------
    DataError
        If no source claims `text`, or the data are unusable.
    OptionError
        If the fractions cannot be used.
    """
    fractions = check_fractions(fractions)
    sources = registry().data_sources()
    for source in sources.values():
        if source.claims(text):
            data = source.load(text, seed=seed, fractions=fractions)
            if not isinstance(data, LabelledData):
                raise PluginError(
                    f"The data source {source.name!r} broke its contract.",
                    wanted="LabelledData",
                    got=type(data).__name__,
                )
            return data
    raise _unclaimed(text, list(sources))


def _unclaimed(text: str, source_names: list[str]) -> DataError:
    path = Path(text).expanduser()
    if path.is_file():
        message = f"{text!r} is a file, not a folder of class folders."
    else:
        message = f"There is no folder and no data set named {text!r}."
    named = [name for name in source_names if name != "folder"]
    closest = get_close_matches(text, named, n=3, cutoff=0.5) + [str(path) for path in close_siblings(path)]
    return DataError(
        message,
        wanted=f"a folder with one folder of images for each class, or one of: {', '.join(named)}",
        got=repr(text),
        closest=closest,
    )
