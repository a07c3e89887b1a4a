"""Whether records that came over a network are what they say they are.

Whoever sends them may be hostile. So every field is looked at before Flower or NumPy see it: a
reply that would make them fail is refused here, with the reason.
"""

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, TypeGuard

from roundel.core.errors import ProtocolError
from roundel.simulations.flowerapps.npy import layout

_NUMPY = "numpy.ndarray"
_NO_ARRAYS: tuple[str, str, list[int], bytes] = ("_empty", "", [], b"")
"""What apps of the older kind send that have none: name, dtype, shape and bytes."""

_KINDS_OF_NONE = (_NUMPY, "")
_MOST_AXES = 32

_BYTES = ("bytes", "list of bytes")
_LONGEST_NAME = 1024
_LONGEST_WORD = 64
_LOWEST, _BEYOND = -(1 << 63), 1 << 64
"""Integers are those that Flower can send."""

Buffers = deque[bytes]


def check_records(records: object, buffers: Buffers) -> None:
    """Refuse records that are none, or that do not fit their buffers.

    Args:
        records: As `roundel.simulations.flowerapps.parcels.Parcel` has them, from JSON.
        buffers: The bytes that they refer to; those are taken out.

    Raises:
        ProtocolError: So it is.
    """
    for name, (kind, values) in _named(records, 3, "records"):
        check = _CHECKS.get(kind) if isinstance(kind, str) else None
        if check is None:
            raise ProtocolError(f"the record {_shown(name)} is of the kind {_shown(kind)}")
        check(name, values, buffers)
    if buffers:
        raise ProtocolError(f"{len(buffers)} buffers belong to no record")


def check_text(value: object, what: str, longest: int) -> str:
    """Return a text that can be shown and written down.

    Raises:
        ProtocolError: It is none, too long, or has characters that move a cursor.
    """
    if not isinstance(value, str) or len(value) > longest or not value.isprintable():
        raise ProtocolError(f"{what} is {_shown(value)} and no printable text of {longest} letters")
    return value


def _named(values: object, width: int, what: str) -> list[tuple[str, list[Any]]]:
    """Return the rows of a list by their names, each of which there is once."""
    if not isinstance(values, list):
        raise ProtocolError(f"the {what} are a {type(values).__name__} and no list")
    rows: dict[str, list[Any]] = {}
    for row in values:
        if not isinstance(row, list) or len(row) != width:
            raise ProtocolError(f"an entry of the {what} has not {width} fields")
        name = check_text(row[0], f"a name among the {what}", _LONGEST_NAME)
        if name in rows:
            raise ProtocolError(f"the {what} have the name {_shown(name)} twice")
        rows[name] = row[1:]
    return list(rows.items())


def _arrays(record: str, values: object, buffers: Buffers) -> None:
    for name, (dtype, shape, stype) in _named(values, 4, f"arrays of {_shown(record)}"):
        said = f"the array {_cut(record)}.{_cut(name)}"
        check_text(dtype, f"the dtype of {said}", _LONGEST_WORD)
        check_text(stype, f"the kind of {said}", _LONGEST_WORD)
        if not _is_shape(shape):
            raise ProtocolError(f"{said} has the shape {_shown(shape)}")
        data = _next(buffers, said)
        if (name, dtype, shape, data) == _NO_ARRAYS and stype in _KINDS_OF_NONE:
            continue
        if stype != _NUMPY:  # nobody here could tell whether the app can read it
            raise ProtocolError(f"{said} is of the kind {_shown(stype)} and not {_NUMPY!r}")
        _check_file(said, dtype, shape, data)


def _check_file(said: str, dtype: str, shape: list[int], data: bytes) -> None:
    """Refuse what is no file of NumPy's, or one of another array than is said.

    Apps of the older kind say neither dtype nor shape.
    """
    try:
        there, lengths = layout(data)
    except ValueError as error:
        raise ProtocolError(f"{said} cannot be read: {error}") from error
    if (dtype or shape) and (dtype, tuple(shape)) != (there, lengths):
        raise ProtocolError(
            f"{said} is said to be {dtype} of shape {shape}, and is {there} of shape "
            f"{list(lengths)}"
        )


def _metrics(record: str, values: object, _buffers: Buffers) -> None:
    if not isinstance(values, dict):
        raise ProtocolError(f"the metrics {_shown(record)} are a {type(values).__name__}")
    for name, value in values.items():
        check_text(name, f"a name among the metrics {_shown(record)}", _LONGEST_NAME)
        if not _is_value(value, (int, float)):
            raise ProtocolError(f"the metric {_cut(record)}.{_cut(name)} is {_shown(value)}")


def _config(record: str, values: object, buffers: Buffers) -> None:
    for name, (form, value) in _named(values, 3, f"settings of {_shown(record)}"):
        said = f"the setting {_cut(record)}.{_cut(name)}"
        if form in _BYTES:
            if not _is_count(value) or not 1 <= value <= (1 if form == "bytes" else len(buffers)):
                raise ProtocolError(f"{said} is of {_shown(value)} buffers")
            for _ in range(value):
                _next(buffers, said)
        elif form != "" or not _is_value(value, (bool, int, float, str)):
            raise ProtocolError(f"{said} is {_shown(value)}")


_CHECKS: Mapping[str, Callable[[str, object, Buffers], None]] = {
    "arrays": _arrays,
    "metrics": _metrics,
    "config": _config,
}


def _next(buffers: Buffers, said: str) -> bytes:
    if not buffers:
        raise ProtocolError(f"{said} has no buffer")
    return buffers.popleft()


def _is_value(value: object, kinds: tuple[type, ...]) -> bool:
    """Tell whether a value is of one of these types, or a list of values of one of them."""
    if isinstance(value, list):
        return len(set(map(type, value))) <= 1 and all(_is_scalar(each, kinds) for each in value)
    return _is_scalar(value, kinds)


def _is_scalar(value: object, kinds: tuple[type, ...]) -> bool:
    if type(value) is int:
        return int in kinds and _LOWEST <= value < _BEYOND
    return type(value) in kinds and (not isinstance(value, str) or _can_be_encoded(value))


def _can_be_encoded(text: str) -> bool:
    """Tell whether UTF-8 can hold a text: JSON can name halves of characters."""
    return text.isascii() or text == text.encode(errors="replace").decode()


def _is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < _BEYOND


def _is_shape(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and len(value) <= _MOST_AXES and all(map(_is_count, value))


def _shown(value: object) -> str:
    """Return a value as text that a sentence can hold."""
    if isinstance(value, list | dict):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, str):
        return repr(_cut(value))
    text = repr(value) if not isinstance(value, int) or abs(value) < _BEYOND else "a huge number"
    return _cut(text)


def _cut(text: str) -> str:
    """Return the beginning of a text, of whatever length it is."""
    return text if len(text) <= _LONGEST_WORD else f"{text[:_LONGEST_WORD]}..."
