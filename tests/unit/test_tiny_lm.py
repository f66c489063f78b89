"""The example trainer: it really learns, it resumes bit for bit, and a monitor takes it for Megatron-LM."""

import json
import math
import os
import random
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "tiny_lm" / "train.py"
sys.path.insert(0, str(SCRIPT.parents[2]))  # the example is no part of the installed package

from examples.tiny_lm import train  # noqa: E402

pytestmark = pytest.mark.slow

SMALL = ("--hidden-size=8", "--embedding-size=4", "--context=2", "--batch-size=8", "--eval-interval=0")
EACH = (*SMALL, "--log-interval=1")
TIMESTAMP = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}"

ITERATION = re.compile(
    r"^ \[(?P<ts>[\d-]+ [\d:.]+)\] iteration\s+(?P<iter>\d+)/\s*(?P<total>\d+) \|(?P<rest>.*)\|\s*$", re.MULTILINE
)
FIELD = re.compile(r" ([^|:]+(?:\([^)]*\))?):\s+([^|]+?) \|")
SAVED = re.compile(r"successfully saved checkpoint from iteration\s+(?P<iteration>\d+) to (?P<path>\S+)")


def environment(**variables: str) -> dict[str, str]:
    """This process's environment without a rank in it and with output buffered as usual, and then `variables`."""
    dropped = ("RANK", "WORLD_SIZE", "SLURM_", "PYTHONUNBUFFERED")
    return {key: value for key, value in os.environ.items() if not key.startswith(dropped)} | variables


def run(*args: object, code: int = 0, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the trainer to its end, which must come with exit code `code`."""
    argv = [sys.executable, str(SCRIPT), *map(str, args)]
    done = subprocess.run(
        argv, capture_output=True, text=True, timeout=60, env=environment(**variables), cwd=SCRIPT.parent, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


@contextmanager
def started(*args: object) -> Iterator[subprocess.Popen[str]]:
    """The running trainer, killed at the end if the test did not end it."""
    argv = [sys.executable, str(SCRIPT), *map(str, args)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, bufsize=1, text=True, env=environment()) as process:
        try:
            yield process
        finally:
            process.kill()


def read_until(process: subprocess.Popen[str], wanted: str) -> str:
    """All lines up to the first that holds `wanted`."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if wanted in line:
            return "".join(lines)
    raise AssertionError(f"{wanted!r} never came:\n{''.join(lines)}")


def fields(line: re.Match[str]) -> dict[str, str]:
    """The fields of one iteration line by name."""
    return dict(FIELD.findall(line["rest"] + "|"))


def losses(output: str) -> dict[int, str]:
    """Iteration → loss, as printed; an iteration that is printed twice must have the same loss twice."""
    result: dict[int, str] = {}
    for line in ITERATION.finditer(output):
        loss = fields(line)["lm loss"]
        assert result.setdefault(int(line["iter"]), loss) == loss
    return result


def iterations(output: str) -> list[int]:
    """The iterations that were printed, in their order."""
    return [int(line["iter"]) for line in ITERATION.finditer(output)]


def checkpoints(save: Path) -> list[int]:
    """The iterations saved in `save`, each read back whole; the tracker must name one of them."""
    found = []
    for folder in sorted(save.glob("iter_*")):
        state = train.State.from_json((folder / train.STATE_FILE).read_text())
        assert folder.name == f"iter_{state.iteration:07d}"
        found.append(state.iteration)
    newest = train.saved_iteration(save)
    assert newest == 0 or newest in found
    return found


@pytest.fixture(scope="module")
def straight() -> dict[int, str]:
    """The losses of 120 iterations without a break."""
    return losses(run(*EACH, "--train-iters=120").stdout)


# --- it learns --------------------------------------------------------------------------------------------------------


def test_the_gradient_is_the_derivative_of_the_loss() -> None:
    rng = random.Random(1)
    model = train.Model.random(rng, context=2, embedding_size=3, hidden_size=4)
    for row in model.output:
        row[:] = [rng.gauss(0.0, 1.0) for _ in row]
    contexts, targets = [b"\x01\x02", b"\x02\x02", b"\x05\x00"], [3, 2, 1]
    _, gradient = model.gradient(contexts, targets)
    step = 1e-5
    for row, slopes in zip(model.rows(), gradient.rows(), strict=True):
        for column, slope in enumerate(slopes):
            ends = []
            for move in (step, -2 * step):
                row[column] += move
                ends.append(model.gradient(contexts, targets)[0])
            row[column] += step
            assert slope == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=1e-8)


