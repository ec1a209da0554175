-- Reads the oldest members of an index. Changes nothing.
-- KEYS: index.  ARGV: only those that are older than so many ms, members to pass over, members at most.
-- Returns a flat list of members and scores.
local now = redis.call('TIME')
local latest = string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000) - ARGV[1])
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', latest, 'WITHSCORES', 'LIMIT', ARGV[2], ARGV[3])
