"""Programs end, fail and move; the supervisor does the right thing, without any cluster."""

import pytest

from potstill.cluster.settings import ClusterSettings, ProgramSettings
from potstill.cluster.supervise import Start, State, Supervisor, filled
from potstill.core.errors import RunError, Stopped

RUNS = State()


class Stage:
    """Plays machines. script: name -> one list of states for each life; the last state of a life stays."""

    def __init__(self, script, hosts=()):
        self.script, self.placed, self.said, self.now = script, [], [], 0.0
        self.hosts, self.stopped = dict(hosts), []

    def place(self, name, settings, start):
        life = sum(1 for other, _ in self.placed if other == name)
        self.placed.append((name, start.command))
        return Actor(self, name, list(self.script[name][life]), self.hosts.get(name, ["here"] * 9)[life])

    def clock(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        assert self.now < 500, "the job does not end"

    def run(self, job, poll=lambda: None):
        settings = ClusterSettings.model_validate(job)
        Supervisor(settings, self.place, say=self.said.append, poll=poll, clock=self.clock, sleep=self.sleep).run()


class Actor:
    def __init__(self, stage, name, states, host):
        self.stage, self.name, self.states, self.host = stage, name, states, host

    @property
    def hosts(self):
        return None if self.host is None else [self.host]

    def look(self):
        return self.states.pop(0) if len(self.states) > 1 else self.states[0]

    def stop(self, grace_seconds):
        self.stage.stopped.append(self.name)
        return ("saved",)


def ends(code, *lines, after=1):
    return [*[RUNS] * after, State(lines, ended=True, code=code)]


LOST = [RUNS, State(ended=True, reason="its machine is lost")]
WORK = {"command": ["work"]}
TEACHER = {"command": ["serve"], "service": True}


def test_done_is_done():
    stage = Stage({"work": [ends(0, "all fine")]})
    stage.run({"programs": {"work": WORK}})
    assert stage.placed == [("work", ("work",))]
    assert stage.said == ["work: started on here", "work | all fine", "work: done"]


def test_a_service_ends_with_the_work_and_is_told_to():
    stage = Stage({"work": [ends(0, after=3)], "teacher": [[RUNS]]})
    stage.run({"programs": {"teacher": TEACHER, "work": WORK}})
    assert stage.stopped == ["teacher"]
    assert stage.said[-1] == "teacher | saved"


def test_what_fails_is_started_again_later_and_later():
    stage = Stage({"work": [ends(1), LOST, ends(-9), ends(0)]})
    stage.run({"programs": {"work": WORK}})
    assert len(stage.placed) == 4
    assert [line for line in stage.said if "restarts are left" in line] == [
        "work: ended (exit code 1); started again in 1 s, 2 restarts are left",
        "work: ended (its machine is lost); started again in 2 s, 1 restarts are left",
        "work: ended (exit code -9); started again in 4 s, 0 restarts are left",
    ]
    assert stage.now > 7


def test_too_often_is_too_often():
    stage = Stage({"work": [ends(1), ends(1, "no room on the disk")], "teacher": [[RUNS]]})
    with pytest.raises(RunError, match=r"(?s)work ended .exit code 1; failed 2 times.*no room on the disk"):
        stage.run({"programs": {"work": {**WORK, "restarts": 1}, "teacher": TEACHER}})
    assert stage.stopped == ["teacher"]


def test_wrong_input_is_not_tried_again():
    stage = Stage({"work": [ends(2, "recipe.yaml:3:1: no")]})
    with pytest.raises(RunError, match=r"(?s)wrong input is not tried again.*recipe.yaml:3:1: no"):
        stage.run({"programs": {"work": WORK}})
    assert len(stage.placed) == 1


def test_a_folder_that_an_earlier_life_still_holds_is_tried_again():
    stage = Stage({"work": [LOST, ends(2, "in use"), ends(0)]})
    stage.run({"programs": {"work": WORK}})
    assert len(stage.placed) == 3


def test_a_service_that_ends_by_itself_has_failed():
    stage = Stage({"work": [ends(0, after=9)], "teacher": [ends(0), [RUNS]]})
    stage.run({"programs": {"teacher": TEACHER, "work": WORK}})
    assert [name for name, _ in stage.placed].count("teacher") == 2


def test_whoever_asks_a_service_is_started_once_it_has_an_address_and_again_when_it_moves():
    asks = {"command": ["work", "http://{teacher.host}:80"]}
    lives = {"work": [[RUNS], ends(0)], "teacher": [[*[RUNS] * 3, LOST[-1]], [RUNS]]}
    stage = Stage(lives, hosts={"teacher": ["one", "two"]})
    stage.run({"programs": {"work": asks, "teacher": TEACHER}})
    assert [command for name, command in stage.placed if name == "work"] == [
        ("work", "http://one:80"),
        ("work", "http://two:80"),
    ]
    assert "work: a program that it asks has moved; it is started again" in stage.said
    assert stage.stopped == ["work", "teacher"]


def test_a_signal_stops_all_of_it():
    def poll():
        if stage.now > 2:
            raise Stopped(15, "stopped")

    stage = Stage({"work": [[RUNS]], "teacher": [[RUNS]]})
    with pytest.raises(Stopped):
        stage.run({"programs": {"teacher": TEACHER, "work": WORK}}, poll=poll)
    assert stage.stopped == ["work", "teacher"], "services last"


def test_addresses_are_filled_in():
    settings = ProgramSettings(command=("a", "{b-c.host}:1/{d.host}"), environment={"AT": "{d.host}"})
    assert settings.leans_on == {"b-c", "d"}
    assert filled(settings, {"b-c": "x", "d": "y"}) == Start(("a", "x:1/y"), {"AT": "y"})
