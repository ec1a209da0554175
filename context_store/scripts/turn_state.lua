-- Reads one turn with what its open life adds to it. Changes nothing.
-- KEYS: meta, turns.  ARGV: turn.
-- Returns {Turn proto, attempt, ms left} with attempt 0 for a closed turn, {'', 0, 0} for an unknown one, or
-- {'MISSING'}.
local m = redis.call('HMGET', KEYS[1], 'version', 'open_turn', 'open_attempt', 'lease_until_ms')
if not m[1] then return {'MISSING'} end
local turn = redis.call('HGET', KEYS[2], ARGV[1])
if not turn then return {'', 0, 0} end
if m[2] ~= ARGV[1] then return {turn, 0, 0} end
local now = redis.call('TIME')
return {turn, tonumber(m[3]), tonumber(m[4]) - (now[1] * 1000 + math.floor(now[2] / 1000))}
