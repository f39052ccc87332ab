"""An environment that tells how often each of its episodes was judged."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

from agentrl.env import Episode, Verdict, register
from agentrl.envs.arithmetic import ArithmeticEnv

COUNTING = "tests.evaluation.counting:tests/Counting-v0"


class CountingEnv(ArithmeticEnv):
    """Arithmetic whose judge writes down whom it judged, takes its time, and fails or hangs where it is told to."""

    def __init__(self, *, log: str, pause: float = 0.0, failing: str = "", hanging: str = "", **options: Any) -> None:
        """`failing` fails while the file `<log>.broken` is there."""
        super().__init__(**options)
        self._log, self._pause = Path(log), pause
        self._failing, self._hanging = failing, hanging

    async def judge(self, episode: Episode) -> Verdict:  # type: ignore[override]
        with self._log.open("a") as log:
            log.write(f"{episode.task.id} {episode.seed}\n")
        if episode.task.id == self._failing and Path(f"{self._log}.broken").exists():
            raise RuntimeError("the judge is broken")
        await asyncio.sleep(3600 if episode.task.id == self._hanging else self._pause)
        return super().judge(episode)


register("tests/Counting-v0", CountingEnv)


def judged(log: Path) -> Counter[tuple[str, int]]:
    """How often each (task, seed) was judged."""
    lines = log.read_text().splitlines() if log.exists() else []
    return Counter((line.split()[0], int(line.split()[1])) for line in lines)


def suite_file(folder: Path, *, tasks: int, samples: int = 1, entries: int = 1, **options: Any) -> Path:
    """A suite of entries in that environment, `one`, `two` ..., with the log beside it."""
    names = ("one", "two", "three")[:entries]
    given = ", ".join(f"{key}: {value}" for key, value in {"log": folder / "log", **options}.items())
    lines = [f"  {name}: {{env: '{COUNTING}', options: {{{given}, seed: {n}}}}}" for n, name in enumerate(names)]
    text = f"samples: {samples}\nlimits: {{max_turns: 4}}\nentries:\n" + "\n".join(lines) + "\n"
    text = text.replace("}}", f"}}, tasks: {tasks}}}")
    file = folder / "counting.yaml"
    file.write_text(text)
    return file
