"""Networks: what they compute is what the papers say, at the sizes promised, and a graph of them computes the same."""

from __future__ import annotations

import warnings
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from perception.errors import ModelError  # noqa: E402
from perception.training.networks import NetworkConfig, build_network  # noqa: E402
from perception.training.networks.config import INSTANCE_STRIDE, PUBLISHED_WIDTH  # noqa: E402
from perception.training.networks.depthwise import DepthwiseConv2d  # noqa: E402
from perception.training.networks.efficientnet import EfficientNetLite, load_published  # noqa: E402
from perception.training.networks.mobilenet import MobileNetV2  # noqa: E402
from perception.training.networks.panoptic_deeplab import PanopticDeepLab  # noqa: E402
from perception.training.networks.realtime import RealtimePanoptic  # noqa: E402
from perception.training.networks.resnet import ResNet  # noqa: E402
from perception.training.networks.unet import UNet, mirror  # noqa: E402

CLASSES = 5
WIDTH = 16
DEEPLABS = [
    (kind, backbone, stride)
    for kind in ("panoptic-deeplab", "deeplabv3+", "deeplabv3")
    for backbone in ("mobilenetv2", "resnet")
    for stride in (8, 16, 32)
    if (kind, stride) != ("panoptic-deeplab", 8)
]
EVERY_KIND = [NetworkConfig(kind, width=WIDTH) for kind in PUBLISHED_WIDTH]


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def build(config: NetworkConfig) -> Any:
    return build_network(config, CLASSES).eval()


@torch.no_grad()
def shapes(network, h: int, w: int) -> dict[str, tuple[int, ...]]:
    return {name: tuple(t.shape[1:]) for name, t in outputs(network(torch.zeros(1, 3, h, w))).items()}


def outputs(prediction) -> dict[str, Any]:
    """The tensors that a network gave by name, those of its encoder's features among them."""
    found = prediction._asdict()
    features = found.pop("features")
    found |= features._asdict() if features else {}
    return {name: t for name, t in found.items() if t is not None}


