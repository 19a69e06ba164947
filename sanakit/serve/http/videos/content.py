"""A stored file as an answer, whole or a range of it, so that players can seek and downloads go on.

Source: RFC 9110, 14. One range of bytes is answered; for several, or what cannot be read, the whole file is
sent, as it allows. Files have no validators, so a range with If-Range is never known to be of this file.
"""

from __future__ import annotations

import re

from starlette.datastructures import Headers
from starlette.responses import Response

from sanakit.serve.http.failures import Failure, FailureError

_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")


def content(data: bytes, media_type: str, headers: Headers) -> Response:
    """Return the answer to a request for a file. headers: of the request.

    Raises FailureError (416) for a range that begins behind its end.
    """
    shared = {"Accept-Ranges": "bytes", "Cache-Control": "private, max-age=31536000, immutable"}
    found = _RANGE.fullmatch(headers.get("range", "").strip())
    if found is None or found.group(1, 2) == ("", "") or "if-range" in headers:
        return Response(data, headers=shared, media_type=media_type)
    if found[1]:
        start, last = int(found[1]), int(found[2] or len(data))
    else:  # the last so many bytes
        start, last = max(0, len(data) - int(found[2])), len(data)
    if found[1] and found[2] and last < start:  # not a range
        return Response(data, headers=shared, media_type=media_type)
    if start >= len(data):
        raise FailureError(
            Failure(
                status=416,
                message=f"The file has {len(data)} bytes, and none from {start} on.",
                code="range_not_satisfiable",
                headers={"Content-Range": f"bytes */{len(data)}"},
            )
        )
    last = min(last, len(data) - 1)
    told = {"Content-Range": f"bytes {start}-{last}/{len(data)}"}
    return Response(data[start : last + 1], 206, shared | told, media_type)
