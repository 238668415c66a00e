"""The limits that are part of the contract: changing one is a decision, not an accident."""

from bokilog import limits


def test_contract_limits_are_what_the_documentation_says() -> None:
    assert limits.RECORD_BYTES_MAX == 64 * 1024 * 1024
    assert limits.UNIT_RECORDS_MAX == 1_000
    assert limits.UNIT_BYTES_MAX == 64 * 1024 * 1024
    assert (limits.TAGS_MAX, limits.TAG_BYTES_MAX) == (64, 256)
    assert limits.BOOK_NAME_BYTES_MAX == 128
    assert limits.SEQNUM_MAX == 2**53 - 1
    assert limits.KEY_HORIZON_S == 7 * 86_400
    assert limits.PAGE_RECORDS_MAX == 10_000


def test_a_seqnum_survives_a_double() -> None:
    assert int(float(limits.SEQNUM_MAX)) == limits.SEQNUM_MAX
    assert float(limits.SEQNUM_MAX + 1) == float(limits.SEQNUM_MAX + 2)


def test_the_largest_unit_is_one_message_and_fits_in_flight() -> None:
    assert limits.UNIT_BYTES_MAX + limits.UNIT_COLUMNS_BYTES_MAX <= limits.WIRE_MESSAGE_BYTES_MAX
    assert limits.UNIT_BYTES_MAX <= limits.INFLIGHT_BYTES_MAX
    assert limits.WIRE_MESSAGE_BYTES_MAX < 2**32
