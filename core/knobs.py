"""Named constructors and their knobs: keyword arguments that stand beside a name in a file."""

from collections.abc import Callable, Mapping
from inspect import Parameter, isfunction, signature
from typing import Any, get_type_hints

from pydantic import PydanticUserError, TypeAdapter, ValidationError

from roundel.core.errors import ConfigError
from roundel.core.suggest import suggest


def settle(
    make: Callable[..., Any], knobs: Mapping[str, Any], *, section: str, name: str
) -> dict[str, Any]:
    """Return every knob of a constructor with the value it gets, defaults included.

    Args:
        make: The constructor; its keyword parameters are its knobs.
        knobs: What the experiment sets.
        section: The section of the experiment file, such as ``"strategy"``.
        name: What the constructor is called there.

    Raises:
        ConfigError: A knob is unknown, has the wrong type, or is missing and has no default.
    """
    accepted = {k: p for k, p in signature(make).parameters.items() if p.kind in _NAMED}
    hints = _hints(make)
    checked = {k: p.default for k, p in accepted.items() if p.default is not Parameter.empty}
    for knob, value in knobs.items():
        if knob not in accepted:
            raise ConfigError(
                f"{section}.{knob} is not a knob of {name}; "
                + (suggest(knob, accepted) if accepted else "it has none")
            )
        checked[knob] = _checked(value, hints.get(knob, Any), f"{section}.{knob}")
    for knob in accepted:
        if knob not in checked:
            raise ConfigError(f"{name} needs {section}.{knob}, which has no default; set it")
    return checked


_NAMED = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)


def _hints(make: Callable[..., Any]) -> dict[str, Any]:
    """Return the types of a constructor's knobs; none if its annotations name what is not there."""
    try:
        return get_type_hints(
            make if isfunction(make) else type(make).__call__, include_extras=True
        )
    except NameError:
        return {}


def _checked(value: object, hint: Any, key: str) -> Any:  # noqa: ANN401 - of any type
    try:
        adapter = TypeAdapter[Any](hint)
    except PydanticUserError:
        return value  # of a type that pydantic does not know, such as torch.device
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        hint = f"; write {key} = '\"{value}\"'" if first["type"] == "string_type" else ""
        raise ConfigError(f"{key} = {value!r} does not fit: {first['msg']}{hint}") from error