def test_a_long_gradient_is_cut_to_the_limit_and_its_real_norm_reported() -> None:
    assert train.clip([[3.0], [4.0]], 10.0) == (5.0, [[3.0], [4.0]])
    assert train.clip([[3.0], [4.0]], 0.5) == (5.0, [[3.0 * 0.5 / 5.0], [4.0 * 0.5 / 5.0]])


def test_adam_moves_by_the_learning_rate_while_the_gradient_stays() -> None:
    weights = [[0.0, 0.0]]
    adam = train.Adam([[0.0, 0.0]], [[0.0, 0.0]])
    for count in (1, 2, 3):
        adam.step(weights, [[5.0, -0.01]], lr=0.1, count=count)
        assert weights[0] == pytest.approx([-0.1 * count, 0.1 * count], rel=1e-5)


def test_the_loss_starts_at_that_of_a_guess_and_falls() -> None:
    found = losses(run("--log-interval=1", "--train-iters=40", "--eval-interval=0").stdout)
    assert float(found[1]) == pytest.approx(math.log(len(train.ALPHABET)), abs=0.1)
    assert float(found[40]) < 2.8


def test_a_rate_too_small_learns_slower_and_one_too_large_not_at_all(straight: dict[int, str]) -> None:
    def last(rate: float) -> float:
        return float(losses(run(*SMALL, "--log-interval=30", f"--lr={rate}").stdout)[120])

    good = sum(float(straight[i]) for i in range(91, 121)) / 30
    assert good + 0.3 < last(1e-4) < last(10.0)


def test_a_rate_that_overflows_ends_in_nan_lines_and_not_in_a_traceback() -> None:
    done = run(*EACH, "--lr=1e300", "--train-iters=5", "--eval-interval=5")
    assert iterations(done.stdout) == [1, 2, 3, 4, 5]
    assert "lm loss value: NAN" in done.stdout
    assert done.stderr == ""


def test_another_seed_gives_another_run_and_the_same_seed_the_same(straight: dict[int, str]) -> None:
    assert losses(run(*EACH, "--train-iters=2").stdout) == {i: straight[i] for i in (1, 2)}
    assert losses(run(*EACH, "--train-iters=1", "--seed=7").stdout)[1] != straight[1]


def test_text_becomes_places_in_the_alphabet_and_all_else_one_space() -> None:
    assert [train.ALPHABET[place] for place in train.encode("A *b*,\n\n9 c'é")] == list("a b , c' ")
    assert len(train.encode(train.read_text())) > 100_000


def test_without_the_help_topics_it_reads_source_code_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    assert "class ArgumentParser" in train.read_text()
    assert len(train.encode(train.read_text())) > 100_000


@pytest.mark.parametrize(
    ("style", "expected"),
    [
        ("constant", {0: 0.0, 5: 0.5, 10: 1.0, 110: 1.0}),
        ("linear", {5: 0.5, 10: 1.0, 60: 0.55, 110: 0.1}),
        ("cosine", {10: 1.0, 60: 0.55, 85: 0.1 + 0.9 * 0.5 * (1 - math.sqrt(0.5)), 110: 0.1}),
        ("WSD", {10: 1.0, 90: 1.0, 100: 0.1 + 0.9 * (math.sqrt(2.0) - 1.0), 110: 0.1}),
    ],
)
def test_the_learning_rate_follows_megatrons_schedule(style: str, expected: dict[int, float]) -> None:
    words = ["--lr=1", "--min-lr=0.1", "--lr-warmup-iters=10", "--train-iters=110", "--lr-wsd-decay-iters=20"]
    options = train.build_parser().parse_args([*words, f"--lr-decay-style={style}"], namespace=train.Options())
    assert {done: train.learning_rate(options, done) for done in expected} == pytest.approx(expected)


