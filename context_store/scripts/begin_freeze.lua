#!lua flags=allow-oom
-- Says whether a session may become an object, and what there is of it.
-- KEYS: meta, then the keys that leave Valkey.
-- ARGV: version to come, idle for at least so many ms, then for each key that leaves the command that counts it,
--   then the fields of meta that leave.
-- Returns {'READY', version, incarnation, time in ms, values of those fields, count of each key…},
-- {'RECENT', last use in ms}, {'OPEN', turn, ms left of its lease}, {'COLD'} or {'MISSING'}.
local m = redis.call('HMGET', KEYS[1], 'version', 'cold', 'open_turn', 'lease_until_ms', 'touched_ms', 'thawed_ms',
  'incarnation')
if not m[1] then return {'MISSING'} end
if m[2] then return {'COLD'} end
local now = redis.call('TIME')
now = now[1] * 1000 + math.floor(now[2] / 1000)
if m[3] ~= '0' then return {'OPEN', tonumber(m[3]), (tonumber(m[4]) or 0) - now} end
local used = math.max(tonumber(m[5]) or 0, tonumber(m[6]) or 0)
if used + ARGV[2] > now then return {'RECENT', used} end
-- WAIT has to cover what is read from now on, whoever wrote it.
redis.call('HSET', KEYS[1], 'seen', ARGV[1])
local answer = {'READY', m[1], m[7], now, redis.call('HMGET', KEYS[1], unpack(ARGV, #KEYS + 2))}
for i = 2, #KEYS do answer[#answer + 1] = redis.call(ARGV[i + 1], KEYS[i]) end
return answer
