"""Why nothing of a topic comes though a node is there: a mistyped name looks like a node that is dead."""

from __future__ import annotations

from collections.abc import Iterable

from perception.wire import Health, valid_topic

ON_DEMAND = ("image", "prompted")  # sent while somebody subscribes, so that health may never have counted them
_MOST_NAMED = 16


def absence_of(topics: Iterable[str], health: Health | None, is_silent: bool) -> str:
    """What the node does not have of `topics` ("front/road", "front/*"), in a line without its end; "" where it may.

    Args:
        health: the node's last word; None where none came, which every node says at once to who asks for its camera.
        is_silent: somebody is there, and sent nothing at all.
    """
    exact = [topic for topic in topics if not topic.endswith("*")]
    if health is not None:
        return _absent_topics(exact, health)
    cameras = list(dict.fromkeys(topic.partition("/")[0] for topic in topics if topic != "*"))
    if not is_silent or not cameras:
        return ""
    return f"nothing of camera {' or '.join(map(repr, cameras))} came: is it called so there?"


def _absent_topics(topics: list[str], health: Health) -> str:
    """All but those ON_DEMAND are sent with every frame, so what was never sent after one is not there."""
    has = [topic for topic in health.published if valid_topic(topic) and not topic.endswith("/health")]
    cameras = {topic.partition("/")[0] for topic in has}
    made = {f"{camera}/{name}" for camera in cameras for name in ON_DEMAND}
    absent = [t for t in topics if t.partition("/")[0] in cameras and t not in {*health.published, *made}]
    if not absent:
        return ""
    near = dict.fromkeys(found for topic in absent for found in _near(topic, [*has, *sorted(made)]))
    shown = ", ".join(has[:_MOST_NAMED]) + (", ..." if len(has) > _MOST_NAMED else "")
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
    return f"the node there has no {', '.join(absent)}; it has {shown}{hint}"


def _near(topic: str, known: list[str]) -> list[str]:
    """The topic of the same camera that was probably meant: the camera's name makes any two of its topics alike."""
    import difflib  # here, because it takes milliseconds that no other start needs

    camera, _, name = topic.partition("/")
    names = [other.partition("/")[2] for other in known if other.startswith(f"{camera}/")]
    return [f"{camera}/{found}" for found in difflib.get_close_matches(name, names, 1)]
