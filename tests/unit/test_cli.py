"""The command line as a user meets it: exit codes, messages, output, Ctrl-C, closed pipes."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from serving import ROOT, wait_until

import rwkv_native as rn
from web.cli import _parser, main
from web.midi import sound

sys.path.insert(0, str(ROOT / "tests" / "golden"))
import random_checkpoint

COMMAND = Path(sys.executable).with_name("rwkv-native")
TUNED = str(ROOT / "tests/golden/data/v70_L3_D32_fp32_state.state.pth")
CLEAN = {k: v for k, v in os.environ.items() if not k.startswith("RWKV_NATIVE_")}


def run(*args: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, *args],
        input=stdin,
        capture_output=True,
        text=True,
        env={**CLEAN, **environment},
        timeout=120,
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def server(*args: str, cwd: Path | None = None) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A running `rwkv-native serve` and its URL."""
    process = subprocess.Popen(
        [COMMAND, "serve", "--port", "0", *args],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env=CLEAN,
        start_new_session=True,
    )
    try:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if found := re.search(r"rwkv-native \S+: (http://\S+)", line):
                yield process, found[1]
                return
        raise AssertionError("".join(lines))
    finally:
        process.kill()
        process.wait()


def status(url: str) -> int:
    with urllib.request.urlopen(url + "/status", timeout=10) as answer:
        return json.load(answer)["status"]


# -- the parser


@pytest.mark.parametrize(
    "command", ["", "serve", "chat", "generate", "convert", "info", "tokenize", "bench"]
)
def test_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([*command.split(), "--help"])
    assert end.value.code == 0
    assert "usage: rwkv-native" in capsys.readouterr().out


def test_every_flag_that_takes_a_value_says_its_unit_and_its_default() -> None:
    (commands,) = (a for a in _parser()._actions if isinstance(a, argparse._SubParsersAction))
    seen = 0
    for name, command in commands.choices.items():
        for group in command._action_groups:
            for flag in group._group_actions:
                if flag.option_strings and flag.nargs != 0:
                    seen += 1
                    said = f"{group.title} {flag.help}"
                    assert flag.required or "default:" in said, f"{name} {flag.option_strings}"
                    assert flag.metavar or flag.choices, f"{name} {flag.option_strings}"
    assert seen > 100


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"rwkv-native {rn.__version__}\n"


