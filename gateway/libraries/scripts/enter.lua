-- Enters a file that is to be copied into a library, unless it is there and has not come to nothing.
-- KEYS: records, all, in_progress, completed, failed, cancelled, sums.
-- ARGV: file, record, created in ms, count max, state, life of the keys in ms (0: no end).
-- Returns {'entered', record}, {'known', record that is there} or {'count', ''}.
local records, all = KEYS[1], KEYS[2]
local stored = redis.call('HGET', records, ARGV[1])
redis.call('HINCRBY', KEYS[7], 'seen', 1)
if stored and (redis.call('ZSCORE', KEYS[3], ARGV[1]) or redis.call('ZSCORE', KEYS[4], ARGV[1])) then
  return {'known', stored}
end
if not stored and redis.call('ZCARD', all) >= tonumber(ARGV[4]) then return {'count', ''} end
local function size(record) return record and tonumber(string.sub(record, 17, 28), 16) or 0 end
local bytes = (tonumber(redis.call('HGET', KEYS[7], 'bytes')) or 0) + size(ARGV[2]) - size(stored)
redis.call('HSET', KEYS[7], 'bytes', string.format('%.0f', bytes))
redis.call('HSET', records, ARGV[1], ARGV[2])
redis.call('ZADD', all, ARGV[3], ARGV[1])
local states = {in_progress = KEYS[3], completed = KEYS[4], failed = KEYS[5], cancelled = KEYS[6]}
for state, key in pairs(states) do
  if state == ARGV[5] then redis.call('ZADD', key, ARGV[3], ARGV[1]) else redis.call('ZREM', key, ARGV[1]) end
end
for _, key in ipairs(KEYS) do
  if ARGV[6] == '0' then redis.call('PERSIST', key) else redis.call('PEXPIRE', key, ARGV[6]) end
end
return {'entered', ARGV[2]}
