"""The schemas of a recording's channels: Foxglove's well-known ones in protobuf, and ours."""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

import msgspec

from perception.drives.layout import Decision

COMPRESSED_IMAGE, RAW_IMAGE = "foxglove.CompressedImage", "foxglove.RawImage"
CAMERA_CALIBRATION, IMAGE_ANNOTATIONS = "foxglove.CameraCalibration", "foxglove.ImageAnnotations"
DECISION = "perception.Decision"
SCHEMAS = (COMPRESSED_IMAGE, RAW_IMAGE, IMAGE_ANNOTATIONS, CAMERA_CALIBRATION, DECISION)


def message_type(name: str) -> Any:
    """The protobuf class of a Foxglove schema, like "foxglove.RawImage"."""
    short = name.removeprefix("foxglove.")
    return getattr(importlib.import_module(f"foxglove_schemas_protobuf.{short}_pb2"), short)


@cache
def schema_of(name: str) -> tuple[str, bytes]:
    """Encoding and content of a schema, as MCAP's schema record holds them."""
    if name.startswith("foxglove."):
        return "protobuf", _descriptors(message_type(name))
    if name == DECISION:
        # not msgspec.json.schema: viewers want "type": "object" at the top, not a reference to it
        return "jsonschema", msgspec.json.encode(msgspec.json.schema_components([Decision])[1]["Decision"])
    raise KeyError(name)


def _descriptors(message: Any) -> bytes:
    """A FileDescriptorSet of a message's file and all that it imports, the imported ones first."""
    from google.protobuf.descriptor_pb2 import FileDescriptorSet

    found, seen = FileDescriptorSet(), set()

    def add(file: Any) -> None:
        if file.name not in seen:
            seen.add(file.name)
            for imported in file.dependencies:
                add(imported)
            file.CopyToProto(found.file.add())

    add(message.DESCRIPTOR.file)
    return found.SerializeToString()
