"""An array that stays on the GPU: engines hand it on without a copy to the host; numpy gets its values if it asks."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import DTypeLike, NDArray

from perception.engines import cuda


class DeviceTensor:
    """A view of an engine's buffer, valid until that engine's next step.

    `[0]` and `[None]` take off and add a leading axis of one, as `types.Features` and graphs want it; anything else
    goes through `numpy.asarray`, which downloads.
    """

    def __init__(self, address: int, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self.address, self.shape, self.dtype = address, shape, dtype

    def __getitem__(self, index: int | None) -> DeviceTensor:
        if index is None:
            return DeviceTensor(self.address, (1, *self.shape), self.dtype)
        if index != 0 or self.shape[:1] != (1,):
            raise IndexError(f"{index} of {self.shape}: only the leading axis of one can be taken off")
        return DeviceTensor(self.address, self.shape[1:], self.dtype)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray:
        """Waits for the default stream only: the engine has waited for its own."""
        out = np.empty(self.shape, self.dtype)
        size = self.dtype.itemsize * math.prod(self.shape)
        kind = cuda.cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
        cuda.call(cuda.cudart.cudaMemcpy, out.ctypes.data, self.address, size, kind)
        return out if dtype is None else out.astype(dtype)
