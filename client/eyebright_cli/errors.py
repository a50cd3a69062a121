"""What the command itself refuses, as one line a person can act on.

Owns the CliError family. Knows nothing of the SDK's errors; ``app`` turns both into a line and an exit code.

    CliError
    ├── SourceError        nothing to index there
    ├── MissingExtraError  a library of a service is not installed
    ├── PortInUseError     another process listens there
    └── ServiceDiedError   a service ended by itself
"""


class CliError(Exception):
    """Ends the command with its message on standard error and exit code 1."""


class SourceError(CliError):
    """The path holds nothing that can be indexed."""


class MissingExtraError(CliError):
    """A library that a service needs is not installed; the message names the pip line."""


class PortInUseError(CliError):
    """Another process listens on a port that a service wants."""


class ServiceDiedError(CliError):
    """A service ended by itself; the message holds the end of its log."""
