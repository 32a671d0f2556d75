"""Starts the parts of a training, keeps its log, restarts a failed part once, and stops overdue parts."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.table import Table

from pipeline.settings import PROJECT_ROOT
from training.timed.clock import Now
from training.timed.recipe import Part, TimedRecipe
from training.timed.results import FOLDER, StageResult, read_results
from training.timed.shared_scenes import Layout, SharedScenes

MODULES: Mapping[Part, str] = {
    "drawing": "training.timed.drawing",
    "autoencoder": "training.timed.autoencoder",
    "denoiser": "training.timed.denoiser",
    "sam2": "training.timed.segmenter",
    "clip": "training.timed.classifier",
}
HOST_THREADS = "2"  # of a part, unless set in the environment: the cores are busy drawing
# No downloads, and output suitable for a log.
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "DIFFUSERS_VERBOSITY": "error", "TQDM_DISABLE": "1", "COLUMNS": "120"}
POLL_S = 0.2
LOADING_S = 180.0  # at most, before the clock starts without parts that are still loading
RESTART_UNTIL = 0.5  # of the time; later, a restart would be useless
TERMINATION_S = 5.0  # from SIGTERM to SIGKILL
LOG_FILE, RECIPE_FILE = "log.txt", "recipe.json"


class FailedParts(Exception):
    """Parts have failed permanently; the others have written their weights. Holds the parts' names."""


@dataclass(kw_only=True)
class RunningPart:
    """A part's process."""

    process: subprocess.Popen[str]
    reader: threading.Thread
    restarts_left: int = 1
    failed: bool = False
    is_over: bool = False


class Log:
    """Lines of all parts, with the time and the part's name, on the terminal and in a file."""

    def __init__(self, file: Path, now: Now) -> None:
        self._file = file.open("w", buffering=1)
        self._now = now
        self._start_s = now()
        self._lock = threading.Lock()

    def write(self, name: str, line: str) -> None:
        """Write a line."""
        stamped = f"[{self._now() - self._start_s:6.1f} {name}] {line.rstrip()}\n"
        with self._lock:
            self._file.write(stamped)
            sys.stdout.write(stamped)
            sys.stdout.flush()

    def follow(self, name: str, stream: IO[str]) -> None:
        """Write a process' output until it ends."""
        with stream:
            for line in stream:
                if line.strip():
                    self.write(name, line)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Supervisor:
    """The processes of a training.

    Args:
        recipe: what is trained.
        modules: the module of each part, run by this interpreter.
        now: a clock in seconds that the parts share.
    """

    def __init__(self, recipe: TimedRecipe, modules: Mapping[Part, str] = MODULES, now: Now = time.monotonic) -> None:
        self._recipe = recipe
        self._modules = modules
        self._now = now
        shutil.rmtree(recipe.work / FOLDER, ignore_errors=True)
        recipe.work.mkdir(parents=True, exist_ok=True)
        (recipe.work / RECIPE_FILE).write_text(recipe.model_dump_json(indent=2) + "\n")
        layout = Layout(num=recipe.num_scenes, chunk=recipe.scale.chunk, side=recipe.scale.side)
        self._scenes = SharedScenes.create(layout)
        self._log = Log(recipe.work / LOG_FILE, now)
        self._parts: dict[Part, RunningPart] = {}

    def run(self) -> list[StageResult]:
        """Train, and return the stages' results.

        Raises:
            FailedParts: some parts have failed permanently.
        """
        recipe = self._recipe
        self._say(f"{recipe.minutes:g} min for {', '.join(recipe.models)}; {recipe.num_scenes} scenes")
        previous = signal.signal(signal.SIGTERM, _interrupt)
        try:
            for name in recipe.parts:
                self._start(name)
            self._wait_for_libraries()
            self._wait_for_ends()
        finally:
            self._end_all()
            signal.signal(signal.SIGTERM, previous)
            self._scenes.close()
            self._log.close()
        if failed := [name for name, part in self._parts.items() if part.failed]:
            raise FailedParts(", ".join(failed))
        return read_results(recipe.work)

    def _say(self, line: str) -> None:
        self._log.write("supervisor", line)

    def _start(self, name: Part) -> None:
        command = [sys.executable, "-u", "-m", self._modules[name]]
        command += ["--recipe", str(self._recipe.work / RECIPE_FILE), "--descriptor", str(self._scenes.descriptor)]
        paths = os.pathsep.join(filter(None, [str(PROJECT_ROOT), os.environ.get("PYTHONPATH")]))
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={"OMP_NUM_THREADS": HOST_THREADS, **os.environ, **ENVIRONMENT, "PYTHONPATH": paths},
            pass_fds=[self._scenes.descriptor],
            text=True,
            errors="replace",
            start_new_session=True,
        )
        # A thread per part reads its output, or a part with much output would block.
        reader = threading.Thread(target=self._log.follow, args=(name, process.stdout), daemon=True)
        reader.start()
        if name in self._parts:
            self._parts[name].process, self._parts[name].reader = process, reader
        else:
            self._parts[name] = RunningPart(process=process, reader=reader)

    def _wait_for_libraries(self) -> None:
        deadline = self._now() + LOADING_S
        while self._now() < deadline and not all(self._scenes.is_loaded(name) for name in self._parts):
            self._check()
            time.sleep(POLL_S)
        self._scenes.started_at = self._now()
        self._say("the clock starts")

    def _wait_for_ends(self) -> None:
        deadline = self._now() + 60 * self._recipe.minutes + self._recipe.scale.grace_s
        while not all(part.is_over for part in self._parts.values()):
            self._check()
            if self._now() >= deadline:
                late = [name for name, part in self._parts.items() if not part.is_over]
                self._say(f"late, and ended: {', '.join(late)}")
                for name in late:
                    self._parts[name].failed = True
                return
            time.sleep(POLL_S)

    def _check(self) -> None:
        for name, part in self._parts.items():
            code = part.process.poll()
            if part.is_over or code is None:
                continue
            part.reader.join(TERMINATION_S)
            self._say(f"{name} ended with {code}")
            if code and part.restarts_left and self._can_restart():
                part.restarts_left -= 1
                self._say(f"{name} is started once more")
                self._start(name)
                continue
            part.is_over, part.failed = True, code != 0
            self._scenes.mark_ended(name)

    def _can_restart(self) -> bool:
        start = self._scenes.started_at
        return start is None or self._now() < start + RESTART_UNTIL * 60 * self._recipe.minutes

    def _end_all(self) -> None:
        running = [part.process for part in self._parts.values() if part.process.poll() is None]
        for number in (signal.SIGTERM, signal.SIGKILL):
            for process in running:
                if process.poll() is None:
                    os.killpg(process.pid, number)
            for process in running:
                try:
                    process.wait(TERMINATION_S)
                except subprocess.TimeoutExpired:
                    continue
        for part in self._parts.values():
            part.reader.join(TERMINATION_S)


def tabulate_results(results: Sequence[StageResult]) -> Table:
    """Table of the stages' results for a terminal."""
    table = Table("stage", "steps", "batch", "seconds", "first loss", "last loss")
    for result in results:
        table.add_row(
            result.stage,
            str(result.steps),
            str(result.batch),
            f"{result.seconds:.0f}",
            f"{result.first_loss:.4f}",
            f"{result.last_loss:.4f}",
        )
    return table


def print_results(results: Sequence[StageResult]) -> None:
    """Print the stages' results."""
    Console().print(tabulate_results(results))


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt
