"""Host buffers: charged, reused up to a bound, in huge pages and on a node where the system has such things."""

from __future__ import annotations

import mmap
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from admit_sdk import BufferPool, Exhausted, MemoryGovernor, holdings, hostpages
from admit_sdk.hostpages import Applied

PAGE = mmap.PAGESIZE
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="madvise and mbind are Linux's")


@pytest.fixture
def governor() -> MemoryGovernor:
    return MemoryGovernor(64 << 20, watch=False)


@pytest.fixture
def pool(governor: MemoryGovernor) -> Iterator[BufferPool]:
    made = BufferPool(governor, 10 * PAGE)
    yield made
    made.close()
    assert governor.allocated_bytes == 0


def test_a_buffer_is_whole_pages_and_charged(governor: MemoryGovernor, pool: BufferPool) -> None:
    with pool.get(PAGE + 1) as buffer:
        assert len(buffer) == 2 * PAGE == governor.holdings()["buffers"]
        buffer.view[:3] = b"abc"
        assert bytes(buffer.view[:4]) == b"abc\0"


def test_a_returned_size_is_kept_charged_and_used_again(governor: MemoryGovernor, pool: BufferPool) -> None:
    with pool.get(3 * PAGE) as buffer:
        buffer.view[:3] = b"abc"
    buffer.release()
    assert (pool.size_bytes, governor.allocated_bytes) == (3 * PAGE, 3 * PAGE)

    with pool.get(PAGE) as other, pool.get(3 * PAGE) as again:
        assert bytes(other.view[:3]) == b"\0\0\0"
        assert bytes(again.view[:3]) == b"abc"
        assert (pool.size_bytes, governor.allocated_bytes) == (0, 4 * PAGE)


def test_no_more_is_kept_than_the_bound_and_the_oldest_goes_first(governor: MemoryGovernor, pool: BufferPool) -> None:
    buffers = [pool.get(pages * PAGE) for pages in (4, 5, 3)]
    for each in buffers:
        each.release()
    assert (pool.size_bytes, governor.allocated_bytes) == (8 * PAGE, 8 * PAGE)
    pool.get(11 * PAGE).release()
    assert (pool.size_bytes, governor.allocated_bytes) == (0, 0)


def test_what_is_kept_goes_before_anybody_is_refused(governor: MemoryGovernor, pool: BufferPool) -> None:
    pool.get(10 * PAGE).release()
    assert governor.evictions.plan(1) == (pool,)
    with pool.get((64 << 20) - PAGE):
        assert pool.size_bytes == 0
        with pytest.raises(Exhausted):
            pool.get(2 * PAGE)


def test_what_is_kept_can_be_evicted(governor: MemoryGovernor, pool: BufferPool) -> None:
    pool.get(PAGE).release()
    governor.evictions.put([pool], "the test wants it")
    assert governor.evictions.work_off() == 1
    assert governor.allocated_bytes == 0
    assert not pool.evict()


def test_a_buffer_that_somebody_still_looks_at_is_not_given_back(pool: BufferPool) -> None:
    buffer = pool.get(PAGE)
    part = buffer.view[10:20]
    with pytest.raises(BufferError, match=f"a view of this buffer of {PAGE} bytes is still in use"):
        buffer.release()
    part[0] = 7
    part.release()
    buffer.release()
    assert pool.size_bytes == PAGE


@pytest.mark.parametrize("size", [0, -1])
def test_a_size_that_is_none_is_refused(pool: BufferPool, size: int) -> None:
    with pytest.raises(ValueError, match="a size is a whole number of bytes"):
        pool.get(size)


