"""Write the golden messages and their readable twins: `python tests/golden_wire.py`, then review the diff.

Only the raw ones are compared byte for byte: compressed bytes may differ between versions of a compressor.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from perception import wire
from perception.wire import control

HERE = Path(__file__).parent / "golden" / "wire"
CONTROL = HERE.parent / "control"
RUN = "0b6f2c1e-5d0a-4f6e-9d57-3f0c5a1e7b42"
CLASSES = ("sky", "building", "pole", "road", "lane marking", "sidewalk", "pedestrian")
TRACKS = (
    wire.TrackRow(7, "pedestrian", "confirmed", 0.875, (2, 1, 5, 4), 1_000_000_000, 1_500_000_000),
    wire.TrackRow(300, "pedestrian", "tentative", 0.5, (12, 0, 19, 3), 1_466_666_667, 1_500_000_000, False, 0.625),
)
OBJECT = wire.TrackRow(301, "object", "confirmed", 1.0, (2, 1, 5, 4), 1_500_000_000, 0, False, 0.75, True)
EVENTS = (
    wire.EventRow(7, "pedestrian", "confirmed", "seen 3 times", 1_066_666_667, 1),
    wire.EventRow(300, "pedestrian", "tentative", "first seen", 1_466_666_667, 2),
)


def header(**more: Any) -> wire.Header:
    plain: dict[str, Any] = {
        "run": RUN,
        "camera": "front",
        "clock": "drive",
        "frame_width": 190,
        "frame_height": 50,
        "roi": (0, 0, 190, 50),
        "validity": "observed",
        "model": "00112233445566ff",
    }
    return wire.Header(**{**plain, **more})


def road() -> np.ndarray:
    """A 19x5 trapezium: a width that is no multiple of eight, so that the padding of rows shows."""
    y, x = np.mgrid[:5, :19]
    return np.abs(x - 9) <= 2 * y


def positions() -> np.ndarray:
    mask = np.zeros((5, 19), np.uint16)
    mask[1:4, 2:5] = 1
    mask[0:3, 12:19] = 2
    return mask


def labels() -> np.ndarray:
    mask = np.where(road(), 3, 0).astype(np.uint8)
    mask[positions() > 0] = 6
    mask[4, 0] = 255
    return mask


HEALTH = wire.Health(
    run=RUN,
    seq=41,
    monotonic_ns=5_000_000_000,
    boot_id="6c1d7f0e-2f57-4a2e-8a3e-0d6f1b9f7a11",
    clock="drive",
    wall_offset_ns=1_700_000_000_000_000_000,
    drive_offset_ns=3_400_000_000,
    state="running",
    source=wire.SourceRow("running", "", 46, 1, 0, 0),
    rate_hz=29.97,
    last_frame_seq=45,
    last_frame_age_ms=12.5,
    published={"front/road": 45},
    validity={"front/road": "observed"},
    engine="onnxruntime",
    model="fast",
    stages={"network": wire.StageRow(14.5, 20.25)},
    subscribers=2,
    engine_reason="tensorrt-fp16 is building",
    engines=(
        wire.EngineRow("tensorrt-fp16", "building", what="network: tactics", done=3, of=10),
        wire.EngineRow("onnxruntime-cuda", "failed", "out of memory; tried again in 2 s", demotions=1, retry_s=1.5),
        wire.EngineRow("onnxruntime", "serving", step_ms=14.5),
    ),
)


def messages() -> dict[str, bytes]:
    """Every golden message by its name."""
    at: dict[str, Any] = {"seq": 41, "frame_seq": 45, "stamp_ns": 1_500_000_000}
    kinds = {
        "bits": ("front/road", header(classes=("road", "lane marking")), wire.Kind.BITS, road()),
        "positions": (
            "front/pedestrian",
            header(classes=("pedestrian",), tracks=TRACKS),
            wire.Kind.POSITIONS,
            positions(),
        ),
        "labels": ("front/panoptic", header(classes=CLASSES), wire.Kind.LABELS, labels()),
    }
    found = {
        f"{name}-{encoding}": wire.encode(*parts, **at, encoding=encoding)
        for name, parts in kinds.items()
        for encoding in wire.ENCODINGS
    }
    told = header(classes=("pedestrian",), tracks=TRACKS, events=EVENTS[1:], validity="degraded", reason="dark image")
    found["tracks-raw"] = wire.encode("front/tracks", told, wire.Kind.TRACKS, None, **at, size=(19, 5))
    repeated = header(classes=("pedestrian",), events=EVENTS)
    found["events-raw"] = wire.encode("front/events", repeated, wire.Kind.TRACKS, None, **at, size=(19, 5))
    pointed_at = header(classes=("object",), tracks=(OBJECT,), validity="propagated", since_network=1)
    one = (positions() == 1).astype(np.uint16)
    found["prompted-raw"] = wire.encode("front/prompted", pointed_at, wire.Kind.POSITIONS, one, **at, encoding="raw")
    found["health-raw"] = wire.encode("front/health", header(), wire.Kind.HEALTH, HEALTH, **at)
    return found


def requests() -> dict[str, bytes]:
    """Requests to a node and its replies, by name."""
    row = control.MaskRow(19, 5, np.packbits(road(), axis=1).tobytes())
    live = control.LiveRow(17, "object", "confirmed", (600, 380, 680, 450), 0.875, True)
    asked = {
        "prompt-box": control.PromptRequest(box=(600.0, 380.0, 680.5, 450.0), class_name="pedestrian", frame_seq=45),
        "prompt-points": control.PromptRequest(points=((640.0, 400.0), (650.0, 420.0))),
        "prompt-mask": control.PromptRequest(mask=row),
        "remove": control.RemoveRequest(17),
        "relabel": control.RelabelRequest(17, "pedestrian"),
        "tracks": control.TracksRequest(),
        "play-pause": control.PlayRequest(pause=True),
        "play-seek": control.PlayRequest(step=True, seek_s=12.5, speed=0.5),
    }
    told = {
        "reply-prompt": control.Reply(True, camera="front", frame_seq=46, track_id=17, box=(600, 380, 680, 450)),
        "reply-tracks": control.Reply(True, camera="front", frame_seq=46, tracks=(live,)),
        "reply-play": control.Reply(True, camera="front", play=control.PlayRow(True, 0.5, 12.5, 10.0, 20.0)),
        "reply-error": control.Reply(False, "track 99 does not live", camera="front", frame_seq=46),
    }
    found = {name: control.encode_request(request) for name, request in asked.items()}
    return found | {name: control.encode_reply(reply) for name, reply in told.items()}


def twin(data: bytes) -> str:
    """What a message says, for people: JSON, the pixels as rows of numbers."""
    message = wire.decode(data)
    fixed = {name: getattr(message, name) for name in ("topic", "seq", "frame_seq", "stamp_ns", "width", "height")}
    fixed |= {"kind": message.kind.name, "encoding": message.encoding, "bytes": len(data)}
    found: dict[str, Any] = {"fixed": fixed, "header": msgspec.to_builtins(message.header)}
    if message.kind is wire.Kind.HEALTH:
        found["health"] = msgspec.to_builtins(message.health())
    elif message.raw_size:
        found["pixels"] = [" ".join(str(int(value)) for value in row) for row in message.mask()]
    if message.encoding == "raw":
        found["hex"] = data.hex(" ", 1)
    return json.dumps(found, indent=1) + "\n"


if __name__ == "__main__":
    for name, data in messages().items():
        (HERE / f"{name}.bin").write_bytes(data)
        (HERE / f"{name}.json").write_text(twin(data))
    CONTROL.mkdir(exist_ok=True)
    for name, data in requests().items():
        (CONTROL / f"{name}.bin").write_bytes(data)
