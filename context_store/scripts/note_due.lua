#!lua flags=allow-oom
-- Notes when the janitor has to look at a session, unless it looks earlier anyway.
-- KEYS: index.  ARGV: member, ms from now.
-- Returns when it looks, in ms.
local now = redis.call('TIME')
local at = now[1] * 1000 + math.floor(now[2] / 1000) + ARGV[2]
local noted = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or at + 1)
-- Never the score that it has: whoever noted it before takes back no more than that, and WAIT waits for a write alone.
at = string.format('%.0f', math.min(at, noted - 1))
redis.call('ZADD', KEYS[1], at, ARGV[1])
return at