@torch.no_grad()
def settle(network, x) -> None:
    """Take the running statistics from `x`: with those of the identity, random weights fade layer by layer."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    network.train()(x)
    network.eval()


def agree(a, b, within: float = 1e-4) -> bool:
    """Whether the largest difference is small beside the spread of the values."""
    return bool((a - b).abs().max() <= within * a.std())


def parameters(module) -> int:
    return sum(p.numel() for p in module.parameters())


# Sizes


@pytest.mark.parametrize(("kind", "backbone", "stride"), DEEPLABS)
def test_outputs_have_the_promised_sizes(kind, backbone, stride):
    expected = {"semantic": (CLASSES, 16, 24)}
    if kind == "deeplabv3":
        expected = {"semantic": (CLASSES, 64 // stride, 96 // stride)}
    if kind == "panoptic-deeplab":
        fine4, fine8, keys = {"mobilenetv2": (24, 32, 96), "resnet": (32, 64, 128)}[backbone]
        expected |= {"centre": (1, 16, 24), "offset": (2, 16, 24), "keys": (keys, 4, 6), "context": (WIDTH, 4, 6)}
        expected |= {"fine8": (fine8, 8, 12), "fine4": (fine4, 16, 24)}
    assert shapes(build(NetworkConfig(kind, backbone, stride, WIDTH)), 64, 96) == expected


@pytest.mark.parametrize("backbone", [MobileNetV2, ResNet, partial(EfficientNetLite, 0)])
@pytest.mark.parametrize("stride", [8, 16, 32])
@torch.no_grad()
def test_a_backbone_s_features_lie_at_its_strides_with_its_channels(backbone, stride):
    net = backbone(stride).eval()
    features = net.pyramid(torch.zeros(1, 3, 64, 96))
    strides = (2, 4, 8, min(stride, 16), stride)
    assert [f.shape[-2:] for f in features] == [(64 // s, 96 // s) for s in strides]
    assert tuple(f.shape[1] for f in features[1:]) == net.channels


@pytest.mark.parametrize("config", EVERY_KIND, ids=lambda c: c.kind)
def test_an_image_that_does_not_divide_is_refused_with_a_size_that_does(config):
    assert build(config).divisor == 16
    with pytest.raises(ModelError, match=r"the image is 90x64; .* multiples of 16.* 96x64$"):
        build(config)(torch.zeros(1, 3, 64, 90))


@pytest.mark.parametrize("stride", [8, 32])
def test_the_divisor_is_the_output_stride(stride):
    net = build(NetworkConfig("deeplabv3", "resnet", stride, WIDTH))
    assert net.divisor == stride
    assert shapes(net, stride, 3 * stride)["semantic"] == (CLASSES, 1, 3)


# Configurations


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (NetworkConfig("realtime", output_stride=8), "realtime: output_stride is 8; it has no choice: leave it at 16"),
        (NetworkConfig("realtime", "resnet"), "backbone is 'resnet'; it takes 'mobilenetv2' or 'efficientnet-lite0'"),
        (NetworkConfig("unet", "resnet"), "unet: backbone is 'resnet'"),
        (NetworkConfig("panoptic-deeplab", output_stride=8), "output_stride is 8; it takes 16 or 32"),
        (NetworkConfig("deeplabv3+", padding="valid"), "padding is 'valid'"),
        (NetworkConfig(width=12), "width is 12; it must be a multiple of 8"),
        (NetworkConfig(kind="fcn"), "kind is 'fcn'; it must be one of realtime, "),  # type: ignore[arg-type]
        (NetworkConfig("deeplabv3", output_stride=4), "output_stride is 4"),  # type: ignore[arg-type]
    ],
)
def test_a_combination_that_no_network_has_is_refused(config, says):
    with pytest.raises(ModelError, match=says):
        build_network(config, CLASSES)


@pytest.mark.parametrize("classes", [1, 256])
def test_a_number_of_classes_that_labels_cannot_hold_is_refused(classes):
    with pytest.raises(ModelError, match=f"a network for {classes} classes"):
        build_network(NetworkConfig(), classes)


def test_width_zero_is_the_published_width():
    for kind, width in PUBLISHED_WIDTH.items():
        if kind != "unet":
            published, said = (build_network(NetworkConfig(kind, width=w), CLASSES) for w in (0, width))
            assert parameters(published) == parameters(said)


@pytest.mark.parametrize("text", ['{"width": -8}', '{"width": 12}', '{"kind": "fcn"}', '{"depth": 3}'])
def test_a_file_cannot_say_what_a_configuration_cannot_hold(text):
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(text, type=NetworkConfig)


# What the papers say


def test_mobilenetv2_has_the_published_parameters():
    top, classifier = 320 * 1280 + 2 * 1280, 1281 * 1000  # what the classification network adds
    assert parameters(MobileNetV2()) + top + classifier == 3_504_872


@pytest.mark.parametrize(("version", "published"), [(0, 4.65e6), (1, 5.42e6), (2, 6.09e6), (3, 8.20e6), (4, 13.01e6)])
def test_efficientnet_lite_has_the_published_parameters(version, published):
    net = EfficientNetLite(version)
    last = net.channels[-1]
    found = parameters(net) + last * 1280 + 2 * 1280 + 1281 * 1000  # with what the classification network adds
    assert abs(found - published) < 0.005e6


@torch.no_grad()
def test_efficientnet_lite_starts_from_the_published_weights(tmp_path):
    """Its batch norms are folded with the epsilon that they were trained with."""
    net, state = EfficientNetLite(0, 32).eval(), {}
    names = {0: ("_conv_stem", "_bn0")}
    for i, (conv, _) in enumerate(net.convolutions()):
        layer, norm = names.get(i, (f"_blocks.{i}._depthwise_conv", f"_blocks.{i}._bn1"))
        state[f"{layer}.weight"] = torch.randn_like(conv.weight)
        for key in ("weight", "bias", "running_mean", "running_var"):
            state[f"{norm}.{key}"] = torch.rand(conv.out_channels) + 0.01
    torch.save(state, tmp_path / "w.pth")
    load_published(net, tmp_path / "w.pth")
    x = torch.randn(1, 3, 32, 32)
    y = nn.functional.conv2d(x, state["_conv_stem.weight"], None, 2, 1)
    statistics = [state[f"_bn0.{key}"] for key in ("running_mean", "running_var", "weight", "bias")]
    expected = nn.functional.batch_norm(y, *statistics, eps=1e-3).clamp(0, 6)
    assert torch.allclose(net.stem(x), expected, atol=2e-4)


def test_published_weights_of_another_size_are_refused(tmp_path):
    state = {"_conv_stem.weight": torch.zeros(40, 3, 3, 3)}
    state |= {f"_bn0.{key}": torch.ones(40) for key in ("weight", "bias", "running_mean", "running_var")}
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(
        ModelError,
        match=r"w\.pth: weights of another backbone: layer 00 has shape \(40, 3, 3, 3\), not \(32, 3, 3, 3\)",
    ):
        load_published(EfficientNetLite(0), tmp_path / "w.pth")


def test_resnet_is_dense_and_rectified_only():
    convolutions = [m for m in ResNet().modules() if isinstance(m, nn.Conv2d)]
    assert {c.groups for c in convolutions} == {1}
    assert {c.kernel_size for c in convolutions} == {(3, 3), (1, 1)}
    leaves = {type(m) for m in ResNet().modules() if not list(m.children())}
    assert leaves == {nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Identity}


@pytest.mark.parametrize("stride", [8, 16])
@torch.no_grad()
def test_a_dilated_resnet_computes_the_undilated_one_s_features_and_those_between(stride):
    coarse, fine = ResNet(32), ResNet(stride).eval()
    x = torch.randn(1, 3, 96, 64)
    settle(coarse, x)
    fine.load_state_dict(coarse.state_dict())
    step = 32 // stride
    assert agree(coarse(x)[-1], fine(x)[-1][:, :, ::step, ::step])


@pytest.mark.parametrize("kind", ["deeplabv3+", "deeplabv3", "panoptic-deeplab"])
def test_weights_of_output_stride_32_load_at_16(kind):
    coarse, fine = (build_network(NetworkConfig(kind, output_stride=s, width=WIDTH), CLASSES) for s in (32, 16))
    assert fine.load_state_dict(coarse.state_dict()) == ([], [])


@pytest.mark.parametrize(("stride", "rates"), [(8, {12, 24, 36}), (16, {6, 12, 18}), (32, {3, 6, 9})])
@pytest.mark.parametrize(("kind", "groups"), [("deeplabv3", 1), ("deeplabv3+", 256)])
def test_aspp_dilates_by_the_published_rates(kind, groups, stride, rates):
    aspp = build(NetworkConfig(kind, "resnet", stride, WIDTH)).aspp
    spatial = [m for m in aspp.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert {(m.dilation[0], m.groups) for m in spatial} == {(rate, groups) for rate in rates}


def test_the_aspp_sees_the_whole_image_through_its_mean():
    aspp = build(NetworkConfig("deeplabv3", "resnet", width=WIDTH)).aspp
    x = torch.zeros(1, 256, 60, 60, requires_grad=True)  # rate 18 reaches 18 cells; the corners are 59 apart
    aspp(x)[0, :, 0, 0].sum().backward()
    assert x.grad[0, :, -1, -1].abs().sum() > 0


@pytest.mark.parametrize(
    ("backbone", "semantic", "instance"),
    [
        (MobileNetV2(16), [128, 64, 32], [64, 32, 16]),
        (MobileNetV2(32), [128, 64, 32], [64, 32, 16]),
        (ResNet(32), [128, 64, 32], [64, 32, 16]),
        (ResNet(16), [64, 32], [32, 16]),
    ],
)
def test_panoptic_deeplab_has_the_published_widths(backbone, semantic, instance):
    net: Any = PanopticDeepLab(backbone, CLASSES)
    for decoder, projections, width in ((net.semantic, semantic, 256), (net.instance, instance, 128)):
        assert [project[0].out_channels for project in decoder.project] == projections
        assert {fuse[0].kernel_size for fuse in decoder.fuse} == {(5, 5)}
        assert {fuse[3].out_channels for fuse in decoder.fuse} == {width}
        assert decoder.aspp.project[0].in_channels == 5 * 256
    for head, hidden in ((net.semantic_head, 256), (net.centre_head, 32), (net.offset_head, 32)):
        assert head[-1].in_channels == hidden
        assert head[0][0].kernel_size == (5, 5)


def test_panoptic_deeplab_refuses_a_backbone_at_8():
    with pytest.raises(ModelError, match="output_stride is 8; panoptic-deeplab takes 16 or 32"):
        PanopticDeepLab(ResNet(8), CLASSES)


@pytest.mark.parametrize(
    "config",
    [
        NetworkConfig("realtime", width=WIDTH),
        NetworkConfig("panoptic-deeplab", "resnet", 16, WIDTH),
        NetworkConfig("panoptic-deeplab", "resnet", 32, WIDTH),
    ],
    ids=lambda c: f"{c.kind}-{c.output_stride}",
)
@torch.no_grad()
def test_the_encoder_alone_gives_the_features_of_the_whole_network(config):
    net = build(config)
    x = torch.randn(1, 3, 64, 96)
    whole, alone = net(x).features, net.encode(x)
    assert all(torch.equal(a, b) for a, b in zip(whole, alone, strict=True))
    backbone = net.backbone(x)
    assert all(torch.equal(a, b) for a, b in zip(backbone[:3], (alone.fine4, alone.fine8, alone.keys), strict=True))


@torch.no_grad()
def test_the_encoder_alone_runs_no_decoder():
    net = build(NetworkConfig("realtime", width=WIDTH))
    decoded = []
    for part in (net.fuse8, net.fuse4, net.fuse2, net.instance4):
        part.register_forward_hook(lambda module, args, output: decoded.append(module))
    net.encode(torch.zeros(1, 3, 32, 48))
    assert decoded == []
    with pytest.raises(ModelError, match="multiples of 16"):
        net.encode(torch.zeros(1, 3, 64, 90))


# U-Net


def test_unet_has_the_published_parameters():
    def convolution(kernel: int, c_in: int, c_out: int) -> int:
        return kernel * kernel * c_in * c_out + c_out

    levels = (64, 128, 256, 512, 1024)
    expected = convolution(1, 64, 2)
    for above, c in pairwise((1, *levels)):
        expected += convolution(3, above, c) + convolution(3, c, c)
    for c, below in pairwise(levels):
        expected += convolution(2, below, c) + convolution(3, 2 * c, c) + convolution(3, c, c)
    colour = 2 * 9 * 64  # the paper's images have one channel, ours three
    with torch.device("meta"):
        assert parameters(UNet(classes=2)) == expected + colour
    assert round(expected / 1e6, 1) == 31.0


@torch.no_grad()
def test_unet_maps_572_to_388():
    net = UNet(CLASSES, width=8, padding="valid").eval()
    assert net.crop_pass(torch.zeros(1, 3, 572, 572)).shape == (1, CLASSES, 388, 388)


@pytest.mark.parametrize("size", [(572, 570), (172, 572)])
def test_the_valid_pass_refuses_a_size_whose_poolings_do_not_divide(size):
    with pytest.raises(ModelError, match=r"16 k \+ 12 and at least 188"):
        UNet(CLASSES, width=8, padding="valid").crop_pass(torch.zeros(1, 3, *size))


def test_same_padding_has_no_valid_pass():
    with pytest.raises(ModelError, match='padding is "same"'):
        UNet(CLASSES, width=8).crop_pass(torch.zeros(1, 3, 572, 572))


@pytest.mark.parametrize(("padding", "size"), [("same", (32, 48)), ("valid", (108, 131))])
def test_unet_labels_every_pixel(padding, size):
    assert shapes(UNet(CLASSES, width=8, padding=padding).eval(), *size) == {"semantic": (CLASSES, *size)}


def test_an_image_too_small_to_mirror_is_refused():
    with pytest.raises(ModelError, match=r"the image is 64x64; .* give 108 px a side"):
        UNet(CLASSES, width=8, padding="valid")(torch.zeros(1, 3, 64, 64))


@torch.no_grad()
def test_where_no_mirrored_pixel_is_seen_the_whole_image_agrees_with_a_tile():
    net = UNet(CLASSES, width=8, padding="valid").eval()
    x = torch.randn(1, 3, 220, 240)
    tile = net.crop_pass(x[:, :, 4:208, 20:224])  # both start where a cell of the deepest level does
    assert agree(tile, net(x).semantic[:, :, 96:116, 112:132])


@given(h=st.integers(108, 260), w=st.integers(108, 260))
@settings(max_examples=25, deadline=None)
def test_a_mirrored_image_is_one_that_the_valid_pass_takes(h, w):
    x = torch.rand(1, 1, h, w)
    y = mirror(x)
    assert y.shape[-2] % 16 == 12
    assert y.shape[-1] % 16 == 12
    assert y.shape[-2] - 184 >= h
    assert y.shape[-1] - 184 >= w
    assert torch.equal(y[:, :, 92 : 92 + h, 92 : 92 + w], x)
    assert torch.equal(y[:, :, 91, 92 : 92 + w], x[:, :, 1])


# The real-time network


@torch.no_grad()
def test_realtime_outputs_have_the_promised_sizes():
    expected = {"semantic": (CLASSES, 32, 48), "centre": (1, 32, 48), "offset": (2, 32, 48)}
    expected |= {"keys": (96, 4, 6), "context": (128, 4, 6), "fine8": (32, 8, 12), "fine4": (24, 16, 24)}
    assert shapes(RealtimePanoptic(MobileNetV2(), CLASSES).eval(), 64, 96) == expected


@pytest.mark.parametrize("version", range(5))
def test_realtime_takes_every_efficientnet_lite(version):
    found = shapes(build(NetworkConfig("realtime", f"efficientnet-lite{version}", width=WIDTH)), 32, 48)  # type: ignore[arg-type]
    assert found["semantic"] == (CLASSES, 16, 24)


@pytest.mark.parametrize("kind", INSTANCE_STRIDE)
@torch.no_grad()
def test_centres_and_offsets_have_the_stride_that_targets_are_made_for(kind):
    seen = build_network(NetworkConfig(kind=kind, width=WIDTH), CLASSES).eval()(torch.zeros(1, 3, 64, 96))
    grid = (64 // INSTANCE_STRIDE[kind], 96 // INSTANCE_STRIDE[kind])
    assert (seen.centre.shape, seen.offset.shape) == ((1, 1, *grid), (1, 2, *grid))


@torch.no_grad()
def test_a_cell_of_a_quarter_tells_its_four_quarters_in_row_order():
    net = RealtimePanoptic(MobileNetV2(), CLASSES, WIDTH).eval()
    net.centre.load_state_dict({"weight": torch.zeros(4, 32, 3, 3), "bias": torch.arange(1.0, 5.0)})
    centre = net(torch.zeros(1, 3, 32, 48)).centre
    assert torch.equal(centre, torch.tensor([[1.0, 2.0], [3.0, 4.0]]).tile(8, 12)[None, None])


@torch.no_grad()
def test_realtime_gives_auxiliary_logits_in_training_only():
    net = RealtimePanoptic(MobileNetV2(), CLASSES, WIDTH)
    x = torch.zeros(2, 3, 32, 48)
    auxiliary = net(x).auxiliary
    assert auxiliary is not None
    assert auxiliary.shape == (2, CLASSES, 4, 6)
    assert net.eval()(x).auxiliary is None


@torch.no_grad()
def test_realtime_s_refinement_starts_as_no_change_and_its_centres_as_none():
    net = RealtimePanoptic(MobileNetV2(), CLASSES, WIDTH).eval()
    quarter = []
    net.head.register_forward_hook(lambda module, args, output: quarter.append(output))
    prediction = net(torch.randn(1, 3, 32, 48))
    enlarged = F.interpolate(quarter[0], scale_factor=2, mode="bilinear", align_corners=False)
    assert torch.equal(prediction.semantic, enlarged)
    assert prediction.centre.abs().max() == 0


# All of them


@pytest.mark.parametrize("config", EVERY_KIND, ids=lambda c: c.kind)
@torch.no_grad()
def test_evaluation_is_repeatable_and_one_image_does_not_touch_another(config):
    net = build(config).double()  # random weights amplify what float32 rounds
    x = torch.randn(2, 3, 32, 48, dtype=torch.float64)
    settle(net, x)
    first, again, alone = net(x), net(x), net(x[1:])
    for a, b, c in zip(*(outputs(p).values() for p in (first, again, alone)), strict=True):
        assert torch.equal(a, b)
        assert agree(a[1:], c)


@pytest.mark.parametrize("config", EVERY_KIND, ids=lambda c: c.kind)
def test_a_batch_of_one_trains_every_parameter(config):
    net = build_network(config, CLASSES)
    prediction = net(torch.randn(1, 3, 32, 48))
    torch.stack([t.sum() for t in outputs(prediction).values()]).sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None] == []


class Outputs(nn.Module):
    """The outputs that a network has, as a graph's outputs."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x):
        return tuple(outputs(self.net(x)).values())


