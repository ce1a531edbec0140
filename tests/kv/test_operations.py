"""The written forms of operations: what is replicated must decode alike everywhere, or not at all."""

from __future__ import annotations

import random

import pytest

from raftkv.operations import (
    Batch,
    Code,
    Malformed,
    Operation,
    SizeLimits,
    TermSettings,
    decode_batch,
    decode_settings,
    encode_batch,
    encode_settings,
    find_refused,
    format_text,
    is_text_write,
    is_word,
    parse_text,
)

BATCH = Batch(
    (
        Operation(Code.SET, b"key", b"value", sequence=7),
        Operation(Code.COMPARE_AND_SET, b"key", b"new", b"value", sequence=8),
        Operation(Code.DELETE, b"", sequence=2**64 - 1),
        Operation(Code.SET_IF_ABSENT, b"\x00\xff", b""),
        Operation(Code.OPEN_SESSION),
        Operation(Code.CLOSE_SESSION),
    ),
    session=2**64 - 1,
    lowest_unanswered=5,
)
SETTINGS = TermSettings(b"0123456789abcdef", max_sessions=1, session_timeout_ms=2, max_unanswered=2**64 - 1)


@pytest.mark.parametrize(
    "batch", [BATCH, Batch(()), Batch(tuple(BATCH.operations) * 200)], ids=["one of each", "empty", "many"]
)
def test_a_batch_decodes_to_what_was_encoded(batch: Batch) -> None:
    assert decode_batch(encode_batch(batch)) == batch


def test_the_format_of_a_batch_never_changes_since_logs_are_written_in_it() -> None:
    batch = Batch((Operation(Code.COMPARE_AND_SET, b"k", b"new", b"old", sequence=3),), session=1, lowest_unanswered=2)
    assert encode_batch(batch).hex(" ") == (
        "01 01 00 00 00 00 00 00 00 02 00 00 00 00 00 00 00 01 00 00 00 "
        "04 03 00 00 00 00 00 00 00 01 00 00 00 03 00 00 00 03 00 00 00 6b 6e 65 77 6f 6c 64"
    )


def test_a_batch_cut_at_any_byte_is_malformed() -> None:
    data = encode_batch(BATCH)
    for length in range(len(data)):
        with pytest.raises(Malformed):
            decode_batch(data[:length])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "0 bytes is too short"),
        (b"\x02" + encode_batch(BATCH)[1:], "format 2 is not known"),
        (encode_batch(BATCH) + b"x", "operations end at byte"),
        (
            encode_batch(Batch(BATCH.operations[:1])).replace(b"\x01\x07", b"\x63\x07"),
            "code of operation 0 .* is unknown",
        ),
        (encode_batch(Batch(()))[:-4] + b"\xff" * 4, "too short for 4294967295 operations"),
    ],
    ids=["nothing", "a later format", "bytes too many", "an unknown code", "far fewer operations than announced"],
)
def test_what_is_no_batch_is_malformed_with_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(Malformed, match=reason):
        decode_batch(data)


