"""A drive that the package makes itself: seeded, endless, with exact truth per frame."""

from perception.drives.rendered.drive import RenderedDrive, nominal_camera
from perception.drives.rendered.export import write_clips, write_training_frames
from perception.drives.rendered.truth import CLASS_NAMES, ActorTruth, EgoPose, RenderedFrame, Truth

__all__ = [
    "CLASS_NAMES",
    "ActorTruth",
    "EgoPose",
    "RenderedDrive",
    "RenderedFrame",
    "Truth",
    "nominal_camera",
    "write_clips",
    "write_training_frames",
]
