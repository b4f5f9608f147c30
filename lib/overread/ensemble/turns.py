"""Members in training take turns, so that they advance evenly and no core idles while others work."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from threading import Event, Lock

import torch

from overread.ensemble.member_training import MemberTraining


def train_in_turns(
    shares: list[float],
    begin: Callable[[int], MemberTraining],
    heard: Callable[[MemberTraining], None],
    *,
    at_once: int,
    threads_each: int,
    turn_s: float,
    asked_to_stop: Event | None = None,
) -> None:
    """Train every member whose share is below 1, always the one that is furthest behind.

    Threads are enough for this: torch lets go of the interpreter while it computes. An error, Ctrl-C or
    `asked_to_stop` ends all members at their next step, and each keeps what it has.

    Args:
        shares: done of each member at the start, 0 to 1. Not changed.
        begin: makes a member, or continues it from its files.
        heard: called after each step of any member, by one thread at a time.
        at_once: members that train at the same time.
        threads_each: of torch, for each of them.
        turn_s: seconds after which a member lets another go first.
        asked_to_stop: ends the turns early once it is set; the shares then tell how far the members came.
    """
    done = list(shares)
    waiting = [index for index, share in enumerate(done) if share < 1]
    members: dict[int, MemberTraining] = {}
    stop, lock = Event(), Lock()

    def step_heard(member: MemberTraining) -> None:
        with lock:
            done[member.index] = member.share
            heard(member)
        if asked_to_stop is not None and asked_to_stop.is_set():
            stop.set()

    def next_member() -> MemberTraining | None:
        with lock:
            if not waiting:
                return None
            index = min(waiting, key=lambda i: done[i])
            waiting.remove(index)
            # Under the lock: new networks are drawn from torch's global generator.
            member = members[index] = members.get(index) or begin(index)
            done[index] = member.share
            return member

    def take_turns() -> None:
        while not stop.is_set() and (member := next_member()):
            member.run(turn_s, stop, step_heard)
            with lock:
                if member.share < 1:
                    waiting.append(member.index)
                else:
                    del members[member.index]

    before = torch.get_num_threads()
    torch.set_num_threads(threads_each)
    try:
        with ThreadPoolExecutor(at_once) as pool:
            turns = [pool.submit(take_turns) for _ in range(at_once)]
            try:
                wait(turns, return_when=FIRST_EXCEPTION)
            finally:
                stop.set()
            for turn in turns:
                turn.result()
    finally:
        torch.set_num_threads(before)
