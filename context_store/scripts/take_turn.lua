-- Finds a turn by its number, and gives it to a driver if nobody holds its lease.
-- KEYS: meta, turns.  ARGV: version to come, turn, incarnation, driver, lease in ms.
-- Returns {'AGAIN' | 'TAKEN_OVER' | 'ATTACHED' | 'FINISHED', …} as open_turn does, {'UNKNOWN'}, {'COLD'} or {'MISSING'}.
local meta, turns = KEYS[1], KEYS[2]
local now = redis.call('TIME')
now = now[1] * 1000 + math.floor(now[2] / 1000)
local m = redis.call('HMGET', meta, 'version', 'cold', 'open_turn', 'open_attempt', 'open_driver', 'lease_until_ms',
  'incarnation')
local version = m[1]
if not version or m[7] ~= ARGV[3] then return {'MISSING'} end
if m[2] then return {'COLD'} end
local turn = redis.call('HGET', turns, ARGV[2])
if not turn then return {'UNKNOWN'} end
-- What is answered is acknowledged: a write moves the connection on to where WAIT has to wait for.
redis.call('HSET', meta, 'seen', ARGV[1])
if m[3] ~= ARGV[2] then return {'FINISHED', version, m[7], turn} end
local attempt, left = tonumber(m[4]), (tonumber(m[6]) or 0) - now
if m[5] == ARGV[4] then
  redis.call('HSET', meta, 'lease_until_ms', now + ARGV[5])
  return {'AGAIN', version, m[7], turn, attempt}
end
if left > 0 then return {'ATTACHED', version, m[7], turn, attempt, left} end
redis.call('HSET', meta, 'open_attempt', attempt + 1, 'open_driver', ARGV[4], 'lease_until_ms', now + ARGV[5])
return {'TAKEN_OVER', version, m[7], turn, attempt + 1}
