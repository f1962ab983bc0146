"""The things that go wrong and that a caller may want to tell apart. Everything else is a ``ValueError``."""


class CheckpointError(ValueError):
    """A checkpoint cannot be read, is not an ALBERT, or does not fit the model that asked for it."""


class EngineError(RuntimeError):
    """An engine file cannot be built, is damaged, or does not fit this machine."""


class MissingDependencyError(ImportError):
    """An optional package or the op library is needed; the message holds the command that installs it."""
