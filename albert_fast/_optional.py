"""Optional packages: import one at the moment of use, or say exactly what to install."""

from __future__ import annotations

import importlib
from types import ModuleType

from albert_fast.errors import MissingDependencyError


def require(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import an optional package.

    Args:
        module: dotted import name, for example ``"huggingface_hub"``.
        extra: the extra of this project that installs it, for example ``"hub"``.
        purpose: what it is needed for, as it stands after "to": ``"download a checkpoint by its hub name"``.
    Raises:
        MissingDependencyError: the package is not installed; the message holds the install command. A package that
            is installed but fails while importing something else keeps its own error.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not (module == error.name or module.startswith(error.name + ".")):
            raise
        raise MissingDependencyError(
            f"{module} is needed to {purpose} and is not installed: pip install 'albert-fast[{extra}]'"
        ) from error
