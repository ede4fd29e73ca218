"""Checking constructor arguments with the same rules as an option file."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import ValidationError

from atelier.errors import UserError
from atelier.options.base import Component

N = TypeVar("N", bound=Component)


def checked(options_class: type[N], /, **arguments: Any) -> N:
    """``arguments`` as checked options; raises one :class:`UserError` that names every wrong argument."""
    try:
        return options_class.model_validate(arguments)
    except ValidationError as error:
        wrong = []
        for problem in error.errors():
            key = ".".join(str(part) for part in problem["loc"])
            wrong.append(f"{key}: {problem['msg']}, given {problem['input']!r}" if key else problem["msg"])
        name = options_class.model_fields["type"].default
        raise UserError(
            f"{name}: " + "; ".join(part.removeprefix("Value error, ") for part in wrong)
        ) from None
