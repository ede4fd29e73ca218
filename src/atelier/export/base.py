"""What a format is, and the table of formats.

A new one is a file with a subclass of :class:`ExportFormat`, one line in :data:`FORMATS`, and, so that it can be proved
and run, a runtime (``atelier.restore.exported.RUNTIMES``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from atelier.errors import UserError
from atelier.options.base import Component, Registry

if TYPE_CHECKING:
    from torch import nn

    from atelier.archs.facts import NetworkFacts
    from atelier.export.trace import Traced

Precision = Literal["fp32", "fp16"]


class ExportFormat(Component, ABC):
    """Options of one format, and how it is written.

    Attributes:
        suffixes: of its files, which share a stem; the first is the main file, the one that users name.
        packages: what must be importable, all of the extra ``export``.
        half_graph: whether fp16 means a graph of float16 operators. If not, the format gets the float32 graph and
            stores its weights as float16 itself.
        may_halve: whether the programs that run it may compute in float16 whatever the file holds.
    """

    suffixes: ClassVar[tuple[str, ...]]
    packages: ClassVar[tuple[str, ...]] = ()
    half_graph: ClassVar[bool] = True
    may_halve: ClassVar[bool] = False

    @abstractmethod
    def write(self, traced: Traced, main: Path, metadata: Mapping[str, Any], precision: Precision) -> None:
        """Write ``main`` and, beside it under the same stem, the files of the other suffixes.

        ``metadata`` is JSON-able; a format that can carry text holds it under the name
        ``atelier.restore.exported.METADATA_KEY``.

        Raises:
            UserError: the format has no form for an operator (named).
        """

    def form_of(self, net: nn.Module, facts: NetworkFacts) -> tuple[nn.Module, int]:
        """``net`` as this format can hold it, and the smallest side in pixels that this form takes.

        The proof compares the written file with ``net`` itself.

        Raises:
            UserError: the format has no form for this kind of network; said before any tracing.
        """
        return net, 1

    def open_in_half(self, main: Path) -> nn.Module | None:
        """The written file in its runtime with float16 arithmetic asked for; None where the file alone decides."""
        return None

    def facts(self) -> dict[str, Any]:
        """What this format adds to the metadata (``opset``)."""
        return {}

    def versions(self) -> dict[str, str]:
        """Name -> version of the packages that write the file."""
        found = {}
        for package in self.packages:
            try:
                found[package] = version(package)
            except PackageNotFoundError:
                continue
        return found

    def require_packages(self) -> None:
        """Raise :class:`UserError` where a package is missing."""
        missing = [package for package in self.packages if find_spec(package) is None]
        if missing:
            raise UserError(f"--format {self.type} needs {', '.join(missing)}: pip install 'atelier[export]'")


FORMATS: Registry[ExportFormat] = Registry(
    "export format",
    {
        "ncnn": "atelier.export.ncnn_format:NcnnFormat",
        "onnx": "atelier.export.onnx_format:OnnxFormat",
        "openvino": "atelier.export.openvino_format:OpenVinoFormat",
        "torch": "atelier.export.torch_format:TorchFormat",
    },
)


def find_format(output: Path, name: str | None, options: Mapping[str, Any]) -> ExportFormat:
    """The format called ``name``, or the one that ``output`` is named like; ``options`` are its own (``opset``).

    Raises:
        UserError: unknown, or the name of the file does not fit, or an option that this format does not have.
    """
    by_suffix = {FORMATS.options_class(each).suffixes[0]: each for each in FORMATS}
    if name is None:
        name = by_suffix.get(output.suffix.lower())
        if name is None:
            allowed = ", ".join(f"{suffix} ({each})" for suffix, each in by_suffix.items())
            raise UserError(
                f"-o {output}: no export format is known by '{output.suffix}'; allowed: {allowed}"
            )
    kind = FORMATS.options_class(name)
    if output.suffix.lower() != kind.suffixes[0]:
        raise UserError(f"-o {output}: a file of --format {name} is called *{kind.suffixes[0]}")
    for key, value in options.items():
        if key not in kind.model_fields:
            raise UserError(f"--{key} {value}: format {name} has no such option")
    try:
        return kind.model_validate(dict(options))
    except ValueError as error:
        raise UserError(f"--format {name}: {_reasons(error)}") from None


def _reasons(error: ValueError) -> str:
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return str(error)
    return "; ".join(f"{each['loc'][0]} {each['input']}: {each['msg']}" for each in error.errors())
