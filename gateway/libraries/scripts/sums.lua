-- How many files of each state, and the bytes of their texts.
-- KEYS: in_progress, completed, failed, cancelled, sums.
local found = {}
for i = 1, 4 do found[i] = redis.call('ZCARD', KEYS[i]) end
found[5] = tonumber(redis.call('HGET', KEYS[5], 'bytes') or '0')
return found
