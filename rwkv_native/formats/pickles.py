"""A small interpreter for the pickle inside a PyTorch checkpoint.

Owns the allow-list: these opcodes, these globals, and nothing else. A global is never looked up in
Python; the few names that checkpoints use become inert values of ours, others are refused by name.
Called by pth.py only. Never imports, calls or allocates anything on the file's behalf: every
step costs constant time, lengths are bounded by the bytes at hand, and steps are counted.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# Official checkpoints take some 40 steps per tensor and have at most 2 500 tensors; this allows
# 6 000 and keeps the refusal of a hostile file near half a second.
MAX_STEPS = 250_000
MAX_BYTES = 16 << 20

# Element types of torch's storages: (safetensors name, bytes per element).
STORAGES = {
    "torch.DoubleStorage": ("F64", 8),
    "torch.FloatStorage": ("F32", 4),
    "torch.HalfStorage": ("F16", 2),
    "torch.BFloat16Storage": ("BF16", 2),
    "torch.LongStorage": ("I64", 8),
    "torch.IntStorage": ("I32", 4),
    "torch.ShortStorage": ("I16", 2),
    "torch.CharStorage": ("I8", 1),
    "torch.ByteStorage": ("U8", 1),
    "torch.BoolStorage": ("BOOL", 1),
}


# Classes that a tensor may say it has; they change nothing for us.
CLASSES = frozenset({"torch.Tensor", "torch.nn.parameter.Parameter"})


class PickleError(ValueError):
    """The pickle is damaged or asks for more than a checkpoint needs."""


@dataclass(frozen=True, slots=True, eq=False)
class Name:
    """An allowed global: only its name, nothing behind it."""

    name: str


@dataclass(frozen=True, slots=True, eq=False)
class Storage:
    """A persistent id: `numel` elements in the file's member `key`."""

    dtype: str
    item_size: int
    key: str
    numel: int


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A tensor as the pickle describes it, in elements; not yet checked against the file."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _is_size(value: Any) -> bool:
    # bool is an int to isinstance; 2**62 keeps every later product of ours meaningful to C.
    return type(value) is int and 0 <= value < 1 << 62


def _is_sizes(value: Any) -> bool:
    return type(value) is tuple and len(value) <= 8 and all(_is_size(v) for v in value)


def _rebuild_tensor(args: tuple[Any, ...]) -> View:
    # (storage, offset, size, stride[, requires_grad, backward_hooks[, metadata]])
    if not 4 <= len(args) <= 7:
        raise PickleError(f"a tensor is rebuilt from {len(args)} arguments")
    storage, offset, shape, strides = args[:4]
    if type(storage) is not Storage:
        raise PickleError("a tensor is rebuilt from something that is not a storage")
    if not _is_size(offset):
        raise PickleError("a tensor's storage offset is not a number from 0 up")
    if not _is_sizes(shape) or not _is_sizes(strides) or len(shape) != len(strides):
        raise PickleError("a tensor's shape or strides are not at most 8 numbers from 0 up")
    return View(storage, offset, shape, strides)


def _rebuild_parameter(args: tuple[Any, ...]) -> View:
    # (data, requires_grad, backward_hooks)
    if len(args) != 3 or type(args[0]) is not View:
        raise PickleError("a parameter is rebuilt from something that is not a tensor")
    return args[0]


def _ordered_dict(args: tuple[Any, ...]) -> dict[Any, Any]:
    if args:
        raise PickleError("an OrderedDict is made with arguments")
    return {}


def _rebuild_parameter_with_state(args: tuple[Any, ...]) -> View:
    # (data, requires_grad, backward_hooks, attributes)
    if len(args) != 4:
        raise PickleError(f"a parameter with attributes is rebuilt from {len(args)} arguments")
    return _rebuild_parameter(args[:3])


def _rebuild_from_type(args: tuple[Any, ...]) -> View:
    # (function, class, arguments, attributes); attributes, such as names, change no element.
    if len(args) != 4 or type(args[0]) is not Name or type(args[1]) is not Name:
        raise PickleError("a tensor is rebuilt from something that is not its class")
    rebuild = _CALLS.get(args[0].name)
    if rebuild not in (_rebuild_tensor, _rebuild_parameter) or args[1].name not in CLASSES:
        raise PickleError("a tensor is rebuilt by something that does not make tensors")
    if type(args[2]) is not tuple:
        raise PickleError("a tensor is rebuilt from something that is not a tuple")
    return rebuild(args[2])


_CALLS: dict[str, Callable[[tuple[Any, ...]], Any]] = {
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": _rebuild_parameter_with_state,
    "torch._tensor._rebuild_from_type_v2": _rebuild_from_type,
    "collections.OrderedDict": _ordered_dict,
}


def _shown(name: str) -> str:
    """A name from the file, safe to print."""
    return ascii(name[:200])[1:-1]


