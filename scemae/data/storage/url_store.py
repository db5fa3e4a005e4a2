"""The object store, web server or folder of this machine at a URL, opened with its credentials.

They come from where the user of that store keeps them (environment variables, a machine's role; for
s3:// also ~/.aws where boto3 is installed), never from a setting.
"""

import os
from datetime import timedelta
from importlib.util import find_spec
from typing import Any

from scemae.config.locations import masked, scheme_of
from scemae.data.storage.store_errors import why
from scemae.errors import ShardError

SCHEMES = ("s3", "gs", "az", "http", "https", "file")
WRITABLE = ("s3", "gs", "az", "file")
RETRIES = 8  # of a request that failed, by obstore, for three minutes at most


def open_store(location: str, *, to_write: bool) -> Any:
    """The store at a URL, with credentials read now. Raises ShardError.

    to_write: a folder of this machine (file:) is made, a web server is refused.
    """
    if find_spec("obstore") is None:
        raise ShardError(
            f"{masked(location)}: found no obstore, which reads and writes it; run "
            "`pip install 'scemae[remote]'`, or use a folder"
        )
    from obstore.store import HTTPStore, LocalStore, from_url

    scheme = scheme_of(location)
    if to_write and scheme not in WRITABLE:
        raise ShardError(
            f"{masked(location)}: found {scheme}:, which cannot be written to; give a "
            f"folder, or a URL of {', '.join(WRITABLE)}"
        )
    if scheme in ("http", "https") and ("?" in location or "@" in location):
        raise ShardError(
            f"{masked(location)}: a URL with a password or a query can only be copied "
            "whole; leave data.cache_gb out, or use s3://, gs:// or az://"
        )
    options: Any = {
        "client_options": {"allow_http": True, "connect_timeout": "10s", "timeout": "120s"},
        "retry_config": {"max_retries": RETRIES, "retry_timeout": timedelta(minutes=3)},
    }
    try:
        if scheme == "file":
            return LocalStore.from_url(location, mkdir=to_write)
        if scheme in ("http", "https"):
            return HTTPStore.from_url(location, **options)
        if scheme == "s3" and "AWS_ACCESS_KEY_ID" not in os.environ:
            options |= _boto3_credentials()
        return from_url(location, **options)
    except Exception as error:
        raise ShardError(
            f"{masked(location)}: cannot be opened ({why(error)}); check the address"
        ) from error


def _boto3_credentials() -> dict[str, Any]:
    """Those of ~/.aws, of AWS_PROFILE or of a machine's role, where boto3 is installed."""
    if find_spec("boto3") is None:
        return {}
    import boto3
    from obstore.auth.boto3 import Boto3CredentialProvider

    session = boto3.Session()
    return {"credential_provider": Boto3CredentialProvider(session)} if _has_any(session) else {}


def _has_any(session: Any) -> bool:
    return session.get_credentials() is not None
