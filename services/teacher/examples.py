"""What the OpenAPI document shows of bodies that FastAPI cannot derive from a signature."""

from typing import Any, Final

from shared.adapters.content_digest import HEADER as CONTENT_DIGEST
from shared.contracts.architectures import Mlp
from shared.contracts.images import ImageInput
from shared.contracts.teachers import (
    DIGEST_HEADER,
    MOST_ROWS_HEADER,
    PRECISION_HEADER,
    SAFETENSORS_MEDIA_TYPE,
    TEMPERATURE_HEADER,
    Nets,
    SoftTargets,
    TeacherView,
)

NAME_EXAMPLE: Final = "mnist-cumbersome"

_DIGEST = "0d2b5c0fb8f1b7a0a6b1f2f37c0e7f0a9cbbf1e4a2f7f4f1c0c7c1f0b7e6a5d4"
_CLASSES = ("zero", "one", "two")
_LOGITS = [[2.0, -0.5, -1.5]]
_PROBABILITIES = [[0.8991, 0.0738, 0.0271]]

_BINARY: Final[dict[str, Any]] = {"schema": {"type": "string", "format": "binary"}}


def _header(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "schema": schema, "required": True}


_DIGEST_HEADER: Final = _header("`sha-256=:…:` of the body (RFC 9530)", {"type": "string"})

MULTIPART_BODY: Final[dict[str, Any]] = {
    "schema": {
        "type": "object",
        "required": ["images"],
        "additionalProperties": False,
        "properties": {
            "images": {
                "type": "array",
                "minItems": 1,
                "items": {"type": "string", "format": "binary"},
                "description": "PNG, JPEG or WebP files, one or many",
            }
        },
    },
    "encoding": {"images": {"contentType": "image/png, image/jpeg, image/webp"}},
}

SAFETENSORS_BODY: Final[dict[str, Any]] = {
    "schema": {
        **_BINARY["schema"],
        "description": "A safetensors file with one tensor `images`: uint8, N x height x width x channels",
    }
}

SOFT_TARGETS_RESPONSE: Final[dict[str, Any]] = {
    "model": SoftTargets,
    "description": "Softened logits z/T, one row an image, each with zero mean",
    "headers": {
        DIGEST_HEADER: _header("Of the teacher that answered", {"type": "string"}),
        TEMPERATURE_HEADER: _header("T, as it was used", {"type": "number"}),
        PRECISION_HEADER: _header(
            "Of the products inside the net", {"type": "string", "enum": ["float32", "bfloat16"]}
        ),
        MOST_ROWS_HEADER: _header("Most images one request may carry", {"type": "integer"}),
        CONTENT_DIGEST: _DIGEST_HEADER,
    },
    "content": {
        "application/json": {
            "example": SoftTargets(
                teacher=NAME_EXAMPLE,
                digest=_DIGEST,
                temperature=4.0,
                classes=_CLASSES,
                logits=_LOGITS,
                probabilities=_PROBABILITIES,
            ).model_dump(mode="json")
        },
        SAFETENSORS_MEDIA_TYPE: {
            "schema": {
                **_BINARY["schema"],
                "description": "Tensors `logits` and, if asked for, `probabilities`: N x classes. The "
                "metadata has `teacher`, `digest`, `temperature` and `classes` (JSON)",
            }
        },
    },
}

VIEW_RESPONSE: Final[dict[str, Any]] = {
    "headers": {CONTENT_DIGEST: _DIGEST_HEADER},
    "content": {
        "application/json": {
            "example": TeacherView(
                name=NAME_EXAMPLE,
                digest=_DIGEST,
                classes=_CLASSES,
                input=ImageInput(height=28, width=28, channels=1),
                model=Nets(architecture=Mlp(hidden_units=(1200, 1200))),
                tempers=True,
                test_accuracy=0.9933,
                device="cpu",
                precision="float32",
                most_rows=8192,
            ).model_dump(mode="json")
        }
    },
}
