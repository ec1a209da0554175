-- Changes a file's record if it is still the one that was read. An empty record takes it out.
-- KEYS: records, all, in_progress, completed, failed, cancelled, sums.
-- ARGV: file, record that was read, new record, its state, created in ms.
-- Returns 1 if it was changed, or is as asked for already.
local records = KEYS[1]
local stored = redis.call('HGET', records, ARGV[1])
if redis.call('EXISTS', records) == 1 then redis.call('HINCRBY', KEYS[7], 'seen', 1) end
if (stored or '') == ARGV[3] then return 1 end
if stored ~= ARGV[2] then return 0 end
local function size(record) return record ~= '' and tonumber(string.sub(record, 17, 28), 16) or 0 end
local bytes = (tonumber(redis.call('HGET', KEYS[7], 'bytes')) or 0) + size(ARGV[3]) - size(stored)
redis.call('HSET', KEYS[7], 'bytes', string.format('%.0f', bytes))
local states = {in_progress = KEYS[3], completed = KEYS[4], failed = KEYS[5], cancelled = KEYS[6]}
for state, key in pairs(states) do
  if state == ARGV[4] and ARGV[3] ~= '' then
    redis.call('ZADD', key, ARGV[5], ARGV[1])
  else
    redis.call('ZREM', key, ARGV[1])
  end
end
if ARGV[3] == '' then
  redis.call('HDEL', records, ARGV[1])
  redis.call('ZREM', KEYS[2], ARGV[1])
  if redis.call('ZCARD', KEYS[2]) == 0 then redis.call('DEL', KEYS[7]) end
else
  redis.call('HSET', records, ARGV[1], ARGV[3])
  local life = redis.call('PTTL', records)
  if life > 0 then
    for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, life) end
  end
end
return 1
