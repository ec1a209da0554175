#!lua flags=allow-oom
-- Erases every key of a session that is hidden.
-- KEYS: meta, then all others, the set of objects second to last.  ARGV: incarnation that the session must have.
-- Returns {'ERASED', for each key: entries, bytes}, {'OBJECTS'} while there still are any, or {'GONE'}.
local m = redis.call('HMGET', KEYS[1], 'incarnation', 'version')
if m[1] ~= ARGV[1] or m[2] then return {'GONE'} end
if redis.call('SCARD', KEYS[#KEYS - 1]) > 0 then return {'OBJECTS'} end
local lengths = {hash = 'HLEN', set = 'SCARD', stream = 'XLEN'}
local answer = {'ERASED'}
for _, key in ipairs(KEYS) do
  local length = lengths[redis.call('TYPE', key).ok]
  answer[#answer + 1] = length and redis.call(length, key) or 0
  answer[#answer + 1] = length and redis.call('MEMORY', 'USAGE', key) or 0
end
redis.call('UNLINK', unpack(KEYS))
return answer
