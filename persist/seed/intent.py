# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the marker of an entry says, as a record."""

from __future__ import annotations

import json
import time

from persist.errors import PersistError
from persist.record import Record, as_dict
from persist.seed.marker import VERSION, parse
from persist.seed.tree import Summary

TYPE_CHECKING = False  # typing.TYPE_CHECKING, without loading typing
if TYPE_CHECKING:
    from typing import Any

_COUNTED = ("files", "directories", "others", "bytes")


class Intent(Record, frozen=False):
    """What the marker is going to say, or says."""

    path: str
    method: str
    type: str
    image_version: str
    source: str
    adopted: bool
    summary: Summary
    listed: bool
    fresh: bool = False  # of this image, and of nothing older

    def to_json(self, name: str) -> bytes:
        """The marker's text."""
        counted = {k: v for k, v in as_dict(self.summary).items() if k in _COUNTED}
        record: dict[str, Any] = {
            "version": VERSION,
            "path": self.path,
            "method": self.method,
            "type": self.type,
            "image_version": self.image_version,
            "source": self.source,
            "adopted": self.adopted,
            "fresh": self.fresh,
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "manifest": counted | ({"list": f"{name}.manifest"} if self.listed else {}),
        }
        return (json.dumps(record, indent=1) + "\n").encode("ascii")

    @classmethod
    def from_json(cls, data: bytes, name: str) -> Intent:
        """Parse a marker. Raises PersistError when it is none."""
        try:
            record = parse(data)
            numbers = record["manifest"]
            return cls(
                path=str(record["path"]),
                method=str(record["method"]),
                type=str(record["type"]),
                image_version=str(record["image_version"]),
                source=str(record["source"]),
                adopted=bool(record["adopted"]),
                listed="list" in numbers,
                fresh=record.get("fresh") is True,
                summary=Summary(*(int(numbers[k]) for k in _COUNTED)),
            )
        except (ValueError, KeyError, TypeError) as e:
            raise PersistError(
                f"'{name}' is not a marker of persist: {e!r}.",
                hint="Remove it to adopt the content of the path as it is.",
            ) from e
