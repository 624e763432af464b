"""Jobs: nothing is lost and nothing is paid for twice, wherever the process ends and whatever comes back."""

import re
import shutil
import signal
import time

import numpy as np
import pytest

from qcifar.errors import InputError
from qcifar.files import write_json
from qcifar.hardware.jobs import Jobs, key_of
from tests.helpers.jobs_on_disk import OUTCOMES, PLAN, SHOTS, DiskService, counts_of, in_a_process

EXPECTED = np.array([counts_of(image, SHOTS) for image in range(5)])
EVENTS = 35  # of three jobs from begin to end: files before and after they have their names, calls of the service


def jobs_in(folder, behaviour=None, **plan):
    made = Jobs(folder / "jobs", PLAN | plan, settle=0.0)
    made.begin()
    return made, DiskService(folder / "service", behaviour=behaviour)


def silent(line):
    pass


def check_all_is_there(folder):
    jobs, service = jobs_in(folder)
    assert len(service.stored()) == 3  # each was paid for once
    assert len({job["tag"] for job in service.stored()}) == 3
    (counts,) = jobs.counts()
    assert np.array_equal(counts, EXPECTED)


def test_jobs_from_begin_to_end(tmp_path):
    jobs, service = jobs_in(tmp_path)
    assert [(job.first, job.last) for job in jobs.all] == [(0, 2), (2, 4), (4, 5)]
    assert len(jobs.state().not_submitted) == 3
    jobs.submit(service, silent)
    jobs.submit(service, silent)  # the same command again
    assert len(jobs.state().submitted) == 3
    state = jobs.poll(service, silent)
    assert len(state.finished) == 3 and jobs.poll(service, silent) == state
    check_all_is_there(tmp_path)
    assert jobs.ids() == ["job-0", "job-1", "job-2"]


TEN = (2, 4, 5, 6, 7, 8, 9, 24, 25, 26)  # all kinds of places, of the first job; the others are slow
PLACES = [pytest.param(k, marks=[] if k in TEN else pytest.mark.slow) for k in range(1, EVENTS + 1)]


@pytest.mark.parametrize("number", PLACES)
def test_killed_at_any_place_and_started_again(number, tmp_path):
    """Around the plan, each intent, the service taking a job, its id, and its result: see `DiskService`."""
    assert in_a_process(number, tmp_path) == -signal.SIGKILL
    assert in_a_process(None, tmp_path) == 0
    check_all_is_there(tmp_path)


def test_there_is_no_other_place(tmp_path):
    assert in_a_process(None, tmp_path) == 0
    assert (tmp_path / "events").read_text() == str(EVENTS)


def test_a_job_whose_id_was_lost_is_found_by_its_tag(tmp_path):
    jobs, service = jobs_in(tmp_path)
    tag = jobs.tag(jobs.all[0], 1)
    write_json(tmp_path / "jobs" / "0000-1.intent.json", {"tag": tag, "time": time.time()})
    service.submit(0, 0, 2, SHOTS, tag)
    assert len(jobs.state().unknown) == 1 and jobs.recover(service) == 1
    jobs.submit(service, silent)
    jobs.poll(service, silent)
    check_all_is_there(tmp_path)


def test_a_folder_that_was_lost_and_a_run_that_was_copied_pay_for_nothing_again(tmp_path):
    jobs, service = jobs_in(tmp_path, {0: "fails"})
    jobs.submit(service, silent)
    jobs.poll(service, silent)
    jobs.submit(service, silent)  # the second attempt of the first job
    shutil.rmtree(tmp_path / "jobs")
    jobs.begin()
    assert jobs.recover(service) == 3 and not jobs.state().not_submitted
    jobs.poll(service, silent)  # finds that the first attempt failed
    jobs.submit(service, silent)
    jobs.poll(service, silent)
    assert len(service.stored()) == 4 and np.array_equal(jobs.counts()[0], EXPECTED)
    copied = Jobs(tmp_path / "copied", PLAN, settle=0.0)
    copied.begin()
    copied.submit(service, silent)
    assert len(service.stored()) == 4


def test_a_tag_that_the_service_does_not_list_yet_is_waited_for(tmp_path, monkeypatch):
    jobs, service = jobs_in(tmp_path)
    jobs.settle = 60.0
    tag = jobs.tag(jobs.all[0], 1)
    write_json(tmp_path / "jobs" / "0000-1.intent.json", {"tag": tag, "time": time.time()})
    waited = []
    monkeypatch.setattr(time, "sleep", lambda seconds: waited.append(seconds) or service.submit(0, 0, 2, SHOTS, tag))
    assert jobs.recover(service) == 1
    assert len(waited) == 1 and waited[0] == 5.0


