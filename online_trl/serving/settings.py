"""How the server behaves towards those who call it: one dataclass, which a YAML file may fill."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..config import check_range


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """
    Settings of the server, beside what it serves and where.

    Args:
        public_url (`str`, *optional*):
            Address under which clients reach the server, for the feedback URLs that it signs. Defaults to the one
            that the request came to.
        allowed_origins (`list[str]`, *optional*):
            Web origins other than the server's own whose pages may call it, such as `https://chat.example.org`.
        feedback_url_seconds (`int`, *optional*, defaults to `604800`):
            How long a signed feedback URL is good for.
        max_body_bytes (`int`, *optional*, defaults to `4194304`):
            Largest request body that is read.
        rate_limit_per_key (`str`, *optional*):
            Requests that one key may send, such as `6000/minute`. No limit by default.
        rate_limit_per_user (`str`, *optional*):
            Requests that one named user may send, such as `300/minute`. No limit by default.
        pin_sessions (`bool`, *optional*, defaults to `False`):
            Whether a conversation stays with the policy version that answered it first.
        log_messages (`bool`, *optional*, defaults to `False`):
            Whether the text of messages and feedback may stand in the server's own log.
        burst_rows (`int`, *optional*, defaults to `120`):
            Rows of feedback that one user may send within `burst_seconds` before further ones are quarantined. `0`
            turns the check off.
        burst_seconds (`int`, *optional*, defaults to `60`):
            See `burst_rows`.
        near_duplicates (`int`, *optional*, defaults to `5`):
            Rows of feedback that say nearly the same of different answers within `near_duplicate_seconds` before
            further ones are quarantined. `0` turns the check off.
        near_duplicate_seconds (`int`, *optional*, defaults to `3600`):
            See `near_duplicates`.

    Raises:
        [`~online_trl.config.ConfigError`]: if a value is out of bounds.
    """

    public_url: str | None = None
    allowed_origins: list[str] = field(default_factory=list)
    feedback_url_seconds: int = 604_800
    max_body_bytes: int = 4_194_304
    rate_limit_per_key: str | None = None
    rate_limit_per_user: str | None = None
    pin_sessions: bool = False
    log_messages: bool = False
    burst_rows: int = 120
    burst_seconds: int = 60
    near_duplicates: int = 5
    near_duplicate_seconds: int = 3600

    def __post_init__(self) -> None:
        for name in ("feedback_url_seconds", "max_body_bytes", "burst_seconds", "near_duplicate_seconds"):
            check_range(name, getattr(self, name), 1, None)
        for name in ("burst_rows", "near_duplicates"):
            check_range(name, getattr(self, name), 0, None)
