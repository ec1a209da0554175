-- Ends a live job: to the dead letters, to those that have ended, or to nowhere. A second time changes nothing.
-- KEYS: records, requests, live, ended, dead, sums, names.
-- ARGV: name, key, record, 'dead' | 'ended' | 'gone', ended in ms, count max there, bytes max of the dead.
-- Returns {1 if it was live, number of older dead letters that gave way}.
local records, requests, live, ended, dead, sums, names = unpack(KEYS)
redis.call('HSET', sums, 'seen', ARGV[5])
local name = ARGV[1]
local stored = redis.call('HGET', records, name)
if not stored or string.sub(stored, 1, #ARGV[2]) ~= ARGV[2] or redis.call('ZREM', live, name) == 0 then return {0, 0} end
local function sum(field, by)
  local now = (tonumber(redis.call('HGET', sums, field)) or 0) + by
  redis.call('HSET', sums, field, string.format('%.0f', now))
  return now
end
local function drop(gone)
  redis.call('HDEL', records, gone)
  redis.call('HDEL', requests, gone)
  redis.call('ZREM', names, gone)
end
local size = redis.call('HSTRLEN', requests, name)
sum('live_bytes', -size)
if ARGV[4] == 'gone' or (ARGV[4] == 'ended' and ARGV[6] == '0') then
  drop(name)
  return {1, 0}
end
redis.call('HSET', records, name, ARGV[3])
if ARGV[4] == 'ended' then
  redis.call('HDEL', requests, name)
  redis.call('ZADD', ended, ARGV[5], name)
  while redis.call('ZCARD', ended) > tonumber(ARGV[6]) do
    drop(redis.call('ZPOPMIN', ended)[1])
  end
  return {1, 0}
end
redis.call('ZADD', dead, ARGV[5], name)
local bytes, dropped = sum('dead_bytes', size), 0
while redis.call('ZCARD', dead) > 1 and
    (redis.call('ZCARD', dead) > tonumber(ARGV[6]) or bytes > tonumber(ARGV[7])) do
  local oldest = redis.call('ZPOPMIN', dead)[1]
  bytes = sum('dead_bytes', -redis.call('HSTRLEN', requests, oldest))
  drop(oldest)
  dropped = dropped + 1
end
return {1, dropped}