@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (1, 2), (1, 4), (1, 8), (2, 1)])
def test_a_depthwise_convolution_s_gradients_in_bfloat16_are_those_in_float64(stride, dilation):
    conv = DepthwiseConv2d(64, 3, stride, dilation)
    x = torch.randn(2, 64, 22, 30, generator=torch.Generator().manual_seed(3)).to(memory_format=torch.channels_last)
    x.requires_grad_()
    exact_x, exact_w = x.detach().double().requires_grad_(), conv.weight.detach().double().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = conv(x)
    g = torch.randn(y.shape, generator=torch.Generator().manual_seed(4)).to(memory_format=torch.channels_last)
    y.backward(g.to(y.dtype))
    F.conv2d(exact_x, exact_w, None, stride, dilation, dilation, 64).backward(g.double())
    for got, exact in ((x.grad, exact_x.grad), (conv.weight.grad, exact_w.grad)):
        assert got is not None
        assert exact is not None
        assert (got.double() - exact).norm() < 0.02 * exact.norm()


@pytest.mark.parametrize("config", EVERY_KIND, ids=lambda c: c.kind)
def test_every_depthwise_convolution_is_one_whose_gradients_are_right(config):
    convs = [m for m in build(config).modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    assert all(isinstance(conv, DepthwiseConv2d) for conv in convs)


def to_onnx(module: nn.Module, x, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # this exporter, the one that gives static graphs, is not the newest
        torch.onnx.export(module, (x,), str(path), input_names=["x"], opset_version=17, dynamo=False)


@pytest.mark.parametrize(
    ("config", "size"),
    [
        (NetworkConfig("realtime", width=WIDTH), (32, 64)),
        (NetworkConfig("panoptic-deeplab", "mobilenetv2", 16, WIDTH), (32, 64)),
        (NetworkConfig("panoptic-deeplab", "resnet", 32, WIDTH), (32, 64)),
        (NetworkConfig("deeplabv3+", "resnet", 16, WIDTH), (32, 64)),
        (NetworkConfig("deeplabv3", "mobilenetv2", 8, WIDTH), (32, 64)),
        (NetworkConfig("unet", width=8), (32, 64)),
        (NetworkConfig("unet", width=8, padding="valid"), (108, 110)),
    ],
    ids=lambda v: f"{v.kind}-{v.backbone}-{v.padding}" if isinstance(v, NetworkConfig) else "",
)
@torch.no_grad()
def test_a_graph_is_static_has_no_batch_norm_left_and_agrees(config, size, tmp_path):
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    net = build_network(config, CLASSES)
    x = torch.randn(1, 3, *size)
    settle(net, torch.cat((x, -x)))
    module = Outputs(net).eval()
    to_onnx(module, x, tmp_path / "net.onnx")
    operations = {node.op_type for node in onnx.load(tmp_path / "net.onnx").graph.node}
    assert not operations & {"BatchNormalization", "Shape", "NonZero", "If", "Loop"}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"), options, providers=["CPUExecutionProvider"])
    for expected, found in zip(module(x), session.run(None, {"x": x.numpy()}), strict=True):
        assert agree(expected, torch.from_numpy(found), within=0.01)  # random weights amplify rounding
