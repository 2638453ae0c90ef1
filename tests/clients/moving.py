"""Clients that never stand still, checked by what they must have painted.

Two takes of an animation never show the same moment. But each of these pictures follows from
few numbers, so that a single row that was lost, late or torn shows in every screenshot.
"""

import collections

from picture import Picture, box
from processes import Failure, wait_until

FRAMES = 8  # screenshots of each take


def frames(take):
    """Screenshots that differ from the one before."""
    seen = []

    def enough():
        take.check_clients_run()
        picture = take.shot()
        if picture != take.compositor.empty and (not seen or picture.encoded != seen[-1].encoded):
            seen.append(picture)
        return len(seen) == FRAMES
    wait_until(f"{FRAMES} different frames", enough, pause=0.1)
    return seen


# weston-simple-shm paints v = n * FACTOR, where n is a sum of a place and a time

FACTOR = 0x080401
MASK = 0xffffff
INVERSE = pow(FACTOR, -1, MASK + 1)
SIDE, PADDING = 250, 20
CENTRE = SIDE // 2
OUTER = (CENTRE - 8) ** 2
INNER = (CENTRE - 8 - 32) ** 2


def simple_shm(take):
    """Every pixel of every frame belongs to one and the same moment."""
    take.start(["weston-simple-shm"])
    for number, picture in enumerate(frames(take)):
        left, top, width, height = box(picture.differing(take.compositor.empty))
        if (width, height) != (SIDE, SIDE):
            raise Failure(f"frame {number}: a window of {width}x{height}, not {SIDE}x{SIDE}")
        wrong = wrong_pixels(picture, left, top)
        if wrong:
            picture.save(take.path(f"frame-{number}.png"))
            raise Failure(f"frame {number}: {len(wrong)} pixels are of another moment, "
                          f"within {box(wrong)} (left, top, width, height)")
    return "one moment in every frame"


def wrong_pixels(picture, left, top):
    def number_at(x, y):
        return picture.pixel(left + x, top + y) * INVERSE & MASK

    # three places outside the cross
    time_16 = number_at(60, PADDING) - 60
    time_32 = number_at(CENTRE + 100, CENTRE) - CENTRE
    time_64 = number_at(CENTRE + 10, CENTRE) - 10 ** 2 // 32
    if (time_16 >> 1 ^ time_32) & MASK >> 1 or (time_32 >> 1 ^ time_64) & MASK >> 1:
        return [(CENTRE, CENTRE)]
    rows = picture.rows
    wrong = []
    for y in range(PADDING, SIDE - PADDING):
        row = rows[top + y]
        for x in range(PADDING, SIDE - PADDING):
            radius = (x - CENTRE) ** 2 + (y - CENTRE) ** 2
            if radius < INNER:
                number = radius // 32 + time_64
            elif radius < OUTER:
                number = y + time_32
            else:
                number = x + time_16
            at = (left + x) * 3
            # a cross without alpha, which screenshots of Weston show as black
            crossed = abs(x - y) <= 6 or abs(x + y - SIDE) <= 6
            expected = 0 if crossed else number * FACTOR & MASK
            if int.from_bytes(row[at:at + 3], "big") != expected:
                wrong.append((x, y))
    return wrong


# weston-simple-damage moves a green ball and damages only where it was and where it is

BALL_SIDE, BALL_LEAST = 23, 250


def simple_damage(*options):
    def run(take):
        """One whole ball and no trace of it elsewhere; the rest is equal in both takes."""
        take.start(["weston-simple-damage", "--width=150", "--height=100", *options])
        places = set()
        rest = None
        for number, picture in enumerate(frames(take)):
            try:
                ball, without = separate_ball(picture, take.compositor.empty)
                rest = rest or without
                if without != rest:
                    raise Failure(f"the rest changes: {without.difference(rest)}")
            except Failure as failure:
                picture.save(take.path(f"frame-{number}.png"))
                raise Failure(f"frame {number}: {failure}")
            places.add(ball)
        if len(places) < 3:
            raise Failure(f"the ball was only at {places}")
        return rest
    return run


def separate_ball(picture, empty):
    """The box of the ball, and the picture with that box painted over."""
    width, height, rgb = picture.decoded
    left, top, window_width, window_height = box(picture.differing(empty))
    colours = collections.Counter()
    green = []
    for y in range(top, top + window_height):
        for x in range(left, left + window_width):
            at = (y * width + x) * 3
            colour = rgb[at:at + 3]
            colours[colour] += 1
            if colour[1] > max(colour[0], colour[2]) + 32:
                green.append((x, y))
    if not green:
        raise Failure("there is no ball")
    ball = box(green)
    if max(ball[2:]) > BALL_SIDE or len(green) < BALL_LEAST:
        raise Failure(f"not one ball: {len(green)} green pixels within {ball[2]}x{ball[3]}")
    inside = colours.most_common(1)[0][0]
    painted = bytearray(rgb)
    for y in range(ball[1], ball[1] + ball[3]):
        at = (y * width + ball[0]) * 3
        painted[at:at + ball[2] * 3] = inside * ball[2]
    header = b"P6\n%d %d\n255\n" % (width, height)
    return ball, Picture(header + bytes(painted))
