"""The commands that change rows: two scripts, each atomic for its keys, which all lie in one slot.

Event times are compared as the integers they are, in two halves, as Lua's numbers are exact up to 2^53 only; bytes are
compared one by one, as Lua compares strings in the order of the server's locale. What stands under a key and is no
string is no row (MGET says so, too): a row takes its place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

from engine.features.store import EVENT_TIME_OFFSET
from engine.features.stores.redis_protocol import pack

# KEYS: rows; ARGV: seconds to live or "", then a value for each key. Gives how many were written. The event time stands
# from @FIRST@ to @LAST@.
_WRITE: Final = """
local ttl, written = ARGV[1], 0
local function greater(a, b)
    local byte = string.byte
    for i = 1, math.min(#a, #b) do
        local x, y = byte(a, i), byte(b, i)
        if x ~= y then return x > y end
    end
    return #a > #b
end
for i, key in ipairs(KEYS) do
    local value = ARGV[i + 1]
    local held = redis.pcall('GETRANGE', key, @FIRST@, @LAST@)
    if type(held) == 'table' and not string.find(held.err, 'WRONGTYPE', 1, true) then return held end
    local newer
    if type(held) == 'string' and #held == 8 then
        local low, high = struct.unpack('<I4i4', held)
        local new_low, new_high = struct.unpack('<I4i4', value, @FIRST@ + 1)
        if high == new_high and low == new_low then
            local whole = redis.call('GET', key)
            newer = value ~= whole and greater(value, whole)
        else
            newer = high < new_high or (high == new_high and low < new_low)
        end
    else
        newer = true
    end
    if newer then
        if ttl == '' then redis.call('SET', key, value) else redis.call('SET', key, value, 'EX', ttl) end
        written = written + 1
    end
end
return written
"""

# KEYS: rows; ARGV: seconds to live or "", then for each key whether there was a value ("1" or "0"), that value, and
# the one to put in its place. Gives for each key 1 when that was done, or else what the key holds now.
_SWAP: Final = """
local ttl, outcome = ARGV[1], {}
for i, key in ipairs(KEYS) do
    local at = 3 * i - 1
    local held = redis.pcall('GET', key)
    if type(held) == 'table' then
        if not string.find(held.err, 'WRONGTYPE', 1, true) then return held end
        held = false
    end
    local same
    if held then same = ARGV[at] == '1' and held == ARGV[at + 1] else same = ARGV[at] == '0' end
    if same then
        local value = ARGV[at + 2]
        if ttl == '' then redis.call('SET', key, value) else redis.call('SET', key, value, 'EX', ttl) end
        outcome[i] = 1
    else
        outcome[i] = held
    end
end
return outcome
"""


class Script:
    """A script by its digest, which the server knows once it has seen the text."""

    def __init__(self, text: str) -> None:
        places = {"@FIRST@": EVENT_TIME_OFFSET, "@LAST@": EVENT_TIME_OFFSET + 7}
        for name, value in places.items():
            text = text.replace(name, str(value))
        self._text = text.strip().encode()
        # How Redis names scripts; nothing secret hangs on it.
        self._digest = hashlib.sha1(self._text, usedforsecurity=False).hexdigest().encode()

    def call(self, keys: Sequence[bytes], arguments: Sequence[bytes], whole: bool) -> bytes:
        """The command. whole: with the text, for a server that forgot it."""
        head = (b"EVAL", self._text) if whole else (b"EVALSHA", self._digest)
        return pack((*head, b"%d" % len(keys), *keys, *arguments))


def pack_keys(verb: bytes, keys: Sequence[bytes], items: Sequence[int], whole: bool = False) -> bytes:
    """A command on keys by their numbers: a packer of `Call` once verb and keys are given."""
    return pack((verb, *[keys[i] for i in items]))


def pack_script(
    script: Script,
    keys: Sequence[bytes],
    arguments: Sequence[Sequence[bytes]],
    head: bytes,
    items: Sequence[int],
    whole: bool,
) -> bytes:
    """A script on keys by their numbers, with `head` and the arguments of each key: likewise a packer of `Call`."""
    further = [word for i in items for word in arguments[i]]
    return script.call([keys[i] for i in items], (head, *further), whole)


WRITE: Final = Script(_WRITE)
SWAP: Final = Script(_SWAP)
