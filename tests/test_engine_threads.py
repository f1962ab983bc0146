"""num_threads: an engine computes with that many threads, whatever torch's own number, and nothing else changes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_samples import BUDGET, PROFILE, RUNNABLE_FILES, batch_of, differ, engine_file, engine_of, small_model

from albert_fast import compile, pipeline
from albert_fast.cli import main
from albert_fast.engine import FORMATS, aotinductor, in_process, load, threads
from albert_fast.errors import EngineError

PROCESSORS = os.cpu_count() or 1
two_processors = pytest.mark.skipif(PROCESSORS < 2, reason="needs two processors")
ON_CPU = [row for row in RUNNABLE_FILES if "cpu" in FORMATS[row.values[0]].devices]


def seen_by_others() -> int:
    """How many threads torch has in a Python thread that is new."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(torch.get_num_threads).result()


def recording(found: list[Any]) -> Callable[..., Any]:
    return lambda *inputs: found.append(torch.get_num_threads()) or {}


@pytest.mark.parametrize("count", [0, -1, True, 1.0, "2", 100_000])
def test_a_number_that_no_machine_can_do_is_refused_before_the_file_is_looked_at(count: Any) -> None:
    message = rf"num_threads is {count!r}, expected 1\.\.{PROCESSORS}, as this machine has {PROCESSORS} processors"
    with pytest.raises(ValueError, match=message):
        load("no/such/file.pt2", num_threads=count)
    with pytest.raises(ValueError, match=message):
        in_process(small_model(), profile=PROFILE, num_threads=count)
    with pytest.raises(ValueError, match=message):
        compile("no/such/model", num_threads=count)
    with pytest.raises(ValueError, match=message):
        pipeline("fill-mask", "albert-fast/wordnet", num_threads=count)


def test_an_engine_on_a_gpu_takes_no_number_of_threads() -> None:
    with pytest.raises(ValueError, match="num_threads is of engines on the CPU, this one is for 'cuda'"):
        load("no/such/file.pt2", device="cuda", num_threads=1)


@two_processors
def test_the_number_is_that_of_the_call_and_of_no_other_thread() -> None:
    before, during, others = torch.get_num_threads(), [], []
    run = threads.limited(lambda *inputs: others.append(seen_by_others()) or recording(during)(), 1)
    for torchs_own in (2, 1):
        torch.set_num_threads(torchs_own)
        try:
            run()
            assert torch.get_num_threads() == torchs_own
            with ThreadPoolExecutor(1) as pool:
                pool.submit(run).result()
        finally:
            torch.set_num_threads(before)
    assert during == [1, 1, 1, 1] and others == [2, 2, 1, 1]


