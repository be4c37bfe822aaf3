"""What can go wrong, told by type: whose fault is it, and will trying again help?

SlicewatchError
├── InvalidRequest          the caller's fault; the same request fails again   (422)
│   ├── NothingDecoded      every row of the body was refused                  (422)
│   ├── TooLarge            over a limit named in the answer                   (413)
│   ├── UnsupportedMedia    a content type or coding that is not taken         (415)
│   ├── Unauthorized        no such key                                        (401)
│   ├── Forbidden           the key lacks the scope                            (403)
│   ├── NotFound            no such object, or someone else's                  (404)
│   └── Conflict            it contradicts what is there                       (409)
├── TryLater                nobody's fault; the same request will pass         (503)
│   ├── RateLimited         this tenant is over its rate                       (429)
│   └── OutOfStep           the log goes on behind what its writer has folded
├── Damaged                 stored bytes fail their check; a person must look
│   └── DamagedEntry        of one tenant's entry: that tenant stops
└── StorageFailed           the disk or the database failed; the process must end (exit 74)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from service.ingest.events import Rejected


class SlicewatchError(Exception):
    """Root of all that Slicewatch raises on purpose."""


class InvalidRequest(SlicewatchError):
    """The caller's fault: the message names the field and the problem, never the value."""

    status = 422
    title = "Unprocessable content"

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class NothingDecoded(InvalidRequest):
    """Rows were found and each was refused; they are carried along to be counted and kept."""

    def __init__(self, detail: str, rejected: Sequence[Rejected]) -> None:
        super().__init__(detail)
        self.rejected = tuple(rejected)


class UnsupportedMedia(InvalidRequest):
    """A content type or content coding that is not taken."""

    status = 415
    title = "Unsupported media type"


class TooLarge(InvalidRequest):
    """A body or collection over its limit."""

    status = 413
    title = "Content too large"


class Unauthorized(InvalidRequest):
    """No live key with this id and secret."""

    status = 401
    title = "Unauthorized"


class Forbidden(InvalidRequest):
    """The key is live and lacks the scope."""

    status = 403
    title = "Forbidden"


class NotFound(InvalidRequest):
    """No such object for this tenant."""

    status = 404
    title = "Not found"


class Conflict(InvalidRequest):
    """The request contradicts what is stored."""

    status = 409
    title = "Conflict"


class TryLater(SlicewatchError):
    """Nothing is wrong with the request; send it again after `retry_after_seconds`."""

    status = 503
    title = "Service unavailable"

    def __init__(self, detail: str, retry_after_seconds: int = 1) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after_seconds = retry_after_seconds


class RateLimited(TryLater):
    """This tenant is over its rate; others are not affected."""

    status = 429
    title = "Too many requests"


class OutOfStep(TryLater):
    """The log has entries that its writer has not folded: it must read them first."""


class Damaged(SlicewatchError):
    """Stored bytes fail their check. Never skipped in silence."""


class DamagedEntry(Damaged):
    """One entry of one tenant fails its check; what others have before and behind it is whole."""

    def __init__(self, offset: int, tenant: str) -> None:
        super().__init__(f"journal: entry {offset} of tenant {tenant!r} is damaged")
        self.offset = offset
        self.tenant = tenant


class StorageFailed(SlicewatchError):
    """A commit failed for I/O. It is never retried: the process ends with exit code 74."""
