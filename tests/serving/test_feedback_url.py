from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from online_trl.serving.errors import RefusalError
from online_trl.serving.feedback_url import FeedbackGrant, FeedbackUrls
from online_trl.serving.settings import ServerSettings
from online_trl.store import FeedbackStore
from online_trl.types import Feedback, FeedbackKind

BASE = "http://localhost:8000/"
ALL_KINDS = [kind.value for kind in FeedbackKind]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FeedbackStore]:
    with FeedbackStore(f"sqlite:///{tmp_path}/feedback.db") as store:
        yield store


def urls(store: FeedbackStore, **settings: Any) -> FeedbackUrls:
    return FeedbackUrls(store.keys, ServerSettings(**settings))


def read(url: str | None) -> tuple[FeedbackGrant, str]:
    """Returns what a URL says, and its signature."""
    assert url is not None
    query = parse_qsl(urlsplit(url).query)
    fields = dict(query)
    grant = FeedbackGrant(
        interaction_ids=tuple(value for name, value in query if name == "interaction"),
        kinds=tuple(FeedbackKind(value) for name, value in query if name == "kind"),
        expires=int(fields["expires"]),
    )
    return grant, fields["signature"]


def thumb(**fields: Any) -> Feedback:
    return Feedback(
        **{"kind": FeedbackKind.BINARY, "interaction_ids": ["i-1"], "value": True, "user_id": "ada"} | fields
    )


def test_url_says_what_it_allows(store: FeedbackStore):
    url = urls(store, feedback_url_seconds=60).url(["i-1", "i-2"], base_url=BASE)
    assert url is not None
    grant, signature = read(url)
    assert url.startswith("http://localhost:8000/v1/signed-feedback?interaction=i-1&interaction=i-2&kind=binary&")
    assert grant.interaction_ids == ("i-1", "i-2")
    assert [kind.value for kind in grant.kinds] == ALL_KINDS
    assert 58 <= grant.expires - time.time() <= 60
    assert len(signature) == 64


def test_url_for_one_answer_does_not_allow_what_takes_several(store: FeedbackStore):
    grant, _ = read(urls(store).url(["i-1"], base_url=BASE))
    assert [kind.value for kind in grant.kinds] == ["binary", "rating", "correction", "implicit"]


def test_no_url_is_signed_that_would_allow_nothing(store: FeedbackStore):
    signed = urls(store, feedback_url_kinds=[FeedbackKind.COMPARISON, FeedbackKind.RANKING])
    assert signed.url(["i-1"], base_url=BASE) is None
    assert read(signed.url(["i-1", "i-2"], base_url=BASE))[0].kinds == (FeedbackKind.COMPARISON, FeedbackKind.RANKING)


def test_settings_choose_the_kinds_and_the_address(store: FeedbackStore):
    chosen = urls(store, feedback_url_kinds=[FeedbackKind.BINARY], public_url="https://chat.example.org")
    url = chosen.url(["i-1"], base_url=BASE)
    assert url is not None
    assert url.startswith("https://chat.example.org/v1/signed-feedback?")
    assert read(url)[0].kinds == (FeedbackKind.BINARY,)


def test_url_is_good_at_every_server_on_the_log_and_at_no_other(store: FeedbackStore, tmp_path: Path):
    grant, signature = read(urls(store).url(["i-1"], base_url=BASE))
    with FeedbackStore(store.url) as same:
        urls(same).check(grant, signature)
    with FeedbackStore(f"sqlite:///{tmp_path}/other.db") as other, pytest.raises(RefusalError) as caught:
        urls(other).check(grant, signature)
    assert (caught.value.status_code, caught.value.code) == (403, "feedback_url_invalid")


TAMPERED: dict[str, dict[str, Any]] = {
    "another interaction": {"interaction_ids": ("i-2",)},
    "one more interaction": {"interaction_ids": ("i-1", "i-2")},
    "one more kind": {"kinds": (FeedbackKind.BINARY, FeedbackKind.RATING)},
    "later": {"expires": 99_999_999_999},
}


@pytest.mark.parametrize("change", TAMPERED.values(), ids=TAMPERED.keys())
def test_changed_grant_is_refused(store: FeedbackStore, change: dict[str, Any]):
    signed = urls(store, feedback_url_kinds=[FeedbackKind.BINARY])
    grant, signature = read(signed.url(["i-1"], base_url=BASE))
    fields = {"interaction_ids": grant.interaction_ids, "kinds": grant.kinds, "expires": grant.expires} | change
    with pytest.raises(RefusalError, match="signature does not fit"):
        signed.check(FeedbackGrant(**fields), signature)


@pytest.mark.parametrize("signature", ["", "0" * 64, "ü"])
def test_made_up_signature_is_refused(store: FeedbackStore, signature: str):
    grant, _ = read(urls(store).url(["i-1"], base_url=BASE))
    with pytest.raises(RefusalError, match="signature does not fit"):
        urls(store).check(grant, signature)


def test_url_expires(store: FeedbackStore, monkeypatch: pytest.MonkeyPatch):
    signed = urls(store, feedback_url_seconds=60)
    grant, signature = read(signed.url(["i-1"], base_url=BASE))
    monkeypatch.setattr(time, "time", lambda: grant.expires)
    signed.check(grant, signature)
    monkeypatch.setattr(time, "time", lambda: grant.expires + 1)
    with pytest.raises(RefusalError) as caught:
        signed.check(grant, signature)
    assert (caught.value.status_code, caught.value.code) == (403, "feedback_url_expired")


def test_grant_allows_its_answers_and_kinds_only():
    grant = FeedbackGrant(interaction_ids=("i-1",), kinds=(FeedbackKind.BINARY,), expires=0)
    grant.check([thumb(), thumb(value=False)])
    with pytest.raises(RefusalError, match="does not allow feedback on 'i-2', only: i-1"):
        grant.check([thumb(), thumb(interaction_ids=["i-2"])])
    with pytest.raises(RefusalError, match="does not allow feedback of kind `implicit`, only: binary"):
        grant.check([thumb(kind=FeedbackKind.IMPLICIT, value="copy")])