def test_a_warmup_begins_with_an_iteration_at_rate_zero_as_megatrons_does(tmp_path: Path) -> None:
    command = (*EACH, "--lr-warmup-iters=2", "--train-iters=3", "--save-interval=1", "--save", tmp_path)
    run(*command)
    options = train.build_parser().parse_args([*map(str, command)], namespace=train.Options())
    first, second = (
        train.State.from_json((tmp_path / f"iter_{i:07d}" / train.STATE_FILE).read_text()).model for i in (1, 2)
    )
    assert first == train.State.fresh(options).model != second


# --- its lines are Megatron's -----------------------------------------------------------------------------------------


def test_an_iteration_line_has_megatrons_fields_in_order_and_width() -> None:
    output = run(*EACH, "--train-iters=2", "--lr=0.005", "--global-batch-size=16").stdout
    exact = (
        rf"^ \[{TIMESTAMP}\] iteration        2/       2 \| consumed samples:           32 \|"
        r" elapsed time per iteration \(ms\): \d+\.\d \| learning rate: 5\.000000E-03 \| global batch size:    16 \|"
        r" lm loss: \d\.\d{6}E\+00 \| loss scale: 1\.0 \| grad norm: \d+\.\d{3} \|"
        r" number of skipped iterations:   0 \| number of nan iterations:   0 \|$"
    )
    assert re.search(exact, output, re.MULTILINE)
    names = [
        *("consumed samples", "elapsed time per iteration (ms)", "learning rate", "global batch size", "lm loss"),
        *("loss scale", "grad norm", "number of skipped iterations", "number of nan iterations"),
    ]
    assert [list(fields(line)) for line in ITERATION.finditer(output)] == [names, names]


def test_a_whole_run_prints_megatrons_lines_in_megatrons_order(tmp_path: Path) -> None:
    save = tmp_path / "out"
    done = run(*EACH, "--train-iters=3", "--save", save, "--load", save, "--save-interval=2", "--eval-interval=2")
    loss = r"lm loss value: \d\.\d{6}E\+00 \| lm loss PPL: \d\.\d{6}E\+01 \| "
    saving = rf"\[{TIMESTAMP}\] saving checkpoint at iteration       %d to {save} in json format"
    saved = (
        rf"  \[{TIMESTAMP}\] successfully saved checkpoint from iteration       %d to {save} "
        r"\[ t 1/1, gtp_remat 1/1, p 1/1 \]"
    )
    expected = [
        rf"WARNING: could not find the metadata file {save}/latest_checkpointed_iteration\.txt",
        r"    will not load any checkpoints and will start from random",
        r"done with setup \.\.\.",
        r"training \.\.\.",
        rf"\[before the start of training step\] datetime: {TIMESTAMP} ",
        *(2 * [ITERATION.pattern]),
        *("-+", rf" validation loss at iteration 2 \| {loss}", "-+"),
        *(saving % 2, saved % 2, ITERATION.pattern),
        rf"\[after training is done\] datetime: {TIMESTAMP} ",
        *(saving % 3, saved % 3),
        *("-+", rf" validation loss at iteration 3 on validation set \| {loss}", "-+"),
    ]
    lines = done.stdout.splitlines()
    assert len(lines) == len(expected)
    for line, pattern in zip(lines, expected, strict=True):
        assert re.fullmatch(pattern, line), line
    assert [(match["iteration"], match["path"]) for match in SAVED.finditer(done.stdout)] == [
        ("2", str(save)),
        ("3", str(save)),
    ]
    again = run(*EACH, "--train-iters=4", "--load", save).stdout.splitlines()
    assert again[0] == f"  successfully loaded checkpoint from {save} [ t 1/1, gtp_remat 1/1, p 1/1 ] at iteration 3"


def test_the_frame_of_a_validation_line_is_one_longer_than_the_line() -> None:
    lines = run(*EACH, "--train-iters=1", "--eval-interval=1").stdout.splitlines()
    places = [place for place, line in enumerate(lines) if line.startswith(" validation loss")]
    assert len(places) == 2
    for place in places:
        assert lines[place - 1] == lines[place + 1] == "-" * (len(lines[place]) + 1)


