"""Camera, network and grouping as one graph."""

from __future__ import annotations

import onnx
from onnx import compose, helper, shape_inference

from perception.errors import ModelError
from perception.models.card import ModelFiles
from perception.models.compiled import CONFIDENCE, FRAME, INSTANCES, LABELS, LOOKS, SEGMENTS
from perception.models.grouping import MOST
from perception.models.lowering.arrays import FLOAT, ROOM, UINT8, Tensor, Writer
from perception.models.lowering.camera import prepared
from perception.models.lowering.looks import looks
from perception.models.lowering.merging import Grouped, Seen, grid_of, grouped
from perception.models.lowering.network import load_network
from perception.models.lowering.precision import drop_unused

PREFIX = "network/"  # of everything that is the network's own
Shape = tuple[int, ...]


def lower(files: ModelFiles, camera: tuple[int, int]) -> onnx.ModelProto:
    """The whole way of a frame as one graph in float32.

    Args:
        files: the model; an int8 graph is taken back to float first.
        camera: width and height of its frames [px].

    Returns:
        A graph from `frame`, uint8 (1, h, w, 3) RGB, to `labels` and, for a panoptic model, `instances`, uint8
        (1, H, W), and `segments`, float32 (1, 200, 3): class, score and area of instance k in row k - 1, area 0 where
        there is none; and, where the network has them, `confidence`, uint8 (1, 1, h', w'), the features, and
        `looks`, float32 (1, 200, d), of the segments.

    Raises:
        ModelError: a shape is open, or the graph is not what the card says.
    """
    model = load_network(files.graph.read_bytes(), files.graph.name)
    part = _Network(model, files, camera)
    labels, size = part.labels()
    confidence = part.confidence()
    if files.card.kind == "panoptic":
        done = part.grouped(labels, size, confidence)
        labels = done.labels
        part.give_bytes(done.instances, INSTANCES, (1, *size))
        part.writer.give(done.segments, SEGMENTS, FLOAT, (1, MOST, 3))
        part.give_looks(done.instances, size)
    part.give_bytes(labels, LABELS, (1, *size))
    if confidence is not None:
        part.give_bytes(confidence[0], CONFIDENCE, (1, 1, *confidence[1]))
    part.give_features()
    return part.finished()


def lower_encoder(files: ModelFiles, camera: tuple[int, int]) -> onnx.ModelProto:
    """`frame` to the features alone, for frames that the whole network skips.

    Raises:
        ModelError: the card names no encoder, a shape is open, or the graph is not what the card says.
    """
    if files.encoder is None:
        raise ModelError(f"{files.name}: its card has no [encoder]")
    part = _Network(load_network(files.encoder.read_bytes(), files.encoder.name), files, camera)
    part.give_features()
    return part.finished()


def lower_propagator(files: ModelFiles) -> onnx.ModelProto:
    """The memory reader with constants folded; its inputs and outputs stay as they are.

    Raises:
        ModelError: the card names no propagator, or a shape is open.
    """
    if files.propagator is None:
        raise ModelError(f"{files.name}: its card has no [propagator]")
    return load_network(files.propagator.read_bytes(), files.propagator.name)


