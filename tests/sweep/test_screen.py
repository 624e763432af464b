"""The line of a running sweep, and what it reads in the logs: bars as tqdm itself writes them."""

import io

import pytest
from tqdm import tqdm

from qcifar.sweep.screen import Screen, duration, tail, training


def bar(done, total, rate, title="epoch 2/4"):
    meter = tqdm.format_meter(done, total, done / rate, prefix=title, unit="img", postfix="loss=3.1, top1=0.1")
    return "\r" + meter


@pytest.mark.parametrize("rate", [0.2, 3.0, 170.0])
def test_share_and_speed_are_read_from_tqdms_bar(tmp_path, rate):
    log = tmp_path / "log"
    log.write_text("$ command\nepoch 1/4  train loss 4.6\n" + bar(128, 1280, rate) + bar(640, 1280, rate))
    share, speed = training(log, 0)
    assert share == (1 + 0.5) / 4 and speed == pytest.approx(rate, rel=0.02)


def test_before_the_first_bar_and_of_an_earlier_start(tmp_path):
    log = tmp_path / "log"
    log.write_text(bar(640, 1280, 100) + "\nstopped\n$ command\n")
    assert training(log, log.stat().st_size) == (0, 0) and training(log, 0)[1] > 0
    log.write_bytes(b"\xff" * 20_000)
    assert len(tail(log, 0)) == 8192


def test_a_real_bar(tmp_path):
    text = io.StringIO()
    with tqdm(total=200, unit="img", file=text, desc="epoch 1/1", mininterval=0, miniters=1) as shown:
        shown.update(50)
    (tmp_path / "log").write_text(text.getvalue())
    assert training(tmp_path / "log", 0)[0] == 0.25


@pytest.mark.parametrize(
    ("seconds", "text"), [(7.4, "7 s"), (99, "99 s"), (600, "10 min"), (7200, "2.0 h"), (400_000, "4.6 days")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_the_line_and_the_time_left(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("qcifar.sweep.screen.time.monotonic", lambda: clock[0])
    screen = Screen(10, finished=4)
    assert screen._line({}) == "4 of 10 done, 0 running, 6 left"
    screen.show({"a": (0.5, 100.0), "b": (0.0, 0.0)})  # the first had trained a half before
    clock[0] += 50
    screen.finished, screen.failed, screen.ended = 5, 1, 1
    # 1 + (0.75 - 0.5) = 1.25 runs in 50 s; left are 2 whole ones, a quarter of a, and b
    expected = "5 of 10 done, 2 running, 2 left, 1 failed, 140 images/s, about 2 min left"
    assert screen._line({"a": (0.75, 90.0), "b": (0.0, 50.0)}) == expected.replace("2 min", "2 min")


def test_without_a_terminal_a_line_a_minute(monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr("qcifar.sweep.screen.time.monotonic", lambda: clock[0])
    screen = Screen(2, 0)
    for second in range(150):
        clock[0] = float(second)
        screen.show({})
    screen.say("finished  a")
    screen.close()
    assert capsys.readouterr().out == "0 of 2 done, 0 running, 2 left\n" * 2 + "finished  a\n"


def test_on_a_terminal_the_line_renews_itself(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "24")
    screen = Screen(2, 0)
    screen.show({})
    screen.say("finished  a")
    screen.close()
    line = "\r\033[K0 of 2 done, 0 running,"
    assert capsys.readouterr().out == line + "\r\033[Kfinished  a\n" + line + "\r\033[K"
