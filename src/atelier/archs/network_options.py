"""What every network's options class offers; no torch at module level."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from atelier.options.base import Component

if TYPE_CHECKING:
    from torch import Tensor, nn

Shapes = Mapping[str, tuple[int, ...]]


class NetworkOptions(Component):
    """Options of one network. A new network is a subclass in a file of its own and one line in the registry.

    ``scale_key`` names the option that receives the run's ``scale`` where the file leaves it out, ``supports_half``
    says whether float16 is safe, ``works_on`` what goes in (``clips``: films to be coloured), ``not_in_shapes`` lists
    the options that :meth:`from_shapes` can only assume, and ``few_stages`` says that :attr:`stages` are groups of
    blocks, few enough to look at all of them.
    """

    scale_key: ClassVar[str | None] = None
    supports_half: ClassVar[bool] = True
    works_on: ClassVar[Literal["pictures", "clips"]] = "pictures"
    not_in_shapes: ClassVar[frozenset[str]] = frozenset()
    few_stages: ClassVar[bool] = False

    @abstractmethod
    def build(self) -> nn.Module:
        """The network with freshly drawn weights, float32, on torch's default device."""

    if TYPE_CHECKING:
        # Declared for readers and the type checker alone: where a network's own option is called ``scale``, a property
        # of the base class would hide the field.
        @property
        @abstractmethod
        def scale(self) -> int:
            """Output side divided by input side."""

    @property
    @abstractmethod
    def in_channels(self) -> int:
        """Channels of the input picture."""

    @property
    @abstractmethod
    def out_channels(self) -> int:
        """Channels of the output picture."""

    def notes(self) -> list[str]:
        """What to know before such a network is trained, one sentence each."""
        return []

    def check_origin(self, told: Mapping[str, object]) -> None:
        """Raise :class:`UserError` where ``told``, the options in a weight file of ours, compute something else.

        Only what leaves the names and shapes of all tensors as they are needs this.
        """

    @property
    def size_multiple(self) -> int:
        """Tile sides and starts should be multiples of this (the window size; 1 for plain convolutions)."""
        return 1

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the modules whose outputs are the steps of the body, in the order in which they run."""
        return ()

    @property
    def receptive_radius(self) -> int | None:
        """How far, in input pixels, an output pixel sees; None where attention leaves it unbounded."""
        return None

    @classmethod
    def recognises(cls, shapes: Shapes) -> bool:
        """Whether a weight file with these tensor shapes holds this network."""
        return False

    @classmethod
    def from_shapes(cls, shapes: Shapes) -> Self:
        """Options read off the tensor shapes of a weight file. Raises :class:`UserError` where they do not fit."""
        raise NotImplementedError(f"{cls.__name__} recognises no weight file")

    def file_state(
        self, state: Mapping[str, Tensor], *, minimal_constants: bool = False
    ) -> dict[str, Tensor]:
        """``state`` as it stands in a weight file: the network's own state plus constants other programs expect."""
        return dict(state)

    def network_state(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
        """The reverse of :meth:`file_state`: (what the network owns, ignored key -> why).

        Raises :class:`UserError` where a constant in the file is not the one this network computes.
        """
        return dict(state), {}
