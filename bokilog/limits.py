"""Every hard limit of bokilog, each with its reason; their relations are asserted at the end.

Decides what is refused before anything is sent. A limit here is part of the contract: every shape
refuses the same call with the same error. Settings (what an operator may tune) live in the
`settings.py` of each package and stay within these.
"""

from typing import Final

KIB: Final = 1 << 10
MIB: Final = 1 << 20

# --- what a user appends ---

# One message and one journal group must hold a record, and a reader may ask for it whole: more
# would stall everything behind it on a connection. Larger values are several records.
RECORD_BYTES_MAX: Final = 64 * MIB
# A unit is ordered, journalled and decided as one; these bound the pause it makes for all others.
UNIT_RECORDS_MAX: Final = 1_000
UNIT_BYTES_MAX: Final = 64 * MIB  # payload bytes; tags are bounded by their own limits
# Each tag of a record costs an index entry on every index replica.
TAGS_MAX: Final = 64
TAG_BYTES_MAX: Final = 256  # UTF-8; part of a stored key, and short keys keep the index small
BOOK_NAME_BYTES_MAX: Final = 128  # UTF-8
HOLD_NAME_BYTES_MAX: Final = 128  # UTF-8; holds live in memory on every index replica
CONDITIONS_MAX: Final = 64  # per unit: each is one point read in the index fold
KEY_BYTES_MAX: Final = 256  # UTF-8; kept for the key horizon, one per unit
AUX_BYTES_MAX: Final = 64 * KIB  # aux data lives in the index store, where values stay small

# --- positions and time ---

# JSON and JavaScript hold integers exactly up to 2^53 - 1; seqnums cross both.
SEQNUM_FIRST: Final = 1
SEQNUM_MAX: Final = 2**53 - 1
# `until` of a range that has no end.
NO_END: Final = SEQNUM_MAX + 1
TIMESTAMP_MS_MAX: Final = 2**53 - 1
# How long a key makes its unit idempotent, by cut timestamps: a week outlives any sane retry.
KEY_HORIZON_S: Final = 7 * 24 * 3600
# A hold keeps trims, and so disk, back: nobody may hold for ever by mistake; it can be renewed.
HOLD_TTL_S_MAX: Final = 366 * 24 * 3600

# Retention: a century is longer than any disk here; less than a second is what timeouts are for.
RETENTION_S_MIN: Final = 1
RETENTION_S_MAX: Final = 100 * 366 * 24 * 3600
RETENTION_BYTES_MAX: Final = 2**53 - 1

# --- reading ---

PAGE_RECORDS_DEFAULT: Final = 100
PAGE_RECORDS_MAX: Final = 10_000  # about 1 ms of decoding per page
PAGE_BYTES_DEFAULT: Final = 1 * MIB
PAGE_BYTES_MAX: Final = 64 * MIB  # one message; one record is always returned, however large
TOKEN_CHARACTERS_MAX: Final = 4 * KIB  # tokens travel in HTTP headers

# --- flow ---

# The smallest thing replicated, counted and resent: a frame is at most this, or one unit.
FRAME_BYTES_MAX: Final = 1 * MIB
# Per connection: enough to fill the pipe (throughput peaks at 64-256 outstanding appends), and the
# most that a broken connection leaves with an unknown outcome.
INFLIGHT_RECORDS_MAX: Final = 16_384
INFLIGHT_BYTES_MAX: Final = 128 * MIB
# What a frame may hold beside payloads: columns of counts and lengths, tags, conditions, a key.
UNIT_COLUMNS_BYTES_MAX: Final = 24 * MIB
# A receiver closes a connection that announces more than this: the largest unit plus its columns.
WIRE_MESSAGE_BYTES_MAX: Final = UNIT_BYTES_MAX + UNIT_COLUMNS_BYTES_MAX

# --- storage ---

# Large records carry a checksum per block, so a byte range is verified without the whole (P29).
BLOCK_BYTES: Final = 64 * KIB
# Preallocated and recycled whole (P21); a group larger than this gets a segment of its own.
SEGMENT_BYTES: Final = 64 * MIB

_COLUMN_BYTES_PER_TAG = TAG_BYTES_MAX + 8  # a length and some msgpack
_COLUMN_BYTES_PER_RECORD = TAGS_MAX * _COLUMN_BYTES_PER_TAG + 64

assert RECORD_BYTES_MAX <= UNIT_BYTES_MAX, "a unit of one record holds the largest record"
assert UNIT_BYTES_MAX <= INFLIGHT_BYTES_MAX, "one unit always fits in flight"
assert UNIT_RECORDS_MAX <= INFLIGHT_RECORDS_MAX, "one unit always fits in flight"
assert FRAME_BYTES_MAX <= UNIT_BYTES_MAX, "a frame of one unit may be the larger one"
assert (
    UNIT_RECORDS_MAX * _COLUMN_BYTES_PER_RECORD
    + CONDITIONS_MAX * (_COLUMN_BYTES_PER_TAG + 9)
    + KEY_BYTES_MAX
    + 64 * KIB
    <= UNIT_COLUMNS_BYTES_MAX
), "the widest columns fit beside the largest payload"
assert PAGE_RECORDS_DEFAULT <= PAGE_RECORDS_MAX
assert PAGE_BYTES_DEFAULT <= PAGE_BYTES_MAX
assert PAGE_BYTES_MAX <= WIRE_MESSAGE_BYTES_MAX, "a page is one message"
assert AUX_BYTES_MAX <= FRAME_BYTES_MAX
assert RECORD_BYTES_MAX % BLOCK_BYTES == 0
assert SEGMENT_BYTES % BLOCK_BYTES == 0