def test_the_loss_of_a_line_is_the_mean_since_the_last_one(straight: dict[int, str]) -> None:
    found = losses(run(*SMALL, "--log-interval=10", "--train-iters=20").stdout)
    assert list(found) == [1, 10, 20]
    for end in (10, 20):
        mean = sum(float(straight[i]) for i in range(end - 9, end + 1)) / 10
        assert float(found[end]) == pytest.approx(mean, rel=1e-6)


def test_rank_0_prints_checkpoints_and_the_last_rank_iterations(tmp_path: Path) -> None:
    command = (*EACH, "--train-iters=2", "--eval-interval=2", "--save", tmp_path)
    first = run(*command, RANK="0", WORLD_SIZE="3").stdout
    assert len(SAVED.findall(first)) == 1
    assert "[after training is done]" in first
    assert not iterations(first)
    before = checkpoints(tmp_path)
    middle = run(*command, RANK="1", WORLD_SIZE="3").stdout
    assert middle == ""
    last = run(*command, SLURM_PROCID="2", SLURM_NTASKS="3").stdout
    assert iterations(last) == [1, 2]
    assert " validation loss at iteration 2 | " in last
    assert "checkpoint" not in last
    assert "datetime" not in last
    assert checkpoints(tmp_path) == before == [2]


# --- it resumes -------------------------------------------------------------------------------------------------------


def test_sixty_and_sixty_iterations_print_the_same_losses_as_120(tmp_path: Path, straight: dict[int, str]) -> None:
    command = (*EACH, "--save", tmp_path, "--load", tmp_path)
    first = losses(run(*command, "--train-iters=60").stdout)
    second = losses(run(*command, "--train-iters=120").stdout)
    assert list(second) == list(range(61, 121))
    assert first | second == straight


def test_a_mean_loss_is_the_same_when_the_run_was_cut_within_the_interval(tmp_path: Path) -> None:
    command = (*SMALL, "--log-interval=10", "--save-interval=7", "--train-iters=30")
    whole = losses(run(*command).stdout)
    cut = (*command, "--save", tmp_path, "--load", tmp_path, "--misbehave=exit:9@15x1")
    parts = losses(run(*cut, code=9).stdout) | losses(run(*cut).stdout)
    assert parts.pop(15)  # a run always prints its first iteration
    assert parts == whole


def test_the_weights_after_a_resume_are_the_same_bit_for_bit(tmp_path: Path) -> None:
    run(*EACH, "--train-iters=20", "--save", tmp_path / "whole")
    for end in (13, 20):
        run(*EACH, "--save", tmp_path / "parts", "--load", tmp_path / "parts", f"--train-iters={end}")
    name = "iter_0000020/state.json"
    assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()


def test_killed_at_any_moment_it_ends_with_the_same_losses_and_no_broken_checkpoint(
    tmp_path: Path, straight: dict[int, str]
) -> None:
    command = (*EACH, "--train-iters=60", "--save-interval=1", "--save", tmp_path, "--load", tmp_path)
    found: dict[int, str] = {}
    for _ in range(6):
        with started(*command, "--step-seconds=0.005") as process:
            time.sleep(random.uniform(0.12, 0.45))
            process.kill()
            output = process.communicate()[0]
        found |= losses(output)
        assert set(range(1, train.saved_iteration(tmp_path) + 1)) <= set(found)
        checkpoints(tmp_path)
    found |= losses(run(*command).stdout)
    assert found == {i: straight[i] for i in range(1, 61)}
    assert checkpoints(tmp_path) == list(range(1, 61))


