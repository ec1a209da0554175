"""The settings of a process, put together from flags, environment, file and defaults."""

from __future__ import annotations

import difflib
import json
import os
import tomllib
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from services.config.engines import AnthropicSettings, OpenAISettings, VllmSettings
from services.config.gateway import GatewaySettings
from services.config.mesh import MembershipSettings, MeshSettings, RpcSettings, TelemetrySettings
from services.config.rooms import CompressorSettings, InferenceSettings
from services.config.section import ConfigError
from services.config.store import QuotaSettings, StoreSettings, TieringSettings
from services.config.supervisor import SupervisorSettings
from services.config.valkey import ValkeySettings

ENV_PREFIX: Final = "ISTHMUS_"
ENV_CONFIG: Final = "ISTHMUS_CONFIG"
_DELIMITER: Final = "__"

_file: ContextVar[dict[str, Any] | None] = ContextVar("isthmus_config_file", default=None)


class _FileSource(PydanticBaseSettingsSource):
    """What the configuration file says, as the lowest source above the defaults."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return (_file.get() or {}).get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        return dict(_file.get() or {})


class Settings(BaseSettings):
    """All settings of a process. Made by `load_settings`; immutable from then on."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_nested_delimiter=_DELIMITER, extra="forbid", frozen=True, validate_default=True
    )

    mesh: MeshSettings = MeshSettings()
    valkey: ValkeySettings = ValkeySettings()
    rpc: RpcSettings = RpcSettings()
    membership: MembershipSettings = MembershipSettings()
    store: StoreSettings = StoreSettings()
    tiering: TieringSettings = TieringSettings()
    quota: QuotaSettings = QuotaSettings()
    compressor: CompressorSettings = CompressorSettings()
    inference: InferenceSettings = InferenceSettings()
    vllm: VllmSettings = VllmSettings()
    openai: OpenAISettings = OpenAISettings()
    anthropic: AnthropicSettings = AnthropicSettings()
    gateway: GatewaySettings = GatewaySettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    supervisor: SupervisorSettings = SupervisorSettings()

    @model_validator(mode="after")
    def _replicas_have_such_settings(self) -> Settings:
        for number, sections in enumerate(self.supervisor.replicas):
            for name, values in sections.items():
                key = f"supervisor.replicas[{number}].{name}"
                section = getattr(self, name, None) if name in type(self).model_fields else None
                if not isinstance(section, BaseModel):
                    raise ValueError(f"{key}: unknown section; expected one of {', '.join(type(self).model_fields)}")
                try:
                    type(section).model_validate(section.model_dump(exclude_unset=True) | values)
                except ValidationError as error:
                    raise ValueError(f"{key}: {'; '.join(_explain(each) for each in error.errors())}") from None
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        del dotenv_settings, file_secret_settings
        return init_settings, env_settings, _FileSource(settings_cls)


def load_settings(path: Path | str | None = None, **overrides: Any) -> Settings:
    """The settings from overrides, environment, file and defaults, in that order.

    `path` is a `.toml` or `.json` file; None takes the one that ISTHMUS_CONFIG names, if any. `overrides` are sections:
    `load_settings(store={"fragment_bytes_max": 4096})`. Raises ConfigError naming every key that is unknown or wrong.
    """
    source = path or os.environ.get(ENV_CONFIG) or None
    values = _read_file(Path(source)) if source is not None else {}
    _refuse_unknown_environment()
    token = _file.set(values)
    try:
        return Settings(**overrides)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(each) for each in error.errors())) from None
    finally:
        _file.reset(token)


def _read_file(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}; expected a TOML or JSON file") from None
    except ValueError as error:
        raise ConfigError(f"{path}: cannot be parsed: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected sections at the top level, got {type(values).__name__}")
    return values


def _refuse_unknown_environment() -> None:
    """pydantic-settings ignores a variable of an unknown section; a typing error there would pass in silence."""
    sections = Settings.model_fields
    for name in os.environ:
        section, delimiter, _ = name.removeprefix(ENV_PREFIX).lower().partition(_DELIMITER)
        if name.startswith(ENV_PREFIX) and delimiter and section not in sections:
            raise ConfigError(f"{name}: unknown section {section!r}; expected one of {', '.join(sections)}")


def _explain(error: Any) -> str:
    location = [str(part) for part in error["loc"]]
    key = ".".join(location)
    if error["type"] != "extra_forbidden":
        return f"{key}: {error['msg']}; got {error['input']!r}"
    known = _names(location[:-1])
    near = difflib.get_close_matches(location[-1], known, n=1)
    return f"{key}: unknown key; " + (f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(known)}")


def _names(location: list[str]) -> list[str]:
    model: type[BaseModel] = Settings
    for part in location:
        annotation = model.model_fields[part].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return list(model.model_fields)
