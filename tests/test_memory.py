"""What a machine has, and the refusal of what it has not."""

import os

import pytest

from morphkit.transport import memory
from morphkit.transport.memory import UNKNOWN, ask_memory, available


def test_no_more_is_available_than_the_machine_has():
    assert 0 < available() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_what_is_not_there_is_refused_with_its_size_and_what_to_do():
    ask_memory("a small array", 2**10, "nothing")
    with pytest.raises(MemoryError, match=r"a table takes 1048576\.0 GiB, and .* GiB are.*; sell"):
        ask_memory("a table", 2**50, "sell the house")


def test_the_machines_and_the_containers_word_are_taken(tmp_path, monkeypatch):
    machine, container = tmp_path / "meminfo", tmp_path / "memory.max"
    monkeypatch.setattr(memory, "MEMINFO", machine)
    monkeypatch.setattr(memory, "CONTAINER", (container,))
    assert available() == UNKNOWN
    machine.write_text("MemTotal:  9000 kB\nMemFree:  100 kB\nMemAvailable:    5000 kB\n")
    assert available() == 5000 * 2**10
    container.write_text("max\n")
    assert available() == 5000 * 2**10
    container.write_text("1000\n")
    assert available() == 1000
    machine.write_text("MemTotal:  9000 kB\n")
    container.unlink()
    assert available() == UNKNOWN
