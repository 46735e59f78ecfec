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
from typing import TYPE_CHECKING

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
    _listen(port).close()


def _listen(port: int) -> socket.socket:
    try:
        return socket.create_server((HOST, port))
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
    with TemporaryDirectory(prefix="dfml-playground-") as folder, _listen(port) as listener:
        _configure(Path(folder))
        import uvicorn

        from dfml.playground.app import build_app, mount
        from dfml.playground.example_images import ExampleImages

        letters = ExampleImages(Path(folder) / "letters", learner.preprocessing.size) if examples else None
        site = mount(build_app(learner, source, view, letters, Path(folder)), HOST, port)
        # Not gradio's own `launch`: it gives up if the machine is too busy to answer within seconds, or has a proxy.
        server = uvicorn.Server(uvicorn.Config(site, log_level="error", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            while not server.started:
                thread.join(timeout=0.1)
                if not thread.is_alive():
                    raise RunError(f"the web server at port {port} has not started; see the messages above")
            yield f"http://{HOST}:{port}"
        finally:
            server.should_exit = True
            thread.join(timeout=10)


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
