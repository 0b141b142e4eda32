"""Which GPUs this container has, and whether what it computes on each of them is right: one line of JSON on stdout.

    {"devices": ["/dev/nvidia0"], "driver": true, "gpus": [{"uuid": "GPU-...", "wrong": 0, "error": ""}], "error": ""}

`devices`: the cards' own device nodes; `driver`: libcuda.so.1 is here; `wrong`: how many of the numbers are not the
right ones, null when nothing was computed, and then `error` is CUDA's name of the reason. Needs python3 and nothing
else: it asks the driver itself, by the kernel below, which the driver translates for the card.
"""

from __future__ import annotations

import array
import ctypes
import json
import uuid
from ctypes import byref, c_char_p, c_int, c_size_t, c_uint32, c_uint64, c_void_p
from pathlib import Path

COUNT, THREADS = 1 << 20, 256

# out[i] = a[i] * b[i] + a[i]
KERNEL = b"""
.version 6.0
.target sm_50
.address_size 64
.visible .entry multiply_add(.param .u64 a, .param .u64 b, .param .u64 out, .param .u32 n)
{
  .reg .pred %p;
  .reg .b32 %r<5>;
  .reg .f32 %f<4>;
  .reg .b64 %d<8>;
  ld.param.u64 %d1, [a];
  ld.param.u64 %d2, [b];
  ld.param.u64 %d3, [out];
  ld.param.u32 %r4, [n];
  mov.u32 %r1, %ctaid.x;
  mov.u32 %r2, %ntid.x;
  mov.u32 %r3, %tid.x;
  mad.lo.s32 %r1, %r1, %r2, %r3;
  setp.ge.u32 %p, %r1, %r4;
  @%p bra END;
  cvta.to.global.u64 %d1, %d1;
  cvta.to.global.u64 %d2, %d2;
  cvta.to.global.u64 %d3, %d3;
  mul.wide.u32 %d4, %r1, 4;
  add.s64 %d5, %d1, %d4;
  add.s64 %d6, %d2, %d4;
  add.s64 %d7, %d3, %d4;
  ld.global.f32 %f1, [%d5];
  ld.global.f32 %f2, [%d6];
  fma.rn.f32 %f3, %f1, %f2, %f1;
  st.global.f32 [%d7], %f3;
END:
  ret;
}
\0"""


class CudaError(Exception):
    """CUDA's name of what failed."""


class Driver:
    """The functions of libcuda.so.1 that are needed."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libcuda.so.1")

    def call(self, name: str, *arguments: object) -> None:
        """Call one. Raises CudaError."""
        code = getattr(self._library, name)(*arguments)
        if code:
            text = c_char_p()
            self._library.cuGetErrorName(code, byref(text))
            raise CudaError((text.value or b"error %d" % code).decode())

    def uuid(self, device: c_int) -> str:
        """As nvidia-smi writes it."""
        raw = (ctypes.c_char * 16)()
        self.call("cuDeviceGetUuid", byref(raw), device)
        return f"GPU-{uuid.UUID(bytes=bytes(raw))}"


def wrong(driver: Driver, device: c_int) -> int:
    """How many numbers that the device computes are wrong."""
    context, module, function = c_void_p(), c_void_p(), c_void_p()
    driver.call("cuCtxCreate_v2", byref(context), 0, device)
    try:
        driver.call("cuModuleLoadData", byref(module), KERNEL)
        driver.call("cuModuleGetFunction", byref(function), module, b"multiply_add")
        a = array.array("f", (index % 1000 for index in range(COUNT)))
        b = array.array("f", (index % 7 for index in range(COUNT)))
        pointers = [_copied(driver, values) for values in (a, b, a)]
        parameters = [*pointers, c_uint32(COUNT)]
        arguments = (c_void_p * 4)(*(ctypes.cast(byref(value), c_void_p) for value in parameters))
        blocks = COUNT // THREADS
        driver.call("cuLaunchKernel", function, blocks, 1, 1, THREADS, 1, 1, 0, None, arguments, None)
        driver.call("cuCtxSynchronize")
        out = array.array("f", bytes(4 * COUNT))
        driver.call("cuMemcpyDtoH_v2", c_void_p(out.buffer_info()[0]), pointers[2], c_size_t(4 * COUNT))
        return sum(x * y + x != seen for x, y, seen in zip(a, b, out, strict=True))
    finally:
        driver.call("cuCtxDestroy_v2", context)


def _copied(driver: Driver, values: array.array[float]) -> c_uint64:
    """Where a copy of the values lies on the device; freed with its context."""
    pointer, size = c_uint64(), c_size_t(4 * len(values))
    driver.call("cuMemAlloc_v2", byref(pointer), size)
    driver.call("cuMemcpyHtoD_v2", pointer, c_void_p(values.buffer_info()[0]), size)
    return pointer


def gpu(driver: Driver, number: int) -> dict[str, object]:
    """One GPU, and what it computed."""
    device = c_int()
    driver.call("cuDeviceGet", byref(device), number)
    seen: dict[str, object] = {"uuid": driver.uuid(device), "wrong": None, "error": ""}
    try:
        seen["wrong"] = wrong(driver, device)
    except CudaError as error:
        seen["error"] = str(error)
    return seen


def look() -> dict[str, object]:
    """All that there is to say."""
    nodes = sorted(str(path) for path in Path("/dev").glob("nvidia[0-9]*"))
    said: dict[str, object] = {"devices": nodes, "driver": True, "gpus": [], "error": ""}
    try:
        driver = Driver()
    except OSError as error:
        return {**said, "driver": False, "error": str(error)}
    try:
        driver.call("cuInit", 0)
        count = c_int()
        driver.call("cuDeviceGetCount", byref(count))
        said["gpus"] = [gpu(driver, number) for number in range(count.value)]
    except CudaError as error:
        said["error"] = str(error)
    return said


if __name__ == "__main__":
    print(json.dumps(look()))
