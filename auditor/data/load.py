"""From what the user wrote after ``--data`` to a data set."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from auditor.data.base import DataSource, LabelledData
from auditor.data.dataset import MapDataset, from_dataset
from auditor.data.factory import PLUGIN_SCHEMES, takes
from auditor.data.folder import close_siblings
from auditor.data.splits import DEFAULT_FRACTIONS, check_fractions
from auditor.errors import DataError, OptionError, PluginError
from auditor.registry import registry

BUILTIN = ("digits", "factory", "folder", "npz", "torchvision")


def load_data(
    data: str | LabelledData | MapDataset,
    *,
    seed: int = 0,
    fractions: tuple[float, float, float] = DEFAULT_FRACTIONS,
    root: str | Path | None = None,
) -> LabelledData:
    """Load what `data` names with the first source that claims it, or take what is given.

    Parameters
    ----------
    data : str, LabelledData or MapDataset
        ``"digits"``, a folder, an ``.npz`` file, ``"torchvision:NAME"``, ``"package.module:factory"`` or whatever an
        installed plugin understands; or a data set, see :func:`auditor.data.dataset.from_dataset`.
    seed : int
        Decides which image is in which split.
    fractions : tuple of float
        Shares of train, select and score; LabelledData has its own division.
    root : path, optional
        Where a named data set lies, for the sources that ask.

    Raises
    ------
    DataError
        If no source claims `data`, or the data are unusable.
    OptionError
        If the fractions cannot be used, or `root` has no meaning here.
    """
    fractions = check_fractions(fractions)
    if not isinstance(data, str):
        return _given(data, seed, fractions, root)
    sources = registry().data_sources()
    for source in sources.values():
        if source.claims(data):
            return _load(source, data, seed, fractions, None if root is None else str(root))
    raise _unclaimed(data, list(sources))


def _given(
    data: LabelledData | MapDataset, seed: int, fractions: tuple[float, float, float], root: str | Path | None
) -> LabelledData:
    if root is not None:
        raise OptionError("root says where a named data set lies.", got=f"root={str(root)!r} and a data set")
    if isinstance(data, LabelledData):
        return data
    if not isinstance(data, MapDataset):
        raise DataError(
            "These data cannot be used.",
            wanted="a name, LabelledData, or a data set with len() whose items are (image, class number)",
            got=type(data).__name__,
            fix="A data set that can only be iterated must be put into a list first."
            if hasattr(data, "__iter__")
            else None,
        )
    return from_dataset(data, seed=seed, fractions=fractions)


def _load(
    source: DataSource, text: str, seed: int, fractions: tuple[float, float, float], root: str | None
) -> LabelledData:
    if root is None:
        found: object = source.load(text, seed=seed, fractions=fractions)
    elif takes(source.load, "root"):
        found = source.load(text, seed=seed, fractions=fractions, root=root)
    else:
        raise OptionError(f"The data source {source.name!r} takes no --root.", got=f"--root {root}")
    if not isinstance(found, LabelledData):
        raise PluginError(
            f"The data source {source.name!r} broke its contract.", wanted="LabelledData", got=type(found).__name__
        )
    return found


def _unclaimed(text: str, source_names: list[str]) -> DataError:
    path = Path(text).expanduser()
    if path.is_file():
        message = f"{text!r} is a file of a kind that no data source reads."
    elif (scheme := text.partition(":")[0]) != text and scheme in PLUGIN_SCHEMES:
        package = PLUGIN_SCHEMES[scheme]
        return DataError(f"{text!r} needs the plugin {package}.", got=repr(text), fix=f"Install {package}.")
    else:
        message = f"There is no folder and no data set named {text!r}."
    closest = get_close_matches(text, source_names, n=3, cutoff=0.5) + [str(near) for near in close_siblings(path)]
    return DataError(
        message,
        wanted="a folder with one folder of images for each class, digits, FILE.npz, torchvision:NAME or "
        "package.module:factory" + "".join(f", {name}:..." for name in source_names if name not in BUILTIN),
        got=repr(text),
        closest=closest,
    )