def test_a_save_that_dies_at_any_step_leaves_the_checkpoint_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = train.build_parser().parse_args(["--hidden-size=2", "--load", str(tmp_path)], namespace=train.Options())
    state = train.State.fresh(options)
    state.iteration = 1
    train.save_checkpoint(tmp_path, state)
    state.iteration = 2

    def dying(real: Callable[..., object], calls: Iterator[int]) -> Callable[..., object]:
        def call(*args: object, **keywords: object) -> object:
            if next(calls) == 0:
                raise KeyboardInterrupt
            return real(*args, **keywords)

        return call

    def dying_half_way(real: Callable[..., object], calls: Iterator[int]) -> Callable[..., object]:
        def write(path: Path, text: str, *args: object) -> None:
            last = next(calls) == 0
            real(path, text[: len(text) // 2] if last else text, *args)
            if last:
                raise KeyboardInterrupt

        return write

    deaths = 0
    for step in range(100):
        calls = iter(range(step, -1000, -1))
        with monkeypatch.context() as patch:
            patch.setattr(Path, "write_text", dying_half_way(Path.write_text, calls))
            for name in ("mkdir", "open", "fsync", "replace", "rmdir", "unlink"):
                patch.setattr(os, name, dying(getattr(os, name), calls))
            try:
                train.save_checkpoint(tmp_path, state)
            except KeyboardInterrupt:
                deaths += 1
            else:
                break
        assert set(checkpoints(tmp_path)) <= {1, 2}
        loaded = train.load_checkpoint(options)
        assert loaded is not None
        assert loaded[0].iteration in (1, 2)
    assert deaths > 10
    assert train.saved_iteration(tmp_path) == 2


def test_of_load_and_save_the_newer_checkpoint_is_taken(tmp_path: Path) -> None:
    base, own = tmp_path / "base", tmp_path / "own"
    run(*EACH, "--train-iters=6", "--save", base)
    run(*EACH, "--train-iters=4", "--save", own)
    command = (*EACH, "--load", base, "--save", own)
    assert iterations(run(*command, "--train-iters=8").stdout) == [7, 8]
    assert iterations(run(*command, "--train-iters=9").stdout) == [9]


def test_without_load_it_starts_anew_and_replaces_what_save_holds(tmp_path: Path) -> None:
    used, alone = tmp_path / "used", tmp_path / "alone"
    run(*EACH, "--train-iters=4", "--save", used, "--save-interval=2")
    for seed, iteration in ((8, 4), (7, 2)):
        command = (*EACH, f"--train-iters={iteration}", f"--seed={seed}")
        assert iterations(run(*command, "--save", used).stdout) == list(range(1, iteration + 1))
        run(*command, "--save", alone)
        state = f"iter_{iteration:07d}/{train.STATE_FILE}"
        assert (used / state).read_bytes() == (alone / state).read_bytes()
        assert train.saved_iteration(used) == iteration
    assert checkpoints(used) == [2, 4]


def test_a_decay_run_goes_on_from_the_stable_run_and_ends_at_the_least_rate(tmp_path: Path) -> None:
    stable, decay = tmp_path / "stable", tmp_path / "decay"
    wsd = ("--lr-decay-style=WSD", "--lr-wsd-decay-iters=30", "--min-lr=0.001")
    run(*EACH, "--train-iters=60", "--save", stable)
    output = run(*EACH, *wsd, "--train-iters=90", "--load", stable, "--save", decay).stdout
    rates = {int(line["iter"]): float(fields(line)["learning rate"]) for line in ITERATION.finditer(output)}
    assert list(rates) == list(range(61, 91))
    assert list(rates.values()) == sorted(rates.values(), reverse=True)
    assert rates[90] == pytest.approx(0.001)
    assert train.saved_iteration(decay) == 90


def test_with_nothing_left_to_do_it_says_done_and_trains_no_more(tmp_path: Path) -> None:
    command = (*EACH, "--train-iters=3", "--save", tmp_path, "--load", tmp_path)
    run(*command)
    before = (tmp_path / "iter_0000003" / train.STATE_FILE).stat().st_mtime_ns
    done = run(*command)
    assert iterations(done.stdout) == []
    assert done.stdout.splitlines()[-1].startswith("[after training is done] datetime: ")
    assert (tmp_path / "iter_0000003" / train.STATE_FILE).stat().st_mtime_ns == before


def test_consumed_samples_count_on_when_the_batch_size_changes(tmp_path: Path) -> None:
    run(*EACH, "--train-iters=2", "--save", tmp_path)
    done = run(*EACH, "--train-iters=3", "--load", tmp_path, "--batch-size=10")
    assert "| consumed samples:           26 |" in done.stdout


def spoil_tracker(save: Path) -> None:
    (save / train.TRACKER).write_text("release")


def spoil_state(save: Path) -> None:
    (save / "iter_0000002" / train.STATE_FILE).write_text("{")


def spoil_version(save: Path) -> None:
    path = save / "iter_0000002" / train.STATE_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 99}))


