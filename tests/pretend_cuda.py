"""CUDA without a GPU: tensors that lie on the CPU, are said to be on `cuda:0`, and may not be mixed.

Within `PretendCuda()` a storage made for `cuda` is marked, views and parameters share the mark, and
every ATen operation (forward, backward, inside vmap) is checked as torch checks devices: tensors of
both kinds in one operation are an error, but for copies, single numbers and index tensors on the
CPU. Values are real, so that results can be compared. Kernels run by Triton's interpreter
(TRITON_INTERPRET=1) and refuse tensors of the CPU, as compiled ones do.

`waits` collects what would make the host wait for the device, or the device for a pageable copy.
A `torch.cuda.graph` records operations and undoes them, `replay` repeats them on the same storages.
Not seen: kernels' own faults, streams and races, memory, numbers in TF32.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

CUDA = torch.device("cuda:0")
READ_BACK = {  # operations whose result's shape or value the host needs
    *("_local_scalar_dense", "equal", "nonzero", "is_nonzero", "masked_select", "_unique2"),
    *("unique_dim", "bincount", "repeat_interleave"),
}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}


class PretendCuda:
    """Use as a context; `waits` is a list of what waited since it was last emptied."""

    def __init__(self) -> None:
        self.marked: dict[int, StorageWeakRef] = {}  # whose weak references keep ids from reuse
        self.waits: list[str] = []
        self.forced: bool | None = None
        self.graph: Graph | None = None
        self.raising = False  # as torch.cuda.set_sync_debug_mode("error")

    def __enter__(self) -> PretendCuda:
        self._stack, self.functions = ExitStack(), _Functions(self)
        for owner, name, value in self._replacements():
            self._stack.enter_context(patch.object(owner, name, value, create=True))
        self._stack.enter_context(_Operations(self))
        self._stack.enter_context(self.functions)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def on_cuda(self, x: Tensor) -> bool:
        while torch._C._functorch.is_functorch_wrapped_tensor(x):
            x = torch._C._functorch.get_unwrapped(x)
        return x.untyped_storage()._cdata in self.marked

    def mark(self, x: Tensor) -> None:
        storage = x.untyped_storage()
        self.marked[storage._cdata] = StorageWeakRef(storage)
        if len(self.marked) % 1000 == 0:
            gone = [key for key, ref in self.marked.items() if ref.expired()]
            for key in gone:
                del self.marked[key]

    @contextlib.contextmanager
    def making(self, cuda: bool) -> Iterator[None]:
        before, self.forced = self.forced, cuda
        try:
            yield
        finally:
            self.forced = before

    def wait(self, what: str) -> None:
        self.waits.append(what)
        if self.graph is not None:
            raise RuntimeError(f"{what}: operation not permitted when stream is capturing")
        if self.raising:
            raise RuntimeError(f"{what}: called a synchronizing CUDA operation")

    def launch(self, kernel: Any, grid: Any) -> Callable[..., None]:
        """In the place of `kernel[grid]`."""

        def run(*args: Any, **options: Any) -> None:
            for i, x in enumerate(args):
                if isinstance(x, Tensor) and not self.on_cuda(x):
                    raise ValueError(f"Pointer argument (at {i}) cannot be accessed from Triton")

            def once() -> None:
                with _disable_current_modes():
                    kernel.run(*args, grid=grid, warmup=False, **options)

            once()
            if self.graph is not None:
                self.graph.steps.append(once)

        return run

    def _replacements(self) -> Iterator[tuple[Any, str, Any]]:
        cuda = torch.cuda
        state = torch.zeros(16, dtype=torch.uint8)
        yield cuda, "is_available", lambda: True
        yield cuda, "device_count", lambda: 1
        yield cuda, "current_device", lambda: 0
        yield cuda, "is_initialized", lambda: True
        yield cuda, "synchronize", lambda device=None: None
        yield cuda, "get_device_name", lambda device=None: "pretended"
        yield cuda, "get_rng_state", lambda device="cuda": state.clone()
        yield cuda, "set_rng_state", lambda new, device="cuda": state.copy_(new)
        yield cuda, "max_memory_allocated", lambda device=None: 0
        yield cuda, "set_sync_debug_mode", lambda mode: setattr(self, "raising", mode == "error")
        yield cuda, "Stream", _Stream
        yield cuda, "current_stream", lambda device=None: _Stream()
        yield cuda, "stream", lambda stream: contextlib.nullcontext()
        yield cuda, "CUDAGraph", lambda: Graph(self)
        yield cuda, "graph", lambda graph, **options: graph
        # Adam asks for these before each step
        yield torch.accelerator, "current_accelerator", lambda check_available=False: CUDA
        yield torch.accelerator, "current_stream", lambda device=None: _Stream(self.graph)
        run_backward = torch.autograd._engine_run_backward

        def backward(*args: Any, **options: Any) -> Any:
            with self.functions:  # which is off within `Tensor.backward`, and on in what it calls
                return run_backward(*args, **options)

        yield torch.autograd, "_engine_run_backward", backward
        # C++ asks tensors itself where they are
        optimizers = sys.modules["torch.optim.optimizer"]
        grouped = optimizers._group_tensors_by_device_and_dtype

        def group(lists: Any, with_indices: bool = False) -> Any:
            found = grouped(lists, with_indices)
            return {(lists_of[0][0][0].device, key[1]): lists_of for key, lists_of in found.items()}

        yield optimizers, "_group_tensors_by_device_and_dtype", group
        with contextlib.suppress(ImportError):
            from triton.runtime.interpreter import InterpretedFunction

            yield InterpretedFunction, "__getitem__", lambda kernel, grid: self.launch(kernel, grid)


class _Stream:
    def __init__(self, graph: Graph | None = None) -> None:
        self.capturing = graph is not None

    def wait_stream(self, stream: _Stream) -> None:
        pass

    def is_capturing(self) -> bool:
        return self.capturing


class Graph:
    """What `with torch.cuda.graph(graph)` records; as there, nothing happens but on `replay`."""

    def __init__(self, device: PretendCuda) -> None:
        self.device = device
        self.steps: list[Callable[[], None]] = []

    def __enter__(self) -> None:
        living = [ref for ref in self.device.marked.values() if not ref.expired()]
        storages = [torch.UntypedStorage._new_with_weak_ptr(ref.cdata) for ref in living]
        with _disable_current_modes():
            self.before = [
                (storage, storage.clone()) for storage in storages if storage is not None
            ]
        self.device.graph = self

    def __exit__(self, *error: object) -> None:
        self.device.graph = None
        with _disable_current_modes():
            for storage, values in self.before:
                storage.copy_(values)
        del self.before

    def replay(self) -> None:
        for step in self.steps:
            step()


class _Operations(TorchDispatchMode):
    """Every ATen operation: checks its tensors' devices, marks what it makes."""

    def __init__(self, device: PretendCuda) -> None:
        super().__init__()
        self.device = device

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, device, name = dict(kwargs or {}), self.device, func.overloadpacket.__name__
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        given = kwargs.get("device")
        if device.forced is not None:
            cuda = device.forced
        elif given is not None and torch.device(given).type == "cuda":
            cuda = True
        else:
            cuda = self.common(name, func, tensors, args)
        if given is not None:
            kwargs["device"] = torch.device("cpu")
        if name in READ_BACK and any(device.on_cuda(x) for x in tensors):
            device.wait(name)
        result = func(*args, **kwargs)
        known = {x.untyped_storage()._cdata for x in tensors}
        made = [x for x in tree_leaves(result) if isinstance(x, Tensor)]
        fresh = [x for x in made if x.untyped_storage()._cdata not in known]
        if cuda:
            for x in fresh:
                device.mark(x)
        if device.graph is not None and (cuda or any(device.on_cuda(x) for x in tensors)):
            device.graph.steps.append(lambda: self.again(func, args, kwargs, result, known))
        return result

    def common(self, name: str, func: Any, tensors: list[Tensor], args: Any) -> bool:
        """Whether the result is on CUDA. Raise RuntimeError for tensors of both kinds."""
        on_cuda = self.device.on_cuda
        if name == "copy_":
            if on_cuda(args[0]) != on_cuda(args[1]):
                self.device.wait("copy_")
            return on_cuda(args[0])
        if name in INDEXING:
            indices = [i for i in args[1] if i is not None]
            if on_cuda(args[0]) and any(i.dtype in (torch.bool, torch.uint8) for i in indices):
                self.device.wait("index by a mask")
            if on_cuda(args[0]) and not all(on_cuda(i) for i in indices):
                self.device.wait("index on the CPU")
            tensors = [args[0], *args[2:3]] if on_cuda(args[0]) else tensors
            tensors = [x for x in tensors if isinstance(x, Tensor)]
        cuda = [x for x in tensors if on_cuda(x)]
        cpu = [x for x in tensors if not on_cuda(x)]
        if cuda and any(x.ndim for x in cpu):
            shapes = [f"{tuple(x.shape)} on {'cuda' if on_cuda(x) else 'cpu'}" for x in tensors]
            raise RuntimeError(f"{func}: expected all tensors on one device: {', '.join(shapes)}")
        return bool(cuda)

    def again(self, func: Any, args: Any, kwargs: Any, result: Any, known: set[int]) -> None:
        with _disable_current_modes(), torch._C._AutoDispatchBelowAutograd():
            found = [x for x in tree_leaves(func(*args, **kwargs)) if isinstance(x, Tensor)]
            for x, new in zip(
                (x for x in tree_leaves(result) if isinstance(x, Tensor)), found, strict=True
            ):
                if x.untyped_storage()._cdata not in known:
                    x.copy_(new)


