"""Files appear whole or not at all: written beside their final name, then renamed."""

import contextlib
import os
import uuid
from collections.abc import Iterable
from pathlib import Path

from foveate.errors import FoveateError, short


def place(path: str | os.PathLike[str]) -> Path:
    """A path that somebody wrote, with ~ resolved; the system can be asked about it without surprises.

    Raises:
        FoveateError: no path: a user who does not exist, too long a name, or a character that no name holds.
    """
    text = os.fspath(path)
    try:
        found = Path(text).expanduser()
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            found.lstat()
    except (OSError, RuntimeError, ValueError) as e:
        why = getattr(e, "strerror", None) or str(e)
        raise FoveateError(f"{short(text)!r} can be no path: {why.rstrip('.')}; check it") from None
    return found


def read(path: str | os.PathLike[str], what: str) -> str:
    """The text of a UTF-8 file, with or without a byte-order mark.

    Args:
        path: the file.
        what: it is, for the message.

    Raises:
        FoveateError: it is missing, or no text.
    """
    try:
        return place(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeError) as e:
        reason = getattr(e, "strerror", None) or "it is not UTF-8 text"
        raise FoveateError(f"cannot read {what} {path}: {reason}") from None


def write(path: str | os.PathLike[str], data: bytes) -> Path:
    """Write `data` to `path`, replacing what is there in one step.

    Raises:
        FoveateError: the folder does not exist or cannot be written to.
    """
    target = check_target(path)
    # In the same folder, so that the rename stays on one file system and is atomic.
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, target)
    except OSError as e:
        raise FoveateError(f"cannot write {target}: {e.strerror or e}") from None
    finally:
        # Also after Ctrl-C; after the rename there is nothing.
        temporary.unlink(missing_ok=True)
    return target


def check_target(path: str | os.PathLike[str]) -> Path:
    """The path of a file that could be written, checked before the work that fills it.

    Raises:
        FoveateError: its folder does not exist or cannot be written to, or it names a folder.
    """
    target = place(path)
    if target.is_dir():
        raise FoveateError(f"{target} is a folder; name a file in it")
    if not target.parent.is_dir():
        raise FoveateError(f"cannot write {target}: there is no folder {target.parent}; create it first")
    _check_writable(target.parent)
    return target


def check_spared(target: Path, read: Iterable[str | os.PathLike[str]], option: str) -> None:
    """Refuse to write over a file that is read.

    Args:
        target: what would be written.
        read: paths that are read, all of them there.
        option: that named the target, for the message.

    Raises:
        FoveateError: the target is one of them.
    """
    if target.exists() and any(target.samefile(place(path)) for path in read):
        raise FoveateError(f"{option} {target} is read here, and would be written over; name another file")


def folder(path: str | os.PathLike[str], option: str = "--out") -> Path:
    """A folder for results, made where it is missing.

    Args:
        path: the folder.
        option: that named it, for the message.

    Raises:
        FoveateError: it cannot be made or written to.
    """
    found = place(path)
    try:
        found.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise FoveateError(f"cannot make the folder {found}: {e.strerror}; name another with {option}") from None
    _check_writable(found)
    return found


def _check_writable(folder: Path) -> None:
    if not os.access(folder, os.W_OK):
        raise FoveateError(f"nothing can be written in the folder {folder}; name another, or change its permissions")
