"""Text that somebody else wrote, and that may be damaged or hostile: bounded before it is believed, and never a traceback.

1. `reading(path)`: whatever goes wrong while a foreign file is read is one sentence that begins with the file's name.
2. `json_of`, `yaml_of`: size and nesting have a limit that the sentence names, and no key stands twice.
3. Of YAML: no aliases (461 bytes of them stand for gigabytes), and no number that YAML 1.1 reads otherwise than people do.
"""

import json
import re
import reprlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

BYTES = 256 * 2**20
"""The largest JSON, or table of text, that is read."""
YAML_BYTES = 2**20
"""The largest configuration."""
DEPTH = 64
"""How deep lists and objects may be nested."""
SENTENCE = 1000
"""The longest complaint, in characters."""
_DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9_]*|0x[0-9a-fA-F_]+|0b[01_]+)")


@contextmanager
def reading(path: Path | str, what: str = "") -> Iterator[None]:
    """What goes wrong in the block is one sentence that begins with the file's name.

    Args:
        path: of the foreign file or folder.
        what: it is, such as "a model's config.json"; said of errors that nobody wrote as a sentence.

    Raises:
        FileNotFoundError: where it was one.
        OSError: where the machine could not read it.
        ValueError: for everything else: also RecursionError, MemoryError, and the panics of Rust libraries.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(sentence(path, error)) from error
    except OSError as error:
        raise OSError(sentence(path, error)) from error
    except Exception as error:
        raise ValueError(sentence(path, error, what)) from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise ValueError(sentence(path, error, what)) from error


def sentence(path: Path | str, error: BaseException, what: str = "") -> str:
    """An error in words, of bounded length, that begins with the file's name."""
    text, name, kind = clean(str(error)), clean(str(path)), type(error).__name__
    if name in text:
        return cut(text, SENTENCE)
    if isinstance(error, MemoryError):
        text = "it asks for more memory than there is"
    elif isinstance(error, RecursionError):
        text = f"nested deeper than {DEPTH} levels"
    elif type(error) is not ValueError and not isinstance(error, OSError):
        named = "" if isinstance(error, ValueError) else f"{kind}: "
        return cut(f"{name} cannot be read{f' as {what}' if what else ''}: {named}{text or kind}", SENTENCE)
    return cut(f"{name}: {text or kind}", SENTENCE)


def clean(text: str) -> str:
    """Without what a terminal would obey; lines stay lines."""
    return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text[: 4 * SENTENCE])


def cut(text: str, length: int) -> str:
    """The text, or its beginning."""
    return text if len(text) <= length else f"{text[:length]} …"


_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = 60
_short.maxlevel = 3


def shown(value: Any) -> str:
    """A foreign value in an error: escaped, and short whatever it is."""
    try:
        return clean(cut(_short.repr(value), 200))
    except Exception:  # a number of too many digits
        return f"a {type(value).__name__}"


def bytes_of(path: Path | str, most: int = BYTES) -> bytes:
    """A file's content.

    Raises:
        ValueError: where it has more than `most` bytes.
    """
    with Path(path).open("rb") as stream:
        content = stream.read(most + 1)
    if len(content) > most:
        raise ValueError(f"{path}: larger than {most:,} bytes, which is the most that is read")
    return content


def json_of(path: Path | str) -> Any:
    """What a foreign JSON file holds.

    Raises:
        ValueError: naming the file.
    """
    with reading(path, "json"):
        return json_text(bytes_of(path).decode("utf-8"), str(path))


def object_of(path: Path | str) -> dict[str, Any]:
    """What a foreign JSON file holds, which has to be an object.

    Raises:
        ValueError: naming the file.
    """
    found = json_of(path)
    if not isinstance(found, dict):
        raise ValueError(f"{path}: holds a {type(found).__name__}, expected an object with keys and values")
    return found


def json_text(text: str, where: str) -> Any:
    """What a foreign JSON text holds; NaN is a number, as Python writes it.

    Raises:
        ValueError: naming where it stands: no JSON, nested too deep, too large, or a key twice.
    """
    with reading(where, "json"):
        if len(text) > BYTES:
            raise ValueError(f"longer than {BYTES:,} characters, which is the most that is read")
        found = json.loads(text, object_pairs_hook=_once)
        if text.count("[") + text.count("{") > DEPTH:
            _shallow(found)
        return found
    raise AssertionError  # for type checkers: `reading` never swallows


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise ValueError(f"key {shown(twice)} stands twice in one object; which is meant?")
    return found


def _shallow(value: Any) -> None:
    """Level by level: nothing here can overflow a stack.

    Raises:
        ValueError: where it is nested too deep.
    """
    level, depth = [value], 0
    while level := [v for v in level if isinstance(v, dict | list)]:
        depth += 1
        if depth > DEPTH:
            raise ValueError(f"nested deeper than {DEPTH} levels")
        level = [inner for v in level for inner in (v.values() if isinstance(v, dict) else v)]


def yaml_of(path: Path | str) -> Any:
    """What a foreign YAML file holds.

    Raises:
        ValueError: naming the file, the line, and what to write instead.
    """
    with reading(path, "YAML"):
        text = bytes_of(path, YAML_BYTES).decode("utf-8")
        try:
            return yaml.load(text, _Plain)
        except yaml.YAMLError as error:
            raise ValueError(f"{path} is not YAML: {error}") from None
    raise AssertionError


class _Plain(yaml.SafeLoader):
    """YAML that means what it looks like."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """A node; nesting is bounded here, before anything is made of it."""
        event: Any = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise _refusal(event.start_mark, f"*{event.anchor} repeats another part (an alias): write the part out")
        if self.depth >= DEPTH:
            raise _refusal(event.start_mark, f"nested deeper than {DEPTH} levels")
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """Keys and values, each key once."""
        seen = set()
        for key, _ in node.value:
            if key.value in seen if isinstance(key.value, str) else False:
                raise _refusal(key.start_mark, f"key {shown(key.value)} stands twice; which is meant?")
            seen.add(key.value if isinstance(key.value, str) else id(key))
        return super().construct_mapping(node, deep)

    def number(self, node: Any) -> Any:
        """A number as it is written."""
        text = self.construct_scalar(node)
        whole = node.tag.endswith(":int")
        if (whole and not _DECIMAL.fullmatch(text)) or ":" in text:
            value = self.construct_yaml_int(node) if whole else self.construct_yaml_float(node)
            why = "as seconds of minutes" if ":" in text else "as octal"
            raise _refusal(
                node.start_mark,
                f"{shown(text)} is {value} to YAML ({why}): write {value}, the decimal number that is meant, or {text!r} in "
                "quotes for a text",
            )
        return self.construct_yaml_int(node) if whole else self.construct_yaml_float(node)


_Plain.add_constructor("tag:yaml.org,2002:int", _Plain.number)
_Plain.add_constructor("tag:yaml.org,2002:float", _Plain.number)


def _refusal(mark: Any, why: str) -> ValueError:
    return ValueError(f"line {mark.line + 1}: {why}")