def test_threads_share_a_pool(governor: MemoryGovernor, pool: BufferPool) -> None:
    def work(mark: int) -> None:
        for _ in range(200):
            with pool.get(PAGE) as buffer:
                buffer.view[:8] = bytes([mark]) * 8
                assert bytes(buffer.view[:8]) == bytes([mark]) * 8

    threads = [threading.Thread(target=work, args=(mark,)) for mark in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert governor.allocated_bytes == pool.size_bytes <= 8 * PAGE


# Where pages lie.


@linux
def test_huge_pages_are_asked_for_or_it_is_said_why_not(governor: MemoryGovernor) -> None:
    pool = BufferPool(governor, 0, huge_pages=True)
    with pool.get(8 << 20) as large, pool.get(PAGE) as small:
        assert small.huge_pages.why.startswith(("the buffer is smaller than one huge page", "they are switched off"))
        if large.huge_pages.done:
            large.view[:: 1 << 20] = bytes(8)
            told = mapping_of(hostpages.address_of(large._memory))
            assert "hg" in told["VmFlags"].split()  # proc_pid_smaps(5), VmFlags: huge page advise flag
            # Whether the kernel would do it; where it has a free one, it has done it.
            assert told.get("THPeligible", "1") == "1" or int(told["AnonHugePages"].split()[0]) > 0, told
        else:
            assert large.huge_pages.why
    pool.close()


def mapping_of(address: int) -> dict[str, str]:
    """What the kernel tells of the mapping at `address`."""
    told: dict[str, str] = {}
    found = False
    for line in Path(f"/proc/{os.getpid()}/smaps").read_text().splitlines():
        first, _, rest = line.partition(" ")
        if "-" in first and not first.endswith(":"):
            low, _, high = first.partition("-")
            found = int(low, 16) <= address < int(high, 16)
        elif found:
            told[first.rstrip(":")] = rest.strip()
    return told


@linux
def test_a_buffer_that_is_used_is_seen_as_the_apps_own(governor: MemoryGovernor) -> None:
    pool = BufferPool(governor, 0)
    with pool.get(48 << 20) as buffer:
        before = holdings.measure()
        buffer.view[:: mmap.PAGESIZE] = bytes(len(buffer) // mmap.PAGESIZE)
        assert holdings.measure().counted - before.counted > 40 << 20
    pool.close()


@linux
def test_a_page_can_be_placed_and_its_node_be_told() -> None:
    """By the system call itself, which works with one node, too."""
    memory = mmap.mmap(-1, 16 * PAGE)
    node = hostpages.nodes()[-1]
    applied = hostpages.place(memory, node)
    if "not permitted" in applied.why or "not implemented" in applied.why:
        pytest.skip(f"this container may not: {applied.why}")
    assert applied == Applied(True)
    memory[0] = 1
    assert hostpages.node_of(memory) == node
    assert not hostpages.place(memory, 1_000).done
    memory.close()


def test_with_one_node_nothing_is_done_and_it_is_said_why(
    governor: MemoryGovernor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hostpages, "nodes", lambda: (0,))
    pool = BufferPool(governor, 0, numa_node=0)
    with pool.get(PAGE) as buffer:
        assert buffer.numa_node == Applied(False, "this system has one NUMA node")
        assert buffer.huge_pages == Applied(False, "it was not asked for")
    assert hostpages.run_on_node(0) == Applied(False, "this system has one NUMA node")
    with pytest.raises(ValueError, match="there is no NUMA node 5; there are 0"):
        hostpages.run_on_node(5)


@linux
def test_with_several_nodes_a_thread_runs_on_the_processors_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's own node 0, said to be one of two."""
    if not Path("/sys/devices/system/node/node0/cpulist").exists():
        pytest.skip("this kernel shows no nodes")
    monkeypatch.setattr(hostpages, "nodes", lambda: (0, 1))
    told: list[object] = []

    def work() -> None:
        told.append(hostpages.run_on_node(0))
        told.append(hostpages.run_on_node(1))
        memory = mmap.mmap(-1, PAGE)
        told.append(hostpages.prefer_node(memory, 0))
        memory.close()

    before = os.sched_getaffinity(0)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert told[0] == Applied(True)
    assert told[1] == Applied(False, "this process may not run on any processor of node 1") or len(told) == 3
    assert os.sched_getaffinity(0) == before


def test_elsewhere_nothing_is_done_and_it_is_said_why(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = mmap.mmap(-1, PAGE)
    monkeypatch.setattr(hostpages.platform, "machine", lambda: "vax")
    assert hostpages.place(memory, 0) == Applied(False, "the system call's number is not known for vax")
    assert hostpages.node_of(memory) is None
    monkeypatch.delattr(mmap, "MADV_HUGEPAGE", raising=False)
    assert not hostpages.want_huge_pages(memory).done
    memory.close()
