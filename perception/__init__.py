"""A real-time perception node: camera frames in, road, lane and pedestrian masks with stable ids out.

Import what you need from its rooms: `perception.client` to subscribe, `perception.types` for the nouns.
Nothing is imported here, so that `import perception.client` stays quick on a small robot.
"""

__version__ = "0.1.0"
