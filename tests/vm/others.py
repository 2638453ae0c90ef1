"""Many buffers that come and go beside one that stays."""

import os
import time

import census

NUMBER = 1000
AT_ONCE = 50
PAUSE = 0.1


def make_and_destroy(window, stays, make):
    """make() makes and destroys one. Prints "others: N" when the compositor has N more, and goes on when `stays` is
    released; "others: none" when nothing is left of them in this machine."""
    while (before := census.of(os.getppid())) is None:
        time.sleep(PAUSE)
    for _ in range(NUMBER // AT_ONCE):
        for _ in range(AT_ONCE):
            make()
        window.sync()
        print("others:", AT_ONCE, flush=True)
        window.wait_for_release(stays)
    now = None
    while now != before:
        last, now = now, census.of(os.getppid())
        if now != last:
            print("left:", now, "of", before, flush=True)
        time.sleep(PAUSE)
    print("others: none", flush=True)
