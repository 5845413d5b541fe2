"""A log by its URL, wherever it is."""

from __future__ import annotations

from .log import FeedbackStore
from .remote import PATIENCE, RemoteStore, is_server_url


def open_store(url: str, *, patience: float = PATIENCE) -> FeedbackStore | RemoteStore:
    """
    Opens a log to read it: the database itself, or through the server before it.

    Args:
        url (`str`):
            `sqlite:///…` or `postgresql://…`, as for [`FeedbackStore`], or `http://…` or `https://…`, as for
            [`RemoteStore`], which takes its key from the environment.
        patience (`float`, *optional*, defaults to `300.0`):
            As for [`RemoteStore`].

    Raises:
        [`StoreError`]: if the URL is of another kind, or the database cannot be opened. A server is first asked when
            something is read.

    Example:

    ```python
    with open_store("https://chat.example.org") as store:
        batch = read_preferences(store, after=0, upto=store.latest_seq())
    ```
    """
    return RemoteStore(url, patience=patience) if is_server_url(url) else FeedbackStore(url)
