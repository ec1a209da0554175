-- Takes a dead letter, or one that has ended, out of what is kept.
-- KEYS: records, requests, ended, dead, sums, names.  ARGV: name, now in ms.  Returns 1 if it was there.
local records, requests, ended, dead, sums, names = unpack(KEYS)
redis.call('HSET', sums, 'seen', ARGV[2])
local was_dead = redis.call('ZREM', dead, ARGV[1])
if was_dead + redis.call('ZREM', ended, ARGV[1]) == 0 then return 0 end
if was_dead == 1 then
  local bytes = (tonumber(redis.call('HGET', sums, 'dead_bytes')) or 0) - redis.call('HSTRLEN', requests, ARGV[1])
  redis.call('HSET', sums, 'dead_bytes', string.format('%.0f', bytes))
end
redis.call('ZREM', names, ARGV[1])
redis.call('HDEL', records, ARGV[1])
redis.call('HDEL', requests, ARGV[1])
return 1
