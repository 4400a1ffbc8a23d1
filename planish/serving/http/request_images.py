"""The image files in a request, in any of the supported forms. The content decides, as many clients send a wrong ``Content-Type``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from PIL import Image, UnidentifiedImageError

from planish.data.preprocessing import FORMATS
from planish.errors import DataError
from planish.serving.http.base64_text import image_file
from planish.serving.http.errors import RefusedError
from planish.serving.http.image_json import images_in_json
from planish.serving.http.multipart import Field, read_form

Image.init()
IMAGE_TYPES = tuple(sorted(Image.MIME[name] for name in FORMATS if name in Image.MIME))
JSON, FORM, URL_FORM = "application/json", "multipart/form-data", "application/x-www-form-urlencoded"
_KNOWN = (*IMAGE_TYPES, "image/jpg", "image/*", "application/octet-stream", "binary/octet-stream", "text/plain", JSON, FORM, URL_FORM, "")
ACCEPTED = f"an image file ({', '.join(one.removeprefix('image/') for one in IMAGE_TYPES)}), {FORM} with files, or {JSON} with base64"
_OPTIONS = ("threshold", "version", "why")  # options that belong in the URL
_URL_FORM_BODY = re.compile(rb"[\w.\-\[\]]{1,64}=[^=]")
_JSON_HEADS = (b"{", b"[", b'"')


@dataclass(frozen=True)
class RequestImages:
    """The images of a request.

    Args:
        files: image files, at least one, not yet decoded.
        several: whether they were a list or several files; the response is then a list, too.
        content_type: the request's content type, without parameters.
    """

    files: list[bytes]
    several: bool
    content_type: str

    def refusal(self, number: int, error: DataError) -> Exception:
        """Return the error to raise for a file that could not be decoded: 415 if it is not an image and its type is not supported.

        Args:
            number: index of the file, from 0.
            error: error of the decoder.
        """
        message = f"image {number + 1}: {error}" if self.several else str(error)
        if isinstance(error.__cause__, UnidentifiedImageError) and self.content_type not in _KNOWN:
            return unsupported(self.content_type, message)
        hint = "send the file with curl --data-binary @FILE; -d changes it" if self.content_type == URL_FORM else ""
        return DataError(message, hint)


def read_images(body: bytes, content_type: str, max_images: int) -> RequestImages:
    """Return the images in a request's body. Large bodies are slow; call this in a thread.

    Args:
        body: not empty.
        content_type: the header; empty if there is none.
        max_images: maximum number of images per request.

    Raises:
        DataError: there are no images, too many, or the form or JSON is damaged.
        RefusedError: 415, images are not accepted in this form.
    """
    kind = content_type.partition(";")[0].strip().lower()
    head = body[:64].lstrip(b" \t\r\n\xef\xbb\xbf")
    if kind == FORM or re.match(rb"--[^\r\n]{1,200}\r\ncontent-disposition: *form-data", body[:300], re.IGNORECASE):
        files, several = _form_files(read_form(body, content_type), max_images)
    elif kind.startswith("multipart/"):
        raise unsupported(kind)
    elif head.startswith(_JSON_HEADS):
        files, several = images_in_json(body, max_images)
    elif kind == URL_FORM and _URL_FORM_BODY.match(body):
        raise unsupported(kind)
    else:
        files, several = [image_file(body)], False
    return RequestImages(files, several, kind)


def unsupported(kind: str, message: str = "") -> RefusedError:
    """Return a 415 error that lists what is accepted."""
    return RefusedError(415, f"{message} Content-Type {kind[:50]!r} is not supported; send {ACCEPTED}".lstrip(), {"Accept": _ACCEPT})


def _form_files(fields: list[Field], max_images: int) -> tuple[list[bytes], bool]:
    if options := [field.name for field in fields if field.name in _OPTIONS and not field.is_file]:
        raise DataError(f"the form has the field {options[0]!r}", f"options go into the address, as in /predict?{options[0]}=...")
    files = [field for field in fields if field.is_file] or fields  # web pages send data URLs as plain fields
    if not files:
        raise DataError("the form is empty", "it has one or more files: curl -F file=@photo.jpg")
    if len(files) > max_images:
        raise DataError(f"{len(files)} images", f"a request may bring {max_images}", "send several requests")
    for field in files:
        if not field.data:
            raise DataError(f"the file {field.file_name or field.name!r} is empty", "choose one before the form is sent")
    return [image_file(field.data) for field in files], len(files) > 1


_ACCEPT = ", ".join((*IMAGE_TYPES, FORM, JSON))
