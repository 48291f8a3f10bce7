"""Files appear whole or not at all: written beside their final name, then renamed."""

import os
import uuid
from pathlib import Path

from foveate.errors import FoveateError


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
        temporary.unlink(missing_ok=True)
        raise FoveateError(f"cannot write {target}: {e.strerror or e}") from None
    return target


def check_target(path: str | os.PathLike[str]) -> Path:
    """The path of a file that could be written, checked before the work that fills it.

    Raises:
        FoveateError: its folder does not exist, or it names a folder.
    """
    target = Path(path).expanduser()
    if target.is_dir():
        raise FoveateError(f"{target} is a folder; name a file in it")
    if not target.parent.is_dir():
        raise FoveateError(f"cannot write {target}: there is no folder {target.parent}; create it first")
    return target
