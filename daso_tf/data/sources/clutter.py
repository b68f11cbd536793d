"""What systems, cameras and programs leave next to pictures, and is none of them."""

from __future__ import annotations

import os

# Thumbnails and other folders of network drives, archives, trash and file systems.
_FOLDERS = {
    "@eadir",
    "@recycle",
    "@tmp",
    "@__thumb",
    "#recycle",
    "#snapshot",
    "$recycle.bin",
    "__macosx",
    "__pycache__",
    "lost+found",
    "system volume information",
}
_FILES = {"thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "icon\r"}
# Metadata and edits of photographs, lists and notes about them, and videos among them.
_SUFFIXES = {
    *(".aae", ".cos", ".dop", ".exif", ".lrcat", ".lrprev", ".on1", ".pp3", ".xmp"),
    *(".csv", ".db", ".htm", ".html", ".ini", ".ipynb", ".json", ".jsonl", ".log", ".md", ".npy"),
    *(".ods", ".pdf", ".py", ".tsv", ".txt", ".xls", ".xlsx", ".xml", ".yaml", ".yml"),
    *(".md5", ".sha1", ".sha256", ".lnk", ".url", ".webloc"),
    *(".3gp", ".avi", ".m4v", ".mov", ".mp4"),
}
_THUMBNAIL = ".thm"  # a JPEG file that a camera writes next to a video
# JPEG, PNG, GIF, TIFF and JPEG 2000: such a file is a picture whatever its name.
_PICTURES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP")


class Clutter:
    """Recognizes such files and folders by name, and remembers what it has met.

    Args:
        root: The folder to which the paths in its note are relative.

    Example:

    >>> clutter = Clutter("pictures")
    >>> names = ["1.jpg", "Thumbs.db", "2.jpg", "1.xmp", "2.xmp"]
    >>> [name for name in names if not clutter.has(f"pictures/cat/{name}", is_folder=False)]
    ['1.jpg', '2.jpg']
    >>> clutter.note()
    "'cat/Thumbs.db'; 'cat/1.xmp' and 1 more *.xmp"
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self._root = root
        self._met: dict[str, dict[str, None]] = {}  # paths by kind, each once, in order

    def has(self, path: str, is_folder: bool) -> bool:
        """Returns whether a path is no picture and no folder of pictures."""
        name = os.path.basename(path)
        suffix = os.path.splitext(name)[1].casefold()
        if name.casefold() in (_FOLDERS if is_folder else _FILES):
            kind = name
        elif is_folder:
            return False
        elif suffix == _THUMBNAIL or (suffix in _SUFFIXES and not _is_picture(path)):
            kind = f"*{suffix}"
        else:
            return False
        self._met.setdefault(kind, {})[path] = None
        return True

    def note(self) -> str:
        """Returns what was met: the first of each kind, and how many more; empty for nothing."""
        kinds = [
            repr(os.path.relpath(next(iter(paths)), self._root))
            + f" and {len(paths) - 1} more {kind}" * (len(paths) > 1)
            for kind, paths in self._met.items()
        ]
        return "; ".join(kinds[:10]) + f"; and {len(kinds) - 10} more kinds" * (len(kinds) > 10)


def _is_picture(path: str) -> bool:
    if not os.path.isfile(path):  # a pipe would block
        return False
    try:
        with open(path, "rb") as file:
            return file.read(8).startswith(_PICTURES)
    except OSError:
        return False
