"""Every error that a user of ed2rec can cause, under one base class.

    Ed2Error                 the message is one line: what was given, what is allowed, what to do
    ├── ConfigError          a setting, preset or option
    ├── DataError            a source file or a dataset folder
    │   └── UnknownEntity    a user or item id that the dataset does not have
    ├── BackboneError        an LLM that cannot be loaded or cannot be used here
    ├── IndexCollapse        a training whose index has come down to a few codes
    └── RunError             a run folder: missing, half written, of another version, or not writable

The library raises these; the command line prints the message and exits with 2. Anything else is our own fault
and keeps its traceback (exit 1).
"""


class Ed2Error(Exception):
    """Base class: something the user gave cannot be used."""


class ConfigError(Ed2Error):
    """A setting, preset or option is unknown or out of range."""


class DataError(Ed2Error):
    """A source file or dataset folder is missing, unreadable or not what it should be."""


class UnknownEntity(DataError):
    """A user or item id that the dataset does not have."""


class BackboneError(Ed2Error):
    """An LLM that cannot be loaded, or whose parts do not fit what is asked of it."""


class IndexCollapse(Ed2Error):
    """An index generator gives (nearly) all entities the same code; training on would be for nothing."""


class RunError(Ed2Error):
    """A run folder that is missing, half written, of another version, or cannot be written."""
