"""The plainest forms of images, as browsers, curl and HTTP libraries write them, read in one go.

Whatever is unusual, or wrong, is left to `services.gateway.parts`, whose word is the last.
"""

import re

from shared.serving.images import EncodedImage

_MOST_HEAD_BYTES = 512
"""Of the lines before an image."""
_BOUNDARY = re.compile(rb"multipart/form-data; ?boundary=([0-9A-Za-z'_-]{1,70})")
_LINES = re.compile(
    rb'\r\nContent-Disposition: form-data; name="[\w.\[\]-]{1,64}"'
    rb'(?:; filename="(?P<file>[\w. ()-]{1,255})")?'
    rb"(?:\r\nContent-Type: [\w./+-]+)?",
    re.IGNORECASE | re.ASCII,
)


def plain_form(
    media_type: bytes, data: bytes, *, most_images: int, most_bytes: int
) -> list[EncodedImage] | None:
    """Return the images of a plain form in their order, or None for anything else.

    Args:
        media_type: of the request, with the boundary.
        data: the whole body.
        most_images: with more, the form is not for here.
        most_bytes: the same of one image.
    """
    found = _BOUNDARY.fullmatch(media_type)
    if found is None:
        return None
    limit = b"\r\n--" + found[1]
    start = len(limit) - 2
    end = len(data) - (2 if data.endswith(b"--\r\n") else 0) - len(limit) - 2
    if end < start or not data.startswith(limit[2:]) or data[end : end + len(limit) + 2] != limit + b"--":
        return None
    parts = data[start:end].split(limit, most_images)
    if len(parts) > most_images:
        return None
    images = []
    for part in parts:
        head_ends = part.find(b"\r\n\r\n", 0, _MOST_HEAD_BYTES)
        lines = None if head_ends < 0 else _LINES.fullmatch(part, 0, head_ends)
        if lines is None or len(part) - head_ends - 4 > most_bytes:
            return None
        file = lines["file"]
        images.append(EncodedImage(part[head_ends + 4 :], None if file is None else file.decode("ascii")))
    return images
