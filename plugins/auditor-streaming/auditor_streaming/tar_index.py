"""Which samples a tar holds, and where: made in one pass over its headers and labels, without decoding an image."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auditor.data.base import printable
from auditor.data.folder import IMAGE_SUFFIXES
from auditor.errors import DataError
from auditor_streaming.cache import Arrays, Piece, pack, unpack
from auditor_streaming.members import Member, members
from auditor_streaming.shards import Shard

_META = re.compile(r"__[^/]*__($|/)")  # WebDataset's own
_NUMBER = re.compile(r"[+-]?\d{1,18}")
_FIELDS = ("label", "cls")
_LARGEST_LABEL = 1 << 20
_NONE = -1


@dataclass(frozen=True)
class Rule:
    """What in a sample is the image, and what the label.

    Parameters
    ----------
    image : str, optional
        Extension of the image, as ``jpg`` or ``left.png``; default: the one whose extension is that of an image.
    label : str, optional
        A field of the ``.json``, or ``folder``: the folder that the image lies in, as in a tar of class folders.
        Default: what is in ``.cls``, else the field ``label`` or ``cls`` of the ``.json``.
    """

    image: str | None = None
    label: str | None = None

    @property
    def by_folder(self) -> bool:
        """Whether folders are classes."""
        return self.label == "folder"

    def is_image(self, extension: str) -> bool:
        """Whether this member is the image."""
        return extension == self.image if self.image else f".{extension}" in IMAGE_SUFFIXES

    def is_label(self, extension: str) -> bool:
        """Whether this member may hold the label."""
        if self.by_folder:
            return False
        return extension == "json" or (extension == "cls" and self.label is None)


@dataclass(frozen=True)
class TarIndex:
    """The samples of one tar, in the order of their images.

    Parameters
    ----------
    keys : list of str
        What the members of a sample have in common.
    labels : ndarray, shape (n,)
        Integers or text.
    offset, size : ndarray of int64, shape (n,)
        Bytes; the offset is -1 where the tar can only be read from its beginning, the size where there is no image.
    place : ndarray of int64, shape (n,)
        How many plain files come before the image; -1 where there is none.
    """

    keys: list[str]
    labels: NDArray[Any]
    offset: NDArray[np.int64]
    size: NDArray[np.int64]
    place: NDArray[np.int64]

    def to_arrays(self) -> Arrays:
        """As arrays without Python objects."""
        text = self.labels.dtype.kind == "U"
        labels = pack(self.labels.tolist()) if text else self.labels
        where = {"offset": self.offset, "size": self.size, "place": self.place}
        return {"keys": pack(self.keys), "text" if text else "number": labels, **where}

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> TarIndex:
        """Undo :meth:`to_arrays`."""
        n = len(arrays["size"])
        labels = np.array(unpack(arrays["text"], n), dtype=str) if "text" in arrays else arrays["number"]
        return cls(unpack(arrays["keys"], n), labels, arrays["offset"], arrays["size"], arrays["place"])


def index_piece(shard: Shard, rule: Rule) -> Piece:
    """Make the index of one tar a piece of a first pass."""
    name = ("tar", shard.place, rule.image or "", rule.label or "")
    return Piece(name, shard.stamp(), lambda: index_tar(shard, rule).to_arrays())


def split_name(name: str) -> tuple[str, str] | None:
    """Divide a member's name into the sample's key and the extension, as WebDataset does (in small letters).

    None for its own files.
    """
    from webdataset.tariterators import base_plus_ext

    if _META.match(name):
        return None
    key, extension = base_plus_ext(name)
    return None if key is None else (key, extension.lower())


@dataclass
class _Sample:
    seen: set[str] = field(default_factory=set)
    image: tuple[int, int, int] = (_NONE, _NONE, _NONE)  # offset, size, place
    extension: str | None = None
    label: int | str | None = None
    from_cls: bool = False


def index_tar(shard: Shard, rule: Rule) -> TarIndex:
    """Pass over one tar.

    A sample whose image is missing is listed without one; files that belong to no image and no label are passed over.

    Raises
    ------
    DataError
        If the tar is damaged, a name occurs twice, an image has no label, or there is no image at all.
    """
    samples: dict[str, _Sample] = {}
    for place, member in enumerate(members(shard)):
        parts = split_name(member.name)
        if parts is None:
            continue
        key, extension = parts
        image = rule.is_image(extension)
        if not image and not rule.is_label(extension):
            continue
        sample = samples.setdefault(key, _Sample())
        if extension in sample.seen:
            raise _wrong(shard, f"holds {member.name} twice", "every sample under a key of its own")
        sample.seen.add(extension)
        if not image:
            _take_label(sample, member, extension, shard, rule)
        elif sample.extension is not None:
            raise _wrong(
                shard,
                f"holds several images of {key}: .{sample.extension} and .{extension}",
                "one image in a sample",
                fix=f"Name the extension: --data 'wds:...?image={extension}'",
            )
        else:
            sample.extension = extension
            sample.image = (_NONE if member.offset is None else member.offset, member.size, place)
            if rule.by_folder:
                sample.label = key.rpartition("/")[0].rpartition("/")[2] or None
    return _checked(samples, shard, rule)


def _checked(samples: dict[str, _Sample], shard: Shard, rule: Rule) -> TarIndex:
    unlabelled = next((key for key, one in samples.items() if one.label is None and one.extension is not None), None)
    if unlabelled is not None:
        wanted = f"a .json with the field {rule.label!r}" if rule.label else "a .cls, or a .json with label or cls,"
        wanted = "a folder" if rule.by_folder else wanted
        raise _wrong(shard, f"holds an image without a label: {unlabelled}", f"{wanted} for every image")
    labelled = [(key, one) for key, one in samples.items() if one.label is not None]
    if all(one.extension is None for _, one in labelled):
        kind = f".{rule.image}" if rule.image else "a suffix of images"
        raise _wrong(shard, "holds no labelled images", f"samples KEY.jpg and KEY.cls (the image with {kind})")
    if len({type(one.label) for _, one in labelled}) > 1:
        raise _wrong(shard, "has labels that are partly numbers, partly text", "one kind of labels")
    # Those without an image come last: there is no place to go to.
    labelled.sort(key=lambda pair: (pair[1].extension is None, pair[1].image[2]))
    where = np.array([one.image for _, one in labelled], dtype=np.int64).reshape(-1, 3)
    labels = np.array([one.label for _, one in labelled])
    return TarIndex([key for key, _ in labelled], labels, where[:, 0], where[:, 1], where[:, 2])


def _take_label(sample: _Sample, member: Member, extension: str, shard: Shard, rule: Rule) -> None:
    if sample.from_cls:
        return
    if member.size > _LARGEST_LABEL:
        raise _wrong(shard, f"holds a label of {member.size:,} bytes: {member.name}", f"at most {_LARGEST_LABEL:,}")
    content = member.read()
    if extension == "cls":
        sample.label, sample.from_cls = _text_label(content, member, shard), True
        return
    try:
        record = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _wrong(shard, f"holds {member.name}, which is not JSON: {error}", "JSON") from error
    fields = (rule.label,) if rule.label else _FIELDS
    found = [record[name] for name in fields if isinstance(record, dict) and record.get(name) is not None]
    if not found:
        return
    if isinstance(found[0], bool) or not isinstance(found[0], int | str):
        kind = type(found[0]).__name__
        raise _wrong(shard, f"holds {member.name}, whose label is of type {kind}", "an integer or text")
    if isinstance(found[0], int) and not _NUMBER.fullmatch(str(found[0])):
        raise _wrong(shard, f"holds {member.name}, whose label is too large", "a class number")
    sample.label = _named(found[0], member, shard) if isinstance(found[0], str) else found[0]


def _text_label(content: bytes, member: Member, shard: Shard) -> int | str:
    try:
        text = content.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise _wrong(shard, f"holds {member.name}, which is not text", "a class number or name") from error
    return int(text) if _NUMBER.fullmatch(text) else _named(text, member, shard)


def _named(text: str, member: Member, shard: Shard) -> str:
    if not text or "\0" in text:
        raise _wrong(shard, f"holds {member.name}, whose label is empty or broken", "a class number or name")
    return text


def _wrong(shard: Shard, what: str, wanted: str, fix: str | None = None) -> DataError:
    return DataError(f"The tar {shard} {printable(what)}.", wanted=wanted, fix=fix)