class Interpreter:
    """One run over one pickle. `run()` returns the object that the pickle describes.

    data: the pickle starts at byte `at` and may be followed by others. steps: at most so many.
    """

    def __init__(self, data: bytes, at: int = 0, steps: int = MAX_STEPS) -> None:
        self._data = data
        self.at = at  # of the next byte
        self.steps = steps  # that are left
        self.storages: dict[str, Storage] = {}
        self._stack: list[Any] = []
        self._marks: list[int] = []  # stack heights
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        opcodes = _OPCODES
        for used in range(self.steps):
            code = self._take(1)[0]
            if code == 0x2E:  # STOP
                if len(self._stack) != 1 or self._marks:
                    raise PickleError("the pickle ends with an uneven stack")
                self.steps -= used
                return self._stack[0]
            step = opcodes.get(code)
            if step is None:
                raise PickleError(f"opcode {_opcode_name(code)} is not allowed")
            step(self)
        raise PickleError(f"the pickle has more than {MAX_STEPS} steps")

    # -- input and stack

    def _take(self, n: int) -> bytes:
        at = self.at
        chunk = self._data[at : at + n]
        if len(chunk) != n:
            raise PickleError("the pickle is cut off")
        self.at = at + n
        return chunk

    def _number(self, form: str) -> int:
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _line(self) -> str:
        end = self._data.find(b"\n", self.at, self.at + 512)
        if end < 0:
            raise PickleError("a name in the pickle has no end")
        line = self._data[self.at : end]
        self.at = end + 1
        return line.decode("utf-8", "replace")

    def _pop(self) -> Any:
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            raise PickleError("the pickle takes more from its stack than it has")
        return self._stack.pop()

    def _top(self, kind: type, what: str) -> Any:
        if not self._stack or type(self._stack[-1]) is not kind:
            raise PickleError(f"the pickle wants to {what} something that is not a {kind.__name__}")
        return self._stack[-1]

    def _since_mark(self) -> list[Any]:
        if not self._marks:
            raise PickleError("the pickle closes a group that it did not open")
        height = self._marks.pop()
        values = self._stack[height:]
        del self._stack[height:]
        return values

    # -- opcodes

    def _proto(self) -> None:
        if (version := self._take(1)[0]) not in (2, 3, 4, 5):
            raise PickleError(f"pickle protocol {version} is not 2 to 5")

    def _frame(self) -> None:
        # Only a hint for readers of streams; the bound is the data itself.
        self._take(8)

    def _push_mark(self) -> None:
        self._marks.append(len(self._stack))

    def _push_text(self, size: int) -> None:
        try:
            self._stack.append(self._take(size).decode("utf-8"))
        except UnicodeDecodeError:
            raise PickleError("a text in the pickle is not UTF-8") from None

    def _long1(self) -> None:
        self._stack.append(int.from_bytes(self._take(self._take(1)[0]), "little", signed=True))

    def _push_tuple(self, n: int) -> None:
        values = [self._pop() for _ in range(n)]
        self._stack.append(tuple(reversed(values)))

    def _put(self, index: int) -> None:
        if not self._stack:
            raise PickleError("the pickle remembers the top of an empty stack")
        self._memo[index] = self._stack[-1]

    def _get(self, index: int) -> None:
        if index not in self._memo:
            raise PickleError(f"the pickle recalls value {index}, which it never stored")
        self._stack.append(self._memo[index])

    def _set_items(self, pairs: list[Any]) -> None:
        if len(pairs) % 2:
            raise PickleError("the pickle sets a key without a value")
        target = self._top(dict, "set items of")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            # Other keys would be hashed, and hashing a deeply nested tuple overflows the stack.
            if type(key) not in (str, int):
                raise PickleError(f"a key is a {type(key).__name__}, not a text or number")
            target[key] = value

    def _set_item(self) -> None:
        value, key = self._pop(), self._pop()
        self._set_items([key, value])

    def _append(self) -> None:
        value = self._pop()
        self._top(list, "append to").append(value)

    def _appends(self) -> None:
        values = self._since_mark()
        self._top(list, "append to").extend(values)

    def _named(self, module: str, name: str) -> None:
        full = f"{module}.{name}"
        if full not in _CALLS and full not in STORAGES and full not in CLASSES:
            raise PickleError(f"the pickle asks for {_shown(full)}, which no checkpoint needs")
        self._stack.append(Name(full))

    def _global(self) -> None:
        module = self._line()
        self._named(module, self._line())

    def _stack_global(self) -> None:
        name, module = self._pop(), self._pop()
        if type(module) is not str or type(name) is not str:
            raise PickleError("the pickle asks for a global whose name is not a text")
        self._named(module, name)

    def _inst(self) -> None:
        self._global()
        raise PickleError("opcode INST is not allowed")

    def _reduce(self) -> None:
        args, function = self._pop(), self._pop()
        if type(function) is not Name or function.name not in _CALLS or type(args) is not tuple:
            raise PickleError("the pickle calls something that is not a function for tensors")
        self._stack.append(_CALLS[function.name](args))

    def _build(self) -> None:
        # Modules' state_dict() hangs {"_metadata": ...} on its OrderedDict. Nothing needs it.
        state = self._pop()
        self._top(dict, "set the state of")
        if type(state) is not dict:
            raise PickleError("the pickle sets a state that is not a dict")

    def _persistent_id(self) -> None:
        pid = self._pop()
        if type(pid) is not tuple or len(pid) not in (5, 6) or type(pid[0]) is not str:
            raise PickleError("a persistent id is not a storage")
        kind, storage, key, _location, numel = pid[:5]
        if kind != "storage" or type(storage) is not Name or storage.name not in STORAGES:
            raise PickleError("a persistent id is not a storage")
        if type(key) is not str or not 0 < len(key) <= 512 or not _is_size(numel):
            raise PickleError("a storage's key or element count is not valid")
        if len(pid) == 6 and pid[5] is not None:
            raise PickleError("a storage is a view of another one")
        made = Storage(*STORAGES[storage.name], key, numel)
        known = self.storages.setdefault(key, made)
        if (known.dtype, known.numel) != (made.dtype, made.numel):
            raise PickleError(f"storage {_shown(key)} is described in two ways")
        self._stack.append(known)


