"""Documents to blocks of a fixed number of positions, without loss: every token of every document is predicted exactly once.

A document begins with what the tokenizer puts before a text, or else with the end-of-text token, the context of its first
token, and ends with the latter. What is longer than a block is cut into segments that overlap by one token, the context of
the next one's first prediction. Segments are then packed best-fit decreasing (Ding et al. 2024, arXiv:2404.10830): a document
is cut only if it is longer than a block, and few positions stay empty. A block's segments do not see each other
(`data.blocks`).
"""

from bisect import bisect_left, insort

import numpy as np

from stillhouse.data.blocks import Segment


def cut(document: np.ndarray, begin: list[int], end_of_text: int, block_tokens: int) -> list[Segment]:
    """Segments of a document's tokens (S,), each of at most `block_tokens` positions; S + 1 positions in all.

    begin: what stands before a document, almost always one token; further ones are predicted as the document's are.
    """
    framed = np.concatenate((begin, document, [end_of_text])).astype(np.int64)
    starts = range(0, len(framed) - 1, block_tokens)
    return [Segment(framed[start : start + block_tokens + 1]) for start in starts]


def pack(lengths: list[int], block_tokens: int) -> list[list[int]]:
    """Indices of the segments of each block, best-fit decreasing: a pure function of the lengths and their order."""
    blocks: list[list[int]] = []
    # Open blocks by room that is left; `rooms` holds those that occur, sorted.
    by_room: dict[int, list[int]] = {}
    rooms: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        length = lengths[index]
        place = bisect_left(rooms, length)
        if place == len(rooms):
            number, room = len(blocks), block_tokens
            blocks.append([])
        else:
            room = rooms[place]
            number = by_room[room].pop()
            if not by_room[room]:
                del by_room[room], rooms[place]
        blocks[number].append(index)
        left = room - length
        if left > 0:
            if left not in by_room:
                insort(rooms, left)
            by_room.setdefault(left, []).append(number)
    return blocks
