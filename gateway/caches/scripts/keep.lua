-- Keeps an answer, and drops the least recently used ones beyond the bound.
-- KEYS entries, answers, used, changes, state, wrong; ARGV id, entry, answer, now in ms, ttl in ms, how many it may hold.
-- Returns 1, or 0 where this id was told wrong.
local entries, answers, used, changes, state, wrong = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local id, now, ttl, count_max = ARGV[1], tonumber(ARGV[4]), ARGV[5], tonumber(ARGV[6])
if redis.call('ZSCORE', wrong, id) then
  return 0
end
-- Versions begin anew when a scope was empty: who has read the one before sees that by its birth.
redis.call('HSETNX', state, 'born', now)
local function changed(which)
  redis.call('ZADD', changes, redis.call('HINCRBY', state, 'version', 1), which)
end
redis.call('HSET', entries, id, ARGV[2])
redis.call('HSET', answers, id, ARGV[3])
redis.call('ZADD', used, now, id)
changed(id)
while redis.call('ZCARD', used) > count_max do
  local oldest = redis.call('ZPOPMIN', used)[1]
  redis.call('HDEL', entries, oldest)
  redis.call('HDEL', answers, oldest)
  changed(oldest)
end
-- What is long gone is forgotten; who has not read on since then reads everything.
if redis.call('ZCARD', changes) > 2 * count_max + 100 then
  local old = redis.call('ZRANGE', changes, 0, count_max - 1)
  for _, which in ipairs(old) do
    if redis.call('HEXISTS', entries, which) == 0 then
      redis.call('HSET', state, 'floor', redis.call('ZSCORE', changes, which))
      redis.call('ZREM', changes, which)
    end
  end
end
for _, key in ipairs(KEYS) do
  redis.call('PEXPIRE', key, ttl)
end
return 1
