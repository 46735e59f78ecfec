from __future__ import annotations

import socket

import pytest

from dfml.errors import RunError, UsageError
from dfml.playground import server


def test_a_port_in_use_is_an_error_that_names_the_option() -> None:
    with socket.socket() as other:
        other.bind((server.HOST, 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(RunError, match=f"port {port} of this machine is in use, .*--port"):
            server.require_free_port(port)
    server.require_free_port(port)


def test_without_gradio_there_is_a_clear_message(monkeypatch: pytest.MonkeyPatch) -> None:
    server.require_gradio()
    monkeypatch.setattr(server, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'dfml\[serve\]'"):
        server.require_gradio()
