"""A small schema with every kind of field, so that this room is tested without the rooms that own components."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, SerializeAsAny, field_validator, model_validator

from atelier.errors import UserError
from atelier.options.base import Component, Options, Registered, Registry
from atelier.options.messages import validate_tree
from atelier.options.overrides import apply_overrides
from atelier.options.source import OptionFile
from atelier.options.yaml_reader import parse_yaml

ANIMALS: Registry[Component] = Registry("animal", {})


class Cat(Component):
    type: Literal["Cat"] = "Cat"
    lives: int = Field(9, ge=1)
    colour: str = "black"


class Dog(Component):
    type: Literal["Dog"] = "Dog"
    owner: str
    friends: list[Animal] = Field(default_factory=list)


ANIMALS.register("Cat", Cat)
ANIMALS.register("Dog", Dog)
Animal = Annotated[SerializeAsAny[Component], Registered(ANIMALS)]
Dog.model_rebuild()


class Inner(Options):
    lr: float = Field(2e-4, gt=0)
    betas: tuple[float, float] = (0.9, 0.99)
    milestones: list[int] = Field(default_factory=list)
    clip: float | None = None
    flag: bool = False
    mode: Literal["fp32", "bf16", "fp16"] = "fp32"
    gpu: Literal["auto"] | int = "auto"
    weight: float | list[float] = 1.0
    where: Path | None = None
    layers: dict[str, float] = Field(default_factory=dict)
    even: int = 2

    @field_validator("even")
    @classmethod
    def _even(cls, value: int) -> int:
        if value % 2:
            raise ValueError("must be even")
        return value


class Sets(Options):
    model_config = {**Options.model_config, "extra": "allow"}  # noqa: RUF012
    __pydantic_extra__: dict[str, Inner]

    train: Inner


class Top(Options):
    name: str = Field(min_length=1, pattern=r"^[^/]+$")
    steps: int = Field(10, ge=1, le=1000)
    inner: Inner = Inner()
    pet: Animal | None = None
    zoo: list[Animal] = Field(default_factory=list)
    herd: dict[str, Animal] = Field(default_factory=dict)
    guest: Annotated[SerializeAsAny[Component], Registered(ANIMALS, default="Cat")] = Cat()
    sets: Sets | None = None

    @model_validator(mode="after")
    def _steps_and_lives(self) -> Top:
        if self.steps == 13:
            raise ValueError("steps 13 brings bad luck; choose another")
        return self


def check(text: str, *overrides: str) -> Top:
    """The small schema from YAML text; the file is called ``run.yml``."""
    data, lines = parse_yaml(text, "run.yml")
    return validate_tree(Top, apply_overrides(OptionFile("run.yml", data, lines), overrides))


def refusal(call: Callable[..., Any], *arguments: Any) -> str:
    """The message of the UserError that the call raises."""
    with pytest.raises(UserError) as caught:
        call(*arguments)
    return str(caught.value)


@pytest.fixture
def small() -> SimpleNamespace:
    """The small schema and its helpers (a plain import of a conftest is not possible in importlib mode)."""
    return SimpleNamespace(
        Top=Top, Inner=Inner, Cat=Cat, Dog=Dog, ANIMALS=ANIMALS, Animal=Animal, check=check
    )


@pytest.fixture(name="refusal")
def _refusal() -> Callable[..., str]:
    return refusal
