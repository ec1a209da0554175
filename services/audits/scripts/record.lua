-- Keeps an audit and adds it to its day's counts, once.
-- KEYS verdicts, order, rates; ARGV name, record, ttl in ms, how many a day may have, model, then counter and count, in pairs.
-- Returns 1, 0 where this turn has its audit already, -1 where the day is full.
local verdicts, order, rates = KEYS[1], KEYS[2], KEYS[3]
local name, ttl, model = ARGV[1], ARGV[3], ARGV[5]
if redis.call('HEXISTS', verdicts, name) == 1 then
  return 0
end
if redis.call('HLEN', verdicts) >= tonumber(ARGV[4]) then
  return -1
end
redis.call('HSET', verdicts, name, ARGV[2])
redis.call('ZADD', order, 0, name)
for place = 6, #ARGV, 2 do
  redis.call('HINCRBY', rates, ARGV[place] .. ':' .. model, ARGV[place + 1])
end
for _, key in ipairs(KEYS) do
  redis.call('PEXPIRE', key, ttl)
end
return 1
