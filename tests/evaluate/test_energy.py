"""Counters as Linux shows them, made of files; and the estimate, which says that it is one."""

import pytest

from potstill.evaluate.energy import counters, energy_of


@pytest.fixture
def powercap(tmp_path):
    for name, value in (("intel-rapl:0", 900), ("intel-rapl:0:0", 5), ("intel-rapl:1", 100)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text(f"{value}\n")
        (tmp_path / name / "max_energy_range_uj").write_text("999\n")
    (tmp_path / "intel-rapl:2").mkdir()
    return tmp_path


class Machine:
    """Each call takes 0.1 s, and 50 and 100 microjoules of two packages."""

    def __init__(self, root):
        self.now, self.root, self.calls = 0.0, root, 0

    def work(self):
        self.now, self.calls = self.now + 0.1, self.calls + 1
        for name, more in (("intel-rapl:0", 50), ("intel-rapl:1", 100)):
            file = self.root / name / "energy_uj"
            file.write_text(str((int(file.read_text()) + more) % 1000))


def test_packages_are_counted_once_and_unreadable_ones_not(powercap):
    assert [one.energy.parent.name for one in counters(powercap)] == ["intel-rapl:0", "intel-rapl:1"]
    assert counters(powercap / "nowhere") == []


def test_joules_of_a_call_are_read_across_the_end_of_a_counter(powercap):
    machine = Machine(powercap)
    found = energy_of(machine.work, core_watts=1, read=counters(powercap), clock=lambda: machine.now)
    assert machine.calls == 3  # the first of them that pass a quarter of a second
    assert found.joules == pytest.approx(150e-6)
    assert found.measured
    assert "RAPL" in found.method


def test_without_a_counter_it_is_an_estimate_and_says_so(powercap):
    machine = Machine(powercap)
    found = energy_of(machine.work, core_watts=4, read=[], clock=lambda: machine.now, processor=lambda: 2 * machine.now)
    assert found.joules == pytest.approx(4 * 0.2)
    assert not found.measured
    assert found.method.startswith("estimate")
    assert "core_watts" in found.method