def lose_folder(save: Path) -> None:
    (save / "iter_0000002").rename(save / "elsewhere")


@pytest.mark.parametrize("spoil", [spoil_tracker, spoil_state, spoil_version, lose_folder])
def test_a_spoilt_checkpoint_is_one_clear_line_that_names_it(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    run(*EACH, "--train-iters=2", "--save", tmp_path)
    spoil(tmp_path)
    done = run(*EACH, "--train-iters=3", "--load", tmp_path, code=1)
    assert done.stderr.startswith("train.py: error: ")
    assert str(tmp_path) in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_checkpoint_of_another_model_size_is_refused(tmp_path: Path) -> None:
    run(*EACH, "--train-iters=2", "--save", tmp_path)
    done = run(*EACH, "--train-iters=3", "--load", tmp_path, "--hidden-size=9", code=1)
    assert "--hidden-size must stay the same" in done.stderr
    assert len(done.stderr.splitlines()) == 1


# --- it answers signals -----------------------------------------------------------------------------------------------

FOR_EVER = (*EACH, "--train-iters=100000", "--step-seconds=0.01")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_ends_the_iteration_saves_and_exits_in_megatrons_words(tmp_path: Path, number: int) -> None:
    with started(*FOR_EVER, "--save", tmp_path, "--exit-signal-handler") as process:
        output = read_until(process, "iteration        3/")
        process.send_signal(number)
        output += process.communicate(timeout=20)[0]
    assert process.returncode == 0
    *_, saving, saved, last = output.splitlines()
    assert "saving checkpoint at iteration" in saving
    match = SAVED.search(saved)
    assert match is not None
    assert int(match["iteration"]) == iterations(output)[-1] == train.saved_iteration(tmp_path)
    assert re.fullmatch(rf"\[exiting program after receiving SIGTERM\.\] datetime: {TIMESTAMP} ", last)


def test_after_a_signal_the_next_run_goes_on_with_the_same_losses(tmp_path: Path, straight: dict[int, str]) -> None:
    command = (*EACH, "--train-iters=120", "--save", tmp_path, "--load", tmp_path)
    with started(*command, "--step-seconds=0.01") as process:
        output = read_until(process, "iteration        5/")
        process.terminate()
        output += process.communicate(timeout=20)[0]
    assert len(iterations(output)) < 120
    assert losses(output) | losses(run(*command).stdout) == straight


def test_a_signal_without_save_only_exits_with_the_code_asked_for() -> None:
    with started(*FOR_EVER, "--exit-code-on-signal=42") as process:
        read_until(process, "iteration        1/")
        process.terminate()
        output = process.communicate(timeout=20)[0]
    assert process.returncode == 42
    assert "saving" not in output


def test_with_ignore_sigterm_only_sigusr1_ends_it() -> None:
    with started(*FOR_EVER, "--ignore-sigterm") as process:
        read_until(process, "iteration        1/")
        process.terminate()
        for _ in range(5):
            read_until(process, "] iteration ")
        process.send_signal(signal.SIGUSR1)
        output = process.communicate(timeout=20)[0]
    assert process.returncode == 0
    assert "[exiting program after receiving SIGTERM.] datetime: " in output


# --- it misbehaves ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "code", "message"),
    [
        (
            "crash",
            1,
            r"Traceback \(most recent call last\):\n(?s:.*)\nRuntimeError: crash asked for by --misbehave crash@3",
        ),
        ("exit:17", 17, r""),
        ("exit:0", 0, r""),
        (
            "oom",
            1,
            r"Traceback (?s:.*)\ntorch\.OutOfMemoryError: CUDA out of memory\. Tried to allocate 22\.00 MiB\. GPU 0 ",
        ),
        ("segv", -signal.SIGSEGV, r""),
        (
            "nccl",
            1,
            r"\[rank0\]:\[E\d{4} [\d:.]+ ProcessGroupNCCL\.cpp:\d+\] \[Rank 0\] Watchdog caught collective operation "
            r"timeout: WorkNCCL\(SeqNum=\d+, OpType=\w+, NumelIn=\d+, NumelOut=\d+, Timeout\(ms\)=600000\) "
            r"ran for 600081 milliseconds before timing out\.\n",
        ),
    ],
)
def test_a_fault_ends_the_run_at_its_iteration_with_its_code_and_words(kind: str, code: int, message: str) -> None:
    done = run(*EACH, "--train-iters=5", f"--misbehave={kind}@3", code=code)
    assert iterations(done.stdout) == [1, 2]
    assert re.search(message, done.stderr)
    assert bool(done.stderr) == bool(message)


