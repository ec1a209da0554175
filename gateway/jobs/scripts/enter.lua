-- Enters a job that waits, unless it is there.
-- KEYS: records, requests, live, ended, dead, sums, names.
-- ARGV: name, key, record, request, created in ms, count max, bytes max.
-- Returns 'entered', 'known', 'count' or 'bytes' for the bound that is reached.
local records, requests, live, ended, dead, sums, names = unpack(KEYS)
local stored = redis.call('HGET', records, ARGV[1])
local is_live = redis.call('ZSCORE', live, ARGV[1])
if is_live and stored and string.sub(stored, 1, #ARGV[2]) == ARGV[2] then
  redis.call('HSET', sums, 'seen', ARGV[5])
  return 'known'
end
-- One of an earlier session of this id gives way; so does an end of this turn, whose session was made again.
local before = is_live and redis.call('HSTRLEN', requests, ARGV[1]) or 0
local bytes = (tonumber(redis.call('HGET', sums, 'live_bytes')) or 0) - before
if not is_live and redis.call('ZCARD', live) >= tonumber(ARGV[6]) then return 'count' end
if bytes + #ARGV[4] > tonumber(ARGV[7]) then return 'bytes' end
redis.call('ZREM', ended, ARGV[1])
if redis.call('ZREM', dead, ARGV[1]) == 1 then
  local freed = (tonumber(redis.call('HGET', sums, 'dead_bytes')) or 0) - redis.call('HSTRLEN', requests, ARGV[1])
  redis.call('HSET', sums, 'dead_bytes', string.format('%.0f', freed))
end
redis.call('HSET', records, ARGV[1], ARGV[3])
redis.call('HSET', requests, ARGV[1], ARGV[4])
redis.call('ZADD', live, ARGV[5], ARGV[1])
redis.call('ZADD', names, 0, ARGV[1])
redis.call('HSET', sums, 'live_bytes', string.format('%.0f', bytes + #ARGV[4]))
return 'entered'
