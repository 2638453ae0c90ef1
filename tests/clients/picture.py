"""Screenshots: compared as the bytes that the tool wrote, decoded only to explain a difference."""

import functools
import struct
import zlib

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


class Picture:
    """A PPM (grim) or PNG (weston-screenshooter) file, decoded on demand."""

    def __init__(self, encoded):
        self.encoded = encoded

    def __eq__(self, other):
        return self.encoded == other.encoded or self.decoded == other.decoded

    @functools.cached_property
    def decoded(self):
        """(width, height, RGB bytes)"""
        if self.encoded.startswith(PNG_SIGNATURE):
            return decode_png(self.encoded)
        return decode_ppm(self.encoded)

    @property
    def rows(self):
        width, height, rgb = self.decoded
        return [rgb[y * width * 3:(y + 1) * width * 3] for y in range(height)]

    def pixel(self, x, y):
        width, _, rgb = self.decoded
        offset = (y * width + x) * 3
        return int.from_bytes(rgb[offset:offset + 3], "big")

    def is_plain(self, colour):
        width, height, rgb = self.decoded
        return rgb == colour.to_bytes(3, "big") * (width * height)

    def differing(self, other):
        """The (x, y) of every pixel that differs; both pictures have the same size."""
        found = []
        for y, (mine, theirs) in enumerate(zip(self.rows, other.rows)):
            if mine != theirs:
                found += [(x, y) for x in range(len(mine) // 3)
                          if mine[x * 3:x * 3 + 3] != theirs[x * 3:x * 3 + 3]]
        return found

    def difference(self, other):
        """None, or one line that says how the two differ."""
        if self == other:
            return None
        if self.decoded[:2] != other.decoded[:2]:
            return f"sizes differ: {self.decoded[:2]} and {other.decoded[:2]}"
        pixels = self.differing(other)
        left, top, width, height = box(pixels)
        return f"{len(pixels)} pixels differ, within {width}x{height} at {left},{top}"

    def save(self, path):
        with open(path, "wb") as file:
            file.write(encode_png(*self.decoded))


def box(pixels):
    """(left, top, width, height) around a list of (x, y)"""
    xs, ys = zip(*pixels)
    return min(xs), min(ys), max(xs) - min(xs) + 1, max(ys) - min(ys) + 1


def count_squares(pixels, side):
    """How many squares of that side it takes, found greedily, to cover a list of (x, y)."""
    squares = []  # (left, top, right, bottom) of what each covers
    for x, y in pixels:
        for number, (left, top, right, bottom) in enumerate(squares):
            grown = min(left, x), min(top, y), max(right, x), max(bottom, y)
            if grown[2] - grown[0] < side and grown[3] - grown[1] < side:
                squares[number] = grown
                break
        else:
            squares.append((x, y, x, y))
    return len(squares)


def decode_ppm(encoded):
    magic, size, depth, rgb = encoded.split(b"\n", 3)
    if magic != b"P6" or depth != b"255":
        raise ValueError("not an 8-bit PPM")
    width, height = map(int, size.split())
    return width, height, rgb


def encode_png(width, height, rgb):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data \
            + struct.pack(">I", zlib.crc32(kind + data))
    rows = b"".join(b"\0" + rgb[y * width * 3:(y + 1) * width * 3] for y in range(height))
    return PNG_SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)) \
        + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def decode_png(encoded):
    """8-bit RGB or RGBA without interlacing, which is what cairo writes."""
    chunks = {b"IDAT": b""}
    offset = len(PNG_SIGNATURE)
    while offset < len(encoded):
        length, kind = struct.unpack_from(">I4s", encoded, offset)
        data = encoded[offset + 8:offset + 8 + length]
        chunks[kind] = chunks[kind] + data if kind == b"IDAT" else data
        offset += length + 12
    width, height, depth, colour_type, _, _, interlace = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    if depth != 8 or colour_type not in (2, 6) or interlace:
        raise ValueError("not a plain 8-bit RGB or RGBA PNG")
    step = 3 if colour_type == 2 else 4
    filtered = zlib.decompress(chunks[b"IDAT"])
    stride = width * step
    above = bytes(stride)
    rgb = bytearray()
    for y in range(height):
        start = y * (stride + 1)
        above = unfilter(filtered[start], bytearray(filtered[start + 1:start + 1 + stride]),
                         above, step)
        rgb += above if step == 3 else without_alpha(above)
    return width, height, bytes(rgb)


def unfilter(kind, row, above, step):
    if not any(row) and kind in (0, 2):
        row = row if kind == 0 else bytearray(above)
    elif kind == 1:
        for x in range(step, len(row)):
            row[x] = (row[x] + row[x - step]) & 255
    elif kind == 2:
        row = bytearray(sum_of_bytes(row, above))
    elif kind == 3:
        for x in range(len(row)):
            left = row[x - step] if x >= step else 0
            row[x] = (row[x] + (left + above[x]) // 2) & 255
    elif kind == 4:
        for x in range(len(row)):
            left, corner = (row[x - step], above[x - step]) if x >= step else (0, 0)
            row[x] = (row[x] + paeth(left, above[x], corner)) & 255
    return row


def sum_of_bytes(first, second):
    """Of each pair, modulo 256; as one sum of large numbers, which takes far less time."""
    length = len(first)
    low_bits = int.from_bytes(b"\x7f" * length, "little")
    a, b = int.from_bytes(first, "little"), int.from_bytes(second, "little")
    total = ((a & low_bits) + (b & low_bits)) ^ ((a ^ b) & ~low_bits)
    return total.to_bytes(length, "little")


def paeth(left, above, corner):
    estimate = left + above - corner
    return min((left, above, corner), key=lambda value: abs(estimate - value))


def without_alpha(row):
    rgb = bytearray(len(row) // 4 * 3)
    for channel in range(3):
        rgb[channel::3] = row[channel::4]
    return rgb
