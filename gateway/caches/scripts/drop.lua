-- Drops an entry; if it was told wrong, the pair of questions (or the entry, for the same window) is remembered.
-- KEYS entries, answers, used, changes, state, wrong; ARGV id, now in ms, ttl in ms, pair or '', pairs at most.
-- Returns whether the entry was there. Safe to run twice.
local was = redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('HSETNX', KEYS[5], 'born', ARGV[2])
redis.call('ZADD', KEYS[4], redis.call('HINCRBY', KEYS[5], 'version', 1), ARGV[1])
if ARGV[4] ~= '' then
  redis.call('ZADD', KEYS[6], ARGV[2], ARGV[4])
  redis.call('ZREMRANGEBYRANK', KEYS[6], 0, -1 - tonumber(ARGV[5]))
end
for _, key in ipairs(KEYS) do
  redis.call('PEXPIRE', key, ARGV[3])
end
return was
