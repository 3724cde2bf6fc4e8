"""Captions as they lie in files: bytes of a text file, or a value of a JSON object."""

import codecs
import math
from typing import Any

from jaxtok.data.errors import BadRecord

CAPTION_SUFFIXES = (".txt", ".caption")

# The longer marks first: that of UTF-16 begins that of UTF-32.
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def decode_caption(encoded: bytes, key: str) -> str:
    """Text of a caption file: UTF-8, or what its byte order mark says; line ends are "\\n".

    Args:
      encoded: The file's bytes.
      key: Name of the record, for the error.

    Raises:
      BadRecord: The bytes are not text in that encoding.
    """
    encoding = next((name for mark, name in _MARKS.items() if encoded.startswith(mark)), "utf-8")
    try:
        text = encoded.decode(encoding)
    except UnicodeDecodeError as error:
        reason = f"{error.reason} at byte {error.start}"
        raise BadRecord(key, f"its caption is not {encoding.upper()} ({reason}); save it as UTF-8") from error
    if "\0" in text:
        raise BadRecord(key, "its caption has zero bytes, so it is not UTF-8; save it as UTF-8")
    return text.replace("\r\n", "\n").replace("\r", "\n").strip()


def caption_of(value: Any, key: str) -> str:
    """The caption that a parsed value is: a string; empty for None and NaN, which stand for a missing one.

    Raises:
      BadRecord: Any other value, such as a list of captions.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if not isinstance(value, str):
        raise BadRecord(key, f"its caption is a {type(value).__name__}, but must be one string")
    return value.strip()


def label_of(value: Any, key: str) -> int:
    """The label that a parsed value is: an integer, also as text or as 3.0; -1 for None and NaN.

    Raises:
      BadRecord: Any other value, or an integer below -1 or beyond int32.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return -1
    try:
        if isinstance(value, bool) or not isinstance(value, (int, float, str, bytes)):
            raise ValueError
        label = int(value)
        if isinstance(value, float) and label != value:
            raise ValueError
    except (ValueError, OverflowError) as error:
        raise BadRecord(key, f"its label is {value!r:.60}, but must be an integer") from error
    if not -1 <= label < 2**31:
        raise BadRecord(key, f"its label is {label}, but must be a class from 0 on, or -1 for none")
    return label
