"""What every section of the settings is."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class ConfigError(ValueError):
    """The configuration cannot be used: each line names a key, what was wrong and what was expected."""


class Section(BaseModel):
    """Base of all sections: immutable, and strict about names."""

    model_config = ConfigDict(extra="forbid", frozen=True)
