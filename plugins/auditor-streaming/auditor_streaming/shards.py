"""From a pattern to tar files: braces, wildcards, lists, URLs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from auditor.data.base import printable
from auditor.errors import DataError, OptionError
from auditor_streaming.request import is_url

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_MAGIC = re.compile(r"[*?[]")
_WANTED = "a pattern of .tar files, such as data/val-{000..049}.tar, data/val-*.tar, a folder, a .txt list or a URL"


@dataclass(frozen=True)
class Shard:
    """One tar file.

    Parameters
    ----------
    place : str
        An absolute path, or a URL.
    name : str
        What the ids of its samples begin with.
    """

    place: str
    name: str

    @property
    def path(self) -> Path | None:
        """Where it lies, if it is a local file."""
        return None if is_url(self.place) else Path(self.place)

    def __str__(self) -> str:
        return printable(self.place)

    def stamp(self) -> dict[str, int]:
        """What tells that the file has changed: size and time of change; of a URL nothing is known.

        Raises
        ------
        DataError
            If the file is not there.
        """
        if self.path is None:
            return {}
        try:
            found = self.path.stat()
        except OSError as error:
            raise DataError(f"The tar {self} cannot be read: {error.strerror}.") from error
        return {"size": found.st_size, "mtime_ns": found.st_mtime_ns}


def find_shards(pattern: str) -> tuple[Shard, ...]:
    """Find the tar files that a pattern names, in its order; those of a wildcard or a folder by name.

    Parameters
    ----------
    pattern : str
        As WebDataset has it: ``::`` between several, ``{000..049}`` and ``{a,b}``; and ``*``, ``?`` and ``[...]`` for
        local files, a folder for all its tars, a ``.txt`` file with one of these on each line.

    Raises
    ------
    DataError
        If there is none, one is missing, or one is named twice.
    OptionError
        If the pattern has no meaning.
    """
    places = [place for one in _expand(pattern) for place in _places(one)]
    if not places:
        raise DataError("No tar file is there.", wanted=_WANTED, got=repr(pattern))
    place, times = Counter(places).most_common(1)[0]
    if times > 1:
        raise DataError(f"The tar {printable(place)} is named {times} times.", got=repr(pattern))
    return tuple(map(Shard, places, _names(places)))


def _expand(pattern: str) -> list[str]:
    from webdataset.shardlists import expand_urls

    try:
        return [one for one in expand_urls(pattern) if one]
    except ValueError as error:
        raise OptionError(
            f"The pattern of tar files cannot be expanded: {error}", wanted=_WANTED, got=repr(pattern)
        ) from error


def _places(text: str, *, listed_in: Path | None = None) -> Iterator[str]:
    if is_url(text) and not text.startswith("file:"):
        _check_scheme(text, listed_in)
        yield text
        return
    path = Path(re.sub(r"^file:(//)?", "", text)).expanduser()
    if listed_in is not None:
        path = listed_in.parent / path
    if path.is_dir():
        yield from sorted(str(entry.absolute()) for entry in path.iterdir() if entry.name.endswith(SUFFIXES))
    elif path.suffix == ".txt" and listed_in is None:
        yield from _listed(path)
    elif path.exists() or not _MAGIC.search(str(path)):
        if not path.is_file():
            raise DataError(f"There is no tar file {printable(str(path))!r}.", wanted=_WANTED)
        yield str(path.absolute())
    else:
        whole = path.absolute()
        yield from sorted(map(str, Path(whole.anchor).glob(str(whole.relative_to(whole.anchor)))))


def _listed(path: Path) -> Iterator[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"The list {printable(str(path))} cannot be read: {error}") from error
    for line in lines:
        if line.strip() and not line.lstrip().startswith("#"):
            for one in _expand(line.strip()):
                yield from _places(one, listed_in=path)


def _check_scheme(url: str, listed_in: Path | None) -> None:
    from webdataset.gopen import gopen_schemes

    scheme = url.partition(":")[0].lower()
    if scheme not in gopen_schemes:
        known = ", ".join(name for name in gopen_schemes if not name.startswith("_"))
        raise OptionError(f"The scheme {scheme!r} is unknown.", wanted=f"a path, or one of {known}", got=printable(url))
    if scheme == "pipe" and listed_in is not None:
        raise DataError(
            f"{listed_in} holds a command, which is refused: a list is data.",
            got=printable(url),
            fix="Give the command itself: --data 'wds:pipe:COMMAND'.",
        )


def _names(places: list[str]) -> list[str]:
    """File names without suffix; where two tars have the same, as many folders before them as tell them apart."""
    parts = [PurePosixPath(_stem(place)).parts for place in places]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-depth:]).lstrip("/") for part in parts]
        if len(set(names)) == len(names):
            return names
    return places


def _stem(place: str) -> str:
    if place.startswith("pipe:"):
        # The last word that looks like a tar, as in "pipe:curl -s https://host/a-000.tar | cat".
        words = [word.strip("'\"") for word in place.split()]
        place = next((word for word in reversed(words) if word.partition("?")[0].endswith(SUFFIXES)), place[5:].strip())
    if is_url(place):
        place = place.partition("?")[0]
    suffix = next((suffix for suffix in sorted(SUFFIXES, key=len, reverse=True) if place.endswith(suffix)), "")
    return Path(place.removesuffix(suffix)).as_posix()