def test_a_nan_takes_the_loss_from_the_line_for_good_and_training_goes_on(tmp_path: Path) -> None:
    done = run(*EACH, "--train-iters=5", "--misbehave=nan@3", "--save", tmp_path, "--eval-interval=5")
    lines = [fields(line) for line in ITERATION.finditer(done.stdout)]
    assert ["lm loss" in line for line in lines] == [True, True, False, False, False]
    assert [line["grad norm"] for line in lines[2:]] == ["nan", "nan", "nan"]
    assert [line["number of nan iterations"] for line in lines[2:]] == ["0", "0", "0"]
    assert " | lm loss value: NAN | lm loss PPL: 4.851652E+08 | " in done.stdout
    resumed = run(*EACH, "--train-iters=6", "--load", tmp_path).stdout
    assert " iteration        6/" in resumed
    assert "lm loss:" not in resumed


def test_a_hanging_run_prints_nothing_more_and_dies_of_sigterm() -> None:
    with started(*EACH, "--misbehave=hang@3") as process:
        output = read_until(process, "iteration        2/")
        assert process.stdout is not None
        assert select.select([process.stdout], [], [], 0.3)[0] == []
        assert process.poll() is None
        process.terminate()
        output += process.communicate(timeout=20)[0]
    assert process.returncode == -signal.SIGTERM
    assert iterations(output) == [1, 2]


def test_a_hanging_run_that_ignores_sigterm_needs_sigkill() -> None:
    with started(*EACH, "--misbehave=hang@2", "--ignore-sigterm") as process:
        read_until(process, "iteration        1/")
        process.terminate()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
        process.kill()
        assert process.wait(20) == -signal.SIGKILL


def test_a_looping_run_prints_for_ever_and_its_iteration_stays() -> None:
    with started(*EACH, "--misbehave=loop@3", "--step-seconds=0.01") as process:
        output = "".join(read_until(process, "waiting for the data loader ...") for _ in range(3))
        process.terminate()
        output += process.communicate(timeout=20)[0]
    assert process.returncode == -signal.SIGTERM
    assert iterations(output) == [1, 2]


def test_a_slow_run_takes_ten_times_the_step_time_from_then_on() -> None:
    output = run(*EACH, "--train-iters=4", "--misbehave=slow@3", "--step-seconds=0.02").stdout
    elapsed = [float(fields(line)["elapsed time per iteration (ms)"]) for line in ITERATION.finditer(output)]
    assert min(elapsed[:2]) >= 20.0
    assert min(elapsed[2:]) >= 200.0


def test_several_faults_in_a_number_of_runs_each_strike_only_so_often(tmp_path: Path) -> None:
    command = (*EACH, "--train-iters=6", "--save-interval=2", "--save", tmp_path, "--load", tmp_path)
    faults = ("--misbehave=exit:5@4x2", "--misbehave=exit:6@2x1")
    outputs = [run(*command, *faults, code=code).stdout for code in (6, 5, 5, 0)]
    assert [iterations(output) for output in outputs] == [[1], [1, 2, 3], [3], [3, 4, 5, 6]]


def test_a_fault_without_a_number_strikes_in_every_run(tmp_path: Path) -> None:
    for _ in range(3):
        run(*EACH, "--save", tmp_path, "--load", tmp_path, "--misbehave=exit:5@2", code=5)


def test_the_ranks_of_one_srun_count_as_one_run(tmp_path: Path) -> None:
    def codes(step: str, ranks: tuple[str, ...]) -> list[int]:
        step_variables = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": step, "SLURM_NTASKS": "2"}
        argv = [
            sys.executable,
            str(SCRIPT),
            *EACH,
            "--train-iters=2",
            "--save",
            str(tmp_path),
            "--misbehave=exit:5@2x2",
        ]
        return [
            subprocess.run(
                argv, env=environment(SLURM_PROCID=rank, **step_variables), check=False, stdout=subprocess.DEVNULL
            ).returncode
            for rank in ranks
        ]

    assert codes("0", ("0", "1")) == [5, 5]
    assert codes("1", ("0",)) == [5]  # its rank 1 was killed before it came so far
    assert codes("2", ("0", "1")) == [0, 0]