class _Functions(TorchFunctionMode):
    """What Python asks of a tensor: where it is, to move it, to make one on a device."""

    def __init__(self, device: PretendCuda) -> None:
        super().__init__()
        self.device = device

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, device = dict(kwargs or {}), self.device
        on_cuda = device.on_cuda
        if func == Tensor.device.__get__:  # type: ignore[attr-defined]
            return CUDA if on_cuda(args[0]) else torch.device("cpu")
        if func == Tensor.is_cuda.__get__:  # type: ignore[attr-defined]
            return on_cuda(args[0])
        if func == Tensor.is_cpu.__get__:  # type: ignore[attr-defined]
            return not on_cuda(args[0])
        setting = func == Tensor.grad.__set__ and args[1] is not None  # type: ignore[attr-defined]
        if setting and on_cuda(args[0]) != on_cuda(args[1]):
            raise RuntimeError("assigned grad has data located on a different device")
        if func is Tensor.cpu:
            return self.move(args[0], False, {})
        if func is Tensor.cuda:
            return self.move(args[0], True, {})
        if func is Tensor.to:
            return self.to(*args, **kwargs)
        if func in (Tensor.numpy, Tensor.__array__) and on_cuda(args[0]):
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        if func is Tensor.tolist and on_cuda(args[0]):
            device.wait("tolist")
        if func is Tensor.__deepcopy__:
            made = func(*args, **kwargs)
            if on_cuda(args[0]):
                device.mark(made)
            return made
        if kwargs.get("device") is not None:
            cuda = torch.device(kwargs["device"]).type == "cuda"
            generator = kwargs.get("generator")
            if generator is not None and (generator.device.type == "cuda") != cuda:
                raise RuntimeError("Expected a generator of the tensor's device")
            kwargs["device"] = torch.device("cpu")
            source = args[0] if args and isinstance(args[0], Tensor) else None
            with device.making(cuda):
                made = func(*args, **kwargs)
                if (
                    func is torch.as_tensor
                    and cuda
                    and not (source is not None and on_cuda(source))
                ):
                    made = made.clone()  # which would share numpy's memory
                if cuda:
                    device.mark(made)
            if cuda and func in (torch.tensor, torch.as_tensor):
                device.wait("copy to the device")
            return made
        return func(*args, **kwargs)

    def to(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        options = {k: kwargs.pop(k) for k in ("copy",) if k in kwargs}
        other = kwargs.pop("other", args[0] if args and isinstance(args[0], Tensor) else None)
        if other is not None:
            return self.move(x, self.device.on_cuda(other), {"dtype": other.dtype, **options})
        place, dtype, _, layout = torch._C._nn._parse_to(*args, **kwargs)
        options |= {} if dtype is None else {"dtype": dtype}
        options |= {} if layout is None else {"memory_format": layout}
        cuda = self.device.on_cuda(x) if place is None else place.type == "cuda"
        return self.move(x, cuda, options)

    def move(self, x: Tensor, cuda: bool, options: dict[str, Any]) -> Tensor:
        options.setdefault("dtype", x.dtype)
        if cuda == self.device.on_cuda(x):
            return x.to(**options)
        self.device.wait("copy between devices")
        with self.device.making(cuda):
            return x.to(**{**options, "copy": True})
