-- Extends the lease of the open turn.
-- KEYS: meta, turns.  ARGV: turn, attempt, incarnation, lease in ms.
-- Returns {'RENEWED'}, {'COLD'}, {'MISSING'}, or {'REFUSED', Turn proto or '', attempt} as commit_turn does.
local m = redis.call('HMGET', KEYS[1], 'version', 'cold', 'open_turn', 'open_attempt', 'incarnation')
if not m[1] or m[5] ~= ARGV[3] then return {'MISSING'} end
if m[2] then return {'COLD'} end
if m[3] ~= ARGV[1] then return {'REFUSED', redis.call('HGET', KEYS[2], ARGV[1]) or '', 0} end
if m[4] ~= ARGV[2] then return {'REFUSED', redis.call('HGET', KEYS[2], ARGV[1]) or '', tonumber(m[4])} end
local now = redis.call('TIME')
redis.call('HSET', KEYS[1], 'lease_until_ms', now[1] * 1000 + math.floor(now[2] / 1000) + ARGV[4])
return {'RENEWED'}
