from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from perception.config import Launch, ModelConfig, PublishConfig, SourceConfig
from tests.fakes import tiny_model
from tests.gpu_fakes import FakeCuda


@pytest.fixture(autouse=True)
def state_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nodes leave for the next process lies in the test's own folder."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state-home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache-home"))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """PyTorch on one thread: tiny networks are faster so, and sums come in one order."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    """What stands in for CUDA's runtime."""
    from perception.engines import cuda

    fake = FakeCuda()
    monkeypatch.setattr(cuda, "cudart", fake)
    return fake


@pytest.fixture
def picture_drive(tmp_path: Path) -> Path:
    """Twenty small pictures: a blue thing walks over green ground."""
    folder = tmp_path / "drive"
    folder.mkdir()
    for i in range(20):
        image = np.zeros((32, 64, 3), np.uint8)
        image[..., 1] = 120
        image[8:24, 4 + 2 * i : 16 + 2 * i] = (250, 0, 0)  # OpenCV writes BGR
        cv2.imwrite(str(folder / f"{i:03d}.png"), image)
    return folder


@pytest.fixture
def launch(tmp_path: Path, picture_drive: Path) -> Launch:
    """The picture drive through a tiny network, as fast as possible, on a socket of its own."""
    model = tiny_model(tmp_path, form="labels")
    endpoint = f"ipc://{tmp_path}/socket/front"
    return Launch(
        version=1,
        source=SourceConfig(url=str(picture_drive), realtime=False),
        model=ModelConfig(path=str(model), engine="onnxruntime", threads=1),
        publish=PublishConfig(endpoints=(endpoint,)),
    )
