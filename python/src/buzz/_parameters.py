"""Converts the values of parameters to JSON. Buzz binds them as values; they are never inserted into the SQL as text."""

from __future__ import annotations

import datetime
import decimal
import math
import numbers
import re
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from .errors import InvalidError

#: Buzz's whole numbers have 64 bits. It would read a larger one as a float, which rounds it.
_INT_MIN, _INT_MAX = -(2**63), 2**63 - 1

#: The most digits of a DECIMAL.
_DECIMAL_DIGITS = 76

#: Texts, names in quotes and comments, in which a `$` has no meaning; or a parameter.
_PLACEHOLDER = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|--[^\n]*|/\*.*?\*/|\$(\w+)""", re.DOTALL)


def placeholders(sql: str) -> list[str]:
    """Returns the names of the parameters in `sql`, without `$`, in their order."""
    found = (match[1] for match in _PLACEHOLDER.finditer(sql))
    return list(dict.fromkeys(name for name in found if name))


def parameters(params: Mapping[str, Any] | Sequence[Any] | None, named: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values by name, as JSON takes them. Values of a sequence are `$1`, `$2` and so on.

    Raises `InvalidError` that names the parameter if Buzz has no exact form for its value.
    """
    if params is None:
        values: dict[str, Any] = {}
    elif isinstance(params, Mapping):
        values = {_name(name): value for name, value in params.items()}
    elif isinstance(params, Sequence) and not isinstance(params, (str, bytes, bytearray)):
        values = {str(number): value for number, value in enumerate(params, 1)}
    else:
        raise InvalidError(
            f"`params` is {_type(params)}; pass a dict of names and values, or a list for `$1`, `$2`, …"
        )
    twice = values.keys() & named.keys()
    if twice:
        raise InvalidError(f"parameter `${min(twice)}` has two values; pass it in `params` or by name, not both")
    return {name: parameter(name, value) for name, value in {**values, **named}.items()}


def _name(name: Any) -> str:
    # `{1: value}` for `$1` is as clear as `{"1": value}`.
    text = str(name) if isinstance(name, int) and not isinstance(name, bool) else name
    if not isinstance(text, str) or not text.lstrip("$"):
        raise InvalidError(f"the name of a parameter is {name!r}; pass a text such as \"x\" for `$x`")
    return text.lstrip("$")


def parameter(name: str, value: Any) -> bool | int | float | str | dict[str, str] | None:
    """Returns one value as JSON takes it. A value of a type that JSON lacks is a text and its SQL type.

    Raises `InvalidError` if Buzz has no exact form for it.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, decimal.Decimal):
        return _decimal(name, value)
    if isinstance(value, (datetime.date, datetime.time)):
        return _time(name, value)
    if isinstance(value, uuid.UUID):
        return str(value)
    numpy_type = type(value).__name__ if type(value).__module__ == "numpy" else ""
    if numpy_type in ("bool_", "bool"):
        return bool(value)
    # For numpy, a length of time is a whole number; without its unit it would be another value.
    if isinstance(value, numbers.Integral) and numpy_type != "timedelta64":
        return _whole(name, int(value))
    if isinstance(value, numbers.Real) and not isinstance(value, numbers.Rational):
        return _float(float(value))
    raise _refused(name, value, "pass None, a bool, an int, a float, a Decimal, a str, a date or a time")


def _typed(value: str, sql_type: str) -> dict[str, str]:
    return {"value": value, "type": sql_type}


def _whole(name: str, value: int) -> int | dict[str, str]:
    if _INT_MIN <= value <= _INT_MAX:
        return value
    return _decimal(name, decimal.Decimal(value))


def _decimal(name: str, value: decimal.Decimal) -> dict[str, str]:
    if not value.is_finite():
        raise InvalidError(f"parameter `${name}` is {value}, which no DECIMAL can have; pass a float")
    _, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int)
    scale = max(-exponent, 0)
    # Zero has one digit whatever its exponent is.
    before = max(len(digits) + exponent, 0) if value else 0
    precision = max(before + scale, 1)
    if precision > _DECIMAL_DIGITS:
        raise InvalidError(f"parameter `${name}` has {precision} digits; a DECIMAL has up to {_DECIMAL_DIGITS}")
    return _typed(f"{value:f}", f"DECIMAL({precision}, {scale})")


def _float(value: float) -> float | dict[str, str]:
    return value if math.isfinite(value) else _typed(str(value), "DOUBLE")


def _time(name: str, value: datetime.date | datetime.time) -> dict[str, str]:
    # The null of pandas is a datetime that does not equal itself.
    if value != value:
        raise InvalidError(f"parameter `${name}` is {value}, which is not a time; pass None for null")
    if isinstance(value, datetime.time):
        if value.tzinfo is not None:
            raise InvalidError(
                f"parameter `${name}` is a time of day with a zone, which SQL has no type for; remove the zone"
            )
        return _typed(value.isoformat(), "TIME")
    if not isinstance(value, datetime.datetime):
        return _typed(value.isoformat(), "DATE")
    # Times of pandas have nanoseconds. Those of Python reach the year 9999, for which nanoseconds have no room.
    digits = 9 if getattr(value, "nanosecond", 0) else 6
    return _typed(value.isoformat(), f"TIMESTAMP({digits})" + ("" if value.tzinfo is None else " WITH TIME ZONE"))


def _type(value: Any) -> str:
    cls = type(value)
    return f"a `{cls.__name__}`" if cls.__module__ == "builtins" else f"a `{cls.__module__}.{cls.__name__}`"


def _refused(name: str, value: Any, remedy: str) -> InvalidError:
    remedy = remedy % name if "%s" in remedy else remedy
    return InvalidError(f"parameter `${name}` is {_type(value)}, which cannot be bound exactly; {remedy}")