class _Network:
    """A network's graph that gets a camera in front and other outputs behind."""

    def __init__(self, model: onnx.ModelProto, files: ModelFiles, camera: tuple[int, int]) -> None:
        self.card, self.name = files.card, files.graph.name
        self.shapes = {v.name: _shape(v) for v in (*model.graph.output, *model.graph.input)}
        self._is_bytes = {v.name for v in model.graph.output if v.type.tensor_type.elem_type == UINT8}
        self._check_input(model.graph)
        takes_bytes = model.graph.input[0].type.tensor_type.elem_type == UINT8
        self.model = compose.add_prefix(model, PREFIX)
        self.writer = Writer(self.model.graph, ROOM)
        self._feed(camera, takes_bytes)
        del self.model.graph.output[:]

    def _check_input(self, graph: onnx.GraphProto) -> None:
        wanted, names = self.card.input, [v.name for v in graph.input]
        if names != [wanted.name]:
            raise ModelError(f"{self.name}: inputs are {', '.join(names)}; the card says input.name = {wanted.name!r}")
        h, w = wanted.height, wanted.width
        shape = (1, 3, h, w) if wanted.layout == "NCHW" else (1, h, w, 3)
        if self.shapes[wanted.name] != shape:
            raise ModelError(f"{self.name}: input {wanted.name} is {self.shapes[wanted.name]}; the card says {shape}")

    def _feed(self, camera: tuple[int, int], takes_bytes: bool) -> None:
        """The camera's nodes go before the network's, whose input becomes what they give."""
        graph, (width, height) = self.model.graph, camera
        own, fed = list(graph.node), PREFIX + self.card.input.name
        del graph.node[:], graph.input[:]
        graph.input.append(helper.make_tensor_value_info(FRAME, UINT8, [1, height, width, 3]))
        given = prepared(self.writer.tensor(FRAME), camera, self.card, takes_bytes)
        for node in own:
            node.input[:] = [given.name if name == fed else name for name in node.input]
        graph.node.extend(own)

    def _output(self, name: str) -> Tensor:
        """An output of the network, before the cast to bytes that may be the last that is done to it."""
        if name not in self.shapes:
            raise ModelError(f"{self.name}: no output {name!r}; it has {', '.join(self.shapes)}")
        made = [n for n in self.model.graph.node if PREFIX + name in n.output]  # none where it is constant
        is_cast = made and made[0].op_type == "Cast" and name in self._is_bytes
        return self.writer.tensor(made[0].input[0] if is_cast else PREFIX + name)

    def labels(self) -> tuple[Tensor, Shape]:
        """(1, 1, H, W) class indices, and H, W."""
        name = self.card.output.name
        value = self._output(name)
        shape = self.shapes[name]
        if self.card.output.form == "logits":
            return self.writer.op("ArgMax", value, axis=1, keepdims=1).cast(FLOAT), shape[2:]
        size = shape[-2:] if shape[-1] != 1 else shape[-3:-1]
        return value.cast(FLOAT).reshape(1, 1, *size), size

    def confidence(self) -> tuple[Tensor, Shape] | None:
        """(1, 1, h', w') 0..255, whole, and h', w'; None where the card names none."""
        name = self.card.output.confidence
        if not name:
            return None
        value, shape = self._output(name), self.shapes[name][-2:]
        value = value.cast(FLOAT).reshape(1, 1, *shape)
        return (value if name in self._is_bytes else value * 255.0).floor(), shape

    def grouped(self, labels: Tensor, size: Shape, confidence: tuple[Tensor, Shape] | None) -> Grouped:
        """Raises ModelError where the class map is no whole multiple of the grid."""
        names = self.card.output
        heat, offset = (self._output(name).cast(FLOAT) for name in (names.centre, names.offset))
        (_, _, h, w), (height, width) = self.shapes[names.centre], size
        if height % h or width % w or height // h != width // w:
            raise ModelError(f"{self.name}: a class map of {width}x{height} on centres of {w}x{h}: no whole multiple")
        sure = None if confidence is None else _on_grid(*confidence, (h, w), self.name) * (1 / 255)
        return grouped(Seen(labels, heat, offset, sure), self.card, grid_of(self.card, (height, width), (h, w)))

    def give_bytes(self, tensor: Tensor, name: str, shape: Shape) -> None:
        self.writer.give(tensor.reshape(*shape).cast(UINT8), name, UINT8, shape)

    def give_features(self) -> None:
        for key, name in self.card.output.feature_names().items():
            self.writer.give(self._output(name).cast(FLOAT), key, FLOAT, self.shapes[name])

    def give_looks(self, instances: Tensor, size: Shape) -> None:
        """Where the network gives features, and 1/4 and 1/8 of the class map are whole cells."""
        names = self.card.output.feature_names()
        shapes = [self.shapes[names[key]] for key in ("fine4", "fine8")] if names else []
        if not shapes or any(tuple(n * step for n in s[2:]) != size for s, step in zip(shapes, (4, 8), strict=True)):
            return
        planes = [self._output(names[key]).cast(FLOAT) for key in ("fine4", "fine8")]
        depth = sum(shape[1] for shape in shapes)
        self.writer.give(looks(instances, planes, shapes), LOOKS, FLOAT, (1, MOST, depth))

    def finished(self) -> onnx.ModelProto:
        """Checked, with the shapes of all tensors, without what leads to no output."""
        graph = self.model.graph
        del graph.value_info[:]
        drop_unused(graph)
        self.model.ir_version = min(self.model.ir_version, 10)  # what TensorRT's older parsers read
        graph.name, self.model.producer_name = "lowered", "perception"
        onnx.checker.check_model(self.model)
        return shape_inference.infer_shapes(self.model, check_type=True, strict_mode=True, data_prop=True)


def _shape(value: onnx.ValueInfoProto) -> Shape:
    return tuple(d.dim_value for d in value.type.tensor_type.shape.dim)


def _on_grid(confidence: Tensor, shape: Shape, grid: Shape, name: str) -> Tensor:
    """Its mean in each cell of the grid, or the cell of its own that it lies in; ModelError where neither is whole."""
    if shape == grid:
        return confidence
    if all(n % m == 0 for n, m in zip(shape, grid, strict=True)) and shape[0] // grid[0] == shape[1] // grid[1]:
        return confidence.cell_mean(shape[0] // grid[0])
    if all(m % n == 0 for n, m in zip(shape, grid, strict=True)) and grid[0] // shape[0] == grid[1] // shape[1]:
        return confidence.enlarged(grid[0] // shape[0])
    raise ModelError(
        f"{name}: confidence is {shape[1]}x{shape[0]} on centres of {grid[1]}x{grid[0]}: no whole multiple"
    )
