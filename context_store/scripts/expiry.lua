-- Says whether a session has outlived its last write by its ttl. One with an open turn has not.
-- KEYS: meta.
-- Returns {'ALIVE', ms left or 0 for ever}, {'EXPIRED', last write in ms} or {'MISSING'}.
local m = redis.call('HMGET', KEYS[1], 'version', 'ttl_ms', 'touched_ms', 'open_turn', 'lease_until_ms')
if not m[1] then return {'MISSING'} end
if not m[2] then return {'ALIVE', 0} end
local now = redis.call('TIME')
local due = tonumber(m[3]) + m[2]
-- A session that is an object has no open turn.
if m[4] and m[4] ~= '0' then due = math.max(due, tonumber(m[5]) or 0) end
local left = due - (now[1] * 1000 + math.floor(now[2] / 1000))
if left > 0 then return {'ALIVE', left} end
return {'EXPIRED', tonumber(m[3])}
