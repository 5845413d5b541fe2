"""
API keys and the secrets that servers sign with, beside the log, so that all servers on one log share them.

A key is shown once, when it is made; what is stored is its SHA-256. A key has 256 random bits, so that a slow hash,
which makes guessing of chosen passwords expensive, would add nothing.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from ..database import Database, StoreError
from ..migrations import schema
from ..types import Scope, new_id, utcnow

_RANDOM_BYTES = 32
_PUBLISHABLE = frozenset({Scope.FEEDBACK})


class UnknownKeyError(StoreError):
    """No key has this id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """
    A key as it is stored: all but the key.

    Args:
        key_id (`str`):
            Names it to those who list and revoke keys.
        name (`str`):
            What it is for, in its owner's words.
        digest (`str`):
            SHA-256 of the key, in hexadecimal.
        scopes (`frozenset[Scope]`):
            What its holder may do.
        created_at (`datetime`):
            When it was made.
        revoked_at (`datetime`, *optional*):
            Since when it is worth nothing.
    """

    key_id: str
    name: str
    digest: str
    scopes: frozenset[Scope]
    created_at: datetime
    revoked_at: datetime | None = None


def key_digest(key: str) -> str:
    """Returns the SHA-256 by which a key is stored."""
    return hashlib.sha256(key.encode()).hexdigest()


class ApiKeys:
    """
    The keys of one log, and its secrets.

    Args:
        database ([`~online_trl.database.Database`]):
            Where they are.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, scopes: Iterable[Scope], *, name: str = "") -> tuple[str, ApiKey]:
        """
        Makes a key.

        Args:
            scopes (`Iterable[Scope]`):
                What its holder may do. A key that may only give feedback begins with `pk-`, any other with `sk-`.
            name (`str`, *optional*):
                What it is for.

        Returns:
            `tuple[str, ApiKey]`: The key, which nobody can find out again, and what is stored of it.

        Raises:
            [`StoreError`]: if no scope is given.
        """
        granted = frozenset(scopes)
        if not granted:
            raise StoreError("a key without a scope opens nothing; name at least one scope")
        prefix = "pk-" if granted == _PUBLISHABLE else "sk-"
        key = prefix + secrets.token_urlsafe(_RANDOM_BYTES)
        row = ApiKey(key_id=new_id(), name=name, digest=key_digest(key), scopes=granted, created_at=utcnow())
        with self._database.writing() as connection:
            connection.execute(
                sa.insert(schema.api_keys).values(
                    key_id=row.key_id,
                    name=row.name,
                    digest=row.digest,
                    scopes=sorted(scope.value for scope in row.scopes),
                    created_at=row.created_at,
                )
            )
        return key, row

    def list(self) -> list[ApiKey]:
        """Returns every key that was ever made, oldest first."""
        query = sa.select(schema.api_keys).order_by(schema.api_keys.c.created_at, schema.api_keys.c.key_id)
        with self._database.reading() as connection:
            return [_api_key(row) for row in connection.execute(query).mappings()]

    def in_force(self) -> dict[str, ApiKey]:
        """Returns the keys that are not revoked, by their digest."""
        return {key.digest: key for key in self.list() if key.revoked_at is None}

    def revoke(self, key_id: str) -> ApiKey:
        """
        Makes a key worthless, for good.

        Args:
            key_id (`str`):
                Id of the key. One that is revoked already stays as it is.

        Returns:
            `ApiKey`: The key as it now stands.

        Raises:
            [`UnknownKeyError`]: if there is no such key.
        """
        columns = schema.api_keys.c
        with self._database.writing() as connection:
            connection.execute(
                sa.update(schema.api_keys)
                .where(columns.key_id == key_id, columns.revoked_at.is_(None))
                .values(revoked_at=utcnow())
            )
            row = connection.execute(sa.select(schema.api_keys).where(columns.key_id == key_id)).mappings().first()
        if row is None:
            raise UnknownKeyError(f"no key has the id {key_id!r}; `online-trl keys list` shows those that exist")
        return _api_key(row)

    def secret(self, name: str) -> str:
        """
        Returns the secret of this name: random, made when it is first asked for, the same for every server.

        Args:
            name (`str`):
                What it is for.
        """
        query = sa.select(schema.secrets.c.value).where(schema.secrets.c.name == name)
        with self._database.reading() as connection:
            value: str | None = connection.execute(query).scalar_one_or_none()
        return self._make_secret(name, query) if value is None else value

    def _make_secret(self, name: str, query: sa.Select[Any]) -> str:
        with self._database.writing() as connection:
            # Another server may have made it meanwhile.
            value: str | None = connection.execute(query).scalar_one_or_none()
            if value is None:
                value = secrets.token_hex(_RANDOM_BYTES)
                connection.execute(sa.insert(schema.secrets).values(name=name, value=value))
        return value


def _api_key(row: sa.RowMapping) -> ApiKey:
    return ApiKey(**{**row, "scopes": frozenset(map(Scope, row["scopes"]))})