@two_processors
def test_engines_with_different_numbers_run_at_the_same_time() -> None:
    together, found = threading.Barrier(2), dict[int, set[int]]()

    def call(count: int) -> None:
        def run(*inputs: Any) -> dict[str, Any]:
            together.wait()
            found.setdefault(count, set()).add(torch.get_num_threads())
            together.wait()
            return {}

        for _ in range(20):
            threads.limited(run, count)()

    callers = [threading.Thread(target=call, args=(count,)) for count in (1, 2)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert found == {1: {1}, 2: {2}}


@two_processors
def test_the_number_is_put_back_behind_a_call_that_fails() -> None:
    def run(*inputs: Any) -> Any:
        raise EngineError("no")

    before = torch.get_num_threads()
    with pytest.raises(EngineError, match="no"):
        threads.limited(run, 1 if before > 1 else 2)()
    assert torch.get_num_threads() == before


SCRIPT = """
import importlib, os, torch
from albert_fast import load, Batch
for name in {imports}:
    importlib.import_module(name)  # ONNX Runtime then starts a thread that computes nothing
torch.set_num_threads({torchs_own})
torch.get_num_threads()
def count():
    return len(os.listdir("/proc/self/task"))
with torch.inference_mode():
    ids = torch.ones(4, 48, dtype=torch.int64)
    torch.ones(3) + 1
    before = count()
    engine = load({path!r}, num_threads={num_threads})
    for _ in range(3):
        engine(Batch(ids))
print(count() - before, torch.get_num_threads(), engine)
"""


@two_processors
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts threads in /proc, which only Linux has")
@pytest.mark.parametrize(
    ("format", "num_threads", "torchs_own"),
    [
        ("exported_program", 2, 1),
        *(pytest.param(*row.values, 1, 2, marks=row.marks) for row in ON_CPU if not FORMATS[row.values[0]].one_pool),
    ],
)
def test_a_process_has_as_many_threads_as_its_engine_was_given(format: str, num_threads: int, torchs_own: int) -> None:
    path, imports = str(engine_file(format)), [name for name in FORMATS[format].imports if name.endswith("runtime")]
    script = SCRIPT.format(path=path, imports=imports, num_threads=num_threads, torchs_own=torchs_own)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    more, torchs, shown = done.stdout.split(maxsplit=2)
    assert (int(more), int(torchs)) == (num_threads - 1, torchs_own)
    assert f"num_threads={num_threads})" in shown


@pytest.mark.skipif(FORMATS["saved_model"].missing() is not None, reason=FORMATS["saved_model"].missing() or "")
@two_processors
def test_the_one_pool_of_tensorflow_takes_one_number_and_another_is_refused() -> None:
    script = f"""
import torch
from albert_fast import load, Batch, EngineError
path = {str(engine_file("saved_model"))!r}
engine = load(path, num_threads=1)
engine(Batch(torch.ones(4, 48, dtype=torch.int64)))
print(load(path, num_threads=1).num_threads, load(path).num_threads)
try:
    load(path, num_threads=2)
except EngineError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    numbers, refusal = done.stdout.splitlines()
    assert numbers == "1 None"
    assert refusal.startswith("num_threads=2 was asked for, but the runtime of saved_model has one pool of threads")


@pytest.mark.parametrize("format", ["eager", "inductor"])
def test_an_engine_in_this_process_answers_the_same_with_a_number_of_its_own(format: str) -> None:
    batch = batch_of(3, 9)
    engine = in_process(small_model(), format=format, profile=PROFILE, num_threads=1)
    assert engine.num_threads == 1 and engine_of(format).num_threads is None
    assert differ(engine(batch), engine_of(format)(batch)) <= BUDGET.max_abs


def test_compile_pipeline_and_the_command_hand_the_number_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def made() -> Any:
        return compile(
            "albert-fast/wordnet", head="masked-lm", format="exported_program", profile="1x1:2x16:4x32",
            cache_dir=tmp_path, num_threads=1,
        )  # fmt: skip

    built, cached = made(), made()
    assert built.num_threads == cached.num_threads == 1
    assert pipeline("fill-mask", "albert-fast/wordnet", num_threads=1).engine.num_threads == 1
    with pytest.raises(
        ValueError, match=r"the engine computes with num_threads=1, num_threads=2 was asked for; give it"
    ):
        pipeline("fill-mask", built, "albert-fast/wordnet", num_threads=2)
    file, asked = next(tmp_path.glob("*.pt2")), list[Any]()
    limited = threads.limited
    monkeypatch.setattr(threads, "limited", lambda run, count: asked.append(count) or limited(run, count))
    assert main(["run", str(file), "a [MASK]", "--threads", "1"]) == 0
    assert asked == [1]
    capsys.readouterr()
    assert main(["run", str(file), "a [MASK]", "--threads", "0"]) == 1
    assert "num_threads is 0, expected 1.." in capsys.readouterr().err


def test_a_package_lets_as_many_callers_in_as_their_threads_leave_processors_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found: list[int] = []
    monkeypatch.setattr(aotinductor, "load_package", lambda path, device, callers: found.append(callers))
    for processors, mine in ((1, 1), (2, 1), (8, 2), (8, 8), (64, 1)):
        monkeypatch.setattr(threads.os, "cpu_count", lambda processors=processors: processors)
        with threads.using(mine):
            aotinductor.read(Path("engine.pt2"), device="cpu", profiles=(PROFILE,), notes={})
    assert found == [1, 2, 4, 1, threads.MOST_CALLERS]


def test_eight_callers_of_a_package_at_the_same_time_are_answered_rightly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads.os, "cpu_count", lambda: 8)
    engine, plain = load(engine_file("aotinductor"), num_threads=1), engine_of("aotinductor")
    batches = [batch_of(4, length) for length in range(5, 45, 5)]
    expected = [plain(batch) for batch in batches]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(20):
            answers = list(pool.map(engine, batches))
            assert max(differ(a, e) for a, e in zip(answers, expected, strict=True)) <= BUDGET.max_abs