@pytest.mark.parametrize("seed", range(4))
def test_any_bytes_decode_or_are_malformed_and_what_decodes_encodes_to_the_same_bytes(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(1000):
        data = bytearray(encode_batch(BATCH) if rng.random() < 0.8 else rng.randbytes(rng.randrange(100)))
        for _ in range(rng.randrange(4)):
            if data:
                data[rng.randrange(len(data))] = rng.choice([0, 1, 2, 255, rng.randrange(256)])
        try:
            batch = decode_batch(bytes(data))
        except Malformed:
            continue
        assert encode_batch(batch) == data


LIMITS = SizeLimits(max_key_bytes=3, max_value_bytes=5)


def test_only_operations_within_the_limits_may_be_proposed() -> None:
    operations = [
        Operation(Code.SET, b"key", b"value"),
        Operation(Code.SET, b"", b"value"),
        Operation(Code.DELETE, b"long"),
        Operation(Code.OPEN_SESSION),
        Operation(Code.CLOSE_SESSION),
        Operation(Code.COMPARE_AND_SET, b"k", b"value", b"longer"),
        Operation(Code.SET_IF_ABSENT, b"k", b"longer"),
    ]
    assert find_refused(encode_batch(Batch(operations)), LIMITS) == (
        7,
        {
            1: "a key must not be empty",
            2: "the key has 4 bytes; at most 3 are allowed",
            5: "the value has 6 bytes; at most 5 are allowed",
            6: "the value has 6 bytes; at most 5 are allowed",
        },
    )


@pytest.mark.parametrize("seed", range(4))
def test_what_passes_the_check_of_the_headers_decodes(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(1000):
        data = bytearray(encode_batch(BATCH))
        for _ in range(rng.randrange(3)):
            data[rng.randrange(len(data))] = rng.choice([0, 1, 2, 255, rng.randrange(256)])
        try:
            batch = decode_batch(bytes(data))
        except Malformed:
            with pytest.raises(Malformed):
                find_refused(bytes(data), LIMITS)
        else:
            assert find_refused(bytes(data), LIMITS)[0] == len(batch.operations)


def test_settings_decode_to_what_was_encoded() -> None:
    assert decode_settings(encode_settings(SETTINGS)) == SETTINGS


@pytest.mark.parametrize("data", [b"", encode_settings(SETTINGS)[:-1], encode_settings(SETTINGS) + b"x"])
def test_settings_of_another_length_are_malformed(data: bytes) -> None:
    with pytest.raises(Malformed, match="are not the settings of a term"):
        decode_settings(data)


@pytest.mark.parametrize("version", [0, 1, 3])
def test_settings_of_a_later_format_or_in_the_form_of_another_are_malformed(version: int) -> None:
    with pytest.raises(Malformed, match="are not the settings of a term"):
        decode_settings(bytes([version]) + encode_settings(SETTINGS)[1:])


@pytest.mark.parametrize(
    ("text", "operation"),
    [
        ("SET k v", Operation(Code.SET, b"k", b"v")),
        ("set k it's  a \n 'value' ", Operation(Code.SET, b"k", b"it's  a \n 'value' ")),
        ("SET k ", Operation(Code.SET, b"k", b"")),
        ("SET LEADER v", Operation(Code.SET, b"LEADER", b"v")),
        ("Set schlüssel grün", Operation(Code.SET, "schlüssel".encode(), "grün".encode())),
        ("DEL k", Operation(Code.DELETE, b"k")),
        ("SETNX k v", Operation(Code.SET_IF_ABSENT, b"k", b"v")),
        ("CAS k old new", Operation(Code.COMPARE_AND_SET, b"k", b"new", b"old")),
        ("CAS k  new", Operation(Code.COMPARE_AND_SET, b"k", b"new", b"")),
    ],
)
def test_a_text_is_parsed(text: str, operation: Operation) -> None:
    assert is_text_write(text)
    assert parse_text(text) == operation


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "unknown command ''"),
        ("GET k", "unknown command 'GET'"),
        ("OPEN-SESSION", "unknown command"),
        (" SET k v", "unknown command ''"),
        ("x" * 1000, "unknown command 'x{20}'$"),
        ("SET", "expected SET key value"),
        ("SET k", "expected SET key value"),
        ("SET  v", "expected SET key value"),
        ("SET k\tv w", "expected SET key value"),
        ("DEL", "expected DEL key"),
        ("DEL k x", "expected DEL key"),
        ("SETNX k v w", "expected SETNX key value"),
        ("CAS k old", "expected CAS key expected new"),
        ("CAS k a b c", "expected CAS key expected new"),
        ("SET k \ud800", "cannot be written as UTF-8"),
    ],
)
def test_a_text_that_is_no_operation_is_malformed_with_the_right_form_in_the_message(text: str, reason: str) -> None:
    with pytest.raises(Malformed, match=reason):
        parse_text(text)


@pytest.mark.parametrize("operation", BATCH.operations[:2])
def test_what_is_shown_of_an_operation_can_be_parsed(operation: Operation) -> None:
    assert parse_text(format_text(operation)) == operation._replace(sequence=0)


def test_what_is_no_text_is_shown_all_the_same() -> None:
    assert format_text(Operation(Code.SET, b"\xff", b"v")) == r"SET \xff v"
    assert format_text(Operation(Code.DELETE, b"k")) == "DEL k"
    assert format_text(Operation(Code.OPEN_SESSION)) == "OPEN-SESSION"


def test_a_word_has_no_white_space_of_any_script() -> None:
    assert is_word("key")
    assert is_word("schlüssel")
    assert not is_word("")
    for space in ("\t", "\n", " ", "\u00a0", "\u2003", "\u2028", "\u3000"):
        assert not is_word(f"a{space}b")
