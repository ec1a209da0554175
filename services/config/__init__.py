"""The typed configuration of every process: one section a concern, each bound with its unit in its name.

Precedence: flags (overrides) over environment (`ISTHMUS_STORE__FRAGMENT_BYTES_MAX=…`) over the file (TOML or JSON,
given as a path or named by `ISTHMUS_CONFIG`) over the defaults below. A key that no section knows is refused by name.
"""

from services.config.access import AccessSettings
from services.config.audits import AuditSettings
from services.config.caches import CacheSettings
from services.config.engines import AnthropicSettings, OpenAISettings, VllmSettings
from services.config.gateway import GatewaySettings
from services.config.jobs import JobSettings, WebhookSettings
from services.config.jwt import JwtSettings
from services.config.libraries import LibrariesSettings
from services.config.limits import CallerLimits, LimitsSettings, Price
from services.config.loading import ENV_CONFIG, ENV_PREFIX, Settings, load_settings
from services.config.mesh import MembershipSettings, MeshSettings, RpcSettings, TelemetrySettings
from services.config.pools import (
    BreakerSettings,
    HedgeSettings,
    PoolSettings,
    PriceSettings,
    ResilienceSettings,
    RetrySettings,
    RouteSettings,
    RuleSettings,
)
from services.config.retrieval import RetrievalSettings
from services.config.rooms import CompressorSettings, InferenceSettings
from services.config.section import ConfigError, Section
from services.config.store import QuotaLimits, QuotaSettings, StoreSettings, TieringSettings
from services.config.supervisor import SupervisorSettings
from services.config.validation import ValidationSettings
from services.config.valkey import ValkeySettings

__all__ = [
    "ENV_CONFIG",
    "ENV_PREFIX",
    "AccessSettings",
    "AnthropicSettings",
    "AuditSettings",
    "BreakerSettings",
    "CacheSettings",
    "CallerLimits",
    "CompressorSettings",
    "ConfigError",
    "GatewaySettings",
    "HedgeSettings",
    "InferenceSettings",
    "JobSettings",
    "JwtSettings",
    "LibrariesSettings",
    "LimitsSettings",
    "MembershipSettings",
    "MeshSettings",
    "OpenAISettings",
    "PoolSettings",
    "Price",
    "PriceSettings",
    "QuotaLimits",
    "QuotaSettings",
    "ResilienceSettings",
    "RetrievalSettings",
    "RetrySettings",
    "RouteSettings",
    "RpcSettings",
    "RuleSettings",
    "Section",
    "Settings",
    "StoreSettings",
    "SupervisorSettings",
    "TelemetrySettings",
    "TieringSettings",
    "ValidationSettings",
    "ValkeySettings",
    "VllmSettings",
    "WebhookSettings",
    "load_settings",
]
