"""ONNX Runtime behind the protocol of runtimes: what fits is answered, all else is refused in words."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from atoll.domain.errors import AtollError, DataError, LinkError
from atoll.domain.models import Skill, TensorFacts
from atoll.runtimes.contract import Ask, Facts
from atoll.runtimes.onnx.runtime import OnnxRuntime
from atoll.runtimes.onnx.wants import Wants
from atoll.start import start_models
from support import graphs

SEED = 7
FOR_EVER = np.array(2**40, np.int64)
DEADLINE_SECONDS = 60.0


@asynccontextmanager
async def running(file: Path, **wants: Any) -> AsyncIterator[tuple[OnnxRuntime, Facts]]:
    runtime = OnnxRuntime(file, Wants(**{"threads": 1, **wants}))
    facts = await runtime.start()
    try:
        yield runtime, facts
    finally:
        await runtime.stop()


def rows(count: int, seed: int = SEED) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(size=(count, 4)).astype(np.float32)


async def refused(asking: Any, code: str, *words: str) -> AtollError:
    with pytest.raises(AtollError) as caught:
        await asking
    error = caught.value
    assert error.code == code
    told = f"{error.message} {error.detail}"
    assert all(word in told for word in words), told
    return error


async def test_a_model_says_what_it_takes_and_gives(tiny_onnx: Path) -> None:
    async with running(tiny_onnx) as (_, facts):
        assert facts.skills == {Skill.INFER}
        assert facts.inputs == (TensorFacts("x", "FP32", (-1, 4)),)
        assert facts.outputs == (TensorFacts("scores", "FP32", (-1, 3)), TensorFacts("best", "INT64", (-1,)))
        assert facts.memory_bytes > 0


async def test_it_answers_what_the_weights_say(tiny_onnx: Path) -> None:
    async with running(tiny_onnx) as (runtime, _):
        x = rows(5)
        found = await runtime.infer({"x": x})
        np.testing.assert_allclose(found["scores"], graphs.scores(x), rtol=1e-5)
        assert found["best"].tolist() == graphs.scores(x).argmax(axis=1).tolist()
        assert list(await runtime.infer({"x": x}, ["best"])) == ["best"]
        assert (await runtime.infer({"x": rows(0)}))["scores"].shape == (0, 3)


async def test_every_datatype_of_the_protocol_comes_back_as_it_went(tmp_path: Path) -> None:
    kinds = {1: "float32", 10: "float16", 11: "float64", 9: "bool"}
    kinds |= {
        2: "uint8",
        3: "int8",
        4: "uint16",
        5: "int16",
        6: "int32",
        7: "int64",
        12: "uint32",
        13: "uint64",
    }
    given = {f"in{kind}": np.array([[0, 1], [1, 0], [1, 1]], name) for kind, name in kinds.items()}
    given["in8"] = np.array([["wave", ""], ["café", "波"], ["a\0b", "x"]], object)
    async with running(graphs.save_echo(tmp_path / "echo.onnx", [*kinds, 8])) as (runtime, _):
        found = await runtime.infer(given)
        for name, array in given.items():
            assert found[name.replace("in", "out")].tolist() == array.tolist(), name
        as_bytes = np.array([[b"wave", b"caf\xc3\xa9"]])
        given = {name: array[:1] for name, array in given.items()} | {"in8": as_bytes}
        assert (await runtime.infer(given, ["out8"]))["out8"].tolist() == [["wave", "café"]]
        given["in8"] = np.array([[b"\xff", b""]], object)
        await refused(runtime.infer(given), "request-refused", '"in8"', "UTF-8")


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({}, ('"x" is missing', "FP32")),
        ({"x": rows(1), "y": rows(1)}, ('no input "y"', '"x"')),
        ({"x": rows(1).astype(np.float64)}, ('"x" is FP64', "wants FP32")),
        ({"x": np.array([["a"] * 4], object)}, ('"x" is BYTES', "wants FP32")),
        ({"x": rows(1).astype(np.complex64)}, ('"x" is complex64', "wants FP32")),
        ({"x": rows(2)[:, :3]}, ("shape [2, 3]", "[-1, 4]")),
        ({"x": rows(1)[0]}, ("shape [4]", "[-1, 4]")),
        ({"x": np.float32(1)}, ("shape []", "[-1, 4]")),
    ],
)
async def test_what_does_not_fit_is_refused_by_name(
    tiny_onnx: Path, inputs: dict[str, Any], words: tuple[str, ...]
) -> None:
    async with running(tiny_onnx) as (runtime, _):
        assert isinstance(await refused(runtime.infer(inputs), "request-refused", *words), DataError)
        assert (await runtime.infer({"x": rows(1)}))["scores"].shape == (1, 3)


async def test_an_output_that_does_not_exist_is_refused(tiny_onnx: Path) -> None:
    async with running(tiny_onnx) as (runtime, _):
        await refused(
            runtime.infer({"x": rows(1)}, ["worst"]), "request-refused", 'no output "worst"', '"best"'
        )


async def test_values_that_the_engine_refuses_are_the_callers_to_mend(tmp_path: Path) -> None:
    async with running(graphs.save_lookup(tmp_path / "m.onnx")) as (runtime, _):
        index = np.array([3, 10], np.int64)
        await refused(runtime.infer({"index": index}), "request-refused", "out of data bounds, idx=10")
        assert (await runtime.infer({"index": index[:1]}))["found"].tolist() == [4.5]


async def test_what_a_model_is_not_made_for_is_refused(tiny_onnx: Path) -> None:
    async with running(tiny_onnx) as (runtime, _):
        await refused(runtime.embed(["wave"]), "skill-missing")
        with pytest.raises(DataError, match="generate"):
            runtime.generate(Ask("/v1/completions", {}))


async def test_a_caller_that_leaves_stops_its_run(tmp_path: Path) -> None:
    async with running(graphs.save_slow(tmp_path / "slow.onnx"), at_once_max=1) as (runtime, _):
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await runtime.infer({"rounds": FOR_EVER})
        async with asyncio.timeout(DEADLINE_SECONDS):
            found = await runtime.infer({"rounds": np.array(2, np.int64)})
        assert found["total"] == 256


async def test_a_run_that_does_not_end_is_ended(tmp_path: Path) -> None:
    async with running(graphs.save_slow(tmp_path / "slow.onnx"), run_seconds_max=0.1) as (runtime, _):
        await refused(runtime.infer({"rounds": FOR_EVER}), "runtime-slow")
        assert (await runtime.infer({"rounds": np.array(1, np.int64)}))["total"] == 256


async def test_a_full_queue_is_told_at_once_and_a_long_wait_ends(tmp_path: Path) -> None:
    bounds = {"at_once_max": 1, "waiting_max": 3, "wait_seconds_max": 0.2}
    async with running(graphs.save_slow(tmp_path / "slow.onnx"), **bounds) as (runtime, _):
        asked = [asyncio.ensure_future(runtime.infer({"rounds": FOR_EVER})) for _ in range(4)]
        await asyncio.sleep(0)
        error = await refused(runtime.infer({"rounds": FOR_EVER}), "runtime-crowded", "3 requests")
        assert isinstance(error, LinkError)
        for waiting in asked[1:]:
            await refused(waiting, "runtime-slow", "begin")
        asked[0].cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        assert (await runtime.infer({"rounds": np.array(1, np.int64)}))["total"] == 256


async def test_stopping_breaks_off_what_runs_and_what_waits(tmp_path: Path) -> None:
    runtime = OnnxRuntime(graphs.save_slow(tmp_path / "slow.onnx"), Wants(at_once_max=1))
    await runtime.start()
    asked = [asyncio.ensure_future(runtime.infer({"rounds": FOR_EVER})) for _ in range(3)]
    await asyncio.sleep(0.02)
    async with asyncio.timeout(DEADLINE_SECONDS):
        await runtime.stop()
        await runtime.stop()
    for broken in asked:
        await refused(broken, "runtime-broken")
    await refused(runtime.infer({"rounds": FOR_EVER}), "runtime-broken")


async def test_the_loop_goes_on_while_the_engine_works(tmp_path: Path) -> None:
    async with running(graphs.save_slow(tmp_path / "slow.onnx")) as (runtime, _):
        asked = asyncio.ensure_future(runtime.infer({"rounds": FOR_EVER}))
        for _ in range(200):
            await asyncio.sleep(0)
        assert not asked.done()
        asked.cancel()


async def test_loading_can_be_given_up(tmp_path: Path) -> None:
    runtime = OnnxRuntime(graphs.save_slow(tmp_path / "slow.onnx"))
    starting = asyncio.ensure_future(runtime.start())
    await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    await refused(runtime.infer({}), "runtime-broken")
    await runtime.stop()


async def test_many_callers_each_get_their_own_answer(tiny_onnx: Path) -> None:
    """Merged or not: rows of different counts, wrong requests in between, some callers leave."""
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    async with running(tiny_onnx, waiting_max=500, at_once_max=1) as (runtime, facts):
        assert facts.details["merges"]

        async def ask(number: int) -> None:
            x = rows(number % 11, seed=number)
            if number % 7 == 0:
                await refused(runtime.infer({"x": x.astype(np.int64)}), "request-refused")
                return
            wanted = ["scores"] if number % 2 else ["scores", "best"]
            asking = asyncio.ensure_future(runtime.infer({"x": x}, wanted))
            if number % 5 == 0:
                await asyncio.sleep(rng.random() / 1000)
                if asking.cancel():
                    return
            found = await asking
            assert list(found) == wanted
            np.testing.assert_allclose(found["scores"], graphs.scores(x), rtol=1e-4, atol=1e-6)

        await asyncio.gather(*(ask(number) for number in range(400)))


async def test_an_error_among_merged_requests_is_told_to_its_own_caller(tmp_path: Path) -> None:
    async with running(graphs.save_lookup(tmp_path / "m.onnx"), at_once_max=1) as (runtime, facts):
        assert facts.details["merges"]
        asked = [runtime.infer({"index": np.array([number], np.int64)}) for number in range(14)]
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        for number, outcome in enumerate(outcomes):
            if number < 10:
                assert isinstance(outcome, dict), outcome
                assert outcome["found"].tolist() == [number * 1.5]
            else:
                assert isinstance(outcome, DataError)


@pytest.mark.parametrize("save", [graphs.save_centred, graphs.save_int8])
async def test_a_model_whose_rows_touch_each_other_is_never_merged(
    tmp_path: Path, save: Callable[[Path], Path]
) -> None:
    async with running(save(tmp_path / "m.onnx"), at_once_max=1) as (runtime, facts):
        assert not facts.details["merges"]
        alone = [(await runtime.infer({"x": rows(2, seed)}))["y"] for seed in range(8)]
        together = await asyncio.gather(*(runtime.infer({"x": rows(2, seed)}) for seed in range(8)))
        for one, other in zip(alone, together, strict=True):
            assert one.tolist() == other["y"].tolist()


@pytest.mark.parametrize("damage", ["empty", "words", "half", "huge", "missing", "folder", "operator"])
async def test_a_file_that_is_no_good_is_unusable_and_the_node_lives(
    tiny_onnx: Path, tmp_path: Path, damage: str
) -> None:
    import onnx

    file = tmp_path / "m.onnx"
    whole = await asyncio.to_thread(tiny_onnx.read_bytes)
    model = onnx.load_from_string(whole)
    model.graph.initializer[0].dims[0] = 2**40
    huge = model.SerializeToString()
    model = onnx.load_from_string(whole)
    model.graph.node[0].op_type = "Nonsense"
    contents = {"empty": b"", "words": b"no model at all", "half": whole[: len(whole) // 2], "huge": huge}
    contents["operator"] = model.SerializeToString()
    if damage == "folder":
        file.mkdir()
    elif damage != "missing":
        file.write_bytes(contents[damage])
    error = await refused(OnnxRuntime(file).start(), "model-unusable", "m.onnx")
    assert error.detail


async def test_flipped_bytes_are_loaded_or_refused(tiny_onnx: Path, tmp_path: Path) -> None:
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    whole = await asyncio.to_thread(tiny_onnx.read_bytes)
    for number in range(60):
        content = bytearray(whole)
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        file = tmp_path / f"{number}.onnx"
        file.write_bytes(content)
        runtime = OnnxRuntime(file)
        try:
            await runtime.start()
        except DataError as error:
            print(number, error.detail)
        await runtime.stop()


def test_nothing_is_told_to_the_makers_of_the_engine(tmp_path: Path) -> None:
    """What it is to report, it would write down first."""
    model = next(one.path for one in start_models() if one.name == "digits")
    code = f"""
        import asyncio
        from pathlib import Path
        from atoll.runtimes.onnx.runtime import OnnxRuntime
        async def run():
            runtime = OnnxRuntime(Path({str(model)!r}))
            await runtime.start()
            await runtime.stop()
        asyncio.run(run())
    """
    places = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "TMPDIR"), str(tmp_path))
    told = {name: value for name, value in os.environ.items() if "TELEMETRY" not in name}
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=told | places, check=True, timeout=120)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