def test_help_imports_no_engine() -> None:
    code = (
        "import sys; from web.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: print(*{'rwkv_native', 'gevent', 'falcon', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == ""


@pytest.mark.parametrize("module", ["web.cli.serve", "web.config"])
def test_ctrl_c_while_modules_are_imported(module: str) -> None:
    """Python would print a traceback. On a busy machine the imports take half a second."""
    script = (
        "import sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name == {module!r}: raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Finder())\n"
        "from web.cli import main\n"
        "sys.exit(main(['info']))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["serve", "--webui"], "--webui: this version has no browser UI"),
        (["serve", "--model", "/nowhere/x.pth"], "/nowhere/x.pth: no such file"),
        (["serve", "--model", TUNED], "is a tuned state, not a model"),
        (["serve", "--public-name", "https://x"], "--public-name must be a name such as"),
        (["serve", "--port", "70000"], "--port must be between 0 and 65535, not 70000"),
        (["serve", "--max-batch", "0"], "--max-batch must be between"),
        (["serve", "--max-batch", "4097"], "--max-batch must be between 1 and 4096"),
        (["serve", "--prefill-chunk", "16385"], "--prefill-chunk must be between 1 and 16384"),
        (["serve", "--step-ms", "1e300"], "--step-ms must be between 1 and 60000, not 1e+300"),
        (["serve", "--step-ms", "nan"], "--step-ms must be between 1 and 60000, not nan"),
        (["serve", "--speculate", "65"], "--speculate must be between 0 and 64, not 65"),
        (["serve", "--threads", "1025"], "--threads must be between 0 and 1024"),
        (["serve", "--strategy", "quantum fp3"], "'quantum fp3' is no strategy"),
        (
            ["serve", "--state-type", "fp8"],
            "--state-type must be one of fp32, fp16, bf16, not 'fp8'",
        ),
        (["serve", "--tokenizer", "klingon"], "no tokenizer 'klingon'"),
        (["serve", "--model", ""], "--model needs a path"),
        (["serve", "--workspace", "/nowhere"], "--workspace /nowhere: there is no such folder"),
        (["serve", "--model-dir", "/nowhere"], "--model-dir /nowhere: there is no such folder"),
        (["serve", "--temperature", "7"], "--temperature must be between 0 and 3, not 7.0"),
        (["serve", "--state", "/nowhere"], "--state /nowhere: there is no such file"),
        (["generate", "x", "--state", "/nowhere.pth"], "/nowhere.pth: no such file"),
        (["bench", "--tokens", "1"], "--tokens must be at least 2, not 1"),
        (["bench", "--prompt", "0"], "--prompt must be at least 1, not 0"),
        (["generate", "x", "--tokenizer", "world"], "has 65530 ids, the model 257 rows"),
        (["generate", "x", "--model", "/nowhere/x.pth"], "/nowhere/x.pth: no such file"),
        (["generate", "x", "--model", "none"], "--model none: this command needs a model"),
        (["generate", "x", "--strategy", "quantum fp3"], "quantum"),
        (["generate", "x", "--state-type", "int8"], "--state-type must be one of fp32, fp16, bf16"),
        (["generate", "x", "--tokenizer", "klingon"], "no tokenizer 'klingon'"),
        (["generate", "x", "--temperature", "9"], "--temperature must be"),
        (["generate", "x", "--top-p", "9"], "--top-p must be"),
        (["generate", ""], "the prompt is empty"),
        (["info", __file__], "is neither a .pth nor a .safetensors file"),
        (["tokenize", "--decode", "x"], "--decode takes token ids"),
        (["tokenize", "--decode", "99999999"], "99999999"),
    ],
)
def test_wrong_requests_end_with_2_and_one_line(
    args: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(args) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert message in said.err
    assert said.err.startswith("rwkv-native: ") and said.err.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (["serve", "--nope"], "rwkv-native serve: unrecognized arguments: --nope"),
        (
            ["serve", "--port", "abc"],
            "rwkv-native serve: argument --port: must be an integer, not 'abc'",
        ),
        (["nothing"], "rwkv-native: argument COMMAND: invalid choice: 'nothing'"),
    ],
)
def test_wrong_flags_say_so_first(
    args: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(args)
    assert end.value.code == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith(reason)
    assert second == f"`{reason.partition(':')[0]} --help` lists what it takes"


def test_errors_of_files_have_no_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = str(tmp_path / "no.txt")
    assert main(["music", missing, "--output", str(tmp_path / "a.mid")]) == 2
    told = capsys.readouterr().err
    assert "Errno" not in told and f"{missing}: no such file" in told


def test_help_names_the_quantised_strategies() -> None:
    assert "bf16i8" in run("generate", "--help").stdout


def test_an_address_of_another_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--host", "192.0.2.1", "--deploy"]) == 1
    told = capsys.readouterr().err
    assert "cannot listen on 192.0.2.1:8000" in told and "--port" not in told


def test_a_public_address_wants_a_key_or_deploy_mode(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--host", "0.0.0.0"]) == 2
    told = capsys.readouterr().err
    assert all(flag in told for flag in ("--api-key", "--deploy", "--insecure"))


def test_debug_shows_the_traceback() -> None:
    done = run("info", "/nowhere/x.pth", RWKV_NATIVE_DEBUG="1")
    assert done.returncode == 2
    assert "Traceback" in done.stderr


# -- tokenize, info


def test_tokenize_and_back() -> None:
    ids = run("tokenize", "Hello, \u4e16\u754c\n").stdout.split()
    assert ids == [str(i) for i in rn.Tokenizer.world().encode("Hello, \u4e16\u754c\n")]
    assert run("tokenize", "--decode", *ids).stdout == "Hello, \u4e16\u754c\n"
    assert run("tokenize", "--count", stdin="Hello, \u4e16\u754c\n").stdout == f"{len(ids)}\n"
    assert run("tokenize", "--tokenizer", "world-bytes", "AB").stdout == "66 67\n"
    assert run("tokenize", "--tokenizer", "world-bytes", "-", stdin="AB").stdout == "66 67\n"
    wrong = run("tokenize", "--decode", "hello")
    assert wrong.returncode == 2 and "not 'hello'" in wrong.stderr


def test_a_model_of_another_vocabulary_names_the_tokenizer(tmp_path: Path) -> None:
    path = tmp_path / "rows100.safetensors"
    shape = random_checkpoint.Shape("7", layers=1, heads=2, head_size=16, ffn=64, vocab=100)
    random_checkpoint.write(path, shape)
    done = run("generate", "zz", "--model", str(path))
    assert done.returncode == 2
    assert "the tokenizer abc has other ids than the 100 of this model" in done.stderr


def test_info_knows_the_demo_model_without_loading_it() -> None:
    facts = json.loads(run("info", "--json").stdout)
    info = rn.Model.open(rn.demo_model()).info
    assert facts["version"] == "RWKV-7"
    assert facts["parameters"] == info.parameters == sum(facts["types"].values())
    assert (facts["heads"], facts["head_size"]) == (info.heads, info.width // info.heads)
    assert facts["file_size"] == rn.demo_model().stat().st_size
    assert facts["state_bytes"] == info.state_bytes and facts["weight_bytes"] > 0
    assert facts["machine"]["cores"] > 0 and facts["machine"]["memory_bytes"] > 1 << 20
    assert (facts["layers"], facts["width"]) == (info.layers, info.width)
    assert (facts["ffn"], facts["vocabulary"]) == (info.ffn, info.vocab)
    assert facts["metadata"]["rwkv.tokenizer"] == "world-bytes"
    assert "layers:" in run("info").stdout


def test_info_leaves_the_table_of_packed_matrices_out(tmp_path: Path) -> None:
    target = tmp_path / "packed.safetensors"
    assert run("convert", str(rn.demo_model()), str(target), "--dtype", "i4").returncode == 0
    facts = json.loads(run("info", str(target), "--json", "--tensors").stdout)
    assert facts["metadata"]["rwkv.tokenizer"] == "world-bytes"
    assert "rwkv.packed" not in facts["metadata"]
    assert facts["tensors"]["head.weight"] == {"dtype": "I4", "shape": [257, 128]}


ENDED = """
import os, sys
from web.cli import main, terminal
terminal.LoadLine.show = lambda *_: os.kill(os.getpid(), int(sys.argv[1]))
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_convert_that_is_ended_leaves_nothing_behind(number: int, tmp_path: Path) -> None:
    target = tmp_path / "x.safetensors"
    command = [sys.executable, "-c", ENDED, str(int(number))]
    command += ["convert", str(rn.demo_model()), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, env=CLEAN, timeout=120)
    assert done.returncode == 128 + number
    assert not done.stdout and "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


# -- generate, chat


def test_generate_starts_from_a_tuned_state(golden: Path) -> None:
    model, state = golden / "v70_L3_D32_fp32.pth", golden / "v70_L3_D32_fp32_state.state.pth"
    args = ["generate", "abc", "--model", str(model), "--tokenizer", "world-bytes", "--json"]
    args += ["--temperature", "0", "--max-tokens", "8"]
    texts = [
        json.loads(run(*args, *more).stdout)["token_ids"] for more in ([], ["--state", str(state)])
    ]
    opened = rn.Model.open(model)
    with rn.Engine(opened, rn.Tokenizer.world_bytes(), max_batch=1) as engine:
        sampling = rn.Sampling(temperature=0, max_tokens=8)
        tuned = opened.load_tuned_state(state)
        for ids, start in zip(texts, (None, tuned), strict=True):
            drawn = [
                id for e in engine.generate("abc", sampling, state=start) for id in e.token_ids
            ]
            assert ids == drawn
    assert texts[0] != texts[1]


def test_generate_is_reproducible_and_streams_what_json_says() -> None:
    args = ["generate", "User: Hello\n\nAssistant:", "--max-tokens", "30", "--seed", "5"]
    args += ["--temperature", "2", "--top-p", "1"]
    plain = run(*args)
    assert plain.returncode == 0, plain.stderr
    answer = json.loads(run(*args, "--json").stdout)
    assert plain.stdout == answer["text"] + "\n"
    assert (
        answer["completion_tokens"] == len(answer["token_ids"]) or answer["finish_reason"] == "stop"
    )
    assert plain.stderr == ""  # nobody watches the load
    other = json.loads(run(*args[:-5], "6", *args[-4:], "--json").stdout)
    assert other["text"] != answer["text"]


def test_generate_reads_standard_input_and_stops() -> None:
    prompt = "User: Hello\n\nAssistant:"
    whole = run("generate", "--temperature", "0", "--max-tokens", "40", stdin=prompt).stdout
    assert len(whole.strip()) > 3
    word = whole.strip()[:3]
    done = run("generate", "--temperature", "0", "--stop", word, "--echo", stdin=prompt)
    assert done.stdout.strip() == prompt


def test_settings_come_from_the_environment_and_flags_win() -> None:
    assert run("generate", "x", RWKV_NATIVE_MODEL="/nowhere/y.pth").returncode == 2
    path = str(rn.demo_model())
    args = ["generate", "x", "--max-tokens", "1", "--model", path]
    assert run(*args, RWKV_NATIVE_MODEL="/nowhere/y.pth").returncode == 0


def test_chat_with_piped_turns_remembers_and_forgets() -> None:
    hello = "Hello"
    once = run("chat", "--temperature", "0", stdin=f"{hello}\n")
    assert once.returncode == 0, once.stderr
    assert once.stdout.strip()
    again = run("chat", "--temperature", "0", stdin=f"{hello}\n/new\n{hello}\n/exit\nnot said\n")
    assert again.stdout == once.stdout * 2


def test_chat_says_of_commands_that_it_has_none_of_them() -> None:
    done = run("chat", "--temperature", "0", stdin="/nonsense now\n/help\n")
    assert done.stdout == ""
    first, second = done.stderr.splitlines()
    assert first.startswith("[there is no /nonsense: /new forgets")
    assert second.startswith("[/new forgets")


def test_lines_that_are_not_utf8_are_turns_as_well() -> None:
    done = subprocess.run(
        [COMMAND, "chat", "--temperature", "0"],
        input=b"Hello\n\xff\xfe\nHello\n",
        capture_output=True,
        env=CLEAN,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) >= 3
    args = [COMMAND, "generate", "--max-tokens", "3"]
    done = subprocess.run(args, input=b"bad \xff\n", capture_output=True, env=CLEAN, timeout=120)
    assert done.returncode == 0, done.stderr


def test_chat_on_a_terminal_tells_the_speed_and_keeps_what_was_typed(tmp_path: Path) -> None:
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [COMMAND, "chat", "--temperature", "0"],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env={**CLEAN, "XDG_STATE_HOME": str(tmp_path), "TERM": "dumb"},
    )
    os.close(follower)
    os.write(leader, b"Hello\n/new\n/exit\n")
    seen = b""
    with contextlib.suppress(OSError):
        while piece := os.read(leader, 4096):
            seen += piece
    assert process.wait(60) == 0
    assert re.search(rb"\[\d+ tokens, [0-9.]+ tokens/s\]", seen), seen
    assert b"[a new conversation]" in seen
    kept = tmp_path / "rwkv-native" / "chat"
    assert kept.read_text().splitlines() == ["Hello", "/new", "/exit"]
    assert kept.stat().st_mode & 0o777 == 0o600


def test_the_conversation_is_what_the_server_would_render() -> None:
    from web.chat.messages import Message
    from web.chat.prompts.formats import rendered
    from web.chat.prompts.parts import Names
    from web.cli.chat import Conversation
    from web.engine.families import persona_for

    model = rn.Model.open(rn.demo_model())
    tokenizer = rn.Tokenizer.for_model(model)
    persona = persona_for(model.info, tokenizer)
    names = Names(persona.user, persona.assistant, persona.system, persona.tool)
    sampling = rn.Sampling(temperature=0, max_tokens=60, stop=["\n\n"])
    with rn.Engine(model, tokenizer, cache_bytes=64 << 20) as engine:
        talk = Conversation(engine, persona, names, "Be short.")
        history = [Message("system", "Be short.")]
        for turn in ("Hello", "What is 2 plus 3?", "Thanks"):
            before = engine.cache_stats()
            pieces = list(talk.answer(f" {turn}\n\n", sampling))
            now, answer = engine.cache_stats(), "".join(pieces)
            history.append(Message("user", turn))
            prompt = rendered(persona, history, names).text
            alone = "".join(event.text for event in engine.generate(prompt, sampling))
            assert answer == alone.strip()
            new = (now.asked_tokens - before.asked_tokens) - (
                now.cached_tokens - before.cached_tokens
            )
            if len(history) > 2:  # the blank line after the answer, and the turn
                assert new <= len(f"\n\nUser: {turn}\n\nAssistant:")
            history.append(Message("assistant", answer))
        # What has been shown of an answer counts as said.
        pieces = talk.answer("Hello", sampling)
        shown = next(pieces)
        pieces.close()
        assert shown and talk.messages[-1] == Message("assistant", shown)
        talk.forget()
        assert talk.messages == history[:1]


def test_a_closed_pipe_is_no_traceback() -> None:
    text = "word " * 200_000
    process = subprocess.Popen(
        [COMMAND, "tokenize", "--pieces"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin and process.stdout and process.stderr
    process.stdin.write(text.encode())
    process.stdin.close()
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(60) == 1


# -- bench


def test_bench_prints_every_row() -> None:
    done = run("bench", "--tokens", "3", "--prompt", "9", "--state-type", "fp16")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # nobody watches
    head, blank, *rows = done.stdout.splitlines()
    info = rn.Model.open(rn.demo_model()).info
    assert head.startswith("demo.safetensors: RWKV-7, ") and f"{info.strategy}, states fp16" in head
    assert blank == ""
    number = r"[0-9,]+(?:\.[0-9]+)?(?:e-[0-9]+)?"
    shapes = {
        "load": rf"{number} s +{number} MB of weights",
        "prompt, 9 tokens": rf"{number} tokens/s +{number} GFLOP/s",
        "tokenizer, encode": rf"{number} MB/s +world-bytes, {number} MB of mixed text",
        "tokenizer, decode": rf"{number} MB/s +world-bytes, {number} MB of mixed text",
        "sampler": rf"{number} us +a row of {info.vocab}, .*",
        "resident memory, peak": rf"{number} MB +{number} MB after decoding .*",
    }
    for batch in (1, 8, 32):
        shares = rf"{number} GB/s, \d+% of the memory's {number}"
        shapes[f"decode, batch {batch}"] = rf"{number} tokens/s +{shares}"
    found = {re.split(" {2,}", row)[0]: row for row in rows}
    assert found.keys() == shapes.keys()
    for name, shape in shapes.items():
        assert re.fullmatch(rf"{name} +{shape}", found[name]), found[name]


def test_bench_says_on_a_terminal_what_it_measures() -> None:
    parent, child = pty.openpty()
    done = subprocess.run(
        [COMMAND, "bench", "--tokens", "2", "--prompt", "1"],
        stdout=subprocess.PIPE, stderr=child, env=CLEAN, timeout=120,
    )  # fmt: skip
    os.close(child)
    assert done.returncode == 0
    shown = b""
    with contextlib.suppress(OSError):  # how a terminal ends whose other side is closed
        while piece := os.read(parent, 1 << 16):
            shown += piece
    os.close(parent)
    assert b"\rmeasuring decoding, batch 32\x1b[K\r\x1b[K" in shown
    assert b"measuring" not in done.stdout


def test_bench_of_a_model_without_words() -> None:
    done = run("bench", "--tokens", "2", "--prompt", "1", "--tokenizer", "abc")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^tokenizer +- +abc takes no plain text$", done.stdout, re.M), done.stdout


# -- serve


def test_serve_answers_and_ctrl_c_ends_it_with_0() -> None:
    with server() as (process, url):
        deadline = time.monotonic() + 60
        while status(url) != 3:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        # What a terminal does on Ctrl-C: the whole group gets it.
        os.killpg(process.pid, signal.SIGINT)
        rest = process.stderr.read() if process.stderr else ""
        assert process.wait(60) == 0
        assert "Traceback" not in rest


def test_serve_without_a_model() -> None:
    with server("--model", "none", "--no-access-log") as (_, url):
        assert status(url) == 0


def test_serve_says_which_port_is_in_use() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run("serve", "--port", str(port))
    assert done.returncode == 1
    message = f"rwkv-native: cannot listen on 127.0.0.1:{port}: Address already in use"
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1


def test_serve_ends_if_its_model_cannot_be_loaded() -> None:
    done = run("serve", "--port", str(free_port()), "--tokenizer", "world")
    assert done.returncode == 3
    assert "has 65530 ids" in done.stderr
    assert "Traceback" not in done.stderr


def test_serve_shows_progress_on_a_terminal_only() -> None:
    from web.cli.terminal import LoadLine

    parent, child = pty.openpty()
    with os.fdopen(child, "w") as terminal:
        line = LoadLine(terminal, "x.pth")
        line._from += 60
        line.show(1, 4)
        assert not line._shown  # a quick load shows nothing
        line._from = 0
        line.show(1, 4)
        line.wipe()
        line.wipe()
        expected = b"\rloading x.pth: 25 %\x1b[K\r\x1b[K"
        shown = b""
        while len(shown) < len(expected):  # a terminal may hand out a write in pieces
            shown += os.read(parent, 1000)
        assert shown == expected
    os.close(parent)
    with Path(os.devnull).open("w") as quiet:
        assert LoadLine(quiet, "x.pth")._from == float("inf")


def test_serve_is_not_shadowed_by_a_checkout_in_the_current_folder(tmp_path: Path) -> None:
    for package in ("web", "rwkv_native", "gunicorn"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("raise ImportError('shadowed')\n")
    with server("--model", "none", cwd=tmp_path) as (_, url):
        assert status(url) == 0


def test_music_of_a_text(tmp_path: Path) -> None:
    """The bytes that RWKV Runner makes of the same piece, and its sound."""
    (tmp_path / "piece.txt").write_text("p:24:a\np:2a:a p:31:a\n")
    done = run("music", str(tmp_path / "piece.txt"), "-o", str(tmp_path / "piece.mid"))
    assert done.returncode == 0, done.stderr
    data = (tmp_path / "piece.mid").read_bytes()
    known = "11f5b120ca32119d2855de798c49339d91aad7d945d38879690cbd059c93985d"
    assert hashlib.sha256(data).hexdigest() == known
    piano = tmp_path / "piano.mid"
    done = run("music", "-", "--piano", "-o", str(piano), stdin="p:3c:f t1 p:3c:0")
    assert done.returncode == 0 and piano.read_bytes() != data


@pytest.mark.skipif(sound.missing(), reason=sound.MISSING)
def test_the_sound_of_a_text(tmp_path: Path) -> None:
    piece, out = tmp_path / "piece.txt", tmp_path / "piece.wav"
    piece.write_text("pi:3c:a t125 pi:3c:0")
    assert run("music", str(piece), "-o", str(out)).returncode == 0
    with wave.open(str(out)) as file:
        assert file.getnframes() > 3 * 44100 and max(file.readframes(44100)) > 0
    done = run("music", str(piece), "-o", str(out), "--sound-font", str(piece))
    assert done.returncode == 2 and "--sound-font: is not a SoundFont" in done.stderr
    # Ctrl-C ends the renderer, too, and leaves nothing behind; so does whoever ends a service.
    piece.write_text("pi:3c:a t125000 pi:3c:0")
    out.unlink()
    for number in (signal.SIGINT, signal.SIGTERM):
        process = subprocess.Popen([COMMAND, "music", piece, "-o", out], env=CLEAN)
        wait_until(lambda: list(tmp_path.glob(".*.part")))
        process.send_signal(number)
        assert process.wait(30) == 128 + number
        assert list(tmp_path.iterdir()) == [piece]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ([], "needs a FILE of notes, or --prompt"),
        (["piece.txt", "--prompt", "x"], "needs a FILE of notes, or --prompt"),
        (["nowhere.txt"], "nowhere.txt"),
        (["piece.txt", "-o", "a.mp3"], "must end in .mid or .wav"),
        (["piece.txt", "-o", "nowhere/a.wav"], "there is no folder nowhere"),
        (["piece.txt", "-o", "a.wav", "--sound-font", "nowhere.sf2"], "there is no such file"),
        (["--prompt", "<pad>", "-o", "a.wav", "--sound-font", "b.sf2"], "there is no such file"),
        (["piece.txt", "-o", "folder.mid"], "--output folder.mid: is a folder"),
        (["piece.txt"], "piece.txt: token 2, 'x' at character 7, is no note"),
        (["-"], "-: there is no note in it"),
        (["--prompt", "<pad>"], "writes no MIDI tokens (world)"),
    ],
)
def test_music_that_cannot_be_made(
    args: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "piece.txt").write_text("pi:3c:a" if "--sound-font" in args else "p:24:a x")
    (tmp_path / "folder.mid").mkdir()
    done = run("music", *args, *([] if "-o" in args else ["-o", "a.mid"]))
    assert done.returncode == 2 and says in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and len(list(tmp_path.iterdir())) == 2
