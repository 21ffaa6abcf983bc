"""What happened in training, one JSON object a line, so that an interrupted training keeps its curves."""

import json
import os
from pathlib import Path
from typing import Any


class History:
    """Entries in the order in which they came; each has a `step`. Reopening at step s forgets what came after it."""

    def __init__(self, path: Path, step: int = 0) -> None:
        self.path = path
        self.entries: list[dict[str, Any]] = []
        if path.exists():
            for line in path.read_text().splitlines():
                try:
                    entry = json.loads(line)
                except json.JSONDecodeError:  # the line during which the machine stopped
                    break
                if entry["step"] <= step:
                    self.entries.append(entry)
        partial = path.with_name(f"{path.name}.part")
        partial.write_text("".join(json.dumps(entry) + "\n" for entry in self.entries))
        os.replace(partial, path)

    def add(self, entry: dict[str, Any]) -> None:
        self.entries.append(entry)
        with self.path.open("a") as file:
            file.write(json.dumps(entry) + "\n")
