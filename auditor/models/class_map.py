"""Which output of a model is which class of a data set."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

from auditor.errors import ModelError, OptionError

IMAGENET = "imagenet"
IMAGENET_OUTPUTS = 1000
_INDEX_COLUMN = "index"
_FORMS = (
    "a CSV of `class,output`, a CSV table with a column `index` and columns of names, or a JSON object "
    "{class: output}; an output is an index or a name"
)
_SHOWN = 5


class OutputNames:
    """Names of a model's outputs; case and ``_`` for a space do not matter.

    Parameters
    ----------
    pairs : iterable of (str, int)
        A name may come with several indices, as long as nobody asks for it.
    """

    def __init__(self, pairs: Iterable[tuple[str, int]]) -> None:
        self._indices: dict[str, set[int]] = {}
        for name, index in pairs:
            self._indices.setdefault(_plain(name), set()).add(index)

    def find(self, name: str) -> int | None:
        """Index of the output called `name`; None if there is none.

        Raises
        ------
        OptionError
            If several outputs are called so.
        """
        found = sorted(self._indices.get(_plain(name), ()))
        if len(found) > 1:
            raise OptionError(
                f"{name!r} is the name of several outputs.",
                wanted="a name that one output has",
                got=f"outputs {', '.join(map(str, found))}",
                fix="Map the class to an index.",
            )
        return found[0] if found else None

    def near(self, name: str) -> list[str]:
        """Names like `name`."""
        return get_close_matches(_plain(name), self._indices, n=3, cutoff=0.6)


def imagenet_names() -> OutputNames:
    """Names of the 1,000 ImageNet outputs in their usual order: WordNet ids and every synonym, as timm has them."""
    from timm.data import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    pairs = []
    for index in range(info.num_classes()):
        description = info.index_to_description(index)
        pairs += [(name, index) for name in {info.index_to_label_name(index), description, *description.split(", ")}]
    return OutputNames(pairs)


def resolve_class_map(
    given: str | Path | Mapping[str, int | str],
    classes: Sequence[str],
    *,
    n_outputs: int,
    names: str | Path | None = None,
) -> list[int]:
    """Find the model's output for every class of the data.

    Parameters
    ----------
    given : path or mapping
        ``"imagenet"``, for classes called by WordNet ids or names; a file; or the mapping itself. A file is a CSV of
        ``class,output`` (with or without a header), a JSON object, or a CSV table with a column ``index`` in which the
        classes are found by whatever its other columns call them. Classes that the data do not have are passed over.
    classes : sequence of str
        The data's classes.
    n_outputs : int
        Number of outputs of the model.
    names : path, optional
        Table with a column ``index`` that tells what the outputs are called, where `given` maps to names. Default:
        ImageNet's names for a model with 1,000 outputs.

    Returns
    -------
    list of int
        Output of every class, in the order of `classes`; all different.

    Raises
    ------
    OptionError
        If a class has no output, two share one, or an output does not exist.
    ModelError
        If ImageNet's names are asked for and the model does not have 1,000 outputs.
    """
    where = "the class map" if isinstance(given, Mapping) else str(given)
    entries, table = _read(given, n_outputs)
    if table is not None:
        entries = {name: index for name in classes if (index := table.find(name)) is not None}
    missing = [name for name in classes if name not in entries]
    if missing:
        near = table.near(missing[0]) if table is not None else get_close_matches(missing[0], entries, n=3, cutoff=0.6)
        raise OptionError(
            f"{where} leaves {len(missing)} of the {len(classes)} classes of the data without an output.",
            wanted="one output for each class",
            got=f"nothing for {_listed(missing)}",
            closest=near,
            fix=None if entries else f"The file names none of the classes. It should be {_FORMS}.",
        )
    called = _names(names, n_outputs) if any(isinstance(entries[name], str) for name in classes) else None
    outputs = [_index(entries[name], name, called, n_outputs, where) for name in classes]
    owner: dict[int, str] = {}
    for name, output in zip(classes, outputs, strict=True):
        if output in owner:
            raise OptionError(
                f"{where} gives one output to two classes.",
                wanted="an output of its own for each class",
                got=f"output {output} for {owner[output]} and for {name}",
                fix="Merge the two classes in the data, or correct the map.",
            )
        owner[output] = name
    return outputs


def _read(
    given: str | Path | Mapping[str, int | str], n_outputs: int
) -> tuple[dict[str, int | str], OutputNames | None]:
    """Entries of the map, or the table in which the classes are looked up."""
    if isinstance(given, Mapping):
        return _entries(given.items(), "the class map"), None
    if str(given) == IMAGENET and not Path(given).exists():
        if n_outputs != IMAGENET_OUTPUTS:
            raise ModelError(
                "The model's outputs are not the classes of ImageNet.",
                wanted=f"{IMAGENET_OUTPUTS} outputs",
                got=str(n_outputs),
                fix="Give a file: --class-map FILE.",
            )
        return {}, imagenet_names()
    path = Path(given).expanduser()
    text = _text(path)
    if text.lstrip().startswith(("{", "[")):
        try:
            content = json.loads(text)
        except ValueError as error:
            raise OptionError(f"{path} is not valid JSON: {error}", wanted=_FORMS) from None
        if not isinstance(content, dict):
            raise OptionError(f"{path} is not a class map.", wanted=_FORMS, got="a JSON list")
        return _entries(content.items(), str(path)), None
    rows = [row for row in csv.reader(text.splitlines()) if any(cell.strip() for cell in row)]
    if rows and _INDEX_COLUMN in _header(rows[0]):
        return {}, _table(rows, path)
    odd = next((row for row in rows if len(row) != 2), None if rows else [])
    if odd is not None:
        raise OptionError(f"{path} is not a class map.", wanted=_FORMS, got=",".join(odd) or "an empty file")
    if _header(rows[0])[0] in ("class", "name", "label") and not rows[0][1].strip().isdigit():
        rows = rows[1:]
    return _entries(((name.strip(), output.strip()) for name, output in rows), str(path)), None


def _entries(pairs: Iterable[tuple[str, object]], where: str) -> dict[str, int | str]:
    entries: dict[str, int | str] = {}
    for name, output in pairs:
        if isinstance(output, bool) or not isinstance(output, int | str):
            raise OptionError(
                f"{where} does not say which output {name!r} is.", wanted="an index or a name", got=repr(output)
            )
        if entries.get(name, output) != output:
            raise OptionError(f"{where} names {name!r} twice.", got=f"{entries[name]} and {output}")
        entries[name] = output
    return entries


def _index(output: int | str, name: str, called: OutputNames | None, n_outputs: int, where: str) -> int:
    number = output if isinstance(output, int) else int(output) if output.isascii() and output.isdigit() else None
    if number is None and called is not None:
        number = called.find(str(output))
    if number is None:
        raise OptionError(
            f"{where} maps {name!r} to {output!r}, which is no output that is known by name.",
            wanted=f"an index from 0 to {n_outputs - 1}, or a name",
            got=repr(output),
            closest=() if called is None else called.near(str(output)),
            fix=None if called is not None else "Give the names of the outputs: --output-names FILE (index,name).",
        )
    if not 0 <= number < n_outputs:
        raise OptionError(
            f"{where} maps {name!r} to an output that the model does not have.",
            wanted=f"0 to {n_outputs - 1}",
            got=str(number),
        )
    return number


def _names(path: str | Path | None, n_outputs: int) -> OutputNames | None:
    if path is None:
        return imagenet_names() if n_outputs == IMAGENET_OUTPUTS else None
    path = Path(path).expanduser()
    rows = [row for row in csv.reader(_text(path).splitlines()) if any(cell.strip() for cell in row)]
    if not rows or _INDEX_COLUMN not in _header(rows[0]):
        raise OptionError(
            f"{path} does not name the outputs.",
            wanted="a CSV table with a column `index` and one or more columns of names",
            got=",".join(rows[0]) if rows else "an empty file",
        )
    return _table(rows, path)


def _table(rows: list[list[str]], path: Path) -> OutputNames:
    header = _header(rows[0])
    column = header.index(_INDEX_COLUMN)
    pairs = []
    for row in rows[1:]:
        cell = row[column].strip() if len(row) == len(header) else ""
        if not (cell.isascii() and cell.isdigit()):
            raise OptionError(
                f"{path} has a line that names no output.",
                wanted=f"{len(header)} cells as in {','.join(header)}, with a whole number as index",
                got=",".join(row),
            )
        pairs += [(name.strip(), int(cell)) for i, name in enumerate(row) if i != column and name.strip()]
    return OutputNames(pairs)


def _header(row: list[str]) -> list[str]:
    return [cell.strip().casefold() for cell in row]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise OptionError(
            f"There is no file {str(path)!r}.", wanted=_FORMS, fix=f"For ImageNet's outputs: --class-map {IMAGENET}."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"{path} cannot be read: {error}", wanted=_FORMS) from error


def _plain(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").split())


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
