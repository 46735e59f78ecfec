"""The playground's web server: this machine only, no telemetry, files that vanish with it."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from dfml.errors import RunError, UsageError

if TYPE_CHECKING:  # torch takes seconds to import, and a port in use shall be an error at once
    from dfml.learners import MetaLearner
    from dfml.playground.zoo_view import ZooView

HOST = "127.0.0.1"
"""The loopback address: other machines cannot connect."""


def require_gradio() -> None:
    """Check that gradio is installed.

    Raises:
        UsageError: If it is not.
    """
    if find_spec("gradio") is None:
        raise UsageError(
            "the playground needs gradio, which is not installed; install it with: pip install 'dfml[serve]'"
        )


def require_free_port(port: int) -> None:
    """Check that a port of this machine can be used, before minutes of work.

    Raises:
        RunError: If another program, such as another playground, uses it.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port of a program that has just ended is free
        try:
            probe.bind((HOST, port))
        except OSError as error:
            reason = "is in use, perhaps by another playground" if error.errno == errno.EADDRINUSE else error.strerror
            raise RunError(f"port {port} of this machine {reason}; choose another with --port") from error


@contextmanager
def serve_playground(
    learner: MetaLearner, source: str, view: Callable[[], ZooView], *, port: int, examples: bool = False
) -> Iterator[str]:
    """Serve the playground until the end of the `with` block.

    Args:
        learner: Learner that visitors adapt.
        source: Where it comes from, for the heading.
        view: Opens the zoo of the second tab.
        port: Port on the loopback address.
        examples: Whether visitors can fill in example letters; only of use with a learner of letters.

    Yields:
        Address of the page.

    Raises:
        RunError: If the port is in use.
    """
    require_free_port(port)
    with TemporaryDirectory(prefix="dfml-playground-") as folder:
        _configure(Path(folder))
        from dfml.playground.app import CSS, LARGEST_FILE, build_app, theme
        from dfml.playground.example_images import ExampleImages

        letters = ExampleImages(Path(folder) / "letters", learner.preprocessing.size) if examples else None
        app = build_app(learner, source, view, letters, Path(folder))
        options: dict[str, Any] = {"theme": theme(), "css": CSS, "footer_links": [], "run_history": False}
        try:
            _, address, _ = app.launch(
                server_name=HOST,
                server_port=port,
                share=False,
                quiet=True,
                prevent_thread_lock=True,
                ssr_mode=False,
                enable_monitoring=False,
                pwa=False,
                mcp_server=False,
                max_file_size=LARGEST_FILE,
                **options,
            )
        except OSError as error:  # another program was faster
            raise RunError(
                f"port {port} of this machine cannot be used ({error}); choose another with --port"
            ) from error
        try:
            yield address
        finally:
            app.close(verbose=False)


def wait_for_interrupt() -> None:
    """Return when the user ends the command by Ctrl-C or SIGTERM."""
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        return


def _configure(folder: Path) -> None:
    """Set what gradio reads from the environment when it is imported: no telemetry, uploads into the folder.

    Args:
        folder: Folder for uploads.
    """
    os.environ |= {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "GRADIO_TEMP_DIR": str(folder / "uploads"),
        "GRADIO_SHARE": "False",
    }
