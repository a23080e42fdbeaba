"""The terminal: lines go out, keys come in, and it is left as it was found, however this program ends but by KILL.

The only place that uses curses. Signals are not its business: they are caught before it begins, so that curses
installs no handlers of its own, and end the program where it can put the terminal back.
"""

from __future__ import annotations

import locale
import os
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType

from taskpool.errors import ConfigurationError
from taskpool.generator.top.screen import Line, Size, Style

_ESCAPE_MS = 25  # how long the rest of an escape sequence may take to come
_KEYS_AT_ONCE = 256
_NAMES = {"\t": "tab", "\n": "enter", "\r": "enter", "\x1b": "escape", "\x7f": "backspace", "\b": "backspace"}


class Terminal:
    """The whole screen, for as long as it is used as a context."""

    def __init__(self) -> None:
        """Raises ConfigurationError where the terminal's type is not known."""
        try:
            import curses
        except ImportError as error:  # some builds of Python have none
            raise ConfigurationError(f"top needs curses, which this Python lacks ({error}): use `status`") from None
        self._curses = curses
        with suppress(locale.Error):  # as curses, which prints by it, would have it
            locale.setlocale(locale.LC_CTYPE, "")
        try:
            curses.setupterm(os.environ.get("TERM", "unknown"), 1)
        except curses.error as error:
            raise ConfigurationError(
                f"TERM={os.environ.get('TERM', '')!r}: nothing is known of such a terminal here ({error}): set TERM to "
                "xterm or linux, or use `status`"
            ) from None
        if not curses.tigetstr("cup"):
            raise ConfigurationError(
                f"TERM={os.environ.get('TERM', '')!r}: such a terminal cannot place text: use `status`, or set TERM to "
                "what it really is"
            )

    def __enter__(self) -> Terminal:
        curses = self._curses
        os.environ.setdefault("ESCDELAY", str(_ESCAPE_MS))
        self._window = curses.initscr()
        try:
            curses.noecho()
            curses.cbreak()
            self._window.keypad(True)
            self._window.nodelay(True)
            with suppress(curses.error):  # not every terminal can hide it
                curses.curs_set(0)
            self._styles = self._make_styles()
        except BaseException:
            curses.endwin()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # It may be gone: then there is nothing to put back.
        with suppress(self._curses.error):
            self._window.keypad(False)
            self._curses.nocbreak()
            self._curses.echo()
            self._curses.endwin()

    @property
    def size(self) -> Size:
        """How large it is now."""
        rows, columns = self._window.getmaxyx()
        return Size(rows, columns)

    def resize(self) -> None:
        """Take the size that it has been given."""
        with suppress(OSError, self._curses.error):
            columns, rows = os.get_terminal_size(1)
            self._curses.resizeterm(max(rows, 1), max(columns, 1))
            self._window.clear()

    def draw(self, lines: Sequence[Line]) -> None:
        """Show a screen; only what has changed is written."""
        # By the locale: what it has no character for is a question mark, and no error.
        encoding = self._window.encoding
        self._window.erase()
        for row, line in enumerate(lines[: self.size.rows]):
            text = line.text.encode(encoding, "replace").decode(encoding)
            # The last column of the last line too: curses has written it when it says that the cursor cannot go on.
            with suppress(self._curses.error):
                self._window.addstr(row, 0, text, self._styles[line.style])
        self._window.refresh()

    def take_keys(self) -> list[str]:
        """Return what was typed: characters, and names of other keys. Never waits."""
        found = []
        for _ in range(_KEYS_AT_ONCE):
            try:
                key = self._window.get_wch()
            except self._curses.error:  # nothing more
                break
            found.append(_NAMES.get(key, key) if isinstance(key, str) else self._name_of(key))
        return found

    def _name_of(self, key: int) -> str:
        curses = self._curses
        names = {
            curses.KEY_UP: "up",
            curses.KEY_DOWN: "down",
            curses.KEY_PPAGE: "page up",
            curses.KEY_NPAGE: "page down",
            curses.KEY_BACKSPACE: "backspace",
            curses.KEY_ENTER: "enter",
        }
        return names.get(key, f"key {key}")

    def _make_styles(self) -> dict[Style, int]:
        curses = self._curses
        styles = dict.fromkeys(Style, 0) | {Style.HEAD: curses.A_BOLD, Style.CHOSEN: curses.A_REVERSE}
        colours = {Style.GOOD: curses.COLOR_GREEN, Style.BAD: curses.COLOR_RED, Style.NOTE: curses.COLOR_CYAN}
        if not curses.has_colors():
            return styles
        curses.start_color()
        # On the background that the terminal has: black on a white one would hurt the eyes.
        with suppress(curses.error):
            curses.use_default_colors()
            for number, (style, colour) in enumerate(colours.items(), 1):
                curses.init_pair(number, colour, -1)
                styles[style] = curses.color_pair(number)
        return styles
