"""A lock that is handed over in the order of asking, and left in peace by who gave up."""

from __future__ import annotations

import threading
import time

from sanakit.serve.jobs.fair_lock import FairLock


def test_threads_get_it_in_the_order_of_asking_and_nobody_twice_before_them() -> None:
    lock, order, started = FairLock(), [], []

    def work(number: int) -> None:
        for _ in range(3):  # it asks again at once
            assert lock.acquire(20)
            order.append(number)
            lock.release()

    assert lock.acquire(0)
    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for number, thread in enumerate(threads):
        thread.start()
        while len(lock._waiting) <= number:
            time.sleep(0.001)
        started.append(number)
    lock.release()
    for thread in threads:
        thread.join()
    assert order[:4] == started
    assert sorted(order) == sorted(started * 3)


def test_who_gave_up_is_passed_over_and_a_free_lock_is_had_at_once() -> None:
    lock = FairLock()
    assert lock.acquire(0)
    assert not lock.acquire(0.01)
    lock.release()
    assert lock.acquire(0)
    assert not lock.acquire(0)
    lock.release()
    assert lock.acquire(0)
