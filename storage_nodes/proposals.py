"""Which proposals an entry may carry: what a peer sent must not trip the fold up (P34).

Decides, for an entry that somebody proposed, why it cannot be applied, if so. Every replica says
the same, from the entry alone; an entry that is refused has its place in the order all the same.

Does not know: the state of the fold, nor what an entry does to it (`fold.py`).
"""

from __future__ import annotations

from bokilog.errors import BokilogError, InvalidRange, InvalidTag
from bokilog.ids import SYSTEM_BOOK
from bokilog.limits import HOLD_NAME_BYTES_MAX, TAG_BYTES_MAX
from bokilog.metalog import DeleteBook, EndTags, Entry, Hold, Release, Retain, Trim
from bokilog.record import SYSTEM_TAG_PREFIX


def problem_of(entry: Entry) -> BokilogError | None:
    """Why an entry cannot be applied; None: it can, or nobody proposed it."""
    if not isinstance(entry, Trim | Hold | Release | DeleteBook | EndTags | Retain):
        return None
    if type(entry.book) is not int or not 0 <= entry.book < 2**64:
        return InvalidRange("book", repr(entry.book), "is not a LogBook's number")
    match entry:
        case Trim(tag=tag, until=until):
            if tag is not None and not _is_text(tag, TAG_BYTES_MAX):
                return InvalidTag(repr(tag), f"is not text of 1 to {TAG_BYTES_MAX} bytes")
            if type(until) is not int:
                return InvalidRange("until", repr(until), "is not a seqnum")
        case Hold(name=name, seqnum=seqnum, ttl_ms=ttl_ms):
            if not _is_text(name, HOLD_NAME_BYTES_MAX):
                return InvalidRange("name", repr(name), "is not the name of a hold")
            if type(seqnum) is not int or type(ttl_ms) is not int:
                return InvalidRange("seqnum", repr(seqnum), f"with ttl_ms={ttl_ms!r} is no hold")
        case DeleteBook(book=book):
            if book == SYSTEM_BOOK:
                return InvalidRange("book", str(book), "is the system LogBook, which stays")
        case EndTags(prefix=prefix):
            if not _is_text(prefix, TAG_BYTES_MAX) or prefix[0] != SYSTEM_TAG_PREFIX:
                return InvalidTag(
                    repr(prefix), "is no prefix of the libraries' tags, which is $..."
                )
        case Retain(retention_ms=retention_ms, retention_bytes=retention_bytes):
            if type(retention_ms) is not int or type(retention_bytes) is not int:
                return InvalidRange("retention_ms", repr(retention_ms), "is no retention")
        case Release():
            pass
    return None


def _is_text(value: object, limit_bytes: int) -> bool:
    return isinstance(value, str) and 0 < len(value.encode()) <= limit_bytes
