-- Takes all that is kept of a session's jobs out of the book, requests included.
-- KEYS: records, requests, live, ended, dead, sums.  ARGV: `{session}/`, now in ms.  Returns how many there were.
local records, requests, sums = KEYS[1], KEYS[2], KEYS[6]
redis.call('HSET', sums, 'seen', ARGV[2])
local found = 0
local counted = {live_bytes = KEYS[3], ended_bytes = KEYS[4], dead_bytes = KEYS[5]}
for _, field in ipairs({'live_bytes', 'ended_bytes', 'dead_bytes'}) do
  local shelf = counted[field]
  for _, name in ipairs(redis.call('ZRANGE', shelf, 0, -1)) do
    if string.sub(name, 1, #ARGV[1]) == ARGV[1] then
      local bytes = (tonumber(redis.call('HGET', sums, field)) or 0) - redis.call('HSTRLEN', requests, name)
      redis.call('HSET', sums, field, string.format('%.0f', bytes))
      redis.call('ZREM', shelf, name)
      redis.call('HDEL', records, name)
      redis.call('HDEL', requests, name)
      found = found + 1
    end
  end
end
return found
