-- Takes a dead letter, or one that has ended, out of what is kept.
-- KEYS: records, requests, ended, dead, sums.  ARGV: name, now in ms.  Returns 1 if it was there.
redis.call('HSET', KEYS[5], 'seen', ARGV[2])
local was_dead = redis.call('ZREM', KEYS[4], ARGV[1])
local was_ended = redis.call('ZREM', KEYS[3], ARGV[1])
if was_dead + was_ended == 0 then return 0 end
if was_dead == 1 then
  local bytes = (tonumber(redis.call('HGET', KEYS[5], 'dead_bytes')) or 0) - redis.call('HSTRLEN', KEYS[2], ARGV[1])
  redis.call('HSET', KEYS[5], 'dead_bytes', string.format('%.0f', bytes))
end
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
return 1
