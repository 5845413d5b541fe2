"""
Signed URLs: whoever holds one may give feedback on some answers, of some kinds, for some time, without a key.

What a URL allows stands in it, and an HMAC-SHA256 over that with a secret of the log keeps it from being changed. All
servers on one log share the secret, so that a URL from one is good at the others.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from ..store import ApiKeys
from ..types import Feedback, FeedbackKind
from .errors import RefusalError
from .settings import ServerSettings

PATH = "/v1/signed-feedback"
"""Path of every signed URL."""

_SECRET = "feedback-url"
_OF_SEVERAL = (FeedbackKind.COMPARISON, FeedbackKind.RANKING)


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedbackGrant:
    """
    What a signed URL allows.

    Args:
        interaction_ids (`tuple[str, ...]`):
            The answers that feedback may be about.
        kinds (`tuple[FeedbackKind, ...]`):
            The kinds that it may be of.
        expires (`int`):
            Until when, in seconds since 1970.
    """

    interaction_ids: tuple[str, ...]
    kinds: tuple[FeedbackKind, ...]
    expires: int

    def check(self, feedback: Iterable[Feedback]) -> None:
        """
        Checks that feedback is within the grant.

        Raises:
            [`~online_trl.serving.errors.RefusalError`]: if it is not; the message names what is beyond.
        """
        for row in feedback:
            if row.kind not in self.kinds:
                raise _beyond(f"feedback of kind `{row.kind.value}`", [kind.value for kind in self.kinds])
            for name in row.interaction_ids:
                if name not in self.interaction_ids:
                    raise _beyond(f"feedback on {name!r}", self.interaction_ids)


class FeedbackUrls:
    """
    Makes signed URLs, and tells true ones from others.

    Args:
        keys ([`~online_trl.store.ApiKeys`]):
            Keeps the secret.
        settings ([`~online_trl.serving.settings.ServerSettings`]):
            What a URL allows, how long, and where it leads.
    """

    def __init__(self, keys: ApiKeys, settings: ServerSettings) -> None:
        self._secret = keys.secret(_SECRET).encode()
        self._kinds = tuple(settings.feedback_url_kinds)
        self._seconds = settings.feedback_url_seconds
        self._public_url = settings.public_url

    def url(self, interaction_ids: Sequence[str], *, base_url: str) -> str | None:
        """
        Returns the URL for feedback on the answers of one reply, or `None` if the settings allow no kind that is about
        so few.

        Args:
            interaction_ids (`Sequence[str]`):
                The answers.
            base_url (`str`):
                Address that the request for them came to; the settings' `public_url` goes before it.
        """
        kinds = tuple(kind for kind in self._kinds if len(interaction_ids) > 1 or kind not in _OF_SEVERAL)
        if not kinds:
            return None
        expires = int(time.time()) + self._seconds
        grant = FeedbackGrant(interaction_ids=tuple(interaction_ids), kinds=kinds, expires=expires)
        query = [
            *(("interaction", name) for name in grant.interaction_ids),
            *(("kind", kind.value) for kind in grant.kinds),
            ("expires", str(grant.expires)),
            ("signature", self._signature(grant)),
        ]
        return f"{(self._public_url or base_url).rstrip('/')}{PATH}?{urlencode(query)}"

    def check(self, grant: FeedbackGrant, signature: str) -> None:
        """
        Checks that a grant was signed with the log's secret and is still good.

        Args:
            grant ([`FeedbackGrant`]):
                What a URL says.
            signature (`str`):
                What it is signed with.

        Raises:
            [`~online_trl.serving.errors.RefusalError`]: if not.
        """
        if not hmac.compare_digest(self._signature(grant).encode(), signature.encode()):
            raise RefusalError(
                403,
                "the signature does not fit the feedback URL: use `X-Feedback-Url` as it came",
                code="feedback_url_invalid",
            )
        if grant.expires < time.time():
            raise RefusalError(403, "the feedback URL has expired", code="feedback_url_expired")

    def _signature(self, grant: FeedbackGrant) -> str:
        # As JSON, so that no two grants have the same text.
        text = json.dumps([grant.interaction_ids, [kind.value for kind in grant.kinds], grant.expires])
        return hmac.new(self._secret, text.encode(), hashlib.sha256).hexdigest()


def _beyond(what: str, allowed: Iterable[str]) -> RefusalError:
    message = f"this feedback URL does not allow {what}, only: {', '.join(allowed)}"
    return RefusalError(403, message, code="feedback_url_beyond")