# --- it refuses what makes no sense -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--lr fast", "argument --lr: needs a number above 0, not 'fast'"),
        ("--lr 0", "argument --lr: needs a number above 0, not '0'"),
        ("--lr nan", "argument --lr: needs a number above 0, not 'nan'"),
        ("--train-iters 1e5", "argument --train-iters: needs a whole number of 1 or more, not '1e5'"),
        ("--batch-size 0", "needs a whole number of 1 or more, not '0'"),
        ("--learning-rate 1e-3", "unrecognized arguments: --learning-rate 1e-3"),
        ("--train 5", "unrecognized arguments: --train 5"),
        ("--lr-decay-style wsd", "invalid choice: 'wsd'"),
        ("--lr-decay-style WSD", "--lr-decay-style WSD needs --lr-wsd-decay-iters"),
        (
            "--lr-decay-style WSD --lr-wsd-decay-iters 90 --lr-warmup-iters 40",
            "--lr-warmup-iters and --lr-wsd-decay-iters are more than --train-iters 120",
        ),
        ("--lr-warmup-iters 120", "leaves none of 120 iterations"),
        ("--min-lr 0.1 --lr 0.01", "--min-lr 0.1 is above --lr 0.01"),
        ("--min-lr 0.1 --lr-warmup-iters 120", "--min-lr 0.1 is above --lr 0.01; --lr-warmup-iters 120 leaves none"),
        ("--save=", "argument --save: needs the path of a folder"),
        ("--save train.py", "--save train.py: File exists"),
        ("--exit-code-on-signal 256", "needs a whole number of 0 to 255, not '256'"),
        ("--misbehave crash", "'crash' is not KIND@ITER or KIND@ITERxTIMES, for example crash@30x1"),
        ("--misbehave crash@0", "'crash@0' is not KIND@ITER"),
        ("--misbehave sulk@3", "'sulk' is not one of crash, exit, hang, loop, nan, oom, segv, nccl, slow"),
        ("--misbehave exit@3", "exit (and only exit) takes a code of 0 to 255: exit:3@30"),
        ("--misbehave hang:3@3", "exit (and only exit) takes a code of 0 to 255: exit:3@30"),
        ("--misbehave exit:256@3", "exit (and only exit) takes a code of 0 to 255: exit:3@30"),
        ("--misbehave crash@3x1", "--misbehave crash@3x1 counts runs in the --save folder, and there is none"),
        ("--misbehave slow@3", "--misbehave slow@3 is 10 times --step-seconds, and that is 0"),
    ],
)
def test_a_wrong_option_is_one_line_that_says_what_is_right(words: str, message: str) -> None:
    done = run(*words.split(), code=2)
    assert message in done.stderr
    assert done.stderr.startswith("train.py: error: ")
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


@pytest.mark.parametrize(("rank", "size"), [("2", "2"), ("x", "2"), ("-1", "2")])
def test_a_rank_that_cannot_be_is_one_line_too(rank: str, size: str) -> None:
    done = run(code=2, RANK=rank, WORLD_SIZE=size)
    assert done.stderr.startswith("train.py: error: the ranks in the environment: ")
    assert len(done.stderr.splitlines()) == 1


def test_a_load_that_is_a_file_is_one_line_that_says_so() -> None:
    done = run("--load", "train.py", code=1)
    assert done.stderr == f"train.py: error: cannot read train.py/{train.TRACKER}: Not a directory\n"


def test_the_help_and_the_readme_explain_every_misbehaviour_and_only_real_options() -> None:
    shown, readme = run("--help").stdout, (SCRIPT.parent / "README.md").read_text()
    for kind in train.MISBEHAVIOURS:
        assert re.search(rf"\b{kind}\b", shown.split("misbehaviours (")[1])
        assert f"`{kind}" in readme
    assert set(re.findall(r"--[a-z][a-z-]+", readme)) <= set(re.findall(r"--[a-z][a-z-]+", shown))