def test_a_clock_that_was_set_back_does_not_end_the_wait(tmp_path, monkeypatch):
    jobs, service = jobs_in(tmp_path)
    jobs.settle = 60.0
    tag = jobs.tag(jobs.all[0], 1)
    write_json(tmp_path / "jobs" / "0000-1.intent.json", {"tag": tag, "time": time.time() + 3600})
    service.submit(0, 0, 2, SHOTS, tag)
    listed, service.find = service.find, lambda tag: []
    monkeypatch.setattr(time, "sleep", lambda seconds: setattr(service, "find", listed))
    jobs.submit(service, silent)
    jobs.poll(service, silent)
    check_all_is_there(tmp_path)


def test_a_clock_that_was_set_back_does_not_wait_for_ever(tmp_path, monkeypatch):
    jobs, service = jobs_in(tmp_path)
    jobs.settle = 60.0
    write_json(tmp_path / "jobs" / "0000-1.intent.json", {"tag": "none", "time": time.time() + 3600})
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    assert jobs.recover(service) == 0 and now[0] == 60.0


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("fails", "out of calibration"),
        ("short", r"came back short: expected counts \(2, 4\), got \(1, 4\)"),
        ("few shots", "came back short: expected 20 shots an image, got 19 to 19"),
    ],
)
def test_a_job_that_fails_or_comes_back_short_is_submitted_again_only_on_request(how, reason, tmp_path):
    said = []
    jobs, service = jobs_in(tmp_path, {0: how})
    jobs.submit(service, silent)
    state = jobs.poll(service, said.append)
    assert len(state.finished) == 2 and len(state.not_submitted) == 1
    assert said[0].startswith("job 1 of 3 (job-0) failed: ")
    jobs.poll(service, silent)
    assert len(service.stored()) == 3  # nobody asked
    assert re.fullmatch(reason, state.reasons[0])
    jobs.submit(service, silent)
    assert [job["tag"][-7:] for job in service.stored()] == ["-0000-1", "-0001-1", "-0002-1", "-0000-2"]
    assert len(jobs.poll(service, silent).finished) == 3
    assert np.array_equal(jobs.counts()[0], EXPECTED)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("unread", "the result of job-0 cannot be read"),
        (
            "many shots",
            r"job 1 \(job-0\): came back otherwise than it was asked for: expected 20 shots an image",
        ),
    ],
)
def test_a_result_that_cannot_be_read_is_not_paid_for_again(how, message, tmp_path):
    jobs, service = jobs_in(tmp_path, {0: how})
    jobs.submit(service, silent)
    with pytest.raises(InputError, match=message):
        jobs.poll(service, silent)
    state = jobs.state()
    assert [job.number for job in state.submitted] == [0] and len(state.finished) == 2 and not state.reasons
    jobs.submit(service, silent)
    service.behaviour = {}  # such as with another version of a package
    jobs.poll(service, silent)
    check_all_is_there(tmp_path)


def test_counts_that_came_back_short_are_kept(tmp_path):
    jobs, service = jobs_in(tmp_path, {0: "short"})
    jobs.submit(service, silent)
    jobs.poll(service, silent)
    kept = np.load(tmp_path / "jobs" / "0000-1.short.npz")
    assert np.array_equal(kept["counts"], EXPECTED[:1]) and kept["id"] == "job-0"


def test_a_job_that_waits_is_left_and_taken_in_later(tmp_path):
    jobs, service = jobs_in(tmp_path, {1: "waits"})
    jobs.submit(service, silent)
    assert [job.number for job in jobs.poll(service, silent).submitted] == [1]
    service.behaviour = {}
    jobs.poll(service, silent)
    check_all_is_there(tmp_path)


def test_a_service_that_cannot_be_reached_loses_nothing(tmp_path):
    jobs, service = jobs_in(tmp_path)

    def broken(*arguments):
        raise InputError("double: submitting a job failed: ConnectionError; the same command goes on")

    service.submit, whole = broken, service.submit
    with pytest.raises(InputError, match="the same command goes on"):
        jobs.submit(service, silent)
    service.submit = whole
    jobs.submit(service, silent)
    jobs.poll(service, silent)
    check_all_is_there(tmp_path)


def test_other_jobs_and_damaged_counts_are_refused(tmp_path):
    jobs, service = jobs_in(tmp_path)
    jobs.submit(service, silent)
    jobs.poll(service, silent)
    with pytest.raises(InputError, match="is of other jobs"):
        jobs_in(tmp_path, shots=SHOTS + 1)
    assert key_of(PLAN) != key_of(PLAN | {"shots": SHOTS + 1})
    path = tmp_path / "jobs" / "0001.npz"
    np.savez(path, counts=np.zeros((1, OUTCOMES), dtype=np.int64), id="job-1")
    with pytest.raises(InputError, match="came back short.*delete it and poll again"):
        jobs.counts()