_OPCODES: dict[int, Callable[[Interpreter], None]] = {
    0x80: Interpreter._proto,
    0x95: Interpreter._frame,
    ord("("): Interpreter._push_mark,
    ord("}"): lambda s: s._stack.append({}),
    ord("]"): lambda s: s._stack.append([]),
    ord(")"): lambda s: s._stack.append(()),
    ord("N"): lambda s: s._stack.append(None),
    0x88: lambda s: s._stack.append(True),
    0x89: lambda s: s._stack.append(False),
    ord("J"): lambda s: s._stack.append(s._number("<i")),
    ord("K"): lambda s: s._stack.append(s._take(1)[0]),
    ord("M"): lambda s: s._stack.append(s._number("<H")),
    0x8A: Interpreter._long1,
    ord("G"): lambda s: s._stack.append(s._number(">d")),
    ord("X"): lambda s: s._push_text(s._number("<I")),
    0x8C: lambda s: s._push_text(s._take(1)[0]),
    ord("t"): lambda s: s._stack.append(tuple(s._since_mark())),
    0x85: lambda s: s._push_tuple(1),
    0x86: lambda s: s._push_tuple(2),
    0x87: lambda s: s._push_tuple(3),
    ord("q"): lambda s: s._put(s._take(1)[0]),
    ord("r"): lambda s: s._put(s._number("<I")),
    0x94: lambda s: s._put(len(s._memo)),
    ord("h"): lambda s: s._get(s._take(1)[0]),
    ord("j"): lambda s: s._get(s._number("<I")),
    ord("s"): Interpreter._set_item,
    ord("u"): lambda s: s._set_items(s._since_mark()),
    ord("a"): Interpreter._append,
    ord("e"): Interpreter._appends,
    ord("c"): Interpreter._global,
    0x93: Interpreter._stack_global,
    ord("i"): Interpreter._inst,
    ord("R"): Interpreter._reduce,
    ord("b"): Interpreter._build,
    ord("Q"): Interpreter._persistent_id,
}

# Names of what is refused, for messages.
_REFUSED = {
    "d": "DICT", "l": "LIST", "o": "OBJ", "P": "PERSID", "I": "INT", "L": "LONG", "F": "FLOAT",
    "S": "STRING", "T": "BINSTRING", "U": "SHORT_BINSTRING", "V": "UNICODE", "B": "BINBYTES",
    "C": "SHORT_BINBYTES", "g": "GET", "p": "PUT", "0": "POP", "1": "POP_MARK", "2": "DUP",
    "\x81": "NEWOBJ", "\x82": "EXT1", "\x83": "EXT2", "\x84": "EXT4", "\x8b": "LONG4",
    "\x8d": "BINUNICODE8", "\x8e": "BINBYTES8", "\x8f": "EMPTY_SET", "\x90": "ADDITEMS",
    "\x91": "FROZENSET", "\x92": "NEWOBJ_EX", "\x96": "BYTEARRAY8", "\x97": "NEXT_BUFFER",
    "\x98": "READONLY_BUFFER",
}  # fmt: skip


def _opcode_name(code: int) -> str:
    return _REFUSED.get(chr(code), f"0x{code:02x}")


class Chain:
    """Pickles in a row, as PyTorch before 1.6 wrote them; the step limit is for all together."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._steps = MAX_STEPS
        self.at = 0  # of the byte after the last pickle
        self.storages: dict[str, Storage] = {}  # of the last pickle

    def next(self) -> Any:
        run = Interpreter(self._data, self.at, self._steps)
        value = run.run()
        self.at, self._steps, self.storages = run.at, run.steps, run.storages
        return value


def parse(data: bytes) -> Any:
    """The object that `data`, one whole pickle, describes. Raises PickleError."""
    if len(data) > MAX_BYTES:
        raise PickleError(f"the pickle has {len(data)} bytes, more than {MAX_BYTES}")
    return Interpreter(data).run()
