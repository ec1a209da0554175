"""What a connection that Valkey or its TLS refuses is told as: the setting, what was wrong and expected. No I/O."""

from __future__ import annotations

import ssl
from typing import Final

from redis.exceptions import AuthenticationError, RedisError
from redis.exceptions import ConnectionError as ValkeyConnectionError
from redis.exceptions import TimeoutError as ValkeyTimeoutError

# X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH of OpenSSL.
_OF_ANOTHER_NAME: Final = (62, 64)
# What redis-py says when no connection came about in time; what is slow later says where it was read.
_NOT_CONNECTED: Final = "Timeout connecting"


class UntrustedError(ValkeyConnectionError):
    """TLS did not come about. No waiting mends it."""


def told(error: RedisError, place: str, *, tls: bool) -> RedisError:
    """The error to raise for one that a connection to `place` met before it could be used; itself if no setting is why.

    What passes stays what passes: only a certificate and credentials are beyond waiting.
    """
    # redis-py raises its errors while it handles what the sockets raise, and does not chain them by hand.
    cause = error.__context__
    if isinstance(error, AuthenticationError):
        return AuthenticationError(
            f"valkey.url: {place} refuses the user or the password ({_brief(error)}); expected those of its ACL, "
            "with / ? # % and @ escaped as %2F %3F %23 %25 and %40"
        )
    if isinstance(cause, ssl.SSLCertVerificationError):
        return UntrustedError(f"valkey.url: the certificate of {place} {_distrust(cause)}")
    if isinstance(cause, ssl.SSLError):
        return UntrustedError(
            f"valkey.url: no TLS with {place} ({_brief(cause)}); expected a Valkey that speaks it there: redis:// is "
            "for one without"
        )
    if isinstance(error, ValkeyTimeoutError) and tls and str(error).startswith(_NOT_CONNECTED):
        return ValkeyTimeoutError(
            f"valkey.url: no TLS with {place} within valkey.connect_ms_max; expected a Valkey that speaks it there: "
            "redis:// is for one without"
        )
    if type(error) is ValkeyConnectionError and (cause is None or isinstance(cause, ConnectionResetError)):
        return ValkeyConnectionError(
            f"{place} closed the connection before it could be used ({_brief(error)}); "
            + (
                "if it asks clients for a certificate, ssl_certfile and ssl_keyfile in valkey.url name it"
                if tls
                else "if it speaks TLS, valkey.url begins with rediss://"
            )
        )
    return error


def _distrust(cause: ssl.SSLCertVerificationError) -> str:
    if cause.verify_code in _OF_ANOTHER_NAME:
        return (
            f"is of another name ({cause.verify_message}); expected the host in it: name one that is, or say "
            "ssl_check_hostname=false"
        )
    return (
        f"is not trusted ({cause.verify_message}); expected one of an authority that ssl_ca_certs names, or the system "
        "where it names none"
    )


def _brief(error: Exception) -> str:
    return str(error).rstrip(".")
