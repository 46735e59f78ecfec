"""Jobs that end in different ways."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from dfml.errors import RunError


@dataclass(frozen=True)
class Job:
    """Does what its name says, in a folder."""

    what: str
    folder: Path

    @property
    def title(self) -> str:
        return self.what

    def run(self) -> None:
        match self.what:
            case "fail":
                raise RunError("no room\non the disk")
            case "crash":
                os.kill(os.getpid(), signal.SIGKILL)
            case "bug":
                print(1 / 0)
            case "exit":
                os._exit(3)
            case "sleep":
                (self.folder / "started").touch()
                try:
                    time.sleep(600)
                finally:
                    (self.folder / "cleaned").touch()
            case _:
                print("working", flush=True)
                (self.folder / "written").write_text("done")
